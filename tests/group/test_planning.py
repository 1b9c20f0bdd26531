"""Out-of-fold judgements become the arms of a planned trial, and every option of the command line reaches it."""

from types import SimpleNamespace

import numpy as np
import pytest
from group.parts import copied, evaluated, group_words, study

from bids_fmmtc.cli import parse
from bids_fmmtc.dataset.store import read_table
from bids_fmmtc.group import judging
from bids_fmmtc.group.planning import planned, trial_options
from bids_fmmtc.learning.judging.evaluate import final_model

COSTS = ("--control-rate", "0.2", "--cost-scan", "500", "--cost-patient", "20000", "--power", "0.8")


def judge(root, *words, outcome="responder"):
    """Everything that a plan is made from."""
    words = ("--permutations", "0", *words)
    found = study(root, *words, outcome=outcome)
    everyone = judging.judge_all(found)
    evaluation = evaluated(found, everyone, parse(group_words(root, *words, outcome=outcome), {}))
    final = final_model(judging.learner_of(everyone[0]), found.cohort, found.scheme.inner, "m")
    return SimpleNamespace(root=root, study=found, judged=judging.made(everyone[0]), final=final, evaluation=evaluation)


def plan(case, *words):
    given = parse(group_words(case.root, *words), {})
    options = trial_options(given.group, given.seed)
    return planned(case.study, case.judged, case.final, case.evaluation, options, given.group.control_arm)


@pytest.fixture(scope="module")
def case(made):
    return judge(made)


@pytest.fixture(scope="module")
def usual(case):
    return plan(case, *COSTS)


def everybody(found):
    """The trial without enrichment."""
    return found.enrichment[0].trial


def responders(root, learnt=lambda row: True):
    """Outcomes of people with features, as the table has them."""
    rows = read_table(root / "bids" / "participants.tsv")
    return np.array([float(r["responder"]) for r in rows if r["participant_id"] != "sub-23" and learnt(r)])


def test_a_given_rate_is_marked_as_such_and_everybody_is_who_was_judged(made, usual):
    assert usual.control == "given"
    first = usual.enrichment[0]
    assert (first.rule, first.share.value, first.people) == ("everybody", 1, 23)
    assert first.rate.value == responders(made).mean()
    assert first.control.value == 0.2


def test_without_any_control_there_are_no_sizes(made, case):
    found = plan(case)
    assert found.control == "none"
    assert all(row.trial is None and row.control is None for row in found.enrichment)
    assert found.enrichment[0].rate.value == responders(made).mean()


@pytest.mark.parametrize(("option", "value"), [("--power", "0.95"), ("--alpha", "0.01"), ("--control-rate", "0.3")])
def test_a_harder_question_takes_more_patients(case, usual, option, value):
    asked = dict(zip(COSTS[::2], COSTS[1::2], strict=True)) | {option: value}
    harder = plan(case, *(word for pair in asked.items() for word in pair))
    assert everybody(harder).enrolled.value > everybody(usual).enrolled.value
    assert harder.enrichment[0].rate == usual.enrichment[0].rate


def test_dropout_allocation_and_costs_reach_the_plan(case, usual):
    was = everybody(usual)
    lost = everybody(plan(case, *COSTS, "--dropout", "0.5"))
    assert lost.drug_arm == was.drug_arm
    assert lost.enrolled.value == pytest.approx(2 * was.enrolled.value, abs=2)
    uneven = everybody(plan(case, *COSTS, "--allocation", "3"))
    assert uneven.control_arm.value == pytest.approx(3 * uneven.drug_arm.value, abs=3)
    assert was.control_arm.value == was.drug_arm.value
    dearer = plan(case, *COSTS, "--cost-screening", "70", "--currency", "CHF")
    assert everybody(dearer).cost.value == pytest.approx(was.cost.value + 70 * was.screened.value)
    assert dearer.options.currency == "CHF"


def test_the_seed_moves_intervals_only(case, usual):
    other = plan(case, *COSTS, "--random-seed", "5")
    assert [row.rate.value for row in other.enrichment] == [row.rate.value for row in usual.enrichment]
    assert [row.rate.low for row in other.enrichment] != [row.rate.low for row in usual.enrichment]
    assert repr(plan(case, *COSTS)) == repr(usual)


def test_a_control_arm_is_its_own_people(made, case):
    """Learnt from with the drug's people, or judged by the final model: either way its rate is that of its people."""
    column = ("--arm-column", "arm", "--control-arm", "placebo")
    for words in (column, (*column, "--arm", "drug", "placebo")):
        found = plan(judge(made, *words), *words)
        first = found.enrichment[0]
        assert found.control == "control arm"
        drug, placebo = (responders(made, lambda r, arm=arm: r["arm"] == arm) for arm in ("drug", "placebo"))
        assert (first.people, first.rate.value) == (len(drug), drug.mean())
        assert first.control.value == placebo.mean()


def test_the_threshold_that_is_shown_is_the_final_models(case, usual):
    assert usual.evidence.threshold == case.final.settled.threshold
    assert usual.evidence.effect


def test_a_model_that_found_nothing_supports_no_trial(made):
    found = plan(judge(made, outcome="luck"), *COSTS)
    assert not found.evidence.effect
    assert found.verdict == "not supported"


def test_the_order_of_the_table_does_not_matter(made, usual, tmp_path):
    root = copied(made, tmp_path)
    table = root / "bids" / "participants.tsv"
    first, *rows = table.read_text().splitlines()
    table.write_text("\n".join([first, *rows[::-1]]) + "\n")
    assert repr(plan(judge(root), *COSTS)) == repr(usual)
