"""Fitting calibration, threshold, conformal quantiles and reference: against brute force, and on planted people."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qualities import quality
from scipy.optimize import minimize

from bids_fmmtc.learning.bundle.calibrate import (
    Calibration,
    Limits,
    calibrated,
    prediction_set,
    reference_flags,
)
from bids_fmmtc.learning.judging.decide import (
    LEAST_SLOPE,
    choose_threshold,
    fit_conformal,
    fit_platt,
    fit_reference,
    without_offsets,
)

CLASSES = ("non-responder", "responder")


def probabilities(scores, calibration):
    scores = np.asarray(scores, np.float64)
    return calibrated(np.stack([0 * scores, scores], axis=1), calibration)


@st.composite
def people(draw, values):
    """Values and outcomes of 2 to 40 people, both classes among them."""
    y = draw(st.lists(st.integers(0, 1), min_size=2, max_size=40).filter(lambda y: len(set(y)) == 2))
    return np.array([draw(values) for _ in y]), np.array(y)


scored = people(st.floats(-1e3, 1e3).map(lambda v: round(v, 3)))
probable = people(st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0]))


# ---------------------------------------------------------------------------------------------------------- calibration


@settings(deadline=None)
@given(scored)
def test_calibration_rises_and_can_be_applied(given_):
    scores, y = given_
    calibration = fit_platt(scores, y)
    assert calibration.slope > 0
    order = np.argsort(scores, kind="stable")
    assert (np.diff(probabilities(scores, calibration)[order]) >= 0).all()


@settings(deadline=None)
@given(scored, st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_units_of_the_score_do_not_matter(given_, scale, shift):
    scores, y = given_
    if scores.std() < 1e-2:
        return
    one = probabilities(scores, fit_platt(scores, y))
    other = probabilities(scores * scale + shift, fit_platt(scores * scale + shift, y))
    np.testing.assert_allclose(one, other, atol=1e-5)


def posterior(slope, intercept, scores, y):
    """Minus the log density of slope and intercept, as the docstring has it, for scores of mean 0 and spread 1."""
    eta = slope * scores + intercept
    likelihood = np.logaddexp(0, eta).sum() - (y * eta).sum()
    return likelihood + np.log1p((slope / 1.25) ** 2) + np.log1p((intercept / 10) ** 2)


@pytest.mark.parametrize("seed", range(12))
def test_the_fit_is_the_most_dense_point(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 60))
    y = np.arange(n) % 3 == 0
    scores = rng.standard_normal(n) + rng.choice([0.5, 2, 8]) * y
    scores = (scores - scores.mean()) / scores.std()
    found = fit_platt(scores, y)
    bounds = [(LEAST_SLOPE, None), (None, None)]
    best = minimize(lambda b: posterior(*b, scores, y), [1.0, 0.0], bounds=bounds, tol=1e-12)
    assert posterior(found.slope, found.intercept, scores, y) <= best.fun + 1e-7


def test_perfect_separation_of_eight_people_is_not_certainty():
    y = np.repeat([0, 1], 4)
    p = probabilities(y * 2.0, fit_platt(y * 2.0, y))
    assert 0.05 < p[0] < 0.2
    assert 0.8 < p[-1] < 0.95


def test_scores_that_point_backwards_give_the_base_rate_in_their_order():
    y = np.repeat([0, 0, 1], 10)
    scores = np.linspace(5, -5, 30)
    calibration = fit_platt(scores, y)
    p = probabilities(scores, calibration)
    np.testing.assert_allclose(p, 1 / 3, atol=2 * LEAST_SLOPE)
    assert (np.diff(p) < 0).all()


def test_equal_scores_give_the_base_rate():
    calibration = fit_platt(np.full(8, 3.5), [0, 0, 0, 0, 0, 0, 1, 1])
    assert probabilities([3.5], calibration)[0] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("scores", "y"),
    [([1, 2], [1, 1]), ([1, 2], [0, 2]), ([1, math.nan], [0, 1]), ([1, 2, 3], [0, 1]), ([[1, 2]], [[0, 1]]), ([], [])],
)
def test_what_cannot_be_fitted(scores, y):
    for fit in (fit_platt, choose_threshold, fit_conformal):
        with pytest.raises(ValueError, match=r"session|finite|both present"):
            fit(scores, y)


@pytest.mark.parametrize("apart", [1.0, 2.0, 3.0, 4.0])
def test_slope_on_planted_scores_lies_between_a_half_and_two(apart):
    """The true slope of normal scores of unit spread is their distance."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    slopes = [fit_platt(rng.standard_normal(60) + apart * y, y).slope for _ in range(40)]
    ratio = apart / np.array(slopes)  # the slope of outcome on calibrated log-odds, among endlessly many people
    assert 0.8 < np.median(ratio) < 1.4
    assert np.mean((ratio > 0.5) & (ratio < 2)) >= 0.95


