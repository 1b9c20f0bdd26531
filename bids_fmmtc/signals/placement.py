"""Where an image's volumes lie on another grid, by its affine and never by the order of its arrays.

Each foreground voxel of the wanted grid is a weighted sum of the eight voxels of the image around the same point of
space. Where the axes of the two are parallel, in whatever order and direction, that is three interpolations along one
axis each (`Parallel`); any other image takes one sparse matrix for all frames (`Oblique`), at twice the cost a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import CoverageError
from bids_fmmtc.signals.parcellate import Header
from bids_fmmtc.types import ClipForm, Float32

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SNAP = 1e-3
"""Voxels: an affine this close to a whole number of voxels, or to parallel, is that, as float32 headers round."""

LEAST_OF_MASK = 0.5
"""Share of a voxel of the wanted grid that the mask must hold.

On the encoder's own grid, where training's masks lay, it says what "any" says. Elsewhere "any" would add a shell as
thick as the image's voxels, so that the mean, the fill and with them every number would depend on how coarse it is.
"""

LEAST_FOREGROUND = 1000
"""Voxels of foreground below which an image cannot be a brain on this grid."""

_EDGE = 0.5  # a point up to half a voxel outside the outermost centres still lies in the outermost voxel
_TIE = 1e-6  # the same sum in another order


class Placed(Protocol):
    """How an image comes to the wanted grid."""

    @property
    def places(self) -> NDArray[np.intp]:
        """(V,) flat offsets (C order) of the foreground on the grid, ascending."""

    @property
    def masked(self) -> bool:
        """Whether the foreground is a mask's; without one a voxel counts as background in frames where it is 0."""

    def volume(self, raw: NDArray[Any], header: Header) -> Float32:
        """Return the foreground (V,) of a raw volume (N,) in the image's units; NaN and negative values become 0."""


def place_image(header: Header, mask: NDArray[np.bool_] | None, form: ClipForm) -> Placed:
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
    to_voxel = np.linalg.inv(header.affine) @ np.asarray(form.affine)
    placed: Placed = (Parallel if _parallel(to_voxel, form) else Oblique).of(header, mask, form)
    n = len(placed.places)
    if n < LEAST_FOREGROUND:
        within = "" if mask is None else f" inside its brain mask ({np.count_nonzero(mask):,} of its own)"
        raise CoverageError(
            f"{header.path.name} has only {n} voxels on the encoder's grid{within}: no brain.",
            "Check the affine and the brain mask.",
        )
    return placed


def _parallel(to_voxel: NDArray[np.float64], form: ClipForm) -> bool:
    """Tell whether one step along an axis of the grid moves along one axis of the image only, all across the grid."""
    moved = np.abs(to_voxel[:3, :3]) * np.array(form.shape)
    return bool(((moved >= SNAP).sum(axis=0) == 1).all() and ((moved >= SNAP).sum(axis=1) == 1).all())


