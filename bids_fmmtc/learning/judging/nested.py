"""Everything that is decided from the training part alone, and the judgement of the part left out.

The inner folds choose the setting (penalty, number of epochs), then calibration and decision threshold are fitted on
their out-of-fold scores at that setting, then the model is learnt anew from the whole training part. Nothing here
sees the outcome of a row that is judged: `judge` is given a copy of the outcomes in which those rows are blanked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_fmmtc.learning.bundle.calibrate import Calibration, calibrated
from bids_fmmtc.learning.folds import Fold, most_folds, rng_of, stratified_folds
from bids_fmmtc.learning.judging.decide import choose_threshold, fit_platt
from bids_fmmtc.learning.learner import Learner
from bids_fmmtc.types import Float64, OutcomeKind, Rows


@dataclass(frozen=True, slots=True)
class Inner:
    """How the training part is divided to decide on settings.

    Parameters
    ----------
    folds
        Wanted; fewer where the rarer class has fewer people.
    repeats
        Divisions of the same people; their losses are averaged.
    seed
        Of the divisions.
    """

    folds: int = 5
    repeats: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What the training part decided.

    Parameters
    ----------
    choice
        Setting of the learner.
    losses
        (C,) loss of every setting, out of inner folds.
    scores
        (repeats, n) out-of-fold scores at the chosen setting, in the order of the training rows.
    calibration, threshold
        See `bids_fmmtc.learning.bundle.calibrate`; None in regression.
    """

    choice: int
    losses: Float64
    scores: Float64
    calibration: Calibration | None
    threshold: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What a model says of rows it did not learn from.

    Parameters
    ----------
    rows
        Row numbers.
    value
        (n,) calibrated P(responder), or the predicted outcome.
    label
        (n,) 1 where the value reaches the training part's threshold; None in regression.
    """

    rows: Rows
    value: Float64
    label: Float64 | None
    settled: Settled


def settle(
    learner: Learner, y: Float64, groups: Sequence[str], kind: OutcomeKind, train: Rows, inner: Inner, name: str
) -> Settled:
    """Choose setting, calibration and threshold by cross-validation inside ``train``."""
    who = [groups[i] for i in train]
    k = most_folds(y[train], who, kind, inner.folds)
    divisions = [stratified_folds(y[train], who, kind, k, rng_of(inner.seed, name, r)) for r in range(inner.repeats)]
    scores = np.stack(
        [_out_of_fold(learner, y, train, folds, f"{name}/{r}") for r, folds in enumerate(divisions)]
    )  # (repeats, C, n)
    losses = np.array([loss(scores[:, c], y[train], kind) for c in range(scores.shape[1])])
    choice = int(np.argmin(losses))  # of equals the first: the strongest penalty, the fewest epochs
    chosen = scores[:, choice]
    if kind == "regression":
        return Settled(choice, losses, chosen, None, None)
    outcomes = np.tile(y[train], len(chosen))
    calibration = fit_platt(
        chosen.ravel(), outcomes, np.concatenate([_models(f, r * k) for r, f in enumerate(divisions)])
    )
    threshold = choose_threshold(probabilities(chosen.ravel(), calibration), outcomes)
    return Settled(choice, losses, chosen, calibration, threshold)


def _out_of_fold(learner: Learner, y: Float64, train: Rows, folds: Sequence[Fold], name: str) -> Float64:
    """Return (C, n) scores of the training rows, each by a model that did not learn from it."""
    paths = [learner.path(y, train[f.train], train[f.test], f"{name}/{i}") for i, f in enumerate(folds)]
    reached = min(len(path) for path in paths)  # settings that no fold stopped short of
    scores = np.empty((reached, len(train)))
    for fold, path in zip(folds, paths, strict=True):
        scores[:, fold.test] = path[:reached]
    return scores


def _models(folds: Sequence[Fold], first: int) -> Rows:
    """Return (n,) the number of the model that judged each row, from ``first`` on."""
    found = np.empty(sum(len(fold.test) for fold in folds), np.intp)
    for number, fold in enumerate(folds, first):
        found[fold.test] = number
    return found


def loss(scores: Float64, y: Float64, kind: OutcomeKind) -> float:
    """Return the mean loss of scores (..., n): log loss with both classes weighing the same, or squared error."""
    if kind == "regression":
        return float(np.mean((scores - y) ** 2))
    each = np.logaddexp(0, np.where(y == 1, -scores, scores))
    return float((each[..., y == 1].mean() + each[..., y == 0].mean()) / 2)


def judge(
    learner: Learner, y: Float64, groups: Sequence[str], kind: OutcomeKind, fold: Fold, inner: Inner, name: str
) -> Judgement:
    """Settle and learn on the training part of a fold, then judge its test part."""
    known = np.full(len(y), np.nan)
    known[fold.train] = y[fold.train]
    settled = settle(learner, known, groups, kind, fold.train, inner, f"{name}/inner")
    fitted = learner.fit(known, fold.train, settled.choice, f"{name}/fit")
    value, label = decided(settled, fitted.scores(fold.test))
    return Judgement(fold.test, value, label, settled)


def decided(settled: Settled, scores: Float64) -> tuple[Float64, Float64 | None]:
    """Turn scores into calibrated probabilities and labels; predicted outcomes stay as they are."""
    if settled.calibration is None or settled.threshold is None:
        return scores, None
    p = probabilities(scores, settled.calibration)
    return p, (p >= settled.threshold).astype(np.float64)


def probabilities(scores: Float64, calibration: Calibration) -> Float64:
    """Return calibrated P(responder) of scores, (n,) log-odds."""
    return calibrated(np.stack([-scores / 2, scores / 2], axis=1), calibration)
