"""Figures of one analysis: ROC, precision and recall, calibration, confusion, permutations, prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bids_fmmtc.report.analysis.curves import Curve, Float64, calibration_bins, confusion, precision_recall, roc
from bids_fmmtc.report.analysis.facts import Analysis, Judged
from bids_fmmtc.report.analysis.forest import interval_text
from bids_fmmtc.report.kit.figure import BLUE, MUTED, ORANGE, Figure, finish
from bids_fmmtc.report.kit.page import number
from bids_fmmtc.report.kit.sheet import counted, key_below, sheet
from bids_fmmtc.results.evaluation import Permutation
from bids_fmmtc.results.measures import MEASURES, words_of
from bids_fmmtc.results.verdict import permutation_floor

BANDS = (
    "The band holds 95 % of 1,000 draws of people, point by point. Unlike the intervals in the tables it does not "
    "allow for what the folds share, so it is somewhat too narrow, most of all where hardly anybody is misjudged."
)

# -------------------------------------------------------------------------------------------------------------- curves


def known(judged: Sequence[Judged]) -> tuple[Float64, Float64, list[str]]:
    """Return values and outcomes of rows that have both, and whose they are."""
    rows = [(j.value, j.outcome, j.participant) for j in judged if j.value is not None and j.outcome is not None]
    values, outcomes = (np.array([row[i] for row in rows], np.float64) for i in (0, 1))
    return values, outcomes, [row[2] for row in rows]


def roc_figure(analysis: Analysis, name: str) -> Figure | None:
    """Draw sensitivity by one minus specificity; None without judgements."""
    value, y, people = known(analysis.judged)
    if not len(value):
        return None
    curve = roc(value, y, people)
    stored = [f"{words_of(m)} {interval_text(analysis.estimate(m))}" for m in ("auroc_within", "auroc")]
    note = (
        f"Drawn from the mean of each session's out-of-fold values. The headline figure is {stored[0]}, of pairs that "
        f"one model judged; {stored[1]}; the area of this curve, {number(curve.area)}, may differ from both. {BANDS}"
    )
    with sheet(3.7) as c:
        ax = _square(c, "share of non-responders called (1 − specificity)", "share of responders called (sensitivity)")
        ax.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 2)), linewidth=1, label="chance")
        _band(ax, curve)
        ax.plot(curve.x, curve.y, color=BLUE, linewidth=1.8, label="the model")
        ax.legend(loc="lower right")
        text = f"{counted(len(value), 'session')}; {'; '.join(stored)}; area of the curve {curve.area:.2f}."
        return finish(c, name, "ROC curve", text, note)


def pr_figure(analysis: Analysis, name: str) -> Figure | None:
    """Draw precision by recall; None without judgements."""
    value, y, people = known(analysis.judged)
    if not len(value):
        return None
    curve, base = precision_recall(value, y, people), float(y.mean())
    stored = f"average precision {interval_text(analysis.estimate('auprc'))}"
    with sheet(3.7) as c:
        ax = _square(c, "share of responders called (recall)", "responders among those called (precision)")
        ax.axhline(base, color=MUTED, linestyle=(0, (4, 2)), linewidth=1, label=f"chance, {base:.2f}")
        _band(ax, curve)
        x, precision = np.append(0.0, curve.x), np.append(curve.y[0], curve.y)
        ax.plot(x, precision, color=BLUE, linewidth=1.8, drawstyle="steps-pre", label="the model")
        ax.legend(loc="lower left")
        text = f"Precision by recall; {stored}; chance is the share of responders, {base:.2f}."
        note = f"Of the model: {stored}. Chance is the share of responders, {number(base)}. The band is as for the ROC."
        return finish(c, name, "Precision and recall", text, note)


def _square(c: Any, x: str, y: str) -> Any:
    ax = c.subplots()
    ax.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="W")
    return ax


def _band(ax: Any, curve: Curve) -> None:
    grid = np.linspace(0, 1, len(curve.low))
    ax.fill_between(grid, curve.low, curve.high, color=BLUE, alpha=0.18, linewidth=0, label="95 % of draws")


def calibration_figure(analysis: Analysis, name: str) -> Figure | None:
    """Draw observed shares of responders by predicted probability; None without judgements."""
    value, y, _ = known(analysis.judged)
    if not len(value):
        return None
    bins = calibration_bins(value, y)
    slope = interval_text(analysis.estimate("calibration_slope"))
    intercept = interval_text(analysis.estimate("calibration_intercept"))
    with sheet(3.7) as c:
        ax = _square(c, "mean predicted probability", "observed share of responders")
        ax.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 2)), linewidth=1, label="perfectly calibrated")
        for i, each in enumerate(bins):
            share = each.k / each.n
            ax.plot([each.predicted] * 2, [each.low, each.high], color=BLUE, linewidth=1.6)
            label = "observed, 95 % interval" if i == 0 else None
            ax.plot([each.predicted], [share], marker="o", linestyle="none", color=BLUE, label=label)
            left = each.predicted < 0.8
            ax.annotate(
                f"{each.k} of {each.n}",
                (each.predicted, share),
                xytext=(7 if left else -7, -3),
                textcoords="offset points",
                ha="left" if left else "right",
                fontsize=8,
            )
        ax.legend(loc="upper left")
        told = "; ".join(f"{b.k} of {b.n} responded where {b.predicted:.2f} was predicted" for b in bins)
        note = (
            f"Bins of about equal size, with Wilson's intervals. Calibration slope {slope}, best is 1; intercept "
            f"{intercept}, best is 0, both over all sessions and as stored."
        )
        return finish(c, name, "Calibration", f"{told}. Calibration slope {slope}.", note)


def confusion_figure(analysis: Analysis, name: str) -> Figure | None:
    """Draw who was called what, averaged over repeats; None where no repeat called anybody anything."""
    rows = [j for j in analysis.judged if j.called is not None and j.outcome is not None]
    if not rows:
        return None
    table = confusion(np.array([j.called for j in rows], np.float64), np.array([j.outcome for j in rows], np.float64))
    classes = ("responder", "non-responder")
    names = ("sensitivity", "specificity", "ppv", "npv")
    sensitivity, specificity, ppv, npv = (interval_text(analysis.estimate(name)) for name in names)
    with sheet(2.5, left=1.1, bottom=0.25) as c:
        ax = c.subplots()
        for (i, j), n in np.ndenumerate(table):
            share = n / max(table[i].sum(), 1)
            ax.add_patch(_rectangle(j, 1 - i, facecolor=BLUE if i == j else ORANGE, alpha=0.08 + 0.3 * share))
            ax.text(j + 0.5, 1.56 - i, amount(float(n)), ha="center", va="center", fontsize=15)
            text = f"{100 * share:.0f} % of {classes[i]}s"
            ax.text(j + 0.5, 1.28 - i, text, ha="center", va="center", fontsize=7.5)
        ax.set(xlim=(0, 2), ylim=(0, 2))
        ax.grid(visible=False)
        ax.set_xticks([0.5, 1.5], [f"called {each}" for each in classes])
        ax.set_yticks([1.5, 0.5], [f"{each}\n({int(n)})" for each, n in zip(classes, table.sum(axis=1), strict=True)])
        ax.tick_params(length=0)
        told = (
            f"of {int(table[0].sum())} responders {amount(table[0, 0])} are called so, of {int(table[1].sum())} "
            f"non-responders {amount(table[1, 0])} are called responders"
        )
        note = (
            "Sessions at the threshold that each fold's model had decided for itself, mean over repeats (so numbers "
            f"need not be whole). Sensitivity {sensitivity}, specificity {specificity}; of those "
            f"called responders {ppv} are, of those called non-responders {npv} are."
        )
        return finish(c, name, "Confusion matrix", f"At the threshold {told}.", note)


def _rectangle(x: float, y: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    return Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, linewidth=0, **style)


def amount(n: float) -> str:
    """Return a count, with a decimal where it is a mean of counts."""
    return f"{n:.0f}" if abs(n - round(n)) < 0.005 else f"{n:.1f}"


def permutation_figure(analysis: Analysis, name: str) -> Figure | None:
    """Draw what the whole procedure gives on outcomes dealt out anew; None where no test was run."""
    test = analysis.evaluation.permutation
    if test is None or not test.null or test.observed is None or test.p is None:
        return None
    null, observed, p = test.null, test.observed, test.p
    words, chance = words_of(test.metric), MEASURES[test.metric].chance if test.metric in MEASURES else None
    with sheet(2.8, bottom=0.7) as c:
        ax = c.subplots()
        low, high = min([*null, observed]), max([*null, observed])
        edges = np.linspace(low, high, int(np.clip(len(null) ** 0.5 * 1.5, 8, 40)) + 1)
        ax.hist(null, bins=edges, color=MUTED, alpha=0.45, edgecolor=MUTED, label="dealt out anew")
        ax.axvline(observed, color=BLUE, linewidth=2, label=f"observed, {observed:.2f}")
        if chance is not None:
            ax.axvline(chance, color=MUTED, linestyle=(0, (4, 2)), linewidth=1, label="chance")
        ax.set(xlabel=words, ylabel="permutations")
        ax.yaxis.get_major_locator().set_params(integer=True)
        key_below(c, 3)
        text = f"{words} observed {observed:.2f}, p = {p:.3g} from {len(null)} permutations."
        return finish(c, name, "Permutation test", text, f"{text} {permutation_note(test)}")


def permutation_note(test: Permutation) -> str:
    """Return how a permutation test was done, and what its p can be at least."""
    said = "The whole procedure was repeated on outcomes dealt out anew."
    if permutation_floor(test):
        said += f" That is the least that {test.n} permutations can give."
    return said


def scatter_figure(analysis: Analysis, name: str) -> Figure | None:
    """Draw predicted by observed outcome of a regression; None without judgements."""
    value, y, _ = known(analysis.judged)
    if not len(value):
        return None
    stored = f"r within folds {interval_text(analysis.estimate('r_within'))}"
    error = f"mean absolute error {interval_text(analysis.estimate('mae'))}"
    low, high = float(min(value.min(), y.min())), float(max(value.max(), y.max()))
    pad = 0.05 * (high - low or 1)
    with sheet(3.8, left=0.7) as c:
        ax = c.subplots()
        ends = [low - pad, high + pad]
        ax.plot(ends, ends, color=MUTED, linestyle=(0, (4, 2)), linewidth=1, label="prediction equals outcome")
        ax.plot(y, value, "o", color=BLUE, alpha=0.75, label="a session")
        ax.set(
            xlabel="observed outcome", ylabel="predicted, out of fold", xlim=ends, ylim=ends, aspect="equal", anchor="W"
        )
        ax.legend(loc="upper left")
        r2 = interval_text(analysis.estimate("r2"))
        note = f"Mean out-of-fold prediction of each session. {stored}; {error}; R² {r2}, below 0 worse than the mean."
        return finish(c, name, "Predicted and observed outcome", f"{len(value)} sessions; {stored}; {error}.", note)
