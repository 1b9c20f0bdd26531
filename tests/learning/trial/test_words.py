"""Sentences follow from the numbers of a plan."""

from dataclasses import replace

import numpy as np
import pytest
from trial_parts import GOOD, decision, everybody, ladder, options, people

from bids_fmmtc.learning.trial import words
from bids_fmmtc.learning.trial.enrich import plan_trial, sample_size
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.trial import Evidence


def test_a_useless_predictor_is_not_praised():
    rng = np.random.default_rng(5)
    arm = people(rng.random((3, 60)), np.arange(60) % 2, (rng.random((3, 60)) < 0.5).astype(float))
    lucky = plan_trial(arm, options(control_rate=0.2), GOOD)
    assert abs(decision(lucky).rise.value) < 0.15
    assert lucky.verdict == "not supported"
    assert "does not exclude" in lucky.sentences[0]
    for evidence in (
        Evidence(Estimate(0.55, 0.41, 0.69), effect=True),
        Evidence(Estimate(0.7, 0.55, 0.8), effect=False),
    ):
        plan = plan_trial(arm, options(control_rate=0.2), evidence)
        assert plan.verdict == "not supported"
        assert len(plan.sentences) == 1
        assert f"AUROC {evidence.auroc.value:.2f}, 95 % interval {evidence.auroc.low:.2f}" in plan.sentences[0]


def test_a_trial_out_of_reach_is_said_to_be():
    arm = ladder([0.2, 0.5], label_from=1)
    worse = plan_trial(arm, options(control_rate=0.6), GOOD)
    assert "With enrichment no trial is reachable, nor without it." in worse.sentences
    only = plan_trial(arm, options(control_rate=0.36, cost_scan=1, cost_patient=9), GOOD)
    trial = decision(only).trial
    assert trial.fewer.value == trial.saving.value == np.inf
    assert trial.fewer.low <= 0
    assert any(s.startswith("Without enrichment no trial is reachable; with it") for s in only.sentences)
    cautious = next(s for s in only.sentences if s.startswith("Do not plan with"))
    assert f"{100 * (1 - trial.feasible):.0f} % of the draws" in cautious
    assert trial.enrolled.high == np.inf
    assert trial.fewer.as_stored()["reason"].startswith("value: no trial is reachable without enrichment")


def test_the_cautious_end_is_what_one_is_told_to_plan_with():
    plan = plan_trial(ladder([0.1, 0.8], each=40, label_from=1), options(control_rate=0.2), GOOD)
    trial = decision(plan).trial
    assert trial.enrolled.value < trial.enrolled.high < everybody(plan).trial.enrolled.high
    text = " ".join(plan.sentences)
    most = trial.enrolled_corrected.high if decision(plan).cautions else trial.enrolled.high
    assert f"Plan with {most:,.0f} patients" in text
    assert f"interval {trial.enrolled.low:,.0f} to {trial.enrolled.high:,.0f}" in text
    # The end of the interval is the size that the low end of the rate needs.
    low = sum(sample_size(decision(plan).rate.low, 0.2, options()))
    assert trial.enrolled.high == pytest.approx(low, rel=0.05)


def test_an_interval_that_touches_0_excludes_nothing():
    plan = plan_trial(ladder([0.1, 0.8], each=40, label_from=1), options(control_rate=0.2), GOOD)
    row = decision(plan)
    assert row.rise.low > 0
    assert "does not exclude" not in words._rate_sentence(everybody(plan), row)
    touching = replace(row, rise=replace(row.rise, low=0.0))
    assert "does not exclude that the rate is no higher" in words._rate_sentence(everybody(plan), touching)
