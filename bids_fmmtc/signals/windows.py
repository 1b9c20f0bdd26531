"""From cleaned frames to the windows an encoder sees: stretches, resampling, padding, scaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ShortRecordingError
from bids_fmmtc.recipe import Windows
from bids_fmmtc.types import Float32, Int32

FEW_FRAMES = 20  # a stretch shorter than this is not worth a window of its own
ANTI_ALIAS = 0.9  # share of the new Nyquist frequency that is kept when frames become fewer


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames ready to be cut.

    Parameters
    ----------
    values
        (F, R) float32, finite except for lost parcels; uninterrupted stretches one after another.
    windows
        (W, 2) int32 start and stop in ``values``; none crosses from one stretch into the next.
    onsets
        (F,) float64 seconds from the start of the recording, its dropped frames included, to each frame of
        ``values``. Without resampling, ``onsets`` divided by ``repetition_time`` is the row in the recording. A
        frame that reflection added has the onset of the frame it repeats.
    repetition_time
        Seconds between frames of ``values``: the target when they were resampled, else the recording's own.
    padded
        Whether reflection had to fill a window.
    """

    values: Float32
    windows: Int32
    onsets: NDArray[np.float64]
    repetition_time: float
    padded: bool

    @property
    def n_in_windows(self) -> int:
        """Distinct frames that windows cover; one that reflection repeats counts once."""
        covered = np.zeros(len(self.onsets), np.bool_)
        for start, stop in self.windows:
            covered[start:stop] = True
        return len(np.unique(self.onsets[covered]))

    @property
    def window_onsets(self) -> NDArray[np.float64]:
        """(W, 2) seconds from the start of the recording: onset of the first frame, end of the last one."""
        return self.onsets_of(self.windows)

    def onsets_of(self, windows: Int32) -> NDArray[np.float64]:
        """Return (W, 2) seconds of windows (W, 2) of these frames, as `window_onsets`."""
        spans = [(part[0], part.max() + self.repetition_time) for part in (self.onsets[a:b] for a, b in windows)]
        return np.array(spans, np.float64).reshape(-1, 2)


