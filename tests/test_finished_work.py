"""Finished work stays: whatever makes a re-run fail, its files are those of before to the byte, with a note beside.

Whole runs in real child processes. Every way to fail is followed by a good run, after which nothing tells of it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from small import bold, command, content, mask, prefix, run, run_fresh, scans, write_inputs
from untrained import write_model

from bids_fmmtc import synthetic
from bids_fmmtc.dataset.store import read_record, read_table
from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig
from bids_fmmtc.synthetic import Person

STEM = f"sub-01_task-rest_space-{synthetic.SPACE}_atlas-Demo"
TELLING = {"features.json", "scans.tsv", "sub-01.html", "prediction.json"}


def person(label: str, runs: int = 1) -> Person:
    return Person(label, "north", True, 50, "F", runs)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two participants, finished; each test works on a copy."""
    root = tmp_path_factory.mktemp("finished")
    write_inputs(root, [person("01"), person("02")])
    first = run_fresh(command(root))
    assert first.returncode == 0, first.stderr
    return root


@pytest.fixture
def finished(done, tmp_path):
    root = tmp_path / "finished"
    shutil.copytree(done, root, symlinks=True)
    shutil.rmtree(root / "work-out")  # as a cleaned /tmp: nothing is known of the run but its results
    return root


def record_of(root: Path) -> Path:
    return root / "out" / "sub-01" / "func" / f"{STEM}_features.json"


# --------------------------------------------------------------------------------------------------------- ways to fail


def dropped(path):
    """Let DataLad have dropped the content of a locked file; returns what brings it back."""
    data = path.read_bytes()
    path.unlink()
    path.symlink_to("../.git/annex/objects/none")

    def mend():
        path.unlink()
        path.write_bytes(data)

    return mend


def image_dropped(root):
    return dropped(bold(root, "01")), {}


def image_dropped_unlocked(root):
    path = bold(root, "01")
    data = path.read_bytes()
    path.write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    return lambda: path.write_bytes(data), {}


def mask_dropped(root):
    return dropped(mask(root, "01")), {}


def confounds_dropped(root):
    return dropped(Path(f"{prefix(root, '01')}_desc-confounds_timeseries.tsv")), {}


def disk_unmounted(root):
    folder = root / "fmriprep" / "sub-01" / "func"
    folder.rename(root / "aside")
    folder.mkdir()

    def mend():
        folder.rmdir()
        (root / "aside").rename(folder)

    return mend, {}


def at_start_of_child(root, deed):
    """Do something in participant 01's process before it has imported anything of ours."""
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(
        "import os, signal\n"
        "words = open('/proc/self/cmdline').read()\n"
        f"if 'bids_fmmtc.participant' in words and 'sub-01' in words:\n    {deed}\n"
    )
    return (lambda: None), {"environ": {"PYTHONPATH": str(root / "site")}}


def killed_while_importing(root):
    return at_start_of_child(root, "os.kill(os.getpid(), signal.SIGKILL)")


def ended_while_importing(root):
    return at_start_of_child(root, "os._exit(7)")


def an_older_version_made_them(root):
    """Let everything have to be made again, so that files of results would be written."""
    path = record_of(root)
    path.write_text(path.read_text().replace('"SoftwareVersion": "', '"SoftwareVersion": "0.0.0 before '))


def disk_full(root):
    an_older_version_made_them(root)
    return (lambda: None), {"largest": 60_000}  # tasks and records fit, series and pages do not


def not_enough_memory(root):
    an_older_version_made_them(root)
    return at_start_of_child(root, "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**27, 2**27))")


WAYS = [
    image_dropped,
    image_dropped_unlocked,
    mask_dropped,
    confounds_dropped,
    disk_unmounted,
    killed_while_importing,
    ended_while_importing,
    disk_full,
    not_enough_memory,
]


def attempt(words, environ=None, largest=None):
    """Run the program with an environment of its own, and no file larger than so many bytes."""
    if environ is None and largest is None:
        return run(words)

    def limit():
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    return subprocess.run(
        [sys.executable, "-m", "bids_fmmtc", *words],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        env={**os.environ, **(environ or {})},
    )


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_failed_re_run_leaves_every_finished_file_as_it_was(finished, way):
    original = content(finished / "out")
    mend, how = way(finished)
    before, record = content(finished / "out"), read_record(record_of(finished))
    failed = attempt(command(finished), **how)
    assert failed.returncode == 1, failed.stdout + failed.stderr

    after = content(finished / "out")
    assert set(after) == set(before)
    changed = {name for name in before if after[name] != before[name]}
    assert {name.rpartition("_")[2] for name in changed} <= TELLING
    assert all("sub-01" in name for name in changed)
    noted = read_record(record_of(finished))
    assert noted.pop("LastAttempt")["Status"] == "failed"
    assert noted == record
    (row,) = scans(finished, "01")
    assert row["fmmtc_status"] == "ok"
    assert row["fmmtc_last_attempt"] != "n/a"
    assert row["fmmtc_mean_fd"] != "n/a"
    (line,) = [text for text in failed.stdout.splitlines() if text.startswith("sub-01") and "Results of" in text]
    assert " failed " in line
    if way is not disk_full:
        assert "The last attempt at sub-01_task-rest failed" in (finished / "out" / "sub-01.html").read_text()

    mend()
    good = run(command(finished))
    assert good.returncode == 0, good.stdout
    assert content(finished / "out") == original


