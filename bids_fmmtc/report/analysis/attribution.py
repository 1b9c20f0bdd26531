"""Figures and tables of what a model looks at: maps on slices, shares of the inputs, top parcels and edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bids_fmmtc.modalities import TABLE, about
from bids_fmmtc.report.analysis.curves import Float64
from bids_fmmtc.report.analysis.forest import interval_text
from bids_fmmtc.report.kit.figure import BLUE, INK, MUTED, ORANGE, PAPER, PURPLE, Figure, finish
from bids_fmmtc.report.kit.page import number, percent
from bids_fmmtc.report.kit.sheet import key_below, plain, room, sheet, short
from bids_fmmtc.report.kit.values import number_of
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.measures import words_of

N_SLICES, _ACROSS = 6, 3
MOST_VOXELS = 20_000_000
_MAPS = {
    "mean": "mean attribution over people",
    "between": "share of the differences between people that comes through each parcel",
}
Columns = list[tuple[str, str, str]]


def input_words(name: str) -> str:
    """Return a modality's name with what it is."""
    return f"{about(name).reads} ({name})" if name in TABLE else name


def read_map(path: Path) -> tuple[Float64, Float64] | None:
    """Return the values of a map (X, Y, Z), brought to RAS+ order, and its affine; None where it is not there.

    Raises
    ------
    ValueError
        It is no image of three dimensions, or far larger than any atlas.
    """
    if not path.is_file():
        return None
    image = nib.as_closest_canonical(nib.load(path))
    if len(image.shape) != 3 or math.prod(image.shape) > MOST_VOXELS:
        raise ValueError(f"{path.name} has the shape {image.shape}")
    return np.asarray(image.dataobj, dtype=np.float64), np.asarray(image.affine, dtype=np.float64)


def map_figure(folder: Path, column: str, name: str, whose: str = "") -> Figure | None:
    """Draw ``parcels_<column>.nii.gz`` on axial slices; None without the image.

    Parameters
    ----------
    folder
        The ``attribution`` folder, or that of another cohort in it.
    column
        ``mean`` or ``between``.
    whose
        Said after the title where there are maps of several cohorts.
    """
    found = read_map(folder / f"parcels_{column}.nii.gz")
    if found is None:
        return None
    values, affine = found
    values = np.nan_to_num(values)
    inside = values != 0
    words = f"{_MAPS[column]}{f', {whose}' if whose else ''}"
    if not inside.any():
        return None
    most = float(np.abs(values).max())
    places = _slices(inside)
    box = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in (0, 1)]
    x, y = (slice(max(int(ends[0]) - 1, 0), int(ends[-1]) + 2) for ends in box)
    planes = [np.where(inside, values, np.nan)[x, y, k].T for k in places]
    with sheet(3.9, left=0.05, right=0.05, bottom=0.1, top=0.05) as c:
        ax = c.subplots()
        shown = ax.imshow(_mosaic(planes), origin="lower", cmap="PuOr_r", vmin=-most, vmax=most)
        for i, (plane, k) in enumerate(zip(planes, places, strict=True)):
            left, bottom = _corner(i, planes[0].shape)
            _strongest(ax, plane, left, bottom)
            level = f"z = {number(affine[2, 2] * k + affine[2, 3], 0)} mm"
            ax.text(left, bottom + plane.shape[0], level, fontsize=8, color=MUTED, va="bottom")
        ax.set_axis_off()
        ticks = np.array([-1, -0.5, 0, 0.5, 1]) * most
        bar = c.colorbar(shown, ax=ax, orientation="horizontal", shrink=0.75, aspect=32, pad=0.02, ticks=ticks)
        bar.ax.set_xticks(ticks, [plain(float(f"{tick:.2g}")) for tick in ticks])
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8)
        text = f"{words.capitalize()}, on {len(places)} axial slices; largest absolute value {most:.3g}."
        note = (
            f"{words.capitalize()}; left of the person is left of the picture. + marks the strongest parcel of a slice "
            "where it pushes up, − where it pushes down. Only parcels are coloured; those at exactly 0 are left blank."
        )
        return finish(c, name, f"Attribution map: {words}", text, note)


