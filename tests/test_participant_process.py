"""The entry of a participant's process, as a process."""

import json
import os
import subprocess
import sys

from patience import patience

from bids_fmmtc.plain import to_json


def test_it_is_bound_to_its_parent_before_anything_heavy_is_imported():
    code = "import sys, bids_fmmtc.participant_process; print(sorted({'numpy', 'nibabel', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def start(task, tmp_path, parent):
    (tmp_path / "task.json").write_text(json.dumps(to_json(task)))
    words = [str(tmp_path / "task.json"), str(tmp_path / "report.json"), str(parent)]
    command = [sys.executable, "-m", "bids_fmmtc.participant_process", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(300))


def test_it_does_the_task(task, tmp_path):
    done = start(task, tmp_path, os.getpid())
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["complete"]


def test_it_does_nothing_for_a_parent_that_is_gone(task, tmp_path):
    done = start(task, tmp_path, os.getppid())
    assert done.returncode == 137
    assert not (tmp_path / "report.json").exists()
    assert not task.output.exists()
