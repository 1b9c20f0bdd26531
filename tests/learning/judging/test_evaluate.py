"""Cross-validation, the permutation test, and the final model."""

import numpy as np
import pytest
from linear_parts import make_cohort

from bids_fmmtc.learning.judging.evaluate import Scheme, cross_validate, final_model, permutation_null
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION
from bids_fmmtc.learning.judging.nested import Inner
from bids_fmmtc.learning.learners.linear import LinearLearner
from bids_fmmtc.learning.ledger import Ledger
from bids_fmmtc.plain import to_json


def scheme(**changes):
    return Scheme(**{"folds": 3, "repeats": 2, "inner": Inner(3), "seed": 1, **changes})


def learner_of(cohort):
    return LinearLearner(cohort, ("brainlm", "fc"), tangent=False)


def statistic(y, judged):
    return float(CLASSIFICATION["auroc"](y, judged, np.ones((1, len(y))))[0])


def test_everybody_is_judged_once_a_repeat_by_the_fold_that_left_them_out():
    cohort = make_cohort(n=24, effect=2.0)
    plan = scheme()
    divisions = plan.divisions(cohort)
    found = cross_validate(learner_of(cohort), cohort, divisions, plan.inner, "t")
    assert found.value.shape == (2, 24)
    assert np.isfinite(found.value).all()
    assert statistic(cohort.y, found) > 0.9
    for r, folds in enumerate(divisions):
        for k, fold in enumerate(folds):
            assert (found.fold[r, fold.test] == k).all()
    assert [len(s) for s in found.settings] == [3, 3]


def test_it_repeats_to_the_bit_and_seeds_matter():
    cohort = make_cohort(n=24)
    one, two, other = (
        cross_validate(learner_of(cohort), cohort, p.divisions(cohort), p.inner, "t").value
        for p in (scheme(), scheme(), scheme(seed=2))
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_permuted_cohorts_know_nothing_and_true_ones_do(tmp_path):
    cohort = make_cohort(n=24, effect=2.0)
    said = []
    ledger = Ledger(tmp_path, "d")
    null = permutation_null(learner_of(cohort), cohort, scheme(repeats=1), statistic, 30, ledger, said.append)
    assert abs(null.mean() - 0.5) < 0.1
    true = cross_validate(learner_of(cohort), cohort, scheme(repeats=1).divisions(cohort), Inner(3), "t")
    assert statistic(cohort.y, true) > null.max()
    assert said[-1] == "30 of 30 permutations"


def test_a_killed_permutation_test_goes_on_to_the_same_numbers(tmp_path):
    cohort = make_cohort(n=18)
    plan = scheme(repeats=1, folds=2, inner=Inner(2))
    whole = permutation_null(learner_of(cohort), cohort, plan, statistic, 30, Ledger(None, ""), lambda _: None)

    class KilledError(Exception):
        pass

    def kill(line):
        raise KilledError

    ledger = Ledger(tmp_path, "d")
    with pytest.raises(KilledError):
        permutation_null(learner_of(cohort), cohort, plan, statistic, 30, ledger, kill)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    again = permutation_null(learner_of(cohort), cohort, plan, statistic, 30, ledger, lambda _: None)
    np.testing.assert_array_equal(whole, again)


def test_families_move_together_in_permutations():
    cohort = make_cohort(n=24)
    from dataclasses import replace

    families = tuple(f"f{i // 2}" for i in range(24))
    y = np.repeat(np.tile([0.0, 1.0], 6), 2)
    cohort = replace(cohort, groups=families, y=y)
    seen = []

    def spy(y, judged):
        seen.append(y)
        return 0.0

    permutation_null(learner_of(cohort), cohort, scheme(repeats=1), spy, 3, Ledger(None, ""), lambda _: None)
    assert all((y[::2] == y[1::2]).all() and y.sum() == 12 for y in seen)


def test_the_final_model_learns_from_everybody_and_judges_others():
    cohort, other = make_cohort(n=30, effect=2.0), make_cohort(n=20, seed=3, effect=2.0)
    final = final_model(learner_of(cohort), cohort, Inner(3), "t")
    value, label = final.judge(other)
    assert set(to_json(final.setting)) - {"edge"} == {"penalty", "blocks"}
    assert ((label == 1) == (value >= final.settled.threshold)).all()
    assert (label == other.y).mean() > 0.8
