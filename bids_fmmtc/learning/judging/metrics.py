"""How well a model's judgements agree with the outcomes, each measure as a function of weights.

A bootstrap draw is a weight per row: how often the row was drawn. Every measure takes weights (B, N), not negative,
and returns (B,) float64, so thousands of draws cost one pass; the point estimate is the measure under weights of
one. With integer weights a measure equals the same measure on the rows repeated that often.

What cannot be computed is NaN, never 0: a draw with one class has no area under the curve. The one exception is the
Matthews correlation of a model that gives everybody the same label: it is 0/0, and 0 here as in scikit-learn,
because such a model agrees with the outcomes as chance does.

Classification reads outcomes y of 0 and 1, calibrated probabilities, and labels of 0 and 1 that each fold decided by
its own threshold. Regression reads outcomes and predicted outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.results.measures import MEASURES, Measure
from bids_fmmtc.types import Float64

Scale = Literal["share", "fisher", "plain"]
People = Literal["classes", "all", "responders", "non-responders", "called", "not called"]

LARGEST_LOGIT = 15.0
"""Logits of probabilities are cut to this size (a probability of 3e-7) before a calibration line is fitted."""
PEOPLE_PER_BIN, FEWEST_BINS, MOST_BINS = 10, 2, 10
_NEWTON_STEPS, _NEWTON_TOLERANCE = 100, 1e-8


class Judgements(Protocol):
    """What models say of N rows, each judged once a repeat by a model that did not learn from it; R repeats."""

    @property
    def value(self) -> Float64:
        """(R, N) calibrated probability of responder, or predicted outcome."""
        ...

    @property
    def label(self) -> Float64 | None:
        """(R, N) 0 or 1 by the threshold of the judging model; None in regression."""
        ...

    @property
    def fold(self) -> NDArray[np.intp]:
        """(R, N) number of the judging model within its repeat; -1 for rows that the repeat did not judge."""
        ...


@dataclass(frozen=True, slots=True)
class Metric:
    """How a measure of agreement is computed; call it with outcomes, judgements and weights.

    Parameters
    ----------
    function
        Of outcomes (n,), the fields of the judgements named in ``reads``, (n,) each, and weights (B, n); has the name
        of its measure.
    reads
        Fields of `Judgements`.
    scale
        On which an interval has its usual shape: ``share`` for what behaves as a share of people does, ``fisher``
        for correlations of numbers, ``plain``.
    people
        Whose number decides how sure a share or a correlation can be; ``classes``: both, the rarer one above all.
    """

    function: Callable[..., Float64]
    reads: tuple[str, ...] = ("value",)
    scale: Scale = "share"
    people: People = "classes"

    @property
    def measure(self) -> Measure:
        """What is said of it: name, words, chance, range."""
        return MEASURES[self.function.__name__]

    def __call__(self, y: Float64, judgements: Judgements, weights: Float64) -> Float64:
        """Return (B,) means over repeats; NaN where the measure is undefined in one of them.

        Parameters
        ----------
        y
            (N,) outcomes.
        weights
            (B, N), the same in every repeat: a person who is drawn twice counts twice in all of them.

        Raises
        ------
        ValueError
            Outcomes, judgements and weights differ in the number of rows, or a judged row has no value.
        """
        shape = judgements.value.shape
        if weights.ndim != 2 or len(shape) != 2 or not len(y) == shape[1] == weights.shape[1]:
            raise ValueError(f"want y (N,), values (R, N), weights (B, N), found {y.shape}, {shape}, {weights.shape}")
        total = np.zeros(len(weights))
        for repeat, fold in enumerate(judgements.fold):
            rows = np.flatnonzero(fold >= 0)
            said = [getattr(judgements, name)[repeat, rows] for name in self.reads]
            if not all(np.isfinite(part).all() for part in said):
                raise ValueError(f"repeat {repeat} holds a judgement that is not finite")
            total += self.function(y[rows], *said, weights[:, rows])
        mean: Float64 = total / shape[0]
        return mean


def _ratio(above: Float64, below: Float64) -> Float64:
    """Return above / below, NaN where below is 0."""
    result: Float64 = np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)
    return result


def _mean(weights: Float64, values: Float64) -> Float64:
    return _ratio(weights @ values, weights.sum(axis=1))


# ranking


def auroc(y: Float64, predicted: Float64, weights: Float64, fold: NDArray[np.intp] | None = None) -> Float64:
    """Return the area under the ROC curve: the share of responder and non-responder pairs ranked rightly.

    A tie counts half. With ``fold`` only pairs judged by the same model count, each pair the same: scores of
    different models stand on different scales, and comparing them biases the area of cross-validated judgements,
    mostly downwards (Airola et al. 2011, Comput. Stat. Data Anal. 55, 1828).
    """
    yes, no = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    gap = predicted[yes, None] - predicted[no]
    won = (gap > 0) + 0.5 * (gap == 0)
    counted = np.ones_like(won) if fold is None else (fold[yes, None] == fold[no]).astype(np.float64)
    of_yes, of_no = weights[:, yes], weights[:, no]
    return _ratio(((of_yes @ (won * counted)) * of_no).sum(axis=1), ((of_yes @ counted) * of_no).sum(axis=1))


def auroc_within(y: Float64, predicted: Float64, fold: NDArray[np.intp], weights: Float64) -> Float64:
    """Return `auroc` over pairs judged by the same model; NaN where no fold holds both classes."""
    return auroc(y, predicted, weights, fold)


def auprc(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return average precision: precision at each distinct score, weighted by the recall gained there."""
    order = np.argsort(-predicted, kind="stable")
    # Rows with one score enter together.
    last = np.flatnonzero(np.append(np.diff(predicted[order]) != 0, True))
    drawn = weights[:, order]
    right = np.cumsum(drawn * y[order], axis=1)[:, last]
    called = np.cumsum(drawn, axis=1)[:, last]
    # A score that no drawn row has gains no recall, so its 0/0 counts nothing.
    precision = np.divide(right, called, out=np.zeros_like(right), where=called > 0)
    gained = np.diff(right, axis=1, prepend=0)
    return _ratio((gained * precision).sum(axis=1), right[:, -1])


