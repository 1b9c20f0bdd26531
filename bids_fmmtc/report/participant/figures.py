"""Figures of a prediction: its scale, its windows, its place among the people learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np

from bids_fmmtc.keys import Key
from bids_fmmtc.report.kit.figure import BLUE, GRID, INK, MUTED, ORANGE, PAPER, Figure, finish
from bids_fmmtc.report.kit.page import number
from bids_fmmtc.report.kit.sheet import counted, key_below, sheet
from bids_fmmtc.report.participant.facts import SessionFacts


def scale_figure(session: SessionFacts, name: str) -> Figure | None:
    """Draw the calibrated probability on its scale, with the span of its windows and the threshold."""
    p, threshold = session.probability, session.threshold
    if p is None:
        return None
    windows = np.array(session.per_window)
    classes = session.classes
    with sheet(1.45, left=0.15, bottom=0.5) as c:
        ax = c.subplots()
        ax.axhline(0, color=GRID, linewidth=7, solid_capstyle="butt", zorder=0)
        if len(windows) > 1:
            ax.plot([windows.min(), windows.max()], [0, 0], color=BLUE, linewidth=7, alpha=0.35, zorder=1)
            ax.plot(windows, np.zeros(len(windows)), "|", color=BLUE, markersize=15, zorder=2)
        ax.plot([p], [0], "D", color=BLUE, markersize=10, markeredgecolor=PAPER, zorder=3)
        ax.annotate(number(p), (p, 0), (0, 13), textcoords="offset points", ha="center", fontsize=13, weight="bold")
        if threshold is not None:
            ax.axvline(threshold, color=ORANGE, linestyle=(0, (4, 2)), ymin=0.12, ymax=0.72)
            ax.annotate(
                f"threshold {number(threshold)}",
                (threshold, 0),
                (0, -21),
                textcoords="offset points",
                ha="center",
                color=ORANGE,
                fontsize=8.5,
            )
        ax.set(xlim=(-0.02, 1.02), ylim=(-1, 1), yticks=[], xlabel="Calibrated probability of being a responder")
        ax.grid(visible=False)
        ax.spines["left"].set_visible(False)
        for x, side, text in ((0, "left", classes[0]), (1, "right", classes[-1])):
            ax.text(x, -0.85, text, ha=side, va="center", color=MUTED, fontsize=8.5)
        spread = f"; windows from {number(windows.min())} to {number(windows.max())}" if len(windows) > 1 else ""
        text = f"Probability {number(p)}{spread}; decision threshold {number(threshold)}."
        return finish(
            c,
            name,
            "Calibrated probability on a scale from 0 to 1",
            text,
            "Diamond: the prediction. Ticks and band: the windows of the recording, whose spread shows how steady the "
            "number is over time; it is no confidence interval.",
        )


def windows_figure(session: SessionFacts, name: str) -> Figure | None:
    """Draw the probability of each window over the time of its run."""
    windows, threshold = session.per_window, session.threshold
    if len(windows) < 2:
        return None
    spans = _spans(session, len(windows))
    with sheet(2.1, top=0.25) as c:
        axes = c.subplots(1, len(spans), sharey=True, squeeze=False)[0]
        start = 0
        for ax, (run, onsets) in zip(axes, spans, strict=True):
            for p, (first, last) in zip(windows[start:], onsets, strict=False):
                ax.plot([first / 60, last / 60], [p, p], color=BLUE, linewidth=1)
                ax.plot([(first + last) / 120], [p], "o", color=BLUE)
            start += len(onsets)
            if threshold is not None:
                ax.axhline(threshold, color=ORANGE, linestyle=(0, (4, 2)))
            ax.set(ylim=(-0.03, 1.03), xlabel="Time (min)", title=run if len(spans) > 1 else "")
        axes[0].set_ylabel("Probability")
        said = ", ".join(number(p) for p in windows[:40])
        return finish(
            c,
            name,
            "Probability of each window",
            f"{counted(len(windows), 'window')}: {said}.",
            "Each bar is a window over its span of time, by the calibration of the whole session. Dashed: threshold.",
        )


def _spans(session: SessionFacts, n: int) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return each run and the seconds its windows span; one run of equal steps where the records do not tell."""
    found = [(_run(Key(r.key)), r.record.spans) for r in session.recordings if r.ok]
    if sum(len(onsets) for _, onsets in found) == n and found:
        return found
    return [("", [(60.0 * i, 60.0 * (i + 1)) for i in range(n)])]


def _run(key: Key) -> str:
    return key if key.run is None else f"run {key.run}"


def position_figure(session: SessionFacts, name: str) -> Figure | None:
    """Draw where the probability lies among those of the people learnt from, out of fold."""
    counts = session.sidecar.get("OutOfFold")
    p = session.probability
    if not isinstance(counts, dict) or not counts or p is None:
        return None
    classes = session.classes
    table = np.array([[int(of.get(k, 0)) for k in classes] for of in counts.values()])
    lower = np.arange(len(table)) / len(table)
    with sheet(2.5, bottom=0.75, top=0.25) as c:
        ax = c.subplots()
        width = 1 / len(table)
        styles = ((ORANGE, "////", -1), (BLUE, "", 1))
        for i, (kind, (colour, hatch, sign)) in enumerate(zip(classes, styles, strict=False)):
            ax.bar(
                lower + width / 2,
                sign * table[:, i],
                width * 0.92,
                color=colour,
                alpha=0.55,
                hatch=hatch,
                edgecolor=colour,
                label=f"{kind} ({table[:, i].sum()})",
            )
        ax.axvline(p, color=INK, linewidth=2)
        ax.annotate("this session", (p, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                    ha="center", fontsize=8.5)  # fmt: skip
        ax.axhline(0, color=MUTED, linewidth=0.8)
        most = max(int(table.max()), 1)
        ax.set(xlim=(0, 1), ylim=(-most * 1.1, most * 1.1), xlabel="Out-of-fold probability", ylabel="Sessions")
        ax.yaxis.set_major_locator(_whole_numbers())
        ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        key_below(c, 2)
        at = min(int(p * len(table)), len(table) - 1)
        here = ", ".join(f"{table[at, i]} {kind}" for i, kind in enumerate(classes))
        return finish(
            c,
            name,
            "This session among the people the model learnt from",
            f"Probability {number(p)}. In its range of training: {here}.",
            "Probabilities of the people the model learnt from, each judged by a model that had not seen them; "
            "responders upwards, non-responders downwards.",
        )


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    return MaxNLocator(5, integer=True)