def test_noise_is_not_taken_for_knowledge():
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(60):
        y = np.arange(40) % 2
        calibration = fit_platt(rng.standard_normal(40), y)
        p = probabilities(rng.standard_normal(500), calibration)
        losses.append(-(np.log(p) + np.log(1 - p)).mean() / 2)  # half of them respond, whatever the score
    assert np.mean(losses) < math.log(2) + 0.02


# ------------------------------------------------------------------------------------------------------------ threshold


def balanced_accuracy(p, y, threshold):
    label = p >= threshold
    return (label[y == 1].mean() + (~label[y == 0]).mean()) / 2


def slack(p, y, threshold):
    """Half a standard error of the balanced accuracy, with one person added on either side."""
    label, total = p >= threshold, 0.0
    for right in (label[y == 1], ~label[y == 0]):
        share = (right.sum() + 1) / (len(right) + 2)
        total += share * (1 - share) / len(right)
    return math.sqrt(total) / 4


@settings(deadline=None)
@given(probable)
def test_threshold_is_near_the_best_and_the_base_rate_where_that_is_near_enough(given_):
    p, y = given_
    found = choose_threshold(p, y)
    assert 0 <= found <= 1
    distinct = np.unique([0, *p, 1])
    thresholds = np.concatenate([distinct, (distinct[1:] + distinct[:-1]) / 2])
    best = max(thresholds, key=lambda t: balanced_accuracy(p, y, t))
    largest = max(slack(p, y, t) for t in thresholds if balanced_accuracy(p, y, t) == balanced_accuracy(p, y, best))
    assert balanced_accuracy(p, y, found) >= balanced_accuracy(p, y, best) - largest - 1e-12
    if balanced_accuracy(p, y, y.mean()) == balanced_accuracy(p, y, best):
        assert found == y.mean()
    order = np.random.default_rng(0).permutation(len(p))
    assert choose_threshold(p[order], y[order]) == found


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        ([0.6, 0.7, 0.8, 0.9], [0, 0, 1, 1], 0.75),  # in the middle of the plateau
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0.5),  # the base rate lies on it
        ([0.1, 0.2, 0.3, 0.8], [0, 0, 0, 1], 0.55),  # not the base rate of 0.25: it would call one person wrongly
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1], 0.5),
        ([0.0, 0.0, 0.0, 1.0], [0, 0, 0, 1], 0.25),
        ([1.0, 1.0, 1.0, 1.0], [0, 0, 0, 1], 0.25),
        ([0.0, 0.0, 0.0, 5e-324], [0, 0, 0, 1], 5e-324),  # nothing lies between the two
    ],
)
def test_thresholds(p, y, expected):
    assert choose_threshold(p, y) == pytest.approx(expected, rel=1e-9, abs=0)


def test_probabilities_are_probabilities():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        choose_threshold([0.5, 1.5], [0, 1])
    with pytest.raises(ValueError, match=r"0\.\.1"):
        fit_conformal([-0.5, 0.5], [0, 1])


# ------------------------------------------------------------------------------------------------------------ conformal


@given(probable, st.floats(0.01, 0.99))
def test_quantiles_count_as_the_definition_does(given_, alpha):
    p, y = given_
    conformal = fit_conformal(p, y, alpha)
    for own, quantile in ((p[y == 0], conformal.quantiles[0]), (1 - p[y == 1], conformal.quantiles[1])):
        wanted = (len(own) + 1) * (1 - alpha) - 1e-9
        if wanted > len(own):
            assert quantile == 1
        else:
            assert (own <= quantile).sum() >= wanted
            assert (own < quantile).sum() < wanted