def stretches(keep: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return start and stop of each run of kept frames; a censored frame ends a stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def plan_windows(lengths: list[int], length: int, stride: int) -> Int32:
    """Place windows in order inside stretches of these lengths, laid one after another.

    Returns
    -------
    (W, 2) int32 start and stop frames; W may be 0.
    """
    windows = []
    offset = 0
    for n in lengths:
        windows += [(offset + s, offset + s + length) for s in range(0, n - length + 1, stride)]
        offset += n
    return np.array(windows, np.int32).reshape(-1, 2)


def cut(
    values: Float32, keep: NDArray[np.bool_], repetition_time: float, spec: Windows, target: float | None
) -> Frames:
    """Gather kept frames, resample them if asked, and place windows.

    Parameters
    ----------
    values
        (T, R) cleaned series; lost parcels may be NaN.
    keep
        (T,) frames that may be used.
    repetition_time, target
        Seconds; ``target`` None keeps the recording's own.

    Raises
    ------
    ShortRecordingError
        No stretch fills a window and the recipe does not allow padding.
    """
    found, parts, tr = gather(values, keep, repetition_time, target)
    onsets = [a * repetition_time + np.arange(len(p)) * tr for (a, _), p in zip(found, parts, strict=True)]
    windows = plan_windows([len(p) for p in parts], spec.length, spec.stride)
    padded = False
    if len(windows) == 0:
        longest = max(range(len(parts)), key=lambda i: len(parts[i]), default=None)
        n = 0 if longest is None else len(parts[longest])
        if longest is None or spec.short != "reflect" or n < spec.short_least:
            raise _too_short(n, len(keep), tr, spec)
        more = (0, spec.length - n)
        parts = [np.pad(parts[longest], (more, (0, 0)), mode="reflect")]
        onsets = [np.pad(onsets[longest], more, mode="reflect")]
        windows, padded = np.array([[0, spec.length]], np.int32), True
    return Frames(np.ascontiguousarray(np.concatenate(parts)), windows, np.concatenate(onsets), tr, padded)


def gather(
    values: Float32, keep: NDArray[np.bool_], repetition_time: float, target: float | None
) -> tuple[list[tuple[int, int]], list[Float32], float]:
    """Return uninterrupted stretches of kept frames: start and stop, values resampled if asked, repetition time."""
    found = stretches(keep)
    if target is None or np.isclose(target, repetition_time, rtol=1e-3, atol=0):
        return found, [values[a:b] for a, b in found], repetition_time
    # A stretch too short for the spline (and for any window) carries nothing.
    found = [(a, b) for a, b in found if b - a >= 4]
    return found, [resample(values[a:b], repetition_time, target) for a, b in found], target


def _too_short(n: int, n_frames: int, tr: float, spec: Windows) -> ShortRecordingError:
    least = spec.short_least if spec.short == "reflect" else spec.length
    hint = "Exclude the recording."
    if n >= FEW_FRAMES:
        needed = ['short = "reflect"'] if spec.short == "refuse" else []
        needed += [f"short_least of {n} or less"] if n < spec.short_least else []
        hint = (
            f"Exclude the recording, or give the whole cohort a recipe with shorter windows (windows.length of {n} or "
            f"less) or with padding (windows.{' and windows.'.join(needed)})."
        )
    return ShortRecordingError(
        f"the longest uninterrupted stretch holds {n} frames ({n * tr / 60:.1f} min) of {n_frames}, the recipe needs "
        f"{least}.",
        hint,
    )


def resample(values: Float32, repetition_time: float, target: float) -> Float32:
    """Resample frames (T, R) to another repetition time by a cubic spline through the frame times.

    When frames become fewer, a zero-phase Butterworth low-pass at 0.9 of the new Nyquist frequency comes first.
    """
    from scipy.interpolate import CubicSpline  # noqa: PLC0415
    from scipy.signal import butter, sosfiltfilt  # noqa: PLC0415

    lost = np.isnan(values).any(axis=0)
    data = np.where(lost, 0, values).astype(np.float64)
    times = np.arange(len(data)) * repetition_time
    if target > repetition_time:
        sos = butter(5, ANTI_ALIAS * repetition_time / target, output="sos")
        data = sosfiltfilt(sos, data, axis=0, padlen=min(len(data) - 1, 3 * (2 * len(sos) + 1)))
    new_times = np.arange(int(np.floor(times[-1] / target + 1e-9)) + 1) * target
    result = np.asarray(CubicSpline(times, data, axis=0)(new_times), np.float32)
    result[:, lost] = np.nan
    return result


def scale(values: Float32, kind: str) -> Float32:
    """Scale frames (F, R) for an encoder; lost parcels become 0.

    Parameters
    ----------
    kind
        ``global_sd``: each parcel minus its temporal mean, then all divided by one standard deviation taken over
        parcels and frames. ``median_iqr``: each parcel minus its median, divided by its interquartile range.
        ``none``: as it is.

    Notes
    -----
    BrainLM's checkpoint-1400 saw UK Biobank series minus their temporal mean, divided by 41.44, that data set's
    global standard deviation; ``global_sd`` is the same step for another scanner.
    """
    lost = np.isnan(values).any(axis=0)
    data = values[:, ~lost].astype(np.float64)
    if kind == "global_sd":
        data = data - data.mean(axis=0)
        sd = float(np.sqrt(np.mean(data * data))) if data.size else 0.0
        data = data / sd if sd > 0 else data
    elif kind == "median_iqr":
        low, middle, high = np.percentile(data, [25, 50, 75], axis=0)
        spread = high - low
        data = (data - middle) / np.where(spread > 0, spread, 1.0)
    scaled = np.zeros(values.shape, np.float32)
    scaled[:, ~lost] = data
    return scaled
