"""What a run shows."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bids_fmmtc import console
from bids_fmmtc.console import Progress, describe_selection, format_table, outcomes
from bids_fmmtc.dataset.store import write_json
from bids_fmmtc.plain import to_json
from bids_fmmtc.rows import Report, Row
from bids_fmmtc.types import Failure, Recording, Selection, Skipped


@dataclass(frozen=True)
class Job:
    subject: str
    report_file: Path


@pytest.fixture
def lines(monkeypatch):
    """Messages as they are logged."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    log = logging.getLogger("bids_fmmtc")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    monkeypatch.setattr(console, "LOOK_SECONDS", 0.01)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


def recording(folder, subject="01"):
    bold = folder / "bold.nii.gz"
    return Recording(subject, None, "rest", None, (), "MNI152NLin6Asym", "2", bold, None, None, 2.0, folder)


def jobs_of(folder, *labels):
    return [Job(label, folder / f"{label}.json") for label in labels]


def finish(job, *states):
    failure = Failure("sub-01", "extract", "image", "cut off.")
    rows = tuple(Row("sub-01", None if state == "ok" else failure) for state in states)
    write_json(job.report_file, to_json(Report(job.subject, rows)))


def test_each_participant_has_one_line(tmp_path, lines):
    jobs = jobs_of(tmp_path, "01", "02", "03")
    with Progress(jobs):
        finish(jobs[1], "ok", "failed")
        finish(jobs[0], "ok")
    assert sorted(line.split(" (")[0] for line in lines) == ["sub-01: ok", "sub-02: 1 of 2 rows failed"]
    assert [line.rsplit("(")[-1] for line in lines] == ["1 of 3)", "2 of 3)"]


def test_an_error_inside_passes_and_ends_the_watch(tmp_path, lines):
    watch = Progress(jobs_of(tmp_path, "01"))
    with pytest.raises(ValueError, match="x"), watch:
        raise ValueError("x")
    assert not watch._thread.is_alive()
    assert lines == []


def test_a_broken_report_does_not_stop_the_watch(tmp_path, lines):
    jobs = jobs_of(tmp_path, "01")
    with Progress(jobs):
        jobs[0].report_file.write_text("{")
    assert len(lines) == 1


def test_the_dry_run_lists_run_fail_and_skip(tmp_path):
    selection = Selection(
        (recording(tmp_path), replace(recording(tmp_path, "02"), repetition_time=None)),
        (Skipped("01", tmp_path / "x_bold.nii.gz", "another space"),),
        (Failure("sub-03", "discover", "selection", "no rest.", "Look."),),
    )
    text = describe_selection(selection)
    assert "sub-01\n  run   sub-01_task-rest  space-MNI152NLin6Asym res-2  2 s  bold.nii.gz" in text
    assert "repetition time from header" in text
    assert "  skip  x_bold.nii.gz  another space" in text
    assert "  fail  sub-03  selection: no rest. Look." in text
    assert "3 participants: 2 recordings would run, 1 cannot" in text


def test_the_outcome_table_has_every_row():
    failed = Row("sub-02", Failure("sub-02", "process", "killed", "gone.", "Try."), before="stale")
    reports = [
        Report(
            "01",
            recordings=(Row("sub-01_task-rest", flags=("high_motion",), windows=2),),
            sessions=(Row("sub-01_task-rest", probability=0.25, label="non-responder"),),
        ),
        Report("02", (failed,)),
    ]
    rows = outcomes(reports)
    assert [r.level for r in rows] == ["recording", "session", "recording"]
    assert rows[2].notes.startswith("killed: gone. Try. Results of an earlier attempt are kept, but stale")
    lines = format_table(rows).splitlines()
    assert len(lines) == 4
    assert "0.250" in lines[2]
    assert lines[1].endswith("high_motion")
    assert lines[0].index("level") == lines[3].index("recording")
