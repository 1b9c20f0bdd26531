from dataclasses import replace

import numpy as np
import pytest
import torch
from bundle_parts import MODALITIES, SHAPES, features, parts
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_parts import changed, make_cohort
from threadpoolctl import threadpool_limits

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.calibrate import calibrated
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.bundle.load import load_bundle
from bids_fmmtc.learning.bundle.predict import Predictor, filled_head
from bids_fmmtc.learning.bundle.save import save_bundle
from bids_fmmtc.learning.learners.blocks import block_of
from bids_fmmtc.learning.learners.linear import PENALTIES, LinearLearner
from bids_fmmtc.recipe import Connectivity, Recipe
from bids_fmmtc.results.evaluation import Setting

BOTH = ("brainlm", "fc")
EVERY = (*BOTH, "covariates", "motion", "site")
KINDS = ("classification", "regression")
SEEDS = st.integers(0, 2**32 - 1)


def divided(cohort, seed=0, share=2 / 3):
    """Training rows, in which the outcome differs, and the others."""
    order = np.random.default_rng(seed).permutation(len(cohort))
    train, rows = np.split(order, [round(share * len(order))])
    assert np.ptp(cohort.y[train]) > 0
    return train, rows


def explicit(cohort, blocks, train, *, tangent):
    """Scaled features of all rows, then all principal components of the training rows."""
    from sklearn.decomposition import PCA

    scaled = []
    for name in blocks:
        data = block_of(cohort, name, tangent=tangent).transform(np.sort(train))(cohort)
        data = data - data[train].mean(axis=0)
        scaled.append(data / np.sqrt(np.mean((data[train] ** 2).sum(axis=1))))
    joined = np.hstack(scaled)
    return PCA(min(len(train) - 1, joined.shape[1]), svd_solver="full").fit(joined[train]).transform(joined)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("blocks", "tangent"), [(("brainlm",), False), (BOTH, False), (BOTH, True), (EVERY, False), (("motion",), False)]
)
def test_it_is_in_fold_principal_components_and_scikit_learns_model_of_them(kind, blocks, tangent):
    from sklearn.linear_model import LogisticRegression, Ridge

    cohort = make_cohort(30, seed=1, kind=kind)
    train, rows = divided(cohort)
    scores = explicit(cohort, blocks, train, tangent=tangent)
    path = LinearLearner(cohort, blocks, tangent=tangent).path(cohort.y, train, rows, "")
    mixes = len(blocks) + 1 if len(blocks) > 1 else 1
    assert path.shape == (len(PENALTIES) * mixes, len(rows))
    for found, penalty in zip(path[::mixes], PENALTIES, strict=True):
        strength = len(train) * penalty
        if kind == "classification":
            model = LogisticRegression(
                C=1 / strength, class_weight="balanced", solver="newton-cholesky", tol=1e-12, max_iter=1000
            )
            expected = model.fit(scores[train], cohort.y[train]).decision_function(scores[rows])
        else:
            expected = Ridge(alpha=strength, solver="svd").fit(scores[train], cohort.y[train]).predict(scores[rows])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_fit_is_the_path_at_its_penalty_and_the_same_elsewhere(kind, tangent):
    cohort = make_cohort(20, kind=kind)
    train, rows = divided(cohort)
    learner = LinearLearner(cohort, EVERY, tangent=tangent)
    path = learner.path(cohort.y, train, rows, "")
    assert learner.choices == len(path) == len(PENALTIES) * (len(EVERY) + 1)
    for choice in (0, 3, 7):
        fitted = learner.fit(cohort.y, train, choice, "")
        np.testing.assert_allclose(fitted.scores(rows), path[choice], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(fitted.elsewhere(cohort)[rows], path[choice], rtol=1e-6, atol=1e-6)
        strength, which = divmod(choice, len(EVERY) + 1)
        used = tuple(EVERY) if which == 0 else (EVERY[which - 1],)
        edge = "strongest" if strength == 0 else None
        assert learner.describe(choice) == Setting(penalty=PENALTIES[strength], blocks=used, edge=edge)
    assert learner.describe(learner.choices - 1).edge == "weakest"


@settings(deadline=None, max_examples=12)
@given(SEEDS, st.sampled_from(KINDS), st.booleans())
def test_nothing_outside_the_training_rows_moves_a_score(seed, kind, tangent):
    cohort = make_cohort(24, seed=seed % 50, kind=kind)
    train, rest = divided(cohort, seed % 7)
    rows, outside = rest[:3], rest[3:]
    expected = LinearLearner(cohort, EVERY, tangent=tangent).path(cohort.y, train, rows, "")
    other = changed(cohort, outside, seed)
    y = np.full(len(cohort), np.nan)
    y[train] = cohort.y[train]
    found = LinearLearner(replace(other, y=make_cohort(24, 3, kind).y), EVERY, tangent=tangent).path(y, train, rows, "")
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    # A test row moves its own score and no other's.
    moved = LinearLearner(changed(cohort, rows[:1], seed), EVERY, tangent=tangent).path(y, train, rows, "")
    np.testing.assert_allclose(moved[:, 1:], expected[:, 1:], rtol=1e-8, atol=1e-8)
    assert np.abs(moved[:, 0] - expected[:, 0]).max() > 1e-6
    # That the training rows do matter shows that the above could fail.
    learnt = LinearLearner(changed(cohort, train[:1], seed), EVERY, tangent=tangent).path(y, train, rows, "")
    assert np.abs(learnt - expected).max() > 1e-6


@settings(deadline=None, max_examples=12)
@given(SEEDS, st.sampled_from(KINDS))
def test_order_does_not_matter(seed, kind):
    rng = np.random.default_rng(seed)
    cohort = make_cohort(20, kind=kind)
    train, rows = divided(cohort)
    learner = LinearLearner(cohort, EVERY, tangent=False)
    expected = learner.path(cohort.y, train, rows, "")
    order = rng.permutation(len(rows))
    found = learner.path(cohort.y, rng.permutation(train), rows[order], "")
    np.testing.assert_array_equal(found, expected[:, order])
    np.testing.assert_array_equal(learner.path(cohort.y, train, rows[:1], ""), expected[:, :1])
    # The cohort's own order, too.
    places = rng.permutation(20)
    moved = cohort.take(places)
    at = np.argsort(places)
    found = LinearLearner(moved, EVERY, tangent=False).path(moved.y, at[train], at[rows], "")
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_exchanging_the_classes_negates_the_scores():
    cohort = make_cohort(20, effect=0.5)
    train, rows = divided(cohort)
    learner = LinearLearner(cohort, BOTH, tangent=False)
    one, two = (learner.path(y, train, rows, "") for y in (cohort.y, 1 - cohort.y))
    np.testing.assert_allclose(one, -two, rtol=1e-9, atol=1e-11)


def test_units_of_outcome_and_of_features_do_not_matter():
    cohort = make_cohort(20, kind="regression")
    train, rows = divided(cohort)
    expected = LinearLearner(cohort, BOTH, tangent=False).path(cohort.y, train, rows, "")
    arrays = {"brainlm": tuple(8 * a for a in cohort.arrays["brainlm"]), "fc": cohort.arrays["fc"]}
    found = LinearLearner(replace(cohort, arrays=arrays), BOTH, tangent=False).path(10 * cohort.y + 3, train, rows, "")
    np.testing.assert_allclose(found, 10 * expected + 3, rtol=1e-9)


def test_same_bits_again_whatever_was_asked_before_and_however_many_threads():
    cohort = make_cohort(120, h=200)
    train, rows = divided(cohort)
    first, second = (LinearLearner(cohort, EVERY, tangent=False) for _ in range(2))
    with threadpool_limits(2):
        expected = first.path(cohort.y, train, rows, "a")
    with threadpool_limits(1):
        for seed in range(5):
            second.path(cohort.y, *divided(cohort, seed), f"{seed}")
        np.testing.assert_array_equal(second.path(cohort.y, train, rows, "b"), expected)


def test_an_effect_is_found_and_a_hopeless_penalty_still_orders_people():
    cohort = make_cohort(40, effect=1.0)
    train, rows = divided(cohort)
    path = LinearLearner(cohort, BOTH, tangent=False).path(cohort.y, train, rows, "")[::3]
    assert (np.diff(np.abs(path).mean(axis=1)) > 0).all()  # the weaker the penalty, the bolder the scores
    assert np.abs(path[0]).max() < 0.05
    for scores in path:
        positive, negative = scores[cohort.y[rows] == 1], scores[cohort.y[rows] == 0]
        assert (positive[:, None] > negative).mean() > 0.85


def test_eight_people_doubled_and_constant_features():
    cohort = make_cohort(8)
    train, rows = np.array([0, 1, 2, 3, 4, 5]), np.array([6, 7])
    cohort = replace(cohort, y=np.array([0, 1.0] * 4))
    expected = LinearLearner(cohort, ("brainlm",), tangent=False).path(cohort.y, train, rows, "")
    wide = tuple(np.concatenate([a, a, np.full((len(a), 1), 9, np.float32)], axis=1) for a in cohort.arrays["brainlm"])
    doubled = replace(cohort, arrays={"brainlm": wide, "flat": tuple(np.ones((1, 4), np.float32) for _ in wide)})
    found = LinearLearner(doubled, ("brainlm", "flat"), tangent=False).path(cohort.y, train, rows, "")
    np.testing.assert_allclose(found[::3], expected, rtol=1e-7)
    np.testing.assert_allclose(found[1::3], expected, rtol=1e-7)
    nothing = LinearLearner(doubled, ("flat",), tangent=False).path(cohort.y, train, rows, "")
    np.testing.assert_allclose(nothing, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "y", "message"),
    [
        ("classification", [0, 0, 0, 1], "all 3 are 0"),
        ("classification", [1, 1, 1, 0], "all 3 are 1"),
        ("regression", [2.5, 2.5, 2.5, 1], "all 3 are 2.5"),
    ],
)
def test_outcomes_that_do_not_differ_cannot_be_learnt_from(kind, y, message):
    learner = LinearLearner(make_cohort(4, kind=kind), BOTH, tangent=False)
    y = np.array(y, dtype=float)
    with pytest.raises(DataError, match=message):
        learner.path(y, np.arange(3), np.array([3]), "")
    with pytest.raises(DataError, match=message):
        learner.fit(y, np.arange(3), 0, "")
    with pytest.raises(DataError, match="there are none"):
        learner.path(y, np.arange(0), np.array([3]), "")


