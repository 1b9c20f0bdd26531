"""The model card as Markdown: nobody's text can change how it is read."""

import pytest
from card_parts import ESTIMATE, FACTS, card_of
from hypothesis import example, given
from hypothesis import strategies as st

from bids_fmmtc.learning.bundle.card import card_text, plain, scalar

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")


def document(card, **changes):
    return {
        "card": card,
        "classes": ["non-responder", "responder"],
        "threshold": 0.4736842105,
        "head": {"kind": "linear"},
        "calibration": {"kind": "platt", "slope": 1.0, "intercept": 0.0},
        "conformal": {"alpha": 0.1, "quantiles": [0.5, 0.6]},
        "reference": {"placement": {"values": ["same"]}, "mean_fd": {"high": 0.4}},
        "encoders": {},
        **changes,
    }


def shown(card, **changes):
    return card_text(document(card, **changes), "digest")


def tokens(text):
    return markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def read(inline):
    """What a reader sees of a line; no markup may be in it."""
    assert {child.type for child in inline.children} <= {"text", "text_special"}, inline.content
    return "".join(child.content for child in inline.children)


def lines(text):
    return [read(token) for token in tokens(text) if token.type == "inline"]


# ------------------------------------------------------------------------------------------------------------ Markdown


def test_sections_stand_in_their_order_whatever_that_of_the_card():
    card = {**card_of(FACTS), "contact": "a@b", "aim": "x"}
    text = shown(card)
    assert shown(dict(reversed(card.items()))) == text
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings[:4] == ["Training data", "Outcome", "Intended use", "Limits"]
    assert headings[4:] == [
        *("What the evaluation found", "Performance, out of fold", "Beside it, in the same folds", "Protocol"),
        *("Software", "Aim", "Contact", "Training command", "Model", "What training saw"),
    ]
    assert "Demonstration" not in text
    assert "Demonstration only" in shown({**card, "demo": True})


def test_figures_are_tables_and_settings_lists():
    text = shown(card_of(FACTS))
    for line in (
        "|  | value | 95 % interval |",
        "| auroc | 0.7123 | 0.55 to 0.84 |",
        "| calibration_slope | 0.9 | none |",
        "|  | auroc | mcc |",
        "| motion only | 0.7123 (0.55 to 0.84) | none |",
        "- folds: 5",
        "- inner:",
        "  - penalties:",
        "    - 0.1",
        "- numpy: 2.1.0",
        "- It is not shown to beat: motion only.",
        "    bids_fmmtc in out group --outcome '`x` | y'",
        "- Decision threshold: 0.4737",
        "- Conformal set: error rate 0.1 in either class",
        "| placement |  |  | same |",
        "| mean_fd |  | 0.4 |  |",
    ):
        assert line in text.splitlines(), line
    assert [t.type for t in tokens(text)].count("table_open") == 3
    assert "- Conformal set: none" in shown(card_of(FACTS), conformal=None, reference=None)


def test_deep_and_odd_content_is_shown():
    card = {"title": "t", "a": {"b": {"c": {"d": {"e": {"f": [1]}}}}}, "n": [], "v": None, "w": [True, {}], "x": 1.5}
    text = shown(card)
    assert '- e: {"f": \\[1\\]}' in text
    for part in ("## N\n\nNone.", "## V\n\nnone", "- yes\n- none", "## X\n\n1.5"):
        assert part in text


def test_paragraphs_are_kept():
    assert "one two\n\nthree" in shown({"title": "t", "data": "one\ntwo\n \n three"})


texts = st.text(alphabet=st.characters() | st.sampled_from("\\`*_{}[]()<>#+-.!|~&=:$\n\r\t 1\u2028\u202e"), max_size=30)


@given(texts)
@example("# no heading")
@example("1. no list")
@example("- no item")
@example("===")
@example("| a | b |")
@example("a \\| b")
@example("<script>alert(1)</script> &amp; &#35;")
@example("[a](http://x) ![b](c) <http://d>")
@example("*a* _b_ **c** `d` ~~e~~")
@example("no heading\n===\n\n# at all #")
@example("a\x00b\u202ec\ud800")
def test_any_text_is_read_as_it_was_written(text):
    line = plain(text)
    line.encode()
    assert "\n" not in line
    words = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    if not words:
        assert line == ""
        return
    assert lines(f"# {line}\n") == [words]
    assert lines(f"{line}\n") == [words]
    assert lines(f"- {line}\n") == [words]
    table = tokens(f"| a | b |\n|---|---|\n| {line} | {line} |\n\nafter\n")
    assert [read(t) for t in table if t.type == "inline"] == ["a", "b", words, words, "after"]
    for text_ in (f"{line}\n", f"# {line}\n", f"- {line}\n"):
        assert {t.type.removesuffix("_open").removesuffix("_close") for t in tokens(text_)} <= {
            *("inline", "paragraph", "heading", "bullet_list", "list_item")
        }


@given(texts, texts)
def test_names_of_others_leave_the_card_whole(name, value):
    facts = {**FACTS, "classes": {f"no {name}": 20, f"yes {name}": 20}, "sites": {name: 40}, "outcome": f"x {value}"}
    facts |= {"baselines": {name: {f"m {name}": ESTIMATE}}, "protocol": {name: [value, {value: name}]}}
    facts["training_command"] = f"x {value}"
    card = {**card_of(facts), "zone": value}
    plain_card = {**card_of({**facts, **{k: FACTS[k] for k in ("classes", "outcome")}}), "zone": "z"}
    kinds = ("heading_open", "table_open", "code_block", "html_block", "fence", "hr")
    of = [[t.type for t in tokens(shown(c)) if t.type in kinds] for c in (card, plain_card)]
    assert of[0] == of[1]
    for token in tokens(shown(card)):
        if token.type == "inline":
            assert {c.type for c in token.children} <= {"text", "text_special"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), (True, "yes"), (False, "no"), (3, "3"), (0.123456, "0.1235"), (-0.06, "-0.06"), ("a|b", "a\\|b")],
)
def test_scalars(value, text):
    assert scalar(value) == text
