"""Arms and options of small trial plans."""

import numpy as np

from bids_fmmtc.learning.trial.arm import Arm
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.trial import Evidence, TrialOptions

GOOD = Evidence(Estimate(0.8, 0.7, 0.9), effect=True, threshold=0.5)
FEW = 400  # draws, enough for rough intervals


def options(**changes):
    return TrialOptions(**{"n_bootstrap": FEW, **changes})


def people(value, y, label=None, name="sub", n_train=None):
    return Arm(np.asarray(value, float), np.asarray(y, float), [f"{name}-{i}" for i in range(len(y))], n_train, label)


def ladder(rates, each=20, label_from=None, name="sub"):
    """Return an arm of len(rates) steps: ``each`` people judged alike, of whom this share responds."""
    steps = np.arange(1, len(rates) + 1) / (len(rates) + 1)
    y = np.concatenate([np.arange(each) < round(rate * each) for rate in rates])
    value = np.repeat(steps, each)
    label = None if label_from is None else (value >= steps[label_from]).astype(float)
    return people(value, y, label, name)


def row_of(plan, rule):
    return next(row for row in plan.enrichment if row.rule == rule)


def decision(plan):
    return row_of(plan, "decision")


def everybody(plan):
    return row_of(plan, "everybody")
