"""Figures of one recording: motion, voxels and parcels over time, coverage, connectivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from bids_fmmtc.dataset.store import MEASURE_ENTITY, read_record
from bids_fmmtc.keys import Key
from bids_fmmtc.report.kit.figure import INK, MUTED, ORANGE, RED, Figure, canvas, finish
from bids_fmmtc.report.kit.page import number, percent
from bids_fmmtc.report.kit.sheet import WIDTH, counted, room, sheet
from bids_fmmtc.report.participant.facts import AtlasFacts, Float64, RecordingFacts, number_in

BROAD = 7.2
"""Inches: pictures over time are wide; a phone scrolls them sideways."""
MOST_PIXELS = 90_000
"""Of each picture over time and each matrix, shared by the recordings of a page: it stays under 3 MB."""
ON_PICTURE = "#222222"  # the same in the dark, as the picture below it is
FD_LINE_MM = 0.5
MOST_NAMES = 12  # of networks beside a picture
SLICES = 6


# --------------------------------------------------------------------------------------------------------- time course


def timeline_figure(
    recording: RecordingFacts, atlas: AtlasFacts, name: str, pixels: int = MOST_PIXELS
) -> Figure | None:
    """Draw motion, a carpet of voxels, and parcel series over one axis of time."""
    frames, series = recording.frames(), recording.array("_timeseries.tsv")
    picture = recording.output("_carpet.png")
    if not frames and series is None:
        return None
    tr = 1.0 if recording.quality is None else recording.quality.repetition_time
    n = len(frames) or len(series if series is not None else ())
    rows = [kind for kind, there in (("motion", frames), ("carpet", picture), ("series", series is not None)) if there]
    heights = {"motion": 1.1, "carpet": 1.7, "series": 1.7}
    names = [block[:14] for block, _, _ in atlas.blocks(0 if series is None else series.shape[1])]
    named = names if "series" in rows and 1 < len(names) <= MOST_NAMES else []
    height = 0.6 + sum(heights[r] for r in rows)
    with canvas(BROAD, height, layout="none") as c:
        sides = {"left": max(0.65, room(named) + 0.1) / BROAD, "right": 0.99}
        c.subplots_adjust(**sides, bottom=0.45 / height, top=1 - 0.1 / height, hspace=0.12)
        axes = c.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=[heights[r] for r in rows])[:, 0]
        said = []
        for ax, row in zip(axes, rows, strict=True):
            if row == "motion":
                said.append(_draw_motion(ax, frames, tr))
            elif row == "carpet" and picture is not None:
                said.append(_draw_carpet(ax, recording, atlas, n * tr, pixels))
            elif series is not None:
                said.append(_draw_series(ax, series, atlas, n * tr, pixels))
        captions = [_PANELS[row] for row in rows]
        ordered = " Rows are ordered by network." if atlas.networks else ""
        axes[-1].set_xlabel("Time (min)")
        axes[-1].set_xlim(0, n * tr / 60)
        return finish(
            c,
            name,
            "Motion, voxels and parcels over time",
            " ".join(said),
            f"{'From the top: ' if len(rows) > 1 else ''}{'; '.join(captions)}.{ordered}",
        )


_PANELS = {
    "motion": "framewise displacement, grey where frames were left out",
    "carpet": "a sample of voxels as they were read, where motion shows as vertical stripes",
    "series": "parcel series after denoising, before scaling for the encoder",
}


def _draw_motion(ax: Any, frames: Sequence[Mapping[str, str]], tr: float) -> str:
    fd = np.array([_or_nan(number_in(row, "framewise_displacement")) for row in frames])
    time = np.arange(len(frames)) * tr / 60
    out = np.array([row.get("status") != "used" for row in frames])
    for i in np.flatnonzero(out):
        ax.axvspan(time[i], time[i] + tr / 60, color=MUTED, alpha=0.35, linewidth=0)
    left_out = f"{counted(int(out.sum()), 'frame')} left out of {len(frames)}."
    ax.set_ylabel("Motion (mm)")
    if np.isnan(fd).all():
        ax.text(0.5, 0.5, "motion is not known", transform=ax.transAxes, ha="center", va="center", color=MUTED)
        ax.set_yticks([])
        return f"Motion is not known; {left_out}"
    ax.plot(time, fd, color=INK, linewidth=1)
    ax.axhline(FD_LINE_MM, color=ORANGE, linestyle=(0, (4, 2)), linewidth=1)
    ax.set_ylim(0, max(float(np.nanmax(fd)) * 1.05, 0.6))
    return f"Framewise displacement: mean {number(np.nanmean(fd))}, most {number(np.nanmax(fd))} mm; {left_out}"


def _draw_carpet(ax: Any, recording: RecordingFacts, atlas: AtlasFacts, seconds: float, pixels: int) -> str:
    from PIL import Image  # noqa: PLC0415

    path = recording.output("_carpet.png")
    if path is None:
        return ""
    with Image.open(path) as image:
        levels = np.asarray(image.convert("L"), np.float64)
    parcels = (read_record(path.with_suffix(".json")) or {}).get("RowParcels", [])
    if len(parcels) == len(levels) and len(atlas.networks) > max(parcels, default=0):
        rank = np.argsort(atlas.order(len(atlas.networks)))
        levels = levels[np.argsort(rank[np.asarray(parcels, int)], kind="stable")]
    shown = np.clip(fitted(levels, pixels), 0, 255)
    ax.imshow(shown, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=(0, seconds / 60, len(levels), 0))
    ax.set(ylabel="Voxels", yticks=[])
    ax.grid(visible=False)
    return f"Carpet of {len(levels)} voxels."


def _draw_series(ax: Any, series: Float64, atlas: AtlasFacts, seconds: float, pixels: int) -> str:
    n = series.shape[1]
    ordered = series[:, atlas.order(n)].T
    known = ~np.isnan(ordered)
    mean = np.where(known, ordered, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    centred = np.where(known, ordered - mean, 0)
    sd = np.sqrt((centred**2).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1))
    z = np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 0)
    ax.imshow(fitted(z, pixels), cmap="gray", vmin=-2.5, vmax=2.5, aspect="auto", extent=(0, seconds / 60, n, 0))
    ax.set(ylabel="Parcels", yticks=[])
    ax.grid(visible=False)
    blocks = atlas.blocks(n)
    if 1 < len(blocks) <= MOST_NAMES:
        ax.set_yticks([(start + stop) / 2 for _, start, stop in blocks], [name[:14] for name, _, _ in blocks])
        ax.set_ylabel("")
        for _, start, _ in blocks[1:]:
            ax.axhline(start, color=ORANGE, linewidth=0.6)
    lost = int((~known.any(1)).sum())
    return f"Series of {n} parcels, {counted(lost, 'parcel')} lost."


def fitted(image: Float64, pixels: int) -> Float64:
    """Return an image averaged over blocks so that it has at most so many pixels; NaN counts as nothing."""
    rows, columns = image.shape
    step = max(1, int(np.ceil(np.sqrt(rows * columns / pixels))))
    if step == 1:
        return image
    r, c = -(-rows // step), -(-columns // step)
    padded = np.full((r * step, c * step), np.nan)
    padded[:rows, :columns] = image
    blocks = padded.reshape(r, step, c, step)
    known = ~np.isnan(blocks)
    total, n = np.where(known, blocks, 0).sum((1, 3)), known.sum((1, 3))
    means: Float64 = np.divide(total, n, out=np.full((r, c), np.nan), where=n > 0)
    return means


# ---------------------------------------------------------------------------------------------- coverage, connectivity


def coverage_figure(recording: RecordingFacts, atlas: AtlasFacts, name: str) -> Figure | None:
    """Draw the coverage of each parcel on slices of the atlas; lost parcels stand out."""
    coverage = recording.array("_coverage.tsv")
    if coverage is None or atlas.image is None or not len(coverage):
        return None
    values = coverage[0]
    labels, up = _labels(atlas)
    if labels.max() != len(values):
        return None
    lost = _lost(recording, len(values))
    shown = np.where(lost, -1.0, values)
    labels, up = _cropped(labels, up)
    with canvas(BROAD, 1.75, layout="none") as c:
        c.subplots_adjust(left=0.02, right=0.91, bottom=0.08, top=0.87, wspace=0.06)
        axes = c.subplots(1, SLICES + 1, width_ratios=[1] * SLICES + [0.07])
        colours = ListedColormap(colormaps["cividis"](np.linspace(0.05, 1, 64))).with_extremes(under=RED)
        for ax, z in zip(axes, _heights(labels), strict=False):
            plane = labels[:, :, z].T[::-1]
            picture = np.where(plane > 0, shown[np.maximum(plane, 1) - 1], np.nan)
            drawn = ax.imshow(picture, cmap=colours, vmin=0, vmax=1, aspect="equal")
            ax.set(xticks=[], yticks=[], title=f"z {up[z]:.0f}")
            ax.spines[:].set_visible(False)
            ax.grid(visible=False)
        axes[0].text(0, 0, "L", transform=axes[0].transAxes, color=MUTED, fontsize=8.5)
        axes[SLICES - 1].text(1, 0, "R", transform=axes[SLICES - 1].transAxes, color=MUTED, fontsize=8.5)
        c.colorbar(drawn, cax=axes[-1], label="Coverage", ticks=[0, 0.5, 1])
        axes[-1].grid(visible=False)
        low = int(((values < 0.5) & ~lost).sum())
        text = (
            f"Mean coverage {percent(float(values.mean()))}, least {percent(float(values.min()))}; "
            f"{counted(low, 'parcel')} below one half, {counted(int(lost.sum()), 'parcel')} lost."
        )
        return finish(
            c,
            name,
            "Coverage of parcels on axial slices",
            text,
            "Share of each parcel's voxels with signal inside the brain mask; lost parcels are red. Heights z in mm; "
            "the left of the brain is on the left.",
        )


def _labels(atlas: AtlasFacts) -> tuple[NDArray[np.int64], Float64]:
    """Return labels with axes towards right, front and top, and the height of each plane in mm."""
    import nibabel as nib  # noqa: PLC0415

    image: Any = nib.as_closest_canonical(nib.load(str(atlas.image)))
    labels = np.asarray(image.dataobj).astype(np.int64)
    height = image.affine[2, 3] + image.affine[2, 2] * np.arange(labels.shape[2])
    return labels, height


def _cropped(labels: NDArray[np.int64], up: Float64) -> tuple[NDArray[np.int64], Float64]:
    """Leave out the planes on all sides that hold no parcel."""
    there = labels > 0
    box = [np.flatnonzero(there.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    x, y, z = (slice(int(ends[0]), int(ends[-1]) + 1) for ends in box)
    return labels[x, y, z], up[z]


def _heights(labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return planes spread over the labelled ones."""
    there = np.flatnonzero((labels > 0).any((0, 1)))
    first, last = there[0], there[-1]
    return np.linspace(first, last, SLICES + 2)[1:-1].round().astype(np.intp)


