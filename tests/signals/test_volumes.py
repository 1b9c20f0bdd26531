"""Volumes by geometry: whatever the order and direction of the axes, streamed, and nothing that is left out counts."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from stored import turned

from bids_fmmtc.errors import CoverageError, ImageError, ShortRecordingError
from bids_fmmtc.signals.parcellate import frames, read_header
from bids_fmmtc.signals.placement import place_image
from bids_fmmtc.signals.volumes import Clock, FrameSums, clocks_of, plan_clips, stream_clips
from bids_fmmtc.types import ClipForm

# 4 mm, from right to left, as the encoder's grid runs.
FORM = ClipForm((24, 26, 22), ((-4, 0, 0, 46), (0, 4, 0, -60), (0, 0, 4, -40), (0, 0, 0, 1)), 0.8, 5)
AFFINE = np.array([[3, 0, 0, -44], [0, 3, 0, -58], [0, 0, 3, -38], [0, 0, 0, 1]], float)
SHAPE = (30, 36, 28)


def brain(n=14, seed=0):
    """Smooth positive values that differ from left to right, and a mask that does, too."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, k) for k in SHAPE), indexing="ij")
    inside = x**2 + y**2 + z**2 + 0.4 * x < 0.7
    base = 500 + 300 * x + 100 * y * z
    data = base[..., None] + 20 * rng.standard_normal((*SHAPE, n))
    return np.where(inside[..., None], data, 0).astype(np.float32), inside


def save(path, data, affine=AFFINE, tr=2.0):
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    nib.save(image, path)
    return path


def read(path, mask, tr=2.0, keep=None, spans=None, form=FORM):
    """Return clips as (rows, array), and the scale."""
    header = read_header(path)
    keep = np.ones(header.shape[3], bool) if keep is None else keep
    spans = np.array([[0, header.shape[3] * tr]]) if spans is None else np.asarray(spans, float)
    sums = FrameSums(place_image(header, mask, form), header)
    for raw in frames(header):
        sums.add(raw)
    clocks = clocks_of(keep, tr, form.seconds)
    clips, scale = plan_clips(clocks, spans, tr, form), sums.scale(clocks)
    return [(r.tolist(), c.copy()) for r, c in stream_clips(header, sums.placed, scale, clips, form)], scale


def oracle(data, mask, affine, tr, keep, form=FORM):
    """Everything at once, by scipy and in float64: all frames (n, X, Y, Z) of one stretch."""
    points = (
        np.linalg.inv(affine)
        @ np.asarray(form.affine)
        @ np.stack([*np.indices(form.shape).reshape(3, -1), np.ones(np.prod(form.shape))])
    )
    inside = ((points[:3] > -0.5) & (points[:3] < np.array(data.shape[:3])[:, None] - 0.5)).all(0)
    where = points[:3, inside]

    def at(volume):
        out = np.zeros(np.prod(form.shape))
        out[inside] = map_coordinates(volume.astype(float), where, order=1, mode="nearest")
        return out

    foreground = inside & ((at(mask) >= 0.5 - 1e-6) if mask is not None else True)
    native = np.stack([at(data[..., t])[foreground] for t in np.flatnonzero(keep)])
    n = int(np.floor(len(native) * tr / form.seconds + 1e-6))
    middle = np.clip((np.arange(n) + 0.5) * form.seconds / tr - 0.5, 0, len(native) - 1)
    low = np.minimum(middle.astype(int), len(native) - 2)
    share = (middle - low)[:, None]
    resampled = native[low] * (1 - share) + native[low + 1] * share
    lit = np.ones_like(resampled, bool) if mask is not None else resampled > 1e-3  # scipy does not snap to voxels
    mean, sd = resampled[lit].mean(), resampled[lit].std(ddof=1)
    least = native.min() if mask is not None else native[native > 1e-3].min()
    out = np.full((n, np.prod(form.shape)), (least - mean) / sd)
    out[:, foreground] = np.where(lit, (resampled - mean) / sd, (least - mean) / sd)
    return out.reshape(n, *form.shape)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("tr", [0.8, 2.0, 0.5, 2.9])
def test_clips_are_those_of_a_plain_computation_in_memory(tmp_path, masked, tr):
    data, inside = brain()
    mask = inside if masked else None
    found, _ = read(save(tmp_path / "b.nii.gz", data, tr=tr), mask, tr)
    expected = oracle(data, mask, AFFINE, tr, np.ones(data.shape[3], bool))
    assert len(found) == len(expected) // FORM.frames > 0
    for i, (rows, clip) in enumerate(found):
        assert rows == [0]
        np.testing.assert_allclose(clip, expected[i * 5 : i * 5 + 5], atol=2e-4)


