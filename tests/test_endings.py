"""Signals at any moment of a whole run: nothing of it lives on or is written afterwards; it can be taken up."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from patience import patience
from small import content, run

from bids_fmmtc.dataset.store import write_array
from bids_fmmtc.recipe import Recipe, Windows

MOMENTS = 20
MARK = "FMMTC_TEST_MARK"
SECONDS = 5  # in which nothing of a run may be left


def write_series(root: Path) -> None:
    """Write six people with a short table of series each, and a recipe: as little work as a whole run can be."""
    folder = root / "series"
    folder.mkdir()
    for i in range(1, 7):
        rng = np.random.default_rng(i)
        write_array(folder / f"sub-{i}_timeseries.tsv", list("abcd"), rng.normal(size=(30, 4)).astype(np.float32))
    recipe = Recipe(windows=Windows(10, 10, short_least=5))
    (root / "recipe.json").write_text(json.dumps(recipe.to_json()))


@pytest.fixture
def series(tmp_path):
    write_series(tmp_path)
    return tmp_path


def line(root: Path, output: str, *more: str) -> list[str]:
    words = [str(root / "series"), str(root / output), "participant", "--timeseries", str(root / "series")]
    words += ["--repetition-time", "2", "--recipe", str(root / "recipe.json"), "-w", str(root / f"work-{output}")]
    return [*words, *more]


def start(root: Path, output: str, *more: str, mark: str) -> subprocess.Popen[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FMMTC_")} | {MARK: mark}
    return subprocess.Popen(
        [sys.executable, "-m", "bids_fmmtc", *line(root, output, *more)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environ,
    )  # fmt: skip


def survivors(mark: str) -> list[int]:
    """Processes that inherited the mark in their environment, zombies not counted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, its size and when it was changed."""
    return {
        p.relative_to(folder).as_posix(): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(folder.rglob("*"))
    }


def asked(nprocs: int) -> tuple[str, ...]:
    """As many people as are worked on at once: what comes after the one a signal falls on is in `test_end_to_end`."""
    return ("--nprocs", str(nprocs), "--participant-label", *"12"[:nprocs])


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(request, tmp_path_factory):
    """How many at once, the files of a whole run, and its seconds: both signals come within those."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_series(root)
    begin = time.monotonic()
    whole = start(root, "out", *asked(request.param), mark="whole")
    _, stderr = whole.communicate(timeout=patience(300))
    assert whole.returncode == 0, stderr
    return request.param, content(root / "out"), time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_a_run_outlives_it(series, undisturbed, number):
    mark = uuid.uuid4().hex
    nprocs, whole, took = undisturbed
    words = asked(nprocs)
    moments = random.Random(f"{number} {nprocs}")
    told = []
    for i in range(MOMENTS):
        process = start(series, "out", *words, mark=mark)
        # One in each twentieth of a run, from its very start.
        time.sleep(took * (i + moments.random()) / MOMENTS)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=patience(60))
        end = time.monotonic()
        before = state(series) if number != signal.SIGKILL else None
        while survivors(mark) and time.monotonic() < end + SECONDS:
            time.sleep(0.02)
        assert not survivors(mark), f"after moment {i}"
        before = before or state(series)
        told.append((process.returncode, stderr))
        time.sleep(0.3)
        assert state(series) == before, f"after moment {i}"
        if i % 5 == 4:
            shutil.rmtree(series / "out", ignore_errors=True)
            shutil.rmtree(series / "work-out", ignore_errors=True)
    # Before Python has taken the signal over it ends on it at once; a run may have come to its end before.
    assert {code for code, _ in told} <= {0, -number, 128 + number}
    assert not [text for _, text in told if "Traceback (" in text]
    last = start(series, "out", *words, mark=mark)
    _, stderr = last.communicate(timeout=patience(300))
    assert last.returncode == 0, stderr
    assert content(series / "out") == whole


@pytest.mark.slow
def test_six_jobs_of_an_array_share_an_output_folder(series):
    mark = uuid.uuid4().hex
    jobs = [start(series, "out", "--participant-label", str(i), mark=mark) for i in range(1, 7)]
    for job in jobs:
        _, stderr = job.communicate(timeout=patience(300))
        assert job.returncode == 0, stderr
    assert run(line(series, "whole")).returncode == 0
    assert content(series / "out") == content(series / "whole")


@pytest.mark.slow
def test_a_pool_has_as_many_workers_as_participants_at_once(series):
    mark = uuid.uuid4().hex
    process = start(series, "out", "--nprocs", "2", "--omp-nthreads", "8", mark=mark)
    most = 0
    while process.poll() is None:
        most = max(most, sum(parent_of(pid) == process.pid for pid in survivors(mark)))
        time.sleep(0.01)
    process.communicate()
    assert process.returncode == 0
    assert most == 2
    assert not survivors(mark)


@pytest.mark.slow
def test_libraries_keep_their_caches_in_the_work_folder(series, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "NIPYPE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    process = start(series, "out", "--participant-label", "1", mark="x")
    process.communicate(timeout=patience(300))
    assert process.returncode == 0
    assert sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()) == []
    (work,) = (series / "work-out").iterdir()
    assert list((work / "cache" / "matplotlib").iterdir())
