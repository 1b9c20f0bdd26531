"""Grey levels of a carpet."""

import numpy as np
import pytest

from bids_fmmtc.signals.carpet import MIDDLE, SPAN_SD, grey_levels


def test_levels_are_standard_deviations_about_the_trend():
    rng = np.random.default_rng(0)
    time = np.arange(300.0)
    noise = rng.standard_normal((5, 300))
    values = (1000 + 3 * time + noise * np.array([1, 5, 10, 20, 50])[:, None]).astype(np.float32)
    trend = np.stack([np.polyval(np.polyfit(time, v, 1), time) for v in values.astype(float)])
    z = (values - trend) / (values - trend).std(axis=1, keepdims=True)
    expected = np.clip(MIDDLE + z * 127 / SPAN_SD, 0, 255)
    assert np.abs(grey_levels(values).astype(float) - expected).max() <= 1


@pytest.mark.parametrize("value", [800.0, -1e30, np.nan, np.inf])
def test_frames_that_are_left_out_do_not_set_the_scale(value):
    values = np.random.default_rng(1).standard_normal((3, 100)).astype(np.float32) + 500
    used = np.ones(100, bool)
    used[[0, 1, 2, 3, 57, 99]] = False
    changed = values.copy()
    changed[:, ~used] = value
    np.testing.assert_array_equal(grey_levels(changed, used)[:, used], grey_levels(values, used)[:, used])
    if np.isfinite(value):
        assert (grey_levels(changed, used)[:, ~used] == (255 if value > 0 else 0)).all()
    else:
        assert grey_levels(changed, used)[:, used].std() > 10
    np.testing.assert_array_equal(grey_levels(values, np.arange(100) >= 4)[:, 4:], grey_levels(values[:, 4:]))


@pytest.mark.parametrize("value", [0.0, 7.3, -1e6, np.nan, np.inf])
def test_a_voxel_without_signal_is_the_middle(value):
    values = np.full((2, 50), value, np.float32)
    values[1] = np.random.default_rng(2).standard_normal(50)
    levels = grey_levels(values)
    assert (levels[0] == MIDDLE).all()
    assert levels[1].std() > 10


def test_fewer_frames_than_a_trend_needs():
    assert grey_levels(np.ones((2, 2), np.float32)).shape == (2, 2)
    assert grey_levels(np.array([[1, 2, 3]], np.float32), np.arange(3) > 1).dtype == np.uint8
