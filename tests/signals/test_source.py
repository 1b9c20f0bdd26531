import gzip
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_fmmtc.errors import ConfoundsError, CoverageError, ImageError, RepetitionTimeError, SpaceError
from bids_fmmtc.plain import to_json
from bids_fmmtc.quality import read_quality
from bids_fmmtc.recipe import Denoising, Recipe, SpaceSpec, Windows
from bids_fmmtc.signals import source as module
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.source import LabelGrids, Source
from bids_fmmtc.signals.spaces import Placement
from bids_fmmtc.types import Recording

AFFINE = np.diag([2.0, 2, 2, 1])


@pytest.fixture
def tiny(tmp_path, write_bold, tiny_atlas):
    """Build a recording of 30 frames on an 8 x 8 x 8 grid, an atlas of 8 parcels, and what is needed to open it."""

    def make(recipe=None, grids=None, *, mask=True, confounds=True, header_tr=2.0, constant=False, **change):
        rng = np.random.default_rng(0)
        raw = rng.integers(500, 1500, (8, 8, 8, 30)).astype(np.int16)
        raw[...] = 900 if constant else raw
        bold = write_bold(raw, affine=AFFINE, tr=header_tr, path=tmp_path / "sub-1_bold.nii.gz")
        mask_file, table = tmp_path / "sub-1_mask.nii.gz", tmp_path / "sub-1_confounds.tsv"
        nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), AFFINE).to_filename(mask_file)
        table.write_text("framewise_displacement\n" + "0.1\n" * 30, encoding="utf-8")
        recording = Recording(
            "1", None, "rest", None, (), "MNI152NLin6Asym", None, bold,
            mask_file if mask else None, table if confounds else None, 2.0, tmp_path,
        )  # fmt: skip
        labels = rng.integers(0, 9, (8, 8, 8))
        grids = grids or LabelGrids(tiny_atlas(labels, AFFINE))
        recipe = recipe or Recipe(windows=Windows(10, 10, short_least=5))
        return Source(replace(recording, **change), grids, recipe)

    return make


# the real recording


@pytest.fixture(scope="module")
def a424(a424_folder):
    return read_atlas(a424_folder)


def on_devfix(devfix_recording, a424, rule, **change):
    recipe = Recipe(space=SpaceSpec(rule, "packaged"), **change)
    return Source(devfix_recording, LabelGrids(a424), recipe)


@pytest.fixture(scope="module")
def taken_as_one(devfix_recording, a424):
    return on_devfix(devfix_recording, a424, "affine")


def test_a_real_recording_equals_its_reference(taken_as_one, devfix):
    with np.load(next(devfix.glob("*_ref.npz"))) as reference:
        values, n_voxels = reference["ts"], reference["nvox"]
    raw = taken_as_one.raw
    found = ~raw.series.lost
    assert (np.flatnonzero(~found) + 1).tolist() == [383, 405]
    error = np.abs(raw.series.values - values)[:, found] / np.abs(values[:, found].mean(axis=0))
    assert error.max() < 1e-3
    np.testing.assert_array_equal(raw.n_voxels[found], n_voxels[found])


def test_what_a_real_recording_gives(taken_as_one):
    source = taken_as_one
    assert source.frames.shape == source.scaled.shape == (260, 424)
    np.testing.assert_array_equal(source.windows, [[0, 200]])
    assert source.lost.sum() == 2
    for array in (source.frames, source.scaled):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
        assert (array[:, source.lost] == 0).all()
    np.testing.assert_array_equal(source.frames[:, ~source.lost], source.raw.series.values[:, ~source.lost])
    assert source.scaled[:, ~source.lost].std() == pytest.approx(1, rel=1e-4)
    assert source.xyz.shape == (424, 3)
    quality = source.quality
    assert read_quality({"Quality": json.loads(json.dumps(to_json(quality), allow_nan=False))}) == quality
    assert quality.flags == ("space_affine",)
    assert (quality.n_frames, quality.n_lost_parcels, quality.minutes_left) == (260, 2, 6.5)
    assert 10 < quality.tsnr < 500