def _lost(recording: RecordingFacts, n: int) -> NDArray[np.bool_]:
    series = recording.array("_timeseries.tsv")
    if series is None or series.shape[1] != n:
        return np.zeros(n, np.bool_)
    return np.asarray(np.isnan(series).all(0))


def lost_parcels(recording: RecordingFacts, atlas: AtlasFacts) -> list[str]:
    """Return the names of parcels without usable signal."""
    coverage = recording.array("_coverage.tsv")
    n = 0 if coverage is None or not len(coverage) else coverage.shape[1]
    return [atlas.name_of(int(i)) for i in np.flatnonzero(_lost(recording, n))]


def matrix_figure(recording: RecordingFacts, atlas: AtlasFacts, name: str, pixels: int = MOST_PIXELS) -> Figure | None:
    """Draw connectivity over all frames left, ordered by network."""
    matrix = recording.array("_relmat.tsv")
    if matrix is None or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        return None
    n = len(matrix)
    order = atlas.order(n)
    ordered = matrix[np.ix_(order, order)].copy()
    np.fill_diagonal(ordered, np.nan)
    blocks = atlas.blocks(n)
    span = 1.0 if np.nanmax(np.abs(ordered), initial=0) <= 1 else float(np.nanquantile(np.abs(ordered), 0.99))
    names = [block[:16] for block, _, _ in blocks] if 1 < len(blocks) <= 20 else []
    beside = room(names, 8) if names else 0.2
    with sheet(WIDTH, left=beside, bottom=beside, right=0.75) as c:
        ax = c.subplots()
        drawn = ax.imshow(fitted(ordered, pixels), cmap="RdBu_r", vmin=-span, vmax=span, extent=(0, n, n, 0))
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        if 1 < len(blocks) <= 20:
            middle = [(start + stop) / 2 for _, start, stop in blocks]
            ax.set_yticks(middle, names, fontsize=8)
            ax.set_xticks(middle, names, fontsize=8, rotation=90)
            ax.tick_params(length=0)
            for _, start, _ in blocks[1:]:
                ax.axhline(start, color=ON_PICTURE, linewidth=0.6)
                ax.axvline(start, color=ON_PICTURE, linewidth=0.6)
        beside = ax.inset_axes((1.04, 0.15, 0.045, 0.7))
        c.colorbar(drawn, cax=beside, label=_measure(recording))
        beside.grid(visible=False)
        upper = ordered[np.triu_indices(n, 1)]
        told = ""
        if np.isfinite(upper).any():
            low, high = np.nanquantile(upper, [0.05, 0.95])
            told = f"; mean {number(np.nanmean(upper))}, 5 to 95 % of pairs from {number(low)} to {number(high)}"
        return finish(
            c,
            name,
            "Connectivity between parcels",
            f"{n} parcels{told}.",
            "Over all frames that were kept, not Fisher-transformed"
            f"{', ordered by network' if blocks else ''}. Blank: the diagonal and lost parcels.",
        )


def _measure(recording: RecordingFacts) -> str:
    path = recording.output("_relmat.tsv")
    kind = "" if path is None else Key(path.name).label(MEASURE_ENTITY) or ""
    return {"pearsoncorrelation": "Correlation"}.get(kind, kind or "Connectivity")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