@pytest.mark.parametrize(("n", "alpha", "place"), [(9, 0.1, 9), (19, 0.1, 18), (29, 0.1, 27), (19, 0.05, 19)])
def test_round_numbers_are_not_rounded_up(n, alpha, place):
    p = np.concatenate([np.arange(1, n + 1) / 100, [0.5]])
    y = np.concatenate([np.zeros(n), [1]])
    assert fit_conformal(p, y, alpha).quantiles == (place / 100, 1.0)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, math.nan])
def test_an_error_rate_lies_between_nothing_and_all(alpha):
    with pytest.raises(ValueError, match="alpha"):
        fit_conformal([0.2, 0.8], [0, 1], alpha)


@settings(deadline=None)
@given(people(st.integers(-30, 30)), st.lists(st.integers(-30, 30), max_size=5))
def test_sets_depend_on_the_order_of_scores_only(given_, more):
    scores, y = given_
    scores, new = scores / 10, np.array(more) / 10
    kinds = [Calibration(), Calibration("platt", 3.0, 1.0)]
    kept = []
    for kind in kinds:
        quantiles = fit_conformal(probabilities(scores, kind), y, 0.3).quantiles
        p = probabilities(new, kind)
        # Rounding may move a score that equals a quantile; a little room on both sides tells no other pair apart.
        kept.append([(p <= quantiles[0] + 1e-12).tolist(), (1 - p <= quantiles[1] + 1e-12).tolist()])
    assert kept[0] == kept[1]


def test_each_class_is_covered_though_one_is_rare():
    rng = np.random.default_rng(0)
    covered = {0: [], 1: []}
    for _ in range(400):
        y = np.repeat([0, 1], [60, 12])
        p = probabilities(rng.standard_normal(72) + 1.5 * y, Calibration())
        quantiles = fit_conformal(p, y).quantiles
        for c in (0, 1):
            new = probabilities(rng.standard_normal(100) + 1.5 * c, Calibration())
            covered[c].append(np.mean(np.abs(new - c) <= quantiles[c]))
    for c, n in ((0, 60), (1, 12)):
        assert 0.89 < np.mean(covered[c]) < 0.9 + 1 / (n + 1) + 0.02


# ---------------------------------------------------------------------------------------------------------- all of them


def planted(rng, n, features=120, apart=3.0):
    """People whose responders are shifted along one direction among many."""
    y = np.arange(n) % 2
    direction = np.ones(features) / math.sqrt(features)
    return rng.standard_normal((n, features)) + np.outer(y, apart * direction), y


def ridge(x, y, new, penalty=200.0):
    """Scores of new people by ridge regression of the outcome, in the people's own space."""
    centre = x.mean(axis=0)
    weights = np.linalg.solve((x - centre) @ (x - centre).T + penalty * np.eye(len(x)), y - y.mean())
    return (new - centre) @ (x - centre).T @ weights


def test_planted_people_are_calibrated_and_covered():
    """What is fitted on out-of-fold scores holds for the model learnt from everybody, on people nobody has seen."""
    slopes, coverage, decided = [], [], []
    for seed in range(20):
        rng = np.random.default_rng([1, seed])
        x, y = planted(rng, 60)
        fold = rng.permutation(60) % 5
        scores = np.empty(60)
        for k in range(5):
            scores[fold == k] = ridge(x[fold != k], y[fold != k], x[fold == k])
        calibration = fit_platt(scores, y)
        p = probabilities(scores, calibration)
        threshold, conformal = choose_threshold(p, y), fit_conformal(p, y)
        unseen, truth = planted(rng, 600)
        found = probabilities(ridge(x, y, unseen), calibration)
        log_odds = np.log(found / (1 - found))
        slopes.append(fit_platt(log_odds, truth).slope)
        sets = [prediction_set(value, CLASSES, conformal, threshold) for value in found]
        coverage.append(np.mean([CLASSES[t] in s for t, s in zip(truth, sets, strict=True)]))
        decided.append(np.mean([len(s) == 1 for s in sets]))
    assert np.mean([0.5 < slope < 2 for slope in slopes]) >= 0.9
    assert 0.75 < np.median(slopes) < 1.5
    assert 0.88 < np.mean(coverage) < 0.95
    assert np.mean(decided) > 0.1  # it is no feat to cover everybody by deciding nothing


# ------------------------------------------------------------------------------------------------------------ reference

QUALITY = quality(mean_fd=0.2, mean_coverage=0.95)


