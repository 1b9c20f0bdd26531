"""Volumes of a recording on the grid and clock that an encoder was trained on, streamed.

The image is placed by its affine, never by the order of its arrays: each foreground voxel of the wanted grid is a
weighted sum of the image's voxels around the same point of space, one sparse matrix for all frames. Frames are then
interpolated in time inside each stretch of kept frames, and normalised by one mean and one standard deviation over the
foreground of all of them. Those two follow exactly from sums, squares and products of neighbouring frames, so they are
had in the pass that makes the parcel series; the clips come in a second one. What is held is two frames and one clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import CoverageError, ShortRecordingError
from bids_fmmtc.signals.parcellate import Header, frames
from bids_fmmtc.signals.windows import stretches
from bids_fmmtc.types import ClipForm, Float32

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SNAP = 1e-3
"""Voxels: an affine this close to a whole number of voxels is that number, as float32 headers round."""

FLAT = 1e-4
"""Standard deviation over mean below which an image is one colour: brains lie above 0.1."""

LEAST_OF_MASK = 0.5
"""Share of a voxel of the wanted grid that the mask must hold.

On the encoder's own grid, where training's masks lay, it says what "any" says. Elsewhere "any" would add a shell as
thick as the image's voxels, so that the mean, the fill and with them every number would depend on how coarse it is.
"""

LEAST_FOREGROUND = 1000
"""Voxels of foreground below which an image cannot be a brain on this grid."""

_EDGE = 0.5  # a point up to half a voxel outside the outermost centres still lies in the outermost voxel
_TIME_EPS = 1e-6
_TIE = 1e-6  # the same sum in another order


# ------------------------------------------------------------------------------------------------------------- space


@dataclass(frozen=True, slots=True)
class Placed:
    """How an image comes to the wanted grid.

    Parameters
    ----------
    used
        (U,) flat offsets (Fortran order) of the image's voxels that count.
    weights
        (V, U) sparse float32: foreground voxels of the grid from those; None where each is one of them, in this order.
    places
        (V,) flat offsets (C order) of the foreground on the grid.
    masked
        Whether the foreground is a mask's; without one a voxel counts as background in frames where it is 0.
    """

    used: NDArray[np.intp]
    weights: csr_array | None
    places: NDArray[np.intp]
    masked: bool

    @classmethod
    def of(cls, header: Header, mask: NDArray[np.bool_] | None, form: ClipForm) -> Placed:
        """Place an image by its affine; any axis order and direction, oblique too.

        Parameters
        ----------
        header
            Of the image.
        mask
            (X, Y, Z) brain mask on its grid, or None. A voxel of the wanted grid is foreground where the interpolated
            mask is at least `LEAST_OF_MASK`.
        form
            The wanted grid.

        Raises
        ------
        CoverageError
            Hardly any foreground falls on the grid: a wrong affine.
        """
        shape = header.shape[:3]
        flat = None if mask is None else mask.ravel(order="F")
        box = _box(np.ones(shape, bool) if mask is None else mask)
        places, rows, columns, weights, n = [], [], [], [], 0
        # Slab by slab: eight neighbours of 885,000 voxels at once would be 300 MB.
        for slab in range(form.shape[0]):
            inside, near, share = _neighbours(shape, header.affine, form, slab, box)
            if flat is not None:
                lit = (share * flat[near]).sum(axis=0) >= LEAST_OF_MASK - _TIE
                inside, near, share = inside[lit], near[:, lit], share[:, lit]
            counts = share > 0  # on a parallel grid without a shift one of the eight is left
            who = np.broadcast_to(n + np.arange(len(inside)), share.shape)
            places.append(inside)
            rows.append(who.T[counts.T])
            columns.append(near.T[counts.T])
            weights.append(share.T[counts.T].astype(np.float32))
            n += len(inside)
        if n < LEAST_FOREGROUND:
            within = "" if mask is None else f" inside its brain mask ({np.count_nonzero(mask):,} of its own)"
            raise CoverageError(
                f"{header.path.name} has only {n} voxels on the encoder's grid{within}: no brain.",
                "Check the affine and the brain mask.",
            )
        column = np.concatenate(columns)
        where = np.concatenate(places)
        if len(column) == n:
            return cls(column, None, where, mask is not None)
        from scipy.sparse import csr_array  # noqa: PLC0415  (0.2 s, which recordings without volumes do without)

        counted = np.zeros(int(np.prod(shape)), bool)
        counted[column] = True
        used = np.flatnonzero(counted)
        near_of = (np.cumsum(counted, dtype=np.int32) - 1)[column]  # 32 bits: half of what each frame reads of it
        starts = np.searchsorted(np.concatenate(rows), np.arange(n + 1)).astype(np.int32)
        matrix = csr_array((np.concatenate(weights), near_of, starts), shape=(n, len(used)))
        return cls(used, matrix, where, mask is not None)

    def volume(self, raw: NDArray[Any], header: Header) -> Float32:
        """Return the foreground (V,) of a raw volume (N,) in the image's units; NaN and negative values become 0."""
        values = np.take(raw, self.used, mode="clip").astype(np.float32)
        if header.slope not in (0.0, 1.0) or header.intercept:
            values *= np.float32(header.slope or 1.0)
            values += np.float32(header.intercept)
        if raw.dtype.kind == "f" and not np.isfinite(values.sum()):
            np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        found: Float32 = values if self.weights is None else self.weights @ values
        return np.maximum(found, 0, out=found)