def test_the_packaged_warp_serves_a_real_recording(devfix_recording, a424, taken_as_one):
    source = on_devfix(devfix_recording, a424, "warp")
    assert source.placement.how == "packaged"
    values = source.raw.series.values
    assert values.shape == (260, 424)
    assert source.lost.sum() <= 4
    assert "space_affine" not in source.quality.flags
    both = ~(source.lost | taken_as_one.lost)
    one, two = values[:, both], taken_as_one.raw.series.values[:, both]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(one.T, two.T, strict=True)]
    assert 0.7 < np.median(r) < 0.999  # some millimetres apart: alike, not the same


def test_fail_names_the_option_that_helps(devfix_recording, a424):
    with pytest.raises(SpaceError, match="--output-spaces"):
        _ = on_devfix(devfix_recording, a424, "fail").raw


def test_an_affine_90_mm_off_is_a_coverage_error(devfix_recording, a424, write_bold, tmp_path):
    img, mask = nib.load(devfix_recording.bold), nib.load(devfix_recording.mask)
    affine = img.affine.copy()
    affine[2, 3] += 90
    raw = img.dataobj.get_unscaled()[..., :3]
    moved = tmp_path / "mask.nii.gz"
    nib.Nifti1Image(np.asarray(mask.dataobj), affine).to_filename(moved)
    recording = replace(devfix_recording, bold=write_bold(raw, affine=affine), mask=moved)
    recipe = Recipe(denoising=Denoising(require_confounds=False), space=SpaceSpec("affine"))
    source = Source(replace(recording, confounds=None), LabelGrids(a424), recipe)
    with pytest.raises(CoverageError, match=r"of 424 parcels hold no signal \(at most 25%"):
        _ = source.raw


def test_a_strategy_on_the_real_recording(devfix_recording, a424):
    source = on_devfix(devfix_recording, a424, "affine", denoising=Denoising("simple", "basic", low_pass=0.1))
    assert np.abs(source.frames.mean(axis=0)).max() < 0.01 * source.raw.series.values[:, 0].mean()  # no level left
    assert (source.frames[:, source.lost] == 0).all()
    assert source.lost.sum() == 2


def test_frames_left_are_all_that_are_kept_in_windows_or_not_and_never_padded(tiny):
    source = tiny(Recipe(windows=Windows(12, 12)))  # 30 frames: six are in no window
    np.testing.assert_array_equal(source.left, source.frames)
    assert len(source.left) == 30
    padded = tiny(Recipe(windows=Windows(40, 40, "reflect", 20)))
    assert len(padded.frames) == 40
    np.testing.assert_array_equal(padded.left, source.left)
    faster = tiny(Recipe(windows=Windows(100, 100, "reflect", 20), target_repetition_time=1.0))
    assert len(faster.left) == 59
    np.testing.assert_array_equal(faster.left, faster.frames[:59])


# mask


@pytest.mark.parametrize("wrong", ["shape", "origin", "turned"])
def test_a_mask_on_another_grid_is_refused(tiny, wrong):
    source = tiny()
    affine = AFFINE.copy()
    if wrong == "origin":
        affine[0, 3] = 2
    elif wrong == "turned":
        affine[0, 0] = -2
    shape = (8, 8, 7) if wrong == "shape" else (8, 8, 8)
    nib.Nifti1Image(np.ones(shape, np.uint8), affine).to_filename(source.recording.mask)
    with pytest.raises(SpaceError, match="different grids"):
        _ = source.raw


def test_a_mask_rounded_differently_is_the_same_grid(tiny):
    source = tiny()
    affine = AFFINE.copy()
    affine[0, 3] = 0.01
    nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), affine).to_filename(source.recording.mask)
    assert source.mask.values.all()


@pytest.mark.parametrize("damage", ["empty", "truncated", "corrupt", "type", "absent"])
def test_a_damaged_mask_is_an_image_error(tiny, damage):
    source = tiny()
    path = source.recording.mask
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 8)).astype(np.uint8)
    nib.Nifti1Image(noise, AFFINE).to_filename(path)
    data = bytearray(path.read_bytes())
    if damage == "corrupt":
        data[12:16] = b"\xff" * 4  # zlib.error, which is no OSError
    elif damage == "type":
        plain = bytearray(gzip.decompress(data))
        plain[70:72] = (9999).to_bytes(2, "little")
        data = gzip.compress(plain)
    path.write_bytes(data[: {"empty": 0, "truncated": 200}.get(damage)])
    if damage == "absent":
        path.unlink()
    with pytest.raises(ImageError, match="mask"):
        _ = source.mask


