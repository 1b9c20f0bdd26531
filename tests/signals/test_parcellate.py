import gzip
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import ImageError
from bids_fmmtc.signals.parcellate import CARPET_VOXELS, _Accumulator, _Voxels, frames, parcellate, read_header

DTYPES = ("u1", "i2", "u2", "i4", "f4", "f8")


def naive(path, labels, mask, n):
    """Loop over parcels, frames and voxels of the image as nibabel scales it."""
    data = nib.load(path).get_fdata(dtype=np.float64)
    data = data.reshape(*data.shape[:3], data.shape[-1])
    values = np.full((data.shape[3], n), np.nan)
    counts = np.zeros(n, int)
    for row in range(n):
        voxels = [
            data[at]
            for at in np.ndindex(labels.shape)
            if labels[at] == row + 1 and (mask is None or mask[at]) and np.any(np.isfinite(data[at]) & (data[at] != 0))
        ]
        counts[row] = len(voxels)
        for t in range(data.shape[3]):
            found = [v[t] for v in voxels if np.isfinite(v[t])]
            if found:
                values[t, row] = sum(found) / len(found)
    constant = (values.astype(np.float32) == values[0].astype(np.float32)).all(axis=0)
    counts[constant] = 0
    values[:, constant | np.isnan(values).any(axis=0)] = np.nan
    return values, counts


def check(path, grid, mask=None, rtol=2e-6):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, counts = naive(path, grid.labels, mask, len(grid.expected))
    got = parcellate(read_header(path), grid, mask, 2.0)
    scale = np.nanmax(np.abs(values), initial=1.0)
    np.testing.assert_allclose(got.series.values, values, rtol=rtol, atol=1e-6 * scale)
    np.testing.assert_array_equal(got.n_voxels, counts)
    share = np.divide(counts, grid.expected, out=np.zeros(len(counts)), where=grid.expected > 0)
    np.testing.assert_allclose(got.series.coverage, share, rtol=1e-6)
    return got


@st.composite
def images(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    n_frames, n = draw(st.integers(2, 6)), draw(st.integers(1, 6))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "f":
        raw = (rng.standard_normal((*shape, n_frames)) * 100 + draw(st.sampled_from([0, 1000]))).astype(dtype)
    else:
        info = np.iinfo(dtype)
        raw = rng.integers(max(info.min, -30000), min(info.max, 60000) + 1, (*shape, n_frames)).astype(dtype)
    slope, inter = draw(st.sampled_from([(np.nan, np.nan), (1.0, 0.0), (0.5, 0.0), (0.25, -8.0), (-2.0, 6.0)]))
    outside = rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))
    raw[outside] = 0 if np.isnan(slope) or -inter / slope < 0 else -inter / slope
    if dtype.kind == "f":
        raw[rng.random(raw.shape) < draw(st.sampled_from([0.0, 0.1]))] = np.nan
        raw[rng.random(shape) < draw(st.sampled_from([0.0, 0.2]))] = np.nan
    labels = rng.integers(0, n + 1, shape)  # some parcels own no voxel at all
    mask = rng.random(shape) < 0.7 if draw(st.booleans()) else None
    how = draw(st.sampled_from([(".nii", 1), (".nii.gz", 1), (".nii.gz", 3)]))
    return raw, slope, inter, labels, n, mask, how, draw(st.sampled_from("<>"))


@given(images())
@settings(max_examples=150, deadline=None)
def test_means_are_those_of_a_naive_loop(write_bold, grid_of, image):
    raw, slope, inter, labels, n, mask, (suffix, members), endianness = image
    path = write_bold(raw, slope=slope, inter=inter, suffix=suffix, members=members, endianness=endianness)
    try:
        got = check(path, grid_of(labels, n), mask)
    finally:
        path.unlink()
    assert got.series.values.shape == (raw.shape[3], n)


@pytest.fixture
def brain():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 9, (6, 7, 5))
    return rng, labels, rng.integers(200, 2000, (*labels.shape, 12)).astype(np.int16)


