"""What each parcel tells by itself, without an encoder: how much it fluctuates, and how slowly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ShortRecordingError
from bids_fmmtc.signals.windows import stretches
from bids_fmmtc.types import Float32

Float64 = NDArray[np.float64]


class Amplitude(NamedTuple):
    """Two numbers a parcel, (R,) float32 each, of one recording."""

    log_variance: Float32
    autocorrelation: Float32


def amplitude(values: Float32, keep: NDArray[np.bool_]) -> Amplitude:
    """Return log-variance and lag-1 autocorrelation of every parcel over all frames that are kept.

    The log-variance is that of the parcel less the mean of all parcels: units of a scanner and a gain that all share
    drop out, as they do in what an encoder sees. Products of neighbours count only where both frames are kept, since
    the frames on either side of a gap are no neighbours. A parcel without signal gets what tells nothing: a
    log-variance of 0 and the mean autocorrelation.

    Parameters
    ----------
    values
        (T, R) cleaned series; lost parcels may be NaN, and so may frames that are not kept.
    keep
        (T,) frames that may be used.

    Raises
    ------
    ShortRecordingError
        No two neighbouring frames are kept.
    """
    both = keep[1:] & keep[:-1]
    if not both.any():
        longest = max((stop - start for start, stop in stretches(keep)), default=0)
        raise ShortRecordingError(
            f"the longest uninterrupted stretch holds {longest} frames, autocorrelation needs 2.",
            "Exclude the recording.",
        )
    data: Float64 = np.where(keep[:, None], values, 0).astype(np.float64)
    data = np.where(keep[:, None], data - data[keep].mean(axis=0), 0)
    variance = (data**2).sum(axis=0) / keep.sum()
    live = np.isfinite(variance) & (variance > 0)
    logs, memory = np.zeros(len(live)), np.zeros(len(live))
    if live.any():
        logs[live] = np.log(variance[live])
        logs[live] -= logs[live].mean()
        products = (data[1:, live] * data[:-1, live])[both].mean(axis=0)
        memory[live] = products / variance[live]
        memory[~live] = memory[live].mean()
    return Amplitude(logs.astype(np.float32), memory.astype(np.float32))
