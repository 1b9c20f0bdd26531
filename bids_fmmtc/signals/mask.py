"""A brain mask: which voxels are brain, also where the file holds shares of a voxel instead of yes and no."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ImageError
from bids_fmmtc.signals.nifti import Nifti

THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Mask:
    """``values`` (X, Y, Z) bool, and whether they came of shares that were cut at `THRESHOLD`."""

    values: NDArray[np.bool_]
    thresholded: bool


def read_mask(image: Nifti) -> Mask:
    """Read a brain mask.

    Of two values the higher one is brain, and so is everything of a mask of one value above 0. Of more values, all
    within 0..1, as interpolation or a probability map leaves them, those of at least `THRESHOLD` are brain. NaN is not.

    Raises
    ------
    ImageError
        It cannot be read, or holds more than two values that are no shares.
    """
    data = image.data("brain mask")
    data = np.where(np.isfinite(data), data, 0)
    low, high = float(data.min()), float(data.max())
    if not ((data == low) | (data == high)).all():
        if low < 0 or high > 1:
            raise ImageError(
                f"brain mask {image.path.name} holds more than two values, from {low:g} to {high:g}: it is no mask.",
                "Give a mask of 0 and 1 (or of shares from 0 to 1, which are cut at 0.5).",
            )
        return Mask(data >= THRESHOLD, thresholded=True)
    return Mask((data == high) & (high > 0) if low < high else data > 0, thresholded=False)
