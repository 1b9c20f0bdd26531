import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_fmmtc.errors import ShortRecordingError
from bids_fmmtc.recipe import Windows
from bids_fmmtc.signals.windows import cut, plan_windows, resample, scale, stretches

masks = arrays(np.bool_, st.integers(0, 120), elements=st.sampled_from([True, True, True, True, False]))
sizes = st.tuples(st.integers(2, 20), st.integers(1, 25))


def numbered(keep, r=2):
    """Each frame holds its own number; censored ones NaN."""
    values = np.repeat(np.arange(len(keep), dtype=np.float32)[:, None], r, axis=1)
    values[~keep] = np.nan
    return values


# stretches and windows


@given(masks)
def test_stretches_hold_every_kept_frame_once(keep):
    found = stretches(keep)
    frames = [t for a, b in found for t in range(a, b)]
    assert frames == np.flatnonzero(keep).tolist()
    assert all(not keep[b] for _, b in found if b < len(keep))
    assert all(a > 0 and not keep[a - 1] for a, _ in found if a > 0)


@given(masks, sizes)
@settings(max_examples=300, deadline=None)
def test_windows_never_bridge_a_censored_frame(keep, size):
    length, stride = size
    spec = Windows(length, stride, short_least=min(length, 100))
    longest = max((b - a for a, b in stretches(keep)), default=0)
    if longest < length:
        with pytest.raises(ShortRecordingError, match=f"holds {longest} frames .* the recipe needs {length}"):
            cut(numbered(keep), keep, 2.0, spec, None)
        return
    got = cut(numbered(keep), keep, 2.0, spec, None)
    assert np.isfinite(got.values).all()
    assert got.windows.dtype == np.int32
    assert not got.padded
    starts = []
    for start, stop in got.windows:
        numbers = got.values[start:stop, 0]
        assert len(numbers) == length
        np.testing.assert_array_equal(np.diff(numbers), 1)  # uninterrupted on the recording
        starts.append(int(numbers[0]))
    expected = [t for a, b in stretches(keep) for t in range(a, b - length + 1, stride)]
    assert starts == expected  # in order, every stride, from the start of each stretch, none left out


@given(st.lists(st.integers(0, 50), max_size=6), sizes)
def test_planned_windows_lie_inside(lengths, size):
    got = plan_windows(lengths, *size)
    assert got.shape[1] == 2
    assert got.dtype == np.int32
    edges = np.cumsum([0, *lengths])
    for start, stop in got:
        assert any(a <= start < stop <= b for a, b in itertools.pairwise(edges))
        assert stop - start == size[0]


def test_a_recording_of_one_window_gives_one():
    keep = np.ones(200, bool)
    got = cut(numbered(keep), keep, 2.0, Windows(), None)
    np.testing.assert_array_equal(got.windows, [[0, 200]])
    assert got.repetition_time == 2.0


# short recordings


def test_refused_when_short():
    keep = np.ones(199, bool)
    with pytest.raises(ShortRecordingError, match=r"199 frames \(6\.6 min\) of 199, the recipe needs 200"):
        cut(numbered(keep), keep, 2.0, Windows(), None)


def test_nothing_kept():
    for short in ("refuse", "reflect"):
        with pytest.raises(ShortRecordingError, match="holds 0 frames"):
            cut(numbered(np.zeros(30, bool)), np.zeros(30, bool), 2.0, Windows(20, 5, short, 10), None)


@pytest.mark.parametrize("n", [100, 101, 150, 199])
def test_reflection_fills_one_window(n):
    keep = np.ones(n + 20, bool)
    keep[n] = keep[-1] = False  # the longer stretch is the first
    got = cut(numbered(keep), keep, 2.0, Windows(short="reflect"), None)
    np.testing.assert_array_equal(got.windows, [[0, 200]])
    assert got.padded
    frames = [*range(n), *range(n - 2, -1, -1), *range(1, n)][:200]
    np.testing.assert_array_equal(got.values[:, 0], frames)


def test_reflection_needs_the_least():
    keep = np.ones(99, bool)
    with pytest.raises(ShortRecordingError, match="the recipe needs 100"):
        cut(numbered(keep), keep, 2.0, Windows(short="reflect"), None)


def test_reflection_is_for_the_short_only():
    keep = np.ones(450, bool)
    got = cut(numbered(keep), keep, 2.0, Windows(short="reflect"), None)
    np.testing.assert_array_equal(got.windows, [[0, 200], [200, 400]])
    assert not got.padded


