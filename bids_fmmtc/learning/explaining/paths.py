"""The way from what an encoder reads to the vector that a head reads, for attributions: of parcel series, of volumes.

A path turns one window of a person into a `Walk`: where integrated gradients start, where they end, and what the
encoder makes of any point between the two. An encoder of another kind of input needs a path of its own here; without
one its vector is an input of its own, whose part is known but which has no parcels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.explaining.attribution import SERIES, VOLUMES
from bids_fmmtc.modalities import Differentiable
from bids_fmmtc.types import Float32, Float64, Int32


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """One window on its way through an encoder.

    Parameters
    ----------
    start, end
        (*shape) float32 each: the baseline, and the window itself.
    vector
        (1, *shape) -> [1,H]; gradients reach its argument where they are on.
    reduce
        (1, *shape) float32 attributions -> (1, *smaller) float64, with the same sum.
    sizes
        (1, *shape) float32 differences of end and start -> float64, what stands beside the reduced attributions.
    """

    start: Float32
    end: Float32
    vector: Callable[[Tensor], Tensor]
    reduce: Callable[[Float32], Float64]
    sizes: Callable[[Float32], Float64]


class InputPath(Protocol):
    """The way from what an encoder reads to its vector."""

    @property
    def encoder(self) -> Differentiable:
        """The frozen encoder, on the head's device."""
        ...

    @property
    def map(self) -> str:
        """The map of parcels that it gives: `attribution.SERIES` or `attribution.VOLUMES`."""
        ...

    @property
    def text(self) -> str:
        """What the baseline is, in words."""
        ...

    def walk(self, key: str, window: Any, device: torch.device) -> Walk:
        """Open one window; raises DataError where it is not what the encoder reads."""
        ...

    def untrained(self, seed: int) -> InputPath:
        """Return the same way through an encoder that was never trained."""
        ...


def _same(values: Float32) -> Float64:
    return values.astype(np.float64)


def tensor(array: Float32, device: torch.device) -> Tensor:
    """Return (1, *shape) in memory that torch aligns, as the rounding of some kernels depends on alignment."""
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)[None].to(device)


# ------------------------------------------------------------------------------------------------------- parcel series


@dataclass(frozen=True, slots=True, eq=False)
class SeriesPath:
    """The way from parcel series to a vector; a window is (T, R) scaled frames, lost parcels 0.

    Parameters
    ----------
    encoder
        The frozen encoder, on the head's device.
    xyz
        (R, 3) parcel centres in MNI millimetres.
    scaling
        The recipe's ``scaling`` of the series: it decides the baseline.
    """

    encoder: Differentiable
    xyz: Float32
    scaling: str

    @property
    def map(self) -> str:
        """Parcels through their series."""
        return SERIES

    @property
    def text(self) -> str:
        """What the baseline is, in words."""
        level = "at its mean over the window" if self.scaling == "none" else "at its level over the recording (0)"
        return f"series without fluctuation: each parcel {level}"

    def baseline(self, window: Float32) -> Float32:
        """Return the baseline (T, R) of a window: series that do not fluctuate.

        Zero, which is each parcel's mean (or median) over the recording; series that the recipe does not scale keep
        their mean over the window.
        """
        if self.scaling == "none":
            return np.broadcast_to(window.mean(axis=0, dtype=np.float64), window.shape).astype(np.float32)
        return np.zeros_like(window)

    def walk(self, key: str, window: Any, device: torch.device) -> Walk:
        """Open one window (T, R); attributions are (1, R, T).

        Raises
        ------
        DataError
            It is no window of as many parcels.
        """
        found = getattr(window, "shape", None)
        if found is None or len(found) != 2 or found[1] != len(self.xyz):
            raise DataError(f"{key}: expected series (frames, {len(self.xyz)}) in each window, found {found}.")
        xyz = tensor(self.xyz, device)
        return Walk(
            self.baseline(window).T,
            window.T,
            lambda signal: self.encoder.vectors(signal, xyz.expand(len(signal), -1, -1)),
            _same,
            _same,
        )

    def untrained(self, seed: int) -> SeriesPath:
        """Return the same way through an encoder that was never trained."""
        return replace(self, encoder=self.encoder.untrained(seed))


# ------------------------------------------------------------------------------------------------------------- volumes


