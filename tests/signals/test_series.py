import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qualities import quality

from bids_fmmtc.dataset.store import write_array, write_table
from bids_fmmtc.errors import ConfoundsError, CoverageError, DataError, ShortRecordingError
from bids_fmmtc.modalities import load_modality
from bids_fmmtc.plain import to_json
from bids_fmmtc.quality import read_quality
from bids_fmmtc.recipe import Recipe, Windows
from bids_fmmtc.signals.parcels import Table, parcel_atlas, read_series
from bids_fmmtc.signals.series import SeriesSource, import_source, on_all_frames, without_holes
from bids_fmmtc.signals.windows import scale
from bids_fmmtc.types import Recording

RECIPE = Recipe(windows=Windows(10, 10, short_least=5))
N, R = 40, 6
NAMES = [f"p{i}" for i in range(R)]
ATLAS = parcel_atlas("x", NAMES, xyz=np.arange(3.0 * R).reshape(R, 3))
NOTHING = {"mean_fd": None, "n_scrubbed": None, "n_skipped": None}


def values(n=N, r=R, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (n, r)).astype(np.float32)


def outliers(marked, column="framewise_displacement", **more):
    columns = {column: marked, **more}
    data = np.array(list(columns.values()), float).T
    return Table(Path("sub-1_outliers.tsv"), tuple(columns), data)


# frames


@given(st.lists(st.booleans(), min_size=2, max_size=30))
def test_frames_that_xcp_d_took_out_are_put_back_as_gaps(marked):
    marked = np.array(marked)
    whole = values(len(marked))
    kept = whole[~marked]
    for given_rows in (whole, kept):
        got = on_all_frames(given_rows.astype(float), outliers(marked))
        np.testing.assert_array_equal(got[~marked], kept)
        assert np.isnan(got[marked]).all()
        assert got.shape == whole.shape


def test_the_union_of_all_criteria_counts_where_there_is_one():
    fd, union = np.array([0, 1, 0, 0, 0]), np.array([0, 1, 1, 0, 0])
    rows = values(5).astype(float)
    both = outliers(fd, denoising=union)
    for given_rows in (rows, rows[union == 0]):
        assert np.isnan(on_all_frames(given_rows, both)).all(axis=1).tolist() == [False, True, True, False, False]
    # Rows by the first criterion alone.
    assert np.isnan(on_all_frames(rows[fd == 0], both)).all(axis=1).tolist() == [False, True, False, False, False]


def test_frames_that_a_table_with_hashes_marks_are_censored(tmp_path):
    path = tmp_path / "sub-1_outliers.tsv"
    path.write_text("framewise_displacement_hash-a1b2c3d4\n0\n1\n0\n")
    assert np.isnan(on_all_frames(values(3).astype(float), read_series(path))).all(axis=1).tolist() == [0, 1, 0]


def test_outliers_of_another_recording_are_refused():
    with pytest.raises(DataError, match=r"the series have 3 rows, sub-1_outliers\.tsv 5, of which 4"):
        on_all_frames(values(3).astype(float), outliers([0, 1, 0, 0, 0]))


def test_a_table_without_marks_changes_nothing():
    rows = values(5).astype(float)
    assert on_all_frames(rows, outliers([0, 0, 0], "dvars")) is rows


def test_only_censored_frames_and_lost_parcels_have_holes():
    raw = values(8).astype(float)
    raw[3] = np.nan  # censored
    raw[5, 1] = np.nan  # a hole that no later step could carry
    raw[:, 2] = 0.0  # a parcel without coverage; zero even where all others are n/a
    raw[:, 4] = np.nan
    got = without_holes(raw)
    np.testing.assert_array_equal(got[:, [0, 3, 5]], raw[:, [0, 3, 5]].astype(np.float32))
    assert got.dtype == np.float32
    assert np.isnan(got).all(axis=0).tolist() == [False, True, True, False, True, False]
    assert np.isnan(got).all(axis=1).tolist() == [False, False, False, True, *[False] * 4]
    assert np.isfinite(got[:, [0, 3, 5]][[0, 1, 2, 4, 5, 6, 7]]).all()


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.6))
def test_what_is_left_has_no_hole(seed, share):
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(12, 5))
    raw[rng.random((12, 5)) < share * rng.random()] = np.nan
    raw[:, rng.random(5) < share / 2] = rng.choice([0.0, np.nan])
    got = without_holes(raw)
    lost, censored = np.isnan(got).all(axis=0), np.isnan(got).all(axis=1)
    assert np.isfinite(got[np.ix_(~censored, ~lost)]).all()
    np.testing.assert_array_equal(got[np.ix_(~censored, ~lost)], raw[np.ix_(~censored, ~lost)].astype(np.float32))
    again = without_holes(got.astype(float))
    np.testing.assert_array_equal(again, got)


# open


def opened(data, recipe=RECIPE, tr=2.0, **more):
    return SeriesSource("sub-1_task-rest", data, tr, ATLAS.xyz, recipe, **more)


def test_series_are_windowed_and_scaled_like_any_other():
    data = values()
    data[:, 2] = np.nan
    source = opened(data)
    assert source.windows.tolist() == [[0, 10], [10, 20], [20, 30], [30, 40]]
    assert source.lost.tolist() == [False, False, True, False, False, False]
    np.testing.assert_array_equal(source.frames, np.where(source.lost, 0, data))
    np.testing.assert_array_equal(source.scaled, scale(data, "global_sd"))
    assert source.series.coverage.tolist() == [1, 1, 0, 1, 1, 1]
    assert source.window_onsets[-1].tolist() == [60, 80]
    (fc,) = [load_modality(m, RECIPE, None).compute(source, source.windows) for m in RECIPE.modalities]
    assert fc.shape == (4, R, R)
    assert (fc[:, 2] == 0).all()


