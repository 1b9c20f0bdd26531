from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_parts import H, R, changed, make_cohort

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.learners import blocks
from bids_fmmtc.learning.learners.blocks import STATISTICS, block_of
from bids_fmmtc.modalities.connectivity import TangentReference

COHORT = make_cohort()
TRAIN = np.arange(0, 24, 2)
NAMES = ("brainlm", "fc", "tangent", *STATISTICS)


def block(name, cohort=COHORT):
    return block_of(cohort, "fc" if name == "tangent" else name, tangent=name == "tangent")


def test_modalities_are_means_over_windows_and_connectivity_its_edges_once():
    vectors = block("brainlm").transform(TRAIN)(COHORT)
    np.testing.assert_allclose(vectors, [a.mean(axis=0) for a in COHORT.arrays["brainlm"]], rtol=1e-6)
    edges = block("fc").transform(TRAIN)(COHORT)
    assert edges.shape == (24, R * (R - 1) // 2)
    matrix = COHORT.arrays["fc"][3].mean(axis=0)
    np.testing.assert_allclose(edges[3], [matrix[i, j] for i in range(R) for j in range(i + 1, R)], rtol=1e-6)


def test_tangent_space_is_about_the_training_windows():
    windows = np.concatenate([COHORT.arrays["fc"][i] for i in TRAIN])
    transform = block("tangent").transform(TRAIN)
    reference = TangentReference.fit(windows)
    np.testing.assert_array_equal(transform.reference.mean, reference.mean)
    projected = reference.project(COHORT.arrays["fc"][5]).mean(axis=0)
    np.testing.assert_allclose(transform(COHORT)[5], projected[np.triu_indices(R, 1)], rtol=1e-5, atol=1e-7)


def test_covariates_are_imputed_and_standardised_as_by_scikit_learn():
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    other = make_cohort(10, seed=3)
    for name, columns in (
        ("covariates", lambda c: np.hstack([c.covariates["age"], c.covariates["sex"]])),
        ("motion", lambda c: c.motion[:, None]),
    ):
        expected = make_pipeline(SimpleImputer(), StandardScaler()).fit(columns(COHORT)[TRAIN])
        transform = block(name).transform(TRAIN)
        for cohort in (COHORT, other):
            np.testing.assert_allclose(transform(cohort), expected.transform(columns(cohort)), atol=1e-12)
    reordered = replace(other, covariates=dict(reversed(other.covariates.items())))
    transform = block("covariates").transform(TRAIN)
    np.testing.assert_array_equal(transform(reordered), transform(other))


def test_columns_that_do_not_vary_or_are_unknown_are_zero_for_everybody():
    n = len(COHORT)
    unknown, constant = np.full((n, 1), np.nan), np.full((n, 1), 0.1)
    unknown[1], constant[1] = 5, 7  # not a training row
    cohort = replace(COHORT, covariates={"unknown": unknown, "constant": constant})
    one = block("covariates", cohort)
    np.testing.assert_array_equal(one.transform(TRAIN)(cohort), np.zeros((n, 2)))
    assert one.centred(TRAIN)[1] == 0


@pytest.mark.parametrize("value", [3.0, -40.0, 1e-9, 1e9])
def test_a_covariate_with_one_known_value_tells_nothing(value):
    """Its mean is that value and it has no spread; people of whom more is known are not told apart by it either."""
    n = len(COHORT)
    once = np.full((n, 1), np.nan)
    once[TRAIN[3]] = value
    once[1], once[3] = value + 1, -value  # not training rows
    cohort = replace(COHORT, covariates={"once": once})
    one = block("covariates", cohort)
    np.testing.assert_array_equal(one.transform(TRAIN)(cohort), np.zeros((n, 1)))
    assert one.centred(TRAIN)[1] == 0


def test_two_known_values_are_about_their_mean_over_everybody_learnt_from():
    twice = np.full((len(COHORT), 1), np.nan)
    twice[TRAIN[:2], 0] = 10, 14
    cohort = replace(COHORT, covariates={"twice": twice})
    found = block("covariates", cohort).transform(TRAIN)(cohort)[TRAIN, 0]
    # The others are taken to be 12, so the variance of all is 2 * 2 ** 2 / 12.
    np.testing.assert_allclose(found, np.array([-2, 2] + [0] * 10) / np.sqrt(8 / 12), rtol=1e-12)


def test_sites_are_those_of_the_training_rows():
    cohort = replace(COHORT, sites=("b", "c", *["a", "b"] * 11))
    np.testing.assert_array_equal(
        block("site", cohort).transform(np.arange(2, 24))(cohort)[:4], [[0, 1], [0, 0], [1, 0], [0, 1]]
    )


@pytest.mark.parametrize("name", NAMES)
def test_inner_products_are_those_of_centred_features(name):
    one = block(name)
    data = one.transform(TRAIN)(COHORT)
    centred = data - data[TRAIN].mean(axis=0)
    products, scale = one.centred(TRAIN)
    np.testing.assert_allclose(products, centred @ centred[TRAIN].T, rtol=1e-9, atol=1e-9)
    assert scale * np.mean((centred[TRAIN] ** 2).sum(axis=1)) == pytest.approx(1)


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(NAMES), st.integers(0, 999))
def test_only_training_rows_are_estimated_on(name, seed):
    train = np.sort(np.random.default_rng(seed).permutation(24)[:12])
    kept = np.append(train, np.setdiff1d(np.arange(24), train)[0])
    other = changed(COHORT, np.setdiff1d(np.arange(24), kept), seed)
    mine, theirs = block(name), block(name, other)
    assert mine.centred(train)[1] == pytest.approx(theirs.centred(train)[1], rel=1e-9)
    np.testing.assert_allclose(mine.centred(train)[0][kept], theirs.centred(train)[0][kept], rtol=1e-9, atol=1e-9)
    people = make_cohort(5, seed=77)
    np.testing.assert_allclose(mine.transform(train)(people), theirs.transform(train)(people), rtol=1e-9, atol=1e-12)


