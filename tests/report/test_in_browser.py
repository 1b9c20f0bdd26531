"""Every kind of page, looked at in a real browser with the network off: see `browser`.

To add a page, write its file in the fixture `pages` and its name in ``NAMES``.
"""

import numpy as np
import participant_parts
import pytest
from browser import assert_clean, check, needs_browser
from group.parts import group_words, make_features, write_inputs
from group_parts import evaluation, explanation, metrics, write_analysis
from jinja2 import DictLoader
from small import SHARED, run

from bids_fmmtc.cli import main
from bids_fmmtc.pages import draw_group, draw_participant
from bids_fmmtc.report.kit import page
from bids_fmmtc.report.kit.figure import BLUE, COLOURS, DASHES, MARKERS, MUTED, canvas, finish

pytestmark = [pytest.mark.slow, needs_browser]

NAMES = ("sample-demo", "participant", "failed", "hostile", "group", "bundle", "gathered", "hostile-group")

HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(2)',
    "'><img src=https://example.org/x.png onerror=alert(3)>",
    "</style></script></svg><h1>out</h1>",
    "{{ 7 * 7 }} {% raw %} $\\frac{",
    "javascript:alert(4)",
    "&lt;b&gt; &amp; \u202egnol yrev ﷽ 日本語 " + "unbroken" * 20,
)
BARE = ("failed",)  # nothing is left to draw
TEMPLATE = """
{% extends "page.html" %}
{% from "parts.html" import figure, table, facts %}
{% block lead %}
<div class="verdict"><p class="big">Probability of response: 0.62</p><p>The interval is 0.41 to 0.79. It holds the \
threshold of 0.50, so nothing is decided.</p></div>
<p class="device">For research only. This is not a medical device.</p>
{% endblock %}
{% block main %}
<section id="motion"><h2>Motion</h2>
<p>How far the head moved from one frame to the next. Frames above the dashed line were not used.</p>
{{ figure(motion) }}
<div class="pair">{{ figure(matrix) }}{{ figure(scale) }}</div>
</section>
<section id="people"><h2>People</h2>
<div class="flag"><p>sub-02 moved more than the people the model was trained on.
<a href="#motion">See motion.</a></p></div>
<div class="failed"><p>{{ hostile[0] }} failed: no brain mask was found. Run fMRIPrep again.</p></div>
{{ table("Participants", columns, rows, sortable=true, filterable=true, id="participants") }}
</section>
<section id="method"><h2>Method</h2>
{{ facts(pairs) }}
<details><summary>Words to paste</summary><pre>{{ hostile | join(" ") }}</pre><h3>Where from</h3>
<p class="quiet">See <a href="https://example.org/doi">Fan et al. (2025)</a>.</p></details>
</section>
{% endblock %}
"""
COLUMNS = [
    ("label", "Participant", "text"),
    ("site", "Site", "text"),
    ("date", "Date", "text"),
    ("probability", "Probability of response", "number"),
    ("motion", "Mean framewise displacement (mm)", "number"),
    ("flags", "Flags", "text"),
]


def motion(name="motion", title="Motion", label="framewise displacement"):
    with canvas(7.2, 2.4) as c:
        ax = c.subplots()
        frames = np.arange(200)
        for i, (colour, dash, marker) in enumerate(zip(COLOURS, DASHES, MARKERS, strict=True)):
            values = 0.1 + 0.05 * i + 0.04 * np.sin(frames / (5 + i))
            ax.plot(frames, values, color=colour, linestyle=dash, marker=marker, markevery=25, label=f"{label} {i}")
        ax.axhline(0.5, color=MUTED, linestyle="--")
        ax.set(xlabel="frame", ylabel="mm", title="Framewise displacement")
        ax.legend(ncols=2)
        return finish(c, name, title, "Displacement stays below 0.4 mm.", "Framewise displacement of five runs.")


