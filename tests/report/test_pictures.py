"""Six figures are what their stored pictures show; any line, band, mark or label that moves a little is seen."""

from dataclasses import replace

import matplotlib as mpl
import pytest
from matplotlib.transforms import ScaledTranslation
from picture_parts import APART, STORED, apart, canvas_of, draw_all, picture, stored

from bids_fmmtc.report.analysis import forest

NAMES = ("forest", "roc", "trial-plan", "flow", "time-course", "connectivity")
MOVED = 1 / 30  # of the height of its axes


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    return draw_all(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def canvases(draw):
    return {name: canvas_of(draw[name]) for name in NAMES}


def artists(canvas):
    """Yield (axes, artist) of the first and last of each kind in each axes."""
    for ax in canvas.axes:
        for kind in (ax.lines, ax.collections, ax.patches, ax.texts, ax.images):
            yield from ((ax, kind[i]) for i in sorted({0, len(kind) - 1}) if len(kind))


def moved(canvas, ax, artist):
    """Return the picture with one artist further right and lower than it should be."""
    before = artist.get_transform() if not hasattr(artist, "get_patch_transform") else artist.get_data_transform()
    inches = MOVED * ax.bbox.size / canvas.dpi
    away = ScaledTranslation(inches[0], -inches[1], canvas.dpi_scale_trans)
    artist.set_transform(before + away)
    try:
        return picture(canvas)
    finally:
        artist.set_transform(before)


def test_pictures_are_small_and_all_of_them_are_compared():
    files = sorted(STORED.iterdir())
    assert [path.name for path in files] == sorted(f"{name}.png" for name in NAMES)
    assert max(path.stat().st_size for path in files) < 30_000


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_looks_as_it_is_stored(canvases, name):
    assert apart(picture(canvases[name]), stored(name)) < APART, "meant? then: python tests/report/picture_parts.py"


@pytest.mark.parametrize("name", NAMES)
def test_whatever_moves_is_seen(canvases, name):
    canvas = canvases[name]
    before = picture(canvas)
    unseen = [a for ax, a in artists(canvas) if apart(moved(canvas, ax, a), stored(name)) < APART]
    assert unseen == []
    assert apart(picture(canvas), before) == 0  # all of them are where they were


def test_another_number_is_seen(draw, monkeypatch):
    real = forest._interval
    monkeypatch.setattr(
        forest, "_interval", lambda ax, told, *more: real(ax, replace(told, high=told.high - MOVED), *more)
    )
    assert apart(picture(canvas_of(draw["forest"])), stored("forest")) > APART


@pytest.mark.parametrize("name", NAMES)
def test_another_way_to_draw_letters_is_not(canvases, name):
    with mpl.rc_context({"text.hinting": "no_hinting"}):
        assert apart(picture(canvases[name]), stored(name)) < APART
