import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bids_fmmtc.report.analysis.curves import GRID, calibration_bins, confusion, draws, precision_recall, roc, wilson


def cohort(n=60, seed=0, effect=1.0, ties=False):
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 2).astype(float)
    value = 1 / (1 + np.exp(-(rng.normal(size=n) + effect * (y - 0.5))))
    return (np.round(value, 1) if ties else value), y, [f"s{i}" for i in range(n)]


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(ties):
    value, y, people = cohort(ties=ties)
    curve = roc(value, y, people)
    assert curve.area == pytest.approx(roc_auc_score(y, value))
    fpr, tpr, _ = roc_curve(y, value, drop_intermediate=False)
    assert np.allclose(curve.x, fpr)
    assert np.allclose(curve.y, tpr)
    assert precision_recall(value, y, people).area == pytest.approx(average_precision_score(y, value))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(10, 60), st.floats(-2, 3))
def test_bands_are_ordered_and_within_0_and_1(seed, n, effect):
    value, y, people = cohort(n, seed, effect)
    for curve in (roc(value, y, people), precision_recall(value, y, people)):
        assert len(curve.low) == len(curve.high) == len(GRID)
        assert (curve.low <= curve.high + 1e-12).all()
        assert (curve.low >= -1e-12).all()
        assert (curve.high <= 1 + 1e-12).all()


def test_the_band_covers_the_true_curve_of_a_fixed_model_about_as_often_as_it_says():
    from scipy.stats import norm

    truth = norm.cdf(norm.ppf(0.3) + 1.0)  # two normals one standard deviation apart
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = np.repeat([0.0, 1.0], 60)
        curve = roc(rng.normal(size=120) + y, y, [str(i) for i in range(120)])
        held += curve.low[30] <= truth <= curve.high[30]
    assert held >= 50


def test_people_are_drawn_within_their_class_and_with_all_their_sessions():
    y = np.array([1.0, 1, 0, 0, 0, 1])
    drawn = draws(y, ["a", "a", "b", "c", "d", "e"], 500, 1)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, [0, 5]].sum(axis=1) == 2).all()
    assert (drawn[:, [2, 3, 4]].sum(axis=1) == 3).all()
    crossed = draws(y, ["a", "b", "a", "b", "c", "c"], 500, 1)
    assert (crossed[:, [0, 1, 4]].sum(axis=1) == 3).all()
    assert (draws(y, list("abcdef"), 5, 1) == draws(y, list("abcdef"), 5, 1)).all()


def test_one_class_has_no_curve():
    for make in (roc, precision_recall):
        with pytest.raises(ValueError, match="two classes"):
            make(np.array([0.1, 0.9]), np.ones(2), ["a", "b"])


def test_bins_hold_everybody_once_and_few_people_have_few():
    value, y, _ = cohort(200)
    bins = calibration_bins(value, y)
    assert len(bins) == 6
    assert sum(b.n for b in bins) == 200
    assert sum(b.k for b in bins) == 100
    assert len(calibration_bins(value[:15], y[:15])) == 2
    assert [b.n for b in calibration_bins(np.full(30, 0.5), y[:30])] == [30]
    assert all(b.low <= b.k / b.n <= b.high for b in bins)


def test_wilson_and_confusion():
    from statsmodels.stats.proportion import proportion_confint

    assert wilson(7, 10) == pytest.approx(proportion_confint(7, 10, method="wilson"))
    assert wilson(0, 8)[0] == 0
    table = confusion(np.array([1, 0.25, 0.5, 0]), np.array([1.0, 1, 0, 0]))
    assert table.tolist() == [[1.25, 0.75], [0.5, 1.5]]
