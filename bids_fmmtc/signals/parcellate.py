"""A 4-D image to parcel series in one pass: read a volume, reduce it, forget it.

Memory is one volume plus the labelled voxels, whatever the number of frames. gzip is read with isal, 2.4 to 2.8
times as fast as Python's own reader; the reduction costs a few percent on top.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from bids_fmmtc.errors import ImageError
from bids_fmmtc.signals.atlas import LabelGrid
from bids_fmmtc.signals.nifti import FETCH_AGAIN, one_line, open_nifti
from bids_fmmtc.types import Float32, RoiSeries

TSNR_VOXELS = 8192  # temporal SNR is the median over this many voxels, evenly spread over the labelled ones
CARPET_VOXELS = 400  # of these are kept over time, for a picture: 0.5 MB for 300 frames
READ_AHEAD = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What is read of an image before its data.

    ``shape`` (X, Y, Z, T); ``affine`` (4, 4) voxel to RAS+ mm; ``dtype`` on disk, with byte order; ``slope`` and
    ``intercept`` to physical units; ``repetition_time`` in s, None where the header holds none that is plausible;
    ``places_agree`` as `nifti.Nifti` has it.
    """

    path: Path
    shape: tuple[int, int, int, int]
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    repetition_time: float | None
    places_agree: bool = True

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume on disk, uncompressed."""
        return int(np.prod(self.shape[:3])) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Parcellated:
    """Parcel series of a recording and what else one pass over it tells.

    ``n_voxels`` (R,) are the voxels with signal each mean was taken over; ``tsnr`` is the median over voxels of
    temporal mean divided by temporal standard deviation. ``sample`` is None where there was no image.
    """

    series: RoiSeries
    n_voxels: NDArray[np.int64]
    tsnr: float
    sample: Sample | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Voxels evenly spread over the labelled ones, parcel by parcel.

    ``values`` (V, T) float32 in the image's units; ``parcels`` (V,) their parcels, counted from 0.
    """

    values: Float32
    parcels: NDArray[np.intp]


def read_header(path: Path) -> Header:
    """Read and check the header of a 4-D BOLD image; the data are not touched.

    Raises
    ------
    ImageError
        As `nifti.open_nifti`, or not 4-D.
    """
    found = open_nifti(path)
    shape = found.shape
    if len(shape) != 4 or shape[3] < 2:
        raise ImageError(f"{path.name} has shape {shape}, expected four dimensions with several frames.")
    size = (shape[0], shape[1], shape[2], shape[3])
    tr = _header_tr(found.image.header)
    return Header(path, size, found.affine, found.dtype, found.slope, found.intercept, found.offset, tr, found.agrees)


def _header_tr(header: Any) -> float | None:
    zooms = header.get_zooms()
    try:
        unit = {"msec": 1e-3, "usec": 1e-6}.get(header.get_xyzt_units()[1], 1.0)
    except KeyError:  # a unit code that NIfTI does not know
        return None
    tr = float(zooms[3]) * unit if len(zooms) > 3 else 0.0
    # Headers often hold 0 or nonsense here; only a value a scanner could have made is taken.
    return round(tr, 6) if 0.05 <= tr <= 30 else None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix == ".gz":
        with igzip.open(path, "rb") as f:
            yield f
    else:
        with path.open("rb", buffering=READ_AHEAD) as f:
            yield f


def frames(header: Header) -> Iterator[NDArray[Any]]:
    """Yield each volume as a flat array of raw values, in Fortran order; every frame reuses one buffer.

    Raises
    ------
    ImageError
        The file ends early, or its checksum does not fit.
    """
    buffer = np.empty(int(np.prod(header.shape[:3])), header.dtype)
    view = buffer.view(np.uint8).data
    n_frames, done = header.shape[3], 0
    try:
        with _opened(header.path) as f:
            _skip(f, header.offset)
            for done in range(n_frames):  # noqa: B007  (the message needs it)
                _fill(f, view)
                yield buffer
            done = n_frames
            # gzip checks its sum only once the end is reached.
            while f.read(READ_AHEAD):
                pass
    except (EOFError, OSError, isal_zlib.IsalError, zlib.error) as error:  # type: ignore[misc]  # stub lacks the base
        raise ImageError(
            f"{header.path.name} is truncated or corrupt after frame {done} of {n_frames}: {one_line(error)}.",
            FETCH_AGAIN,
        ) from None


