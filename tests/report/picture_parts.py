"""Figures as small pictures, and how far two of them are apart.

Words are drawn as bars of their size: letters look a little different wherever another font library draws them, while
where a text stands, how long it is and in which colour should not. What it says is tested in the figure's markup.

    python tests/report/picture_parts.py     # draw the stored pictures anew; look at them before you commit
"""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path

import group_parts
import matplotlib as mpl
import numpy as np
import participant_parts
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from bids_fmmtc.report.analysis.facts import read_analysis
from bids_fmmtc.report.analysis.figures import roc_figure
from bids_fmmtc.report.analysis.forest import ForestRow, forest
from bids_fmmtc.report.analysis.trial import trial_figures
from bids_fmmtc.report.group.facts import read_group
from bids_fmmtc.report.group.figures import flow_figure
from bids_fmmtc.report.kit import figure
from bids_fmmtc.report.participant.facts import participant_facts
from bids_fmmtc.report.participant.recording_figures import matrix_figure, timeline_figure
from bids_fmmtc.results.measures import MEASURES
from bids_fmmtc.results.record import evaluation_of, plan_of

STORED = Path(__file__).parent / "pictures"
DPI, FINER = 60, 4  # of the stored pictures; drawn finer, since the width of a word is rounded to pixels
NEAR = 2
"""Pixels by which something may lie elsewhere: a thirtieth of an inch."""
APART = 33
"""Levels of 255 by which it may look otherwise: a font without hinting makes 23, the faintest band moved away 44."""


def draw_all(folder):
    """Name -> function that draws the figure; what it shows is written below ``folder``."""
    group_parts.write_dataset(folder / "group")
    group_parts.write_analysis(folder / "group")
    participant_parts.write_dataset(folder / "person")
    participant_parts.write_recording(folder / "person")
    facts = participant_facts(folder / "person", "01")
    recording = facts.sessions[0].recordings[0]
    models = evaluation_of(group_parts.evaluation()).models.values()
    rows = [ForestRow(m.text, m.role, m.estimate("auroc"), m.reason or "") for m in models]

    def analysis():
        return read_analysis(folder / "group" / "group" / "main")

    return {
        "forest": lambda: forest(rows, MEASURES["auroc"], "p", "Models", ""),
        "roc": lambda: roc_figure(analysis(), "p"),
        "trial-plan": lambda: next(f for f in trial_figures(plan_of(group_parts.trial()), "p") if f.name == "p-size"),
        "flow": lambda: flow_figure(read_group(folder / "group"), analysis(), "p"),
        "time-course": lambda: timeline_figure(recording, facts.atlas, "p"),
        "connectivity": lambda: matrix_figure(recording, facts.atlas, "p"),
    }


def canvas_of(draw):
    """Return matplotlib's canvas of the figure that ``draw`` returns."""
    kept = {}

    class Kept(figure.Canvas):
        def savefig(self, *given, **more):
            kept[mpl.rcParams["svg.hashsalt"]] = self  # the figure's name
            return super().savefig(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "Canvas", Kept)
        return kept[draw().name]


def picture(canvas):
    """Return a canvas as (height, width, 3) levels, its words as bars."""
    file = BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", _bar)
        canvas.savefig(file, format="png", dpi=DPI * FINER, facecolor="white")
    return np.asarray(Image.open(file).convert("RGB").reduce(FINER))


def _bar(text, renderer):
    if text.get_visible() and text.get_text().strip():
        box = text.get_window_extent(renderer)
        bar = Rectangle(
            box.p0, box.width, box.height, facecolor=text.get_color(), alpha=0.4, linewidth=0, transform=None
        )
        bar.set_figure(text.figure)
        bar.draw(renderer)


def apart(one, other):
    """Return by how many levels two pictures differ where one shows most that is not near that place in the other."""
    return np.inf if one.shape != other.shape else max(_beyond(one, other), _beyond(other, one))


def _beyond(one, other):
    """Return how far the levels of a pixel are, at most, from all that lie between those near it in the other."""
    size = (2 * NEAR + 1, 2 * NEAR + 1, 1)
    low, high = minimum_filter(other, size).astype(int), maximum_filter(other, size).astype(int)
    return max((low - one).max(), (one - high).max())


def stored(name):
    """Return a stored picture as (height, width, 3) levels."""
    with Image.open(STORED / f"{name}.png") as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as there:
        for label, make in draw_all(Path(there)).items():
            Image.fromarray(picture(canvas_of(make))).save(STORED / f"{label}.png", optimize=True)
