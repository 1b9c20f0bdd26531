"""A line per participant where there is no terminal."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_fmmtc import progress
from bids_fmmtc.dataset.store import write_json
from bids_fmmtc.progress import Progress


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
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


def jobs_of(folder, *labels):
    return [Job(label, folder / f"{label}.json") for label in labels]


def finish(job, *states):
    write_json(job.report_file, {"recordings": [{"status": s} for s in states], "sessions": []})


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