def _slices(inside: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """Return slices spread evenly over the part that holds something, without its outermost ends."""
    there = np.flatnonzero(inside.any(axis=(0, 1)))
    ends = (0.0, len(there) - 1.0) if len(there) < 3 * N_SLICES else (0.08 * len(there), 0.92 * len(there) - 1)
    return sorted({int(there[round(place)]) for place in np.linspace(*ends, N_SLICES)})


def _corner(i: int, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return where slice ``i`` begins in the mosaic, left and bottom; a row of text fits above each."""
    return (i % _ACROSS) * shape[1], (1 - i // _ACROSS) * (shape[0] + _gap(shape))


def _gap(shape: tuple[int, ...]) -> int:
    return max(2, round(0.12 * shape[0]))


def _mosaic(planes: Sequence[Float64]) -> Float64:
    """Return slices side by side as one image, NaN between them: one picture is drawn far faster than six."""
    height, width = planes[0].shape
    whole = np.full((2 * (height + _gap(planes[0].shape)), _ACROSS * width), np.nan)
    for i, plane in enumerate(planes):
        left, bottom = map(int, _corner(i, plane.shape))
        whole[bottom : bottom + height, left : left + width] = plane
    return whole


def _strongest(ax: Any, plane: Float64, left: float, bottom: float) -> None:
    """Mark the strongest place of a slice by the sign of its value."""
    if not np.isfinite(plane).any():
        return
    strongest = plane.flat[np.nanargmax(np.abs(plane))]
    where = np.argwhere(plane == strongest)
    row, column = where[np.argmin(((where - where.mean(axis=0)) ** 2).sum(axis=1))]
    marker = "+" if strongest > 0 else "_"
    for colour, width in ((PAPER, 4.0), (INK, 1.7)):
        ax.plot([left + column], [bottom + row], marker=marker, color=colour, markersize=8, markeredgewidth=width)


def share_figure(shares: Sequence[Mapping[str, object]], name: str) -> Figure | None:
    """Draw what each input contributes, in two ways, with intervals; None without shares."""
    rows = [row for row in shares if number_of(row.get("share")) is not None]
    if not rows:
        return None
    ways = (
        ("share", 0.17, ("s", BLUE, BLUE), "share of the absolute parts"),
        ("between", -0.17, ("o", ORANGE, PAPER), "share of the differences between people"),
    )
    told = []
    labels = [short(input_words(str(row.get("modality"))), 24) for row in rows]
    with sheet(1.0 + 0.5 * len(rows), left=room(labels), bottom=0.9) as c:
        ax = c.subplots()
        for i, row in enumerate(rows):
            said = []
            for way, shift, (marker, colour, face), words in ways:
                value, low, high = (number_of(row.get(f"{way}{end}")) for end in ("", "_low", "_high"))
                if value is None:
                    continue
                if low is not None and high is not None:
                    ax.plot([low, high], [shift - i] * 2, color=colour, linewidth=1.6)
                    said.append(f"{words} {interval_text(Estimate(value, low, high))}")
                style = {"color": colour, "markerfacecolor": face, "markersize": 6, "linestyle": "none"}
                ax.plot([value], [shift - i], marker, **style, label=words if i == 0 else None)
            told.append(f"{input_words(str(row.get('modality')))}: {', '.join(said)}")
        ax.set_yticks([-i for i in range(len(rows))], labels)
        ax.set(xlabel="share", ylim=(-len(rows) + 0.45, 0.55))
        left, right = ax.get_xlim()
        ax.set_xlim(min(left, -0.03), max(right, 1.03))
        ax.grid(visible=False, axis="y")
        key_below(c, 1)
        note = f"Intervals are 95 % bootstraps over people. {'. '.join(told)}."
        return finish(c, name, "What each input contributes", f"{'. '.join(told)}.", note)


def parcel_figure(parcels: Sequence[Mapping[str, object]], name: str, most: int = 12) -> Figure | None:
    """Draw the top parcels as bars, by the share of differences where it is known; None without parcels."""
    by = "between" if any(number_of(row.get("between")) is not None for row in parcels) else "absolute"
    rows = [(row, value) for row in parcels[:most] if (value := number_of(row.get(by))) is not None]
    if not rows:
        return None
    words = "share of the differences between people" if by == "between" else "mean absolute attribution"
    labels = [short(_named(row), 26) for row, _ in rows]
    with sheet(0.6 + 0.21 * len(rows), left=room(labels, 8)) as c:
        ax = c.subplots()
        for i, (_, value) in enumerate(rows):
            up = value >= 0
            style = {"facecolor": PURPLE if up else PAPER, "edgecolor": PURPLE, "hatch": None if up else "////"}
            ax.barh(-i, value, height=0.68, linewidth=0.8, **style)
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.set_yticks([-i for i in range(len(rows))], labels, fontsize=8)
        ax.set(xlabel=words, ylim=(-len(rows) + 0.4, 0.6))
        ax.grid(visible=False, axis="y")
        told = "; ".join(f"{_named(row)} {value:.3g}" for row, value in rows[:5])
        return finish(
            c, name, "Top parcels", f"By {words}: {told}.", f"Top parcels by {words}; hatched bars are below 0."
        )


def _named(row: Mapping[str, object], end: str = "") -> str:
    name, network = row.get(f"name{end}"), row.get(f"network{end}")
    return f"{name} ({network})" if network else f"{name}"


# -------------------------------------------------------------------------------------------------------------- tables


def parcel_table(parcels: Sequence[Mapping[str, object]]) -> tuple[Columns, list[dict[str, str]]]:
    """Return columns and rows of the top parcels."""
    columns = [("name", "parcel", "text"), ("network", "network", "text"), ("rank", "rank", "number")]
    columns += [("between", "share of differences", "number"), ("mean", "mean attribution", "number")]
    columns += [("absolute", "mean absolute", "number"), ("stability", "among the top in draws", "number")]
    return columns, [_cells(row, columns) | {"stability": percent(number_of(row.get("stability")))} for row in parcels]


def edge_table(edges: Sequence[Mapping[str, object]]) -> tuple[Columns, list[dict[str, str]]]:
    """Return columns and rows of the top edges."""
    columns = [("edge", "edge", "text"), ("networks", "networks", "text"), ("rank", "rank", "number")]
    columns += [("between", "share of differences", "number"), ("mean", "mean attribution", "number")]
    columns += [("absolute", "mean absolute", "number")]
    rows = []
    for row in edges:
        networks = [str(row[f"network_{end}"]) for end in (1, 2) if row.get(f"network_{end}")]
        ends = f"{row.get('name_1')} – {row.get('name_2')}"
        rows.append(_cells({**row, "edge": ends, "networks": " – ".join(networks) or None}, columns))
    return columns, rows


def compared_table(rows: Sequence[Mapping[str, object]]) -> tuple[Columns, list[dict[str, str]]]:
    """Return columns and rows that set the model on another cohort beside the model on its own."""
    columns = [("what", "what", "text"), ("name", "of", "text"), ("one", "own cohort", "number")]
    columns += [("other", "other cohort", "number"), ("pearson", "correlation", "number")]
    columns += [("spearman", words_of("spearman"), "number"), ("top_shared", "top ones shared", "number")]
    columns += [("top_by_chance", "by chance", "number")]
    return columns, [_cells(row, columns) for row in rows]


def sanity_table(rows: Sequence[Mapping[str, object]]) -> tuple[Columns, list[dict[str, str]]]:
    """Return columns and rows of the comparison with models of random weights."""
    columns = [("map", "map", "text"), ("summary", "by", "text"), ("random_model", "like random weights", "number")]
    columns += [("input_size", "like the input's size", "number"), ("passes", "passes", "text")]
    return columns, [_cells(row, columns) for row in rows]


def _cells(row: Mapping[str, object], columns: Columns) -> dict[str, str]:
    found = {}
    for key, _, kind in columns:
        value = row.get(key)
        value = None if isinstance(value, float) and number_of(value) is None else value
        found[key] = _signed(value) if kind == "number" else plain(value)
    return found


def _signed(value: Any) -> str:
    given = number_of(value)
    return plain(value) if given is None or isinstance(value, int) else number(given, 4)
