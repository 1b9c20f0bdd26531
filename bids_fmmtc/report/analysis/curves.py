"""Curves behind the figures of an analysis: ROC, precision and recall with bands, calibration bins, confusion.

They describe the mean of a person's out-of-fold values over repeats. The figures of record, with intervals that allow
for what folds share, are those of ``evaluation.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
DRAWS = 1000
GRID = np.linspace(0, 1, 101)
Z = 1.959963984540054  # standard normal quantile of 0.975


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A curve and its band: ``x``, ``y`` of its corners, ``low`` and ``high`` at `GRID`, area below it."""

    x: Float64
    y: Float64
    low: Float64
    high: Float64
    area: float


@dataclass(frozen=True, slots=True)
class Bin:
    """People of similar predictions: mean prediction, responders ``k`` of ``n``, observed share with its interval."""

    predicted: float
    k: int
    n: int
    low: float
    high: float


def draws(y: Float64, people: Sequence[str], n: int, seed: int) -> Float64:
    """Return (n, N) weights of rows: how often each person was drawn, responders among responders.

    Somebody with rows of both outcomes cannot be drawn within one of them; then all are drawn together.
    """
    names, index = np.unique(np.asarray(people, dtype=str), return_inverse=True)
    share = np.bincount(index, y) / np.bincount(index)
    strata = [share == 1, share == 0] if np.isin(share, (0, 1)).all() else [np.ones(len(names), bool)]
    rng = np.random.default_rng([seed, 4])
    weights = np.zeros((n, len(names)))
    for stratum in strata:
        size = int(stratum.sum())
        if size:
            weights[:, stratum] = rng.multinomial(size, np.full(size, 1 / size), n)
    drawn: Float64 = weights[:, index]
    return drawn


def _steps(value: Float64, y: Float64, weights: Float64) -> tuple[Float64, Float64]:
    """Return weighted counts (B, K + 1) of responders and of others at or above each distinct value, from none on."""
    order = np.argsort(-value, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(value[order])), len(value) - 1)
    sorted_weights = weights[:, order]
    counts = []
    for own in (y[order], 1 - y[order]):
        found = np.cumsum(sorted_weights * own, axis=1)[:, ends]
        counts.append(np.concatenate([np.zeros((len(found), 1)), found], axis=1))
    return counts[0], counts[1]


def roc(value: Float64, y: Float64, people: Sequence[str], seed: int = 0) -> Curve:
    """Return sensitivity by one minus specificity.

    Raises
    ------
    ValueError
        There is only one class.
    """
    _refuse_one_class(y)
    weights = np.vstack([np.ones((1, len(y))), draws(y, people, DRAWS, seed)])
    hits, alarms = _steps(value, y, weights)
    kept = (hits[:, -1] > 0) & (alarms[:, -1] > 0)
    x, up = alarms[kept] / alarms[kept][:, -1:], hits[kept] / hits[kept][:, -1:]
    drawn = np.array([_upper(a, b) for a, b in zip(x[1:], up[1:], strict=True)])
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    return Curve(x[0], up[0], low, high, float(np.trapezoid(up[0], x[0])))


def _upper(x: Float64, y: Float64) -> Float64:
    """Return the curve at `GRID`, where it rises straight up its upper end."""
    found: Float64 = np.interp(GRID + 1e-7, x + 1e-12 * np.arange(len(x)), y)
    return found


def precision_recall(value: Float64, y: Float64, people: Sequence[str], seed: int = 0) -> Curve:
    """Return precision by recall, as steps; the area is the average precision.

    Raises
    ------
    ValueError
        There is only one class.
    """
    _refuse_one_class(y)
    weights = np.vstack([np.ones((1, len(y))), draws(y, people, DRAWS, seed)])
    hits, alarms = (counts[:, 1:] for counts in _steps(value, y, weights))
    kept = hits[:, -1] > 0
    hits, alarms = hits[kept], alarms[kept]
    called = hits + alarms
    precision = np.divide(hits, called, out=np.ones_like(hits), where=called > 0)
    recall = hits / hits[:, -1:]
    drawn = np.array([p[_reached(r)] for p, r in zip(precision[1:], recall[1:], strict=True)])
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    area = float((np.diff(recall[0], prepend=0.0) * precision[0]).sum())
    return Curve(recall[0], precision[0], low, high, area)


def _reached(recall: Float64) -> NDArray[np.intp]:
    """Return the first place at which each recall of `GRID` is reached."""
    return np.minimum(np.searchsorted(recall, GRID - 1e-9), len(recall) - 1)


def _refuse_one_class(y: Float64) -> None:
    if not 0 < y.sum() < len(y):
        raise ValueError("there are not two classes")


def wilson(k: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (1927, J. Am. Stat. Assoc. 22, 209)."""
    middle, half = (k + Z**2 / 2) / (n + Z**2), Z / (n + Z**2) * np.sqrt(k * (n - k) / n + Z**2 / 4)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def calibration_bins(value: Float64, y: Float64) -> list[Bin]:
    """Return bins of about equal size, one for every 12 rows, 2 to 6 of them; equal values share a bin."""
    wanted = int(np.clip(len(value) // 12, 2, 6))
    cuts = np.unique(np.quantile(value, np.arange(1, wanted) / wanted))
    of = np.searchsorted(cuts, value, side="right")
    found = []
    for each in np.unique(of):
        mine = of == each
        k, n = int(y[mine].sum()), int(mine.sum())
        found.append(Bin(float(value[mine].mean()), k, n, *wilson(k, n)))
    return found


def confusion(called: Float64, y: Float64) -> Float64:
    """Return (2, 2) numbers of sessions, rows by outcome (responders first), columns by what they were called.

    ``called`` is the share of repeats that called a row a responder, so that numbers need not be whole.
    """
    return np.array([[called[y == k].sum(), (1 - called[y == k]).sum()] for k in (1, 0)])
