"""What the training part decides, and that it cannot see the part left out."""

import numpy as np
import pytest
from linear_parts import make_cohort

from bids_fmmtc.learning.bundle.calibrate import Calibration
from bids_fmmtc.learning.folds import Fold
from bids_fmmtc.learning.judging.nested import Inner, judge, loss, probabilities, settle
from bids_fmmtc.learning.learners.linear import LinearLearner


class Spy:
    """A learner of one number a person that notes which outcomes it was shown."""

    choices = 3

    def __init__(self, x):
        self.x, self.seen = x, []

    def path(self, y, train, rows, name):
        self.seen.append((y.copy(), train.copy(), rows.copy()))
        return np.outer((0.1, 1.0, -1.0), self.x[rows])

    def fit(self, y, train, choice, name):
        self.seen.append((y.copy(), train.copy(), np.array([], int)))
        return Fit(self.x * (0.1, 1.0, -1.0)[choice])

    def describe(self, choice):
        return {"choice": choice}


class Fit:
    def __init__(self, s):
        self.s = s

    def scores(self, rows):
        return self.s[rows]


@pytest.fixture
def people():
    y = np.tile([0.0, 1.0], 12)
    x = 2 * y - 1 + 0.2 * np.random.default_rng(0).standard_normal(24)
    fold = Fold(np.arange(18), np.arange(18, 24))
    return Spy(x), y, [f"s{i}" for i in range(24)], fold


def test_the_setting_with_the_least_loss_is_chosen(people):
    spy, y, groups, fold = people
    found = judge(spy, y, groups, "classification", fold, Inner(3), "t")
    assert found.settled.choice == 1
    assert found.rows.tolist() == fold.test.tolist()
    assert (found.label == y[fold.test]).all()
    assert found.settled.losses.argmin() == 1


def test_outcomes_of_judged_rows_are_blank_to_the_learner(people):
    spy, y, groups, fold = people
    judge(spy, y, groups, "classification", fold, Inner(3), "t")
    for shown, train, rows in spy.seen:
        assert np.isnan(shown[fold.test]).all()
        assert set(train) <= set(fold.train)
        assert not set(train) & set(rows)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_nothing_that_is_decided_moves_with_the_part_left_out(kind):
    """Outcomes and features of the test part may be anything: setting, calibration, threshold and model stay."""
    from dataclasses import replace

    cohort = make_cohort(n=30, effect=1.0, kind=kind)
    fold = Fold(np.arange(24), np.arange(24, 30))
    other = make_cohort(n=30, seed=5, kind=kind)
    moved = {k: (*v[:24], *other.arrays[k][24:]) for k, v in cohort.arrays.items()}
    changed = replace(cohort, arrays=moved, y=np.concatenate([cohort.y[:24], 1 - cohort.y[24:]]))
    for tangent in (False, True):
        one, two = (
            judge(LinearLearner(c, ("brainlm", "fc"), tangent=tangent), c.y, c.groups, kind, fold, Inner(4), "t")
            for c in (cohort, changed)
        )
        assert one.settled.choice == two.settled.choice
        assert one.settled.calibration == two.settled.calibration
        assert one.settled.threshold == two.settled.threshold
        np.testing.assert_array_equal(one.settled.scores, two.settled.scores)


def test_paths_that_stop_early_are_compared_as_far_as_all_went(people):
    spy, y, groups, fold = people
    whole = spy.path
    lengths = iter([3, 1, 2])
    spy.path = lambda *words: whole(*words)[: next(lengths)]
    assert settle(spy, y, groups, "classification", fold.train, Inner(3), "t").losses.shape == (1,)


def test_repeats_average_losses(people):
    spy, y, groups, fold = people
    found = settle(spy, y, groups, "classification", fold.train, Inner(3, repeats=4), "t")
    assert found.scores.shape == (4, 18)


def test_classes_weigh_the_same_in_the_loss():
    y = np.array([1.0, 0, 0, 0])
    assert loss(np.array([0.0, 0, 0, 0]), y, "classification") == pytest.approx(np.log(2))
    wrong_responder, wrong_other = np.array([-9.0, 0, 0, 0]), np.array([0.0, 9, 9, 9])
    assert loss(wrong_responder, y, "classification") == pytest.approx(loss(wrong_other, y, "classification"))
    assert loss(np.array([1.0, 3.0]), np.array([0.0, 1.0]), "regression") == 2.5


def test_probabilities_follow_the_calibration():
    p = probabilities(np.array([-1.0, 0.0, 2.0]), Calibration("platt", 2.0, 0.5))
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-(2 * np.array([-1.0, 0, 2]) + 0.5))))