@pytest.mark.parametrize(
    ("n", "spec", "change"),
    [
        (150, Windows(), {"short": "reflect"}),
        (60, Windows(), {"short": "reflect", "short_least": 60}),
        (99, Windows(short="reflect"), {"short_least": 99}),
        (30, Windows(40, 40, short_least=100), {"short": "reflect", "short_least": 30}),  # refuse minds no short_least
    ],
)
def test_the_refusal_names_the_ways_out(n, spec, change):
    keep = np.ones(n, bool)
    with pytest.raises(ShortRecordingError) as caught:
        cut(numbered(keep), keep, 2.0, spec, None)
    hint = caught.value.hint
    assert f"windows.length of {n} or less" in hint
    assert ('windows.short = "reflect"' in hint) == ("short" in change)
    assert (f"windows.short_least of {n} or less" in hint) == ("short_least" in change)
    assert cut(numbered(keep), keep, 2.0, replace(spec, **change), None).padded  # and they lead out
    assert not cut(numbered(keep), keep, 2.0, replace(spec, length=n, short_least=2), None).padded


def test_a_few_frames_have_no_way_out():
    keep = np.ones(3, bool)
    with pytest.raises(ShortRecordingError) as caught:
        cut(numbered(keep), keep, 2.0, Windows(), None)
    assert caught.value.hint == "Exclude the recording."


# onsets


@given(masks, sizes, st.sampled_from([0.72, 2.0]))
@settings(max_examples=100, deadline=None)
def test_onsets_are_rows_of_the_recording(keep, size, tr):
    spec = Windows(*size, short_least=2)
    if max((b - a for a, b in stretches(keep)), default=0) < spec.length:
        return
    got = cut(numbered(keep), keep, tr, spec, None)
    assert got.onsets.dtype == np.float64
    np.testing.assert_array_equal(np.rint(got.onsets / tr), got.values[:, 0])
    rows = [set(got.values[a:b, 0].astype(int).tolist()) for a, b in got.windows]
    assert got.n_in_windows == len(set().union(*rows))
    expected = [(min(r) * tr, (max(r) + 1) * tr) for r in rows]
    np.testing.assert_allclose(got.window_onsets, expected, rtol=1e-9)


@pytest.mark.parametrize("target", [1.0, 3.0])
def test_onsets_of_resampled_frames_are_times_of_the_recording(target):
    keep = np.ones(400, bool)
    keep[:5] = keep[[150, 152, 156]] = False  # stretches of 1 and 3 frames carry nothing
    times = np.repeat(2.0 * np.arange(400, dtype=np.float32)[:, None], 2, axis=1)  # each frame holds its own time
    got = cut(times, keep, 2.0, Windows(40, 40), target)
    assert len(got.onsets) == len(got.values)
    inner = np.diff(got.onsets) < 1.01 * target
    assert (~inner).sum() == 1
    if target == 1.0:
        np.testing.assert_allclose(got.onsets, got.values[:, 0], atol=1e-3)
    assert (got.onsets[0], got.window_onsets[0].tolist()) == (10.0, [10.0, 10 + 40 * target])
    assert got.n_in_windows == 40 * len(got.windows)


def test_reflected_frames_keep_the_onset_of_the_frame_they_repeat():
    keep = np.ones(160, bool)
    keep[:3] = False
    got = cut(numbered(keep), keep, 2.0, Windows(short="reflect"), None)
    np.testing.assert_array_equal(got.onsets, 2 * got.values[:, 0])
    assert got.n_in_windows == 157
    assert got.window_onsets.tolist() == [[6.0, 320.0]]


# resampling


def sine(n, tr, hz):
    return (1000 + 10 * np.sin(2 * np.pi * hz * tr * np.arange(n))).astype(np.float32)[:, None]


@pytest.mark.parametrize(("tr", "target"), [(2.0, 0.735), (0.735, 2.0), (2.5, 2.0), (3.0, 0.5), (0.8, 0.9)])
@pytest.mark.parametrize("hz", [0.01, 0.05])
def test_a_slow_sine_survives_resampling(tr, target, hz):
    n = int(600 / tr)
    got = resample(sine(n, tr, hz), tr, target)
    assert got.dtype == np.float32
    assert (len(got) - 1) * target <= (n - 1) * tr < len(got) * target  # never past the last frame
    edge = int(40 / target)
    error = np.abs(got - sine(len(got), target, hz))[edge:-edge]
    assert error.max() < 0.3  # of an amplitude of 10


@given(st.floats(0.4, 3.5), st.floats(0.4, 3.5), st.integers(60, 300))
@settings(max_examples=60, deadline=None)
def test_a_constant_stays_at_any_repetition_time(tr, target, n):
    got = resample(np.full((n, 1), 1234.5, np.float32), tr, target)
    np.testing.assert_allclose(got, 1234.5, rtol=1e-5)


def test_what_lies_above_the_new_nyquist_frequency_is_taken_out():
    got = resample(sine(1200, 0.5, 0.45), 0.5, 2.0)[20:-20]  # would alias to 0.05 Hz
    assert np.abs(got - 1000).max() < 0.3
    kept = resample(sine(1200, 0.5, 0.15), 0.5, 2.0)[20:-20]
    assert np.abs(kept - 1000).max() > 8


