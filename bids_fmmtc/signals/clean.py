"""Detrend, filter, censor and regress arrays, so that frames which are left out touch nothing that is kept.

The steps are nilearn's and in its order, one call each. Its own way with censored frames is not used, since it lets
them through: `clean` of nilearn 0.14.1 with a ``sample_mask`` replaces frame i before filtering only if frame T-1-i is
kept, and with ``extrapolate=True`` continues a cubic polynomial over leading and trailing frames. Here leading and
trailing frames that are left out are cut off first, gaps are filled from kept frames alone, and nilearn never sees
a value that was measured in a frame that is left out.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ConfoundsError, ShortRecordingError
from bids_fmmtc.plain import Object

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

SPLINE_GAP = 6
"""Longest gap, in frames, that the cubic spline fills; a straight line fills longer ones. The spline overshoots: across
20 frames by 5 standard deviations, which a band-pass spreads until correlations are off by 0.5 (0.04 with the line)."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What is done besides regression: linear detrending, and Butterworth limits in Hz (order 5, zero phase)."""

    detrend: bool
    high_pass: float | None
    low_pass: float | None
    repetition_time: float

    @property
    def limits(self) -> tuple[float, ...]:
        """The limits that are set."""
        return tuple(limit for limit in (self.high_pass, self.low_pass) if limit is not None)

    @property
    def least_frames(self) -> int:
        """Frames that the filter needs, from the first to the last one kept: one more than it pads each end with."""
        return (0, 18, 33)[len(self.limits)] + 1 if self.limits else 2

    @property
    def passed(self) -> float:
        """Share of frequencies that pass, 0..1: the share of the frames' degrees of freedom that the filter leaves."""
        nyquist = 0.5 / self.repetition_time
        return ((nyquist if self.low_pass is None else self.low_pass) - (self.high_pass or 0.0)) / nyquist

    def arguments(self) -> Object:
        """Return the arguments of nilearn's ``clean``."""
        return {
            "detrend": self.detrend,
            "standardize": None,
            "filter": "butterworth" if self.limits else False,
            "high_pass": self.high_pass,
            "low_pass": self.low_pass,
            "t_r": self.repetition_time,
        }


def clean_kept(values: Float64, design: Float64 | None, keep: Bool, filters: Filters) -> Float64:
    """Return the kept frames of series, cleaned.

    Parameters
    ----------
    values
        (T, N) series, finite where kept; other frames are never read.
    design
        (T, C) regressors, treated like the series before they are regressed out, or None; likewise.
    keep
        (T,) frames to keep, two at least.
    filters
        What to do.

    Returns
    -------
    (K, N) for the K kept frames.

    Raises
    ------
    ShortRecordingError
        Too few frames for the filter's padding, or regressors and filter leave no degree of freedom.
    ConfoundsError
        nilearn refuses; its words.
    """
    kept = np.flatnonzero(keep)
    span = int(kept[-1] - kept[0]) + 1
    if filters.limits and span < filters.least_frames:
        raise ShortRecordingError(
            f"{span} frames lie between the first and the last one that is kept, the filter needs "
            f"{filters.least_frames}.",
            "Exclude the recording, or use a recipe without high_pass and low_pass.",
        )
    signals = _prepared(values, kept, filters)
    if design is None or not design.shape[1]:
        return signals
    confounds = _prepared(design, kept, filters)
    # With one degree of freedom left every correlation is 1 or -1.
    if len(kept) * filters.passed - _rank(confounds) - (2 if filters.detrend else 1) < 2:
        raise ShortRecordingError(
            f"{design.shape[1]} regressors{' and the filter' * bool(filters.limits)} leave nothing of {len(kept)} "
            "frames.",
            "Exclude the recording, or use a recipe that regresses or filters less.",
        )
    plain = {"detrend": False, "standardize": None, "filter": False, "standardize_confounds": True}
    return _nilearn(signals, confounds=confounds, **plain)


def _prepared(values: Float64, kept: NDArray[np.intp], filters: Filters) -> Float64:
    """Detrend and filter columns (T, N), return kept frames (K, N): what nilearn does before it regresses."""
    measured = np.ascontiguousarray(values[kept])
    if not filters.limits:
        return _nilearn(measured, **filters.arguments())
    whole = _nilearn(filled(measured, kept), **filters.arguments())
    censored: Float64 = whole[kept - kept[0]]
    return censored


def filled(measured: Float64, kept: NDArray[np.intp]) -> Float64:
    """Fill the gaps between kept frames.

    Parameters
    ----------
    measured
        (K, N) values in kept frames.
    kept
        (K,) their places, ascending.

    Returns
    -------
    (S, N) from the first to the last kept frame: a gap of at most `SPLINE_GAP` frames holds the cubic spline through
    all kept frames, a longer one a straight line; without a gap, `measured`.
    """
    from scipy.interpolate import CubicSpline  # noqa: PLC0415

    places = kept - kept[0]
    if len(places) == places[-1] + 1:
        return measured
    whole = np.empty((int(places[-1]) + 1, measured.shape[1]))
    whole[places] = measured
    spline = CubicSpline(places, measured)
    for i in np.flatnonzero(np.diff(places) > 1):
        gap = np.arange(places[i] + 1, places[i + 1])
        if len(gap) <= SPLINE_GAP:
            whole[gap] = spline(gap)
        else:
            share = ((gap - places[i]) / (places[i + 1] - places[i]))[:, None]
            whole[gap] = (1 - share) * measured[i] + share * measured[i + 1]
    return whole


def _rank(confounds: Float64) -> int:
    """Count the directions that nilearn takes out for these regressors, by its own tolerance."""
    from scipy.linalg import qr  # noqa: PLC0415

    centred = confounds - confounds.mean(axis=0)
    spread = centred.std(axis=0, ddof=1)
    triangle = qr(centred / np.where(spread > np.finfo(float).eps, spread, 1), mode="r", pivoting=True)[0]
    return int((np.abs(np.diag(triangle)) > 100 * np.finfo(float).eps).sum())


def _nilearn(signals: Float64, **arguments: Any) -> Float64:
    from nilearn.signal import clean  # noqa: PLC0415  (2 s)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(clean(signals, **arguments), np.float64)
        except ValueError as error:
            text = " ".join(str(error).split()).rstrip(".")
            raise ConfoundsError(
                f"cleaning failed: {text}.", "Check the recipe's filters and repetition time."
            ) from None