def matrix(name="matrix"):
    with canvas(3.4, 3) as c:
        ax = c.subplots()
        ax.grid(visible=False)
        ax.imshow(np.random.default_rng(0).normal(size=(48, 48)), cmap="gray_r")
        ax.set(xlabel="parcel", ylabel="parcel")
        return finish(c, name, "Connectivity", "Correlations of 48 parcels, from -0.4 to 0.8.", "Connectivity.")


def scale(name="scale"):
    with canvas(3.4, 1.2) as c:
        ax = c.subplots()
        ax.errorbar([0.62], [0], xerr=[[0.21], [0.17]], color=BLUE, marker="o", capsize=4)
        ax.axvline(0.5, color=MUTED, linestyle="--")
        ax.set(xlim=(0, 1), yticks=[], xlabel="probability of response")
        return finish(c, name, "Prediction", "Probability 0.62, interval 0.41 to 0.79; the threshold is 0.50.")


def rows(n=24):
    random = np.random.default_rng(1)
    made = []
    for i in range(n):
        hostile = HOSTILE[i % len(HOSTILE)] if i < 2 * len(HOSTILE) else ""
        made.append(
            {
                "label": {"text": f"sub-{i + 1:02d}", "href": "#method"},
                "site": hostile or f"site {i}",
                "date": f"2026-{i % 12 + 1:02d}-{i % 28 + 1:02d}",
                "probability": page.number(random.normal() if i % 5 else None),
                "motion": page.number(random.gamma(2, 400), 1),
                "flags": hostile if i % 3 == 0 else page.DASH,
            }
        )
    return made


def sample(*, demo=False, **more):
    facts = {
        "title": f"sub-01 {HOSTILE[0]}",
        "heading": f"Participant sub-01 {HOSTILE[1]}",
        "kind": "Participant report",
        "demo": demo,
        "contents": [("motion", "Motion"), ("people", "People"), ("method", "Method and where it comes from")],
        "motion": motion(title=HOSTILE[0], label=HOSTILE[0]),
        "matrix": matrix(),
        "scale": scale(),
        "columns": COLUMNS,
        "rows": rows(),
        "pairs": [(text, text) for text in HOSTILE],
        "hostile": HOSTILE,
        **more,
    }
    # The package's own environment, with one more template.
    environment = page._environment().overlay(loader=DictLoader({"sample.html": TEMPLATE, **own_templates()}))
    return environment.get_template("sample.html").render(**facts)


