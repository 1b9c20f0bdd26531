from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from bids_fmmtc import workflow
from bids_fmmtc.dataset.store import write_json
from bids_fmmtc.plain import to_json
from bids_fmmtc.recipe import AtlasSpec, Recipe
from bids_fmmtc.rows import read_report
from bids_fmmtc.settings import Task
from bids_fmmtc.types import Recording
from bids_fmmtc.workflow import Job, SurePool, build_workflow, run_child, run_jobs


@pytest.fixture
def job(tmp_path):
    """A task whose image does not exist: the child fails fast, and properly."""
    recording = Recording(
        "01", None, "rest", None, (), "MNI152NLin6Asym", None, tmp_path / "no_bold.nii.gz", None, None, 2.0, tmp_path
    )
    task = Task(
        subject="01",
        recordings=(recording,),
        failures=(),
        recipe=Recipe(atlas=AtlasSpec("Demo")),
        output=tmp_path / "out",
        atlas=tmp_path / "atlas",
    )
    job = Job("01", tmp_path / "work" / "sub-01", 0.5)
    write_json(job.task_file, to_json(task))
    return job


def stand_in(monkeypatch, tmp_path, body):
    """Replace the interpreter by one that runs ``body`` in place of the participant module."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport os, signal, sys\nmodule, *arguments = sys.argv[2:]\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(workflow.sys, "executable", str(script))


def test_a_child_that_fails_properly_is_reported(job):
    report = run_child(job)
    assert report.complete
    assert not report.succeeded
    assert report.recordings[0].failure.kind == "missing"
    assert read_report(job.report_file) == report


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_is_killed_leaves_a_row(job, monkeypatch, tmp_path, number):
    stand_in(monkeypatch, tmp_path, f"os.kill(os.getpid(), {int(number)})")
    report = run_child(job)
    (row,) = report.recordings
    assert row.failure.kind == "killed"
    assert number.name in row.failure.message
    assert not report.complete
    assert (tmp_path / "out" / "sub-01" / "sub-01_scans.tsv").is_file()


def test_a_child_that_crashes_shows_its_last_line(job, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, "sys.exit('no such library')")
    (row,) = run_child(job).recordings
    assert row.failure.kind == "crashed"
    assert "no such library" in row.failure.message


def test_a_complete_report_counts_even_if_the_process_dies_afterwards(job, monkeypatch, tmp_path):
    text = json.dumps({"subject": "01", "recordings": [], "sessions": [], "outputs": [], "complete": True})
    stand_in(monkeypatch, tmp_path, f"open(arguments[1], 'w').write({text!r}); os.kill(os.getpid(), 9)")
    assert run_child(job).succeeded


def test_the_graph_has_a_node_per_participant_and_no_edges(job, tmp_path):
    other = Job("02", tmp_path / "work" / "sub-02", 1.5)
    graph = build_workflow([job, other], tmp_path, 2, stop=False)
    nodes = {node.name: node for node in graph._graph.nodes()}
    assert set(nodes) == {"sub_01", "sub_02"}
    assert nodes["sub_02"].mem_gb == 1.5
    assert nodes["sub_02"].n_procs == 2
    assert graph._graph.number_of_edges() == 0


@pytest.mark.parametrize("plugin", [{"plugin": "Linear"}, {"plugin": "MultiProc", "plugin_args": {"n_procs": 2}}])
def test_both_plugins_leave_reports(job, tmp_path, plugin):
    here = Path.cwd()
    run_jobs([job], tmp_path / "nipype", plugin, 1, stop=False)
    assert job.report_file.is_file()
    assert Path.cwd() == here


def test_a_pool_that_keeps_losing_workers_gives_up(job, monkeypatch, tmp_path):
    # The stand-in child kills the worker that waits for it.
    stand_in(monkeypatch, tmp_path, "os.kill(os.getppid(), signal.SIGKILL)")
    run_jobs([job], tmp_path / "nipype", {"plugin": "MultiProc", "plugin_args": {"n_procs": 1}}, 1, stop=False)
    assert not job.report_file.exists()


def test_sure_pool_takes_nipype_arguments():
    pool = SurePool({"n_procs": 1, "memory_gb": 2, "raise_insufficient": False})
    try:
        assert pool.processors == 1
        assert pool.memory_gb == 2
    finally:
        pool.pool.shutdown()
