import json
from collections import Counter

import pytest
from group_parts import TRUNCATED, evaluation, write_analysis, write_dataset

from bids_fmmtc.dataset.derivatives.collate import collate
from bids_fmmtc.dataset.store import read_table, write_json, write_table
from bids_fmmtc.report.analysis.facts import reason_class, reasons
from bids_fmmtc.report.group.facts import MISSING_ADVICE, page_of, read_group


def test_everybody_has_a_state(tmp_path):
    group = read_group(write_dataset(tmp_path, predicted=(1, 2)))
    states = Counter(s.state for s in group.sessions)
    assert states == {"predicted": 2, "features only": 14, "failed": 1, "missing": 1}
    assert (len(group.participants), group.recordings, group.failed) == (18, 17, 1)
    assert group.missing == ["sub-901"]
    assert [s.participant for s in group.predicted] == ["sub-01", "sub-02"]
    assert not group.demo
    assert group.problems == ()
    assert group.recipe_digest.startswith("abc123")


def test_sessions_hold_prediction_quality_and_flags(tmp_path):
    group = read_group(write_dataset(tmp_path, predicted=(2,)))
    second, third = group.sessions[1], group.sessions[2]
    assert (second.probability, second.decision, second.threshold, second.sd) == (0.1, "responder", 0.5, 0.03)
    assert second.flags == ("outside_reference:mean_fd",)
    assert second.reason == ""
    assert third.flags == ("high_motion",)
    assert (third.quality.mean_fd, third.quality.frames, third.quality.coverage) == (0.13, 203.0, 0.97)
    assert group.flags == {"outside_reference:mean_fd": 1, "high_motion": 1}


def test_who_has_no_result_is_named_with_what_to_do(tmp_path):
    found = read_group(write_dataset(tmp_path)).troubles
    assert [(t.participant, t.what, t.reason) for t in found[:1]] == [("sub-900", "sub-900_task-rest", TRUNCATED)]
    assert found[1].participant == "sub-901"
    assert found[1].reason.endswith(MISSING_ADVICE)


def test_runs_of_a_session_are_pooled_and_a_failed_one_is_named(tmp_path):
    write_json(tmp_path / "dataset_description.json", {})
    columns = ["participant_id", "session_id", "task", "filename", "fmmtc_status", "fmmtc_reason", "fmmtc_flags"]
    columns += ["fmmtc_mean_fd", "fmmtc_n_frames_left"]
    own = {"participant_id": "sub-1", "session_id": "ses-a", "task": "rest", "fmmtc_status": "ok"}
    name = "sub-1/ses-a/func/sub-1_ses-a_task-rest_run-{}_space-S_features.json"
    rows = [
        {**own, "filename": name.format(1), "fmmtc_mean_fd": 0.1, "fmmtc_n_frames_left": 100, "fmmtc_flags": "a,b"},
        {**own, "filename": name.format(2), "fmmtc_mean_fd": 0.3, "fmmtc_n_frames_left": 50, "fmmtc_flags": "b"},
        {**own, "filename": name.format(3), "fmmtc_status": "failed", "fmmtc_reason": "why"},
    ]
    write_table(tmp_path / "desc-fmmtc_qc.tsv", columns, rows)
    row = {"participant_id": "sub-1", "session_id": "ses-a", "task": "rest", "fmmtc_key": "sub-1_ses-a_task-rest"}
    write_table(tmp_path / "desc-fmmtc_predictions.tsv", [*row, "fmmtc_qc"], [{**row, "fmmtc_qc": "features only: x"}])
    group = read_group(tmp_path)
    (session,) = group.sessions
    assert (session.quality.mean_fd, session.quality.frames) == (0.2, 150)
    assert session.flags == ("a", "b")
    assert session.state == "features only"
    assert [t.what for t in group.troubles] == ["sub-1_ses-a_task-rest_run-3"]
    assert "dataset_description.json" in group.problems[0]