def test_another_cohort_must_hold_the_same_blocks():
    cohort = make_cohort(20)
    fitted = LinearLearner(cohort, EVERY, tangent=False).fit(cohort.y, np.arange(15), 2, "")
    assert np.isfinite(fitted.elsewhere(make_cohort(6, seed=5))).all()
    with pytest.raises(DataError, match="brainlm of the other cohort holds 7 numbers a row, expected 5"):
        fitted.elsewhere(make_cohort(6, h=7))
    with pytest.raises(DataError, match="no sites"):
        fitted.elsewhere(replace(cohort, sites=None))
    with pytest.raises(ValueError, match="no head can be made of covariates, motion, site"):
        fitted.head()


def windows_of(cohort, row, tangent):
    arrays = {name: cohort.arrays[name][row] for name in BOTH}
    if tangent is not None:
        arrays["fc"] = tangent.project(arrays["fc"])
    return {name: torch.tensor(array) for name, array in arrays.items()}


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_head_says_of_windows_on_average_what_the_model_says_of_a_session(kind, tangent, offset):
    cohort = make_cohort(20, kind=kind, windows=3)
    far = tuple(a + np.float32(offset) for a in cohort.arrays["brainlm"])
    cohort = replace(cohort, arrays={**cohort.arrays, "brainlm": far})
    train, rows = divided(cohort)
    fitted = LinearLearner(cohort, BOTH, tangent=tangent).fit(cohort.y, train, 5, "")
    made = fitted.head()
    assert made.spec == {"kind": "linear", "outputs": 2 if kind == "classification" else 1, "modalities": [*BOTH]}
    assert made.shapes == SHAPES
    assert (made.tangent is not None) == tangent
    assert all(t.dtype == torch.float32 for t in made.state.values())
    weights = made.state["weights.fc"]
    assert torch.equal(weights, weights.T)
    assert not weights.diagonal().any()
    head = filled_head(made.spec, made.shapes, made.state)
    scale = 1 if kind == "classification" else cohort.y.std()
    for row, score in zip(rows, fitted.scores(rows), strict=True):
        with torch.inference_mode():
            outputs = head(windows_of(cohort, row, made.tangent)).numpy().astype(float)
        if kind == "classification":
            np.testing.assert_array_equal(outputs[:, 0], -outputs[:, 1])
            outputs = outputs[:, 1] - outputs[:, 0]
        assert outputs.mean() == pytest.approx(score, abs=1e-5 * scale * max(1, offset / 10), rel=1e-5)


