import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from bids_fmmtc.learning.judging.intervals import (
    N_DRAWS,
    corrected_t,
    correlation_interval,
    difference,
    draws,
    estimates,
    fold_values,
    interval,
    permutation_p,
    score_interval,
    widening,
)
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, REGRESSION
from bids_fmmtc.plain import to_json
from bids_fmmtc.results.estimate import Estimate


def people(n):
    return [f"sub-{i:03d}" for i in range(n)]


def judged(value, label=None, fold=None):
    value = np.atleast_2d(np.asarray(value, float))
    fold = np.zeros(value.shape, int) if fold is None else np.atleast_2d(fold)
    return SimpleNamespace(value=value, label=None if label is None else np.atleast_2d(label), fold=fold)


def sample(seed, n=40, effect=1.0, repeats=2):
    """Outcomes, half of them responders, and judgements of a model with some noise of its own in each repeat."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 2).astype(float)
    score = effect * y + rng.normal(size=n) + 0.5 * rng.normal(size=(repeats, n))
    fold = np.stack([rng.permutation(n) % 5 for _ in range(repeats)])
    return y, judged(1 / (1 + np.exp(-score)), (score > effect / 2).astype(float), fold)


# draws


def test_the_same_seed_gives_the_same_draws_and_another_gives_others():
    first = draws(people(12), 50, seed=3)
    np.testing.assert_array_equal(first, draws(people(12), 50, seed=3))
    assert first.shape == (50, 12)
    assert first.dtype == np.float64
    assert (first != draws(people(12), 50, seed=4)).any()


@settings(deadline=None)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=40), st.integers(0, 99))
def test_rows_of_a_group_are_drawn_together(names, seed):
    weights = draws([f"family-{i}" for i in names], 20, seed)
    for name in set(names):
        rows = weights[:, [i for i, other in enumerate(names) if other == name]]
        assert (rows == rows[:, :1]).all()
    assert (weights >= 0).all()


@settings(deadline=None)
@given(st.integers(2, 15), st.integers(2, 15), st.integers(0, 99))
def test_every_draw_holds_as_many_responders_as_the_cohort(yes, no, seed):
    y = np.repeat([1.0, 0.0], [yes, no])
    weights = draws(people(yes + no), 30, seed, y)
    np.testing.assert_allclose(weights @ y, yes)
    np.testing.assert_allclose(weights @ (1 - y), no)


def test_without_classes_everybody_is_drawn_from():
    weights = draws(people(10), 200)
    np.testing.assert_allclose(weights.sum(axis=1), 10)
    assert len(np.unique(weights[:, :5].sum(axis=1))) > 1


def test_means_of_draws_vary_as_means_of_samples_do():
    """The usual bootstrap gives (m - 1) / m of the variance: 20 % too little here."""
    values = np.array([1.0, 4.0, 2.0, 8.0, 0.5])
    means = draws(people(5), 100_000) @ values / 5
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.var() == pytest.approx(values.var(ddof=1) / 5, rel=0.02)


def test_a_group_alone_in_its_class_is_always_drawn():
    y = np.array([1.0, 0, 0, 0])
    np.testing.assert_array_equal(draws(people(4), 10, classes=y)[:, 0], 1)


def test_a_family_of_both_classes_counts_as_the_class_of_most():
    y = np.array([1.0, 1, 0, 1, 0, 0])
    weights = draws(["a", "a", "a", "b", "c", "d"], 100, classes=y)
    np.testing.assert_allclose(weights[:, 0] + weights[:, 3], 2)
    np.testing.assert_allclose(weights[:, 4] + weights[:, 5], 2)


# intervals


def test_five_folds_widen_by_one_and_a_half_and_other_cohorts_not_at_all():
    assert widening(40, 32) == 1.5
    assert widening(40, 36) == pytest.approx(math.sqrt(1 + 10 / 9))
    assert widening(40, None) == 1


def test_interval_of_draws_that_lie_around_the_point_is_the_percentiles():
    values = np.linspace(0.2, 0.6, 2001)
    found = interval(values, 0.4)
    np.testing.assert_allclose([found.low, found.high], np.quantile(values, [0.025, 0.975]))
    wide = interval(values, 0.4, 1.5)
    assert (wide.high - wide.low) == pytest.approx(1.5 * (found.high - found.low))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50), st.floats(-20, 20), st.floats(1, 3), st.floats(-30, -20))
def test_an_interval_holds_its_point_and_keeps_to_the_range(values, point, factor, low):
    found = interval(np.array(values), point, factor, (low, 20.0))
    assert low <= found.low <= found.value == point <= found.high <= 20


def test_undefined_draws_are_counted_and_too_many_leave_no_interval():
    values = np.r_[np.full(10, np.nan), np.linspace(0, 1, 90)]
    assert interval(values, 0.5).low is not None
    assert interval(values, 0.5).undefined_draws == 10
    values[10] = np.nan
    assert interval(values, 0.5) == Estimate(0.5, None, None, 11)
    assert score_interval(values, 0.5, 20) == Estimate(0.5, None, None, 11)
    assert interval(values, math.nan) == Estimate(None, None, None, 11)


@settings(deadline=None)
@given(st.integers(1, 49), st.integers(50, 300))
def test_a_share_gets_wilsons_interval(right, n):
    p = right / n
    reach = math.sqrt(p * (1 - p) / n)
    found = score_interval(np.array([p - reach, p + reach]), p, n)
    np.testing.assert_allclose([found.low, found.high], proportion_confint(right, n, method="wilson"), atol=1e-9)
    wide = score_interval(np.array([p - reach, p + reach]), p, n, 1.5)
    expected = proportion_confint(right / 2.25, n / 2.25, method="wilson")
    np.testing.assert_allclose([wide.low, wide.high], expected, atol=1e-9)


@pytest.mark.parametrize("share", [0, 1])
def test_nobody_is_certain_of_a_perfect_record(share):
    found = score_interval(np.full(100, float(share)), share, 20)
    np.testing.assert_allclose([found.low, found.high], proportion_confint(20 * share, 20, method="wilson"), atol=1e-9)


def test_a_share_is_at_most_twice_as_steady_as_its_people():
    values = np.array([0.95 - 1e-4, 0.95 + 1e-4])
    found = score_interval(values, 0.95, 20)
    np.testing.assert_allclose([found.low, found.high], proportion_confint(38, 40, method="wilson"), atol=1e-9)


def test_a_share_that_no_draw_moves_is_certain_inside_the_range():
    assert score_interval(np.full(100, 0.5), 0.5, 20) == Estimate(0.5, 0.5, 0.5)


# estimates


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 4.0]), st.sampled_from([None, 24.0]))
def test_every_interval_holds_its_value_and_keeps_to_the_range(seed, effect, n_train):
    y, said = sample(seed, 30, effect)
    number = judged(4 * said.value, None, said.fold)
    for outcome, j, table in ((y, said, CLASSIFICATION), (y + said.value[0] ** 2, number, REGRESSION)):
        for name, found in estimates(outcome, j, people(30), table, n_train, seed, 200).items():
            if found.low is not None:
                assert found.low - 1e-9 <= found.value <= found.high + 1e-9, name
                assert table[name].measure.low - 1e-9 <= found.low, name
                assert found.high <= table[name].measure.high + 1e-9, name
            json.dumps(to_json(found), allow_nan=False)


def test_estimates_repeat_to_the_bit_and_are_wider_for_cross_validation():
    y, said = sample(0)
    first, again, other = (estimates(y, said, people(40), CLASSIFICATION, n) for n in (32, 32, None))
    assert first == again
    for name in ("auroc", "auroc_within", "mcc", "brier", "sensitivity", "calibration_slope"):
        assert first[name].value == other[name].value
        assert first[name].high - first[name].low > 1.25 * (other[name].high - other[name].low)


def test_the_value_is_the_mean_over_repeats():
    y, said = sample(1, repeats=3)
    expected = np.mean([roc_auc_score(y, v) for v in said.value])
    assert estimates(y, said, people(40), CLASSIFICATION, 32)["auroc"].value == pytest.approx(expected)


def test_twins_count_as_one():
    y, said = sample(2)
    one = estimates(y, said, people(40), CLASSIFICATION, 32)
    twice = judged(*(np.repeat(a, 2, axis=1) for a in (said.value, said.label, said.fold)))
    two = estimates(np.repeat(y, 2), twice, np.repeat(people(40), 2).tolist(), CLASSIFICATION, 64)
    for name in ("auroc", "mcc", "ppv", "sensitivity", "brier"):
        np.testing.assert_allclose(
            [two[name].value, two[name].low, two[name].high], [one[name].value, one[name].low, one[name].high]
        )


def test_all_right_is_wilsons_interval_of_the_people_and_not_certainty():
    y = np.repeat([1.0, 0.0], [20, 30])
    said = judged(y * 0.8 + 0.1, y)
    found = estimates(y, said, people(50), CLASSIFICATION, None)
    for name, right in (("sensitivity", 20), ("ppv", 20), ("specificity", 30), ("npv", 30), ("accuracy", 50)):
        expected = proportion_confint(right, right, method="wilson")
        np.testing.assert_allclose([found[name].low, found[name].high], expected, atol=1e-9, err_msg=name)
    for name in ("auroc", "mcc", "balanced_accuracy", "f1", "auprc"):
        assert found[name].low < 0.95, name


def test_who_calls_everybody_the_same_has_chance_for_certain():
    y = np.repeat([1.0, 0.0], [20, 30])
    found = estimates(y, judged(np.full(50, 0.4), np.zeros(50)), people(50), CLASSIFICATION, 40)
    for name, chance in (("auroc", 0.5), ("auroc_within", 0.5), ("mcc", 0.0), ("balanced_accuracy", 0.5)):
        assert found[name] == Estimate(chance, chance, chance), name
    assert found["ppv"] == Estimate(None, None, None, N_DRAWS)
    assert found["sensitivity"].value == found["sensitivity"].low == 0
    assert found["sensitivity"].high > 0.1


def test_a_class_of_one_has_no_intervals():
    y = np.array([1.0, 0, 0, 0, 0])
    found = estimates(y, judged([0.9, 0.1, 0.2, 0.95, 0.3], y), people(5), CLASSIFICATION, None)
    assert found["auroc"] == Estimate(0.75)
    assert found["calibration_slope"].low is None


def test_correlations_keep_fishers_shape():
    rng = np.random.default_rng(0)
    y = rng.normal(size=60)
    found = estimates(y, judged(y + 0.5 * rng.normal(size=60)), people(60), REGRESSION, None)["r"]
    assert found.value - found.low > found.high - found.value
    middle, low, high = np.arctanh([found.value, found.low, found.high])
    assert high - middle == pytest.approx(middle - low)
    assert 1.9599 / np.sqrt(57) <= high - middle < 3 / np.sqrt(57)


def test_a_correlation_is_never_surer_than_fisher_says():
    found = correlation_interval(np.array([0.5, 0.5]), 0.5, 28, 1.5)
    expected = np.tanh(np.arctanh(0.5) + np.array([-1, 1]) * 1.5 * 1.959964 / 5)
    np.testing.assert_allclose([found.low, found.high], expected, atol=1e-6)
    assert correlation_interval(np.array([1.0, 1.0]), 1.0, 28).high <= 1
    assert correlation_interval(np.array([0.5, 0.5]), 0.5, 3) == Estimate(0.5)
    assert correlation_interval(np.array([np.nan, 0.5]), 0.5, 9) == Estimate(0.5, None, None, 1)


# differences


def test_a_model_does_not_differ_from_itself():
    y, said = sample(3)
    assert difference(y, said, said, CLASSIFICATION["auroc"], people(40), 32) == Estimate(0.0, 0.0, 0.0)


def test_a_difference_is_paired_and_changes_its_sign():
    y, one = sample(4)
    other = judged(one.value + 0.02 * np.random.default_rng(0).normal(size=one.value.shape), one.label, one.fold)
    metric = CLASSIFICATION["auroc"]
    found = difference(y, one, other, metric, people(40), 32)
    turned = difference(y, other, one, metric, people(40), 32)
    np.testing.assert_allclose([found.value, found.low, found.high], [-turned.value, -turned.high, -turned.low])
    alone = estimates(y, one, people(40), {"auroc": metric}, 32)["auroc"]
    assert 0 < found.high - found.low < 0.5 * (alone.high - alone.low)


def test_without_anybody_to_resample_a_difference_has_no_interval():
    y = np.array([1.0, 0, 0])
    one, other = judged([0.9, 0.1, 0.2], y), judged([0.2, 0.1, 0.9], y)
    assert difference(y, one, other, CLASSIFICATION["auroc"], people(3), None) == Estimate(0.5)


# tests


def test_fold_values_are_those_of_each_folds_people():
    y, said = sample(5)
    expected = [
        roc_auc_score(y[fold == k], value[fold == k])
        for value, fold in zip(said.value, said.fold, strict=True)
        for k in range(5)
    ]
    np.testing.assert_allclose(fold_values(y, said, CLASSIFICATION["auroc"]), expected)
    said.fold[0] = np.arange(40) % 2  # a fold of one class each
    said.fold[0, :3] = -1
    found = fold_values(y, said, CLASSIFICATION["auroc"])
    assert len(found) == 7
    assert np.isnan(found[:2]).all()
    np.testing.assert_allclose(found[2:], expected[5:])


@settings(deadline=None)
@given(st.lists(st.integers(-100, 100), min_size=3, max_size=30).filter(lambda v: len(set(v)) > 1))
def test_without_shared_training_it_is_students_test(values):
    values = np.array(values) / 10
    found, expected = corrected_t(values, 1e30, 1), stats.ttest_1samp(values, 0)
    ends = expected.confidence_interval()
    np.testing.assert_allclose(
        [found.t, found.p, found.low, found.high], [expected.statistic, expected.pvalue, ends.low, ends.high], atol=1e-9
    )


@pytest.mark.parametrize("repeats", [1, 5])
def test_shared_training_lowers_t_as_in_one_repeat(repeats):
    values = np.random.default_rng(0).normal(1, 1, 5 * repeats)
    found = corrected_t(values, 32, 8)
    assert found.t == pytest.approx(values.mean() / math.sqrt(values.var(ddof=1) * (1 / 5 + 8 / 32)))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.t), 5 * repeats - 1))
    assert found.folds == 5 * repeats
    json.dumps(to_json(found), allow_nan=False)


def test_undefined_folds_are_left_out_and_equal_ones_test_nothing():
    values = np.array([0.1, np.nan, 0.3, 0.2])
    assert corrected_t(values, 32, 8) == corrected_t(values[[0, 2, 3]], 32, 8)
    for few in ([0.2, 0.2, 0.2], [0.2, np.nan]):
        found = corrected_t(np.array(few), 32, 8)
        assert found.difference == pytest.approx(0.2)
        assert found.p is found.t is found.low is None
    assert corrected_t(np.array([np.nan]), 32, 8).difference is None


def test_permutation_p_counts_the_observed_and_is_never_0():
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert permutation_p(0.5, null) == 0.2
    assert permutation_p(0.3, null) == 0.6
    assert permutation_p(0.1 + 0.2, null) == 0.6  # 0.30000000000000004
    assert permutation_p(0.0, null) == 1
    assert permutation_p(0.5, np.array([np.nan, 0.1])) == 2 / 3
    assert math.isnan(permutation_p(math.nan, null))


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_permutation_p_keeps_its_level(level):
    rng = np.random.default_rng(0)
    found = [permutation_p(null[0], null[1:]) for null in rng.integers(0, 30, size=(4000, 40)) / 30]
    assert np.mean(np.array(found) <= level) <= level + 0.01


# coverage


def ridge(x, y, penalty):
    centre = x.mean(axis=0)
    z = x - centre
    w = z.T @ np.linalg.solve(z @ z.T + penalty * np.eye(len(y)), y - y.mean())
    return w, -centre @ w


def dealt(rng, repeats=3):
    """Five stratified folds of 40 people, every second a responder."""
    fold = np.zeros((repeats, 40), int)
    for r, c in np.ndindex(repeats, 2):
        fold[r, c::2] = rng.permutation(20) % 5
    return fold


def cross_validated(rng, fold, effect):
    """Outcomes, judgements by ridge on 100 features, 10 with an effect, and true AUROC and MCC, mean over models."""
    y, shift = (np.arange(40) % 2).astype(float), np.where(np.arange(100) < 10, effect, 0)
    x = rng.normal(size=(40, 100)) + y[:, None] * shift
    value, truth = np.zeros(fold.shape), []
    for r, k in np.ndindex(len(fold), 5):
        test = fold[r] == k
        w, b = ridge(x[~test], y[~test], 100)
        value[r, test] = x[test] @ w + b
        size = np.linalg.norm(w)
        right, wrong = stats.norm.cdf([(shift @ w + b) / size, b / size])
        mcc = (right - wrong) / math.sqrt((right + wrong) * (2 - right - wrong))
        truth.append([stats.norm.cdf(shift @ w / size / math.sqrt(2)), mcc])
    return y, judged(1 / (1 + np.exp(-value)), (value > 0).astype(float), fold), np.mean(truth, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.64, 1.25])
def test_widened_intervals_cover_the_truth_and_plain_ones_do_not(effect):
    rngs = [np.random.default_rng([7, i]) for i in range(200)]
    cohorts = [cross_validated(rng, dealt(rng), effect) for rng in rngs]
    truth = np.mean([t for _, _, t in cohorts], axis=0)
    table = {name: CLASSIFICATION[name] for name in ("auroc_within", "mcc")}

    def covered(n_train):
        found = [estimates(y, said, people(40), table, n_train, i, 400) for i, (y, said, _) in enumerate(cohorts)]
        return np.mean([[e.low <= t <= e.high for e, t in zip(f.values(), truth, strict=True)] for f in found], axis=0)

    assert (covered(32) >= 0.93).all()
    if effect < 1:  # towards the end of the range Wilson's shape alone nearly does
        assert (covered(None) < 0.91).all()


@pytest.mark.slow
def test_the_corrected_test_rejects_equal_models_rarely_and_the_plain_one_often():
    corrected, plain = [], []
    for i in range(200):
        rng = np.random.default_rng([8, i])
        fold = dealt(rng)
        y, one, _ = cross_validated(rng, fold, 0.0)
        _, other, _ = cross_validated(rng, fold, 0.0)
        values = fold_values(y, one, CLASSIFICATION["auroc"]) - fold_values(y, other, CLASSIFICATION["auroc"])
        corrected.append(corrected_t(values, 32, 8).p)
        plain.append(stats.ttest_1samp(values, 0).pvalue)
    assert np.mean(np.array(corrected) < 0.05) <= 0.06
    assert np.mean(np.array(plain) < 0.05) > 0.15
