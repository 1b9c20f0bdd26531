"""The whole level through the command line's entry, in this process, on real features."""

import json
import shutil

import pytest
from group.parts import group_words
from small import content, validate

from bids_fmmtc.cli import main
from bids_fmmtc.dataset.store import read_table
from bids_fmmtc.learning.bundle.load import load_bundle


def result(root, label="responder_linear"):
    folder = root / "out" / "group" / label
    return folder, json.loads((folder / "evaluation.json").read_text())


def test_without_an_outcome_it_gathers_and_trains_nothing(root, capsys):
    assert main(group_words(root, outcome=None)) == 0
    assert "24 participants, 24 recordings of which 1 failed" in capsys.readouterr().out
    rows = {row["participant_id"]: row for row in read_table(root / "out" / "phenotype" / "fmmtc.tsv")}
    assert len(rows) == 24
    assert "short" in rows["sub-23"]["fmmtc_qc"]
    assert not (root / "out" / "group").exists()
    assert validate(root / "out") == (0, [])


def test_a_dry_run_says_who_and_writes_nothing(root, capsys):
    before = content(root, but=())
    assert main(group_words(root, "--dry-run")) == 0
    said = capsys.readouterr().out
    assert '"sessions": 23' in said
    assert "sub-23" in said
    assert main(group_words(root, "--dry-run", outcome=None)) == 0
    assert "23 recordings: ok" in capsys.readouterr().out
    assert content(root, but=()) == before


@pytest.fixture(scope="module")
def analysed(made, other, tmp_path_factory):
    """The default analysis with everything on, run once."""
    from group.parts import copied

    root = copied(made, tmp_path_factory.mktemp("analysed"))
    words = ("--site-column", "site", "--covariates", "age,sex", "--control-rate", "0.2", "--explain", "01")
    words += ("--cost-scan", "500", "--cost-patient", "20000", "--leave-one-site-out", "--reference-protocol")
    words += ("--epochs", "3", "--external", f"other={other / 'out'}:{other / 'bids' / 'participants.tsv'}:responder")
    assert main(group_words(root, *words)) == 0
    return root


def test_a_planted_effect_is_found_and_every_figure_has_an_interval(analysed):
    _, found = result(analysed)
    auroc = found["models"]["model"]["metrics"]["auroc_within"]
    assert auroc["value"] > 0.85
    assert auroc["low"] < auroc["value"] <= auroc["high"]
    assert found["permutation"]["p"] == pytest.approx(1 / 20)
    assert found["verdicts"][0].startswith(("Judged out of fold", "The model is not shown to beat chance"))
    assert found["people"]["sessions"] == 23
    assert found["people"]["excluded"] == 1
    for name in ("majority", "covariates", "site"):
        assert found["models"][name]["status"] == "ok"
    assert found["models"]["motion"] == {
        "text": "motion only (mean framewise displacement)",
        "role": "baseline",
        "status": "not run",
        "reason": "motion is unknown for everybody",
    }
    assert found["leave_one_site_out"]["status"] == "ok"
    assert found["reference_protocol"]["inflated"]
    assert found["external"]["other"]["status"] == "ok"
    assert found["external"]["other"]["metrics"]["auroc_within"]["value"] > 0.85


def test_the_tree_is_valid_and_tables_have_their_descriptions(analysed):
    folder, _ = result(analysed)
    for table in folder.rglob("*.tsv"):
        described = json.loads(table.with_suffix(".json").read_text())
        columns = table.read_text().split("\n")[0].split("\t")
        assert set(columns) <= set(described), table
    excluded = read_table(folder / "exclusions.tsv")
    assert [row["participant_id"] for row in excluded] == ["sub-23"]
    assert validate(analysed / "out") == (0, [])


def test_the_bundle_holds_what_the_participant_level_needs(analysed):
    folder, found = result(analysed)
    bundle = load_bundle(folder / "bundle")
    assert bundle.digest == found["bundle"]["digest"]
    assert bundle.calibration.kind == "platt"
    assert bundle.conformal.alpha == 0.1
    assert {"repetition_time", "n_frames_left", "embedding_fc"} <= set(bundle.reference)
    card = (folder / "bundle" / "README.md").read_text()
    assert "not a medical device" in card
    assert "responder" in card


def test_attributions_find_planted_parcels_and_one_person_is_explained(analysed):
    folder, found = result(analysed)
    ranked = sorted(read_table(folder / "attribution" / "parcels.tsv"), key=lambda row: int(row["rank"]))
    assert {row["network"] for row in ranked[:4]} == {"B"}
    assert found["explanation"]["shares"][0]["modality"] == "fc"
    assert found["explanation"]["sanity"]["rows"]
    assert (folder / "attribution" / "sub-01_task-rest" / "parcels.tsv").is_file()
    assert found["explanation"]["compared"]["other"]["status"] == "ok"


def test_the_trial_plan_is_a_table_and_json(analysed):
    folder, found = result(analysed)
    rows = read_table(folder / "trial.tsv")
    assert len(rows) > 2
    assert {"status": "ok", **json.loads((folder / "trial_plan.json").read_text())} == found["trial"]
    assert found["trial"]["sentences"]