def test_no_window_crosses_a_censored_frame():
    data = values()
    data[15] = np.nan
    source = opened(data)
    assert source.cleaned.keep.sum() == N - 1
    assert source.windows.tolist() == [[0, 10], [15, 25], [25, 35]]
    assert source.window_onsets[1].tolist() == [32, 52]  # frame 16
    np.testing.assert_array_equal(source.frames[15:25], data[16:26])
    assert (source.quality.n_censored, source.quality.n_frames_left) == (1, N - 1)


def test_resampling_is_the_recipes():
    recipe = Recipe(windows=Windows(10, 10, short_least=5), target_repetition_time=1.0)
    source = opened(values(), recipe)
    assert source.cut.repetition_time == 1.0
    assert len(source.windows) == 7
    assert source.quality.window_repetition_time == 1.0


def test_short_series_are_refused_or_extended_as_the_recipe_says():
    with pytest.raises(ShortRecordingError, match="holds 8 frames"):
        _ = opened(values(8)).windows
    source = opened(values(8), Recipe(windows=Windows(10, 10, "reflect", 5)))
    assert source.windows.tolist() == [[0, 10]]
    assert "padded" in source.quality.flags


def test_too_many_lost_parcels_are_refused():
    data = values()
    data[:, [1, 4]] = np.nan
    with pytest.raises(CoverageError, match=r"2 of 6 parcels hold no signal \(at most 25%"):
        _ = opened(data).windows
    with pytest.raises(CoverageError, match="6 of 6"):
        _ = opened(np.full((N, R), np.nan, np.float32)).quality


def test_quality_says_what_is_not_known():
    quality = opened(values()).quality
    assert read_quality({"Quality": json.loads(json.dumps(to_json(quality), allow_nan=False))}) == quality
    assert quality.flags == ("motion_unknown", "few_minutes", "imported_series")
    assert (quality.tsnr, quality.header_repetition_time, quality.mean_coverage) == (None, None, 1.0)
    assert quality.placement == "imported"


def test_a_recording_measured_before_keeps_its_quality():
    own = quality(flags=("x",))
    assert opened(values(), quality=own).quality is own


# import


@pytest.fixture
def imported(tmp_path):
    """Write a table of series, with motion and outliers if asked for, and open it."""

    def make(data, names=NAMES, told=NOTHING, motion=None, marked=None, recipe=RECIPE):
        path, motion_file, outliers_file = (tmp_path / f"sub-1_{n}.tsv" for n in ("timeseries", "motion", "outliers"))
        write_array(path, names, data)
        if motion is not None:
            write_table(motion_file, ["framewise_displacement"], [{"framewise_displacement": v} for v in motion])
        if marked is not None:
            write_table(outliers_file, ["framewise_displacement"], [{"framewise_displacement": int(v)} for v in marked])
        recording = Recording(
            "1", None, "rest", None, (), "unknown", None, path, None, motion_file if motion is not None else None,
            2.0, tmp_path,
        )  # fmt: skip
        return import_source(recording, ATLAS, recipe, outliers_file if marked is not None else None, told)

    return make


def test_parcels_come_in_the_order_of_the_atlas(imported):
    data = values(r=R + 1)
    source = imported(data, ["GlobSig", *reversed(NAMES)])
    np.testing.assert_array_equal(source.cleaned.values, data[:, :0:-1])
    np.testing.assert_array_equal(source.xyz, ATLAS.xyz)
    assert (source.quality.columns_matched, source.quality.columns_left_out) == ("name", ("GlobSig",))
    assert source.key == "sub-1_task-rest"


def test_motion_is_taken_from_the_table_beside_it(imported):
    fd = [None, *[0.6] * (N - 1)]
    source = imported(values(), motion=fd)
    assert source.quality.mean_fd == 0.6
    assert "high_motion" in source.quality.flags
    assert not source.quality.frames_removed


@pytest.mark.parametrize(
    ("n_motion", "skipped", "removed"), [(N, None, False), (N + 3, 3.0, False), (N + 3, None, True), (N + 5, 3.0, True)]
)
def test_frames_that_went_missing_raise_a_flag(imported, n_motion, skipped, removed):
    source = imported(values(), motion=[0.1] * n_motion, told=NOTHING | {"n_skipped": skipped})
    assert ("frames_removed" in source.quality.flags) == removed


def test_motion_of_fewer_frames_is_that_of_another_recording(imported):
    with pytest.raises(ConfoundsError, match="39 rows, the series 40 frames"):
        imported(values(), motion=[0.1] * (N - 1))


def test_sidecars_tell_motion_and_scrubbing_where_no_table_does(imported):
    quality = imported(values(), told=NOTHING | {"mean_fd": 0.3, "n_scrubbed": 4.0}).quality
    assert (quality.mean_fd, quality.frames_removed) == (0.3, True)
    assert "motion_unknown" not in quality.flags


def test_frames_with_their_place_told_by_outliers_are_not_missing(imported):
    marked = np.zeros(N, bool)
    marked[[4, 5, 20]] = True
    source = imported(values()[~marked], motion=[0.2] * N, marked=marked, told=NOTHING | {"n_scrubbed": 3.0})
    np.testing.assert_array_equal(source.cleaned.keep, ~marked)
    assert not source.quality.frames_removed
    assert source.quality.n_frames == N


def test_a_recipe_that_requires_confounds_does_not_stop_an_import(imported):
    assert RECIPE.denoising.require_confounds
    assert "motion_unknown" in imported(values()).quality.flags