# labels


def _counts(y: Float64, label: Float64, weights: Float64) -> tuple[Float64, Float64, Float64, Float64]:
    """Return weights of true positives, false positives, false negatives, true negatives, (B,) each."""
    cells = [(y == a) & (label == b) for a, b in ((1, 1), (0, 1), (1, 0), (0, 0))]
    tp, fp, fn, tn = (weights @ np.stack(cells, axis=1).astype(np.float64)).T
    return tp, fp, fn, tn


def mcc(y: Float64, label: Float64, weights: Float64) -> Float64:
    """Return the Matthews correlation of label and outcome; 0 where one of them is the same for all (0/0)."""
    tp, fp, fn, tn = _counts(y, label, weights)
    # Roots one by one: the product of four margins may leave the range of floats.
    scale = np.sqrt(tp + fp) * np.sqrt(fn + tn) * np.sqrt(tp + fn) * np.sqrt(fp + tn)
    value: Float64 = np.divide(tp * tn - fp * fn, scale, out=np.zeros_like(scale), where=scale > 0)
    value[tp + fp + fn + tn == 0] = np.nan
    return value


def sensitivity(y: Float64, label: Float64, weights: Float64) -> Float64:
    """Return the share of responders called so (recall)."""
    tp, _, fn, _ = _counts(y, label, weights)
    return _ratio(tp, tp + fn)


def specificity(y: Float64, label: Float64, weights: Float64) -> Float64:
    """Return the share of non-responders called so."""
    _, fp, _, tn = _counts(y, label, weights)
    return _ratio(tn, fp + tn)


def ppv(y: Float64, label: Float64, weights: Float64) -> Float64:
    """Return the share of responders among those called so (precision); NaN where nobody is."""
    tp, fp, _, _ = _counts(y, label, weights)
    return _ratio(tp, tp + fp)


def npv(y: Float64, label: Float64, weights: Float64) -> Float64:
    """Return the share of non-responders among those called so; NaN where nobody is."""
    _, _, fn, tn = _counts(y, label, weights)
    return _ratio(tn, fn + tn)


def balanced_accuracy(y: Float64, label: Float64, weights: Float64) -> Float64:
    """Return the mean of sensitivity and specificity; NaN with one class."""
    return (sensitivity(y, label, weights) + specificity(y, label, weights)) / 2


def accuracy(y: Float64, label: Float64, weights: Float64) -> Float64:
    """Return the share of rows labelled rightly."""
    return _mean(weights, (y == label).astype(np.float64))


def f1(y: Float64, label: Float64, weights: Float64) -> Float64:
    """Return the harmonic mean of precision and recall of responders; NaN where nobody is or is called one."""
    tp, fp, fn, _ = _counts(y, label, weights)
    return _ratio(2 * tp, 2 * tp + fp + fn)


# probabilities


