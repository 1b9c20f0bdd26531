"""Figures and table of the trial plan: rate, share kept, size and cost by threshold, and the decision curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bids_fmmtc.report.kit.figure import BLUE, DASHES, GREEN, ORANGE, PAPER, Figure, finish
from bids_fmmtc.report.kit.page import percent
from bids_fmmtc.report.kit.sheet import key_below, plain, sheet
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.trial import Enrichment, Quantity, TrialPlan

NOT_REACHABLE = "not reachable"
Ends = Quantity | Estimate
"""What has a value and an interval."""


def plan_rows(trial: TrialPlan) -> list[Enrichment]:
    """Return the rows of a plan that have a threshold, in its order."""
    rows = [row for row in trial.enrichment if row.threshold is not None]
    return sorted(rows, key=lambda row: row.threshold or 0.0)


def trial_figures(trial: TrialPlan, name: str) -> list[Figure]:
    """Draw what each threshold would lead to; only what the plan holds."""
    rows = plan_rows(trial)
    if len(rows) < 2:
        return []
    currency = "" if trial.options is None else trial.options.currency
    found = [
        _curve(rows, "rate", "responder rate among those kept", f"{name}-rate"),
        _curve(rows, "share", "share of screened people kept", f"{name}-share"),
        _curve(rows, "enrolled", "patients to enrol, both arms", f"{name}-size"),
        _curve(rows, "cost", f"cost{f' in {currency}' if currency else ''}", f"{name}-cost"),
        decision_figure(trial, f"{name}-decision"),
    ]
    return [figure for figure in found if figure is not None]


Place = tuple[float, Quantity, Enrichment]
"""Threshold, quantity there, and the row."""


def _curve(rows: Sequence[Enrichment], what: str, words: str, name: str) -> Figure | None:
    """Draw a quantity by threshold with its band; open marks are rows that rest on too few people."""
    told = [(row.threshold or 0.0, row.quantity(what), row) for row in rows]
    reached = [(x, q, row) for x, q, row in told if q is not None and math.isfinite(q.value)]
    if len(reached) < 2:
        return None
    share = what in ("rate", "share")
    values = [q.value for _, q, _ in reached]
    highs = [q.high for _, q, _ in reached if math.isfinite(q.high)]
    wide = not share and min(values) > 0 and max([*values, *highs]) > 20 * min(values)
    with sheet(3.1, left=0.8, bottom=0.9) as c:
        ax = c.subplots()
        if wide:
            ax.set_yscale("log")
        roof = 1.0 if share else max([*values, *highs]) * (1.6 if wide else 1.05)
        _plan_band(ax, reached, roof)
        ax.plot([x for x, *_ in reached], values, color=BLUE, linewidth=1.6)
        _plan_marks(ax, reached)
        unit = _percent_ticks if share else _count_ticks
        ax.yaxis.set_major_formatter(unit)
        ax.yaxis.set_minor_formatter(_no_ticks)
        ax.set(xlabel="enrichment threshold (calibrated probability)", ylabel=words, xlim=(-0.03, 1.03))
        if share:
            ax.set_ylim(-0.02, 1.02)
        key_below(c, 2)
        gone = len(told) - len(reached)
        lost = f" At {gone} of {len(told)} thresholds no trial is reachable or nobody is kept." if gone else ""
        scale = " The axis is logarithmic." if wide else ""
        start, own = reached[0][1], next(((x, q) for x, q, row in reached if row.rule == "decision"), None)
        text = f"{words}: {quantity_text(start, share=share)} without enrichment"
        if own is not None:
            text += f", {quantity_text(own[1], share=share)} at the model's own threshold {own[0]:.2f}"
        return finish(
            c, name, f"{words.capitalize()} by threshold", f"{text}.", f"{text[0].upper()}{text[1:]}.{scale}{lost}"
        )


def _plan_band(ax: Any, reached: Sequence[Place], roof: float) -> None:
    """Draw the band; an upper end that is not reachable goes to the top."""
    banded = [(x, q) for x, q, _ in reached if math.isfinite(q.low)]
    x, low = [x for x, _ in banded], [q.low for _, q in banded]
    high = [q.high if math.isfinite(q.high) else roof for _, q in banded]
    ax.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % interval")


def _plan_marks(ax: Any, reached: Sequence[Place]) -> None:
    kinds = {
        "enough people": ("o", BLUE, BLUE),
        "too few people": ("o", BLUE, PAPER),
        "the model's own threshold": ("D", ORANGE, ORANGE),
    }
    for words, (marker, colour, face) in kinds.items():
        own = [(x, q.value) for x, q, row in reached if _kind(row) == words]
        if own:
            x, y = zip(*own, strict=True)
            ax.plot(x, y, marker, color=colour, markerfacecolor=face, linestyle="none", label=words, zorder=3)


def _kind(row: Enrichment) -> str:
    if row.rule == "decision":
        return "the model's own threshold"
    return "enough people" if row.reliable else "too few people"


def _percent_ticks(value: float, place: int) -> str:
    del place
    return percent(value)


def _count_ticks(value: float, place: int) -> str:
    del place
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value:,.0f}"


def _no_ticks(value: float, place: int) -> str:
    del value, place
    return ""


def decision_figure(trial: TrialPlan, name: str) -> Figure | None:
    """Draw the net benefit of enrolling by the model, everybody, and nobody; None without a curve."""
    points = trial.decision_curve
    told = {
        "model": [(p.threshold, p.model) for p in points],
        "everybody": [(p.threshold, p.everybody) for p in points],
    }
    lines = {which: [(x, q, q.value) for x, q in of if q and q.value is not None] for which, of in told.items()}
    if len(lines["model"]) < 2:
        return None
    with sheet(3.1, bottom=0.9) as c:
        ax = c.subplots()
        styles = {"model": (BLUE, DASHES[0], "by the model"), "everybody": (ORANGE, DASHES[1], "everybody")}
        for which, (colour, dash, words) in styles.items():
            x = [x for x, *_ in lines[which]]
            ax.plot(x, [value for *_, value in lines[which]], color=colour, linestyle=dash, label=words)
            ends = [(q.low, q.high) for _, q, _ in lines[which] if q.low is not None and q.high is not None]
            if which == "model" and len(ends) == len(x):
                ax.fill_between(
                    x, *zip(*ends, strict=True), color=colour, alpha=0.18, linewidth=0, label="95 % interval"
                )
        ax.axhline(0, color=GREEN, linestyle=DASHES[2], label="nobody")
        values = [value for line in lines.values() for *_, value in line]
        most = max([*values, *(q.high or 0 for _, q, _ in lines["model"])])
        ax.set_ylim(-0.35 * most if most > 0 else None, 1.08 * most if most > 0 else None)
        ax.set(xlabel="probability at which enrolling is just worth it", ylabel="net benefit per person")
        key_below(c, 2)
        above = [f"{p.threshold:.2f}" for p in points if p.advantage is not None and p.advantage.above(0)]
        text = (
            "The interval of the model's advantage over both simple policies excludes 0, point by point, at "
            f"{len(above)} of {len(points)} preferences{f' ({above[0]} to {above[-1]})' if above else ''}."
        )
        return finish(c, name, "Decision curve", text, f"{text} Where a line would leave the picture below, it is cut.")


# --------------------------------------------------------------------------------------------------------------- table


def quantity_text(found: Ends | None, *, share: bool = False) -> str:
    """Return a quantity with its interval; an end that is not a number says so."""
    if found is None:
        return plain(None)
    if found.value is None or not math.isfinite(found.value):
        return NOT_REACHABLE
    value, low, high = (_shown(end, share=share) for end in (found.value, found.low, found.high))
    return value if low == value == high else f"{value} ({low.removesuffix(' %')} to {high})"


def _shown(value: float | None, *, share: bool) -> str:
    if value is None or not math.isfinite(value):
        return NOT_REACHABLE
    return percent(value) if share else f"{value:,.0f}".replace("-", "−")


def plan_table(trial: TrialPlan) -> dict[str, object]:
    """Return the reliable thresholds as ``columns`` and ``rows``, their ``cautions``, and how many are ``hidden``.

    The row of the model's own threshold is shown in any case. Cautions are marked by letters, since one may hold for
    many rows.
    """
    rows = trial.enrichment
    kept = [row for row in rows if row.reliable or row.rule == "decision"]
    columns = [("threshold", "threshold", "text"), ("people", "people", "number")]
    shares = {"share": "kept", "rate": "responder rate", "control": "rate under control"}
    counts = {"enrolled": "patients", "screened": "to screen", "cost": "cost"}
    there = [n for n in (*shares, *counts) if any(row.quantity(n) is not None for row in kept)]
    if trial.control == "given" and "control" in there:
        there.remove("control")  # the same in every row; the sentences name it
    columns += [(name, (shares | counts)[name], "number") for name in there]
    marks: dict[str, str] = {}
    table = []
    for row in kept:
        cells = {name: _cell(row, name, share=name in shares) for name in there}
        said = [*([] if row.reliable else ["This row is not reliable"]), *row.cautions]
        own = [marks.setdefault(each, chr(ord("a") + len(marks) % 26)) for each in said]
        cells["threshold"] = f"{_threshold(row)} [{', '.join(own)}]" if own else _threshold(row)
        table.append({**cells, "people": plain(row.people)})
    cautions = [f"[{mark}] {said[0].upper()}{said[1:]}." for said, mark in marks.items()]
    return {"columns": columns, "rows": table, "cautions": cautions, "hidden": len(rows) - len(kept)}


def _cell(row: Enrichment, name: str, *, share: bool) -> str:
    """Return a quantity; of people to screen and of costs only the estimate, whose intervals follow the patients'."""
    found = row.quantity(name)
    if found is None or name not in ("screened", "cost", "control"):
        return quantity_text(found, share=share)
    return _shown(found.value, share=share)


def _threshold(row: Enrichment) -> str:
    words = {"everybody": ", everybody", "decision": ", the model's own"}.get(row.rule, "")
    return f"{plain(None) if row.threshold is None else f'{row.threshold:.3f}'}{words}"
