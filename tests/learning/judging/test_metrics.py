import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from bids_fmmtc.learning.judging import metrics
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, REGRESSION

QUICK = settings(max_examples=40, deadline=None)


def judgements(value, label=None, fold=None):
    value = np.atleast_2d(np.asarray(value, float))
    label = None if label is None else np.atleast_2d(np.asarray(label, float))
    fold = np.zeros(value.shape, int) if fold is None else np.atleast_2d(np.asarray(fold, int))
    return SimpleNamespace(value=value, label=label, fold=fold)


def one(name, y, value, label, fold, weights):
    table = CLASSIFICATION if name in CLASSIFICATION else REGRESSION
    found = table[name](np.asarray(y, float), judgements(value, label, fold), np.asarray(weights, float))
    assert found.dtype == np.float64
    assert found.shape == (len(weights),)
    return found


@st.composite
def judged(draw, number=False):
    """Outcomes, values (with ties), labels, folds and three draws of weights in quarters, which sum exactly."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, steps = draw(st.integers(2, 25)), draw(st.integers(1, 12))
    y = rng.integers(-steps, steps + 1, n) / 4 if number else (rng.random(n) < rng.random()).astype(float)
    p = rng.integers(0, steps + 1, n) / steps if rng.random() < 0.7 else rng.random(n)
    weights = rng.integers(0, 12, (3, n)) / 4 * (rng.random((3, n)) < draw(st.sampled_from([0.2, 1.0])))
    return y, p, rng.integers(0, 2, n), rng.integers(0, 3, n), weights


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10, equal_nan=True)


def drawn(y, w):
    return w.sum() > 0


def each(data, measure, defined=drawn):
    """Expected values: a function of (y, value, label, fold, weight), NaN where it is not defined."""
    y, p, label, fold, weights = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [measure(y, p, label, fold, w) if defined(y, w) else np.nan for w in weights]


def both(y, w):
    return w[y == 1].sum() > 0 and w[y == 0].sum() > 0


def responders(y, w):
    return w[y == 1].sum() > 0


ORACLES = {
    "auroc": (lambda y, p, label, fold, w: sk.roc_auc_score(y, p, sample_weight=w), both),
    "auprc": (lambda y, p, label, fold, w: sk.average_precision_score(y, p, sample_weight=w), responders),
    "mcc": (lambda y, p, label, fold, w: sk.matthews_corrcoef(y, label, sample_weight=w), drawn),
    "balanced_accuracy": (lambda y, p, label, fold, w: sk.balanced_accuracy_score(y, label, sample_weight=w), both),
    "accuracy": (lambda y, p, label, fold, w: sk.accuracy_score(y, label, sample_weight=w), drawn),
    "f1": (lambda y, p, label, fold, w: sk.f1_score(y, label, sample_weight=w, zero_division=np.nan), drawn),
    "sensitivity": (lambda y, p, label, fold, w: recall(y, label, w, 1), drawn),
    "specificity": (lambda y, p, label, fold, w: recall(y, label, w, 0), drawn),
    "ppv": (lambda y, p, label, fold, w: precision(y, label, w, 1), drawn),
    "npv": (lambda y, p, label, fold, w: precision(y, label, w, 0), drawn),
    "brier": (lambda y, p, label, fold, w: sk.brier_score_loss(y, p, sample_weight=w, pos_label=1), drawn),
    "log_loss": (lambda y, p, label, fold, w: sk.log_loss(y, p, sample_weight=w, labels=[0, 1]), drawn),
}
REGRESSION_ORACLES = {
    "mae": lambda y, p, label, fold, w: sk.mean_absolute_error(y, p, sample_weight=w),
    "rmse": lambda y, p, label, fold, w: sk.root_mean_squared_error(y, p, sample_weight=w),
}


def recall(y, label, w, positive):
    return sk.recall_score(y, label, sample_weight=w, pos_label=positive, zero_division=np.nan)


def precision(y, label, w, positive):
    return sk.precision_score(y, label, sample_weight=w, pos_label=positive, zero_division=np.nan)


@QUICK
@given(judged())
def test_classification_is_scikit_learns(data):
    for name, (measure, defined) in ORACLES.items():
        same(one(name, *data), each(data, measure, defined))


@QUICK
@given(judged(number=True))
def test_errors_are_scikit_learns(data):
    for name, measure in REGRESSION_ORACLES.items():
        same(one(name, *data), each(data, measure))


@QUICK
@given(judged(number=True))
def test_r2_is_scikit_learns(data):
    def varies(y, w):
        return len(set(y[w > 0])) > 1

    same(one("r2", *data), each(data, lambda y, p, label, fold, w: sk.r2_score(y, p, sample_weight=w), varies))


def test_out_of_fold_r2_of_the_training_mean_is_negative():
    y = np.arange(10.0)
    value = np.repeat([y[5:].mean(), y[:5].mean()], 5)
    assert one("r2", y, value, None, None, np.ones((1, 10))) < 0


# correlations


def repeated(data):
    """Rows repeated as often as whole weights say."""
    y, p, label, fold, weights = data
    for w in weights.round().astype(int):
        yield tuple(np.repeat(a, w) for a in (y, p, label, fold))


def correlation(one, other, measure=stats.pearsonr):
    if len(set(one)) < 2 or len(set(other)) < 2:
        return np.nan
    return measure(one, other).statistic


def whole(data):
    return (*data[:4], data[4].round())


@QUICK
@given(judged(number=True))
def test_r_is_pearsons_of_repeated_rows(data):
    same(one("r", *whole(data)), [correlation(y, p) for y, p, _, _ in repeated(data)])


@QUICK
@given(judged(number=True))
def test_spearman_is_that_of_repeated_rows(data):
    expected = [correlation(y, p, stats.spearmanr) for y, p, _, _ in repeated(data)]
    same(one("spearman", *whole(data)), expected)


@QUICK
@given(judged(number=True))
def test_r_within_is_the_mean_of_the_folds_own(data):
    expected = []
    for y, p, _, fold in repeated(data):
        rs, sizes, told = [], [], False
        for inside in (fold == f for f in sorted(set(fold))):
            if len(set(y[inside])) > 1:
                constant = len(set(p[inside])) == 1
                rs.append(0.0 if constant else np.corrcoef(y[inside], p[inside])[0, 1])
                sizes.append(inside.sum())
                told |= not constant
        expected.append(np.average(rs, weights=sizes) if told else np.nan)
    same(one("r_within", *whole(data)), expected)


@pytest.mark.slow
def test_on_noise_r_within_is_0_on_average():
    """Folds that chose weaker penalties predict more boldly; that must not decide how they count."""
    from linear_parts import make_cohort

    from bids_fmmtc.learning.judging.evaluate import Scheme, cross_validate
    from bids_fmmtc.learning.judging.nested import Inner
    from bids_fmmtc.learning.learners.linear import LinearLearner

    found = []
    for seed in range(80):
        cohort = make_cohort(n=40, seed=seed, kind="regression", h=40)
        plan = Scheme(5, 1, Inner(3, seed=seed), seed)
        learner = LinearLearner(cohort, ("brainlm",), tangent=False)
        judged = cross_validate(learner, cohort, plan.divisions(cohort), plan.inner, f"{seed}")
        found.append(metrics.REGRESSION["r_within"](cohort.y, judged, np.ones((1, 40)))[0])
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_the_training_mean_correlates_negatively_across_folds_and_not_at_all_within():
    y, fold = np.random.default_rng(0).normal(size=40), np.arange(40) % 5
    value = np.array([y[fold != f].mean() for f in fold])
    ones = np.ones((1, 40))
    assert one("r", y, value, None, fold, ones) < -0.05
    assert np.isnan(one("r_within", y, value, None, fold, ones))
    responder = (y > 0).astype(float)
    responder[:3] = 1  # 40 people, folds of unequal share
    value = np.array([responder[fold != f].mean() for f in fold])
    assert one("auroc", responder, value, None, fold, ones) < 0.45
    assert one("auroc_within", responder, value, None, fold, ones) == 0.5


# ranking within folds


@QUICK
@given(judged())
def test_auroc_within_is_the_mean_over_pairs_of_one_fold(data):
    def brute(y, p, label, fold, w):
        won = pairs = 0.0
        for i in np.flatnonzero(y == 1):
            for j in np.flatnonzero((y == 0) & (fold == fold[i])):
                pairs += w[i] * w[j]
                won += w[i] * w[j] * ((p[i] > p[j]) + 0.5 * (p[i] == p[j]))
        return won / pairs if pairs else np.nan

    same(one("auroc_within", *data), each(data, brute, lambda y, w: True))


@QUICK
@given(judged())
def test_with_one_fold_both_areas_agree(data):
    y, p, label, fold, weights = data
    same(one("auroc_within", y, p, label, np.zeros_like(fold), weights), one("auroc", *data))


# labels


def test_mcc_of_one_label_is_0_as_in_scikit_learn_and_nan_without_rows():
    y, ones = np.array([0.0, 1, 1]), np.ones((1, 3))
    for label in ([1, 1, 1], [0, 0, 0]):
        assert one("mcc", y, y, label, None, ones) == 0 == sk.matthews_corrcoef(y, label)
    assert np.isnan(one("mcc", y, y, [1, 0, 0], None, np.zeros((1, 3))))


@pytest.mark.parametrize("name", ["ppv", "f1", "sensitivity", "balanced_accuracy", "auroc", "auroc_within", "auprc"])
def test_what_has_no_meaning_is_nan_and_never_0(name):
    y = np.zeros(4)
    assert np.isnan(one(name, y, [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0], None, np.ones((1, 4))))


# calibration


@st.composite
def probable(draw):
    n = draw(st.integers(4, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    x = rng.normal(size=n) * draw(st.floats(0.1, 4))
    y = (rng.random(n) < 1 / (1 + np.exp(-x * draw(st.floats(-1, 2))))).astype(float)
    return y, 1 / (1 + np.exp(-x)), rng.integers(0, 4, size=(5, n)).astype(float)


@QUICK
@given(probable())
def test_the_calibration_line_solves_its_score_equations_or_is_undefined(data):
    y, p, weights = data
    x = np.log(p / (1 - p))
    slopes, intercepts = (one(f"calibration_{n}", y, p, None, None, weights) for n in ("slope", "intercept"))
    for a, b, w in zip(intercepts, slopes, weights, strict=True):
        yes, no = x[(w > 0) & (y == 1)], x[(w > 0) & (y == 0)]
        overlap = len(yes) and len(no) and min(yes) < max(no) and min(no) < max(yes)
        assert np.isfinite(b) == np.isfinite(a) == bool(overlap)
        if overlap:
            rest = w * (y - 1 / (1 + np.exp(-a - b * x)))
            np.testing.assert_allclose([rest.sum(), (rest * x).sum()], 0, atol=1e-6)


def test_the_calibration_line_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    x = rng.normal(size=60)
    y = (rng.random(60) < 1 / (1 + np.exp(-0.5 - 2 * x))).astype(float)
    w = rng.integers(0, 3, size=60).astype(float)
    p = 1 / (1 + np.exp(-x))
    expected = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(x[:, None], y, w)
    found = [one(f"calibration_{n}", y, p, None, None, w[None])[0] for n in ("slope", "intercept")]
    np.testing.assert_allclose(found, [expected.coef_[0, 0], expected.intercept_[0]], rtol=1e-7)


def test_probabilities_of_0_and_1_have_a_calibration_line():
    y, p = np.array([0.0, 1, 0, 1, 1, 0]), np.array([0, 1, 0.3, 0.6, 0, 1])
    slope = one("calibration_slope", y, p, None, None, np.ones((1, 6)))
    assert np.isfinite(slope)
    assert abs(slope) < 1
    assert np.isnan(one("calibration_slope", y, np.full(6, 0.5), None, None, np.ones((1, 6))))


@pytest.mark.parametrize(("n", "bins"), [(7, 2), (29, 2), (40, 4), (65, 6), (100, 10), (500, 10)])
def test_calibration_error_over_equally_filled_bins(n, bins):
    rng = np.random.default_rng(n)
    p = rng.permutation((np.arange(n) + 0.5) / n)
    y = (rng.random(n) < 0.5).astype(float)
    w = rng.integers(0, 4, size=n).astype(float)
    edges = np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.array([sum(v >= e for e in edges) for v in p])
    assert np.ptp(np.bincount(place)) <= 1
    expected = 0.0
    for b in range(bins):
        inside = place == b
        if w[inside].sum():
            gap = np.average(y[inside], weights=w[inside]) - np.average(p[inside], weights=w[inside])
            expected += w[inside].sum() / w.sum() * abs(gap)
    same(one("calibration_error", y, p, None, None, w[None]), [expected])


def test_equal_probabilities_share_a_bin():
    y, p = np.array([1.0, 0] * 20), np.full(40, 0.5)
    assert one("calibration_error", y, p, None, None, np.ones((1, 40))) == 0


# tables


@pytest.mark.parametrize("table", [CLASSIFICATION, REGRESSION])
@QUICK
@given(data=st.data())
def test_whole_weights_are_repeated_rows(table, data):
    sample = whole(data.draw(judged(number=table is REGRESSION)))
    for name in table.keys() - {"calibration_error"}:  # its bins are those of the point sample
        for found, rows in zip(one(name, *sample), repeated(sample), strict=True):
            expected = one(name, *rows, np.ones((1, len(rows[0]))))[0] if len(rows[0]) else np.nan
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("table", [CLASSIFICATION, REGRESSION])
@QUICK
@given(data=st.data())
def test_values_stay_in_the_range_of_the_table(table, data):
    sample = data.draw(judged(number=table is REGRESSION))
    for name, metric in table.items():
        found = one(name, *sample)
        defined = found[~np.isnan(found)]
        assert (defined >= metric.measure.low - 1e-12).all(), name
        assert (defined <= metric.measure.high + 1e-12).all(), name


@pytest.mark.parametrize("name", ["auroc", "auroc_within", "mcc", "balanced_accuracy", "r", "r_within", "spearman"])
def test_chance_is_what_noise_gets(name):
    rng = np.random.default_rng(0)
    metric = {**CLASSIFICATION, **REGRESSION}[name]
    y = rng.integers(0, 2, 1500).astype(float) if name in CLASSIFICATION else rng.normal(size=1500)
    found = one(name, y, rng.random(1500), rng.integers(0, 2, 1500), rng.integers(0, 5, 1500), np.ones((1, 1500)))
    np.testing.assert_allclose(found, metric.measure.chance, atol=0.08)


def test_repeats_are_averaged_under_the_same_weights():
    rng = np.random.default_rng(1)
    y, value, weights = (
        (np.arange(12) % 2).astype(float),
        rng.random((3, 12)),
        rng.integers(0, 3, (4, 12)).astype(float),
    )
    found = CLASSIFICATION["auroc"](y, judgements(value), weights)
    same(found, np.mean([CLASSIFICATION["auroc"](y, judgements(v), weights) for v in value], axis=0))


def test_a_repeat_that_is_undefined_leaves_the_mean_undefined():
    y, ones = np.array([0.0, 1, 0, 1]), np.ones((1, 4))
    said = judgements(np.full((2, 4), 0.5), [[0, 1, 0, 1], [0, 0, 0, 0]])
    assert np.isnan(CLASSIFICATION["ppv"](y, said, ones))
    assert CLASSIFICATION["accuracy"](y, said, ones) == 0.75


def test_rows_that_a_repeat_did_not_judge_are_left_out():
    y, value, fold = np.array([0.0, 1, 0, 1]), [0.1, 0.9, 0.5, np.nan], [0, 0, 0, -1]
    assert CLASSIFICATION["auroc"](y, judgements(value, None, fold), np.ones((1, 4))) == 1
    with pytest.raises(ValueError, match="not finite"):
        CLASSIFICATION["auroc"](y, judgements(value), np.ones((1, 4)))


@pytest.mark.parametrize("weights", [np.ones(4), np.ones((2, 3))])
def test_shapes_are_checked(weights):
    with pytest.raises(ValueError, match="weights"):
        CLASSIFICATION["auroc"](np.array([0.0, 1, 0, 1]), judgements([0.1, 0.2, 0.3, 0.4]), weights)


def test_every_metric_stands_in_one_table():
    assert not CLASSIFICATION.keys() & REGRESSION.keys()
    for name, metric in {**CLASSIFICATION, **REGRESSION}.items():
        assert metric.measure.name == name
        assert getattr(metrics, name) is metric.function