def _box(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (3, 2) what lies outside of which, in voxels, has no neighbour in a mask."""
    along = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return np.array([(lit[0] - 1, lit[-1] + 1) if len(lit) else (0, 0) for lit in along], float)


def _neighbours(
    shape: tuple[int, ...], affine: NDArray[np.float64], form: ClipForm, slab: int, box: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the image's voxels around each voxel of one slab of a grid, with trilinear weights.

    Parameters
    ----------
    shape, affine
        Of the image.
    form, slab
        The grid, and the index along its first axis.
    box
        (3, 2) bounds in voxels; what lies beyond is left out.

    Returns
    -------
    inside
        (M,) flat offsets (C order) of the grid's voxels that lie in the image.
    near, share
        (8, M) flat offsets (Fortran order) in the image and their weights, which sum to 1.
    """
    to_voxel = np.linalg.inv(affine) @ np.asarray(form.affine)
    at = np.indices((1, *form.shape[1:])).reshape(3, -1)
    at[0] = slab
    points = to_voxel[:3, :3] @ at + to_voxel[:3, 3:]  # (3, M)
    whole = np.round(points)
    # Rounded, so that an image and its mirror image, whose affines differ in the last bits, give the same weights.
    points = np.where(np.abs(points - whole) < SNAP, whole, np.round(points, 5))
    limits = np.array(shape)[:, None]
    least, most = np.maximum(box[:, :1], -_EDGE), np.minimum(box[:, 1:], limits - 1 + _EDGE)
    inside = np.flatnonzero(((points >= least) & (points <= most)).all(axis=0))
    points = np.clip(points[:, inside], 0, limits - 1)
    low = np.clip(np.floor(points).astype(np.intp), 0, np.maximum(limits - 2, 0))
    share = points - low
    first = low[0] + shape[0] * (low[1] + shape[1] * low[2])
    near, weights = np.empty((8, len(inside)), np.intp), np.empty((8, len(inside)))
    for corner in range(8):
        step = (corner >> 2, corner >> 1 & 1, corner & 1)
        near[corner] = first + step[0] + shape[0] * (step[1] + shape[1] * step[2])
        weights[corner] = np.prod([share[a] if step[a] else 1 - share[a] for a in range(3)], axis=0)
    near[weights == 0] = 0  # a neighbour that does not count may lie past the end
    return inside + slab * form.shape[1] * form.shape[2], near, weights


# -------------------------------------------------------------------------------------------------------------- time


@dataclass(frozen=True, slots=True)
class Clock:
    """Frames of the wanted clock inside one stretch of kept frames, which nothing outside of it touches.

    Parameters
    ----------
    start, stop
        The stretch, in frames of the image.
    low, share
        (n,) frame before each wanted frame, and the share of the frame after it. A frame stands for its middle; before
        the first middle and after the last one that frame itself is taken.
    """

    start: int
    stop: int
    low: NDArray[np.intp]
    share: NDArray[np.float64]

    @classmethod
    def of(cls, start: int, stop: int, repetition_time: float, seconds: float) -> Clock:
        """Lay as many wanted frames as the stretch holds whole, from its start on."""
        n = int(np.floor((stop - start) * repetition_time / seconds + _TIME_EPS))
        middle = (np.arange(n) + 0.5) * seconds / repetition_time - 0.5
        middle = np.clip(middle, 0, stop - start - 1)
        whole = np.round(middle)
        middle = np.where(np.abs(middle - whole) < _TIME_EPS, whole, middle)
        low = np.minimum(np.floor(middle).astype(np.intp), max(stop - start - 2, 0))
        return cls(start, stop, low + start, middle - low)


class FrameSums:
    """Sums of each frame's foreground and of each pair of neighbours, gathered while the image streams by."""

    def __init__(self, placed: Placed, header: Header) -> None:
        n = header.shape[3]
        self.placed, self._header = placed, header
        self._last: NDArray[np.float64] | None = None
        self._t = 0
        self._sum, self._square, self._pair = np.zeros(n), np.zeros(n), np.zeros(n)
        self._count, self._either, self._least = np.zeros(n), np.zeros(n), np.full(n, np.inf)

    def add(self, raw: NDArray[Any]) -> None:
        """Take in the next raw volume (N,)."""
        now, t, last = self.placed.volume(raw, self._header).astype(np.float64), self._t, self._last
        self._sum[t], self._square[t] = now.sum(), now @ now
        lit = now if self.placed.masked else now[now != 0]
        self._count[t], self._least[t] = len(lit), lit.min(initial=np.inf)
        if last is not None:
            self._pair[t - 1] = last @ now
            if not self.placed.masked:
                self._either[t - 1] = np.count_nonzero(last + now)
        self._last, self._t = now, t + 1

    def scale(self, clocks: list[Clock]) -> Scale:
        """Return mean and standard deviation over the foreground of all interpolated frames, and its minimum.

        The minimum is over the image's own frames of these stretches, the others exactly over the interpolated ones.

        Raises
        ------
        CoverageError
            The foreground never changes.
        """
        total = square = count = 0.0
        for clock in clocks:
            k, w = clock.low, clock.share
            after = np.minimum(k + 1, clock.stop - 1)
            total += float(((1 - w) * self._sum[k] + w * self._sum[after]).sum())
            pair = np.where(after > k, self._pair[k], self._square[k])
            square += float(
                ((1 - w) ** 2 * self._square[k] + w**2 * self._square[after] + 2 * w * (1 - w) * pair).sum()
            )
            count += self._counted(k, w, after)
        mean = total / max(count, 1.0)
        least = min((float(self._least[c.start : c.stop].min()) for c in clocks), default=mean)
        variance = (square - count * mean * mean) / max(count - 1, 1.0)
        if not variance > (FLAT * mean) ** 2:
            raise CoverageError(
                f"the voxels of {self._header.path.name} on the encoder's grid never change.", "Check the image."
            )
        return Scale(mean, float(np.sqrt(variance)), least)

    def _counted(self, k: NDArray[np.intp], w: NDArray[np.float64], after: NDArray[np.intp]) -> float:
        if self.placed.masked:
            return float(len(k) * len(self.placed.places))
        one = np.where(w == 0, self._count[k], self._count[after])
        return float(np.where((w > 0) & (w < 1), self._either[k], one).sum())


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and unbiased standard deviation over all foreground voxels and frames, and the least of these values."""

    mean: float
    sd: float
    least: float

    @property
    def fill(self) -> np.float32:
        """What background becomes: the minimum of the normalised foreground."""
        return np.float32((self.least - self.mean) / self.sd)


# ------------------------------------------------------------------------------------------------------------- clips


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip: its clock, the first of its frames there, and the rows of the windows it lies in."""

    clock: Clock
    first: int
    rows: NDArray[np.intp]

    @property
    def begins(self) -> int:
        """The first frame of the image that it is made of."""
        return int(self.clock.low[self.first])

    def needs(self, frame: int) -> int:
        """Return the last frame of the image that a frame of the clip is made of: itself, or the later of two."""
        return int(self.clock.low[self.first + frame]) + (self.share(frame) > 0)

    def share(self, frame: int) -> float:
        """Return the share of that later one."""
        return float(self.clock.share[self.first + frame])


def clocks_of(keep: NDArray[np.bool_], repetition_time: float, seconds: float) -> list[Clock]:
    """Return the clock of each stretch of kept frames (T,); what is left out is in none of them."""
    return [Clock.of(a, b, repetition_time, seconds) for a, b in stretches(keep)]


def plan_clips(clocks: list[Clock], spans: NDArray[np.float64], repetition_time: float, form: ClipForm) -> list[Clip]:
    """Lay clips one after another from the start of each stretch; keep those that lie inside a window.

    Parameters
    ----------
    clocks
        Of the stretches.
    spans
        (W, 2) seconds from the start of the recording at which each window begins and ends.
    repetition_time
        Of the image, in s.
    form
        Length and clock of a clip.

    Raises
    ------
    ShortRecordingError
        A window holds no clip.
    """
    clips, length = [], form.frames * form.seconds
    for clock in clocks:
        for first in range(0, len(clock.low) - form.frames + 1, form.frames):
            begin = clock.start * repetition_time + first * form.seconds
            rows = np.flatnonzero((spans[:, 0] <= begin + _TIME_EPS) & (begin + length <= spans[:, 1] + _TIME_EPS))
            if len(rows):
                clips.append(Clip(clock, first, rows))
    empty = sorted(set(range(len(spans))) - {int(row) for clip in clips for row in clip.rows})
    if empty:
        raise ShortRecordingError(
            f"{len(empty)} of {len(spans)} windows hold no whole clip of {form.frames} frames at {form.seconds:g} s "
            f"({length:g} s between censored frames).",
            "Use longer windows, a recipe without volumes, or exclude the recording.",
        )
    return clips


def stream_clips(
    header: Header, placed: Placed, scale: Scale, clips: list[Clip], form: ClipForm
) -> Iterator[tuple[NDArray[np.intp], Float32]]:
    """Yield ``(rows, clip)`` for each clip, in order; the clip (T, X, Y, Z) float32 is one buffer, used again.

    The image is read once from start to end.

    Raises
    ------
    ImageError
        The file is truncated or corrupt.
    """
    buffer = np.full((form.frames, *form.shape), scale.fill, np.float32)
    flat = buffer.reshape(form.frames, -1)
    todo, filled, before = list(reversed(clips)), 0, np.zeros(0, np.float32)
    for t, raw in enumerate(frames(header)):
        if not todo or t < todo[-1].begins:
            continue  # on to the end all the same: only there is the checksum compared
        now = placed.volume(raw, header)
        if placed.masked:  # once a frame of the image, of which there are fewer; a 0 that means background must wait
            _normalise(now, scale)
        while todo and todo[-1].needs(filled) == t:
            mixed = _between(before, now, todo[-1].share(filled))
            if not placed.masked:
                mixed = np.where(mixed == 0, scale.fill, _normalise(mixed.copy(), scale))
            flat[filled][placed.places] = mixed
            filled += 1
            if filled == form.frames:
                yield todo.pop().rows, buffer
                filled = 0
        before = now


def _between(before: Float32, now: Float32, share: float) -> Float32:
    if share == 0.0:
        return now
    mixed = before * np.float32(1 - share)
    mixed += now * np.float32(share)
    return mixed


def _normalise(values: Float32, scale: Scale) -> Float32:
    """Normalise in place."""
    values -= np.float32(scale.mean)
    values *= np.float32(1 / scale.sd)
    return values