def brier(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return the mean squared distance of probability and outcome."""
    return _mean(weights, (predicted - y) ** 2)


def log_loss(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return the mean negative log-likelihood in nats; a probability of 0 or 1 counts as 2e-16 from it."""
    smallest = np.finfo(np.float64).eps
    return _mean(weights, -np.log(np.clip(np.where(y == 1, predicted, 1 - predicted), smallest, 1)))


def calibration_error(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return the expected calibration error: mean distance of predicted and observed share over bins.

    Bins hold equally many rows of the point sample and stay the same in every draw: one bin for 10 rows, at least
    2, at most 10, so 2 up to 29 rows, 4 with 40, 10 from 100 on; equal probabilities share a bin. The error of a
    perfect model is above 0 in a small sample, as chance moves every bin: compare models, not the value with 0.
    """
    n_bins = min(max(len(y) // PEOPLE_PER_BIN, FEWEST_BINS), MOST_BINS)
    edges = np.quantile(predicted, np.arange(1, n_bins) / n_bins)
    inside = np.searchsorted(edges, predicted, side="right")[:, None] == np.arange(n_bins)
    gaps = weights @ (inside * (y - predicted)[:, None])
    return _ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def calibration_slope(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return b of logit P(y = 1) = a + b logit(predicted) (Cox 1958, Biometrika 45, 562); 1 is best.

    Below 1 the probabilities are too extreme, above 1 too timid. NaN where the likelihood has no maximum: one class
    only, or classes that a threshold separates (Albert and Anderson 1984, Biometrika 71, 1).
    """
    return _calibration_line(y, predicted, weights)[1]


def calibration_intercept(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return a of the line of `calibration_slope`, fitted together with the slope; 0 is best."""
    return _calibration_line(y, predicted, weights)[0]


def _calibration_line(y: Float64, predicted: Float64, weights: Float64) -> tuple[Float64, Float64]:
    """Return intercept and slope, (B,) each: all draws at once, from where the whole sample has its line."""
    with np.errstate(divide="ignore"):
        x = np.clip(np.log(predicted) - np.log1p(-predicted), -LARGEST_LOGIT, LARGEST_LOGIT)
    centre, spread = x.mean(), x.std() or 1.0
    z = (x - centre) / spread
    start = _logistic_line(y, z, np.ones((1, len(y))), np.zeros(2))
    line = _logistic_line(y, z, weights, np.nan_to_num(start[0]))
    return line[:, 0] - line[:, 1] * centre / spread, line[:, 1] / spread


def _logistic_line(y: Float64, z: Float64, weights: Float64, start: Float64) -> Float64:
    """Return (B, 2) intercepts and slopes of y on z by Newton's method, NaN where there are none.

    A step that moves no row's logit by more than s is shortened by log(1 + s) / s: the likelihood then rises at
    every step, and steps near the maximum stay whole (Bach 2010, Electron. J. Stat. 4, 384, proposition 1).
    """
    powers = np.stack([np.ones_like(z), z, z**2], axis=1)
    fitted = np.full((len(weights), 2), np.nan)
    left = np.flatnonzero(_overlap(z, y, weights))
    line, drawn = np.tile(start, (len(left), 1)), weights[left]
    for _ in range(_NEWTON_STEPS):
        p = 0.5 + 0.5 * np.tanh(line @ powers[:, :2].T / 2)
        uphill = (drawn * (y - p)) @ powers[:, :2]
        flat, tilt, steep = ((drawn * p * (1 - p)) @ powers).T
        size = flat * steep - tilt**2
        done = np.abs(uphill).max(axis=1, initial=0) <= _NEWTON_TOLERANCE * drawn.sum(axis=1)
        fitted[left[done]] = line[done]
        going = ~done & (size > 0)
        if not going.any():
            break
        step = np.stack([steep * uphill[:, 0] - tilt * uphill[:, 1], flat * uphill[:, 1] - tilt * uphill[:, 0]], axis=1)
        step = step[going] / size[going, None]
        reach = np.abs(step @ powers[:, :2].T).max(axis=1, keepdims=True)
        line, left, drawn = line[going] + step * (np.log1p(reach) / reach), left[going], drawn[going]
    return fitted


def _overlap(z: Float64, y: Float64, weights: Float64) -> NDArray[np.bool_]:
    """Return (B,) whether both classes are drawn and no threshold on z separates them."""
    drawn = weights > 0
    low = [np.where(drawn & (y == c), z, np.inf).min(axis=1) for c in (0, 1)]
    high = [np.where(drawn & (y == c), z, -np.inf).max(axis=1) for c in (0, 1)]
    return np.asarray((high[0] > low[1]) & (high[1] > low[0]))


# regression


def r(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return Pearson's correlation of prediction and outcome; NaN where one of them is constant.

    Predictions of several folds carry an offset each: a model that predicts the training mean correlates negatively
    with the outcomes it did not see. `r_within` is free of it.
    """
    one, other = np.broadcast_to(y, weights.shape), np.broadcast_to(predicted, weights.shape)
    return _correlation(*_centred(one, other, weights), weights)


def r_within(y: Float64, predicted: Float64, fold: NDArray[np.intp], weights: Float64) -> Float64:
    """Return the mean over folds of Pearson's correlation inside each, weighted by who was drawn of it.

    Predictions of several folds differ in offset and scale. One correlation of all deviations from fold means would
    be biased, too: where a fold's people agree with what others were taught, these others' models grow bolder and
    count more (-0.10 on noise, 150 simulated cohorts of 40). A fold whose predictions are constant counts as 0, one
    whose outcomes are as nothing; NaN where no fold's predictions vary.
    """
    total, size = np.zeros(len(weights)), np.zeros(len(weights))
    told = np.zeros(len(weights), np.bool_)
    for name in np.unique(fold):
        rows = np.flatnonzero(fold == name)
        drawn = weights[:, rows]
        parts = np.broadcast_to(y[rows], drawn.shape), np.broadcast_to(predicted[rows], drawn.shape)
        one, other = _centred(*parts, drawn)
        varies = (drawn * one * one).sum(axis=1) > 0
        told |= varies & ((drawn * other * other).sum(axis=1) > 0)
        people = np.where(varies, drawn.sum(axis=1), 0)
        total += people * np.nan_to_num(_correlation(one, other, drawn))
        size += people
    return np.where(told, _ratio(total, size), np.nan)


def spearman(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return Spearman's rank correlation: `r` of mean ranks."""
    return _correlation(*_centred(_ranks(y, weights), _ranks(predicted, weights), weights), weights)


def _ranks(values: Float64, weights: Float64) -> Float64:
    """Return mean ranks (B, N) up to a constant: the weight of what is smaller and half the weight of what ties."""
    gap = values - values[:, None]
    ranks: Float64 = weights @ ((gap > 0) + 0.5 * (gap == 0))
    return ranks


def _centred(one: Float64, other: Float64, weights: Float64) -> tuple[Float64, Float64]:
    """Return two (B, n) arrays less their weighted means; exactly 0 where what was drawn does not vary."""
    total, first = weights.sum(axis=1, keepdims=True), weights.argmax(axis=1)[:, None]
    result = []
    for values in (one, other):
        # From a drawn value, so that a constant leaves no rounding error behind to be correlated.
        away = values - np.take_along_axis(values, first, axis=1)
        moved = (weights * away).sum(axis=1, keepdims=True)
        result.append(away - np.divide(moved, total, out=np.zeros_like(total), where=total > 0))
    return result[0], result[1]


def _correlation(one: Float64, other: Float64, weights: Float64) -> Float64:
    """Return the weighted correlation of centred values, NaN where one of them is 0 throughout."""
    both, first, second = ((weights * a * b).sum(axis=1) for a, b in ((one, other), (one, one), (other, other)))
    return np.clip(_ratio(both, np.sqrt(first) * np.sqrt(second)), -1, 1)


def r2(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return 1 - SSE / SST, SST around the weighted mean outcome; NaN where outcomes do not vary.

    Of predictions for rows not learnt from it is negative wherever the mean outcome would have predicted better,
    and a model that knows nothing lies below 0. It is not the square of `r`.
    """
    away, _ = _centred(np.broadcast_to(y, weights.shape), np.zeros(weights.shape), weights)
    return 1 - _ratio(weights @ (y - predicted) ** 2, (weights * away**2).sum(axis=1))


def mae(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return the mean absolute error, in units of the outcome."""
    return _mean(weights, np.abs(y - predicted))


def rmse(y: Float64, predicted: Float64, weights: Float64) -> Float64:
    """Return the root of the mean squared error, in units of the outcome."""
    squared = _mean(weights, (y - predicted) ** 2)
    root: Float64 = np.sqrt(squared)
    return root


_WITHIN, _LABEL = ("value", "fold"), ("label",)


def _table(*metrics: Metric) -> Mapping[str, Metric]:
    return MappingProxyType({metric.measure.name: metric for metric in metrics})


CLASSIFICATION = _table(
    Metric(auroc),
    Metric(auroc_within, _WITHIN),
    Metric(auprc),
    Metric(mcc, _LABEL),
    Metric(balanced_accuracy, _LABEL),
    Metric(accuracy, _LABEL, people="all"),
    Metric(f1, _LABEL),
    Metric(sensitivity, _LABEL, people="responders"),
    Metric(specificity, _LABEL, people="non-responders"),
    Metric(ppv, _LABEL, people="called"),
    Metric(npv, _LABEL, people="not called"),
    Metric(brier, scale="plain"),
    Metric(log_loss, scale="plain"),
    Metric(calibration_slope, scale="plain"),
    Metric(calibration_intercept, scale="plain"),
    Metric(calibration_error, scale="plain"),
)
REGRESSION = _table(
    Metric(r, scale="fisher", people="all"),
    Metric(r_within, _WITHIN, scale="fisher", people="all"),
    Metric(spearman, scale="fisher", people="all"),
    Metric(r2, scale="plain"),
    Metric(mae, scale="plain"),
    Metric(rmse, scale="plain"),
)
