"""A carpet plot's grey levels (Power 2017): a sample of voxels over time, each about its own trend.

Motion and other changes that all voxels share show as vertical stripes; a parcel's mean cannot show them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.types import Float32

SPAN_SD = 2.5
"""Grey levels run from this many standard deviations below a voxel's trend (0) to as many above it (255)."""
MIDDLE = 128


def grey_levels(values: Float32, used: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return grey levels (V, T) of voxels (V, T).

    Parameters
    ----------
    values
        Signal of each voxel in each frame; NaN is drawn as the middle.
    used
        (T,) frames that trend and standard deviation are taken from; the others are drawn on the same scale. None, or
        fewer than three: all of them.

    Returns
    -------
    uint8: 128 on the voxel's linear trend, and throughout for a voxel that never changes, or is not always finite, in
    used frames.
    """
    data = np.asarray(values, np.float64)
    if used is None or used.sum() < 3:
        used = np.ones(data.shape[1], np.bool_)
    time = np.arange(data.shape[1], dtype=np.float64)
    time -= time[used].mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = data - data[:, used].mean(axis=1, keepdims=True)
        slope = centred[:, used] @ time[used] / (time[used] @ time[used])
        centred -= np.outer(slope, time)
        sd = centred[:, used].std(axis=1, keepdims=True)
        scale = np.abs(data[:, used]).max(axis=1, keepdims=True)
        levels = MIDDLE + centred / sd * (127 / SPAN_SD)
    levels[~(sd > 1e-7 * scale)[:, 0]] = MIDDLE  # rounding of a constant is no signal
    clipped: NDArray[np.uint8] = np.clip(np.nan_to_num(np.rint(levels), nan=MIDDLE), 0, 255).astype(np.uint8)
    return clipped
