"""Matplotlib figures as inline SVG that follows the page: its colours in light, dark and print, its font.

Small things stay vectors; what is dense (`Axes.imshow`) becomes a raster inside the same SVG. A figure is drawn with
the colours named here; each is replaced by the page's CSS variable of that role, so that one drawing serves both
colour schemes. Series are told apart by marker and line style as well as by colour.
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure as Canvas
from PIL import Image

INK, MUTED, GRID, PAPER = "#1b1f24", "#5a6370", "#d5d9e0", "#fefefe"
BLUE, ORANGE, GREEN, PURPLE, RED = "#0b62a8", "#b34a00", "#00735a", "#8a3d78", "#c0201c"
"""Dark members of Okabe and Ito's palette (2008): apart for the colour-blind, at least 4.5 : 1 on white."""
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v")

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "rule",
    PAPER: "paper",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
    RED: "red",
}
_STYLE = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.color": INK,
    "image.cmap": "gray",
    "image.interpolation": "none",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "patch.edgecolor": INK,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label with two dollar signs is a label
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing as a page shows it.

    ``markup`` is an ``<svg>`` with title and description; ``caption`` stands below it, in words that a reader who
    cannot see the drawing needs, too.
    """

    name: str
    markup: Markup
    caption: str


@contextmanager
def canvas(width: float = 7.2, height: float = 2.6, **layout: Any) -> Iterator[Canvas]:
    """Give a figure of ``width`` x ``height`` inches in the page's style; nothing global is changed or followed.

    Parameters
    ----------
    layout
        Further arguments of `matplotlib.figure.Figure`; ``layout="constrained"`` unless given.
    """
    # "default": somebody's own matplotlibrc must not change our pages.
    with mpl.style.context(["default", _STYLE]):
        yield Canvas(figsize=(width, height), **{"layout": "constrained", **layout})


def finish(drawn: Canvas, name: str, title: str, description: str, caption: str = "", dpi: float = 120) -> Figure:
    """Turn a drawing into a figure of a page; call it inside `canvas`.

    Parameters
    ----------
    name
        A letter, then letters, digits and hyphens, unique in its page: it starts every id of the drawing.
    title, description
        What a screen reader says: what the drawing is, and what it shows, with the numbers that matter.
    caption
        What everybody reads below it.
    dpi
        Of artists that are rasterised.
    """
    text = StringIO()
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The page's reader has the fonts that matplotlib lacks.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.savefig(text, format="svg", dpi=dpi, metadata=nothing)
    return Figure(name, _inline(text.getvalue(), name, title, description), caption)


def _inline(svg: str, name: str, title: str, description: str) -> Markup:
    """Return matplotlib's file as an element of a page."""
    body = svg[svg.index("<svg") :]
    head, body = body[: body.index(">")], body[body.index(">") + 1 :]
    found = re.search(r'viewBox="([^"]*)"', head)
    box = found.group(1) if found else "0 0 100 100"
    # A style element would hold for the whole page.
    body = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    used = dict.fromkeys(m for tag in _TAG.findall(body) for m in _REFERENCE.findall(tag))
    # Numbered as they come: matplotlib makes some of them of addresses in memory, which differ from run to run.
    ids = {old: f"{name}-{i}" for i, old in enumerate(used)}
    body = _TAG.sub(lambda tag: _adapted(tag[0], ids), body)
    told = (
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(description or title)}</desc>'
    )
    label = f'role="img" aria-labelledby="{name}-title" aria-describedby="{name}-text" id="{name}-figure"'
    width = float(box.split()[2]) * 4 / 3
    return Markup(  # noqa: S704  (matplotlib's own output; every text in it is escaped by matplotlib or here)
        f'<svg viewBox="{box}" style="--width: {width:.0f}px" {label}>{told}{body.strip()}'
    )


_TAG = re.compile(r"<[^>]+>")  # matplotlib escapes > in attributes and text
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^")]+)')


def _adapted(tag: str, ids: Mapping[str, str]) -> str:
    """Return a tag with the page's colours and font and this figure's ids; texts between tags stay as they are."""
    tag = tag.replace("xlink:href=", "href=")
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{ids[m[1]]}"' if m[1] in ids else "", tag)
    tag = re.sub(r'(url\(#|href="#)([^")]+)', lambda m: f"{m[1]}{ids[m[2]]}", tag)
    tag = re.sub(r" ?font-family: [^;\"]*;?", "", tag)
    tag = re.sub(r"data:image/png;base64,\s*([^\"]+)", lambda m: f"data:image/png;base64,{_smaller(m[1])}", tag)
    for colour, role in _VARIABLES.items():
        tag = re.sub(rf"{colour}(?![0-9a-f])", f"var(--{role})", tag)
    return tag


def _smaller(text: str) -> str:
    """Return a picture in base64 with a palette where its colours fit into one, as those of most colour maps do.

    No pixel changes; a noisy picture takes a third to a half of the space.
    """
    with Image.open(BytesIO(base64.b64decode(text))) as opened:
        pixels = np.ascontiguousarray(opened.convert("RGBA"))
    colours = np.unique(pixels.view(np.uint32))  # the four bytes of a pixel as one number
    palette = colours.view(np.uint8).reshape(-1, 4)
    if len(colours) > 256 or (palette[:, 3] < 255).any():
        return text.replace("\n", "")
    places = np.searchsorted(colours, pixels.view(np.uint32)[..., 0]).astype(np.uint8)
    indexed = Image.frombytes("P", (pixels.shape[1], pixels.shape[0]), places.tobytes())
    indexed.putpalette(palette[:, :3].tobytes())
    file = BytesIO()
    indexed.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
