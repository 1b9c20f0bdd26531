"""Volumes of a recording on the grid and clock that an encoder was trained on, streamed.

The image is placed by its affine, never by the order of its arrays (`bids_fmmtc.signals.placement`). Frames are then
interpolated in time inside each stretch of kept frames, and normalised by one mean and one standard deviation over the
foreground of all of them. Those two follow exactly from sums, squares and products of neighbouring frames, so they are
had in the pass that makes the parcel series; the clips come in a second one. What is held is two frames and one clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import CoverageError, ShortRecordingError
from bids_fmmtc.signals.parcellate import Header, frames
from bids_fmmtc.signals.placement import Placed
from bids_fmmtc.signals.windows import stretches
from bids_fmmtc.types import ClipForm, Float32

FLAT = 1e-4
"""Standard deviation over mean below which an image is one colour: brains lie above 0.1."""

_TIME_EPS = 1e-6


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
