"""What an analysis works on."""

import numpy as np
import pytest
from group.parts import study

from bids_fmmtc.errors import DataError, SelectionError
from bids_fmmtc.group.study import digest_of, people
from bids_fmmtc.plain import to_json


def test_it_holds_everybody_with_a_reason_for_the_rest(made):
    found = study(made, "--site-column", "site", "--arm-column", "arm")
    counts = to_json(people(found))
    assert counts["sessions"] == counts["participants"] == 23
    assert counts["responders"] + counts["non_responders"] == 23
    assert sum(counts["reasons"].values()) == counts["excluded"] == 1
    assert sum(counts["sites"].values()) == sum(counts["arms"].values()) == 23
    assert found.folder == made / "out" / "group" / "responder_linear"
    assert not found.demo


@pytest.mark.parametrize(
    ("outcome", "words", "label"),
    [
        ("responder", ("--head", "fmmtc"), "responder_fmmtc"),
        ("responder", ("--analysis-label", "mine"), "mine"),
    ],
)
def test_the_folder_is_named_after_the_analysis(made, outcome, words, label):
    assert study(made, *words, outcome=outcome).label == label


def test_a_column_of_any_name_makes_a_plain_folder(made, tmp_path):
    table = tmp_path / "odd.tsv"
    rows = (made / "bids" / "participants.tsv").read_text().replace("responder", "Schmerz: VAS ≥ 30 %", 1)
    table.write_text(rows)
    assert study(made, outcome=f"{table}:Schmerz: VAS ≥ 30 %").label == "VAS---30_linear"


def test_a_control_arm_is_set_apart_unless_learnt_from(made):
    apart = study(made, "--arm-column", "arm", "--control-arm", "placebo")
    assert set(apart.cohort.arms) == {"drug"}
    assert set(apart.control.arms) == {"placebo"}
    inside = study(made, "--arm-column", "arm", "--arm", "drug", "placebo", "--control-arm", "placebo")
    assert inside.control is None
    assert set(inside.cohort.arms) == {"drug", "placebo"}
    with pytest.raises(SelectionError, match="sugar"):
        study(made, "--arm-column", "arm", "--control-arm", "sugar")


def test_codes_for_missing_values_are_asked_about_and_part_of_the_design(made, tmp_path):
    table = tmp_path / "pain.tsv"
    lines = (made / "bids" / "participants.tsv").read_text().splitlines()
    cells = [line.split("\t") for line in lines]
    cells[3][2] = "-99"
    table.write_text("\n".join("\t".join(row) for row in cells) + "\n")
    with pytest.raises(DataError, match=r"column 'pain' of .* holds '-99', which may stand for a missing value"):
        study(made, "--responder-if", "<=35", outcome=f"{table}:pain")
    words = ("--responder-if", "<=35", "--missing-code", "-99")
    found = study(made, *words, outcome=f"{table}:pain")
    assert [e.reason for e in found.exclusions if e.participant == cells[3][0]] == ["the outcome is missing"]
    assert found.design["missing_codes"] == ["-99"]
    assert len(study(made, *words[:3], "n/a", outcome=f"{table}:pain").cohort) == len(found.cohort) + 1


def test_the_digest_moves_with_everything_that_moves_a_number(made):
    from dataclasses import replace

    cohort = study(made, "--covariates", "age").cohort
    seen = {digest_of(cohort)}
    arrays = {"fc": (cohort.arrays["fc"][0] + 1, *cohort.arrays["fc"][1:])}
    for changes in (
        {"arrays": arrays},
        {"y": 1 - cohort.y},
        {"covariates": {"age": cohort.covariates["age"] + 1}},
        {"groups": ("x", *cohort.groups[1:])},
        {"motion": np.zeros(len(cohort))},
    ):
        seen.add(digest_of(replace(cohort, **changes)))
    assert len(seen) == 6
    assert digest_of(cohort) in seen
