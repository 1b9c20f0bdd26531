import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning import penalised
from bids_fmmtc.learning.penalised import logistic, one_thread, ridge

PENALTIES = (100.0, 1.0, 0.1, 0.01, 0.001)
SIZES = st.integers(4, 40)
WIDTHS = st.sampled_from([1, 3, 20, 200])
SEEDS = st.integers(0, 2**32 - 1)


def problem(seed, n, width, scale=1.0):
    """Features (n, width), not centred, and outcomes of any balance, both classes present."""
    rng = np.random.default_rng(seed)
    x = scale * (rng.standard_normal((n, width)) + rng.standard_normal(width)) / np.sqrt(width)
    y = (rng.random(n) < rng.uniform(0.1, 0.9)).astype(float)
    y[:2] = 0, 1
    return x, y


def stationarity(x, y, dual, intercept, penalty):
    """Largest entry of the gradient of the objective by the weights of the features and the intercept."""
    kernel = x @ x.T
    weights = np.where(y == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    slope = weights * (y - expit(kernel @ dual + intercept)) / len(y)
    return max(np.abs(x.T @ slope - penalty * (x.T @ dual)).max(), abs(slope.sum()))


@settings(deadline=None, max_examples=60)
@given(SEEDS, SIZES, WIDTHS, st.sampled_from([0.1, 1, 30]))
def test_logistic_ends_where_the_gradient_is_zero(seed, n, width, scale):
    x, y = problem(seed, n, width, scale)
    duals, intercepts = logistic(x @ x.T, y, PENALTIES)
    np.testing.assert_allclose(duals.sum(axis=1), 0, atol=1e-9 * np.abs(duals).max())
    for dual, intercept, penalty in zip(duals, intercepts, PENALTIES, strict=True):
        assert stationarity(x, y, dual, intercept, penalty) < 1e-10 * (1 + scale**2)


@settings(deadline=None, max_examples=15)
@given(SEEDS, SIZES, WIDTHS)
def test_logistic_is_scikit_learns_of_the_features(seed, n, width):
    from sklearn.linear_model import LogisticRegression

    x, y = problem(seed, n, width)
    duals, intercepts = logistic(x @ x.T, y, PENALTIES)
    for dual, intercept, penalty in zip(duals, intercepts, PENALTIES, strict=True):
        model = LogisticRegression(
            C=1 / (n * penalty), class_weight="balanced", solver="newton-cholesky", tol=1e-12, max_iter=1000
        ).fit(x, y)
        np.testing.assert_allclose(x @ x.T @ dual + intercept, model.decision_function(x), atol=1e-6)
        np.testing.assert_allclose(dual @ x, model.coef_[0], atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(SEEDS, SIZES, WIDTHS, st.floats(-1e6, 1e6))
def test_ridge_is_scikit_learns_of_the_features(seed, n, width, offset):
    from sklearn.linear_model import Ridge

    x, y = problem(seed, n, width)
    y = y + np.random.default_rng(seed).standard_normal(n)
    duals, intercepts = ridge(x @ x.T, y + offset, PENALTIES)
    for dual, intercept, penalty in zip(duals, intercepts, PENALTIES, strict=True):
        expected = Ridge(alpha=n * penalty, solver="svd").fit(x, y).predict(x)
        np.testing.assert_allclose(x @ x.T @ dual + intercept - offset, expected, atol=1e-8)


def test_perfectly_separated_people_converge_without_a_warm_start():
    x, y = problem(0, 30, 300, scale=100)
    x[:, 0] += 50 * y
    cold = [logistic(x @ x.T, y, [p]) for p in PENALTIES]
    duals, intercepts = logistic(x @ x.T, y, PENALTIES)
    np.testing.assert_allclose(np.concatenate([d for d, _ in cold]), duals, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.concatenate([b for _, b in cold]), intercepts, rtol=1e-6)
    assert ((x @ x.T @ duals[-1] + intercepts[-1] > 0) == (y == 1)).all()


def test_a_row_far_outside_does_not_upset_newtons_method(monkeypatch):
    far = [[-2.1, 5.1], [-0.8, 0.2], [281.9, -135], [-1.9, 0.6], [-6.8, 5.5], [7.5, -4.8]]  # full steps diverge
    x, y = np.array(far), np.array([0.0, 1, 0, 1, 1, 1])
    duals, intercepts = logistic(x @ x.T, y, [0.001])
    assert stationarity(x, y, duals[0], intercepts[0], 0.001) < 1e-12
    monkeypatch.setattr(penalised, "MOST_STEPS", 5)
    with pytest.raises(DataError, match=r"did not converge in 5 steps at a penalty of 0\.001"):
        logistic(x @ x.T, y, [0.001])


@pytest.mark.parametrize("seed", range(5))
def test_one_row_far_outside_and_a_penalty_of_next_to_nothing_take_tens_of_steps(seed, monkeypatch):
    """Sure steps of 1.5 would need more than a thousand: the far row's log-odds is about two thousand."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((46, 1))
    y = (x[:, 0] > np.median(x)).astype(float)
    x[0], y[0] = 1e3, 1
    x -= x.mean(axis=0)
    x /= np.sqrt(np.mean((x**2).sum(axis=1)))
    monkeypatch.setattr(penalised, "MOST_STEPS", 60)
    duals, intercepts = logistic(x @ x.T, y, [1e-6])
    assert np.abs(x @ x.T @ duals[0] + intercepts[0]).max() > 1000
    assert stationarity(x, y, duals[0], intercepts[0], 1e-6) < 1e-9


@settings(deadline=None, max_examples=20)
@given(SEEDS, SIZES, WIDTHS)
def test_exchanging_the_classes_negates_the_scores(seed, n, width):
    x, y = problem(seed, n, width)
    one, two = logistic(x @ x.T, y, PENALTIES), logistic(x @ x.T, 1 - y, PENALTIES)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, -b, rtol=1e-9, atol=1e-11)


def test_both_classes_weigh_the_same_however_rare_one_is():
    y = np.array([1.0] + [0.0] * 9)
    assert logistic(np.zeros((10, 10)), y, [0.1])[1] == pytest.approx([0], abs=1e-12)
    assert ridge(np.zeros((10, 10)), y, [0.1])[1] == pytest.approx([0.1])


def test_what_are_no_inner_products_is_refused():
    with pytest.raises(DataError, match="not positive definite"):
        logistic(-1e3 * np.eye(4), np.array([0.0, 1, 0, 1]), [0.1])
    with pytest.raises(DataError, match="not positive definite"):
        ridge(-1e3 * np.eye(4), np.arange(4.0), [0.1])


def test_one_thread_and_then_as_before():
    from threadpoolctl import threadpool_info

    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_thread():
        assert set(threads()) == {1}
    assert threads() == before
