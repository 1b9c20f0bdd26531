"""Confound regression, filters and censoring on parcel series.

These steps are linear over voxels with one design matrix for all of them, so cleaning parcel means gives what
cleaning every voxel and averaging gives, some hundred times cheaper. nilearn chooses the regressors of a strategy and
the frames that scrubbing takes; `signals.clean` does the cleaning. What a frame that is left out holds, in the series
or in the confounds, changes nothing that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ConfoundsError
from bids_fmmtc.plain import Json, Object
from bids_fmmtc.recipe import Denoising
from bids_fmmtc.signals.clean import SPLINE_GAP, Filters, clean_kept
from bids_fmmtc.signals.confounds import Confounds, read_confounds
from bids_fmmtc.signals.regressors import STRATEGIES, Chosen, choose, confound_arguments, is_cosine
from bids_fmmtc.types import Float32, RoiSeries

__all__ = [  # with what its arguments are made of
    "STRATEGIES",
    "Chosen",
    "Cleaned",
    "Confounds",
    "check_limits",
    "choose",
    "confound_arguments",
    "denoise",
    "read_confounds",
]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Cleaned parcel series on the recording's own frames.

    Parameters
    ----------
    values
        (T, R); rows of dropped and censored frames are NaN.
    keep
        (T,) False for dropped and censored frames.
    n_dropped, n_censored
        Non-steady-state and scrubbed frames.
    regressors
        Names of the confounds regressed out.
    parameters
        JSON-ready: the arguments that confounds were chosen (``load_confounds``) and series cleaned (``clean``) with,
        whether cosines were regressed, what became of frames left out, and nilearn's version; empty where nothing
        was cleaned.
    """

    values: Float32
    keep: NDArray[np.bool_]
    n_dropped: int
    n_censored: int
    regressors: tuple[str, ...]
    parameters: Mapping[str, Json] = field(default_factory=dict)


def denoise(raw: RoiSeries, confounds: Confounds | None, spec: Denoising, chosen: Chosen | None = None) -> Cleaned:
    """Clean parcel series as the recipe says.

    Parameters
    ----------
    raw
        (T, R) parcel means.
    confounds
        The recording's table; None when it has none.
    spec
        Strategy (see `STRATEGIES`), global signal, filters, limits for scrubbing.
    chosen
        What `choose` makes of the confounds, where it is known already.

    Returns
    -------
    Cleaned
        With strategy ``none`` and no filter the values are the raw ones. Lost parcels stay NaN.

    Raises
    ------
    ConfoundsError
        As `choose`; or a filter limit is not below Nyquist.
    ShortRecordingError
        As `choose`; or what is left is too short for the filter, or for as many regressors.
    """
    check_limits(spec, raw.repetition_time)
    if chosen is None:
        chosen = choose(confounds, spec, len(raw.values))
    keep = chosen.keep
    values = raw.values.copy()
    if spec.cleans:
        values[:] = np.nan
        found = np.isfinite(raw.values[keep]).all(axis=0)
        if found.any():
            series = raw.values[:, found].astype(np.float64)
            cleaned = clean_kept(series, chosen.design, keep, _filters(spec, raw.repetition_time))
            values[np.ix_(keep, found)] = cleaned
    values[~keep] = np.nan
    used = _parameters(spec, raw.repetition_time, chosen.regressors) if spec.cleans else {}
    return Cleaned(values, keep, chosen.n_dropped, int((~keep[chosen.n_dropped :]).sum()), chosen.regressors, used)


def check_limits(spec: Denoising, repetition_time: float) -> None:
    """Refuse filter limits at or above the Nyquist frequency, which nilearn would clip or leave out in silence.

    Raises
    ------
    ConfoundsError
        Names the limit.
    """
    nyquist = 0.5 / repetition_time
    for name, limit in (("high_pass", spec.high_pass), ("low_pass", spec.low_pass)):
        if limit is not None and limit >= nyquist:
            raise ConfoundsError(
                f"{name} is {limit:g} Hz, at or above the Nyquist frequency, {nyquist:g} Hz.",
                "Check the recipe's filters and the repetition time.",
            )


def _filters(spec: Denoising, repetition_time: float) -> Filters:
    return Filters(spec.detrend, spec.high_pass, spec.low_pass, repetition_time)


_LEFT_OUT = (
    "leading and trailing frames cut off first; before a filter, gaps filled from kept frames alone (a cubic spline, "
    f"beyond {SPLINE_GAP} frames a straight line) in series and regressors, and censored after it"
)


def _parameters(spec: Denoising, repetition_time: float, regressors: tuple[str, ...]) -> Object:
    from nilearn import __version__  # noqa: PLC0415

    arguments = confound_arguments(spec)
    kinds = arguments["strategy"]
    chosen: Object = {**arguments, "strategy": list(kinds) if isinstance(kinds, tuple) else []}
    return {
        "load_confounds": chosen if chosen["strategy"] else None,
        "cosine_regressors": any(map(is_cosine, regressors)),
        "clean": _filters(spec, repetition_time).arguments() | {"standardize_confounds": True},
        "frames_left_out": _LEFT_OUT,
        "nilearn": str(__version__),
    }