def _box(mask: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return (3, 2) what lies outside of which, in voxels, has no neighbour in a mask or is not in the image."""
    box = np.array([(-_EDGE, n - 1 + _EDGE) for n in shape])
    if mask is not None:
        along = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        near = np.array([(lit[0] - 1, lit[-1] + 1) if len(lit) else (0, 0) for lit in along], float)
        box = np.stack([np.maximum(box[:, 0], near[:, 0]), np.minimum(box[:, 1], near[:, 1])], axis=1)
    return box


def _cells(
    points: NDArray[np.float64], shape: tuple[int, ...], box: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return which points (A, M) in voxels lie in a box, the voxel below each of these, and the share of the next."""
    whole, limits = np.round(points), np.array(shape)[:, None]
    # Rounded, so that an image and its mirror image, whose affines differ in the last bits, give the same weights.
    points = np.where(np.abs(points - whole) < SNAP, whole, np.round(points, 5))
    inside = np.flatnonzero(((points >= box[:, :1]) & (points <= box[:, 1:])).all(axis=0))
    points = np.clip(points[:, inside], 0, limits - 1)
    low = np.clip(np.floor(points).astype(np.intp), 0, np.maximum(limits - 2, 0))
    return inside, low, points - low


def _physical(values: NDArray[Any], header: Header) -> Float32:
    """Return raw values in the image's units, as a contiguous array of its own; what is not finite becomes 0."""
    found: Float32 = np.array(values, np.float32, order="C")
    if header.slope not in (0.0, 1.0) or header.intercept:
        found *= np.float32(header.slope or 1.0)
        found += np.float32(header.intercept)
    if values.dtype.kind == "f" and not np.isfinite(found.sum()):
        found[~np.isfinite(found)] = 0
    return found


def _not_negative(values: Float32) -> Float32:
    """Make negative values 0, in place; looking for one is cheaper than to do it in images without."""
    return np.maximum(values, 0, out=values) if values.min(initial=0) < 0 else values


# ---------------------------------------------------------------------------------------------------------- parallel


@dataclass(frozen=True, slots=True)
class Line:
    """What of the grid lies along one axis of the image, in the direction of the image.

    Parameters
    ----------
    grid
        (n,) indices along the grid's axis.
    low, share
        (n,) the image's voxel before each of them, and the share of the voxel after it.
    """

    grid: NDArray[np.intp]
    low: NDArray[np.intp]
    share: NDArray[np.float64]

    @classmethod
    def of(cls, to_voxel: NDArray[np.float64], axis: int, form: ClipForm, n: int, box: NDArray[np.float64]) -> Line:
        """Place the grid along an axis of ``n`` voxels of the image, inside a box (1, 2)."""
        along = int(np.abs(to_voxel[axis, :3]).argmax())
        at = np.repeat(np.array(form.shape)[:, None] / 2, form.shape[along], axis=1)
        at[along] = np.arange(form.shape[along])
        grid, low, share = _cells(to_voxel[axis : axis + 1, :3] @ at + to_voxel[axis, 3], (n,), box)
        way = slice(None, None, 1 if to_voxel[axis, along] > 0 else -1)
        return cls(grid[way], low[0, way], share[0, way])

    @property
    def used(self) -> slice:
        """The image's voxels that count."""
        return slice(int(self.low[0]), int(self.low[-1]) + 1 + int(self.share.any()))


@dataclass(frozen=True, slots=True)
class Mix:
    """Linear interpolation along the rows or the columns of a table.

    Parameters
    ----------
    axis
        0 or 1.
    low, high
        What is mixed along it: indices, or slices where they follow one another, which cost no copy.
    less, more
        Their shares; None where nothing is mixed, only ``low`` taken.
    """

    axis: int
    low: NDArray[np.intp] | slice
    high: NDArray[np.intp] | slice
    less: NDArray[np.floating] | None
    more: NDArray[np.floating] | None

    @classmethod
    def of(cls, axis: int, low: NDArray[np.intp], step: int, share: NDArray[np.float64], dtype: type[Any]) -> Mix:
        """Mix each of ``low`` (n,) with what lies ``step`` after it, which has a share (n,)."""
        before, after = (slice(i[0], i[-1] + 1) if _follow(i) else i for i in (low, low + step))
        if not share.any():
            return cls(axis, before, after, None, None)
        less, more = ((w[:, None] if axis == 0 else w).astype(dtype) for w in (1 - share, share))
        return cls(axis, before, after, less, more)

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Interpolate a table."""
        if self.less is None or self.more is None:
            return self._take(values, self.low)
        mixed: NDArray[Any] = self._take(values, self.low) * self.less
        mixed += self._take(values, self.high) * self.more
        return mixed

    def _take(self, values: NDArray[Any], which: NDArray[np.intp] | slice) -> NDArray[Any]:
        if isinstance(which, slice):
            return values[which] if self.axis == 0 else values[:, which]
        return np.take(values, which, axis=self.axis)


def _follow(low: NDArray[np.intp]) -> bool:
    return bool((np.diff(low) == 1).all())


def _mixes(lines: list[Line], dtype: type[Any]) -> tuple[list[Mix], NDArray[np.intp]]:
    """Return the interpolations along three lines, and where their points (Z, Y, X) are in what comes out (flat).

    What they take and give has a plane (Y, X) in each row, so that every step is one along whole planes or a run of
    nearly one: numpy is several times slower along the short rows of a box.
    """
    z, y, x = lines
    width, n = x.used.stop - x.used.start, len(y.grid)
    low, share = x.low - x.low[0], x.share
    if share.any() and _follow(low):  # the last voxel of a line, which means nothing here, makes a run of them all
        low, share = np.append(low, width - 1), np.append(share, 0)
    planes = Mix.of(0, z.low - z.low[0], 1, z.share, dtype)
    whole = ((y.low - y.low[0])[:, None] * width + np.arange(width)).ravel()
    rows = Mix.of(1, whole, width, np.repeat(y.share, width), dtype)
    each = (np.arange(n)[:, None] * width + low).ravel()
    each = each[each + int(share.any()) < n * width]
    points = Mix.of(1, each, 1, np.tile(share, n)[: len(each)], dtype)
    where = np.arange(len(z.grid))[:, None, None] * len(each) + np.arange(n)[:, None] * len(low)
    return [planes, rows, points], where + np.arange(len(x.grid))


@dataclass(frozen=True, slots=True)
class Parallel:
    """An image whose axes are those of the grid, in any order and direction.

    Parameters
    ----------
    shape, box
        Of the image (Z, Y, X), as it lies in memory, and what is used of it.
    mixes
        Along its three axes, in that box.
    near
        (V,) flat offsets of the foreground in what comes out.
    places, masked
        See `Placed`.
    """

    shape: tuple[int, ...]
    box: tuple[slice, ...]
    mixes: list[Mix]
    near: NDArray[np.intp]
    places: NDArray[np.intp]
    masked: bool

    @classmethod
    def of(cls, header: Header, mask: NDArray[np.bool_] | None, form: ClipForm) -> Parallel:
        """See `place_image`."""
        to_voxel, shape = np.linalg.inv(header.affine) @ np.asarray(form.affine), header.shape[:3]
        bounds = _box(mask, shape)
        lines = [Line.of(to_voxel, a, form, shape[a], bounds[a : a + 1]) for a in (2, 1, 0)]
        if not all(len(line.grid) for line in lines):
            return cls(shape[::-1], (), [], np.zeros(0, np.intp), np.zeros(0, np.intp), mask is not None)
        box = tuple(line.used for line in lines)
        mixes, near = _mixes(lines, np.float32)
        lit = np.ones(near.shape, bool)
        if mask is not None:
            held = mask.T[box].astype(np.float64)
            lit = _mixed(held, _mixes(lines, np.float64)[0])[near] >= LEAST_OF_MASK - _TIE
        along = np.abs(to_voxel[:3, :3]).argmax(axis=0)  # the image's axis that each one of the grid is
        at = np.nonzero(lit)
        places = np.ravel_multi_index([lines[2 - a].grid[at[2 - a]] for a in along], form.shape)
        order = np.argsort(places)
        return cls(shape[::-1], box, mixes, near[lit][order], places[order], mask is not None)

    def volume(self, raw: NDArray[Any], header: Header) -> Float32:
        """See `Placed`."""
        box = _physical(raw.reshape(self.shape)[self.box], header)
        return _not_negative(np.take(_mixed(box, self.mixes), self.near, mode="clip"))


def _mixed(box: NDArray[Any], mixes: list[Mix]) -> NDArray[Any]:
    """Interpolate a box (Z, Y, X) along each axis; flat."""
    table = box.reshape(len(box), -1)
    for mix in mixes:
        table = mix(table)
    return table.reshape(-1)


# ----------------------------------------------------------------------------------------------------------- oblique


@dataclass(frozen=True, slots=True)
class Oblique:
    """An image whose axes are anything.

    Parameters
    ----------
    used
        (U,) flat offsets (Fortran order) of the image's voxels that count.
    weights
        (V, U) sparse float32: foreground voxels of the grid from those.
    places, masked
        See `Placed`.
    """

    used: NDArray[np.intp]
    weights: csr_array
    places: NDArray[np.intp]
    masked: bool

    @classmethod
    def of(cls, header: Header, mask: NDArray[np.bool_] | None, form: ClipForm) -> Oblique:
        """See `place_image`."""
        from scipy.sparse import csr_array  # noqa: PLC0415  (0.2 s, which nothing else in the reading of images needs)

        shape = header.shape[:3]
        flat, box = None if mask is None else mask.ravel(order="F"), _box(mask, shape)
        places, rows, columns, weights, n = [], [], [], [], 0
        # Slab by slab: eight neighbours of 885,000 voxels at once would be 300 MB.
        for slab in range(form.shape[0]):
            inside, near, share = _neighbours(shape, header.affine, form, slab, box)
            if flat is not None:
                lit = (share * flat[near]).sum(axis=0) >= LEAST_OF_MASK - _TIE
                inside, near, share = inside[lit], near[:, lit], share[:, lit]
            counts = share > 0
            who = np.broadcast_to(n + np.arange(len(inside)), share.shape)
            places.append(inside)
            rows.append(who.T[counts.T])
            columns.append(near.T[counts.T])
            weights.append(share.T[counts.T].astype(np.float32))
            n += len(inside)
        column = np.concatenate(columns)
        counted = np.zeros(int(np.prod(shape)), bool)
        counted[column] = True
        used = np.flatnonzero(counted)
        near_of = (np.cumsum(counted, dtype=np.int32) - 1)[column]  # 32 bits: half of what each frame reads of it
        starts = np.searchsorted(np.concatenate(rows), np.arange(n + 1)).astype(np.int32)
        matrix = csr_array((np.concatenate(weights), near_of, starts), shape=(n, len(used)))
        return cls(used, matrix, np.concatenate(places), mask is not None)

    def volume(self, raw: NDArray[Any], header: Header) -> Float32:
        """See `Placed`."""
        found: Float32 = self.weights @ _physical(np.take(raw, self.used, mode="clip"), header)
        return _not_negative(found)


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
    inside, low, share = _cells(to_voxel[:3, :3] @ at + to_voxel[:3, 3:], shape, box)
    first = low[0] + shape[0] * (low[1] + shape[1] * low[2])
    near, weights = np.empty((8, len(inside)), np.intp), np.empty((8, len(inside)))
    for corner in range(8):
        step = (corner >> 2, corner >> 1 & 1, corner & 1)
        near[corner] = first + step[0] + shape[0] * (step[1] + shape[1] * step[2])
        weights[corner] = np.prod([share[a] if step[a] else 1 - share[a] for a in range(3)], axis=0)
    near[weights == 0] = 0  # a neighbour that does not count may lie past the end
    return inside + slab * form.shape[1] * form.shape[2], near, weights
