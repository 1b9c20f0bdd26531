"""Out-of-fold judgements become the arms of a planned trial."""

import numpy as np
from group.parts import group_words, study

from bids_fmmtc.cli import parse
from bids_fmmtc.group import judging
from bids_fmmtc.group.planning import planned
from bids_fmmtc.learning.judging.evaluate import final_model


def plan(root, *words):
    settings = parse(group_words(root, "--permutations", "0", *words), {})
    found = study(root, "--permutations", "0", *words)
    everyone = judging.judge_all(found)
    evaluation = judging.evaluation(found, everyone, settings)
    final = final_model(judging.learner_of(everyone[0]), found.cohort, found.scheme.inner, "m")
    return planned(found, judging.made(everyone[0]), final, evaluation, settings)


def test_a_given_rate_is_marked_as_such(made):
    found = plan(made, "--control-rate", "0.2", "--cost-scan", "500", "--cost-patient", "20000").to_json()
    assert found["control"] == "given"
    everybody = found["enrichment"][0]
    assert everybody["trial"]["enrolled"]["value"] > 0
    assert everybody["share"]["value"] == 1


def test_without_any_control_there_are_no_sizes(made):
    found = plan(made).to_json()
    assert found["control"] == "none"
    assert all(row["trial"] is None for row in found["enrichment"])
    assert np.isfinite(found["enrichment"][0]["rate"]["value"])


def test_a_control_arm_is_judged_by_the_final_model(made):
    found = plan(made, "--arm-column", "arm", "--control-arm", "placebo").to_json()
    assert found["control"] == "control arm"
    inside = plan(made, "--arm-column", "arm", "--arm", "drug", "placebo", "--control-arm", "placebo").to_json()
    assert inside["control"] == "control arm"
