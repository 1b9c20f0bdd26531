"""Headers that cannot be true are refused before anything is allocated; the others say what struct reads."""

import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from bids_fmmtc.errors import AtlasError, DataError, ImageError
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.mask import read_mask
from bids_fmmtc.signals.nifti import DEFLATE_MOST, open_nifti
from bids_fmmtc.signals.parcellate import frames, read_header

AFFINE = np.array([[2, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]], float)
SHAPE = (6, 7, 5, 4)
CODES, DIMS, OFFSET, SCALE, SFORM = 252, 40, 108, 112, 280
QUATERN, QOFFSET = 264, 268  # of the third axis, of the first  # bytes of a NIfTI-1 header
RUNS = 1000


def image(path, shape=SHAPE):
    data = np.random.default_rng(0).integers(-500, 500, shape).astype(np.int16)
    made = nib.Nifti1Image(data, AFFINE)
    made.header.set_xyzt_units("mm", "sec")
    made.header.set_zooms((2.0,) * len(shape))
    nib.save(made, path)
    return path


def patched(path, at, form, *values):
    packed = path.name.endswith(".gz")
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    struct.pack_into(form, data, at, *values)
    path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
    return path


def refusal(path, error=ImageError):
    with pytest.raises(error) as caught:
        open_nifti(path, "image", error)
    assert path.name in caught.value.message
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_sound_image_is_opened(tmp_path, suffix):
    found = open_nifti(image(tmp_path / f"b{suffix}"))
    assert (found.shape, found.offset, found.slope, found.intercept) == (SHAPE, 352, 1.0, 0.0)
    assert np.array_equal(found.affine, AFFINE)
    assert found.data("image").shape == SHAPE


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_neither_orientation_code_set_is_refused_and_either_serves(tmp_path, suffix):
    path = image(tmp_path / f"b{suffix}")
    for codes in ((0, 1), (1, 0), (4, 4)):
        assert np.allclose(open_nifti(patched(path, CODES, "<hh", *codes)).affine, AFFINE)
    said = refusal(patched(path, CODES, "<hh", 0, 0))
    assert "sform_code and qform_code are both 0" in said
    assert refusal(path, AtlasError)


@pytest.mark.parametrize(
    "first", [(0, 0, 0, 0), (np.nan, 0, 0, 0), (np.inf, 0, 0, 0), (2e-3, 0, 0, 0), (2, 0, 0, np.nan)]
)
def test_a_matrix_that_places_no_voxels_is_refused(tmp_path, first):
    path = patched(patched(image(tmp_path / "b.nii.gz"), CODES, "<hh", 0, 1), SFORM, "<4f", *first)
    for error in (ImageError, AtlasError):
        with pytest.raises(error, match="affine"):
            open_nifti(path, "image", error)


def test_a_flat_matrix_is_refused(tmp_path):
    path = patched(patched(image(tmp_path / "b.nii"), CODES, "<hh", 0, 1), SFORM, "<8f", 2, 0, 0, 1, 2, 0, 0, 1)
    with pytest.raises(ImageError, match="affine"):
        open_nifti(path)


@pytest.mark.parametrize(
    ("codes", "offset", "agrees"),
    [
        ((4, 4), 0.9, True),
        ((4, 4), 1.1, False),
        ((4, 4), np.nan, False),
        ((1, 1), 9, False),
        ((4, 1), 9, True),  # the scanner's space and a template's
        ((0, 1), 9, True),
        ((1, 0), 9, True),
    ],
)
def test_two_places_under_one_code_are_told(tmp_path, codes, offset, agrees):
    path = patched(image(tmp_path / "b.nii"), CODES, "<hh", *codes[::-1])
    moved = open_nifti(patched(path, QOFFSET, "<f", AFFINE[0, 3] + offset))
    assert moved.agrees is read_header(path).places_agree is agrees
    assert np.allclose(moved.affine[0, 3], AFFINE[0, 3] + (0 if codes[0] else offset))


def test_a_turn_that_grows_with_the_distance_is_told(tmp_path):
    path = patched(image(tmp_path / "b.nii", (60, 7, 5, 4)), CODES, "<hh", 4, 4)
    assert open_nifti(path).agrees
    assert open_nifti(patched(path, QUATERN, "<f", 0.001)).agrees
    assert not open_nifti(patched(path, QUATERN, "<f", 0.02)).agrees
    assert not open_nifti(patched(path, QUATERN, "<f", 7)).agrees  # no rotation at all


@pytest.mark.parametrize("n", [30_000, 32_767])
def test_a_grid_that_cannot_be_in_the_file_is_refused_unread(tmp_path, n):
    for suffix in (".nii", ".nii.gz"):
        path = patched(image(tmp_path / f"b{suffix}"), DIMS, "<8h", 4, n, n, n, n, 1, 1, 1)
        said = refusal(path)
        assert "is truncated, or its header is wrong" in said
        assert f"{n} x {n} x {n} x {n}" in said
        assert "nprocs" not in said


def test_what_deflate_can_hold_is_not_refused(tmp_path):
    """An image of zeros packs nearly as well as anything can."""
    made = nib.Nifti1Image(np.zeros((40, 40, 40, 40), np.int16), AFFINE)
    nib.save(made, tmp_path / "z.nii.gz")
    size = (tmp_path / "z.nii.gz").stat().st_size
    assert 200 < 40**4 * 2 / size < DEFLATE_MOST
    assert open_nifti(tmp_path / "z.nii.gz").shape == (40,) * 4


