"""The page of a bundle: the facts of its card, whole and safe."""

import copy
import json

import pytest
from card_parts import card_of
from group_parts import HOSTILE, metrics, sound

from bids_fmmtc.dataset.store import write_json
from bids_fmmtc.learning.bundle.card import card_text
from bids_fmmtc.report.bundle_page import FIRST, blocks, bundle_page, flat


def document(**more):
    """Content of a ``bundle.json``, with a real card."""
    facts = {
        "title": "Duloxetine, knee",
        "datasets": ["output"],
        "classes": {"non-responder": 11, "responder": 12},
        "outcome": "responder where vas_change is at least 20",
        "findings": [
            "The model is not shown to be better than chance (AUROC within folds 0.55).",
            "It is worse than: x.",
        ],
        "metrics": metrics((0.55, 0.38, 0.71)),
        "baselines": {"site only": metrics((0.44, 0.3, 0.61)), "motion only": metrics((0.5, 0.4, 0.6))},
        "external": {"far": metrics((0.63, 0.51, 0.74))},
        "protocol": {"folds": 5, "setting of the final model": {"penalty": 0.001, "blocks": ["fc"]}},
        "software": {"bids_fmmtc": "0.1.0", "numpy": "2.4.6"},
        "training_command": "bids_fmmtc fmriprep output group --outcome responder",
    }
    card = card_of(facts | more)
    return {
        "format": "bids_fmmtc bundle",
        "card": card,
        "classes": ["non-responder", "responder"],
        "threshold": 0.5217391304,
        "shapes": {"fc": [48, 48]},
        "head": {"kind": "linear"},
        "unit": "session",
        "calibration": {"kind": "platt", "slope": 0.8663, "intercept": 0.0676},
        "conformal": {"alpha": 0.1, "quantiles": [0.034, 0.09]},
        "reference": {"mean_fd": {"high": 0.0693}, "placement": {"values": ["same"]}, "embedding_fc": {"high": 1.0}},
        "encoders": {"brainlm": {"sha256": "e" * 64, "included": False}},
        "files": {"head.safetensors": {"bytes": 4, "sha256": "f" * 64}, "../etc": {"bytes": 1, "sha256": "0" * 64}},
        "checksum": "c" * 64,
    }


def written(tmp_path, content):
    folder = tmp_path / "bundle"
    write_json(folder / "bundle.json", content)
    (folder / "head.safetensors").write_bytes(b"1234")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return sound(bundle_page(written(tmp_path_factory.mktemp("card"), document())))


def test_what_it_is_for_and_what_not_comes_first(page):
    places = [
        page.ids.index(f"s-{name}") for name in (*FIRST, "performance", "model", "reference", "files", "protocol")
    ]
    assert places == sorted(places)
    assert page.text.index("not shown to be better than chance") < page.text.index("Intended use")
    assert "Research software, not a medical device." in page.text
    assert "DEMO" not in page.text


def test_it_holds_every_word_of_the_card(page):
    card = document()["card"]
    for name in ("intended_use", "data", "outcome", "training_command"):
        assert card[name] in page.text
    for paragraph in card["limits"].split("\n\n"):
        assert paragraph in page.text
    for finding in card["findings"]:
        assert finding in page.text


def test_numbers_are_those_of_the_bundle(page):
    assert page.row_with("AUROC within folds") == ["AUROC within folds", "0.55 (0.38 to 0.71)"]
    assert page.row_with("site only")[1] == "0.44 (0.30 to 0.61)"
    assert next(r for r in page.rows if r[:2] == ["what", "AUROC, all pairs"])
    assert page.row_with("far")[1] == "0.63 (0.51 to 0.74)"
    assert "cohort far, untouched: 0.63 (0.51 to 0.74)" in page.text
    for said in ("0.5217", "platt (slope 0.8663, intercept 0.0676)", "error rate 0.1 in either class", "0.034, 0.09"):
        assert said in page.text
    assert page.row_with("mean_fd (mean framewise displacement)")[1:] == ["–", "0.0693", "–"]
    assert page.row_with("placement (how the atlas came to the image)")[3] == "same"
    assert "setting of the final model: penalty 0.001" in page.text
    assert page.row_with("head.safetensors")[1:] == ["there", "4", "f" * 64]
    assert page.row_with("../etc")[1] == "missing"


def test_the_page_and_the_markdown_tell_the_same_numbers():
    content = document() | {"recipe": {}}
    text = card_text(content, "a" * 64)
    for value in ("0.5217", "0.0693", "0.001"):
        assert value in text


def test_a_demo_says_so(tmp_path):
    assert "DEMO MODEL." in sound(bundle_page(written(tmp_path, document(demo=True)))).text


def test_sections_that_nobody_knows_are_shown_too(tmp_path):
    content = document()
    content["card"] |= {
        "zeta": {"deep": {"er": [1, {"x": 2.5}]}},
        "alpha_two": ["one", "two"],
        "cohorts": {"a": metrics()},
    }
    page = sound(bundle_page(written(tmp_path, content)))
    assert [page.text.rindex(name) for name in ("Zeta", "Alpha two", "Cohorts")] == sorted(
        page.text.rindex(name) for name in ("Zeta", "Alpha two", "Cohorts")
    )
    assert "deep: er: 2: x 2.5" in page.text


def hostile(value):
    if isinstance(value, dict):
        return {f"{k}{HOSTILE}" if k.startswith("far") else k: hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v) for v in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


def test_hostile_texts_come_out_as_text(tmp_path):
    html = bundle_page(written(tmp_path, hostile(document())))
    page = sound(html)
    assert "<script>alert" not in html
    assert HOSTILE in page.text


def test_a_broken_bundle_is_said_to_be_one(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    assert "bundle.json is missing or cannot be read" in sound(bundle_page(folder)).text
    (folder / "bundle.json").write_text("{")
    assert "bundle.json is missing or cannot be read" in sound(bundle_page(folder)).text


@pytest.mark.parametrize("odd", [None, 3, "text", [], {}, [[1]], {"a": {"b": None}}], ids=repr)
def test_odd_content_is_shown_as_it_is(tmp_path, odd):
    content = document()
    for name in ("metrics", "baselines", "external", "protocol", "software", "findings", "data"):
        content["card"][name] = odd
    names = ("classes", "threshold", "head", "calibration", "conformal", "reference", "encoders", "files", "shapes")
    page = sound(bundle_page(written(tmp_path, copy.deepcopy(content) | dict.fromkeys(names, odd))))
    assert "Limits" in page.text


def test_any_json_becomes_blocks():
    assert blocks("one\n\ntwo") == [{"kind": "text", "lines": ["one", "two"]}]
    assert blocks(["a", "b"]) == [{"kind": "list", "lines": ["a", "b"]}]
    assert blocks({}) == [{"kind": "text", "lines": ["None."]}]
    assert blocks(None) == [{"kind": "text", "lines": ["–"]}]
    assert blocks({"auroc": {"value": 0.7, "low": None, "high": None}})[0]["rows"] == [
        {"what": "AUROC, all pairs", "value": "0.70 (no interval)"}
    ]
    assert list(flat({"a": {"b": [1, 2]}, "c": []})) == [("a: b", "1, 2"), ("c", "none")]


def test_what_lies_very_deep_is_shown_as_json():
    deep = {"x": 1}
    for _ in range(10):
        deep = {"d": deep}
    ((path, text),) = flat(deep)
    assert path.count("d") == 6
    assert json.loads(text)
