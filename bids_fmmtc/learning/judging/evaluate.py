"""Repeated, grouped, nested cross-validation; the permutation test of all of it; other cohorts.

Every model that is compared is judged on the same folds. A person's judgement always comes from a model that learnt
from nobody of the person's group, with settings, calibration and threshold decided without them (`nested`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.learning.folds import Fold, permuted_rows, rng_of, stratified_folds
from bids_fmmtc.learning.judging.nested import Inner, Judgement, Settled, decided, judge, settle
from bids_fmmtc.learning.learner import Fitted, Learner
from bids_fmmtc.learning.ledger import Ledger
from bids_fmmtc.learning.progress import duration
from bids_fmmtc.results.evaluation import Setting
from bids_fmmtc.types import Cohort, Float64

CHUNK = 25  # permutations kept on disk together

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a cohort is divided: ``repeats`` times into ``folds``, and each training part again by ``inner``."""

    folds: int = 5
    repeats: int = 5
    inner: Inner = field(default_factory=Inner)
    seed: int = 0

    def divisions(self, cohort: Cohort) -> list[list[Fold]]:
        """Return the folds of every repeat; the same for every model that is compared."""
        return [
            stratified_folds(cohort.y, cohort.groups, cohort.kind, self.folds, rng_of(self.seed, "outer", r))
            for r in range(self.repeats)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Judgements:
    """Out-of-fold judgements of every row, R repeats.

    Parameters
    ----------
    value
        (R, N) calibrated P(responder), or predicted outcomes.
    label
        (R, N) 0 or 1 by the threshold of each fold; None in regression.
    fold
        (R, N) which fold's model judged the row; -1 where none did, and the value is NaN.
    settings
        What each repeat's folds chose, R lists.
    """

    value: Float64
    label: Float64 | None
    fold: NDArray[np.intp]
    settings: tuple[tuple[Setting, ...], ...]


def cross_validate(
    learner: Learner, cohort: Cohort, divisions: Sequence[Sequence[Fold]], inner: Inner, name: str
) -> Judgements:
    """Judge every row once a repeat by a model that did not learn from its group."""
    n, repeats = len(cohort), len(divisions)
    value, fold_of = np.full((repeats, n), np.nan), np.full((repeats, n), -1, np.intp)
    label = np.full((repeats, n), np.nan) if cohort.kind == "classification" else None
    settings = []
    _announce(learner, sum(map(len, divisions)), inner)
    for r, folds in enumerate(divisions):
        done = []
        for k, fold in enumerate(folds):
            found = judge(learner, cohort.y, cohort.groups, cohort.kind, fold, inner, f"{name}/repeat-{r}/fold-{k}")
            _enter(found, value[r], None if label is None else label[r])
            fold_of[r, fold.test] = k
            done.append(learner.describe(found.settled.choice))
        settings.append(tuple(done))
    return Judgements(value, label, fold_of, tuple(settings))


def _announce(learner: Learner, judgements: int, inner: Inner) -> None:
    """Tell a learner that trains by epochs how many runs lie ahead, so that it can say how long they will take."""
    plan = getattr(learner, "plan", None)
    if plan is not None:
        plan(judgements * (inner.folds * inner.repeats + 1))


def _enter(found: Judgement, value: Float64, label: Float64 | None) -> None:
    value[found.rows] = found.value
    if label is not None and found.label is not None:
        label[found.rows] = found.label


def permutation_null(
    learner: Learner,
    cohort: Cohort,
    scheme: Scheme,
    statistic: Callable[[Float64, Judgements], float],
    n: int,
    ledger: Ledger,
    say: Say,
) -> Float64:
    """Return (n,) statistics of the whole procedure on cohorts whose outcomes were dealt out anew.

    People, as whole groups, take each other's places: outcomes stay with the folds they were stratified for, so that
    a permuted cohort is divided exactly as well as the true one. Settings, calibration and thresholds are decided
    anew in each (Ojala and Garriga 2010, test 1).

    Parameters
    ----------
    statistic
        Number of outcomes (N,) and judgements; larger is better.
    """
    divisions = scheme.divisions(cohort)

    def one(i: int) -> float:
        moved = permuted_rows(cohort.groups, rng_of(scheme.seed, "permutation", i))
        y = np.empty(len(cohort))
        y[moved] = cohort.y
        dealt = [[Fold(np.sort(moved[f.train]), np.sort(moved[f.test])) for f in folds] for folds in divisions]
        permuted = replace(cohort, y=y)
        return statistic(y, cross_validate(learner, permuted, dealt, scheme.inner, f"permutation-{i}"))

    null, began = np.empty(n), time.monotonic()
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        # The whole list at once: what a killed run had finished is not done again.
        compute = partial(_statistics, one, range(start, stop))
        null[start:stop] = ledger.once(f"permutations/{start}-{stop}", compute)["null"]
        left = (time.monotonic() - began) / stop * (n - stop)
        say(f"{stop} of {n} permutations" + (f", about {duration(left)} left" if left > 1 else ""))
    return null


def _statistics(one: Callable[[int], float], numbers: Sequence[int]) -> dict[str, Float64]:
    return {"null": np.array([one(i) for i in numbers])}


@dataclass(frozen=True, slots=True, eq=False)
class Final:
    """A model learnt from the whole cohort, with what its out-of-fold scores decided."""

    fitted: Fitted
    settled: Settled
    setting: Setting

    def judge(self, other: Cohort) -> tuple[Float64, Float64 | None]:
        """Return value and label, (M,) each, of another cohort, with nothing refitted."""
        return decided(self.settled, self.fitted.elsewhere(other))


def final_model(learner: Learner, cohort: Cohort, inner: Inner, name: str) -> Final:
    """Choose the setting by cross-validation on everybody, then learn from everybody."""
    rows = np.arange(len(cohort))
    _announce(learner, 1, inner)
    settled = settle(learner, cohort.y, cohort.groups, cohort.kind, rows, inner, f"{name}/final")
    fitted = learner.fit(cohort.y, rows, settled.choice, f"{name}/final/fit")
    return Final(fitted, settled, learner.describe(settled.choice))