def test_lost_parcels_stay_lost_while_resampling():
    values = np.concatenate([sine(300, 2.0, 0.02)] * 3, axis=1)
    values[:, 1] = np.nan
    for target in (1.0, 3.0):
        got = resample(values, 2.0, target)
        assert np.isnan(got[:, 1]).all()
        np.testing.assert_array_equal(got[:, 0], got[:, 2])
        assert np.isfinite(got[:, 0]).all()


def test_stretches_are_resampled_one_by_one():
    keep = np.ones(400, bool)
    keep[[150, 152, 156]] = False  # leaves stretches of 1 and 3 frames, too short for a spline
    values = np.full((400, 1), 5, np.float32)
    values[157:] = 50
    values[~keep] = np.nan
    got = cut(values, keep, 2.0, Windows(50, 50), 1.0)
    assert got.repetition_time == 1.0
    first = 149 * 2 + 1
    assert len(got.values) == first + 242 * 2 + 1
    np.testing.assert_allclose(got.values[:first], 5, rtol=1e-5)
    np.testing.assert_allclose(got.values[first:], 50, rtol=1e-5)
    starts = [*range(0, first - 49, 50), *(first + s for s in range(0, 485 - 49, 50))]
    assert got.windows[:, 0].tolist() == starts


def test_a_target_within_a_thousandth_changes_nothing():
    keep = np.ones(60, bool)
    for target, same in ((2.001, True), (2.0, True), (None, True), (2.01, False)):
        got = cut(numbered(keep), keep, 2.0, Windows(20, 20), target)
        assert (got.repetition_time == 2.0) == same
        assert np.array_equal(got.values, numbered(keep)) == same


def test_windows_count_frames_of_the_target():
    keep = np.ones(150, bool)
    with pytest.raises(ShortRecordingError):
        cut(numbered(keep), keep, 2.0, Windows(200, 200), None)
    assert len(cut(numbered(keep), keep, 2.0, Windows(200, 200), 1.0).windows) == 1


# scaling

finite = arrays(np.float32, st.tuples(st.integers(2, 40), st.integers(1, 6)), elements=st.floats(-1e4, 1e4, width=32))


@given(finite, st.integers(0, 5))
@settings(deadline=None)
def test_global_sd_gives_one_sd_and_no_temporal_mean(values, lost):
    values = values + np.random.default_rng(0).normal(0, 10, values.shape).astype(np.float32)
    values[:, lost:] = np.nan
    got = scale(values, "global_sd")
    assert got.dtype == np.float32
    assert (got[:, lost:] == 0).all()
    if lost:
        kept = got[:, :lost].astype(float)
        np.testing.assert_allclose(kept.mean(axis=0), 0, atol=1e-5)
        assert np.sqrt((kept**2).mean()) == pytest.approx(1, rel=1e-5)
        # One factor for all parcels: their relative size is information.
        plain = values[:, :lost].astype(float)
        np.testing.assert_allclose(
            kept.std(axis=0) * plain.std(axis=0)[0], kept.std(axis=0)[0] * plain.std(axis=0), rtol=1e-3
        )


def test_median_iqr_scales_each_parcel():
    values = np.random.default_rng(0).normal([1000, 20], [50, 1], (101, 2)).astype(np.float32)
    got = scale(values, "median_iqr")
    np.testing.assert_allclose(np.median(got, axis=0), 0, atol=1e-5)
    low, high = np.percentile(got, [25, 75], axis=0)
    np.testing.assert_allclose(high - low, 1, rtol=1e-4)


def test_none_leaves_values_as_they_are():
    values = np.random.default_rng(0).normal(1000, 5, (30, 3)).astype(np.float32)
    values[:, 1] = np.nan
    got = scale(values, "none")
    np.testing.assert_array_equal(got[:, [0, 2]], values[:, [0, 2]])
    assert (got[:, 1] == 0).all()


@pytest.mark.parametrize("kind", ["global_sd", "median_iqr", "none"])
@pytest.mark.parametrize("values", [np.full((17, 3), 1000.1), np.zeros((5, 2)), np.full((9, 4), np.nan)])
def test_constant_or_lost_series_stay_finite(kind, values):
    got = scale(values.astype(np.float32), kind)
    assert np.isfinite(got).all()
    if kind != "none":
        assert (got == 0).all()


def test_one_constant_parcel_among_others():
    values = np.random.default_rng(0).normal(100, 5, (50, 2)).astype(np.float32)
    values[:, 0] = 7
    for kind in ("global_sd", "median_iqr"):
        got = scale(values, kind)
        assert (got[:, 0] == 0).all()
        assert got[:, 1].std() > 0.5
