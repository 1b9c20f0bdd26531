import base64
import re
import warnings
from html.parser import HTMLParser
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bids_fmmtc.report.kit import figure
from bids_fmmtc.report.kit.figure import BLUE, COLOURS, GRID, INK, MUTED, ORANGE, PAPER, canvas, finish

SENTINELS = {INK, MUTED, GRID, PAPER, *COLOURS}
# Control characters and lone surrogates cannot stand in a page; everything else may come out of a table.
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)
HOSTILE = st.one_of(
    TEXTS,
    st.sampled_from(
        [
            "</title></svg><script>alert(1)</script>",
            '" onload="alert(1)',
            "a $ b $ c",
            r"$\frac{",
            'id="x" url(#y) href="#z" font-family: serif; #1b1f24 base64,   ',
            "</style><style>*{display:none}",
            "<!-- --> ]]> &amp; &#60;b&#62;",
            "<metadata>a</metadata><defs><style>b</style></defs>",
        ]
    ),
)


class Parsed(HTMLParser):
    """Elements, ids, references and words of a piece of HTML, as a browser would take it apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.references, self.attributes = [], [], set(), []
        self.words, self.open = {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((name, value))
            if name == "id":
                self.ids.append(value)
            self.references |= set(re.findall(r"url\(#([^)]+)\)", value or ""))
            if name == "href" and value.startswith("#"):
                self.references.add(value[1:])
            if name in {"aria-labelledby", "aria-describedby"}:
                self.references |= set(value.split())

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        where = self.open[-1] if self.open else ""
        self.words.setdefault(where, []).append(data)

    def said(self, tag):
        return ["".join(self.words.get(tag, []))]


def draw(name="motion", title="Motion", description="It is low.", label="run 1"):
    """One of everything that pages draw: lines, markers, hatches, a raster, a legend, words."""
    with canvas(5, 3) as c:
        left, right = c.subplots(1, 2)
        for i, colour in enumerate(COLOURS):
            left.plot([0, 1], [i, i + 1], color=colour, marker="o")
        left.plot([0, 1], [0, 1], label=label)
        left.fill_between([0, 1], [0, 1], [1, 2], color=BLUE, alpha=0.2)
        left.bar([0, 1], [1, 2], facecolor=PAPER, edgecolor=ORANGE, hatch="//")
        left.axhline(1, color=MUTED)
        left.legend()
        right.imshow(np.arange(16).reshape(4, 4))
        right.text(1, 1, label, color=PAPER)
        return finish(c, name, title, description, "caption")


def test_a_drawing_is_an_element_with_title_and_description():
    found = Parsed(draw().markup)
    assert (found.tags[0], found.open, found.tags.count("svg")) == ("svg", [], 1)
    assert found.said("title") == ["Motion"]
    assert found.said("desc") == ["It is low."]
    attributes = dict(found.attributes)
    assert attributes["role"] == "img"
    assert attributes["aria-labelledby"] == "motion-title"
    assert attributes["aria-describedby"] == "motion-text"


def test_without_a_description_the_title_says_it():
    assert Parsed(draw(description="").markup).said("desc") == ["Motion"]


@pytest.mark.filterwarnings("ignore:constrained_layout not applied", "ignore:No artists with labels")
@settings(max_examples=15, deadline=None)
@given(title=HOSTILE, description=HOSTILE, label=HOSTILE)
def test_no_text_becomes_markup(title, description, label):
    found = Parsed(draw(title=title, description=description, label=label).markup)
    assert set(found.tags) <= {
        "svg",
        "title",
        "desc",
        "g",
        "path",
        "defs",
        "use",
        "text",
        "image",
        "clippath",
        "rect",
    } | {"pattern"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.said("title") == [title]
    assert found.said("desc") == [description or title]
    assert found.references <= set(found.ids)


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
@pytest.mark.parametrize(
    "label", ['id="x" url(#y) href="#z" font-family: serif; #1b1f24', "a $ b $ c", r"$\frac{", "<b>&amp;</b>", "日本"]
)
def test_a_label_is_drawn_as_it_is(label):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        found = Parsed(draw(label=label).markup)
    assert found.words["text"].count(label) == 2  # legend and axes


def test_ids_are_unique_over_the_drawings_of_a_page():
    names = ["motion", "matrix", "scale", "motion-2"]
    found = Parsed("".join(draw(name).markup for name in names))
    assert len(found.ids) == len(set(found.ids))
    assert found.references <= set(found.ids)
    assert all(any(one.startswith(f"{name}-") for name in names) for one in found.ids)


def test_the_same_drawing_has_the_same_bytes():
    assert draw() == draw()


def test_somebodys_own_matplotlibrc_changes_nothing():
    before = draw()
    own = {"lines.linewidth": 9, "axes.prop_cycle": "cycler('color', ['r'])", "svg.fonttype": "path", "font.size": 20}
    with mpl.rc_context(own):
        assert draw() == before
        assert mpl.rcParams["lines.linewidth"] == 9
        assert mpl.rcParams["font.size"] == 20


def test_colours_and_font_are_the_pages():
    markup = draw().markup
    assert "font-family" not in markup
    assert "<style" not in markup
    assert not [colour for colour in SENTINELS if colour in markup]
    assert set(re.findall(r"var\(--(\w+)\)", markup)) == {
        "ink",
        "muted",
        "rule",
        "paper",
        "blue",
        "orange",
        "green",
        "purple",
        "red",
    }
    # Of the vectors no other colour is left; #000000 in a gradient or a default would not follow the dark scheme.
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r"base64,[^\"]*", "", markup))


def test_a_longer_colour_is_not_taken_for_ours():
    assert figure._adapted(f'<path style="fill: {INK}ff"/>', {}) == f'<path style="fill: {INK}ff"/>'


def picture(markup):
    (text,) = [value for name, value in Parsed(markup).attributes if name == "href" and value.startswith("data:")]
    assert re.match(r"data:image/png;base64,\S+$", text)
    with Image.open(BytesIO(base64.b64decode(text.partition(",")[2]))) as opened:
        return np.array(opened.convert("RGBA"))


@pytest.mark.parametrize("colour_map", ["gray", "viridis"])
def test_what_is_dense_becomes_one_picture_of_exact_colours(colour_map):
    values = np.random.default_rng(0).normal(size=(300, 400))
    with canvas(3, 3) as c:
        c.subplots().imshow(values, cmap=colour_map)
        markup = finish(c, "dense", "t", "d").markup
    wanted = mpl.colormaps[colour_map](mpl.colors.Normalize()(values), bytes=True)
    np.testing.assert_array_equal(picture(markup), wanted)
    assert len(markup) < values.size * 4 / 3 + 10_000  # a byte a value, in base64


def test_a_picture_of_many_colours_keeps_them_and_what_is_missing_is_clear():
    values = np.random.default_rng(0).integers(0, 256, (60, 60, 4), dtype=np.uint8)
    values[..., 3] = 255
    values[:5] = 0
    with canvas(3, 3) as c:
        c.subplots().imshow(values)
        markup = finish(c, "many", "t", "d").markup
    np.testing.assert_array_equal(picture(markup), values)


def test_colours_stand_out_from_white():
    """As the page's text does: 4.5 : 1; see test_page.py for the schemes."""
    for colour in {*COLOURS, INK, MUTED}:
        r, g, b = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        )
        assert 1.05 / (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05) >= 4.5, colour
