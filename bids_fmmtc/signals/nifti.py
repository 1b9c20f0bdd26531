"""NIfTI images from outside: opened, and refused before anything is allocated where the header cannot be true.

A header is 348 bytes that anybody may have written. Here it must agree with the file behind it, and say where the image
lies; everything that reads an image (`parcellate`, masks, atlases) opens it through `open_nifti`.
"""

from __future__ import annotations

import stat
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from bids_fmmtc.errors import DataError, ImageError

DEFLATE_MOST = 1032
"""Bytes that one byte of a deflate stream can stand for at most (zlib's technical details, maximum expansion)."""

VOXEL_MM = (0.3, 30.0)  # an affine in metres or micrometres would make the atlas a grid of no size or of any

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)
"""What nibabel raises at headers and data that are not what they say; none of it is a fault of this program."""

FETCH_AGAIN = "Copy or fetch the file again, or run again what made it."


@dataclass(frozen=True, slots=True)
class Nifti:
    """An image whose header agrees with its file.

    ``shape`` as in the header, without axes of one behind the third; ``affine`` (4, 4) voxel to RAS+ mm, the sform's
    where its code is set; ``dtype`` on disk; ``slope``, ``intercept`` to physical units; ``offset`` of the data in
    bytes; ``image`` nibabel's, data unread; ``agrees``, whether sform and qform of one code place the image alike.
    """

    path: Path
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    image: Any
    agrees: bool = True

    def data(self, what: str, error: type[DataError] = ImageError) -> NDArray[Any]:
        """Read all values, in physical units, of this object's shape.

        Raises
        ------
        DataError
            Of class ``error``: truncated or corrupt.
        """
        try:
            values: NDArray[Any] = np.asanyarray(self.image.dataobj).reshape(self.shape)
        except UNREADABLE as problem:
            raise error(f"{what} {self.path.name} cannot be read: {one_line(problem)}.", FETCH_AGAIN) from None
        return values


def open_nifti(path: Path, what: str = "image", error: type[DataError] = ImageError) -> Nifti:
    """Open a NIfTI-1 or NIfTI-2 image; its data are not read.

    Parameters
    ----------
    path
        ``.nii`` or ``.nii.gz``.
    what
        What to call it in messages.
    error
        Class of what is raised.

    Raises
    ------
    DataError
        Of class ``error``: no regular file, empty, truncated, not NIfTI, values that are no real numbers, a grid that
        the file is too small to hold, nothing that tells where the image lies, or a matrix that cannot.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise error(f"{what} {path.name} is no regular file.", FETCH_AGAIN)
        image: Any = nib.load(path)
        header, proxy = image.header, image.dataobj
        slope, intercept, offset = float(proxy.slope), float(proxy.inter), int(proxy.offset)
        dtype, shape = header.get_data_dtype(), tuple(int(n) for n in image.shape)
        codes = (int(header["sform_code"]), int(header["qform_code"]))
        affine = np.asarray(image.affine, np.float64)
    except DataError:
        raise
    except UNREADABLE as problem:
        raise error(f"{what} {path.name} is not a readable NIfTI image: {one_line(problem)}.", FETCH_AGAIN) from None
    while len(shape) > 3 and 1 in shape[3:]:  # some writers put time on the fifth axis, or a mask on four
        at = shape.index(1, 3)
        shape = shape[:at] + shape[at + 1 :]
    if dtype.kind not in "iuf":
        raise error(f"{what} {path.name} holds data of type {dtype}, expected real numbers.")
    if not all(np.isfinite(v) for v in (slope, intercept)):
        raise error(f"{what} {path.name} has a scale of {slope} and {intercept} in its header.", FETCH_AGAIN)
    if not any(codes):
        raise error(
            f"{what} {path.name} does not say where it lies: its sform_code and qform_code are both 0.",
            "Set the code of the matrix that is right (as nibabel's set_sform does, or fslorient), or re-run fMRIPrep.",
        )
    found = Nifti(path, shape, affine, dtype, slope, intercept, offset, image)
    _refuse_impossible(found, what, error)
    _refuse_nowhere(found, what, error)
    return found if codes[0] != codes[1] else replace(found, agrees=_agrees(found))


def _refuse_impossible(found: Nifti, what: str, error: type[DataError]) -> None:
    """Refuse a grid that cannot be in the file, before anybody allocates it."""
    needed = found.offset + int(np.prod([int(n) for n in found.shape], dtype=object)) * found.dtype.itemsize
    size = found.path.stat().st_size
    packed = found.path.name.endswith(".gz")
    if found.offset < 0 or min(found.shape, default=0) < 1 or needed > size * (DEFLATE_MOST if packed else 1):
        grid = " x ".join(map(str, found.shape))
        raise error(
            f"{what} {found.path.name} is truncated, or its header is wrong: {grid} voxels of {found.dtype} from byte "
            f"{found.offset} need {needed:,} bytes, the file has {size:,}{' compressed' * packed}.",
            FETCH_AGAIN,
        )


def _refuse_nowhere(found: Nifti, what: str, error: type[DataError]) -> None:
    """Refuse a matrix that places no voxels: not finite, flat, or of voxels of an impossible size."""
    affine, (low, high) = found.affine, VOXEL_MM
    voxel = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if not (low <= voxel.min() and voxel.max() <= high):
        made = " x ".join(f"{v:g}" for v in voxel)
        raise error(
            f"{what} {found.path.name}: its affine makes voxels of {made} mm, expected {low:g} to {high:g} mm.",
            FETCH_AGAIN,
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * np.prod(voxel):
        raise error(f"{what} {found.path.name} has an affine that cannot be inverted.", FETCH_AGAIN)


def _agrees(found: Nifti) -> bool:
    """Tell whether the qform puts every corner within half a voxel of where the sform does.

    Programs differ in which of the two they go by. Under two codes they are two spaces, and may differ.
    """
    try:
        qform = np.asarray(found.image.header.get_qform(), np.float64)
    except UNREADABLE:
        return False
    ends = [(0, n - 1) for n in found.shape[:3]]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(len(ends), -1)
    n = len(ends)
    apart = (found.affine - qform)[:3, :n] @ corners + (found.affine - qform)[:3, 3:]
    half = np.sqrt((found.affine[:3, :3] ** 2).sum(0)).min() / 2
    return bool((np.sqrt((apart**2).sum(0)) <= half).all())


def one_line(problem: BaseException) -> str:
    """Reduce a foreign error to one line without a full stop."""
    text = "".join(c if c.isprintable() else " " for c in str(problem))
    return " ".join(text.split()).rstrip(".")[:300] or type(problem).__name__
