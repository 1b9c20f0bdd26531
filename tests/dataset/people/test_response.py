"""What the texts of an outcome column mean, and which columns are refused rather than guessed at."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.dataset.people.response import all_numbers, find_rule, refuse_degenerate, refuse_twins
from bids_fmmtc.dataset.tables import Column
from bids_fmmtc.errors import DataError, UsageError


def column(*texts):
    return Column("x", "t.tsv", {f"sub-{i}": {None: text} for i, text in enumerate(texts)})


@pytest.mark.parametrize(
    "texts",
    [
        ("1", "0"), ("1", "0.0", "1.0"), ("yes", "no"), ("Yes", "NO", "yes"), ("true", "False"), ("1",), ("no",),
        ("responder", "non-responder"), ("Responder", "Nonresponder", "NON responder", "non_responder"),
    ],
)  # fmt: skip
def test_known_classes(texts):
    rule = find_rule(column(*texts), None)
    assert rule.kind == "classification"
    for text, y in rule.values.items():
        assert y == (text.casefold() in ("1", "1.0", "yes", "true", "responder"))
    assert set(rule.values) == set(texts)
    assert rule.definition.startswith("responder where x is")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("1", "2"), r"holds 1, 2: which one is the responder\? Say it with --responder-if \"==2\" or \"==1\""),
        (("-1", "1"), "which one"),
        (("1234567", "1234568"), r"\"==1234568\""),
        (("2", "2.0"), "is 2 for everybody"),
        (("R", "NR"), r"'NR', 'R': which word is the responder\? Say it with --responder-if"),
        (("yes", "0"), "holds 'yes' where numbers are expected"),
        (("yes", "nope"), "which word"),
        (("good",), "1 words where two classes"),
        (("good", "fair", "bad"), r"3 words where two classes are wanted.*--responder-if"),
        (("good", "Good", "bad"), "'Good' and 'good', which may mean the same"),
        (("12", "30", "dropout", "1,5"), r"holds '1,5', 'dropout' where numbers are expected.*a point for decimals"),
        (("20%", "30%"), "which word"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(texts, expected):
    with pytest.raises(DataError, match=expected):
        find_rule(column(*texts), None)


def test_more_than_two_numbers_are_predicted_as_numbers():
    rule = find_rule(column("1", "-2.5", "1e2", "3", "4", "5"), None)
    assert rule.kind == "regression"
    assert rule.values["-2.5"] == -2.5
    assert not rule.notes
    # 9 may be a code for missing: a silent regression on codes would be a wrong number.
    (note,) = find_rule(column("0", "1", "9"), None).notes
    assert "holds only 0, 1, 9" in note
    assert "--responder-if" in note


@pytest.mark.parametrize(
    ("expression", "responders"),
    [
        (">=20", {"20", "20.0", "31"}), (">20", {"31"}), ("<=20", {"-4", "20", "20.0"}), (" < 20 ", {"-4"}),
        ("==20", {"20", "20.0"}), ("<=-4", {"-4"}), (">=2e1", {"20", "20.0", "31"}), ("==-4", {"-4"}),
    ],
)  # fmt: skip
def test_expressions_on_numbers(expression, responders):
    named = ("-4", "31", "20") if "==" in expression else ()
    rule = find_rule(column("-4", "20", "20.0", "31"), expression, [n for n in named if f"=={n}" != expression])
    assert {text for text, y in rule.values.items() if y} == responders
    assert rule.kind == "classification"
    assert (
        rule.definition.partition(",")[0]
        == f"responder where x {expression.split()[0][:2].strip('-24')} {rule.definition.partition(',')[0].split()[-1]}"
    )


def test_expressions_on_words():
    rule = find_rule(column("complete response", "partial", "none"), "==complete response", ("none", "partial"))
    assert rule.values == {"complete response": 1, "partial": 0, "none": 0}
    assert rule.definition == "responder where x == complete response, non-responder where it is 'none', 'partial'"
    assert find_rule(column("1", "2", "x"), "==2", ("1.0", "x")).values == {"1": 0, "2": 1, "x": 0}
    assert find_rule(column("remitted", "ill", None), "==remitted").values == {"remitted": 1, "ill": 0}
    assert find_rule(column("Responder", "non-responder"), "==Responder").definition == "responder where x == Responder"


@pytest.mark.parametrize(
    ("texts", "expression", "named", "neither"),
    [
        (("responder", "nonresponder", "dropout"), "==responder", (), "'dropout'"),
        (("responder", "dropout"), "==responder", (), "'dropout'"),  # its partner is known, and is not there
        (("no", "yes", "maybe", "lost"), "==no", (), "'lost', 'maybe'"),
        (("complete", "partial", "none"), "==complete", (), "'none', 'partial'"),
        (("complete", "partial", "none"), "==complete", ("none",), "'partial'"),
        (("yes", "no", "lost"), "==yes", ("lost",), "'no'"),
        (("1", "2", "3"), "==1", (), "'2', '3'"),
        (("0", "0.0", "1", "2"), "==1", ("2",), "'0', '0.0'"),
        (("1", "2", "x"), "==2", (), "'1', 'x'"),
    ],
)
def test_who_is_neither_class_is_named_and_refused(texts, expression, named, neither):
    with pytest.raises(DataError, match=f"holds {neither}, and whether those are non-responders cannot be told"):
        find_rule(column(*texts), expression, named)


def test_non_responders_are_people_of_the_column_and_need_a_value_of_responders():
    with pytest.raises(DataError, match=r"nobody has 'non' in .* Did you mean 'none'"):
        find_rule(column("complete", "none"), "==complete", ("non",))
    for expression in (None, ">=2"):
        with pytest.raises(UsageError, match="--non-responder needs --responder-if ==VALUE"):
            find_rule(column("1", "2", "3"), expression, ("1",))


def test_the_only_other_number_however_it_is_written():
    assert find_rule(column("0", "0.0", "2"), "==2").values == {"0": 0, "0.0": 0, "2": 1}


@pytest.mark.parametrize(
    "expression", ["", "20", "=20", "=>20", "!=20", "> =20", ">=", ">=twenty", ">=20%", "≥20", "=="]
)
def test_expressions_that_cannot_be_read(expression):
    with pytest.raises(UsageError, match="Write >=20"):
        find_rule(column("20", "30", "40"), expression)


@pytest.mark.parametrize(
    ("texts", "expression", "expected"),
    [
        (
            ("Yes", "no"),
            "==yes",
            r"nobody has 'yes' in column 'x' of t\.tsv; it holds 'Yes', 'no'\. Did you mean 'Yes'",
        ),
        (("yes", "Yes", "no"), "==yes", "may mean the same"),
        (("1", "2"), "==3", "nobody has '3'"),
        (("1", "low", "2"), ">=1", "holds 'low' where numbers"),
    ],
)
def test_expressions_that_do_not_fit_the_column(texts, expression, expected):
    with pytest.raises(DataError, match=expected):
        find_rule(column(*texts), expression)


NUMBERS = st.integers(-10_000, 10_000).map(lambda i: i / 100)


@given(st.lists(NUMBERS, min_size=1, max_size=12), NUMBERS, st.sampled_from([">=", ">", "<=", "<"]))
def test_every_value_stands_on_its_side(values, limit, sign):
    rule = find_rule(column(*map(str, values)), f"{sign}{limit}")
    for value in values:
        expected = {">=": value >= limit, ">": value > limit, "<=": value <= limit, "<": value < limit}[sign]
        assert rule.values[str(value)] == expected


@given(st.lists(st.text(max_size=5).map(str.strip).filter(bool), min_size=1, max_size=6, unique=True))
def test_whatever_the_words_each_has_a_value_or_the_column_is_refused(words):
    try:
        rule = find_rule(column(*words), None)
    except DataError:
        return
    assert set(rule.values) == set(words)
    assert all(math.isfinite(y) for y in rule.values.values())


def test_missing_cells_have_no_part_in_it():
    assert find_rule(column("1", None, "0"), None).values == {"0": 0, "1": 1}
    assert find_rule(column(None), ">=2").values == {}
    assert all_numbers(column("1", None)) == {"1": 1}


def test_twins_are_refused_and_others_not():
    refuse_twins(column("a", "b", "a", None))
    with pytest.raises(DataError, match="'Arm  A' and 'arm a'"):
        refuse_twins(column("Arm  A", "arm a"))


@pytest.mark.parametrize(
    ("y", "people", "kind", "expected"),
    [
        ([1, 1, 1], "abc", "classification", "one class only: 3 responders and 0 non-responders"),
        ([0, 0], "ab", "classification", "0 responders and 2"),
        ([0, 0, 1], "abc", "classification", "1 responders and 2 non-responders; each class needs at least two"),
        ([0, 0, 1, 1], "abcc", "classification", "1 responders"),  # two sessions of one person
        ([2.5, 2.5, 2.5], "abb", "regression", "is 2.5 for all 2 participants"),
    ],
)
def test_outcomes_that_teach_nothing(y, people, kind, expected):
    with pytest.raises(DataError, match=expected):
        refuse_degenerate(np.array(y, float), list(people), kind, "x")


def test_outcomes_that_teach_something():
    refuse_degenerate(np.array([0, 0, 1, 1.0]), list("abcd"), "classification", "x")
    refuse_degenerate(np.array([0, 0, 1.5]), list("abc"), "regression", "x")
