"""Tables and JSON of an analysis: what stands in them, whose it is, and which files are ours to replace."""

import json
import shutil
from pathlib import PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
from group.parts import copied, group_words

from bids_fmmtc.cli import main
from bids_fmmtc.dataset.store import read_table, write_json
from bids_fmmtc.errors import UsageError
from bids_fmmtc.group import results, swap
from bids_fmmtc.group.results import described, plain, refuse_another, write_described


def analyse(root):
    """Run an analysis, without the pages on it; returns its folder."""
    words = ("--site-column", "site", "--permutations", "0", "--control-rate", "0.2", "--explain", "02")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bids_fmmtc.group.level.draw_results", lambda root, folder: 0)  # seconds, and tested elsewhere
        patch.setattr("bids_fmmtc.group.level.draw_card", lambda folder: 0)
        assert main(group_words(root, *words)) == 0
    return root / "out" / "group" / "responder_linear"


@pytest.fixture(scope="module")
def analysed(made, tmp_path_factory):
    return analyse(copied(made, tmp_path_factory.mktemp("results")))


def test_a_table_has_its_description_beside_it(tmp_path):
    columns = described({"a": "First.", "b": "Second."})
    write_described(tmp_path / "t", "A table", columns, [{"a": 1, "b": None}, {"a": "x\ty", "b": 0.5}])
    assert read_table(tmp_path / "t.tsv") == [{"a": "1", "b": "n/a"}, {"a": "x y", "b": "0.5"}]
    about = json.loads((tmp_path / "t.json").read_text())
    assert about["a"] == {"Description": "First."}
    assert "not a medical device" in about["IntendedUse"]


def test_the_comparison_is_the_evaluation_as_a_table(analysed):
    models = json.loads((analysed / "evaluation.json").read_text())["models"]
    rows = read_table(analysed / "comparison.tsv")
    assert [row["model"] for row in rows] == list(models)
    assert {row["status"] for row in rows} == {"ok", "not run"}
    for row in rows:
        model = models[row["model"]]
        assert (row["text"], row["role"]) == (model["text"], model["role"])
        numbers = {k: v for k, v in row.items() if k not in ("model", "text", "role", "status", "reason")}
        if row["status"] != "ok":
            assert row["reason"] == model["reason"]
            assert set(numbers.values()) == {"n/a"}
            continue
        assert row["reason"] == "n/a"
        told = {name: "n/a" if e["value"] is None else e["value"] for name, e in model["metrics"].items()}
        told |= {f"{name}_{end}": e[end] for name, e in model["metrics"].items() for end in ("low", "high")}
        assert numbers.keys() == told.keys()
        for name, text in numbers.items():
            assert text == "n/a" if told[name] in (None, "n/a") else float(text) == pytest.approx(told[name], rel=1e-5)


def test_predictions_are_of_the_people_they_name(analysed, made):
    people = {row["participant_id"]: row for row in read_table(made / "bids" / "participants.tsv")}
    rows = read_table(analysed / "predictions.tsv")
    assert sorted(row["participant_id"] for row in rows) == sorted(set(people) - {"sub-23"})
    value = {True: [], False: []}
    for row in rows:
        whom = people[row["participant_id"]]
        assert row["key"] == f"{row['participant_id']}_task-rest"
        assert row["session_id"] == "n/a"
        assert (float(row["outcome"]), row["site"], row["arm"]) == (float(whom["responder"]), whom["site"], "n/a")
        assert float(row["called_responder"]) in (0, 0.5, 1)  # of two repeats
        assert 0 <= float(row["value"]) <= 1
        assert float(row["value_sd"]) >= 0
        value[float(row["value"]) > 0.5].append(float(row["called_responder"]))
    # Who is given a high value is called a responder: the two columns are of the same judgements.
    assert np.mean(value[True]) > 0.8
    assert np.mean(value[False]) < 0.2
    (out,) = read_table(analysed / "exclusions.tsv")
    assert (out["participant_id"], out["key"]) == ("sub-23", "sub-23_task-rest")


def test_neither_the_order_of_the_table_nor_other_columns_of_it_matter(analysed, made, tmp_path):
    root = copied(made, tmp_path)
    table = root / "bids" / "participants.tsv"
    first, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{first}\tmood", *(f"{row}\t{i}" for i, row in enumerate(rows[::-1]))]) + "\n")
    there = analyse(root)
    for name in ("comparison.tsv", "predictions.tsv", "exclusions.tsv", "trial.tsv", "attribution/parcels.tsv"):
        assert (there / name).read_bytes() == (analysed / name).read_bytes(), name


def test_what_an_analysis_wrote_is_ours_and_nothing_else_is(analysed):
    written = [PurePosixPath(p.relative_to(analysed).as_posix()) for p in analysed.rglob("*") if p.is_file()]
    assert {p.parts[0] for p in written} >= {"bundle", "attribution", "evaluation.json", "trial_plan.json"}
    assert [p for p in written if not results.ours(p)] == []
    for name in ("notes.txt", "evaluation.json.bak", "attribution/notes.md", "figures/roc.png", "mine/evaluation.json"):
        assert not results.ours(PurePosixPath(name)), name
    assert results.ours(PurePosixPath(".evaluation.json.x1.tmp"))  # of a write that was killed


def test_no_bundle_of_an_earlier_run_stays_where_a_later_one_makes_none(analysed, tmp_path):
    """A bundle beside an evaluation that does not speak of it would be taken for that analysis' model."""
    folder = shutil.copytree(analysed, tmp_path / "x")
    (folder / "notes.txt").write_text("mine")
    with swap.building(folder, results.ours) as new:
        (new / "evaluation.json").write_text("{}")
        swap.put_in_place(new, folder, results.ours)
    assert sorted(p.name for p in folder.iterdir()) == ["evaluation.json", "notes.txt"]


def test_an_analysis_of_other_people_is_refused_and_one_of_an_older_version_is_not(tmp_path):
    def of(design):
        return SimpleNamespace(folder=tmp_path, design=design)

    kept = {"outcome": "y", "missing_codes": [], "arms": []}
    refuse_another(of(kept))
    write_json(tmp_path / "evaluation.json", {"Design": {"outcome": "y", "arms": []}})
    refuse_another(of(kept))
    with pytest.raises(UsageError, match=r"missing_codes: None there, \['-9'\] here"):
        refuse_another(of({**kept, "missing_codes": ["-9"]}))
    write_json(tmp_path / "evaluation.json", {"Design": {**kept, "missing_codes": ["-9"]}})
    with pytest.raises(UsageError, match=r"missing_codes: \['-9'\] there, None here"):
        refuse_another(of(kept))


def test_plain_data_is_json_without_nan():
    data = {
        "a": np.float32(0.5),
        "b": [np.nan, np.inf, 1],
        "c": np.array([1.0, np.nan]),
        "d": (np.int64(3), "x"),
        5: None,
    }
    assert plain(data) == {"a": 0.5, "b": [None, None, 1], "c": [1.0, None], "d": [3, "x"], "5": None}
    json.dumps(plain(data), allow_nan=False)
