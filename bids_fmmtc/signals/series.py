"""A recording whose parcel series come from a table: put back on its frames, then opened like any other.

xcp_d and giga_connectome take censored frames out of their tables. xcp_d says which ones in its ``outliers.tsv``, so
that they can be put back as gaps, which no window may cross.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ConfoundsError, DataError, ShortRecordingError
from bids_fmmtc.plain import Cell, Cells
from bids_fmmtc.quality import IMPORTED, Quality
from bids_fmmtc.recipe import Denoising, Recipe
from bids_fmmtc.signals.confounds import Confounds
from bids_fmmtc.signals.denoise import Cleaned
from bids_fmmtc.signals.parcellate import Parcellated
from bids_fmmtc.signals.parcels import Table, match_columns, read_series
from bids_fmmtc.signals.quality import measure
from bids_fmmtc.signals.source import Opened, refuse_lost
from bids_fmmtc.types import Atlas, Float32, Recording, RoiSeries

IMPORTED_DENOISING = Denoising(require_confounds=False, drop_non_steady_state=False)
"""Denoising in the recipe of imported series: nothing is done to them here, and nothing is asked of confounds. The
default for images asks for them, so the two never have equal digests."""

_NOTHING: Mapping[str, Cell] = MappingProxyType({})


# -------------------------------------------------------------------------------------------------------------- frames


def on_all_frames(values: NDArray[np.float64], outliers: Table) -> NDArray[np.float64]:
    """Make censored frames rows of NaN, as xcp_d's table of outliers says.

    Parameters
    ----------
    values
        (N, C): one row a frame (xcp_d then interpolated the censored ones), or one for each frame that was kept.
    outliers
        T rows; columns ``framewise_displacement`` (1: censored) and, in newer versions, ``denoising`` (the union of
        all criteria).

    Returns
    -------
    (T, C); `values` itself where the table has neither column.

    Raises
    ------
    DataError
        N is neither the number of frames nor of those kept.
    """
    names = outliers.names or ()
    marked = [outliers.values[:, names.index(c)] > 0 for c in ("denoising", "framewise_displacement") if c in names]
    if not marked:
        return values
    for censored in marked:
        if len(values) in (len(censored), int((~censored).sum())):
            whole = np.full((len(censored), values.shape[1]), np.nan)
            whole[~censored] = values[~censored] if len(values) == len(censored) else values
            return whole
    raise DataError(
        f"the series have {len(values)} rows, {outliers.path.name} {len(marked[0])}, of which "
        f"{int((~marked[0]).sum())} are kept.",
        "Check that both come from the same run of xcp_d.",
    )


def without_holes(values: NDArray[np.float64]) -> Float32:
    """Return float32 series (T, R) in which every value is there but in censored frames and lost parcels.

    A parcel that never changes is lost. A frame in which the others have no value is censored. A parcel that lacks a
    value in a frame that is not censored is lost, too: it has a hole that no later step could carry.
    """
    series = values.astype(np.float32)
    known = ~np.isnan(series)
    first = np.take_along_axis(series, known.argmax(axis=0)[None], axis=0)  # NaN where a parcel has no value
    changes = ((series != first) & known & ~np.isnan(first)).any(axis=0)
    kept = known[:, changes].any(axis=1)
    series[:, ~changes | ~known[kept].all(axis=0)] = np.nan
    series[~kept] = np.nan
    return series


# ---------------------------------------------------------------------------------------------------------------- open


class SeriesSource(Opened):
    """A recording whose parcel series are known, ready for the encoders.

    Nothing is regressed, filtered or dropped here: the recipe's denoising is not applied and confounds are never
    required. Windows, resampling, scaling, connectivity and the limits on lost parcels are the recipe's.

    Parameters
    ----------
    key
        The recording's key.
    values
        (T, R) float32: one row a frame, NaN throughout in censored frames and in lost parcels, finite elsewhere.
    repetition_time
        Seconds between rows.
    xyz
        (R, 3) float32 parcel centres in MNI millimetres; NaN where unknown, which connectivity does not mind.
    recipe
        Of the features.
    quality
        Quality of a recording that was measured before; None measures it.
    motion, more
        Confounds with the framewise displacement; further facts for `quality.measure`.
    """

    def __init__(  # noqa: PLR0913  (the last three are keywords, each a fact of its own)
        self,
        key: str,
        values: Float32,
        repetition_time: float,
        xyz: Float32,
        recipe: Recipe,
        *,
        quality: Quality | None = None,
        motion: Confounds | None = None,
        more: Mapping[str, Cell] = _NOTHING,
    ) -> None:
        self._key, self._values, self._repetition_time, self._xyz = key, values, float(repetition_time), xyz
        self.recipe, self.confounds = recipe, motion
        self._measured, self._more = quality, more

    @property
    def key(self) -> str:
        """The recording's key."""
        return self._key

    @property
    def repetition_time(self) -> float:
        """Seconds."""
        return self._repetition_time

    @property
    def xyz(self) -> Float32:
        """(R, 3) parcel centres in MNI millimetres, NaN where unknown."""
        return self._xyz

    @cached_property
    def series(self) -> RoiSeries:
        """The series; coverage is not known, so it is 1 where there is signal and 0 where a parcel is lost."""
        coverage = np.asarray(~np.isnan(self._values).all(axis=0), np.float32)
        series = RoiSeries(self._values, coverage, self.repetition_time)
        refuse_lost(
            series, self.recipe, "Check how the series were made: columns without values, or that never change."
        )
        return series

    @cached_property
    def cleaned(self) -> Cleaned:
        """The series as they are, and which frames are kept.

        Raises
        ------
        ShortRecordingError
            Fewer than two frames are left.
        """
        values = self.series.values
        keep = np.asarray(~np.isnan(values).all(axis=1))
        if keep.sum() < 2:
            raise ShortRecordingError(f"{int(keep.sum())} of {len(keep)} frames hold values.", "Exclude the recording.")
        return Cleaned(values, keep, 0, int((~keep).sum()), ())

    @cached_property
    def quality(self) -> Quality:
        """Quality numbers and flags; a recording that was measured before keeps its own."""
        if self._measured is not None:
            return self._measured
        n_voxels = np.zeros(self.series.values.shape[1], np.int64)
        raw = Parcellated(self.series, n_voxels, float("nan"))
        return measure(
            raw,
            self.cleaned,
            self.confounds,
            self.cut,
            placement=IMPORTED,
            has_mask=False,
            header_tr=None,
            **self._more,
        )


