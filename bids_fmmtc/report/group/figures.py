"""Figures of the cohort: who became what, how predictions are spread, and how good the recordings are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bids_fmmtc.dataset.naming import natural
from bids_fmmtc.report.analysis.curves import Float64
from bids_fmmtc.report.analysis.facts import Analysis, Judged, classes
from bids_fmmtc.report.group.facts import Group, Session
from bids_fmmtc.report.kit.figure import BLUE, GREEN, GRID, INK, MUTED, ORANGE, PAPER, PURPLE, Figure, finish
from bids_fmmtc.report.kit.sheet import WIDTH, counted, key_below, room, sheet, short, wrapped

MOST_GROUPS = 12
_LINE = 0.17  # inches
_LEFT, _RIGHT = 26, 26  # characters in the boxes of the flow


@dataclass(frozen=True, slots=True)
class Step:
    """One box of the flow and, beside it, who goes no further."""

    kept: str
    lost: tuple[str, ...] = ()


def steps(group: Group, analysis: Analysis | None) -> list[Step]:
    """Return the way from people to the analysis; ``analysis`` None ends with the recordings."""
    found = []
    if group.sessions:
        missing = len(group.missing)
        absent = (f"{counted(missing, 'participant')} without any output",)
        found.append(Step(f"{counted(len(group.participants), 'participant')} known", absent if missing else ()))
    if group.recordings or group.failed:
        failed = (f"{counted(group.failed, 'recording')} failed",)
        found.append(Step(f"{counted(group.recordings, 'recording')} processed", failed if group.failed else ()))
    if analysis is None:
        return found
    people = analysis.evaluation.people
    if people is None:
        return found
    kinds = [f"{n} × {kind}" for kind, n in classes(analysis).most_common()]
    cut = [*kinds[:5], f"and {len(kinds) - 5} other reasons"] if len(kinds) > 6 else kinds
    excluded = people.excluded or 0
    lost = (f"{excluded} left out of the analysis:", *cut)
    sessions, whom = counted(people.sessions or 0, "session"), counted(people.participants or 0, "participant")
    found.append(Step(f"{sessions} of {whom} analysed", lost if excluded else ()))
    if people.responders is not None:
        two = (counted(people.responders, "responder"), counted(people.non_responders or 0, "non-responder"))
        found.append(Step("\n".join(two)))
    return found


def flow_figure(group: Group, analysis: Analysis | None, name: str) -> Figure | None:
    """Draw how the cohort came about; None where nothing is known of it."""
    found = steps(group, analysis)
    if not found:
        return None
    boxes = []
    for step in found:
        left = "\n".join(wrapped(line, _LEFT, 3) for line in step.kept.split("\n"))
        right = "\n".join(wrapped(line, _RIGHT, 2) for line in step.lost)
        boxes.append((left, right, _LINE * (1 + max(left.count("\n"), right.count("\n") if right else 0)) + 0.18))
    gap = 0.24
    total = sum(height for *_, height in boxes) + gap * (len(boxes) - 1)
    with sheet(total + 0.08, left=0, bottom=0, right=0, top=0) as c:
        ax = c.subplots()
        ax.set(xlim=(0, WIDTH), ylim=(-0.04, total + 0.04))
        ax.set_axis_off()
        top = total
        for i, (left, right, height) in enumerate(boxes):
            _box(ax, (0.02, top - height, 1.84, height), left, BLUE)
            if right:
                _box(ax, (2.14, top - height, 1.84, height), right, ORANGE, dashed=True)
                _arrow(ax, (1.86, top - height / 2), (2.14, top - height / 2))
            if i < len(boxes) - 1:
                _arrow(ax, (0.94, top - height), (0.94, top - height - gap))
            top -= height + gap
        told = "; ".join(", ".join([*s.kept.split("\n"), *(f"({each})" for each in s.lost)]) for s in found)
        note = "Solid boxes: who goes on. Dashed boxes: who does not. Names and reasons stand in the tables."
        return finish(c, name, "From participants to the analysis", f"{told}.", note)


def _box(ax: Any, place: tuple[float, float, float, float], text: str, colour: str, *, dashed: bool = False) -> None:
    from matplotlib.patches import FancyBboxPatch  # noqa: PLC0415

    x, y, width, height = place
    style = "round,pad=0,rounding_size=0.05"
    line = (0, (4, 2)) if dashed else "-"
    ax.add_patch(
        FancyBboxPatch((x, y), width, height, style, facecolor=PAPER, edgecolor=colour, linewidth=1.3, linestyle=line)
    )
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5, linespacing=1.25)


def _arrow(ax: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": MUTED, "shrinkA": 0, "shrinkB": 0})


# -------------------------------------------------------------------------------------------------------- distribution


def distributions(analysis: Analysis, name: str) -> list[Figure]:
    """Draw out-of-fold values by outcome for everybody, for each arm and for each site, where there are several."""
    rows = [j for j in analysis.judged if j.value is not None and j.outcome is not None]
    if not rows or analysis.regression:
        return []
    found = []
    ways: list[tuple[str, Callable[[Judged], str | None]]] = [("arm", lambda j: j.arm), ("site", lambda j: j.site)]
    for what, of in ways:
        groups = _grouped(rows, of)
        if len(groups) > 1:
            found.append(_spread(groups, f"by {what}", f"{name}-{what}"))
    return found or [_spread([("everybody", rows)], "of everybody", f"{name}-all")]


def _grouped(rows: Sequence[Judged], of: Callable[[Judged], str | None]) -> list[tuple[str, list[Judged]]]:
    """Return group -> rows in natural order; small groups beyond the most that fit are put together."""
    found: dict[str, list[Judged]] = {}
    for row in rows:
        found.setdefault(of(row) or "not given", []).append(row)
    if list(found) == ["not given"]:
        return []
    by_size = sorted(found, key=lambda label: (-len(found[label]), natural(label)))
    shown, rest = by_size, by_size[MOST_GROUPS - 1 :]
    if len(by_size) > MOST_GROUPS:
        shown = by_size[: MOST_GROUPS - 1]
    ordered = [(label, found[label]) for label in sorted(shown, key=natural)]
    if len(by_size) > MOST_GROUPS:
        ordered.append((f"{len(rest)} others", [row for label in rest for row in found[label]]))
    return ordered


def _spread(groups: Sequence[tuple[str, list[Judged]]], how: str, name: str) -> Figure:
    """Draw a strip for responders and one for the others in each group."""
    ticks = [f"{short(label, 20)}\n({len(rows)})" for label, rows in groups]
    with sheet(0.8 + 0.62 * len(groups), left=room(ticks), bottom=0.7) as c:
        ax = c.subplots()
        told = []
        for i, (label, rows) in enumerate(groups):
            counts = []
            for k, shift, style in ((1, 0.19, ("o", BLUE, BLUE)), (0, -0.19, ("^", ORANGE, PAPER))):
                values = np.array([j.value for j in rows if j.outcome == k], np.float64)
                words = "responders" if k else "non-responders"
                _strip(ax, values, -i + shift, style, words if i == 0 else None)
                middle = f", median {np.median(values):.2f}" if len(values) else ""
                counts.append(f"{len(values)} {words}{middle}")
            told.append(f"{short(label)}: {'; '.join(counts)}")
        ax.set_yticks([-i for i in range(len(groups))], ticks)
        ax.set(xlabel="out-of-fold probability of responding", xlim=(-0.03, 1.03), ylim=(-len(groups) + 0.5, 0.5))
        for i in range(len(groups) - 1):
            ax.axhline(-i - 0.5, color=GRID, linewidth=0.8)
        ax.grid(visible=False, axis="y")
        key_below(c, 2)
        note = "Each mark is a session, as models judged it that did not learn from it; bars are medians."
        return finish(c, name, f"Out-of-fold predictions {how}", f"{'. '.join(told)}.", note)


def _strip(
    ax: Any, values: Float64, y: float, style: tuple[str, str, str], label: str | None, half: float = 0.1
) -> None:
    """Draw a row of marks, spread a little so that equal ones are seen, and their median."""
    marker, colour, face = style
    spread = np.random.default_rng(len(values)).uniform(-half, half, len(values))
    ax.plot(
        *(values, y + spread, marker),
        color=colour, markerfacecolor=face, markersize=4, alpha=0.8, linestyle="none", label=label,
    )  # fmt: skip
    if len(values):
        ax.plot([np.median(values)] * 2, [y - 1.5 * half, y + 1.5 * half], color=INK, linewidth=1.6)


def applied_figure(sessions: Sequence[Session], name: str) -> Figure | None:
    """Draw the predictions of an applied model, sorted; None where there are none."""
    rows = sorted((s for s in sessions if s.probability is not None), key=lambda s: s.probability or 0.0)
    if not rows:
        return None
    styles = {
        "responder": ("o", BLUE, BLUE),
        "non-responder": ("^", ORANGE, PAPER),
        "undecided": ("D", PURPLE, PAPER),
    }
    few = len(rows) <= 40
    ticks = [short(s.key, 24) for s in rows] if few else []
    decisions = list(dict.fromkeys(s.decision or "no decision" for s in rows))
    key = 0.2 * -(-len(decisions) // 2)
    tall = 0.2 * len(rows) + 0.15 if few else 3.0
    with sheet(tall + 0.6 + key, left=room(ticks) if few else 0.35, bottom=0.5 + key) as c:
        ax = c.subplots()
        place = {s.key: i for i, s in enumerate(rows)}
        for decision in decisions:
            own = [s for s in rows if (s.decision or "no decision") == decision]
            marker, colour, face = styles.get(decision, ("s", GREEN, PAPER))
            x, y = [s.probability for s in own], [place[s.key] for s in own]
            label = f"{short(decision, 24)} ({len(own)})"
            ax.errorbar(x, y, xerr=[s.sd or 0.0 for s in own], fmt="none", ecolor=colour, elinewidth=0.9)
            ax.plot(x, y, marker, color=colour, markerfacecolor=face, label=label, linestyle="none")
        for threshold in sorted({s.threshold for s in rows if s.threshold is not None}):
            ax.axvline(threshold, color=MUTED, linestyle=(0, (4, 2)), linewidth=1)
        ax.set(xlabel="calibrated probability of responding", xlim=(-0.03, 1.03), ylim=(-0.8, len(rows) - 0.2))
        ax.set_yticks(range(len(rows)) if few else [], ticks)
        if not few:
            ax.set_ylabel(f"{len(rows)} sessions, sorted")
        ax.grid(visible=False, axis="y")
        key_below(c, 2)
        values = np.array([s.probability for s in rows], np.float64)
        text = (
            f"{counted(len(rows), 'session')}, probabilities from {values.min():.2f} to {values.max():.2f}, median "
            f"{np.median(values):.2f}."
        )
        note = "Bars: standard deviation over windows. Dashed: the model's threshold. Decisions are conformal sets."
        return finish(c, name, "Predictions of the applied model", text, note)


def quality_figure(sessions: Sequence[Session], name: str) -> Figure | None:
    """Draw motion, minutes left and coverage of every session; None where nothing of it is known."""
    measures = [
        ("mean framewise displacement (mm)", [s.quality.mean_fd for s in sessions]),
        ("minutes of usable recording", [s.quality.minutes for s in sessions]),
        ("mean coverage of parcels", [s.quality.coverage for s in sessions]),
    ]
    known = [(words, np.array([v for v in values if v is not None], np.float64)) for words, values in measures]
    known = [(words, values) for words, values in known if len(values)]
    if not known:
        return None
    with sheet(0.85 * len(known), left=0.2, right=0.25, top=0.05) as c:
        axes = c.subplots(len(known), squeeze=False, gridspec_kw={"hspace": 1.6})[:, 0]
        for ax, (words, values) in zip(axes, known, strict=True):
            _strip(ax, values, 0, ("o", BLUE, BLUE), None)
            ax.set(xlabel=words, ylim=(-0.25, 0.25), yticks=[])
            ax.spines["left"].set_visible(False)
            ax.margins(x=0.05)
            if words.startswith("mean coverage"):
                ax.set_xlim(max(0.0, float(values.min()) - 0.05), 1.005)
        told = [f"{w}: {v.min():.3g} to {v.max():.3g}, median {np.median(v):.3g}" for w, v in known]
        note = f"Each mark is a session; bars are medians. {'; '.join(told).capitalize()}."
        return finish(c, name, "Quality of the recordings", f"{'; '.join(told)}.", note)
