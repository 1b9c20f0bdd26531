from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

from small import content

from bids_fmmtc.dataset.store import read_table
from bids_fmmtc.participant import process_subject, record_lost
from bids_fmmtc.plain import from_json, to_json
from bids_fmmtc.rows import Report
from bids_fmmtc.types import Failure


def test_process_subject_writes_everything_and_saves_after_each_recording(task):
    saved = []
    report = process_subject(task, saved.append)
    assert [len(r.recordings) for r in saved] == [1, 2, 2]
    assert [r.complete for r in saved] == [False, False, True]
    assert [row.status for row in report.recordings] == ["ok", "ok"]
    assert all((task.output / name).is_file() for name in report.outputs)
    assert set(report.outputs) == set(content(task.output))
    rows = read_table(task.output / "sub-01" / "sub-01_scans.tsv")
    assert [r["fmmtc_n_frames"] for r in rows] == ["260", "260"]


def test_a_lost_process_keeps_what_it_had_done(task):
    saved = []
    process_subject(task, saved.append)
    first = from_json(Report, json.loads(json.dumps(to_json(saved[0]))), "report")
    assert first == saved[0]
    second = task.output / "sub-01" / "func"
    for path in second.glob("*run-2*"):
        path.unlink()
    report = record_lost(task, first, Failure("sub-01", "process", "killed", "its process was killed by SIGKILL."))
    assert {row.key: row.status for row in report.recordings} == {
        "sub-01_task-rest_run-1": "ok",
        "sub-01_task-rest_run-2": "failed",
    }
    rows = read_table(task.output / "sub-01" / "sub-01_scans.tsv")
    assert [r["fmmtc_status"] for r in rows] == ["ok", "failed"]
    assert "killed" in rows[1]["fmmtc_reason"]


def test_a_lost_process_takes_nothing_that_an_earlier_one_had_done(task):
    process_subject(task, lambda _: None)
    before = content(task.output)
    leftover = task.output / "sub-01" / "func" / f".x.tsv.{'0a' * 8}.tmp"
    leftover.touch()
    report = record_lost(
        task, Report("01"), Failure("sub-01", "process", "killed", "its process was killed by SIGKILL.")
    )
    assert [(row.status, row.before) for row in report.recordings] == [("failed", "ok")] * 2
    assert not leftover.exists()
    after = content(task.output)
    assert set(after) == set(before)
    told = {name for name in after if after[name] != before[name]}
    assert {name.rpartition("_")[2] for name in told} == {"features.json", "scans.tsv", "sub-01.html"}
    process_subject(task, lambda _: None)
    assert content(task.output) == before


def test_what_discovery_turned_down_keeps_a_row(task):
    failure = Failure("sub-01_task-rest_run-3", "discover", "space", "no usable space.", "Rerun.")
    report = process_subject(replace(task, failures=(failure,)), lambda _: None)
    assert report.recordings[0].status == "failed"
    rows = read_table(task.output / "sub-01" / "sub-01_scans.tsv")
    assert [r["fmmtc_status"] for r in rows] == ["failed", "ok", "ok"] or sorted(r["fmmtc_status"] for r in rows) == [
        "failed",
        "ok",
        "ok",
    ]
    assert all((task.output / "sub-01" / r["filename"]).is_file() for r in rows)


def test_the_child_process_imports_only_what_the_recipe_needs(task, tmp_path):
    task_file = tmp_path / "task.json"
    task_file.write_text(json.dumps(to_json(task)))
    code = (
        "import sys; from bids_fmmtc.participant import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'nilearn', 'transformers', 'sklearn', 'pandas', 'bids', 'nipype', 'matplotlib.pyplot'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, task_file, tmp_path / "report.json"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert json.loads((tmp_path / "report.json").read_text())["complete"]


def test_no_space_for_the_derivatives_is_a_row_not_a_crash(task, tmp_path):
    (tmp_path / "file").touch()
    report = process_subject(replace(task, output=tmp_path / "file" / "out"), lambda _: None)
    kinds = {row.failure.kind for row in report.recordings}
    assert kinds == {"output"}