def test_the_scale_is_the_unbiased_one_of_all_foreground_values(tmp_path):
    data, inside = brain(n=2)
    header = read_header(save(tmp_path / "b.nii.gz", data, tr=FORM.seconds))
    placed = place_image(header, inside, FORM)
    sums, values = FrameSums(placed, header), []
    for raw in frames(header):
        sums.add(raw)
        values.append(placed.volume(raw, header).astype(float))
    values = np.concatenate(values)
    scale = sums.scale(clocks_of(np.ones(2, bool), FORM.seconds, FORM.seconds))
    assert (scale.mean, scale.sd) == pytest.approx((values.mean(), values.std(ddof=1)), rel=1e-8)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_how_the_axes_are_stored_does_not_matter(tmp_path, order):
    data, mask = brain(n=8)
    expected, _ = read(save(tmp_path / "b.nii.gz", data), mask)
    for i, flips in enumerate(itertools.product([False, True], repeat=3)):
        (stored, affine), (own_mask, _) = (turned(each, AFFINE, order, flips) for each in (data, mask))
        found, _ = read(save(tmp_path / f"{i}.nii", stored, affine), own_mask)
        for (_, one), (_, other) in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)


def test_a_wrong_flip_would_be_seen(tmp_path):
    """The brain is not the same on both sides: only the affine makes a mirrored array the same brain."""
    data, mask = brain(n=8)
    expected, _ = read(save(tmp_path / "b.nii.gz", data), mask)
    mirrored, _ = read(save(tmp_path / "m.nii.gz", data[::-1].copy()), mask[::-1].copy())
    assert np.abs(mirrored[0][1] - expected[0][1]).max() > 1


def test_how_coarse_the_mask_is_does_not_move_its_border(tmp_path):
    """A ball of 30 mm on voxels of 2 to 6 mm: its volume and its mean stay what they are."""
    found = {}
    for mm in (2.0, 3.5, 6.0):
        shape = (int(100 / mm),) * 3
        affine = np.diag([mm, mm, mm, 1])
        affine[:3, 3] = -mm * (shape[0] - 1) / 2 + np.array([0, -8, 4])
        at = affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]
        inside = (np.linalg.norm(at - [[0], [-8], [4]], axis=0) < 30).reshape(shape)
        data = np.repeat(np.where(inside, 900.0 + at[0].reshape(shape), 0)[..., None], 8, axis=3).astype(np.float32)
        header = read_header(save(tmp_path / f"{mm}.nii", data, affine))
        placed = place_image(header, inside, FORM)
        _, scale = read(tmp_path / f"{mm}.nii", inside)
        found[mm] = len(placed.places), scale.mean
    ball = 4 / 3 * np.pi * 30**3 / 4**3
    for n, mean in found.values():
        assert abs(n / ball - 1) < 0.1
        assert abs(mean / found[2.0][1] - 1) < 0.06


def test_left_is_at_the_high_end_of_the_first_axis(tmp_path):
    """LAS, as training stored it: x falls along the first axis."""
    data = np.ones((*SHAPE, 8), np.float32)
    right = AFFINE[0, 0] * np.arange(SHAPE[0]) + AFFINE[0, 3] > 0
    data[right] = 5 + np.arange(8, dtype=np.float32)
    (_, clip), *_ = read(save(tmp_path / "b.nii.gz", data), np.ones(SHAPE, bool))[0]
    assert clip[:, 3, 13, 11].min() > clip[:, -3, 13, 11].max()


def test_an_oblique_image_is_interpolated(tmp_path):
    data, mask = brain(n=8)
    angle = np.deg2rad(7)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ AFFINE
    found, _ = read(save(tmp_path / "b.nii.gz", data, affine), mask)
    expected = oracle(data, mask, affine.astype(np.float32).astype(float), 2.0, np.ones(8, bool))
    middle = (slice(None), slice(6, 18), slice(6, 18), slice(6, 16))
    np.testing.assert_allclose(found[0][1][middle], expected[:5][middle], atol=2e-3)


@settings(max_examples=8)
@given(pattern=st.lists(st.booleans(), min_size=30, max_size=30), seed=st.integers(0, 99))
def test_what_is_left_out_touches_nothing(tmp_path_factory, pattern, seed):
    """Other values in frames that are dropped or censored change no clip and no scale, to the bit."""
    keep = np.array(pattern)
    keep[10:18] = True
    folder = tmp_path_factory.mktemp("v")
    data, mask = brain(n=30)
    spans = [[20, 36]]
    one = read(save(folder / "a.nii", data), mask, keep=keep, spans=spans)
    other = data.copy()
    other[..., ~keep] = np.random.default_rng(seed).choice([np.nan, -1e6, 1e6, 0], int((~keep).sum()))
    two = read(save(folder / "b.nii", other), mask, keep=keep, spans=spans)
    assert one[1] == two[1]
    assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(one[0], two[0], strict=True))


