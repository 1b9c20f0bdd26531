"""Cleaning arrays: nilearn's steps, and nothing of what is left out."""

import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.signal import clean

from bids_fmmtc.errors import ConfoundsError, ShortRecordingError
from bids_fmmtc.signals.clean import SPLINE_GAP, Filters, clean_kept, filled

TR = 2.0
LIMITS = [(None, None), (0.01, None), (None, 0.1), (0.008, 0.1)]
every = pytest.mark.parametrize("limits", LIMITS, ids=str)
detrended = pytest.mark.parametrize("detrend", [True, False])


def data(n, seed, columns=4, regressors=3):
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=(n, columns + regressors)).cumsum(axis=0)
    values = 1000 + 0.3 * walk + rng.normal(0, 2, walk.shape)
    return values[:, :columns], values[:, columns:] * 1e-3


def nilearn(values, design, detrend, limits, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clean(
            values, detrend=detrend, standardize=None, confounds=design, high_pass=limits[0], low_pass=limits[1],
            t_r=TR, **more,
        )  # fmt: skip


def close(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-9 * np.abs(expected).max()


# as nilearn, where nilearn is right


@every
@detrended
@pytest.mark.parametrize("regress", [True, False])
@given(n=st.integers(40, 150), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_with_nothing_left_out_it_is_nilearns_clean(limits, detrend, regress, n, seed):
    values, design = data(n, seed)
    design = design if regress else None
    got = clean_kept(values, design, np.ones(n, bool), Filters(detrend, *limits, TR))
    close(got, nilearn(values, design, detrend, limits))


@detrended
@given(seed=st.integers(0, 99), keep=st.lists(st.booleans(), min_size=40, max_size=80).filter(lambda k: sum(k) > 12))
@settings(deadline=None, max_examples=20)
def test_without_a_filter_it_is_nilearns_censoring(detrend, seed, keep):
    keep = np.array(keep)
    values, design = data(len(keep), seed)
    got = clean_kept(values, design, keep, Filters(detrend, None, None, TR))
    close(got, nilearn(values, design, detrend, (None, None), sample_mask=np.flatnonzero(keep)))


@pytest.mark.parametrize("limits", LIMITS[1:], ids=str)
@detrended
@given(seed=st.integers(0, 99), gaps=st.lists(st.tuples(st.integers(1, 50), st.integers(1, SPLINE_GAP)), max_size=4))
@settings(deadline=None, max_examples=20)
def test_short_gaps_are_filled_as_nilearn_fills_those_it_fills(limits, detrend, seed, gaps):
    """Nilearn replaces frame i if frame T-1-i is kept: so with gaps in the first half only it does what it says."""
    keep = np.ones(120, bool)
    for start, length in gaps:
        keep[start : start + length] = False
    left = np.flatnonzero(np.diff(np.concatenate([[True], keep, [True]]).astype(int)))
    if len(left) and max(np.diff(left)[::2]) > SPLINE_GAP:  # gaps that ran together
        return
    values, design = data(120, seed)
    got = clean_kept(values, design, keep, Filters(detrend, *limits, TR))
    close(got, nilearn(values, design, detrend, limits, sample_mask=np.flatnonzero(keep)))


@every
@pytest.mark.parametrize(("first", "last"), [(1, 0), (4, 0), (0, 3), (8, 2)])
def test_leading_and_trailing_frames_are_as_if_never_recorded(limits, first, last):
    values, design = data(100, 5)
    keep = np.ones(100, bool)
    keep[:first] = keep[100 - last :] = False
    filters = Filters(True, *limits, TR)
    got = clean_kept(values, design, keep, filters)
    part = slice(first, 100 - last)
    np.testing.assert_array_equal(got, clean_kept(values[part], design[part], keep[part], filters))


# what is left out


def patterns():
    """Frames left out: anywhere, leading, trailing, mirrored about the middle, in runs long and short."""
    n = 90
    some = st.sets(st.integers(0, n - 1), max_size=12)
    mirrored = some.map(lambda s: s | {n - 1 - i for i in s})
    runs = st.lists(st.tuples(st.integers(0, n - 1), st.integers(1, 15)), max_size=2).map(
        lambda found: {i for a, b in found for i in range(a, min(a + b, n))}
    )
    edges = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda e: {*range(e[0]), *range(n - e[1], n)})
    return st.tuples(st.one_of(some, mirrored), runs, edges).map(
        lambda sets: np.isin(np.arange(n), list(set().union(*sets)))
    )


@every
@detrended
@pytest.mark.parametrize("regress", [True, False])
@given(
    left_out=patterns().filter(lambda out: out.any() and (~out).sum() > 40),
    seed=st.integers(0, 9),
    junk=st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e300, -1e9, 3.7]), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=25)
def test_no_change_of_what_is_left_out_changes_a_bit_of_what_is_kept(limits, detrend, regress, left_out, seed, junk):
    values, design = data(90, seed)
    run = partial(clean_kept, keep=~left_out, filters=Filters(detrend, *limits, TR))
    before = run(values, design if regress else None)
    for array in (values, design):
        array[left_out] = np.resize(junk, (left_out.sum(), array.shape[1]))
    np.testing.assert_array_equal(run(values, design if regress else None), before)
    assert np.isfinite(before).all()