def test_features_that_differ_by_rounding_only_are_constant():
    rng = np.random.default_rng(0)
    first = rng.standard_normal(H).astype(np.float32)
    rows = [np.nextafter(first, first + rng.choice([-1, 1]), dtype=np.float32)[None] for _ in range(24)]
    same = replace(COHORT, arrays={"brainlm": tuple(rows)})
    assert block("brainlm", same).centred(TRAIN)[1] == 0
    rows[2] = rows[2] * np.float32(1.001)
    assert block("brainlm", replace(same, arrays={"brainlm": tuple(rows)})).centred(TRAIN)[1] > 0


def test_nothing_is_computed_twice_and_little_is_kept(monkeypatch):
    calls = []
    estimate = blocks._tangent
    monkeypatch.setattr(blocks, "_tangent", lambda *a: calls.append(1) or estimate(*a))
    monkeypatch.setattr(blocks, "KEPT", 3)
    one = block("tangent")
    for _ in range(2):
        for last in (10, 11, 12):
            one.centred(np.arange(last))
    assert len(calls) == 3
    one.centred(np.arange(10))  # the latest
    one.centred(np.arange(13))  # pushes out the oldest, 11
    assert len(one._kept) == 3
    one.centred(np.arange(10))
    assert len(calls) == 4
    one.centred(np.arange(11))
    assert len(calls) == 5
    plain = block("fc")
    for last in (10, 11, 12):
        plain.centred(np.arange(last))
    assert len(plain._kept) == 1


def test_what_a_cohort_does_not_hold_is_said():
    with pytest.raises(DataError, match="no features 'structure'; known are brainlm, fc, covariates, motion, site"):
        block("structure")
    with pytest.raises(DataError, match="no covariates"):
        block("covariates", replace(COHORT, covariates={}))
    with pytest.raises(DataError, match="no sites"):
        block("site", replace(COHORT, sites=None))
    other = replace(COHORT, covariates={"age": COHORT.covariates["age"]})
    with pytest.raises(DataError, match="no covariates sex"):
        block("covariates").transform(TRAIN)(other)
    with pytest.raises(DataError, match="make 4 columns, expected 3"):
        block("covariates").transform(TRAIN)(replace(COHORT, covariates={"age": np.ones(24), "sex": np.ones((24, 3))}))
    with pytest.raises(DataError, match="no features 'fc'; it holds brainlm"):
        block("fc").transform(TRAIN)(replace(COHORT, arrays={"brainlm": COHORT.arrays["brainlm"]}))
    broken = tuple(a * (np.nan if i == 4 else 1) for i, a in enumerate(COHORT.arrays["fc"]))
    with pytest.raises(DataError, match="fc holds values that are not finite"):
        block("fc", replace(COHORT, arrays={"fc": broken})).centred(TRAIN)