@given(n=st.integers(1, 60), tr=st.floats(0.3, 4), start=st.integers(0, 9))
def test_a_clock_keeps_inside_its_stretch(n, tr, start):
    clock = Clock.of(start, start + n, tr, 0.8)
    after = clock.low + (clock.share > 0)
    assert len(clock.low) * 0.8 <= n * tr + 1e-5 < (len(clock.low) + 1) * 0.8 + 1e-4
    assert ((clock.low >= start) & (after < start + n)).all()
    assert ((clock.share >= 0) & (clock.share <= 1)).all()


def test_clips_belong_to_the_windows_they_lie_in_and_a_censored_frame_ends_one():
    keep = np.ones(40, bool)
    keep[13] = False
    clocks = clocks_of(keep, 2.0, 0.8)  # 0 to 26 s and 28 to 80 s; clips of 4 s
    clips = plan_clips(clocks, np.array([[0, 26], [28, 48], [40, 80]]), 2.0, FORM)
    begins = [(c.clock.start * 2.0 + c.first * 0.8, c.rows.tolist()) for c in clips]
    assert begins[:6] == [(4.0 * i, [0]) for i in range(6)]
    assert [(round(b, 6), r) for b, r in begins[6:]] == [
        (28, [1]), (32, [1]), (36, [1]), (40, [1, 2]), (44, [1, 2]), (48, [2]), (52, [2]), (56, [2]), (60, [2]),
        (64, [2]), (68, [2]), (72, [2]), (76, [2]),
    ]  # fmt: skip


def test_a_window_without_a_clip_is_refused():
    clocks = clocks_of(np.ones(20, bool), 2.0, 0.8)
    with pytest.raises(ShortRecordingError, match=r"1 of 2 windows hold no whole clip of 5 frames at 0\.8 s"):
        plan_clips(clocks, np.array([[0, 40], [1, 4]]), 2.0, FORM)


def test_an_image_that_is_not_there_or_never_changes_is_refused(tmp_path):
    data, mask = brain(n=8)
    far = AFFINE.copy()
    far[:3, 3] += 500
    with pytest.raises(CoverageError, match="has only 0 voxels on the encoder's grid inside its brain mask"):
        read(save(tmp_path / "b.nii.gz", data, far), mask)
    with pytest.raises(CoverageError, match="never change"):
        read(save(tmp_path / "c.nii.gz", np.full_like(data, 7)), np.ones(SHAPE, bool))


def test_a_file_cut_off_after_the_last_clip_is_still_refused(tmp_path):
    data, mask = brain(n=12)
    path = Path(save(tmp_path / "b.nii.gz", data))
    header = read_header(path)
    sums = FrameSums(place_image(header, mask, FORM), header)
    for raw in frames(header):
        sums.add(raw)
    clocks = clocks_of(np.ones(12, bool), 2.0, 0.8)
    clips = plan_clips(clocks, np.array([[0, 8.0]]), 2.0, FORM)
    scale = sums.scale(clocks)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - len(whole) // 8])
    with pytest.raises(ImageError, match="truncated or corrupt"):
        list(stream_clips(header, sums.placed, scale, clips, FORM))


def test_slope_intercept_and_nan_are_the_image_s(tmp_path):
    data, mask = brain(n=8)
    expected, _ = read(save(tmp_path / "a.nii.gz", np.round(data)), mask)
    image = nib.Nifti1Image(np.round(data), AFFINE)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 10)
    stored = nib.Nifti1Image(np.round((np.round(data) - 10) / 0.5).astype(np.int16), AFFINE, image.header)
    stored.header.set_zooms((3, 3, 3, 2))
    raw = tmp_path / "b.nii"
    nib.save(stored, raw)
    blob = bytearray(raw.read_bytes())
    blob[112:120] = np.array([0.5, 10], "<f4").tobytes()
    raw.write_bytes(bytes(blob))
    found, _ = read(raw, mask)
    np.testing.assert_allclose(found[0][1], expected[0][1], atol=1e-5)
    holes = np.where(mask[..., None], np.round(data), np.nan)
    found, _ = read(save(tmp_path / "c.nii.gz", holes), mask)
    np.testing.assert_allclose(found[0][1], expected[0][1], atol=1e-5)