@dataclass(frozen=True, slots=True, eq=False)
class ClipWindow:
    """The clips of one window, and where the parcels lie in them.

    Parameters
    ----------
    clips
        (K, T, X, Y, Z) float32 as the encoder saw them.
    labels
        (X, Y, Z) row number + 1 of each voxel's parcel, 0 for voxels of none.
    """

    clips: Float32
    labels: Int32


@dataclass(frozen=True, slots=True, eq=False)
class VolumePath:
    """The way from the clips of a window to their mean vector; a window is a `ClipWindow`.

    What is attributed to are the voxels that change over time; background never does. Clips go through the encoder one
    by one, also on the way back, so that memory is that of one: activations are computed twice.

    Parameters
    ----------
    encoder
        The frozen encoder, on the head's device.
    parcels
        R, how many parcels the labels count.
    """

    encoder: Differentiable
    parcels: int

    @property
    def map(self) -> str:
        """Parcels through their voxels."""
        return VOLUMES

    @property
    def text(self) -> str:
        """What the baseline is, in words."""
        return "image without fluctuation: each voxel at its mean over the window"

    def walk(self, key: str, window: Any, device: torch.device) -> Walk:
        """Open one window; attributions (1, K, T, V) reduce to (1, R + 1), what lies in no parcel last.

        Raises
        ------
        DataError
            It holds no clips, or labels of another grid or more parcels.
        """
        clips, labels = _clips_of(key, window, self.parcels)
        shape = clips.shape[2:]
        flat = clips.reshape(*clips.shape[:2], -1)
        places = np.flatnonzero((flat != flat[:1, :1]).any(axis=(0, 1)))
        mean = flat.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        moving = np.ascontiguousarray(flat[:, :, places])  # (K, T, V)
        still, index = torch.tensor(mean).to(device), torch.tensor(places).to(device)
        rows = labels.ravel()[places] - 1
        rows = np.where(rows < 0, self.parcels, rows)

        def one(voxels: Tensor) -> Tensor:
            volumes = still.expand(len(voxels), -1).index_copy(1, index, voxels)
            return self.encoder.vectors(volumes.reshape(1, len(voxels), *shape))  # type: ignore[no-any-return]

        def vector(inputs: Tensor) -> Tensor:
            grads = torch.is_grad_enabled()
            found = [checkpoint(one, clip, use_reentrant=False) if grads else one(clip) for clip in inputs[0]]
            return torch.stack(found).mean(0)

        def by_parcel(values: Float32) -> Float64:
            sums = values.sum(axis=(0, 1, 2), dtype=np.float64)
            return np.asarray(np.bincount(rows, sums, minlength=self.parcels + 1)[None], np.float64)

        def sizes(moves: Float32) -> Float64:
            counts = np.bincount(rows, minlength=self.parcels + 1) * moves.shape[1] * moves.shape[2]
            found: Float64 = by_parcel(np.abs(moves)) / np.maximum(counts, 1)
            return found

        return Walk(np.broadcast_to(mean[places], moving.shape).astype(np.float32), moving, vector, by_parcel, sizes)

    def untrained(self, seed: int) -> VolumePath:
        """Return the same way through an encoder that was never trained."""
        return replace(self, encoder=self.encoder.untrained(seed))


def seconds_a_clip(path: InputPath, window: ClipWindow, device: str) -> float:
    """Return how long one clip takes through an encoder and back: what a point of integrated gradients costs."""
    started, where = time.monotonic(), torch.device(device)
    walk = path.walk("", ClipWindow(window.clips[:1], window.labels), where)
    walk.vector(tensor(walk.end, where).requires_grad_()).sum().backward()  # type: ignore[no-untyped-call]
    return time.monotonic() - started


def _clips_of(key: str, window: Any, parcels: int) -> tuple[Float32, Int32]:
    clips, labels = getattr(window, "clips", None), getattr(window, "labels", None)
    if clips is None or labels is None or clips.ndim != 5 or not len(clips) or clips.shape[2:] != labels.shape:
        shapes = [getattr(array, "shape", None) for array in (clips, labels)]
        raise DataError(f"{key}: expected clips (K, T, X, Y, Z) and labels of their grid, found {shapes}.")
    if labels.max(initial=0) > parcels:
        raise DataError(f"{key}: labels count {labels.max()} parcels, the features {parcels}.")
    return clips, labels