@pytest.mark.parametrize("tangent", [False, True])
def test_a_bundle_of_it_predicts_what_the_model_scores(tmp_path, encoder, tangent):
    cohort = make_cohort(20, effect=0.5)
    fitted = LinearLearner(cohort, BOTH, tangent=tangent).fit(cohort.y, np.arange(16), 4, "")
    made = fitted.head()
    recipe = Recipe(modalities=MODALITIES, connectivity=Connectivity("tangent" if tangent else "pearson"))
    given = parts(encoder, recipe=recipe, head_spec=made.spec, head=made.state, shapes=made.shapes, conformal=None)
    save_bundle(tmp_path / "model", **given, tangent=made.tangent)
    bundle = load_bundle(tmp_path / "model")
    predictor = Predictor(bundle)
    for row in (0, 17):
        run = features(bundle, windows=2, arrays={name: cohort.arrays[name][row] for name in BOTH})
        score = fitted.scores(np.array([row]))
        expected = calibrated(np.stack([-score / 2, score / 2], axis=1), bundle.calibration)
        assert predictor.predict("s", [run]).probability == pytest.approx(expected[0], abs=1e-6)


def test_the_head_alone_is_built_by_its_name():
    cohort = make_cohort(12)
    made = LinearLearner(cohort, ("fc",), tangent=False).fit(cohort.y, np.arange(10), 1, "").head()
    head = build_head(made.spec, made.shapes)
    assert {name: t.shape for name, t in head.state_dict().items()} == {n: t.shape for n, t in made.state.items()}


def test_each_block_alone_is_the_model_of_that_block():
    """Where one modality tells nothing, the inner folds can leave it out; its weights are then 0."""
    cohort = make_cohort(20)
    train, rows = divided(cohort)
    learner = LinearLearner(cohort, BOTH, tangent=False)
    path = learner.path(cohort.y, train, rows, "")
    for place, name in enumerate(BOTH):
        alone = LinearLearner(cohort, (name,), tangent=False).path(cohort.y, train, rows, "")
        np.testing.assert_array_equal(path[place + 1 :: 3], alone)
    head = learner.fit(cohort.y, train, 3 * 3 + 2, "").head()
    assert not head.state["weights.brainlm"].any()
    assert head.state["weights.fc"].any()
