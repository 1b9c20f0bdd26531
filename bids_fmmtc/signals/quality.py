"""Numbers that tell how far a recording can be trusted, and the flags they raise.

A new quality number is a field of `bids_fmmtc.quality.Quality` and a line in `measure`; a new flag one line in `FLAGS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.quality import Quality
from bids_fmmtc.signals.confounds import Confounds
from bids_fmmtc.signals.denoise import Cleaned
from bids_fmmtc.signals.parcellate import Parcellated
from bids_fmmtc.signals.windows import Frames
from bids_fmmtc.types import RoiSeries

HIGH_MOTION_MM = 0.5  # mean framewise displacement
FEW_MINUTES = 5.0  # functional connectivity of an individual is unreliable below
LOW_COVERAGE = 0.5  # xcp_d's threshold
MANY_LOST = 0.05
HIGH_FD_MM = 0.5  # a frame that moved this much
TR_TOLERANCE = 0.01

BY_POSITION_DESPITE_NAMES = "position, though the header has other names"

FLAGS: Mapping[str, Callable[[Quality], bool]] = {
    "high_motion": lambda q: _above(q.mean_fd, HIGH_MOTION_MM),
    "motion_unknown": lambda q: q.mean_fd is None,
    "few_minutes": lambda q: q.minutes_left < FEW_MINUTES,
    "parcels_lost": lambda q: q.n_lost_parcels > MANY_LOST * q.n_parcels,
    "low_coverage": lambda q: q.n_low_coverage > MANY_LOST * q.n_parcels,
    "no_brain_mask": lambda q: not q.has_mask and not q.imported,
    "space_affine": lambda q: q.placement == "affine",
    "padded": lambda q: q.padded,
    "repetition_time_disagrees": lambda q: _disagrees(q.repetition_time, q.header_repetition_time),
    "repetition_time_from_header": lambda q: q.repetition_time_of == "header",
    "single_echo": lambda q: bool(q.single_echo),
    "places_disagree": lambda q: bool(q.places_disagree),
    "mask_thresholded": lambda q: bool(q.mask_thresholded),
    "imported_series": lambda q: q.imported,
    "frames_removed": lambda q: bool(q.frames_removed),
    "names_differ": lambda q: q.columns_matched == BY_POSITION_DESPITE_NAMES,
}


def measure(
    raw: Parcellated,
    cleaned: Cleaned,
    confounds: Confounds | None,
    frames: Frames,
    *,
    placement: str,
    has_mask: bool,
    header_tr: float | None,
    **more: Any,
) -> Quality:
    """Gather the quality numbers of one recording, and the flags they raise.

    Parameters
    ----------
    raw, cleaned, confounds, frames
        The recording, step by step.
    placement
        How the atlas came to the recording: see `spaces.Placement`, or `IMPORTED`.
    has_mask, header_tr
        Whether there is a brain mask; repetition time in the image's header.
    more
        What else is known; rules over the numbers computed here.
    """
    series = raw.series
    fd = None if confounds is None else confounds.framewise_displacement
    dvars = None if confounds is None else confounds.column("std_dvars")
    used = slice(cleaned.n_dropped, None)
    left = int(cleaned.keep.sum())
    numbers = Quality(
        n_frames=len(series.values),
        n_dropped=cleaned.n_dropped,
        n_censored=cleaned.n_censored,
        n_frames_left=left,
        minutes_left=_digits(left * series.repetition_time / 60),
        n_frames_in_windows=frames.n_in_windows,
        window_repetition_time=float(frames.repetition_time),
        repetition_time=series.repetition_time,
        header_repetition_time=header_tr,
        mean_fd=_reduce(np.nanmean, fd, used),
        max_fd=_reduce(np.nanmax, fd, used),
        share_high_fd=_reduce(lambda v: np.mean(v[~np.isnan(v)] > HIGH_FD_MM), fd, used),
        mean_std_dvars=_reduce(np.nanmean, dvars, used),
        tsnr=_number(raw.tsnr),
        mean_coverage=_digits(float(series.coverage.mean())),
        least_coverage=_digits(float(series.coverage.min())),
        n_low_coverage=int((series.coverage < LOW_COVERAGE).sum()),
        n_lost_parcels=int(series.lost.sum()),
        n_parcels=series.values.shape[1],
        placement=placement,
        has_mask=has_mask,
        padded=frames.padded,
    )
    known = replace(numbers, **more)
    return replace(known, flags=tuple(name for name, raised in FLAGS.items() if raised(known)))


def frame_table(
    series: RoiSeries, cleaned: Cleaned, confounds: Confounds | None, repetition_time: float
) -> dict[str, NDArray[Any]]:
    """Return what is known of each frame, (T,) each: the columns of `FRAME_COLUMNS`.

    A table of motion that is longer than the series (imported ones lack frames) cannot be put beside them: NaN.
    """
    n = len(series.values)
    known = ~np.isnan(series.values)
    total = np.where(known, series.values, 0).sum(axis=1, dtype=np.float64)
    n_known = known.sum(axis=1)
    state = np.where(cleaned.keep, "used", "censored")
    state[: cleaned.n_dropped] = "dropped"
    return {
        "onset": np.arange(n) * repetition_time,
        "framewise_displacement": _column(None if confounds is None else confounds.framewise_displacement, n),
        "std_dvars": _column(None if confounds is None else confounds.column("std_dvars"), n),
        "mean_signal": np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan),
        "status": state,
    }


def _column(values: NDArray[np.float64] | None, n: int) -> NDArray[np.float64]:
    return np.full(n, np.nan) if values is None or len(values) != n else values


def _reduce(how: Callable[[NDArray[np.float64]], Any], column: NDArray[np.float64] | None, used: slice) -> float | None:
    if column is None or np.isnan(column[used]).all():
        return None
    return _number(float(how(column[used])))


def _number(value: float) -> float | None:
    return _digits(value) if np.isfinite(value) else None


def _digits(value: float) -> float:
    """Six significant digits: what a table shows is what a file holds."""
    return float(f"{value:.6g}")


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _disagrees(one: float, other: float | None) -> bool:
    return other is not None and abs(one - other) > TR_TOLERANCE * one