def _skip(f: Any, n: int) -> None:
    while n > 0:
        got = len(f.read(min(n, READ_AHEAD)))
        if got == 0:
            raise EOFError("the file ends inside its header")
        n -= got


def _fill(f: Any, view: memoryview) -> None:
    got = 0
    while got < len(view):
        n = f.readinto(view[got:])
        if not n:
            raise EOFError("the file ends early")
        got += n


def parcellate(
    header: Header,
    grid: LabelGrid,
    mask: NDArray[np.bool_] | None,
    repetition_time: float,
    least_coverage: float = 0.0,
    used: NDArray[np.bool_] | None = None,
    watch: Sequence[Callable[[NDArray[Any]], None]] = (),
) -> Parcellated:
    """Average the voxels of each parcel, frame by frame.

    Parameters
    ----------
    header
        Of the 4-D image, which is read once from start to end.
    grid
        Labels on its grid.
    mask
        (X, Y, Z) brain mask, or None to use every labelled voxel.
    repetition_time
        Seconds.
    least_coverage
        A parcel with less coverage is lost: NaN in all frames.
    used
        (T,) frames that are not left out later, or None for all. Only these say which voxels and parcels hold signal,
        and what the temporal SNR is; every frame has its mean.
    watch
        Called with each raw volume (X * Y * Z,) as it passes, in Fortran order: what else wants the one pass.

    Returns
    -------
    Parcellated
        Values are means in the image's units (slope and intercept applied), summed in float64. A voxel that is zero
        in every used frame lies outside the field of view and counts neither in the mean nor in coverage. NaN voxels
        are left out of the mean of their frame. A parcel whose mean is the same in all used frames holds no signal:
        it is lost, and its voxels and coverage are 0.

    Raises
    ------
    ImageError
        The file is truncated or corrupt.
    """
    voxels = _Voxels.of(grid, mask)
    used = np.ones(header.shape[3], np.bool_) if used is None else used
    sums = _Accumulator(voxels, header, used)
    for volume in frames(header):
        sums.add(volume)
        for look in watch:
            look(volume)
    means, n_voxels = sums.means()
    n_parcels = len(grid.expected)
    values = np.full((header.shape[3], n_parcels), np.nan, np.float32)
    values[:, voxels.rows] = means
    counts = np.zeros(n_parcels, np.int64)
    counts[voxels.rows] = n_voxels
    kept = values[used]
    counts[(kept == kept[:1]).all(axis=0)] = 0  # as stored, in float32: what a later step could see change
    coverage = np.divide(counts, grid.expected, out=np.zeros(n_parcels), where=grid.expected > 0).astype(np.float32)
    # A parcel with a frame that has no finite voxel at all has a hole no later step could carry.
    lost = (counts == 0) | (coverage < least_coverage) | np.isnan(kept).any(axis=0)
    values[:, lost] = np.nan
    return Parcellated(RoiSeries(values, coverage, repetition_time), counts, sums.tsnr(), sums.sample())


@dataclass(frozen=True, slots=True)
class _Voxels:
    """Flat offsets of labelled voxels sorted by parcel; parcel ``rows[p]`` owns ``order[starts[p]:starts[p + 1]]``."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, grid: LabelGrid, mask: NDArray[np.bool_] | None) -> _Voxels:
        labels = grid.labels if mask is None else np.where(mask, grid.labels, 0)
        flat = labels.ravel(order="F")
        used = np.flatnonzero(flat)
        order = used[np.argsort(flat[used], kind="stable")]
        # Only parcels that own voxels take part: reduceat would give an empty one its neighbour's first voxel.
        rows, starts = np.unique(flat[order], return_index=True)
        return cls(order, starts.astype(np.intp), rows.astype(np.intp) - 1)

    def count(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count the chosen voxels of each parcel."""
        if not self.starts.size:
            return np.zeros(0, np.int64)
        counts: NDArray[np.int64] = np.add.reduceat(chosen, self.starts, dtype=np.int64)
        return counts