def import_source(
    recording: Recording, atlas: Atlas, recipe: Recipe, outliers: Path | None, told: Mapping[str, float | None]
) -> SeriesSource:
    """Open a recording whose ``bold`` is a table of parcel series.

    Parameters
    ----------
    recording
        Its ``confounds`` are a table with the framewise displacement, or None; its repetition time is known.
    atlas
        Whose parcels to take, in its order.
    recipe
        Of the features.
    outliers
        xcp_d's table of censored frames, or None.
    told
        What sidecars say: ``mean_fd`` in mm, ``n_scrubbed`` and ``n_skipped`` frames that are not in the table.

    Raises
    ------
    DataError
        A table that cannot be read, or does not fit the atlas or its table of outliers.
    ConfoundsError
        Fewer rows of motion than frames.
    """
    if recording.repetition_time is None:
        raise ValueError("imported series need a repetition time")
    table = read_series(recording.bold)
    columns = match_columns(table, atlas)
    values = table.values[:, columns.places]
    if outliers is not None:
        values = on_all_frames(values, read_series(outliers))
    motion, removed = None, outliers is None and bool(told.get("n_scrubbed"))
    if recording.confounds is not None:
        motion, removed = _motion(recording.confounds, len(values), int(told.get("n_skipped") or 0))
    more: Cells = {
        "frames_removed": removed,
        "columns_matched": columns.matched,
        "columns_left_out": (*table.left_out, *columns.left_out),
    }
    if (motion is None or motion.framewise_displacement is None) and told.get("mean_fd") is not None:
        more["mean_fd"] = told["mean_fd"]
    return SeriesSource(
        recording.key, without_holes(values), recording.repetition_time, atlas.xyz, recipe, motion=motion, more=more
    )


def _motion(path: Path, n_frames: int, n_skipped: int) -> tuple[Confounds, bool]:
    """Read motion; tell whether the series lack frames of it other than the first ``n_skipped``."""
    table = read_series(path)
    n = len(table.values)
    if n < n_frames:
        raise ConfoundsError(
            f"{path.name} holds {n} rows, the series {n_frames} frames.", "Check that both come from the same run."
        )
    return Confounds(path, table.names or (), table.values), n not in (n_frames, n_frames + n_skipped)