def test_the_same_command_gives_the_same_bytes(root):
    words = group_words(root, "--permutations", "3", "--no-explanation")
    assert main(words) == 0
    first = content(root / "out")
    assert main([*words, "--work-dir", str(root / "other")]) == 0
    second = content(root / "out")
    # The command line is told in the card, in evaluation.json, and on the pages of both.
    told = {name for name in first if name.endswith(("evaluation.json", "README.md", "bundle.json", ".html"))}
    assert {k: v for k, v in first.items() if k not in told} == {k: v for k, v in second.items() if k not in told}
    assert main(words) == 0
    assert content(root / "out") == first


def test_nothing_of_an_earlier_run_stays_beside_the_new_one(root, capsys):
    same = ("--permutations", "0", "--analysis-label", "mine")
    assert main(group_words(root, *same)) == 0
    folder = root / "out" / "group" / "mine"
    assert (folder / "bundle" / "bundle.json").is_file()
    assert list((folder / "attribution").rglob("*.tsv"))
    bundle = (folder / "bundle" / "bundle.json").read_bytes()
    # Another outcome is another analysis; folds that cannot be made cost nothing that is there.
    assert main(group_words(root, *same, outcome="pain")) == 64
    assert "--analysis-label" in capsys.readouterr().err
    assert main(group_words(root, *same, "--folds", "30")) == 65
    assert (folder / "bundle" / "bundle.json").read_bytes() == bundle
    assert main(group_words(root, *same, "--no-explanation")) == 0
    assert not list((folder / "attribution").rglob("*.tsv"))
    (folder / "bundle" / "mine.txt").write_text("keep")
    assert main(group_words(root, *same)) == 73
    assert (folder / "bundle" / "mine.txt").read_text() == "keep"


def test_a_part_that_fails_costs_no_other_and_is_told(root, capsys):
    table = root / "bids" / "participants.tsv"
    words = ("--permutations", "0", "--external", f"same={root / 'out'}:{table}:responder", "--no-explanation")
    assert main(group_words(root, *words)) == 1
    _, found = result(root)
    assert "were learnt from" in found["external"]["same"]["reason"]
    assert found["bundle"]["status"] == "ok"
    assert "Cohort same could not be judged" in capsys.readouterr().out
    assert str(root) not in (root / "out" / "group" / "responder_linear" / "bundle" / "bundle.json").read_text()


def test_a_part_that_fails_now_costs_no_earlier_analysis_of_the_same_people(root, other, tmp_path, capsys):
    table = shutil.copy(other / "bids" / "participants.tsv", tmp_path / "other.tsv")
    words = group_words(
        root, "--permutations", "0", "--no-explanation", "--external", f"o={other / 'out'}:{table}:responder"
    )
    assert main(words) == 0
    folder, found = result(root)
    assert found["external"]["o"]["status"] == "ok"
    before = content(folder)
    (tmp_path / "other.tsv").unlink()
    capsys.readouterr()
    assert main(words) == 1
    assert content(folder) == before
    said = " ".join(capsys.readouterr().err.split())
    assert f"external o failed now and not before: {folder} stays as it was" in said
    # Of other people it is another result, whatever failed.
    outcomes = root / "bids" / "participants.tsv"
    outcomes.write_text(outcomes.read_text().replace("sub-02\t", "sub-99\t"))
    assert main(words) == 1
    assert result(root)[1]["external"]["o"]["status"] == "failed"


def test_regression_and_families(root):
    words = group_words(root, "--family-column", "family", "--no-explanation", outcome="pain")
    assert main(words) == 0
    folder, found = result(root, "pain_linear")
    assert found["kind"] == "regression"
    assert found["models"]["model"]["metrics"]["r_within"]["value"] > 0.6
    assert found["people"]["groups"] == 20
    assert found["bundle"]["status"] == "not run"
    assert not (folder / "bundle").exists()


def test_a_control_arm_is_judged_and_not_learnt_from(root):
    words = group_words(
        root,
        "--arm-column",
        "arm",
        "--arm",
        "drug",
        "--control-arm",
        "placebo",
        "--no-explanation",
        "--permutations",
        "0",
    )
    assert main(words) == 0
    _, found = result(root)
    assert found["people"]["arms"] == {"drug": 15}
    excluded = read_table(root / "out" / "group" / "responder_linear" / "exclusions.tsv")
    assert sum(row["reason"].startswith("control arm") for row in excluded) == 8
    assert found["trial"]["control"] == "control arm"


@pytest.mark.parametrize(
    ("words", "outcome", "code", "says"),
    [
        (("--folds", "30"), "responder", 65, "cannot be divided into 30 folds"),
        ((), "Responder", 65, "responder"),
        (("--site-column", "centre"), "responder", 65, "centre"),
        (("--explain", "77"), "responder", 18, "77"),
        (("--control-arm", "sugar", "--arm-column", "arm"), "responder", 18, "sugar"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(root, capsys, words, outcome, code, says):
    assert main(group_words(root, *words, "--permutations", "0", outcome=outcome)) == code
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    assert says in error[0]
