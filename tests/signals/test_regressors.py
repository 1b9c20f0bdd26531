"""Which frames and regressors a recipe takes, before any image is read."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import ConfoundsError, ShortRecordingError
from bids_fmmtc.recipe import Denoising
from bids_fmmtc.signals.confounds import Confounds, read_confounds
from bids_fmmtc.signals.regressors import choose, is_cosine

PATH = Path("sub-1_desc-confounds_timeseries.tsv")


@pytest.fixture(scope="module")
def numbers():
    """Names and values (40, C) of a table in which nothing moves."""
    rng = np.random.default_rng(3)
    parts = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"] + ["csf", "white_matter", "global_signal"]
    powers = [f"{part}{more}" for part in parts for more in ("", "_derivative1", "_power2", "_derivative1_power2")]
    names = (*powers, "cosine00", "framewise_displacement", "std_dvars")
    values = rng.normal(size=(40, len(names)))
    values[:, -2:] = 0.1
    values[0, [c for c, n in enumerate(names) if "derivative" in n]] = np.nan
    return names, values


def steady(n, **more):
    """Columns that scrubbing finds nothing in."""
    return {"framewise_displacement": np.full(n, 0.1), "std_dvars": np.ones(n)} | more


# slow drift


@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "ica_aroma"])
def test_a_strategy_that_finds_no_cosines_is_refused_with_a_way_out(table, strategy):
    confounds = read_confounds(table(without=["cosine00"], columns=steady(40)), 40)
    with pytest.raises(
        ConfoundsError, match=f"no cosine columns, so that '{strategy}' would take out no slow drift"
    ) as e:
        choose(confounds, Denoising(strategy), 40)
    assert "high_pass" in e.value.hint
    chosen = choose(confounds, Denoising(strategy, high_pass=0.01), 40)  # the way out
    assert chosen.regressors
    assert not any(map(is_cosine, chosen.regressors))


def test_a_filter_or_cosines_never_both(table):
    confounds = read_confounds(table(), 40)
    assert any(map(is_cosine, choose(confounds, Denoising("simple"), 40).regressors))
    assert not any(map(is_cosine, choose(confounds, Denoising("simple", high_pass=0.01), 40).regressors))


def test_without_a_promise_no_cosine_is_needed(table):
    confounds = read_confounds(table(without=["cosine00"]), 40)
    assert choose(confounds, Denoising(global_signal="basic"), 40).regressors == ("global_signal",)


def test_a_refusal_lists_what_is_missing_in_one_order(table):
    """The reason is stored: two runs must give the same bytes."""
    lacking = [f"{kind}_{axis}_power2" for kind in ("trans", "rot") for axis in "xyz"]
    confounds = read_confounds(table(without=lacking, columns=steady(40)), 40)
    with pytest.raises(ConfoundsError, match=f"does not serve 'simple'.*{', '.join(repr(n) for n in sorted(lacking))}"):
        choose(confounds, Denoising("simple"), 40)


# what cannot be judged, or has no value


@pytest.mark.parametrize("name", ["framewise_displacement", "std_dvars"])
def test_scrubbing_needs_its_measure_in_every_frame_but_the_first(table, name):
    column = np.full(40, 0.1)
    column[0] = np.nan
    path = table(columns=steady(40, **{name: column}))
    assert choose(read_confounds(path, 40), Denoising("scrubbing"), 40).keep.all()
    column[17] = np.nan
    path = table(columns=steady(40, **{name: column}))
    with pytest.raises(ConfoundsError, match=f"holds no {name} for 1 of 40 frames .* frame 17,"):
        choose(read_confounds(path, 40), Denoising("scrubbing"), 40)
    assert choose(read_confounds(path, 40), Denoising("simple"), 40).keep.all()


def test_a_missing_regressor_in_a_kept_frame_is_named(table):
    column = np.linspace(0, 1, 40)
    column[12] = np.inf
    confounds = read_confounds(table(columns={"csf": column}), 40)
    with pytest.raises(ConfoundsError, match="csf has no finite value in frame 12 "):
        choose(confounds, Denoising("simple"), 40)
    moved = np.full(40, 0.1)
    moved[12] = 2.0
    confounds = read_confounds(table(columns=steady(40, csf=column, framewise_displacement=moved)), 40)
    assert not choose(confounds, Denoising("scrubbing"), 40).keep[12]


def test_a_derivative_begins_as_the_next_frame_that_is_kept(table):
    moved, column = np.full(40, 0.1), np.linspace(3, 4, 40)
    moved[1], column[0] = 2.0, np.nan
    column[1] = 1e6  # of a frame that is left out; nilearn would begin with it
    columns = steady(40, csf=column, framewise_displacement=moved)
    chosen = choose(read_confounds(table(columns=columns), 40), Denoising("scrubbing", least_segment=1), 40)
    assert chosen.keep.tolist() == [True, False] + [True] * 38
    csf = chosen.design[:, chosen.regressors.index("csf")]
    assert csf[0] == csf[2]
    assert np.isnan(csf[1])
    assert csf[chosen.keep].mean() == pytest.approx(0, abs=1e-12)


def test_frames_that_moved_stay_out_where_those_that_are_not_steady_stay_in(table):
    moved = np.full(40, 0.1)
    moved[1] = 2.0
    columns = steady(40, framewise_displacement=moved, non_steady_state_outlier00=np.eye(40, dtype=int)[2])
    confounds = read_confounds(table(columns=columns), 40)
    for drop, left_out in ((True, [0, 1, 2]), (False, [1])):
        spec = Denoising("scrubbing", drop_non_steady_state=drop, least_segment=1)
        assert np.flatnonzero(~choose(confounds, spec, 40).keep).tolist() == left_out


@given(left_out=st.sets(st.integers(1, 39), min_size=1, max_size=12), value=st.sampled_from([np.nan, np.inf, 0.0, 1e9]))
@settings(deadline=None, max_examples=25)
def test_no_regressor_of_a_frame_that_is_left_out_counts(numbers, left_out, value):
    names, values = numbers
    before = values.copy()
    fd = names.index("framewise_displacement")
    before[list(left_out), fd] = 2.0
    after = before.copy()
    others = [c for c, n in enumerate(names) if n not in ("framewise_displacement", "std_dvars")]
    after[np.ix_(list(left_out), others)] = value
    spec = Denoising("scrubbing", "full", least_segment=1)
    one, other = (choose(Confounds(PATH, names, v), spec, 40) for v in (before, after))
    assert one.regressors == other.regressors
    np.testing.assert_array_equal(one.keep, other.keep)
    np.testing.assert_array_equal(one.design, other.design)
    assert np.isfinite(one.design[one.keep]).all()
    assert np.isnan(one.design[~one.keep]).all()


def test_too_few_frames_left(table):
    confounds = read_confounds(table(columns=steady(40, framewise_displacement=np.full(40, 3.0))), 40)
    with pytest.raises(ShortRecordingError, match="0 of 40 frames are left"):
        choose(confounds, Denoising("scrubbing"), 40)


# compcor's sidecar


@pytest.mark.parametrize("content", ["{", "[" * 5000 + "]" * 5000, "[]"])
def test_a_sidecar_that_cannot_be_read_is_named_where_it_is_needed(table, content):
    path = table(json=content)
    confounds = read_confounds(path, 40)
    with pytest.raises(ConfoundsError, match=path.with_suffix(".json").name):
        choose(confounds, Denoising("compcor"), 40)
    assert choose(confounds, Denoising("simple"), 40).regressors  # which asks nothing of it