def own_templates():
    loader = page._environment().loader
    return {name: loader.get_source(page._environment(), name)[0] for name in ("page.html", "parts.html")}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Every page to look at: name -> path."""
    folder = tmp_path_factory.mktemp("pages")
    made = {"sample-demo": sample(demo=True)}
    paths = {}
    for name, text in made.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(text, encoding="utf-8")
    return paths | participants(folder / "people") | cohorts(folder)


def participants(root):
    """Draw a participant with everything, one that failed, and one whose files hold hostile text."""
    participant_parts.write_dataset(root)
    participant_parts.write_recording(root, "sub-01_task-rest_run-1")
    participant_parts.write_recording(root, "sub-01_task-rest_run-2", seed=1)
    participant_parts.write_prediction(root, windows=(0.5, 0.6, 0.7, 0.4, 0.6, 0.8))
    participant_parts.write_attribution(root)
    participant_parts.write_failed(root, "sub-02_task-rest")
    participant_parts.write_prediction(root, "sub-02_task-rest", p=None)
    participant_parts.write_recording(root, "sub-03_task-rest", quality={"flags": [*HOSTILE]})
    participant_parts.write_failed(root, "sub-03_task-rest_run-9", " ".join(HOSTILE))
    participant_parts.write_prediction(
        root, "sub-03_task-rest", ModelName=HOSTILE[0], Classes=list(HOSTILE[:2]), Flags=[*HOSTILE], DemoModel=True
    )
    return {name: draw_participant(root, label) for name, label in NAMED.items()}


NAMED = {"participant": "01", "failed": "02", "hostile": "03"}


def cohorts(folder):
    """Draw what a real group run draws, one without outcomes, and an analysis at chance with hostile text."""
    root = folder / "real"
    write_inputs(root, 24)
    make_features(root)
    gathered = folder / "gathered.html"
    assert main(group_words(root, outcome=None)) == 0
    gathered.write_bytes(
        (root / "out" / "group_fmmtc.html").read_bytes().replace(b'href="sub-', b'href="real/out/sub-')
    )
    words = ("--site-column", "site", "--covariates", "age,sex", "--control-rate", "0.2", "--explain", "01")
    assert main(group_words(root, *words, "--cost-scan", "500", "--cost-patient", "20000")) == 0
    out = root / "out"
    bad = folder / "bad"
    write_group(bad)
    return {
        "group": out / "group_fmmtc.html", "gathered": gathered,
        "bundle": out / "group" / "responder_linear" / "bundle.html", "hostile-group": draw_group(bad),
    }  # fmt: skip


def write_group(root):
    """Write group tables and an analysis at chance, with hostile names of sites, arms and parcels."""
    from group_parts import write_dataset

    write_dataset(root, site=HOSTILE[0])
    content = evaluation(auroc=(0.55, 0.38, 0.71), p=0.4, explanation=explanation())
    content["models"]["model"]["metrics"] = metrics((0.55, 0.38, 0.71))
    content["models"]["site"]["text"] = HOSTILE[3]
    write_analysis(root, content=content, sites=(HOSTILE[0], HOSTILE[1]), arms=(HOSTILE[2], HOSTILE[4]))


@pytest.fixture(scope="module")
def found(pages):
    assert set(pages) == set(NAMES)
    return check(pages)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_right(found, name):
    assert_clean(found[name])
    assert found[name].counts["drawings"] or name in BARE
    assert found[name].counts["rules passed, dark"] > 20


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real recording in ../shared")
def test_the_page_of_a_real_recording_is_right(tmp_path):
    line = [SHARED / "data" / "bold4d" / "devfix", tmp_path / "out", "participant", "-w", tmp_path / "w"]
    done = run([*map(str, line), "--atlas", str(SHARED / "data" / "atlas")])
    assert done.returncode == 0, done.stderr
    (seen,) = check({"real": tmp_path / "out" / "sub-rapidtide.html"}).values()
    assert_clean(seen)
    assert seen.counts["drawings"] == 3  # over time, coverage, connectivity


def test_the_sample_was_looked_at_in_full(found):
    counts = found["sample-demo"].counts
    assert counts["drawings"] == 3
    assert counts["sorted"] == len(COLUMNS)
    assert counts["filtered"] == 1
    # skip link, contents, filter, sort buttons, participants, the region that scrolls, details
    assert counts["focusable"] >= 1 + 3 + 1 + len(COLUMNS) + 24 + 1 + 1
    assert not [remark for remark in found["sample-demo"].remarks if remark.startswith("accessibility")]


# The checks themselves: each fault is found, and by the check that is meant to find it.

POLICY = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title>{head}</head><body>
<a href="#main">To the content</a><main id="main"><h1>Page</h1>{body}</main></body></html>"""
SVG = '<svg role="img" aria-label="x" id="{}" width="{}" height="50" viewBox="0 0 100 50">{}</svg>'
BOX = '<rect width="9" height="9"/>'
TABLE = """<input aria-label="x" data-filters="t"><table class="sortable" id="t">
<thead><tr><th><button>n</button></th></tr></thead><tbody><tr><td>2</td></tr><tr><td>1</td></tr></tbody></table>"""
NAV = """<nav style="position: sticky; top: 0; height: 4rem; background: #fff"><a href="#part">x</a></nav>
<p style="height: 60rem">.</p><h2 id="part">Part</h2><p style="height: 90rem">.</p>"""
# Page -> what stands in its head, in its body, and what must be found: check and a part of what it says.
FAULTS = {
    "says": (
        "<script>console.error('complaint'); alert('question')</script>",
        "<script>throw new Error('exception')</script>",
        {"console": ["complaint"], "dialog": ["question"], "script": ["exception"]},
    ),
    "asks": (
        "",
        """<img alt="x" src="https://example.org/x.png"><img alt="x" src="beside.png">
        <script>fetch('https://example.org/fetched').catch(() => {}); new WebSocket('wss://example.org/');</script>""",
        {"request": ["https://example.org/x.png", "beside.png", "fetched", "wss:"]},
    ),
    "would-ask": (
        POLICY + "<style>@import url(https://example.org/sheet.css);</style>",
        '<img alt="x" src="https://example.org/x.png"><p onclick="x()">text</p><script>var blocked = 1</script>',
        {"reference": ["x.png", "sheet.css", "onclick"], "policy": ["script-src", "img-src"], "console": [""]},
    ),
    "drawings": (
        "",
        '<img alt="x" id="broken" width="99" height="99" src="data:image/png;base64,AAAA">'
        + SVG.format("empty", 100, "")
        + SVG.format("tiny", 10, BOX)
        + f'<div style="opacity: 0">{SVG.format("hidden", 100, BOX)}</div>'
        + SVG.format("words", 100, '<text y="20" font-size="4">small</text><text y="30" fill="#ddd">faint</text>')
        + SVG.format("picture", 100, '<image href="data:image/png;base64,AAAA" width="9" height="9"/>'),
        {
            "drawing": ["broken", "empty at 1200 px is empty", "tiny", "hidden", "words of 4.0 px", "broken picture"],
            "faint": ["faint"],
        },
    ),
    "wide": ("", '<p style="width: 800px">wide</p>', {"overflow": ["on 390 px: p"]}),
    "links": (
        "",
        '<a href="#nowhere">x</a> <a href="sub-99.html">x</a> <a href="javascript:alert(1)">x</a>',
        {"link": ["#nowhere", "sub-99.html", "javascript:"]},
    ),
    "covered": ("", NAV, {"contents": ["#part lies under"]}),
    "keyboard": (
        "",
        '<a href="#main" style="outline: none">dull</a><button tabindex="-1">unreachable</button>',
        {"keyboard": ["dull has no visible focus", "Tab misses button unreachable"]},
    ),
    "no-skip-link": ("", "<script>document.querySelector('a').tabIndex = -1</script>", {"keyboard": ["first Tab"]}),
    "dead": (
        "",
        TABLE + "<script>document.body.append('more')</script>",
        {"sorting": ["n is not announced"], "filter": ["shows 2 of 2"], "without script": ["other words", "2 inputs"]},
    ),
    "rules": (
        "",
        '<img src="data:image/svg+xml,x"><p style="color: #bbb">pale</p><p><div>x</p></div>',
        {"accessibility": ["light: image-alt", "dark: image-alt", "light: color-contrast"], "html": ["div"]},
    ),
}
EXPECTED = [(p, kind, part) for p, (_, _, kinds) in FAULTS.items() for kind, parts in kinds.items() for part in parts]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "beside.png").write_bytes(b"")
    paths = {}
    for name, (head, body, _) in {**FAULTS, "right": (POLICY, "<p>text</p>", {})}.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(PAGE.format(head=head, body=body), encoding="utf-8")
    return check(paths)


@pytest.mark.parametrize(("name", "kind", "part"), EXPECTED)
def test_a_fault_is_found(faulty, name, kind, part):
    assert any(part in text for text in faulty[name].of(kind)), faulty[name].findings
    with pytest.raises(AssertionError, match=kind):
        assert_clean(faulty[name])


def test_a_plain_page_without_faults_is_clean(faulty):
    assert_clean(faulty["right"])