def test_it_reads_what_collate_writes(tmp_path):
    root = tmp_path / "out"
    func = root / "sub-1" / "func"
    record = {"Key": "sub-1_task-rest", "Status": "failed", "Reason": "masked: nothing there."}
    write_json(func / "sub-1_task-rest_space-S_atlas-A_features.json", record)
    write_json(root / "dataset_description.json", {"GeneratedBy": [{"Name": "bids_fmmtc", "Version": "1"}]})
    (tmp_path / "in" / "sub-2").mkdir(parents=True)
    collate(root, (tmp_path / "in",))
    group = read_group(root)
    assert {s.participant: s.state for s in group.sessions} == {"sub-1": "failed", "sub-2": "missing"}
    assert group.troubles[0].reason == "masked: nothing there."


REASONS = (
    "missing: sub-1_bold.nii.gz is not there. Fetch it.",
    "features only: a name that begins so.",
    "not gathered: or so it says.",
    "predicted: nothing.",
)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("tables", ["as collate writes them", "older, without a state"])
def test_a_state_is_read_from_values_whatever_a_reason_says(tmp_path, reason, tables):
    root = tmp_path / "out"
    record = {"Key": "sub-1_task-rest", "Status": "failed", "Reason": reason}
    write_json(root / "sub-1" / "func" / "sub-1_task-rest_space-S_atlas-A_features.json", record)
    write_json(root / "sub-3" / "func" / "sub-3_task-rest_space-S_atlas-A_features.json",
               {"Key": "sub-3_task-rest", "Status": "ok", "Quality": {}})  # fmt: skip
    write_json(root / "dataset_description.json", {"GeneratedBy": [{"Name": "bids_fmmtc", "Version": "1"}]})
    (tmp_path / "in" / "sub-2").mkdir(parents=True)
    summary = collate(root, (tmp_path / "in",))
    assert summary.counts["missing"] == 1
    path = root / "desc-fmmtc_predictions.tsv"
    rows = read_table(path)
    assert [row["fmmtc_state"] for row in rows] == ["failed", "missing", "features only"]
    if tables != "as collate writes them":
        columns = [name for name in rows[0] if name != "fmmtc_state"]
        write_table(path, columns, [{name: row[name] for name in columns} for row in rows])
    group = read_group(root)
    assert {s.participant: s.state for s in group.sessions} == {
        "sub-1": "failed", "sub-2": "missing", "sub-3": "features only"
    }  # fmt: skip
    assert group.missing == ["sub-2"]
    assert [t.reason for t in group.troubles if t.participant == "sub-1"] == [reason]


def test_a_demo_is_known_by_data_model_or_flag(tmp_path):
    root = write_dataset(tmp_path / "data", demo=True)
    assert read_group(root).demo
    root = write_dataset(tmp_path / "models", predicted=(1,))
    models = json.loads((root / "desc-fmmtc_predictions.json").read_text())["Models"]
    write_json(root / "desc-fmmtc_predictions.json", {"Models": [{**models[0], "demo": True}]})
    assert read_group(root).demo
    root = write_dataset(tmp_path / "bundle")
    folder = write_analysis(root)
    write_json(folder / "bundle" / "bundle.json", {"card": {"demo": True}})
    assert read_group(root).demo


def test_only_labels_of_people_who_are_here_become_links(tmp_path):
    (tmp_path / "sub-1.html").touch()
    (tmp_path / "sub-2").mkdir()
    assert page_of(tmp_path, "sub-1") == "sub-1.html"
    for label in ("sub-2", "javascript:alert(1)", "../sub-1", "sub-1/..", "", "SUB-1"):
        assert page_of(tmp_path, label) == ""


def test_reasons_by_kind(tmp_path):
    assert reason_class(f"failed: {TRUNCATED}") == "failed (image)"
    assert reason_class("failed: no reason is given") == "failed"
    assert reason_class("control arm: judged, not learnt from") == "control arm"
    assert reason_class("") == "no reason is given"
    root = write_dataset(tmp_path)
    write_analysis(root)
    write_analysis(root, "other", {k: v for k, v in evaluation().items() if k != "people"})
    stored, counted = (reasons(each) for each in read_group(root).analyses)
    assert stored == counted == {f"failed: {TRUNCATED}": 1, "the outcome is missing": 1}
