"""Confound regression, filters and censoring on parcel series.

These steps are linear over voxels with one design matrix for all of them, so cleaning parcel means gives what
cleaning every voxel and averaging gives, some hundred times cheaper. nilearn reads the confounds and does the
cleaning; it is imported only when a recipe asks for it.
"""

from __future__ import annotations

import csv
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ConfoundsError, ShortRecordingError
from bids_fmmtc.recipe import Denoising
from bids_fmmtc.types import Float32, RoiSeries

if TYPE_CHECKING:
    import pandas as pd

HEAD_RADIUS_MM = 50.0  # Power et al. 2012: rotations become millimetres on a sphere of this radius


@dataclass(frozen=True, slots=True)
class Confounds:
    """The table beside a recording: column names and (T, C) float64, NaN for ``n/a``."""

    path: Path
    names: tuple[str, ...]
    values: NDArray[np.float64]

    def column(self, name: str) -> NDArray[np.float64] | None:
        """Return one column (T,), or None when the table lacks it."""
        return self.values[:, self.names.index(name)] if name in self.names else None

    @property
    def non_steady(self) -> int:
        """Leading frames marked as non-steady-state."""
        marked = [c for c, n in enumerate(self.names) if n.startswith("non_steady_state_outlier")]
        if not marked:
            return 0
        hit = np.flatnonzero((self.values[:, marked] > 0).any(axis=1))
        return int(hit.max()) + 1 if hit.size else 0

    @property
    def framewise_displacement(self) -> NDArray[np.float64] | None:
        """(T,) in mm as Power et al. 2012 define it, from the table or from its six motion parameters."""
        fd = self.column("framewise_displacement")
        if fd is None:
            fd = self.column("FramewiseDisplacement")
        if fd is not None:
            return fd
        parameters = [self.column(f"{kind}_{axis}") for kind in ("trans", "rot") for axis in "xyz"]
        known = [p for p in parameters if p is not None]
        if len(known) < 6:
            return None
        steps = np.abs(np.diff(np.stack(known, 1), axis=0))
        moved: NDArray[np.float64] = steps[:, :3].sum(1) + HEAD_RADIUS_MM * steps[:, 3:].sum(1)
        return np.concatenate([[np.nan], moved])


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Cleaned parcel series on the recording's own frames.

    Parameters
    ----------
    series
        (T, R); rows of dropped and censored frames are NaN.
    keep
        (T,) False for dropped and censored frames.
    n_dropped, n_censored
        Non-steady-state and scrubbed frames.
    regressors
        Names of the confounds regressed out.
    """

    values: Float32
    keep: NDArray[np.bool_]
    n_dropped: int
    n_censored: int
    regressors: tuple[str, ...]


def read_confounds(path: Path, n_frames: int) -> Confounds:
    """Read a fMRIPrep confounds table, old or new.

    Raises
    ------
    ConfoundsError
        Not a table, or not one row per frame.
    """
    try:
        with path.open(encoding="utf-8", newline="") as f:
            rows = list(csv.reader(f, delimiter="\t"))
        names = tuple(rows[0])
        values = np.array([[float(v) if v not in _MISSING else np.nan for v in row] for row in rows[1:] if row])
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise ConfoundsError(f"{path.name} is not a readable confounds table: {error}.", _REMEDY) from None
    if values.ndim != 2 or values.shape != (n_frames, len(names)):
        raise ConfoundsError(
            f"{path.name} holds {len(values)} rows, the recording {n_frames} frames.",
            "Check that both come from the same fMRIPrep run.",
        )
    return Confounds(path, names, values)


_MISSING = frozenset({"n/a", "", "NaN", "nan", "NA"})
_REMEDY = "Re-run fMRIPrep, or give a recipe whose denoising needs fewer confounds."


def denoise(raw: RoiSeries, confounds: Confounds | None, spec: Denoising) -> Cleaned:
    """Clean parcel series as the recipe says.

    Parameters
    ----------
    raw
        (T, R) parcel means.
    confounds
        The recording's table; None when it has none.
    spec
        Strategy (nilearn's ``load_confounds_strategy`` of that name, or none), global signal, filters.

    Returns
    -------
    Cleaned
        With strategy ``none`` and no filter the values are the raw ones. Lost parcels stay NaN.

    Raises
    ------
    ConfoundsError
        The strategy needs columns that are missing; they are named.
    ShortRecordingError
        Scrubbing leaves nothing.
    """
    n_frames = len(raw.values)
    keep = np.ones(n_frames, np.bool_)
    dropped = confounds.non_steady if confounds is not None and spec.drop_non_steady_state else 0
    keep[:dropped] = False
    design: pd.DataFrame | None = None
    regressors: tuple[str, ...] = ()
    if spec.strategy != "none" or spec.global_signal is not None:
        if confounds is None:
            raise ConfoundsError(f"denoising {spec.strategy!r} needs confounds; the recording has none.", _REMEDY)
        design, kept = _design(confounds, spec, n_frames)
        regressors = tuple(str(c) for c in design.columns)
        keep &= kept
        keep[: 0 if spec.drop_non_steady_state else confounds.non_steady] = True
    if keep.sum() < 2:
        raise ShortRecordingError(
            f"{int(keep.sum())} of {n_frames} frames are left after dropping and censoring.",
            "The participant moved too much for this recipe; use one without scrubbing, or exclude the recording.",
        )
    values = raw.values.copy()
    if spec.cleans and not raw.lost.all():
        values = _clean(raw, design, keep, spec)
    values[~keep] = np.nan
    return Cleaned(values, keep, dropped, int((~keep[dropped:]).sum()), regressors)


def _design(confounds: Confounds, spec: Denoising, n_frames: int) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Let nilearn choose the regressors (T, C) and the frames to keep (T,)."""
    from nilearn.interfaces.fmriprep import load_confounds, load_confounds_strategy  # noqa: PLC0415  (2 s)

    # nilearn finds the table by the image's name and knows fewer names than there are in the wild (old suffixes,
    # several runs that share a prefix). A folder of links under one plain name leaves it nothing to guess.
    with tempfile.TemporaryDirectory(prefix="fmmtc-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Path(folder) / f"sub-x_task-x_space-MNI_desc-{spec.bold_desc}_bold.nii.gz"
        image.touch()
        link = Path(folder) / "sub-x_task-x_desc-confounds_timeseries.tsv"
        link.symlink_to(confounds.path.absolute())
        sidecar = confounds.path.with_suffix(".json").absolute()
        if sidecar.is_file():
            link.with_suffix(".json").symlink_to(sidecar)
        try:
            if spec.strategy == "none":
                table, sample = load_confounds(str(image), ("global_signal",), global_signal=spec.global_signal)
            else:
                table, sample = load_confounds_strategy(
                    str(image), denoise_strategy=spec.strategy, global_signal=spec.global_signal
                )
        except (ValueError, KeyError, OSError) as error:
            text = " ".join(str(error).split()).rstrip(".").replace(str(link.with_suffix(".json")), sidecar.name)
            raise ConfoundsError(f"{confounds.path.name} does not serve {spec.strategy!r}: {text}.", _REMEDY) from None
    keep = np.ones(n_frames, np.bool_)
    if sample is not None:
        keep[:] = False
        keep[np.asarray(sample, int)] = True
    if spec.high_pass is not None:
        # The Butterworth limit replaces fMRIPrep's cosines; both would take the low frequencies twice.
        table = table[[c for c in table.columns if not str(c).startswith("cosine")]]
    return table, keep


def _clean(raw: RoiSeries, design: pd.DataFrame | None, keep: NDArray[np.bool_], spec: Denoising) -> Float32:
    """Regress, filter and censor the parcels that have signal; dropped rows come back as NaN."""
    from nilearn.signal import clean  # noqa: PLC0415

    nyquist = 0.5 / raw.repetition_time
    if spec.high_pass is not None and spec.high_pass >= nyquist:  # nilearn would clip it and leave next to nothing
        raise ConfoundsError(
            f"high_pass is {spec.high_pass:g} Hz, at or above the Nyquist frequency, {nyquist:g} Hz.",
            "Check the recipe's filters and the repetition time.",
        )
    found = ~raw.lost
    arguments: dict[str, Any] = {
        "detrend": spec.detrend,
        "standardize": None,
        "confounds": design if design is not None and design.shape[1] else None,
        "filter": "butterworth" if spec.high_pass or spec.low_pass else False,
        "high_pass": spec.high_pass,
        "low_pass": spec.low_pass,
        "t_r": raw.repetition_time,
        "sample_mask": None if keep.all() else np.flatnonzero(keep),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cleaned = clean(raw.values[:, found].astype(np.float64), **arguments)
        except ValueError as error:
            text = " ".join(str(error).split()).rstrip(".")
            raise ConfoundsError(
                f"cleaning failed: {text}.", "Check the recipe's filters and repetition time."
            ) from None
    values = np.full(raw.values.shape, np.nan, np.float32)
    values[np.ix_(np.flatnonzero(keep), np.flatnonzero(found))] = cleaned
    return values