@pytest.mark.parametrize("offset", [float("inf"), float("nan"), -5.0, 1e30])
def test_an_offset_that_is_none_is_refused(tmp_path, offset):
    refusal(patched(image(tmp_path / "b.nii"), OFFSET, "<f", offset))


def test_axes_of_one_are_squeezed(tmp_path):
    assert open_nifti(image(tmp_path / "m.nii.gz", (6, 7, 5, 1))).shape == (6, 7, 5)
    assert open_nifti(image(tmp_path / "b.nii.gz", (6, 7, 5, 1, 4))).shape == SHAPE
    assert open_nifti(image(tmp_path / "c.nii.gz", (6, 7, 5, 4, 1))).shape == SHAPE
    assert open_nifti(image(tmp_path / "d.nii.gz", (6, 7, 1, 4))).shape == (6, 7, 1, 4)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "b.nii.gz")
    assert "no regular file" in refusal(tmp_path / "b.nii.gz")
    refusal(tmp_path / "absent.nii.gz")


def test_complex_numbers_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 3), np.complex64), AFFINE), tmp_path / "b.nii.gz")
    assert "expected real numbers" in refusal(tmp_path / "b.nii.gz")


def told(data):
    """Read what counts by struct: shape without axes of one behind the third, offset, scale, codes, matrix."""
    order = "<" if 1 <= struct.unpack_from("<h", data, DIMS)[0] <= 7 else ">"  # as the standard says to tell it
    dims = struct.unpack_from(f"{order}8h", data, DIMS)
    shape = [*dims[1:4], *(n for n in dims[4 : dims[0] + 1] if n != 1)]
    slope, intercept = struct.unpack_from(f"{order}2f", data, SCALE)
    if not (np.isfinite(slope) and slope != 0 and np.isfinite(intercept)):
        slope, intercept = (1.0, 0.0) if not np.isfinite(slope) or slope == 0 else (slope, intercept)
    (sform,) = struct.unpack_from(f"{order}h", data, CODES + 2)
    matrix = np.array(struct.unpack_from(f"{order}12f", data, 280)).reshape(3, 4)
    return shape, slope, intercept, sform, matrix


def read_or_refusal(path):
    """Return the header, or None where it is refused in one line."""
    said = ""
    try:
        return read_header(path)
    except ImageError as error:
        said = str(error)
    assert "\n" not in said
    assert path.name in said
    return None


def test_a_thousand_headers_at_random(tmp_path):
    """Whatever stands in a header: one line, or what `struct` reads there; never another number."""
    sound = image(tmp_path / "sound.nii").read_bytes()
    path, rng = tmp_path / "b.nii", np.random.default_rng(7)
    read = 0
    for _ in range(RUNS):
        data = bytearray(sound)
        for at in rng.integers(0, 348, rng.integers(1, 6)):
            data[at] = rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))])
        path.write_bytes(bytes(data))
        header = read_or_refusal(path)
        if header is None:
            continue
        read += 1
        shape, slope, intercept, sform, matrix = told(data)
        assert list(header.shape) == shape
        assert np.allclose([header.slope, header.intercept], [slope, intercept], equal_nan=True)
        assert header.offset + np.prod(shape) * header.dtype.itemsize <= len(data)
        if sform > 0:
            assert np.allclose(header.affine[:3], matrix)
        for volume in frames(header):  # what is promised is there
            assert volume.size == np.prod(shape[:3])
    assert read > RUNS / 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "atlas"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_five_hundred_headers_of_masks_and_atlases_at_random(tmp_path, kind):
    """As above: one line, or the values that stand in the file, in the scale and at the place its header tells."""
    labels = (np.arange(210) % 4).reshape(6, 7, 5).astype(np.int16)
    (tmp_path / "tpl-A_atlas-T_dseg.tsv").write_text("index\tname\n1\ta\n2\tb\n3\tc\n")
    path = tmp_path / "tpl-A_atlas-T_dseg.nii"
    nib.save(nib.Nifti1Image(labels if kind == "atlas" else (labels > 0).astype(np.int16), AFFINE), path)
    sound, rng, read = path.read_bytes(), np.random.default_rng(8), 0
    for _ in range(500):
        data = bytearray(sound)
        for at in rng.integers(0, 348, rng.integers(1, 6)):
            data[at] = rng.choice([0, 1, 2, 127, 128, 255, int(rng.integers(256))])
        path.write_bytes(bytes(data))
        said, found = "", None
        try:
            found = read_atlas(tmp_path).labels if kind == "atlas" else read_mask(open_nifti(path)).values
        except DataError as error:
            said = str(error)
        assert "\n" not in said
        if found is not None and found.ndim == 3:  # another is on no image's grid
            read += 1
            shape, slope, intercept, *_ = told(data)
            assert list(found.shape) == shape
            if bytes(data[70:74]) == sound[70:74]:  # still int16
                (offset,) = struct.unpack_from("<f", data, OFFSET)
                values = np.frombuffer(data, "<i2", found.size, max(352, int(offset))).reshape(shape, order="F")
                scaled = values * slope + intercept
                assert np.array_equal(found, scaled if kind == "atlas" else (scaled == scaled.max()) & (scaled > 0))
    assert read > 50
