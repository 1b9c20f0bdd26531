"""Fits what `learning.bundle.calibrate` applies: calibration, threshold, conformal quantiles, reference ranges.

All but the reference are fitted on out-of-fold values: one number a session, given by a model that never saw the
session's group. Take them from one repetition of the folds. A mean over repetitions is steadier than the one model
that a bundle holds, and a calibration fitted on it would be too sure.

The models behind out-of-fold scores each lack a fold, and the bundle's model lacks none. So what holds exactly for
split-conformal prediction holds here nearly (cross-conformal prediction, Vovk 2015, doi:10.1007/s10472-013-9368-4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_fmmtc.learning.bundle.calibrate import Calibration, Conformal, Limits, is_number
from bids_fmmtc.quality import ABOUT, Quality
from bids_fmmtc.types import Float64

SLOPE_SCALE = 1.25
"""Scale of the Cauchy prior on the slope, per standard deviation of the scores."""
INTERCEPT_SCALE = 10.0
"""Scale of the Cauchy prior on the log-odds at the mean score."""
LEAST_SLOPE = 1e-3
"""Least slope per standard deviation of the scores: no evidence, but the order of the scores is kept."""
NEAR = 0.5
"""How many standard errors of the best balanced accuracy a threshold may give away to lie nearer to the base rate."""


def fit_platt(scores: ArrayLike, y: ArrayLike, fold: NDArray[np.intp] | None = None) -> Calibration:
    """Fit P(second class) as a logistic function of the score (Platt 1999), with a weak prior.

    The prior on the slope is Cauchy on scores of unit standard deviation (Gelman et al. 2008,
    doi:10.1214/08-AOAS191): finite under perfect separation, and hardly felt by 40 people who overlap. Platt's own
    smoothed targets were tried and left: with 40 to 80 people and scores that separate well (AUROC 0.998) they gave
    slopes less than half of the true ones. A falling line is not fitted: out of fold, noise scores rank people
    backwards as often as not, and more often in cross-validation. The slope then is `LEAST_SLOPE`, so everybody gets
    about the base rate and the order of the scores stays.

    Out-of-fold scores come from several models, each of which is off by a constant of its own. Pooled as they are they
    part the classes less than any one model does, and the bundle's model, which is one, would be told to be too timid.
    The slope is therefore fitted without those constants, as far as they are there (`without_offsets`); the level with
    them. Measured on planted effects of new people (48 cohorts of 60, 72 of 40): median slope of calibration 1.20 and
    1.20 with the constants, 1.13 and 1.03 without, at the same log loss (0.379 and 0.379; 0.459 and 0.464).

    Parameters
    ----------
    scores
        (N,) out-of-fold log-odds, any scale.
    y
        (N,) 0 or 1, both present.
    fold
        (N,) which model gave each score; None: one gave all.

    Returns
    -------
    Calibration
        Of kind ``platt``, with a slope above 0.

    Raises
    ------
    ValueError
        Lengths differ, a score is not finite, or one class is missing.
    """
    values, outcomes = _checked(scores, y)
    centre, spread = float(values.mean()), float(values.std())
    spread = spread if spread > 0 else 1.0
    z = (values - centre) / spread
    alone = z if fold is None else without_offsets(z, outcomes, fold)
    slope, level = _logistic(alone, outcomes, np.zeros(2), free=2)
    if slope < LEAST_SLOPE or fold is not None:
        slope, level = _logistic(z, outcomes, np.array([max(slope, LEAST_SLOPE), 0.0]), free=1)
    return Calibration("platt", slope / spread, level - slope * centre / spread)


def without_offsets(scores: Float64, y: Float64, fold: NDArray[np.intp]) -> Float64:
    """Return scores (N,) less what each fold's model adds to all of its own, shrunk as a random effect.

    A fold's offset is the middle of its two class means, about the mean of all folds. Of its variance over folds, what
    the spread of so few people explains is no offset (method of moments), and the rest is taken off in the share that
    best linear prediction gives. Folds that lack a class stay as they are.
    """
    folds = [k for k in np.unique(fold) if 0 < y[fold == k].mean() < 1]
    means = np.array([[scores[(fold == k) & (y == c)].mean() for c in (0, 1)] for k in folds]).reshape(-1, 2)
    counts = np.array([[((fold == k) & (y == c)).sum() for c in (0, 1)] for k in folds]).reshape(-1, 2)
    free = int(counts.sum()) - counts.size
    if len(folds) < 2 or free < 1:
        return scores
    left = sum(
        float(((scores[(fold == k) & (y == c)] - means[i, c]) ** 2).sum()) for i, k in enumerate(folds) for c in (0, 1)
    )
    middle, noise = means.mean(axis=1), left / free * (1 / counts).sum(axis=1) / 4
    true = max(float(middle.var(ddof=1) - noise.mean()), 0.0)
    found = scores.copy()
    for k, own, error in zip(folds, middle - middle.mean(), noise, strict=True):
        if true > 0:
            found[fold == k] -= own * true / (true + error)
    return found


def _logistic(z: Float64, y: Float64, start: Float64, free: int) -> tuple[float, float]:
    """Return slope and intercept of most posterior density; with ``free`` 1 the slope stays where it starts.

    Newton's steps with the prior's curvature replaced by that of the parabola above it, which is never negative.
    """
    design = np.stack([z, np.ones_like(z)])[2 - free :]
    scale = np.array([SLOPE_SCALE, INTERCEPT_SCALE])[2 - free :] ** 2
    offset = start[0] * z if free == 1 else np.zeros_like(z)
    at = start[2 - free :]

    def loss(b: Float64) -> float:
        eta = b @ design + offset
        return float(np.sum(np.logaddexp(0, eta) - y * eta) + np.sum(np.log1p(b * b / scale)))

    now = loss(at)
    for _ in range(200):
        p = 0.5 * (1 + np.tanh((at @ design + offset) / 2))
        gradient = design @ (p - y) + 2 * at / (scale + at * at)
        curvature = (design * (p * (1 - p))) @ design.T + np.diag(2 / (scale + at * at))
        step = np.linalg.solve(curvature, gradient)
        share = 1.0
        while (then := loss(at - share * step)) > now and share > 1e-9:
            share /= 2
        if then > now - 1e-12 * (1 + now):
            break
        at, now = at - share * step, then
    slope, level = (float(start[0]), *at) if free == 1 else at
    return float(slope), float(level)


def choose_threshold(p: ArrayLike, y: ArrayLike) -> float:
    """Return the probability from which on the second class is predicted: best balanced accuracy, but steady.

    Youden's threshold, the one of greatest balanced accuracy, jumps with single people. Were the probabilities
    perfect, it would be the base rate. So of all thresholds whose balanced accuracy is at most `NEAR` standard errors
    below the best, that nearest to the base rate is taken: the base rate itself, or the middle between the two
    neighbouring probabilities next to it. Simulated on normal scores of 12 to 150 people, with equal and unequal
    spread in the classes, the balanced accuracy lost against the best possible threshold is 0.014 on average and 0.05
    at worst; for Youden's it is 0.016 and 0.04, for the base rate alone 0.015 and 0.07.

    Parameters
    ----------
    p
        (N,) out-of-fold probabilities, 0..1.
    y
        (N,) 0 or 1, both present.

    Raises
    ------
    ValueError
        Lengths differ, a probability lies outside 0..1, or one class is missing.
    """
    values, outcomes = _checked(p, y)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"probabilities lie in 0..1, found {values.min()} to {values.max()}")
    low, high, sensitivity, specificity = _steps(values, outcomes)
    base = float(outcomes.mean())
    accuracy = (sensitivity + specificity) / 2
    best = int(accuracy.argmax())
    allowed = accuracy >= accuracy[best] - NEAR * _standard_error(sensitivity[best], specificity[best], outcomes)
    inside = (low < base) & (base <= high)
    if allowed[inside].any():
        return base
    middles = (low + high) / 2
    middles = np.where(middles > low, middles, high)[allowed]  # between neighbouring numbers lies none
    return float(middles[np.abs(middles - base).argmin()])


def _steps(p: Float64, y: Float64) -> tuple[Float64, Float64, Float64, Float64]:
    """Return ends (S,) of the intervals (low, high] on which a threshold decides alike, and what it then gets right."""
    distinct, place = np.unique(p, return_inverse=True)
    positive = np.bincount(place, weights=y)
    negative = np.bincount(place, weights=1 - y)
    sensitivity = 1 - np.concatenate([[0], positive.cumsum()]) / positive.sum()
    specificity = np.concatenate([[0], negative.cumsum()]) / negative.sum()
    # Below every probability a threshold of 0 is possible too, so that the first interval is never empty.
    low, high = np.concatenate([[-1e-9], distinct]), np.concatenate([distinct, [1.0]])
    some = high > low
    return np.maximum(low, 0)[some], high[some], sensitivity[some], specificity[some]


def _standard_error(sensitivity: float, specificity: float, y: Float64) -> float:
    """Return that of the balanced accuracy; one person is added on either side, so that 1 is not taken for certain."""
    total = 0.0
    for share, n in ((sensitivity, y.sum()), (specificity, len(y) - y.sum())):
        smooth = (share * n + 1) / (n + 2)
        total += smooth * (1 - smooth) / n
    return math.sqrt(total) / 2


def fit_conformal(p: ArrayLike, y: ArrayLike, alpha: float = 0.1) -> Conformal:
    """Fit the quantiles of conformal sets, one a class: each class is covered in at least 1 - alpha of its people.

    Class-conditional (Mondrian) prediction (Vovk et al. 2005): a quantile over all people would pay for the coverage
    of the frequent class with that of the rare one. Each is the ceil((n + 1)(1 - alpha))-th smallest of 1 minus the
    probability of the own class, of the n people of that class; 1 (the class is never excluded) where n is too small
    for alpha, 8 or fewer at 0.1. As calibration rises with the score, the sets do not depend on it.

    Parameters
    ----------
    p
        (N,) calibrated out-of-fold probabilities of the second class, 0..1.
    y
        (N,) 0 or 1, both present.
    alpha
        Error rate, between 0 and 1.

    Returns
    -------
    Conformal
        Quantiles of the first class and of the second.

    Raises
    ------
    ValueError
        Lengths differ, a probability or alpha is out of range, or one class is missing.
    """
    values, outcomes = _checked(p, y)
    if not 0 < alpha < 1 or values.min() < 0 or values.max() > 1:
        raise ValueError(f"alpha lies between 0 and 1 and probabilities in 0..1, found {alpha}, {values}")
    quantiles = _quantile(values[outcomes == 0], alpha), _quantile(1 - values[outcomes == 1], alpha)
    return Conformal(float(alpha), quantiles)


def _quantile(nonconformity: Float64, alpha: float) -> float:
    n = len(nonconformity)
    place = math.ceil((n + 1) * (1 - alpha) - 1e-9)  # 20 * 0.9 must not become 18.000000000000004
    return 1.0 if place > n else float(np.sort(nonconformity)[place - 1])


def fit_reference(qualities: Sequence[Quality]) -> dict[str, Limits]:
    """Return what training saw, for `calibrate.reference_flags`: ranges and words, as `quality.About` has it.

    More frames, less motion and more coverage than in training are no reason for care. The shares by which ranges are
    widened let at most 3 % of people like those of training (20 of them, quantities simulated with plausible spread)
    raise any one flag.

    Parameters
    ----------
    qualities
        The quality of each recording of training (`signals.quality.measure`), all runs of all sessions.

    Returns
    -------
    dict
        A name that no recording has a value for is left out.
    """
    reference = {}
    for name, about in ABOUT.items():
        values = [q.value(name) for q in qualities]
        if about.reference == "words":
            limits = _seen({v for v in values if isinstance(v, str)})
        elif about.reference is not None:
            limits = _widened([float(v) for v in values if is_number(v)], *about.reference)
        else:
            continue
        if limits is not None:
            reference[name] = limits
    return reference


def _seen(words: set[str]) -> Limits | None:
    return Limits(values=tuple(sorted(words))) if words else None


def _widened(values: Sequence[float], below: float | None, above: float | None) -> Limits | None:
    if not values or (below is None and above is None):
        return None
    low = None if below is None else _tidy(min(values) - below * abs(min(values)))
    return Limits(None if above is None else _tidy(max(values) + above * abs(max(values))), low)


def _tidy(value: float) -> float:
    return float(f"{value:.6g}")


def _checked(values: ArrayLike, y: ArrayLike) -> tuple[Float64, Float64]:
    numbers: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    outcomes: NDArray[np.float64] = np.asarray(y, dtype=np.float64)
    if numbers.ndim != 1 or numbers.shape != outcomes.shape:
        raise ValueError(f"one value and one outcome a session: found {numbers.shape} and {outcomes.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError("a value is not finite")
    if set(np.unique(outcomes)) != {0.0, 1.0}:
        raise ValueError(f"outcomes must be 0 and 1, both present, found {sorted(set(outcomes.tolist()))}")
    return numbers, outcomes
