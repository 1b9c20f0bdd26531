"""Options of the group level: what they become, and what they refuse."""

from pathlib import Path

import pytest

from bids_fmmtc.cli import parse
from bids_fmmtc.errors import UsageError


def group(*words):
    return parse(["bids", "out", "group", *words], {}).group


def test_defaults_gather_only():
    found = group()
    assert found.outcome is None
    assert (found.head, found.folds, found.inner_folds, found.repeats, found.permutations) == ("linear", 5, 5, 5, None)


def test_the_published_head_has_its_own_defaults():
    found = group("--outcome", "y", "--head", "fmmtc")
    assert (found.inner_folds, found.repeats, found.permutations, found.epochs) == (3, 1, None, 100)
    assert group("--outcome", "y", "--head", "fmmtc", "--permutations", "9").permutations == 9
    assert group("--outcome", "y", "--permutations", "0").permutations == 0


def test_lists_and_paths():
    found = group("--outcome", "y", "--covariates", "age,sex", "pain at start", "--explain", "sub-01,02", "03")
    assert found.covariates == ("age", "sex", "pain at start")
    assert found.explain == ("01", "02", "03")
    found = group("--outcome", "y", "--features", "a", "../b")
    assert found.features == (Path.cwd() / "a", Path.cwd().parent / "b")


def test_codes_and_non_responders_are_words_or_numbers_below_zero():
    found = group("--outcome", "y", "--missing-code", "-99", "-9.5", "not done", "--missing-code", "n/a")
    assert found.missing_codes == ("-99", "-9.5", "not done", "n/a")
    found = group("--outcome", "y", "--responder-if", "==full", "--non-responder", "partial", "-1")
    assert found.non_responders == ("partial", "-1")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("s=/d/x:pain", "pain"),
        ("s=/d/x:/t/p.tsv:VAS: week 4", "/t/p.tsv:VAS: week 4"),
        ("s=/d/x:sessions:y", "sessions:y"),
    ],
)
def test_another_cohort(text, outcome):
    assert group("--outcome", "y", "--external", text).external == (("s", Path("/d/x"), outcome),)


@pytest.mark.parametrize("text", ["/d/x:pain", "s=/d/x", "s=:pain", "=/d:pain", "s/t=/d:pain", "s=/d/x:"])
def test_another_cohort_misspelt(text):
    with pytest.raises(UsageError, match="NAME=DIR:OUTCOME"):
        group("--outcome", "y", "--external", text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--site-column", "s"), "--site-column needs an --outcome"),
        (("--missing-code", "-9"), "--missing-code needs an --outcome"),
        (("--non-responder", "no"), "--non-responder needs an --outcome"),
        (("--reference-protocol",), "--reference-protocol needs an --outcome"),
        (("--outcome", "y", "--arm", "a"), "--arm needs --arm-column"),
        (("--outcome", "y", "--adapt"), "--adapt needs --external"),
        (("--outcome", "y", "--leave-one-site-out"), "needs --site-column"),
        (("--outcome", "y", "--analysis-label", "../x"), "cannot name a folder"),
        (("--outcome", "y", "--external", "a=/b:y", "a=/c:y"), "names a twice"),
        (("--outcome", "y", "--cost-scan", "5"), "belong together"),
        (("--outcome", "y", "--explain", "1", "--no-explanation"), "exclude each other"),
        (("--outcome", "y", "--alpha", "0.9"), "does not exceed"),
        (("--outcome", "y", "--allocation", "20"), "not between"),
        (
            ("--outcome", "y", "--arm-column", "a", "--control-arm", "p", "--control-rate", "0.2"),
            "exclude each other",
        ),
    ],
)
def test_contradictions(words, says):
    with pytest.raises(UsageError, match=says):
        group(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("--folds", "1"), ("--folds", "x"), ("--permutations", "-1"), ("--power", "1"), ("--alpha", "0"),
        ("--dropout", "1"), ("--allocation", "0"), ("--cost-scan", "-1"), ("--error-rate", "nan"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_usage_errors(words, capsys):
    with pytest.raises(SystemExit) as stop:
        group("--outcome", "y", *words)
    assert stop.value.code == 64
    assert words[0] in capsys.readouterr().err
