import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

from bids_fmmtc.dataset.derivatives.describe import NOT_A_DEVICE
from bids_fmmtc.report.kit import page
from bids_fmmtc.report.kit.figure import Figure

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp"]), max_size=40) | st.sampled_from(
    [
        "</script><script>alert(1)</script>",
        '" onload="alert(1)',
        "'><img src=x>",
        "</style>",
        "{{ 7 * 7 }}",
        "&lt;b&gt;",
    ]
)


class Parsed(HTMLParser):
    """Elements with their attributes, and the words of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attrs for one, attrs in self.elements if one == tag]

    def said(self, tag):
        return "".join(self.words.get(tag, []))


def base(**more):
    facts = {"title": "t", "heading": "h", "kind": "k", "demo": False, "contents": [("a", "A")]}
    return page.render("page.html", facts | more)


def parts():
    return page._environment().get_template("parts.html").module


# the page


def test_a_page_begins_with_its_doctype_and_says_what_it_is():
    text = base(title="sub-01", heading="Participant 01", kind="Participant report")
    assert text.lstrip().startswith("<!DOCTYPE html>")
    found = Parsed(text)
    assert found.all("html") == [{"lang": "en"}]
    assert found.said("title") == "sub-01"
    assert found.said("h1") == "Participant 01"
    assert NOT_A_DEVICE in found.said("p")
    assert len(found.all("main")) == len(found.all("nav")) == len(found.all("header")) == len(found.all("footer")) == 1


def test_the_demo_banner_stands_only_on_demo_pages():
    assert "DEMO MODEL" in Parsed(base(demo=True)).said("strong")
    assert [one for one in Parsed(base(demo=True)).all("div") if one.get("class") == "watermark"]
    plain = Parsed(base())
    assert not plain.all("strong")
    assert not [one for one in plain.all("div") if one.get("class") == "watermark"]


def test_only_our_script_may_run_and_nothing_may_load():
    found = Parsed(base())
    (script,) = re.findall(r"<script>(.*?)</script>", base(), flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [one["content"] for one in found.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert not re.search(r"https?:", base().replace("http://www.w3.org/2000/svg", ""))


def test_style_and_script_hold_nothing_that_would_end_them():
    assert "</" not in page._asset("page.css")
    assert "</" not in page._asset("page.js")
    # The digest is of the script's bytes; plain ASCII is the same bytes wherever the page is copied to.
    assert page._asset("page.js").isascii()


@settings(max_examples=50, deadline=None)
@given(title=TEXTS, heading=TEXTS, kind=TEXTS, entry=TEXTS)
def test_no_text_of_a_page_becomes_markup(title, heading, kind, entry):
    plain, found = Parsed(base()), Parsed(base(title=title, heading=heading, kind=kind, contents=[("a", entry)]))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert found.said("title") == title
    assert found.said("h1") == heading
    assert [one for one in found.all("a") if one["href"] == "#a"] == [{"href": "#a"}]


def test_what_a_template_names_must_be_given():
    with pytest.raises(UndefinedError, match="heading"):
        page.render("page.html", {"title": "t", "kind": "k", "demo": False, "contents": []})


# its parts


@settings(max_examples=50, deadline=None)
@given(caption=TEXTS, heading=TEXTS, cell=TEXTS, link=TEXTS)
def test_no_cell_becomes_markup(caption, heading, cell, link):
    columns = [("a", heading, "text"), ("b", "B", "number")]

    def table(rows, caption="c"):
        return Parsed(str(parts().table(caption, columns, rows, sortable=True, filterable=True, id="t")))

    found = table([{"a": {"text": link, "href": "sub-01.html"}, "b": cell}, {"a": cell}], caption)
    plain = table([{"a": {"text": "x", "href": "sub-01.html"}, "b": "x"}, {"a": "x"}])
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert found.said("a") == link
    assert found.all("a") == [{"href": "sub-01.html"}]
    assert caption in found.said("caption")
    assert [one["aria-label"] for one in found.all("div")] == [caption]


def test_a_table_names_its_rows_and_columns():
    rows = [{"a": "x", "b": "1"}, {"a": "y"}]
    text = str(parts().table("c", [("a", "A", "text"), ("b", "B", "number")], rows))
    found = Parsed(text)
    assert [one["scope"] for one in found.all("th")] == ["col", "col", "row", "row"]
    assert [one.get("class") for one in found.all("td")] == ["number", "number"]
    assert "sortable" not in text
    assert not found.all("input")


def test_a_filter_is_hidden_until_the_script_can_serve_it():
    found = Parsed(str(parts().table("c", [("a", "A", "text")], [], filterable=True, id="t")))
    assert "hidden" in found.all("p")[0]
    assert found.all("input") == [{"type": "search", "data-filters": "t"}]


def test_a_figure_keeps_its_markup_and_escapes_its_caption():
    drawn = Figure("x", Markup("<svg id='x'></svg>"), "<b>caption</b>")
    found = Parsed(str(parts().figure(drawn)))
    assert [tag for tag, _ in found.elements] == ["figure", "div", "svg", "figcaption"]
    assert found.said("figcaption") == "<b>caption</b>"
    assert str(parts().figure(None)).strip() == ""


def test_facts_are_terms_and_texts():
    found = Parsed(str(parts().facts([("Frames", 200), ("<b>", "<i>")])))
    assert [tag for tag, _ in found.elements].count("dt") == 2
    assert found.said("dt") == "Frames<b>"
    assert found.said("dd") == "200<i>"


# numbers


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1234.567, 2, "1,234.57"), (-0.5, 1, "−0.5"), (0, 0, "0"), (None, 2, "–"), (math.nan, 2, "–")],
)
def test_numbers(value, digits, text):
    assert page.number(value, digits) == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "50 %"), (0, "0 %"), (None, "–"), (math.nan, "–")])
def test_shares(value, text):
    assert page.percent(value) == text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ({"value": 0.62, "low": 0.41, "high": 0.79}, "0.62 (0.41 to 0.79)"),
        ({"value": 0.62, "low": None, "high": None}, "0.62 (– to –)"),
        ({"value": None, "low": 0, "high": 1}, "–"),
        ({}, "–"),
        (None, "–"),
    ],
)
def test_estimates_with_intervals(estimate, text):
    assert page.between(estimate) == text


# colours


def schemes():
    """Scheme -> role -> colour, from the style sheet."""
    style = page._asset("page.css")
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    assert len(blocks) == 3
    found = [dict(re.findall(r"--(\w+): (#\w+);", block)) for block in blocks]
    assert set(found[0]) == set(found[1]) == set(found[2])
    return dict(zip(("light", "dark", "print"), found, strict=True))


def rgb(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    return [int(digits[i : i + 2], 16) for i in (0, 2, 4)]


def luminance(channels):
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def watermarked(paper):
    """Paper under a stroke of the watermark, which lies below everything."""
    style = page._asset("page.css")
    rule = re.search(r"\.watermark \{(.*?)\n", style)[1]
    opacity = float(re.search(r"opacity: ([.\d]+)", rule)[1])
    stroke = rgb("#" + re.search(r"fill='%23(\w+)'", rule)[1])
    assert "z-index: -1" in rule
    return [opacity * s + (1 - opacity) * p for s, p in zip(stroke, rgb(paper), strict=True)]


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_words_stand_out_from_everything_they_stand_on(scheme):
    """WCAG 2.2, 1.4.3: 4.5 : 1 for words; 1.4.11: 3 : 1 for what is drawn."""
    colours = schemes()[scheme]
    grounds = {role: rgb(colours[role]) for role in ("paper", "panel", "warn", "bad")}
    grounds["watermark"] = watermarked(colours["paper"])
    for role in ("ink", "muted", "blue"):
        for ground, under in grounds.items():
            assert contrast(rgb(colours[role]), under) >= 4.5, (role, ground)
    for role in ("blue", "orange", "green", "purple", "red"):
        assert contrast(rgb(colours[role]), grounds["paper"]) >= 4.5, role
        assert contrast(rgb(colours[role]), grounds["watermark"]) >= 3, role


@pytest.mark.parametrize("harmful", ["\x1b[2J", "\x00", "\x9b31m", "\r", "\u202egpj.exe", "\u2028", "\ud800"])
def test_a_name_holds_no_control_character(harmful):
    text = base(title=f"a{harmful}b", heading=f"c{harmful}d", kind="k\tl\nm")
    assert harmful[0] not in text
    assert Parsed(text).said("h1") == f"c\ufffd{harmful[1:]}d"
    assert "k\tl\nm" in text
    assert text.encode()