def test_voxels_outside_the_mask_do_not_count(tiny):
    source = tiny()
    inside = np.zeros((8, 8, 8), np.uint8)
    inside[:, :, :6] = 1
    nib.Nifti1Image(inside, AFFINE).to_filename(source.recording.mask)
    data, labels = nib.load(source.recording.bold).get_fdata(), source.atlas.labels
    for row in range(8):
        chosen = (labels == row + 1) & (inside > 0)
        np.testing.assert_allclose(source.raw.series.values[:, row], data[chosen].mean(axis=0), rtol=1e-6)
        assert source.raw.series.coverage[row] == pytest.approx(chosen.sum() / (labels == row + 1).sum())


def test_without_a_mask_every_labelled_voxel_counts_and_a_flag_tells(tiny):
    source = tiny(mask=False)
    assert (source.raw.series.coverage == 1).all()
    assert "no_brain_mask" in source.quality.flags
    assert "no_brain_mask" not in tiny().quality.flags


@pytest.mark.parametrize(("most", "fails"), [(0.25, False), (0.24, True), (0.0, True)])
def test_at_most_so_many_parcels_may_be_lost(tiny, most, fails):
    source = tiny(Recipe(windows=Windows(10, 10, short_least=5), most_lost=most))
    inside = ~np.isin(source.atlas.labels, [3, 5])
    nib.Nifti1Image(inside.astype(np.uint8), AFFINE).to_filename(source.recording.mask)
    if fails:
        with pytest.raises(CoverageError, match="2 of 8 parcels"):
            _ = source.raw
    else:
        assert np.flatnonzero(source.lost).tolist() == [2, 4]
        assert (source.frames[:, [2, 4]] == 0).all()
        assert (source.scaled[:, [2, 4]] == 0).all()


def test_an_image_that_never_changes_is_refused(tiny):
    with pytest.raises(CoverageError, match="8 of 8 parcels") as caught:
        _ = tiny(constant=True).raw
    assert "change over time" in caught.value.hint


# windows in time


def test_windows_know_their_place_in_the_recording(tiny):
    source = tiny()
    assert source.window_onsets.tolist() == [[0, 20], [20, 40], [40, 60]]
    assert (source.quality.n_frames_in_windows, source.quality.window_repetition_time) == (30, 2.0)
    source = tiny(Recipe(windows=Windows(10, 10, short_least=5), target_repetition_time=1.0))
    assert source.window_onsets[-1].tolist() == [40, 50]
    quality = source.quality
    assert (quality.n_frames_left, quality.n_frames_in_windows, quality.window_repetition_time) == (30, 50, 1)


@pytest.mark.parametrize("name", ["high_pass", "low_pass"])
def test_limits_beyond_nyquist_fail_before_the_long_read(tiny, read, name):
    source = tiny(Recipe(denoising=Denoising(**{name: 0.25})))
    with pytest.raises(ConfoundsError, match=f"{name} is 0.25 Hz, at or above the Nyquist"):
        _ = source.raw
    assert "parcellate" not in read


# repetition time


@pytest.mark.parametrize(
    ("sidecar", "header", "expected", "flagged"),
    [
        (2.0, 2.0, 2.0, False),
        (1.5, 2.0, 1.5, True),
        (None, 0.8, 0.8, False),
        (2.0, 0.0, 2.0, False),
    ],
)
def test_where_the_repetition_time_comes_from(tiny, sidecar, header, expected, flagged):
    source = tiny(header_tr=header, repetition_time=sidecar)
    assert source.repetition_time == expected
    assert source.raw.series.repetition_time == expected
    assert ("repetition_time_disagrees" in source.quality.flags) == flagged


def test_no_repetition_time_anywhere(tiny):
    with pytest.raises(RepetitionTimeError, match="neither its sidecar nor its header"):
        _ = tiny(header_tr=0.0, repetition_time=None).raw


# confounds


def test_confounds_are_required_unless_the_recipe_says_no(tiny):
    with pytest.raises(ConfoundsError, match="motion cannot be judged"):
        _ = tiny(confounds=False).raw
    recipe = Recipe(windows=Windows(10, 10, short_least=5), denoising=Denoising(require_confounds=False))
    source = tiny(recipe, confounds=False)
    assert source.confounds is None
    assert "motion_unknown" in source.quality.flags
    assert source.windows.shape == (3, 2)