def test_reference_of_what_training_saw():
    reference = fit_reference([QUALITY, replace(QUALITY, n_frames_left=200, mean_fd=0.4, placement="packaged")])
    assert reference == {
        "repetition_time": Limits(2.02, 1.98),
        "n_frames_left": Limits(low=180.0),
        "mean_fd": Limits(high=0.5),
        "mean_coverage": Limits(low=0.9025),
        "tsnr": Limits(62.5, 37.5),
        "placement": Limits(values=("packaged", "same")),
    }


@pytest.mark.parametrize(
    ("name", "value", "flags"),
    [
        ("repetition_time", 0.72, ("outside_reference:repetition_time",)),
        ("repetition_time", 2.01, ()),
        ("n_frames_left", 120, ("outside_reference:n_frames_left",)),
        ("n_frames_left", 3000, ()),
        ("mean_fd", 0.6, ("outside_reference:mean_fd",)),
        ("mean_fd", 0.01, ()),
        ("mean_fd", None, ("unknown:mean_fd",)),
        ("mean_coverage", 0.6, ("outside_reference:mean_coverage",)),
        ("mean_coverage", 1.0, ()),
        ("tsnr", 200.0, ("outside_reference:tsnr",)),
        ("placement", "affine", ("outside_reference:placement",)),
    ],
)
def test_who_lies_outside(name, value, flags):
    assert reference_flags(replace(QUALITY, **{name: value}).value, fit_reference([QUALITY] * 3)) == flags


def test_what_nobody_knows_is_left_out():
    unknown = replace(QUALITY, mean_fd=None, tsnr=math.nan)
    assert {"mean_fd", "tsnr"}.isdisjoint(fit_reference([unknown, unknown]))
    assert fit_reference([unknown, QUALITY])["mean_fd"] == Limits(high=0.25)
    assert fit_reference([]) == {}


@given(
    st.lists(
        st.builds(
            quality,
            repetition_time=st.floats(0.1, 10),
            n_frames_left=st.integers(1, 5000),
            mean_fd=st.none() | st.floats(0, 10),
            mean_coverage=st.floats(0, 1),
            tsnr=st.none() | st.floats(-1e3, 1e3),
            placement=st.sampled_from(["same", "packaged"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_training_itself_never_lies_outside(qualities):
    reference = fit_reference(qualities)
    assert not [f for q in qualities for f in reference_flags(q.value, reference) if f.startswith("outside")]


# -------------------------------------------------------------------------------------------- offsets of several models


def of_five_models(seed, offset, n=60, effect=2.0):
    """Scores of n people by five models, each off by a constant of this standard deviation; who was scored by which."""
    rng = np.random.default_rng(seed)
    y, fold = np.tile([0.0, 1.0], n // 2), np.repeat(np.arange(5), n // 5)
    return effect * y + rng.standard_normal(n) + offset * rng.standard_normal(5)[fold], y, fold


def test_what_models_are_off_by_does_not_flatten_the_slope():
    """True slope of one model's scores: the effect itself, 2."""
    slopes = {True: [], False: []}
    for seed in range(40):
        scores, y, fold = of_five_models(seed, offset=1.5)
        for known, found in slopes.items():
            found.append(fit_platt(scores, y, fold if known else None).slope)
    assert np.median(slopes[False]) < 1.2
    assert 1.6 < np.median(slopes[True]) < 2.3


def test_folds_that_differ_by_chance_only_keep_nearly_all_of_their_scores():
    moved = []
    for seed in range(40):
        scores, y, fold = of_five_models(seed, offset=0.0)
        moved.append(np.abs(without_offsets(scores, y, fold) - scores).mean())
    assert np.median(moved) < 0.05
    assert max(moved) < 0.5


def test_offsets_are_taken_off_whole_where_there_is_nothing_but_them():
    y, fold = np.tile([0.0, 1.0], 10), np.repeat(np.arange(5), 4)
    scores = 3 * y + 10.0 * fold
    found = without_offsets(scores, y, fold)
    np.testing.assert_allclose(found, 3 * y + 20)
    # One fold tells of no offset, and neither do folds of one class.
    np.testing.assert_array_equal(without_offsets(scores, y, 0 * fold), scores)
    np.testing.assert_array_equal(without_offsets(scores, y, np.arange(20)), scores)