def test_nilearn_itself_lets_mirrored_frames_through():
    """Why its ``sample_mask`` is not used. Should this fail with a newer nilearn, `clean_kept` may become shorter."""
    values, _ = data(100, 1)
    spiked = values.copy()
    spiked[[30, 69]] += 200
    keep = np.setdiff1d(np.arange(100), [30, 69])
    one, other = (nilearn(v, None, True, (0.008, 0.1), sample_mask=keep) for v in (values, spiked))
    assert np.abs(one - other).max() > one.std()


# gaps


def test_gaps_are_filled_from_kept_frames():
    from scipy.interpolate import CubicSpline

    kept = np.array([3, 4, 5, 8, 9, 9 + SPLINE_GAP + 1, 40, 41, 42])
    measured = np.random.default_rng(0).normal(size=(len(kept), 3))
    whole = filled(measured, kept)
    assert whole.shape == (40, 3)
    np.testing.assert_array_equal(whole[kept - 3], measured)
    spline = CubicSpline(kept, measured)
    np.testing.assert_allclose(whole[[3, 4]], spline([6, 7]))
    np.testing.assert_allclose(whole[7 : 7 + SPLINE_GAP], spline(np.arange(10, 10 + SPLINE_GAP)), rtol=1e-9)
    long = np.arange(kept[5] + 1, 40)
    assert len(long) > SPLINE_GAP
    for column in range(3):
        np.testing.assert_allclose(whole[long - 3, column], np.interp(long, [kept[5], 40], measured[5:7, column]))


@given(n=st.integers(2, 30), seed=st.integers(0, 9))
def test_without_gaps_there_is_nothing_to_fill(n, seed):
    measured = np.random.default_rng(seed).normal(size=(n, 2))
    assert filled(measured, np.arange(5, 5 + n)) is measured


@pytest.mark.parametrize("length", [8, 20, 60])
def test_a_long_gap_leaves_correlations_alone(length):
    """Against the same filter on what was really measured: a spline across 20 frames is off by 0.4 and more."""
    worst = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 8))
        values = np.zeros_like(noise)
        for t in range(1, 300):
            values[t] = 0.6 * values[t - 1] + noise[t]
        keep = np.ones(300, bool)
        keep[120 : 120 + length] = False
        filters = Filters(True, 0.008, 0.1, TR)
        got, truth = (
            clean_kept(values, None, keep, filters),
            clean_kept(values, None, np.ones(300, bool), filters)[keep],
        )
        worst.append(np.abs(np.corrcoef(got.T) - np.corrcoef(truth.T)).max())
    assert np.median(worst) < 0.15


# too little


@pytest.mark.parametrize("limits", LIMITS[1:], ids=str)
def test_the_filters_padding_needs_frames(limits):
    filters = Filters(True, *limits, TR)
    least = filters.least_frames
    values, _ = data(least, 0)
    assert clean_kept(values, None, np.ones(least, bool), filters).shape == values.shape
    nilearn(values, None, True, limits)
    with pytest.raises(ValueError, match="padlen"):  # scipy's own limit is this very one
        nilearn(values[1:], None, True, limits)
    keep = np.ones(least + 9, bool)
    keep[:5] = keep[-5:] = False
    with pytest.raises(ShortRecordingError, match=f"{least - 1} frames lie between .* needs {least}"):
        clean_kept(data(least + 9, 0)[0], None, keep, filters)


@pytest.mark.parametrize(
    ("n", "regressors", "limits", "enough"),
    [
        (30, 26, (None, None), True),
        (30, 27, (None, None), False),
        (30, 60, (None, None), False),
        (200, 60, (0.008, 0.1), True),
        (200, 72, (0.008, 0.1), False),  # the band holds 74 of the frames' 200 degrees of freedom
        (100, 80, (0.01, None), True),
    ],
)
def test_regressors_and_filter_must_leave_something(n, regressors, limits, enough):
    rng = np.random.default_rng(0)
    values, design = rng.normal(size=(n, 3)), rng.normal(size=(n, regressors))
    run = partial(clean_kept, values, design, np.ones(n, bool), Filters(True, *limits, TR))
    if enough:
        assert run().std() > 0.01
    else:
        with pytest.raises(ShortRecordingError, match=f"{regressors} regressors.* leave nothing of {n} frames"):
            run()


def test_regressors_that_repeat_each_other_count_once():
    values, design = data(40, 0)
    many = np.concatenate([design] * 14, axis=1)
    close(
        clean_kept(values, many, np.ones(40, bool), Filters(True, None, None, TR)),
        clean_kept(values, design, np.ones(40, bool), Filters(True, None, None, TR)),
    )


def test_a_design_without_columns_is_none():
    values, _ = data(40, 0)
    filters = Filters(True, None, 0.1, TR)
    np.testing.assert_array_equal(
        clean_kept(values, np.empty((40, 0)), np.ones(40, bool), filters),
        clean_kept(values, None, np.ones(40, bool), filters),
    )


def test_what_nilearn_refuses_is_a_confounds_error():
    with pytest.raises(ConfoundsError, match="cleaning failed"):
        clean_kept(data(60, 0)[0], None, np.ones(60, bool), Filters(True, 0.1, 0.05, TR))