def test_confounds_must_fit_the_frames(tiny):
    source = tiny()
    source.recording.confounds.write_text("framewise_displacement\n0.1\n", encoding="utf-8")
    with pytest.raises(ConfoundsError, match="1 rows, the recording 30 frames"):
        _ = source.raw


# laziness


@pytest.fixture
def read(monkeypatch):
    """List what reads something, in order, each time it does."""
    calls = []

    def watch(name):
        function = getattr(module, name)

        def wrapper(*args, **options):
            calls.append(name)
            return function(*args, **options)

        monkeypatch.setattr(module, name, wrapper)

    for name in ("read_header", "parcellate", "read_confounds", "labels_on_grid", "denoise", "cut", "place"):
        watch(name)
    return calls


def test_nothing_is_read_before_it_is_asked_for_and_nothing_twice(tiny, read):
    source = tiny()
    assert read == []
    assert source.xyz.shape == (8, 3)
    assert read == []
    assert source.repetition_time == 2.0
    assert read == []  # the sidecar knew it
    assert source.header.shape == (8, 8, 8, 30)
    assert source.mask.values.all()
    assert source.confounds is not None
    assert read == ["read_header", "read_confounds"]
    for _ in range(2):
        _ = source.quality, source.frames, source.scaled, source.windows, source.lost, source.raw, source.cleaned
    rest = ["place", "labels_on_grid", "parcellate", "denoise", "cut"]
    assert sorted(read) == sorted(["read_header", "read_confounds", *rest])


def test_only_raw_opens_the_data(tiny):
    source = tiny()
    path = source.recording.bold
    data = path.read_bytes()
    plain = gzip.decompress(data)
    path.write_bytes(gzip.compress(plain[:352]))  # header alone
    _ = source.header, source.mask, source.confounds, source.repetition_time, source.placement
    with pytest.raises(ImageError, match="frame 0 of 30"):
        _ = source.raw
    path.write_bytes(data)
    assert source.raw.series.values.shape == (30, 8)  # a failure is not kept


@pytest.mark.parametrize("broken", ["mask", "confounds", "space", "tr"])
def test_what_fails_fast_fails_before_the_long_read(tiny, read, broken):
    change = {
        "space": {"space": "MNI152NLin2009cAsym"},
        "tr": {"repetition_time": None, "header_tr": 0.0},
    }.get(broken, {broken: False} if broken == "confounds" else {})
    recipe = Recipe(space=SpaceSpec("fail"))
    source = tiny(recipe, **change)
    if broken == "mask":
        source.recording.mask.write_bytes(b"")
    with pytest.raises((ImageError, ConfoundsError, SpaceError, RepetitionTimeError)):
        _ = source.raw
    assert "parcellate" not in read


def test_runs_that_share_a_grid_share_their_labels(tiny, read, tiny_atlas):
    grids = LabelGrids(tiny_atlas(np.random.default_rng(1).integers(0, 9, (8, 8, 8)), AFFINE))
    one, two = tiny(grids=grids), tiny(grids=grids, run="2")
    _ = one.raw, two.raw
    assert read.count("labels_on_grid") == 1
    first = grids.on(one.header, one.placement)
    assert grids.on(two.header, two.placement) is first
    affine = one.header.affine.copy()
    affine[0, 3] += 2
    other = grids.on(replace(one.header, affine=affine), one.placement)
    assert other is not first
    assert not np.array_equal(other.labels, first.labels)
    moved = grids.on(one.header, Placement("packaged", lambda x: x + 2.0))
    assert not np.array_equal(moved.labels, first.labels)
    np.testing.assert_array_equal(grids.on(one.header, one.placement).labels, first.labels)


def test_inputs_are_left_as_they_were(tiny):
    source = tiny()
    files = [Path(p) for p in (source.recording.bold, source.recording.mask, source.recording.confounds)]
    before = [(p.read_bytes(), p.stat().st_mtime_ns) for p in files]
    _ = source.quality, source.scaled
    assert [(p.read_bytes(), p.stat().st_mtime_ns) for p in files] == before
