"""How NeuroSTORM's own code brings a run to its grid, for comparison with it alone.

It goes by the order of the arrays and the header's voxel sizes, ignores where the image lies, and keeps eight bits. The
program reads by geometry (`bids_fmmtc.signals.volumes`); this exists so that a test can hold both against what the
reference made of the same arrays. Everything is in memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.types import Float32

VOXEL_MM = 2.0
CLOCK_SECONDS = 0.8
MOST = 96
LEVELS = 127


@dataclass(frozen=True, slots=True)
class Quantised:
    """A run as the reference stores it: ``frames`` (T, X, Y, Z) int8, and the step between its levels."""

    frames: NDArray[np.int8]
    scale: float

    def clip(self, start: int, stop: int) -> Float32:
        """Return frames (T, 96, 96, 96), padded on both sides with the clip's first voxel."""
        values = self.frames[start:stop].astype(np.float32) * np.float32(self.scale)
        more = [MOST - n for n in values.shape[1:]]
        pads = [(0, 0), *(((p + 1) // 2, p // 2) for p in more)]
        return np.pad(values, pads, constant_values=values[0, 0, 0, 0])


def reference_frames(
    values: Float32, zooms: tuple[float, float, float, float], mask: NDArray[np.bool_] | None = None
) -> Quantised:
    """Prepare a run as the reference does.

    Parameters
    ----------
    values
        (X, Y, Z, T).
    zooms
        Millimetres of a voxel, seconds of a frame.
    mask
        (X, Y, Z), or None: then what is 0 is background, voxel by voxel and frame by frame.
    """
    sizes = [round(n * zoom / VOXEL_MM) for n, zoom in zip(values.shape[:3], zooms[:3], strict=True)]
    n_frames = max(round(values.shape[3] * zooms[3] / CLOCK_SECONDS), 1)
    found = _cropped(_resized(values, [*sizes, n_frames]))
    if mask is None:
        background = found == 0
    else:
        soft = _cropped(_resized(mask.astype(np.float32)[..., None], [*sizes, 1]))
        background = np.broadcast_to(soft == 0, found.shape)
    found = np.where(background, np.float32(0), np.maximum(found, 0))
    inside = found[~background]
    normal = (found - inside.mean(dtype=np.float64)) / inside.std(ddof=1, dtype=np.float64)
    normal[background] = normal[~background].min()
    scale = float(np.abs(normal).max() / LEVELS)
    levels = np.clip(np.round(normal / scale), -LEVELS, LEVELS).astype(np.int8)
    return Quantised(np.ascontiguousarray(levels.transpose(3, 0, 1, 2)), scale)


def _resized(values: Float32, sizes: list[int]) -> Float32:
    """Interpolate linearly along each axis, half-pixel centres, the ends held."""
    for axis, size in enumerate(sizes):
        n = values.shape[axis]
        if size == n:
            continue
        at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.minimum(np.floor(at).astype(int), max(n - 2, 0))
        shape = [1] * values.ndim
        shape[axis] = size
        share = (at - low).astype(np.float32).reshape(shape)
        after = np.minimum(low + 1, n - 1)
        values = values.take(low, axis) * (1 - share) + values.take(after, axis) * share
    return values


def _cropped(values: Float32) -> Float32:
    """Keep the middle 96 voxels of each axis of space that is longer."""
    cuts = [slice((n - MOST) // 2, (n - MOST) // 2 + MOST) if n > MOST else slice(None) for n in values.shape[:3]]
    return values[tuple(cuts)]
