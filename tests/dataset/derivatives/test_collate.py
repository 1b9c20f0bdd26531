"""The group tables: a row for everybody, the same bytes again, and a tree that the real BIDS validator accepts."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
from outputs import Output, write_people
from small import content, validate

from bids_fmmtc import synthetic
from bids_fmmtc.dataset.derivatives.collate import LONG_COLUMNS, PHENOTYPE_COLUMNS, QUALITY_TABLE, Model, collate
from bids_fmmtc.dataset.derivatives.describe import prepare_dataset
from bids_fmmtc.dataset.find.discover import Query, find_recordings
from bids_fmmtc.dataset.store import Layout, read_record, read_table
from bids_fmmtc.dataset.tables import dataset_roots
from bids_fmmtc.participant import process_subject
from bids_fmmtc.settings import Task
from bids_fmmtc.signals.atlas import read_atlas


@pytest.fixture
def out(tmp_path):
    return Output(tmp_path / "out")


def table(output, name):
    return read_table(output.root / name)


def qc(output, name):
    return {row["participant_id"]: row["fmmtc_qc"] for row in table(output, name)}


# without sessions


def test_one_row_a_participant_without_sessions(out, tmp_path):
    out.add("sub-2_task-rest")
    out.predict("sub-2_task-rest", 0.25, flags=("high_motion",))
    out.add("sub-10_task-rest")
    out.predict("sub-10_task-rest", 0.75)
    out.fail("sub-3_task-rest")
    out.predict("sub-3_task-rest", failure="image: it is cut off. Mend it.")
    people = [("sub-2",), ("10",), ("sub-3",), ("sub-4",)]
    write_people(tmp_path / "in" / "participants.tsv", ("participant_id",), *people)
    (tmp_path / "in" / "sub-5").mkdir()
    summary = collate(out.root, dataset_roots(tmp_path / "in"))
    rows = table(out, "phenotype/fmmtc.tsv")
    assert list(rows[0]) == list(PHENOTYPE_COLUMNS)
    assert [row["participant_id"] for row in rows] == ["sub-2", "sub-3", "sub-4", "sub-5", "sub-10"]
    assert [row["fmmtc_probability"] for row in rows] == ["0.25", "n/a", "n/a", "n/a", "0.75"]
    assert [row["fmmtc_label"] for row in rows] == ["non-responder", "n/a", "n/a", "n/a", "responder"]
    assert qc(out, "phenotype/fmmtc.tsv") == {
        "sub-2": "high_motion",
        "sub-3": "image: it is cut off. Mend it.",
        "sub-4": "missing: listed in participants.tsv of the input, no output here",
        "sub-5": "missing: has a folder in the input, no output here",
        "sub-10": "ok",
    }
    long = table(out, "desc-fmmtc_predictions.tsv")
    assert list(long[0]) == list(LONG_COLUMNS)
    assert [row["fmmtc_key"] for row in long] == [
        "sub-2_task-rest", "sub-3_task-rest", "n/a", "n/a", "sub-10_task-rest",
    ]  # fmt: skip
    assert [row["fmmtc_model"] for row in long] == ["d" * 12, "n/a", "n/a", "n/a", "d" * 12]
    assert summary.counts == {
        "participants": 5, "predicted": 2, "without_prediction": 3, "missing": 2, "recordings": 3,
        "failed_recordings": 1,
    }  # fmt: skip
    assert len(summary.rows) == 5
    assert summary.models == {"d" * 64: Model("Small", demo=False, predictions=2)}
    assert summary.notes == ()
    assert not (out.root / "participants.tsv").exists()
    assert all((out.root / name).is_file() for name in summary.files)


def test_labels_that_differ_by_leading_zeros_only_are_told(out, tmp_path):
    out.predict("sub-01_task-rest")
    write_people(tmp_path / "in" / "participants.tsv", ("participant_id",), ("1",), ("02",))
    summary = collate(out.root, dataset_roots(tmp_path / "in"))
    assert summary.counts["participants"] == 3
    (note,) = summary.notes
    assert note.startswith("1 label differs from those of the features by leading zeros only (sub-1 / sub-01)")


def test_values_are_those_of_the_participant_to_the_letter(out):
    path = out.predict("sub-1_task-rest", 1 / 3)
    out.add("sub-1_task-rest")
    collate(out.root, [])
    (own,), (row,) = read_table(path), table(out, "phenotype/fmmtc.tsv")
    assert {k: v for k, v in row.items() if k in own} == own
    assert row["fmmtc_probability"] == "0.333333"


def test_without_a_model_there_are_rows_too(out):
    out.add("sub-1_task-rest")
    out.fail("sub-2_task-rest_run-1")
    out.fail("sub-2_task-rest_run-2")
    out.fail("sub-3", "selection", "no recording.")
    summary = collate(out.root, [])
    assert qc(out, "phenotype/fmmtc.tsv") == {
        "sub-1": "features only: no model was given",
        "sub-2": "image: it is cut off. Mend it. (and 1 more)",
        "sub-3": "selection: no recording. Mend it.",
    }
    assert summary.counts["predicted"] == 0
    assert summary.counts["recordings"] == 3


def test_an_empty_dataset_has_empty_tables(out):
    summary = collate(out.root, [])
    assert table(out, "phenotype/fmmtc.tsv") == table(out, "desc-fmmtc_qc.tsv") == []
    assert summary.counts["participants"] == 0


# sessions, tasks


def test_one_file_a_session(out, tmp_path):
    for key in ("sub-1_ses-a_task-rest", "sub-1_ses-b_task-rest", "sub-2_ses-a_task-rest"):
        out.add(key)
        out.predict(key)
    out.fail("sub-3", "selection", "no recording.")
    write_people(tmp_path / "in" / "participants.tsv", ("participant_id",), ("sub-4",))
    collate(out.root, [tmp_path / "in"])
    assert sorted(p.name for p in (out.root / "phenotype").iterdir()) == [
        "fmmtc_ses-a.json", "fmmtc_ses-a.tsv", "fmmtc_ses-b.json", "fmmtc_ses-b.tsv",
    ]  # fmt: skip
    assert qc(out, "phenotype/fmmtc_ses-b.tsv") == {
        "sub-1": "ok",
        "sub-2": "missing: no recording of ses-b here",
        "sub-3": "selection: no recording. Mend it.",
        "sub-4": "missing: listed in participants.tsv of the input, no output here",
    }
    assert qc(out, "phenotype/fmmtc_ses-a.tsv")["sub-2"] == "ok"
    assert len(table(out, "desc-fmmtc_predictions.tsv")) == 5


def test_a_file_a_task_only_where_somebody_has_several(out):
    for key in (
        "sub-1_ses-a_task-rest",
        "sub-1_ses-a_task-pain_acq-x",
        "sub-2_ses-a_task-rest",
        "sub-1_ses-b_task-rest",
    ):
        out.predict(key)
    collate(out.root, [])
    names = sorted(p.name for p in (out.root / "phenotype").glob("*.tsv"))
    assert names == ["fmmtc_ses-a_task-pain_acq-x.tsv", "fmmtc_ses-a_task-rest.tsv", "fmmtc_ses-b.tsv"]
    assert qc(out, f"phenotype/{names[0]}") == {
        "sub-1": "ok",
        "sub-2": "missing: no recording of ses-a task-pain acq-x here",
    }
    # One scan each, of two kinds: still one row a participant, and the key tells which.
    other = Output(out.root.with_name("other"))
    other.predict("sub-1_task-rest_acq-x")
    other.predict("sub-2_task-rest_acq-y")
    collate(other.root, [])
    assert [row["fmmtc_key"] for row in table(other, "phenotype/fmmtc.tsv")] == [
        "sub-1_task-rest_acq-x", "sub-2_task-rest_acq-y",
    ]  # fmt: skip


def test_files_of_an_earlier_division_are_removed_and_nothing_else(out):
    out.predict("sub-1_task-rest")
    collate(out.root, [])
    foreign = ["fmmtc_notes.tsv", "pain.tsv", "fmmtc.tsv.bak"]
    for name in foreign:
        (out.root / "phenotype" / name).touch()
    out.predict("sub-1_task-pain")
    collate(out.root, [])
    assert sorted(p.name for p in (out.root / "phenotype").glob("*.tsv*")) == sorted(
        [*foreign, "fmmtc_task-pain.tsv", "fmmtc_task-rest.tsv"]
    )


def test_scans_with_and_without_session(out):
    out.predict("sub-1_task-rest")
    out.predict("sub-2_ses-a_task-rest")
    collate(out.root, [])
    assert qc(out, "phenotype/fmmtc.tsv") == {"sub-1": "ok"}
    assert qc(out, "phenotype/fmmtc_ses-a.tsv") == {"sub-1": "missing: no recording of ses-a here", "sub-2": "ok"}


# models


def test_several_models_are_reported_and_the_demo_flag_is_carried(out):
    out.predict("sub-1_task-rest", digest="a" * 64)
    out.predict("sub-2_task-rest", digest="b" * 64, demo=True)
    out.predict("sub-3_task-rest", digest="b" * 64, demo=True, flags=("high_motion", "demo_model"))
    summary = collate(out.root, [])
    assert f"{'a' * 12} (1), {'b' * 12} (2)" in summary.notes[0]
    assert list(qc(out, "phenotype/fmmtc.tsv").values()) == ["ok", "demo_model", "high_motion,demo_model"]
    data = json.loads((out.root / "desc-fmmtc_predictions.json").read_text())
    assert [(m["BundleDigest"][0], m["demo"], m["predictions"]) for m in data["Models"]] == [
        ("a", False, 1),
        ("b", True, 2),
    ]


@pytest.mark.parametrize("text", ["", "participant_id\tfmmtc_probability\nsub-2\t0.9\n", "x\ty\n1\t2\n", "\xff"])
def test_a_prediction_that_cannot_be_read_keeps_its_row(out, text):
    path = out.predict("sub-1_task-rest")
    path.write_bytes(text.encode("latin-1"))
    out.predict("sub-2_task-rest").with_suffix(".json").write_text("{")
    summary = collate(out.root, [])
    rows = {row["participant_id"]: row for row in table(out, "phenotype/fmmtc.tsv")}
    assert rows["sub-1"]["fmmtc_probability"] == "n/a"
    assert "cannot be read" in rows["sub-1"]["fmmtc_qc"]
    assert rows["sub-2"]["fmmtc_probability"] == "0.7"
    assert summary.models == {}


def test_a_prediction_whose_features_have_failed_since_is_flagged(out):
    for label in "12":
        out.add(f"sub-{label}_task-rest")
        out.predict(f"sub-{label}_task-rest")
    out.stale("sub-2_task-rest")
    collate(out.root, [])
    assert qc(out, "phenotype/fmmtc.tsv") == {"sub-1": "ok", "sub-2": "features_failed_since"}


def test_a_prediction_of_features_that_were_made_anew_is_flagged(out):
    for label in "12":
        record = out.add(f"sub-{label}_task-rest")
        sidecar = out.predict(f"sub-{label}_task-rest").with_suffix(".json")
        made_from = {"bids::x": read_record(record)["FeaturesSHA256"]}
        sidecar.write_text(json.dumps(read_record(sidecar) | {"FeaturesSHA256": made_from}))
    out.add("sub-2_task-rest", windows=3)
    collate(out.root, [])
    assert qc(out, "phenotype/fmmtc.tsv") == {"sub-1": "ok", "sub-2": "features_changed_since"}


def test_a_failed_attempt_is_told_beside_what_stands(out):
    for label in "123":
        out.add(f"sub-{label}_task-rest")
    sidecar = out.predict("sub-1_task-rest").with_suffix(".json")
    out.fail("sub-2_task-rest")
    out.stale("sub-3_task-rest")
    note = {"Status": "failed", "Reason": "killed: by SIGKILL."}
    sidecar.write_text(json.dumps(read_record(sidecar) | {"LastAttempt": note}))
    summary = collate(out.root, [])
    rows = {row["participant_id"]: row for row in table(out, "desc-fmmtc_qc.tsv")}
    assert [rows[f"sub-{i}"]["fmmtc_status"] for i in "123"] == ["ok", "ok", "stale"]
    assert rows["sub-2"]["fmmtc_last_attempt"] == "image: it is cut off. Mend it."
    assert rows["sub-2"]["fmmtc_mean_fd"] == rows["sub-1"]["fmmtc_mean_fd"]
    assert rows["sub-3"]["fmmtc_reason"].startswith("stale: made before a change of image or series")
    rows = {row["participant_id"]: row for row in table(out, "phenotype/fmmtc.tsv")}
    assert [rows[f"sub-{i}"]["fmmtc_last_attempt"] for i in "12"] == ["killed: by SIGKILL.", "n/a"]
    assert rows["sub-1"]["fmmtc_probability"] == "0.7"
    assert summary.counts["failed_recordings"] == 1
    assert any("last attempt at sub-2_task-rest failed" in line for line in summary.notes)


# quality


def test_every_recording_has_a_row_of_quality(out):
    out.add("sub-1_ses-a_task-rest_run-1", mean_fd=0.2, flags=("high_motion", "padded"))
    out.fail("sub-1_ses-a_task-rest_run-2")
    out.fail("sub-2", "selection", "no recording.")
    path = out.add("sub-3_task-rest")
    path.write_text("{")
    collate(out.root, [])
    rows = table(out, "desc-fmmtc_qc.tsv")
    assert list(rows[0]) == list(QUALITY_TABLE)
    assert [(r["participant_id"], r["session_id"], r["task"], r["run"], r["fmmtc_status"]) for r in rows] == [
        ("sub-1", "ses-a", "rest", "1", "ok"),
        ("sub-1", "ses-a", "rest", "2", "failed"),
        ("sub-2", "n/a", "n/a", "n/a", "failed"),
        ("sub-3", "n/a", "rest", "n/a", "failed"),
    ]
    assert (rows[0]["fmmtc_mean_fd"], rows[0]["fmmtc_flags"]) == ("0.2", "high_motion,padded")
    assert [r["fmmtc_reason"] for r in rows[1:]] == [
        "image: it is cut off. Mend it.", "selection: no recording. Mend it.", f"{path.name} cannot be read.",
    ]  # fmt: skip
    assert (out.root / rows[0]["filename"]).is_file()


def test_every_column_is_described(out):
    out.add("sub-1_task-rest")
    summary = collate(out.root, [])
    for name in summary.files:
        if name.endswith(".tsv"):
            columns = (out.root / name).read_text().splitlines()[0].split("\t")
            described = json.loads((out.root / name).with_suffix(".json").read_text())
            assert all("Description" in described[column] for column in columns)
    tool = json.loads((out.root / "phenotype" / "fmmtc.json").read_text())["MeasurementToolMetadata"]
    assert tool["TermURL"].startswith("https://")
    assert "not a medical device" in tool["Description"]


# who should be there


def test_a_table_of_people_that_cannot_be_read_is_told_and_stops_nothing(out, tmp_path):
    out.predict("sub-1_task-rest")
    write_people(tmp_path / "in" / "participants.tsv", ("subject",), ("sub-2",))
    (tmp_path / "in" / "sub-3").mkdir()
    summary = collate(out.root, [tmp_path / "in", tmp_path / "nowhere"])
    assert "no column participant_id" in summary.notes[0]
    assert list(qc(out, "phenotype/fmmtc.tsv")) == ["sub-1", "sub-3"]


def test_ids_that_are_no_bids_labels_stay_in_the_long_form(out, tmp_path):
    out.predict("sub-1_task-rest")
    write_people(tmp_path / "in" / "participants.tsv", ("participant_id",), ("sub-1",), ("patient 7",), ("sub-1_x",))
    summary = collate(out.root, [tmp_path / "in"])
    assert list(qc(out, "phenotype/fmmtc.tsv")) == ["sub-1"]
    assert [row["participant_id"] for row in table(out, "desc-fmmtc_predictions.tsv")] == [
        "sub-1",
        "sub-1_x",
        "sub-patient 7",
    ]
    assert "sub-1_x, sub-patient 7 cannot be BIDS labels" in summary.notes[0]


def test_again_is_the_same_bytes_and_a_prediction_made_since_is_seen(out, tmp_path):
    out.add("sub-1_ses-a_task-rest")
    out.fail("sub-2_ses-a_task-rest")
    write_people(tmp_path / "in" / "participants.tsv", ("participant_id",), ("sub-3",), ("sub-1",))
    collate(out.root, [tmp_path / "in"])
    before = content(out.root)
    collate(out.root, [tmp_path / "in"])
    assert content(out.root) == before
    out.predict("sub-1_ses-a_task-rest")
    collate(out.root, [tmp_path / "in"])
    changed = {name for name, digest in content(out.root).items() if before.get(name) != digest}
    assert {name for name in changed if "prediction." not in name} == {
        "desc-fmmtc_predictions.tsv", "desc-fmmtc_predictions.json", "phenotype/fmmtc_ses-a.tsv",
    }  # fmt: skip


# the whole tree


def hide_quality(root):
    """Add the line that describe.IGNORED needs for the quality table, where it is not there yet."""
    ignored = root / ".bidsignore"
    if "*_qc.*" not in ignored.read_text().splitlines():
        ignored.write_text(ignored.read_text() + "*_qc.*\n")


@pytest.mark.slow
def test_a_real_tree_passes_the_validator(tmp_path, demo_atlas, demo_bundle):
    """Two participants, two sessions each, real features and predictions; one recording is cut off."""
    from bids_fmmtc.learning.bundle.load import load_bundle

    source, output = tmp_path / "fmriprep", tmp_path / "out"
    synthetic.write_cohort(tmp_path / "one", demo_atlas, [synthetic.Person("01", "north", True, 50, "F")])
    source.mkdir()
    shutil.copy(tmp_path / "one" / "dataset_description.json", source)
    for label, session in itertools.product(("01", "02"), "ab"):
        target = source / f"sub-{label}" / f"ses-{session}" / "func"
        target.mkdir(parents=True)
        for path in (tmp_path / "one" / "sub-01" / "func").iterdir():
            shutil.copy(path, target / path.name.replace("sub-01_task", f"sub-{label}_ses-{session}_task"))
    write_people(source / "participants.tsv", ("participant_id",), ("sub-01",), ("sub-02",), ("sub-03",))
    broken = next((source / "sub-02" / "ses-b").rglob("*bold.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:1000])
    bundle, atlas = load_bundle(demo_bundle), read_atlas(demo_atlas)
    prepare_dataset(Layout(output, atlas.name), bundle.recipe, atlas, {"fmriprep": source}, bundle.digest)
    found = find_recordings([source], Query(spaces=(synthetic.SPACE,)))
    base = Task("", (), (), bundle.recipe, output, demo_atlas, demo_bundle, bundle.digest, links={"fmriprep": source})
    base = replace(base, weights={"brainlm": demo_bundle / "encoders" / "brainlm"})
    for label in ("01", "02"):
        process_subject(
            replace(base, subject=label, recordings=tuple(r for r in found.recordings if r.subject == label)),
            lambda _: None,
        )
    hide_quality(output)
    summary = collate(output, dataset_roots(source))
    assert summary.counts == {
        "participants": 3, "predicted": 3, "without_prediction": 2, "missing": 1, "recordings": 4,
        "failed_recordings": 1,
    }  # fmt: skip
    first, second = (read_table(output / "phenotype" / f"fmmtc_ses-{s}.tsv") for s in "ab")
    assert [row["fmmtc_qc"] for row in first[:2]] == ["demo_model", "demo_model"]
    assert "truncated" in second[1]["fmmtc_qc"]
    assert second[1]["fmmtc_probability"] == first[2]["fmmtc_probability"] == "n/a"
    assert summary.models[bundle.digest].demo
    assert validate(output) == (0, [])


def test_a_tree_without_sessions_passes_the_validator(out, tmp_path):
    out.predict("sub-1_task-rest")
    out.add("sub-1_task-rest")
    out.fail("sub-2_task-rest")
    write_people(tmp_path / "in" / "participants.tsv", ("participant_id",), ("sub-1",), ("sub-9",), ("patient 7",))
    hide_quality(out.root)
    collate(out.root, [tmp_path / "in"])
    assert validate(out.root) == (0, [])