class _Accumulator:
    """Sums per frame and parcel in raw units, which voxels ever held signal, and a sample for the temporal SNR."""

    def __init__(self, voxels: _Voxels, header: Header, used: NDArray[np.bool_] | None = None) -> None:
        n = len(voxels.order)
        self._used, self._n_used = np.ones(header.shape[3], np.bool_) if used is None else used, 0
        self._voxels = voxels
        self._slope, self._intercept = header.slope or 1.0, header.intercept
        self._zero = -self._intercept / self._slope  # the raw value that means 0
        self._gathered = np.empty(n, header.dtype)
        self._sums = np.zeros((header.shape[3], len(voxels.starts)))
        self._nan: dict[int, NDArray[np.uint8]] = {}  # frame -> mask of voxels, eight to a byte
        self._last_nan: NDArray[np.uint8] | None = None
        self._signal = np.zeros(n, np.bool_)
        self._complete = n == 0
        self._step = max(1, n // TSNR_VOXELS)
        m = len(range(0, n, self._step))
        self._first, self._sum, self._square, self._t = np.zeros(m), np.zeros(m), np.zeros(m), 0
        self._shown = np.linspace(0, m - 1, min(m, CARPET_VOXELS)).astype(np.intp)
        self._carpet = np.empty((header.shape[3], len(self._shown)), np.float32)

    def add(self, volume: NDArray[Any]) -> None:
        """Take in the next volume (X * Y * Z,) of raw values."""
        values = np.take(volume, self._voxels.order, out=self._gathered, mode="clip")
        if values.size:
            total = self._sums[self._t]
            np.add.reduceat(values, self._voxels.starts, dtype=np.float64, out=total)
            if not np.isfinite(total).all():
                self._add_without_nan(values)
        if not self._complete and self._used[self._t]:
            self._signal |= (values != self._zero) & np.isfinite(values)
            self._complete = bool(self._signal.all())
        sampled = values[:: self._step]
        if self._used[self._t]:
            self._sample(sampled)
        self._carpet[self._t] = sampled[self._shown]
        self._t += 1

    def _add_without_nan(self, values: NDArray[Any]) -> None:
        missing = ~np.isfinite(values)
        np.add.reduceat(np.where(missing, 0, values), self._voxels.starts, dtype=np.float64, out=self._sums[self._t])
        # NaN mostly means out of the field of view, the same voxels in every frame: keep one mask for all of them.
        packed = np.packbits(missing)
        if self._last_nan is None or not np.array_equal(packed, self._last_nan):
            self._last_nan = packed
        self._nan[self._t] = self._last_nan

    def _sample(self, values: NDArray[Any]) -> None:
        if self._n_used == 0:
            self._first[:] = values
        self._n_used += 1
        shifted = values - self._first  # keeps the sum of squares exact for large means
        self._sum += shifted
        self._square += shifted * shifted

    def means(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return means (T, P) in physical units and the voxels (P,) behind them.

        A voxel that holds signal only in frames that are not used is taken for zero throughout: means of such frames
        are off by it, and nothing is made of them.
        """
        n_voxels = self._voxels.count(self._signal)
        counts = np.broadcast_to(n_voxels, self._sums.shape).copy()
        sums = self._sums - self._voxels.count(~self._signal) * self._zero
        for t, packed in self._nan.items():
            missing = np.unpackbits(packed, count=self._signal.size).view(np.bool_)
            counts[t] = self._voxels.count(self._signal & ~missing)
            sums[t] = self._sums[t] - self._voxels.count(~self._signal & ~missing) * self._zero
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(counts > 0, sums / counts * self._slope + self._intercept, np.nan)
        return means, n_voxels

    def sample(self) -> Sample:
        """Return the voxels kept over time, without those that never held signal."""
        places = self._shown * self._step
        kept = self._signal[places]
        parcel = np.searchsorted(self._voxels.starts, places[kept], side="right") - 1
        values = (self._carpet.T[kept] * self._slope + self._intercept).astype(np.float32)
        return Sample(values, self._voxels.rows[parcel])

    def tsnr(self) -> float:
        """Return the median over sampled voxels of temporal mean over temporal standard deviation."""
        if not len(self._sum) or not self._n_used:
            return float("nan")
        mean = self._sum / self._n_used
        sd = np.sqrt(np.maximum(self._square / self._n_used - mean * mean, 0)) * abs(self._slope)
        level = np.abs((mean + self._first) * self._slope + self._intercept)
        used = self._signal[:: self._step] & (sd > 0)
        return float(np.median(level[used] / sd[used])) if used.any() else float("nan")
