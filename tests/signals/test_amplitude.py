"""Two numbers a parcel that need no encoder."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.errors import ShortRecordingError
from bids_fmmtc.signals.amplitude import amplitude


def series(seed=0, t=60, r=5):
    return np.random.default_rng(seed).standard_normal((t, r)).cumsum(axis=0).astype(np.float32)


def naive(x, keep):
    """Log-variance less its mean and lag-1 autocorrelation, frame by frame."""
    kept = [x[t] for t in range(len(x)) if keep[t]]
    mean = sum(kept) / len(kept)
    variance = sum((v - mean) ** 2 for v in kept) / len(kept)
    pairs = [(x[t] - mean) * (x[t + 1] - mean) for t in range(len(x) - 1) if keep[t] and keep[t + 1]]
    return np.log(variance) - np.log(variance).mean(), sum(pairs) / len(pairs) / variance


@given(st.integers(0, 99), st.lists(st.booleans(), min_size=60, max_size=60))
def test_it_is_the_loop_over_kept_neighbours_and_nothing_left_out_moves_it(seed, pattern):
    x, keep = series(seed).astype(np.float64), np.array(pattern)
    keep[:3] = True
    found = amplitude(x, keep)
    for one, other in zip(found, naive(x, keep), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for instead in (np.nan, 1e9):
        moved = amplitude(np.where(keep[:, None], x, instead), keep)
        for one, other in zip(found, moved, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_gain_and_a_level_drop_out_and_slowness_is_seen():
    x, keep = series(), np.ones(60, bool)
    for one, other in zip(amplitude(x, keep), amplitude(40 * x + 1000, keep), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    alternating = np.random.default_rng(1).standard_normal((60, 5)) * np.where(np.arange(60) % 2, -1, 1)[:, None]
    assert amplitude(x, keep).autocorrelation.min() > 0.7
    assert abs(amplitude(alternating, keep).autocorrelation).max() < 0.5


def test_a_lost_parcel_tells_nothing():
    x, keep = series(), np.ones(60, bool)
    x[:, 2], x[:, 4] = np.nan, 3.0
    found = amplitude(x, keep)
    assert (found.log_variance[[2, 4]] == 0).all()
    np.testing.assert_allclose(found.autocorrelation[[2, 4]], found.autocorrelation[[0, 1, 3]].mean(), rtol=1e-6)
    for part in amplitude(np.full((60, 3), np.nan, np.float32), keep):
        assert (part == 0).all()


def test_frames_without_a_neighbour_are_too_few():
    with pytest.raises(ShortRecordingError, match="holds 1 frames, autocorrelation needs 2"):
        amplitude(series(), np.arange(60) % 2 == 0)
