"""What the protocol promises, held by every learner there is."""

import numpy as np
import pytest
from linear_parts import make_cohort

from bids_fmmtc.learning.judging.contestants import LEARNERS, ConstantLearner, Setup
from bids_fmmtc.results.evaluation import Setting

RESNET = {"width": 4, "embedding_size": 4, "hidden_sizes": [4, 4], "depths": [1, 1]}
TRAIN, ROWS = np.arange(14), np.arange(14, 20)


@pytest.fixture(scope="module", params=["linear", "fmmtc", "constant"])
def case(request):
    cohort = make_cohort(n=20, effect=1.0)
    if request.param == "constant":
        return cohort, ConstantLearner(cohort)
    options = {} if request.param == "linear" else {"epochs": 3, "resnet": RESNET}
    return cohort, LEARNERS[request.param](cohort, ("brainlm", "fc"), Setup(request.param, options=options))


def test_a_path_has_a_line_for_each_setting(case):
    cohort, learner = case
    path = learner.path(cohort.y, TRAIN, ROWS, "a")
    assert 1 <= len(path) <= learner.choices
    assert path.shape[1] == len(ROWS)
    assert np.isfinite(path).all()
    np.testing.assert_array_equal(path, learner.path(cohort.y, TRAIN, ROWS, "a"))


def test_a_fit_scores_its_own_rows_as_it_scores_them_elsewhere(case):
    cohort, learner = case
    fitted = learner.fit(cohort.y, TRAIN, 0, "b")
    own = fitted.scores(ROWS)
    np.testing.assert_allclose(own, fitted.elsewhere(cohort.take(ROWS)), rtol=1e-5, atol=1e-6)
    assert isinstance(learner.describe(0), Setting)


def test_outcomes_outside_the_training_rows_do_not_reach_a_fit(case):
    cohort, learner = case
    other = cohort.y.copy()
    other[ROWS] = np.nan
    one, two = (learner.fit(y, TRAIN, 0, "c").scores(ROWS) for y in (cohort.y, other))
    np.testing.assert_array_equal(one, two)
