"""What stands beside the model, and why something cannot run."""

from dataclasses import replace

import numpy as np
import pytest
from linear_parts import make_cohort

from bids_fmmtc.learning.judging.contestants import AMPLITUDE, RANDOM, ConstantLearner, Setup, contestants, learnt_from


def by_name(cohort, **setup):
    return {c.name: c for c in contestants(cohort, Setup(**setup))}


@pytest.fixture
def cohort():
    return make_cohort(n=12)


def test_the_model_comes_first_and_everything_that_can_run_has_a_learner(cohort):
    found = contestants(cohort, Setup())
    assert found[0].name == "model"
    for each in found:
        assert (each.learner is None) == bool(each.reason), each.name
    running = {c.name for c in found if c.learner is not None}
    assert running == {"model", "t_only", "c_only", "majority", "covariates", "motion", "site"}


def test_an_untrained_encoder_runs_where_its_vectors_are_there(cohort):
    more = {**cohort.arrays, "brainlm" + RANDOM: cohort.arrays["brainlm"]}
    found = by_name(replace(cohort, arrays=more))
    assert found["random_encoder"].learner is not None
    # The model itself never reads them.
    y, train, rows = cohort.y, np.arange(8), np.arange(8, 12)
    np.testing.assert_array_equal(
        found["model"].learner.path(y, train, rows, ""), by_name(cohort)["model"].learner.path(y, train, rows, "")
    )


def test_connectivity_alone_has_no_ablation(cohort):
    found = by_name(replace(cohort, arrays={"fc": cohort.arrays["fc"]}))
    assert found["model"].learner is not None
    assert found["t_only"].reason.startswith("the features hold no encoder's array")
    assert found["c_only"].learner is None
    assert found["random_encoder"].learner is None


def test_an_encoder_alone_has_nothing_to_set_against_connectivity(cohort):
    found = by_name(replace(cohort, arrays={"brainlm": cohort.arrays["brainlm"]}))
    assert found["fc_linear"].reason == "the features hold no connectivity"
    assert found["c_only"].reason == "the features hold no connectivity"
    assert found["t_only"].reason == "all there is: the model itself"
    assert found["model"].learner is not None


def test_the_published_head_is_compared_with_linear_connectivity(cohort):
    found = by_name(cohort, head="fmmtc", options={"epochs": 2, "resnet": {"hidden_sizes": [8, 8, 8, 8]}})
    assert found["fc_linear"].learner is not None
    assert type(found["t_only"].learner).__name__ == "NetworkLearner"


def test_what_nobody_knows_cannot_be_a_baseline(cohort):
    blank = replace(cohort, motion=np.full(12, np.nan), sites=None, covariates={})
    found = by_name(blank)
    assert found["motion"].reason == "motion is unknown for everybody"
    assert found["site"].reason == "no --site-column was given"
    assert found["covariates"].reason == "no --covariates were given"
    assert by_name(replace(cohort, sites=("a",) * 12))["site"].reason == "there is one site"


def test_a_constant_learner_says_the_same_of_everybody(cohort):
    learner = ConstantLearner(replace(cohort, kind="regression", y=np.arange(12.0)))
    fitted = learner.fit(np.arange(12.0), np.arange(4), 0, "")
    assert fitted.scores(np.arange(4, 12)).tolist() == [1.5] * 8
    assert fitted.elsewhere(make_cohort(n=10)).tolist() == [1.5] * 10
    assert ConstantLearner(cohort).path(cohort.y, np.arange(4), np.arange(4, 12), "").tolist() == [[0.0] * 8]
    with pytest.raises(ValueError, match="no head"):
        fitted.head()


def test_amplitude_stands_beside_the_model_and_is_never_learnt_from_by_it(cohort):
    assert by_name(cohort)["amplitude"].reason == "needs the parcel series"
    rng = np.random.default_rng(0)
    more = {name: tuple(rng.standard_normal((1, 5)).astype(np.float32) for _ in range(12)) for name in AMPLITUDE}
    whole = replace(cohort, arrays={**cohort.arrays, **more})
    assert learnt_from(whole) == tuple(cohort.arrays)
    found = by_name(whole)
    y, train, rows = cohort.y, np.arange(8), np.arange(8, 12)
    path = found["amplitude"].learner.path(y, train, rows, "")
    assert np.ptp(path, axis=1).max() > 0
    for name in ("model", "t_only", "c_only"):
        expected = by_name(cohort)[name].learner.path(y, train, rows, "")
        np.testing.assert_array_equal(found[name].learner.path(y, train, rows, ""), expected)
