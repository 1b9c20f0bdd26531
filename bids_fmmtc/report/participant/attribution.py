"""What an analysis explains of one participant, on demand: a glass brain, parcels and connections that count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.report.analysis.attribution import input_words
from bids_fmmtc.report.kit.figure import INK, Figure, canvas, finish
from bids_fmmtc.report.kit.page import number
from bids_fmmtc.report.kit.sheet import attempt, plain
from bids_fmmtc.report.kit.values import read_rows
from bids_fmmtc.report.kit.words import listed
from bids_fmmtc.report.participant.facts import ParticipantFacts, number_in

TOP = 12
_PARCELS = [("rank", "Rank", "number"), ("name", "Parcel", "text"), ("network", "Network", "text"),
            ("mean", "Attribution", "number")]  # fmt: skip
_EDGES = [("rank", "Rank", "number"), ("pair", "Between", "text"), ("network", "Networks", "text"),
          ("mean", "Attribution", "number")]  # fmt: skip


def attribution_sections(facts: ParticipantFacts) -> list[dict[str, object]]:
    """Return what the template shows of each analysis that explains this participant."""
    return [
        {
            "analysis": f"{analysis}, {folder.name}",
            "sentences": _sentences(folder),
            "brain": attempt("The glass brain", brain_figure, folder, f"a{i}-brain"),
            "tables": [t for t in (_parcels(folder), _edges(folder)) if t["rows"]],
        }
        for i, (analysis, folder) in enumerate(facts.explained)
    ]


def _sentences(folder: Path) -> list[str]:
    found = read_record(folder / "attribution.json") or {}
    said = []
    parts = found.get("parts")
    if isinstance(parts, dict) and found.get("score") is not None:
        moved = listed([f"{input_words(k)} {number(v)}" for k, v in parts.items()])
        said.append(
            f"Score {number(found['score'])} (log-odds, before calibration), against "
            f"{number(found.get('baseline_score'))} for the baseline. Of the difference, by input: {moved}."
        )
    errors = found.get("relative_errors")
    if isinstance(errors, dict) and errors.get("total") is not None:
        said.append(f"Completeness: what is attributed misses the difference by {100 * errors['total']:.2g} %.")
    baseline = found.get("baseline")
    if isinstance(baseline, dict):
        said.append(f"Baseline: {listed([f'{k}: {v}' for k, v in baseline.items()])}.")
    return said


def brain_figure(folder: Path, name: str) -> Figure | None:
    """Draw a participant's attribution on a glass brain; None where the atlas has no image."""
    path = folder / "parcels_mean.nii.gz"
    if not path.is_file():
        return None
    import nibabel as nib  # noqa: PLC0415
    from nilearn.plotting import plot_glass_brain  # noqa: PLC0415  (a second or so)

    image: Any = nib.load(path)
    values = np.asarray(image.dataobj, np.float64)
    most = float(np.abs(values).max())
    if not most > 0:
        return None
    with canvas(7.2, 2.3, layout=None) as c:
        plot_glass_brain(
            image,
            figure=c,
            display_mode="lzr",
            plot_abs=False,
            cmap="PuOr_r",
            vmax=most,
            vmin=-most,
            symmetric_cbar=True,
            colorbar=True,
            black_bg=False,
            threshold=most / 20,
            transparency=None,
        )
        _follow_the_page(c)
        top = _ranked(folder / "parcels.tsv")[:5]
        names = listed([f"{row.get('name')} ({number(number_in(row, 'mean'))})" for row in top])
        return finish(
            c,
            name,
            "Attribution to parcels on a glass brain",
            f"Greatest: {names}.",
            "Orange speaks for responder, purple against. Values below a twentieth of the greatest are left out.",
            dpi=100,
        )


def _follow_the_page(drawn: Any) -> None:
    """Give what nilearn draws in black the page's ink, which is light in the dark."""
    for artist in drawn.findobj(lambda a: isinstance(a, Text | Patch | Line2D)):
        for name in ("color", "edgecolor"):
            value = getattr(artist, f"get_{name}", lambda: None)()
            if value is not None and to_hex(value) == "#000000":
                getattr(artist, f"set_{name}")(INK)


def _ranked(path: Path) -> list[dict[str, str]]:
    return sorted(read_rows(path) or [], key=lambda row: number_in(row, "rank") or 1e9)


def _parcels(folder: Path) -> dict[str, object]:
    rows = [
        {"rank": row.get("rank", ""), "name": row.get("name", ""), "network": row.get("network", ""),
         "mean": plain(number_in(row, "mean"), 3)}
        for row in _ranked(folder / "parcels.tsv")[:TOP]
    ]  # fmt: skip
    return {"caption": "Parcels that count most", "columns": _PARCELS, "rows": rows}


def _edges(folder: Path) -> dict[str, object]:
    rows = [
        {"rank": row.get("rank", ""), "pair": f"{row.get('name_1', '')} and {row.get('name_2', '')}",
         "network": " and ".join(dict.fromkeys(row.get(k, "") for k in ("network_1", "network_2"))),
         "mean": plain(number_in(row, "mean"), 3)}
        for row in _ranked(folder / "edges.tsv")[:TOP]
    ]  # fmt: skip
    return {"caption": "Connections that count most", "columns": _EDGES, "rows": rows}
