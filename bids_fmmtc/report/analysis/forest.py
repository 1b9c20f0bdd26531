"""Estimates with their intervals, one below the other, beside chance: models, baselines, other people, other sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bids_fmmtc.report.kit.figure import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, PURPLE, Figure, finish
from bids_fmmtc.report.kit.page import number
from bids_fmmtc.report.kit.sheet import key_below, sheet, wrapped
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.measures import Measure

_ROLES = {  # role -> (marker, filled, colour, words)
    "model": ("s", True, BLUE, "the model"),
    "ablation": ("D", True, PURPLE, "a part of it"),
    "baseline": ("o", False, ORANGE, "baseline"),
    "elsewhere": ("^", True, GREEN, "other people or sites"),
}
_LINE, _BAR = 0.135, 0.25  # inches of a line of text, and of the interval below it


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One line of a forest plot; without an estimate ``note`` says why."""

    name: str
    role: str
    estimate: Estimate | None
    note: str = ""


def interval_text(estimate: Estimate | None, digits: int = 2) -> str:
    """Return ``0.71 (0.58 to 0.82)``, and in words what is not known of it."""
    if estimate is None or estimate.value is None:
        return "undefined"
    value = number(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return f"{value} (no interval)"
    return f"{value} ({number(estimate.low, digits)} to {number(estimate.high, digits)})"


def forest(rows: Sequence[ForestRow], measure: Measure, name: str, title: str, caption: str) -> Figure | None:
    """Draw estimates with their intervals, one below the other, beside chance; None without rows."""
    if not rows:
        return None
    labels = [wrapped(row.name, 40, 3) for row in rows]
    heights = [_LINE * (1 + label.count("\n")) + _BAR for label in labels]
    total = sum(heights)
    roles = [row.role for row in rows if row.estimate is not None]
    key = 0.22 if len(set(roles)) > 1 else 0.0
    with sheet(total + 0.5 + key, left=0.1, bottom=0.45 + key, right=0.1, top=0.05) as c:
        ax = c.subplots()
        across = ax.get_yaxis_transform()
        on_paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}
        top = total
        for row, label, height in zip(rows, labels, heights, strict=True):
            role = _ROLES.get(row.role, _ROLES["baseline"])
            told = row.estimate is not None and row.estimate.value is not None
            style = {"transform": across, "va": "top", "color": INK if told else MUTED, "bbox": on_paper}
            ax.text(0, top - 0.02, label, fontsize=8.5, linespacing=1.1, **style)
            right = interval_text(row.estimate) if told else "undefined" if row.estimate is not None else "not run"
            ax.text(1, top - 0.02, right, ha="right", fontsize=8.5, **style)
            if row.estimate is not None and told:
                _interval(ax, row.estimate, top - height + 0.6 * _BAR, role)
            elif row.note:
                ax.text(0, top - height + 0.85 * _BAR, wrapped(row.note, 66, 1), fontsize=7.5, **style)
            top -= height
        _forest_axes(ax, measure, total)
        _roles_legend(c, roles)
        told_rows = [f"{r.name}: {interval_text(r.estimate) if r.estimate else f'not run, {r.note}'}" for r in rows]
        return finish(c, name, title, f"{measure.words}. {'; '.join(told_rows)}.", caption)


def _interval(ax: Any, estimate: Estimate, y: float, role: tuple[str, bool, str, str]) -> None:
    marker, filled, colour, _ = role
    low, high = estimate.low, estimate.high
    if low is not None and high is not None:
        ax.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        ax.plot([low, high], [y, y], color=colour, linestyle="none", marker="|", markersize=6, zorder=2)
    face = colour if filled else PAPER
    ax.plot(
        [estimate.value],
        [y],
        marker=marker,
        color=colour,
        markerfacecolor=face,
        markersize=6,
        zorder=3,
        clip_on=False,
    )


def _forest_axes(ax: Any, measure: Measure, total: float) -> None:
    ax.set_ylim(0, total)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    if math.isfinite(measure.high - measure.low):
        ax.set_xlim(measure.low, measure.high)
    if measure.chance is not None:
        ax.axvline(measure.chance, color=MUTED, linestyle=(0, (4, 2)), linewidth=1, zorder=1)
    chance = "" if measure.chance is None else f"; dashed: chance, {measure.chance:g}"
    ax.set_xlabel(f"{measure.words}{chance}")


def _roles_legend(c: Any, roles: Sequence[str]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = []
    for role in dict.fromkeys(r for r in roles if r in _ROLES):
        marker, filled, colour, words = _ROLES[role]
        face = colour if filled else PAPER
        handles.append(Line2D([], [], color=colour, marker=marker, markerfacecolor=face, label=words))
    if len(handles) > 1:
        key_below(c, len(handles), handles=handles, handlelength=1.6)
