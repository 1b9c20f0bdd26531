"""The trial plan of an analysis: out-of-fold judgements in, table and JSON out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bids_fmmtc.group.study import Study
from bids_fmmtc.learning.judging.evaluate import Final, Judgements
from bids_fmmtc.learning.trial.arm import Arm
from bids_fmmtc.learning.trial.enrich import plan_trial
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.evaluation import Evaluation
from bids_fmmtc.results.trial import Evidence, TrialOptions, TrialPlan
from bids_fmmtc.results.verdict import found_effect
from bids_fmmtc.settings import GroupSettings


def trial_options(asked: GroupSettings, seed: int) -> TrialOptions:
    """Return the trial that is asked for.

    Raises
    ------
    UsageError
        Numbers that make no trial.
    """
    return TrialOptions(
        power=asked.power,
        alpha=asked.alpha,
        ratio=asked.allocation,
        dropout=asked.dropout,
        control_rate=asked.control_rate,
        cost_scan=asked.cost_scan,
        cost_patient=asked.cost_patient,
        cost_screening=asked.cost_screening,
        currency=asked.currency,
        seed=seed,
    )


def planned(
    study: Study,
    judged: Judgements,
    final: Final,
    evaluation: Evaluation,
    options: TrialOptions,
    control_arm: str | None,
) -> TrialPlan:
    """Plan a trial in which only likely responders are enrolled.

    Parameters
    ----------
    judged
        Out-of-fold judgements of the cohort.
    final
        Judges the control arm where that was not learnt from.
    evaluation
        Whether the model found anything decides what the plan says.
    options
        What is planned, see `trial_options`.
    control_arm
        Name of an arm of the cohort, or of those set apart from it.
    """
    # Of the estimate what the plan says; how many draws were undefined stands in the evaluation.
    auroc = replace(evaluation.estimate("model") or Estimate(None), undefined_draws=0)
    evidence = Evidence(auroc, found_effect(evaluation), final.settled.threshold)
    drug, control = _arms(study, judged, final, control_arm)
    return plan_trial(drug, options, evidence, control)


def _arms(study: Study, judged: Judgements, final: Final, control_arm: str | None) -> tuple[Arm, Arm | None]:
    """Return the people under a drug and those of the control arm, each judged by models that never met them."""
    cohort = study.cohort
    n_train = len(cohort) * (1 - 1 / study.scheme.folds)
    theirs = np.array([control_arm is not None and arm == control_arm for arm in cohort.arms or cohort.keys])

    def some(rows: np.ndarray[Any, np.dtype[np.bool_]]) -> Arm:
        groups = [group for group, there in zip(cohort.groups, rows, strict=True) if there]
        label = None if judged.label is None else judged.label[:, rows]
        return Arm(judged.value[:, rows], cohort.y[rows], groups, n_train, label)

    if theirs.any():
        return some(~theirs), some(theirs)
    if study.control is None:
        return some(~theirs), None
    value, label = final.judge(study.control)
    return some(~theirs), Arm(value, study.control.y, study.control.groups, None, label)