def test_those_not_reached_keep_what_they_have(finished):
    before = content(finished / "out")
    bold(finished, "01").write_bytes(b"")
    stopped = run(command(finished, "--stop-on-first-crash"))
    assert stopped.returncode == 1
    assert "not-run" in stopped.stdout
    after = content(finished / "out")
    assert set(after) == set(before)
    changed = {name for name in before if after[name] != before[name] and "sub-02" in name}
    assert {name.rpartition("_")[2] for name in changed} == {"features.json", "scans.tsv", "sub-02.html"}
    (row,) = scans(finished, "02")
    assert (row["fmmtc_status"], "not-run" in row["fmmtc_last_attempt"]) == ("ok", True)


def test_only_a_proven_change_makes_stale_and_even_then_nothing_is_lost(finished):
    original = content(finished / "out")
    data = bold(finished, "01").read_bytes()
    bold(finished, "01").write_bytes(data[: len(data) // 2])
    failed = run(command(finished))
    assert failed.returncode == 1
    after = content(finished / "out")
    assert set(after) == set(original)
    record = read_record(record_of(finished))
    assert (record["Status"], record["Changed"]) == ("stale", ["bold"])
    (row,) = scans(finished, "01")
    assert row["fmmtc_status"] == "stale"
    assert "truncated" in row["fmmtc_last_attempt"]
    assert "kept, but stale" in (finished / "out" / "sub-01.html").read_text()

    # The image is what it was: nothing is computed, and nothing tells of it any more.
    bold(finished, "01").write_bytes(data)
    arrays = record_of(finished).with_suffix(".safetensors")
    stamp = arrays.stat().st_mtime_ns
    assert run(command(finished)).returncode == 0
    assert content(finished / "out") == original
    assert arrays.stat().st_mtime_ns == stamp


def test_a_work_folder_that_remembers_success_does_not_keep_a_note_for_ever(finished):
    original = content(finished / "out")
    assert run(command(finished)).returncode == 0  # remembered in work-out
    mend, _ = image_dropped(finished)
    elsewhere = [*command(finished)[:-1], str(finished / "work-2")]
    assert run(elsewhere).returncode == 1
    assert content(finished / "out") != original
    mend()
    assert run(command(finished)).returncode == 0
    assert content(finished / "out") == original


def test_an_output_folder_that_is_removed_half_way_is_no_success(finished):
    shutil.rmtree(finished / "out")
    at_start_of_child(finished, "pass")
    remove = f"    import shutil; shutil.rmtree({str(finished / 'out' / 'sub-01')!r})\n"
    custom = finished / "site" / "sitecustomize.py"
    custom.write_text(
        custom.read_text().replace("'sub-01' in words", "'sub-02' in words").replace("    pass\n", remove)
    )
    gone = attempt(command(finished), environ={"PYTHONPATH": str(finished / "site")})
    assert gone.returncode == 1, gone.stdout + gone.stderr
    assert "not in the output folder any more" in gone.stdout
    again = run(command(finished))
    assert again.returncode == 0
    assert "1 of 2 participants are done already" in again.stderr


def test_leftovers_of_killed_writes_are_swept_by_the_next_run_of_that_participant(finished):
    original = content(finished / "out")
    name = f".{STEM}_timeseries.tsv.0123456789abcdef.tmp"
    own, other = (finished / "out" / f"sub-0{i}" / "func" / name for i in (1, 2))
    top = finished / "out" / ".sub-01.html.0123456789abcdef.tmp"
    for path in (own, other, top):
        path.write_bytes(b"half")
    assert run(command(finished, "--participant-label", "01")).returncode == 0
    assert [path.exists() for path in (own, other, top)] == [False, True, False]
    other.unlink()
    assert content(finished / "out") == original


# ---------------------------------------------------------------------------------------------------------- predictions


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """One participant of two runs, finished with a model."""
    root = tmp_path_factory.mktemp("predicted")
    write_inputs(root, [person("01", runs=2)])
    write_model(root / "model", root / "atlas-Demo")
    first = run_fresh(command(root, "--model", str(root / "model")))
    assert first.returncode == 0, first.stderr
    return root


@pytest.mark.slow
@pytest.mark.parametrize("way", ["one run dropped", "killed"])
def test_a_prediction_stays_what_it_was(predicted, tmp_path, way):
    root = tmp_path / "p"
    shutil.copytree(predicted, root, symlinks=True)
    shutil.rmtree(root / "work-out")
    original = content(root / "out")
    second = next((root / "fmriprep" / "sub-01" / "func").glob("*run-2*bold.nii.gz"))
    mend, how = (dropped(second), {}) if way == "one run dropped" else killed_while_importing(root)
    words = command(root, "--model", str(root / "model"))
    failed = attempt(words, **how)
    assert failed.returncode == 1, failed.stdout
    after = content(root / "out")
    assert set(after) == set(original)
    changed = {name for name in after if after[name] != original[name]}
    assert {name.rpartition("_")[2] for name in changed} <= TELLING
    table = root / "out" / "sub-01" / "func" / "sub-01_task-rest_desc-fmmtc_prediction.tsv"
    (row,) = read_table(table)
    assert (row["fmmtc_n_windows"], row["fmmtc_qc"]) == ("6", "demo_model")
    noted = read_record(table.with_suffix(".json"))
    assert ("LastAttempt" in noted) == (way == "killed")
    assert noted["Status"] == "ok"
    mend()
    assert run(words).returncode == 0
    assert content(root / "out") == original


@pytest.mark.slow
def test_a_prediction_of_another_model_does_not_stand_for_the_one_asked_for(predicted, tmp_path):
    root = tmp_path / "p"
    shutil.copytree(predicted, root, symlinks=True)
    sidecar = root / "out" / "sub-01" / "func" / "sub-01_task-rest_desc-fmmtc_prediction.json"
    data = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(data | {"BundleDigest": "0" * 64}))
    _, how = killed_while_importing(root)
    shutil.rmtree(root / "work-out")
    assert attempt(command(root, "--model", str(root / "model")), **how).returncode == 1
    (row,) = read_table(sidecar.with_suffix(".tsv"))
    assert row["fmmtc_probability"] == "n/a"
    assert "killed" in row["fmmtc_qc"]
    assert [r["fmmtc_status"] for r in scans(root, "01")] == ["ok", "ok"]


# --------------------------------------------------------------------------------------------- encoders that come later


def write_encoder(folder: Path) -> None:
    """Write the demo's encoder for windows of the default recipe's length."""
    torch.manual_seed(0)
    config = {**synthetic.ENCODER, "num_timepoints_per_voxel": 200}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(save(BrainLM(BrainLMConfig.from_json(config)).state_dict()))


def test_a_folder_made_without_encoder_weights_is_completed_later(tmp_path):
    write_inputs(tmp_path, [person("01")])
    write_encoder(tmp_path / "encoder")

    def words(output, *more):
        inputs = [str(tmp_path / "fmriprep"), str(tmp_path / output), "participant"]
        return [*inputs, "--atlas", str(tmp_path / "atlas-Demo"), "-w", str(tmp_path / f"work-{output}"), *more]

    weights = ("--encoder-weights", str(tmp_path / "encoder"))
    here = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    plan = run(words("out", "--dry-run"), **here)
    assert plan.returncode == 0
    assert "No weights of brainlm were found: connectivity only." in plan.stdout
    first = run(words("out"), **here)
    assert first.returncode == 0, first.stderr
    assert "No weights of brainlm were found: connectivity only." in first.stderr
    assert "No weights of brainlm were on the machine" in (tmp_path / "out" / "sub-01.html").read_text()
    direct = run(words("direct", *weights), **here)
    assert direct.returncode == 0, direct.stderr
    assert "No weights" not in direct.stderr

    # An image of the same fingerprint that nobody can read: what is added comes from the stored series alone.
    image = bold(tmp_path, "01")
    data = image.read_bytes()
    image.write_bytes(b"\0" * (len(data) - 8) + data[-8:])
    series = tmp_path / "out" / "sub-01" / "func" / f"{STEM}_timeseries.tsv"
    stamp = series.stat().st_mtime_ns
    completed = run(words("out", *weights), **here)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert series.stat().st_mtime_ns == stamp
    assert content(tmp_path / "out") == content(tmp_path / "direct")

    refused = run(words("out"), **here)
    assert refused.returncode == 65
    assert "brainlm, too: --encoder-weights DIR" in refused.stderr
    assert content(tmp_path / "out") == content(tmp_path / "direct")