def masker(labels, mask, affine, **options):
    from nilearn.maskers import NiftiLabelsMasker

    return NiftiLabelsMasker(
        nib.Nifti1Image(labels.astype(np.int32), affine),
        mask_img=None if mask is None else nib.Nifti1Image(mask.astype(np.uint8), affine),
        resampling_target=None,
        standardize=False,
        **options,
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("trap", [False, True], ids=["counts", "int16_zscored"])
def test_equals_nilearns_labels_masker(write_bold, grid_of, brain, masked, trap):
    # nilearn#6525: 0.14.0 cast the means to the integer type of a z-scored int16 image.
    rng, labels, raw = brain
    affine = np.diag([3.0, 3, 3, 1])
    slope = np.nan
    if trap:
        raw, slope = rng.integers(-3500, 3500, raw.shape).astype(np.int16) | np.int16(1), 0.001
    mask = rng.random(labels.shape) < 0.8 if masked else None
    if masked:
        mask &= labels != 4  # a parcel nilearn drops and we keep
    path = write_bold(raw, affine=affine, slope=slope)
    got = parcellate(read_header(path), grid_of(labels), mask, 2.0).series
    tool = masker(labels, mask, affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = tool.fit_transform(str(path))
    columns = {int(label) - 1: int(at) for at, label in tool.region_ids_.items() if at != "background"}
    assert len(columns) == (7 if masked else 8)
    for row, at in columns.items():
        np.testing.assert_allclose(got.values[:, row], theirs[:, at], rtol=1e-5, atol=1e-6)
    assert got.values.shape[1] == 8
    assert np.flatnonzero(got.lost).tolist() == ([3] if masked else [])
    if trap:
        assert len(np.unique(got.values)) > 50


def test_parcel_without_voxels_is_nan_with_coverage_0(write_bold, grid_of, brain):
    _, labels, raw = brain
    labels = np.where(labels == 3, 0, labels)
    got = check(write_bold(raw), grid_of(labels, 10, np.full(10, 50)))
    assert got.series.values.shape == (12, 10)
    assert np.flatnonzero(got.series.lost).tolist() == [2, 8, 9]
    assert (got.series.coverage[[2, 8, 9]] == 0).all()
    assert (got.n_voxels[[2, 8, 9]] == 0).all()


def test_no_labelled_voxel_at_all_gives_only_lost_parcels(write_bold, grid_of, brain):
    _, labels, raw = brain
    got = parcellate(read_header(write_bold(raw)), grid_of(labels), np.zeros(labels.shape, bool), 2.0)
    assert got.series.values.shape == (12, 8)
    assert got.series.lost.all()
    assert np.isnan(got.tsnr)


def test_voxels_that_are_always_zero_leave_mean_and_coverage(write_bold, grid_of, brain):
    _, labels, raw = brain
    raw[:3] = 0
    raw[3, 0, 0, 1:] = 0  # held signal once: it is inside the field of view and stays
    got = check(write_bold(raw), grid_of(labels))
    assert 0 < got.series.coverage.max() < 1
    plain = np.stack([raw[labels == r].astype(float).mean(axis=0) for r in range(1, 9)], 1)
    assert np.abs(got.series.values - plain).max() > 100


@pytest.mark.parametrize("varying", [False, True])
def test_nan_voxels_leave_the_mean_of_their_frame(write_bold, grid_of, brain, varying):
    rng, labels, raw = brain
    raw = raw.astype(np.float32)
    hole = rng.random(labels.shape) < 0.2
    if varying:
        for t in range(0, 12, 2):
            raw[rng.random(labels.shape) < 0.2, t] = np.nan
        raw[0, 0, 0, 5] = np.inf
    else:
        raw[hole] = np.nan
    got = check(write_bold(raw), grid_of(labels))
    assert not got.series.lost.any()
    assert (got.series.coverage < 1).any() == (not varying)


def test_parcel_with_a_frame_of_only_nan_is_lost(write_bold, grid_of, brain):
    _, labels, raw = brain
    raw = raw.astype(np.float32)
    raw[labels == 2, 4] = np.nan
    got = check(write_bold(raw), grid_of(labels))
    assert np.flatnonzero(got.series.lost).tolist() == [1]


def test_parcels_that_never_change_hold_no_signal(write_bold, grid_of, brain):
    _, labels, raw = brain
    raw[labels == 2] = 700
    raw[labels == 5] = np.arange((labels == 5).sum())[:, None] + 100  # each voxel its own constant
    raw[labels == 6] = 300
    raw[(*np.argwhere(labels == 6)[0], 3)] = 301  # changes, if only once
    got = check(write_bold(raw), grid_of(labels))
    assert np.flatnonzero(got.series.lost).tolist() == [1, 4]
    assert (got.series.coverage[[1, 4]] == 0).all()
    assert got.series.coverage[5] == 1


def test_masks_of_nan_take_a_bit_per_voxel_and_are_shared(write_bold, grid_of, brain):
    rng, labels, raw = brain
    raw = raw.astype(np.float32)
    raw[rng.random(labels.shape) < 0.2, :6] = np.nan
    for t in range(6, 12):
        raw[rng.random(labels.shape) < 0.2, t] = np.nan
    path, grid = write_bold(raw), grid_of(labels)
    header = read_header(path)
    sums = _Accumulator(_Voxels.of(grid, None), header)
    for volume in frames(header):
        sums.add(volume)
    assert len(sums._nan) == 12
    assert len({id(mask) for mask in sums._nan.values()}) == 7
    assert {mask.nbytes for mask in sums._nan.values()} == {-(-int((labels > 0).sum()) // 8)}
    check(path, grid)


def test_least_coverage_loses_whole_parcels(write_bold, grid_of, brain):
    _, labels, raw = brain
    counts = np.bincount(labels.ravel())[1:]
    expected = counts * np.arange(1, 9)
    grid = grid_of(labels, 8, expected)
    path = write_bold(raw)
    for least, lost in ((0.0, 0), (0.25, 4), (0.26, 5), (1.0, 7)):
        series = parcellate(read_header(path), grid, None, 2.0, least).series
        assert series.lost.sum() == lost
        np.testing.assert_allclose(series.coverage, 1 / np.arange(1, 9), rtol=1e-6)


@pytest.mark.parametrize("slope", [np.nan, 0.5, -2.0])
@pytest.mark.parametrize(("offset", "inter"), [(0, 0.0), (10_000, 0.0), (10_000, 900.0)])
def test_tsnr_is_the_median_over_labelled_voxels(write_bold, grid_of, brain, slope, offset, inter):
    _, labels, raw = brain
    raw = raw + np.int16(offset)
    raw[1] = 0
    raw[2] = 7  # constant: no temporal SNR
    path = write_bold(raw, slope=slope, inter=inter)
    data = nib.load(path).get_fdata()[labels > 0]
    data = data[data.std(axis=1) > 0]
    expected = np.median(np.abs(data.mean(axis=1)) / data.std(axis=1))
    assert parcellate(read_header(path), grid_of(labels), None, 2.0).tsnr == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("slope", [np.nan, 0.5])
def test_the_sample_is_voxels_of_the_image_and_of_their_parcels(write_bold, grid_of, brain, slope):
    _, labels, raw = brain
    raw[:, 0] = 0  # never any signal: not shown
    path = write_bold(raw, slope=slope, inter=0.0)
    sample = parcellate(read_header(path), grid_of(labels), None, 2.0).sample
    data = nib.load(path).get_fdata(dtype=np.float32)
    assert 50 < len(sample.values) == len(sample.parcels) <= CARPET_VOXELS
    assert (np.diff(sample.parcels) >= 0).all()
    assert set(sample.parcels) == set(labels[(labels > 0) & (data != 0).any(axis=3)] - 1)
    for values, parcel in zip(sample.values, sample.parcels, strict=True):
        own = data[labels == parcel + 1]
        assert (np.abs(own - values).max(axis=1) < 1e-3).any()


def test_five_dimensions_with_a_single_fourth(write_bold, grid_of, brain):
    _, labels, raw = brain
    check(write_bold(raw[:, :, :, None]), grid_of(labels))


@pytest.mark.parametrize(
    ("tr", "unit", "expected"),
    [
        (2.0, "sec", 2.0),
        (0.8, "sec", 0.8),
        (720.0, "msec", 0.72),
        (1.5e6, "usec", 1.5),
        (2.0, "unknown", 2.0),
        (0.0, "sec", None),
        (2000.0, "sec", None),  # milliseconds under a wrong unit: not a repetition time
        (0.01, "sec", None),
    ],
)
def test_header_repetition_time(write_bold, brain, tr, unit, expected):
    assert read_header(write_bold(brain[2], tr=tr, unit=unit)).repetition_time == expected


def test_unknown_unit_code_tells_no_repetition_time(write_bold, brain):
    path = write_bold(brain[2], suffix=".nii")
    data = bytearray(path.read_bytes())
    data[123] = 255  # xyzt_units
    path.write_bytes(data)
    assert read_header(path).repetition_time is None


def compressed(write_bold, brain, members=1):
    path = write_bold(brain[2], members=members)
    return path, path.read_bytes()


@pytest.mark.parametrize("members", [1, 4])
def test_truncation_anywhere_is_an_image_error(write_bold, grid_of, brain, members):
    path, data = compressed(write_bold, brain, members)
    grid = grid_of(brain[1])
    for stop in sorted({1, 9, 30, 200, *np.linspace(1, len(data) - 1, 25).astype(int), len(data) - 8, len(data) - 1}):
        path.write_bytes(data[:stop])
        with pytest.raises(ImageError, match=path.name):
            parcellate(read_header(path), grid, None, 2.0)


def test_truncated_plain_nifti_is_refused_by_its_size(write_bold, grid_of, brain):
    path = write_bold(brain[2], suffix=".nii")
    data = path.read_bytes()
    size = brain[2][..., 0].nbytes
    for stop in (351, 352 + 5, 352 + 3 * size, 352 + 12 * size - 1):
        path.write_bytes(data[:stop])
        with pytest.raises(ImageError, match=rf"need {352 + 12 * size:,} bytes, the file has {stop:,}"):
            parcellate(read_header(path), grid_of(brain[1]), None, 2.0)


def test_a_corrupt_byte_is_an_image_error(write_bold, grid_of, brain):
    path, data = compressed(write_bold, brain)
    # Near the end the stream still inflates in many places; only the checksum tells.
    for at in (len(data) // 2, len(data) - 100, len(data) - 7, len(data) - 2):
        broken = bytearray(data)
        broken[at] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(ImageError, match="corrupt"):
            parcellate(read_header(path), grid_of(brain[1]), None, 2.0)


def test_the_file_is_read_to_its_end_although_all_frames_were(write_bold, grid_of, brain):
    path, data = compressed(write_bold, brain)
    grid = grid_of(brain[1])
    more = gzip.compress(np.random.default_rng(0).bytes(3_000_000), 1)  # further away than the reader looks ahead
    path.write_bytes(data + more)
    parcellate(read_header(path), grid, None, 2.0)
    path.write_bytes(data + more[:-8] + b"\1" * 8)
    with pytest.raises(ImageError, match="after frame 12 of 12: CRC"):
        parcellate(read_header(path), grid, None, 2.0)


@pytest.mark.parametrize("name", ["empty.nii.gz", "empty.nii", "text.nii.gz", "text.nii", "absent.nii.gz"])
def test_what_is_no_nifti_is_an_image_error(tmp_path, name):
    path = tmp_path / name
    if "absent" not in name:
        path.write_bytes(b"" if "empty" in name else b"version https://git-lfs.github.com/spec/v1\n" * 20)
    with pytest.raises(ImageError, match=name):
        read_header(path)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((4, 4, 4), "f4", "four dimensions"),
        ((4, 4, 4, 1), "f4", "four dimensions"),
        ((4, 4, 4, 2, 3), "f4", "four dimensions"),
        ((4, 4, 4, 3), "c8", "real numbers"),
        ((4, 4, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")], "real numbers"),
    ],
)
def test_unusable_shapes_and_types(tmp_path, shape, dtype, message):
    path = tmp_path / "x_bold.nii.gz"
    nib.Nifti1Image(np.zeros(shape, np.dtype(dtype)), np.eye(4)).to_filename(path)
    with pytest.raises(ImageError, match=message):
        read_header(path)


@pytest.mark.parametrize("affine", [np.diag([0.0, 2, 2, 1]), np.diag([np.nan, 2, 2, 1])])
def test_an_affine_without_inverse_is_refused(write_bold, brain, affine):
    with pytest.raises(ImageError, match="affine"):
        read_header(write_bold(brain[2], affine=affine))


def test_frames_are_raw_values_in_fortran_order(write_bold, brain):
    path = write_bold(brain[2], slope=3.0, inter=1.0, members=3)
    for t, volume in enumerate(frames(read_header(path))):
        np.testing.assert_array_equal(volume, brain[2][..., t].ravel(order="F"))


CHILD = """
import sys
import numpy as np
from pathlib import Path
from bids_fmmtc.signals.atlas import LabelGrid
from bids_fmmtc.signals.parcellate import parcellate, read_header
header = read_header(Path(sys.argv[1]))
labels = (np.arange(np.prod(header.shape[:3])) % 401).astype(np.int32).reshape(header.shape[:3])
grid = LabelGrid(labels, np.bincount(labels.ravel())[1:])
assert parcellate(header, grid, None, 2.0).series.values.shape == (header.shape[3], 400)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def peak_mb(path):
    # VmHWM starts anew at exec; ru_maxrss would start at the size of the process that runs the tests and hide all.
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc, as Linux has it")
def test_memory_does_not_grow_with_frames(write_bold, tmp_path):
    rng = np.random.default_rng(0)
    block = rng.integers(0, 4, (64, 64, 40, 60)).astype(np.uint8)
    short = write_bold(block)
    long = Path(tmp_path / "long.nii.gz")
    # The long file is the short one's stream ten times, as gzip members; only the header differs.
    header = nib.load(short).header.copy()
    header.set_data_shape((64, 64, 40, 600))
    frames_only = gzip.compress(block.tobytes(order="F"), 1)
    long.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4) + frames_only * 10)
    small, large = peak_mb(short), peak_mb(long)
    assert abs(large - small) < 30  # its voxels alone are 98 MB on disk


@pytest.mark.parametrize("size", [0.001, 2000.0])
def test_an_affine_in_the_wrong_unit_is_refused(tmp_path, size):
    path = tmp_path / "bold.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3, 4), np.int16), np.diag([size, size, size, 1])), path)
    with pytest.raises(ImageError, match=r"expected 0\.3 to 30 mm"):
        read_header(path)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 0.0, -7.0, 1e30])
def test_frames_that_are_left_out_say_nothing_of_the_others(write_bold, grid_of, brain, junk):
    """Neither which voxels hold signal, nor which parcels are lost, nor the temporal SNR."""
    _, labels, raw = brain
    values = raw.astype(np.float32)
    values[1:3, 1] = 0  # out of the field of view
    used = np.ones(values.shape[3], bool)
    used[[0, 1, 6, len(used) - 1]] = False
    changed = values.copy()
    changed[..., ~used] = junk
    changed[1:3, 1, :, 6] = 5.0
    one, other = (
        parcellate(read_header(write_bold(v)), grid_of(labels), None, 2.0, 0.0, used) for v in (values, changed)
    )
    np.testing.assert_array_equal(one.series.values[used], other.series.values[used])
    np.testing.assert_array_equal(one.series.coverage, other.series.coverage)
    np.testing.assert_array_equal(one.n_voxels, other.n_voxels)
    assert one.tsnr == other.tsnr
    np.testing.assert_array_equal(one.sample.parcels, other.sample.parcels)
    np.testing.assert_array_equal(one.sample.values[:, used], other.sample.values[:, used])
    assert (one.n_voxels > 0).any()
    few = parcellate(read_header(write_bold(values[..., used])), grid_of(labels), None, 2.0)  # as if never recorded
    np.testing.assert_array_equal(few.series.values, one.series.values[used])
    assert few.tsnr == one.tsnr
