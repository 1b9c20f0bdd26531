"""Whole runs, started as a user starts them: real images, real child processes, real signals, the real validator."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import patience
from safetensors.torch import load_file
from small import (
    SHARED,
    bold,
    command,
    content,
    mask,
    move_affine,
    prefix,
    processes,
    run,
    run_fresh,
    scans,
    start,
    validate,
    write_inputs,
)
from untrained import CARD, write_model

from bids_fmmtc.dataset.store import read_features, read_table
from bids_fmmtc.learning.bundle.calibrate import Calibration
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.bundle.load import load_bundle
from bids_fmmtc.learning.bundle.save import save_bundle
from bids_fmmtc.modalities.weights import weights_sha256
from bids_fmmtc.recipe import AtlasSpec, ModalitySpec, Recipe, SpaceSpec
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.synthetic import Person

DEVFIX = SHARED / "data" / "bold4d" / "devfix"
A424 = SHARED / "data" / "atlas"
CHECKPOINT = SHARED / "fixtures" / "brainlm_ckpt1400_cfg"
needs_shared = pytest.mark.skipif(
    not (DEVFIX.is_dir() and A424.is_dir() and CHECKPOINT.is_dir()),
    reason="the real recording, A424 and the parity weights are not part of the project",
)
STEM = "sub-rapidtide_task-rest_space-MNI152NLin2009cAsym_atlas-A424"


# ------------------------------------------------------------------------------------------------- the real recording


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """BrainLM in checkpoint-1400's size, random weights, as a user would have it on disk."""
    folder = tmp_path_factory.mktemp("brainlm")
    shutil.copy(CHECKPOINT / "config.json", folder)
    shutil.copy(CHECKPOINT / "weights.safetensors", folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, weights):
    """An untrained FMM_TC for A424 that only references its encoder, as a real one must."""
    torch.manual_seed(0)
    atlas = read_atlas(A424)
    recipe = Recipe(
        atlas=AtlasSpec(atlas.name, atlas.sha256, atlas.n_parcels),
        space=SpaceSpec(warp="packaged"),
        modalities=(ModalitySpec("brainlm", weights_sha256(weights)), ModalitySpec("fc")),
    )
    shapes = {"brainlm": (256,), "fc": (424, 424)}
    branches = {"brainlm": {"branch": "identity"}, "fc": {"branch": "resnet18", "width": 256}}
    spec = {"kind": "fmmtc", "branches": branches, "outputs": 2}
    root = tmp_path_factory.mktemp("models") / "bundle"
    save_bundle(
        root,
        recipe=recipe,
        shapes=shapes,
        head_spec=spec,
        head=build_head(spec, shapes),
        calibration=Calibration(),
        card={**CARD, "title": "Untrained"},
        encoders={"brainlm": weights},
    )
    return root


def real(output: Path, *more: str) -> list[str]:
    return [str(DEVFIX), str(output), "participant", "--atlas", str(A424), "-w", f"{output}-work", *more]


@needs_shared
@pytest.mark.slow
def test_real_recording_predicts_by_default_through_the_warp(tmp_path, bundle, weights):
    before = content(DEVFIX)
    model = ["--model", str(bundle), "--encoder-weights", str(weights)]
    done = run_fresh(real(tmp_path / "a", *model))
    assert done.returncode == 0, done.stderr
    func = tmp_path / "a" / "sub-rapidtide" / "func"
    (row,) = read_table(func / "sub-rapidtide_task-rest_desc-fmmtc_prediction.tsv")
    assert 0 < float(row["fmmtc_probability"]) < 1
    assert row["fmmtc_qc"] == "demo_model"
    features = read_features(func / f"{STEM}_features.json")
    assert features.arrays["brainlm"].shape == (1, 256)
    assert features.arrays["fc"].shape == (1, 424, 424)
    series = read_table(func / f"{STEM}_timeseries.tsv")
    assert len(series) == 260
    assert len(series[0]) == 424
    (coverage,) = read_table(func / f"{STEM}_coverage.tsv")
    lost = [name for name, value in series[0].items() if value == "n/a"]
    assert lost == ["A424_416", "A424_418", "A424_424"]  # below the field of view, or out of the brain mask
    assert all(float(coverage[name]) == 0 for name in lost)
    sidecar = json.loads((func / f"{STEM}_timeseries.json").read_text())
    assert "shipped with bids_fmmtc" in sidecar["AtlasPlacement"]
    assert validate(tmp_path / "a") == (0, [])
    assert content(DEVFIX) == before

    # The same command gives the same bytes, in another folder too.
    assert run(real(tmp_path / "b", *model)).returncode == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


@needs_shared
def test_real_recording_with_affine_equals_the_reference_means(tmp_path):
    done = run(real(tmp_path / "out", "--on-space-mismatch", "affine"))
    assert done.returncode == 0, done.stderr
    assert "features only" in done.stderr
    assert "space_affine" in done.stdout
    func = tmp_path / "out" / "sub-rapidtide" / "func"
    rows = read_table(func / f"{STEM}_timeseries.tsv")
    names = list(rows[0])
    assert len(names) == 424
    assert [i + 1 for i, name in enumerate(names) if rows[0][name] == "n/a"] == [383, 405]
    ours = np.array([[float("nan") if v == "n/a" else float(v) for v in row.values()] for row in rows])
    reference = np.load(next((DEVFIX / "sub-rapidtide" / "func").glob("*_ref.npz")))["ts"]
    found = ~np.isnan(reference[0])
    difference = np.abs(ours - reference)[:, found] / reference[:, found].mean(axis=0)
    assert difference.max() < 1e-3
    assert np.isnan(ours).sum() == 2 * 260
    assert validate(tmp_path / "out")[0] == 0


@needs_shared
def test_real_recording_with_fail_names_the_remedies(tmp_path):
    done = run(real(tmp_path / "out", "--on-space-mismatch", "fail"))
    assert done.returncode == 1
    assert "--output-spaces MNI152NLin6Asym:res-2" in done.stdout
    assert "--on-space-mismatch warp" in done.stdout
    (row,) = read_table(tmp_path / "out" / "sub-rapidtide" / "sub-rapidtide_scans.tsv")
    assert row["fmmtc_status"] == "failed"
    assert validate(tmp_path / "out")[0] == 0


@needs_shared
def test_real_recording_denoised(tmp_path):
    recipe = {"denoising": {"strategy": "compcor", "global_signal": "basic", "low_pass": 0.1}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    done = run(real(tmp_path / "out", "--recipe", str(tmp_path / "recipe.json")))
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((tmp_path / "out" / "sub-rapidtide" / "func" / f"{STEM}_timeseries.json").read_text())
    assert "a_comp_cor_00" in sidecar["ConfoundRegressors"]
    assert "global_signal" in sidecar["ConfoundRegressors"]


@pytest.mark.skipif(
    not (SHARED / "data" / "fmriprep_meta").is_dir(), reason="the file list of ds000208 is not part of the project"
)
def test_ds000208_is_discovered(tmp_path):
    meta = SHARED / "data" / "fmriprep_meta" / "ds000208-fmriprep"
    root = tmp_path / "ds000208-fmriprep"
    for line in (meta / "TREE.tsv").read_text().splitlines()[1:]:
        path = root / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if path.suffix == ".json" else "")  # a sidecar that is there and empty is refused
    (root / "dataset_description.json").write_bytes((meta / "dataset_description.json").read_bytes())
    done = run([str(root), str(tmp_path / "out"), "participant", "--dry-run"])
    assert done.returncode == 0, done.stderr
    ran = [line.split() for line in done.stdout.splitlines() if line.startswith("  run")]
    assert len(ran) == 76
    assert {words[2] for words in ran} == {"space-MNI152NLin2009cAsym"}
    assert all("desc-preproc" in words[-1] for words in ran)
    aroma = [line for line in done.stdout.splitlines() if "MNI152NLin6Asym_desc-smoothAROMAnonaggr" in line]
    assert len(aroma) == 76
    assert all("already denoised" in line for line in aroma)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------------- faults


def person(label: str, runs: int = 1) -> Person:
    return Person(label, "north", True, 50, "F", runs)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Six participants; each test copies what it breaks."""
    root = tmp_path_factory.mktemp("cohort")
    write_inputs(root, [person(f"0{i}") for i in range(1, 7)])
    return root


@pytest.fixture
def cohort(inputs, tmp_path):
    root = tmp_path / "cohort"
    shutil.copytree(inputs, root)
    return root


def wait_for_child_of(label: str, root: Path) -> int:
    """Return the number of a participant's child process as soon as it is there."""
    deadline = time.monotonic() + patience(60)
    while time.monotonic() < deadline:
        found = processes("bids_fmmtc.participant", str(root), f"/sub-{label}/task.json")
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no process for sub-{label} appeared")


def kill_child_of(label: str, root: Path) -> None:
    os.kill(wait_for_child_of(label, root), signal.SIGKILL)


def nothing_runs(root: Path) -> bool:
    """Wait for all processes of a cohort to be gone."""
    deadline = time.monotonic() + patience(15)
    while time.monotonic() < deadline:
        if not processes("bids_fmmtc", str(root)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("nprocs", [1, 2])
def test_four_broken_participants_cost_nobody_else(cohort, nprocs):
    data = bold(cohort, "01").read_bytes()
    bold(cohort, "01").write_bytes(data[: len(data) // 2])
    move_affine(bold(cohort, "02"), 90)
    move_affine(mask(cohort, "02"), 90)
    Path(f"{prefix(cohort, '03')}_desc-confounds_timeseries.tsv").unlink()
    process = start(command(cohort, "--nprocs", str(nprocs)))
    kill_child_of("04", cohort)
    stdout, stderr = process.communicate(timeout=patience(300))
    assert process.returncode == 1, stderr

    expected = {"01": "truncated", "02": "affine", "03": "confounds", "04": "killed by SIGKILL"}
    for label, reason in expected.items():
        (row,) = scans(cohort, label)
        assert row["fmmtc_status"] == "failed"
        assert reason in row["fmmtc_reason"]
        (line,) = [text for text in stdout.splitlines() if text.startswith(f"sub-{label}")]
        assert reason in line
    for label in ("05", "06"):
        (row,) = scans(cohort, label)
        assert row["fmmtc_status"] == "ok"
    assert validate(cohort / "out")[0] == 0

    # Another call runs the failed again, and only them; the killed one now works.
    bold(cohort, "01").write_bytes(data)
    again = run(command(cohort))
    assert again.returncode == 1
    assert "2 of 6 participants are done already" in again.stderr
    assert [scans(cohort, label)[0]["fmmtc_status"] for label in ("01", "04")] == ["ok", "ok"]


@pytest.mark.slow
def test_a_killed_worker_of_the_pool_costs_nobody(cohort):
    process = start(command(cohort, "--nprocs", "2"))
    child = wait_for_child_of("02", cohort)
    worker = int(Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=patience(120))
    assert process.returncode == 0, stderr  # a second pool did what the first left undone
    assert "A worker was killed" in stderr
    rows = [line for line in stdout.splitlines() if line.startswith("sub-")]
    assert len(rows) == 6
    assert all(" ok " in line for line in rows)


@pytest.mark.slow
@pytest.mark.parametrize("nprocs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_and_can_be_taken_up(cohort, nprocs, number):
    process = start(command(cohort, "--nprocs", str(nprocs)))
    wait_for_child_of("02", cohort)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=patience(60))
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in stderr
    assert nothing_runs(cohort)
    if number != signal.SIGKILL:
        assert not (cohort / "out" / "sub-06").exists()
    assert run(command(cohort)).returncode == 0


def test_two_runs_that_share_a_work_folder_do_not_mix(cohort):
    recipe = json.loads((cohort / "recipe.json").read_text())
    recipe["windows"]["stride"] = 40
    (cohort / "other.json").write_text(json.dumps(recipe))
    shared = ["-w", str(cohort / "work"), "--participant-label", "01", "02"]
    one = start([*command(cohort), *shared])
    two = start([*command(cohort, output="out2"), *shared, "--recipe", str(cohort / "other.json")])
    assert (one.wait(timeout=patience(120)), two.wait(timeout=patience(120))) == (0, 0)
    for output, windows in (("out", 3), ("out2", 5)):
        for label in ("01", "02"):
            (record,) = (cohort / output / f"sub-{label}" / "func").glob("*_features.json")
            assert len(read_features(record).windows) == windows


def test_two_runs_of_the_same_participants_end_well(cohort):
    words = command(cohort, "--participant-label", "01", "02")
    runs = [start(words) for _ in range(2)]
    assert [r.wait(timeout=patience(120)) for r in runs] == [0, 0]
    assert [scans(cohort, label)[0]["fmmtc_status"] for label in ("01", "02")] == ["ok", "ok"]


def test_a_changed_repetition_time_is_a_changed_input(cohort):
    words = command(cohort, "--participant-label", "01")
    assert run(words).returncode == 0
    sidecar = bold(cohort, "01").with_name(bold(cohort, "01").name.replace(".nii.gz", ".json"))
    sidecar.write_text(json.dumps({"RepetitionTime": 3.0}))
    assert run(words).returncode == 0
    (row,) = scans(cohort, "01")
    assert row["fmmtc_repetition_time"] == "3"
    assert "repetition_time_disagrees" in row["fmmtc_flags"]


def test_foreign_files_and_other_inputs_are_left_alone(cohort):
    (cohort / "out").mkdir()
    (cohort / "out" / "README.md").write_text("mine")
    done = run(command(cohort, "--participant-label", "01"))
    assert done.returncode == 73
    assert (cohort / "out" / "README.md").read_text() == "mine"
    (cohort / "out" / "README.md").unlink()
    assert run(command(cohort, "--participant-label", "01")).returncode == 0
    (cohort / "b").mkdir()
    shutil.copytree(cohort / "fmriprep", cohort / "b" / "fmriprep")
    words = command(cohort, "--participant-label", "02")
    done = run([str(cohort / "b" / "fmriprep"), *words[1:]])
    assert done.returncode == 73
    assert "another dataset called fmriprep" in done.stderr


def test_a_second_run_does_nothing_and_a_missing_file_is_made_again(cohort):
    words = command(cohort, "--participant-label", "01", "sub-02")
    assert run(words).returncode == 0
    first = content(cohort / "out")
    done = run(words)
    assert done.returncode == 0
    assert "2 of 2 participants are done already" in done.stderr
    victim = next((cohort / "out" / "sub-01" / "func").glob("*_relmat.tsv"))
    victim.unlink()
    done = run(words)
    assert "1 of 2 participants are done already" in done.stderr
    assert content(cohort / "out") == first

    # Without the work folder, features of equal digest are reused: their file is not written again.
    shutil.rmtree(cohort / "work-out")
    arrays = next((cohort / "out" / "sub-01" / "func").glob("*_features.safetensors"))
    stamp = arrays.stat().st_mtime_ns
    assert run(words).returncode == 0
    assert arrays.stat().st_mtime_ns == stamp
    # A changed input is not.
    shutil.copy(bold(cohort, "03"), bold(cohort, "01"))
    assert run(words).returncode == 0
    assert arrays.stat().st_mtime_ns != stamp


def test_another_recipe_into_the_same_folder_is_refused(cohort):
    assert run(command(cohort, "--participant-label", "01")).returncode == 0
    before = content(cohort / "out", but=())
    recipe = json.loads((cohort / "recipe.json").read_text())
    recipe["windows"]["stride"] = 50
    (cohort / "recipe.json").write_text(json.dumps(recipe))
    done = run(command(cohort, "--participant-label", "02"))
    assert done.returncode == 65
    assert "windows.stride: 80 there, 50 here" in done.stderr
    assert content(cohort / "out", but=()) == before


def test_the_input_is_never_written(cohort):
    for path in (cohort / "fmriprep").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = content(cohort / "fmriprep")
    assert run(command(cohort, "--participant-label", "01")).returncode == 0
    assert content(cohort / "fmriprep") == before
    assert run([str(cohort / "fmriprep"), str(cohort / "fmriprep"), "participant"]).returncode != 0
    assert content(cohort / "fmriprep") == before


def test_stop_on_first_crash_leaves_rows_for_those_not_reached(cohort):
    bold(cohort, "01").write_bytes(b"")
    done = run(command(cohort, "--stop-on-first-crash"))
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("sub-")]
    assert len(lines) == 6
    assert "not-run" in lines[-1]
    assert scans(cohort, "06")[0]["fmmtc_status"] == "failed"
    again = run(command(cohort))
    assert scans(cohort, "06")[0]["fmmtc_status"] == "ok", again.stderr


def test_a_plugin_file(cohort):
    (cohort / "plugin.yml").write_text("plugin: MultiProc\nplugin_args: {n_procs: 2, memory_gb: 4}\n")
    words = command(cohort, "--participant-label", "01", "02", "--nipype-plugin-file", str(cohort / "plugin.yml"))
    done = run(words)
    assert done.returncode == 0, done.stderr
    for text in ("just a string", "plugin: Nonsense"):
        (cohort / "bad.yml").write_text(text)
        done = run(command(cohort, "--nipype-plugin-file", str(cohort / "bad.yml"), output="other"))
        assert done.returncode == 64
        assert not (cohort / "other").exists()


# ------------------------------------------------------------------------------------------ sessions, runs and a model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two runs of one participant, one of another, and an untrained bundle."""
    root = tmp_path_factory.mktemp("model")
    write_inputs(root, [person("01", runs=2), person("02")])
    write_model(root / "model", root / "atlas-Demo")
    return root


@pytest.mark.slow
def test_runs_are_pooled_and_a_failed_run_is_flagged(model, tmp_path):
    root = tmp_path / "m"
    shutil.copytree(model, root)
    words = command(root, "--model", str(root / "model"))
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert "DEMO MODEL" in done.stderr
    (row,) = read_table(root / "out" / "sub-01" / "func" / "sub-01_task-rest_desc-fmmtc_prediction.tsv")
    assert row["fmmtc_n_windows"] == "6"
    assert row["fmmtc_qc"] == "demo_model"
    assert validate(root / "out") == (0, [])

    second = root / "fmriprep" / "sub-01" / "func"
    broken = next(second.glob("*run-2*bold.nii.gz"))
    broken.write_bytes(b"")
    done = run(words)
    assert done.returncode == 1
    (row,) = read_table(root / "out" / "sub-01" / "func" / "sub-01_task-rest_desc-fmmtc_prediction.tsv")
    assert row["fmmtc_n_windows"] == "3"
    assert "run_failed:sub-01_task-rest_run-2" in row["fmmtc_qc"]
    # The image has changed for certain, so what was made of it is stale: kept, and in no prediction.
    assert [r["fmmtc_status"] for r in scans(root, "01")] == ["ok", "stale"]
    assert list((root / "out" / "sub-01" / "func").glob("*run-2*features.safetensors"))


@pytest.mark.slow
def test_runs_of_different_repetition_times_are_not_pooled(model, tmp_path):
    root = tmp_path / "m"
    shutil.copytree(model, root)
    sidecar = next((root / "fmriprep" / "sub-01" / "func").glob("*run-2*bold.json"))
    sidecar.write_text(json.dumps({"RepetitionTime": 1.0}))
    done = run(command(root, "--model", str(root / "model"), "--participant-label", "01"))
    assert done.returncode == 1
    assert "differ in repetition time" in done.stdout
    assert [r["fmmtc_status"] for r in scans(root, "01")] == ["ok", "ok"]  # the features are there all the same
    (row,) = read_table(root / "out" / "sub-01" / "func" / "sub-01_task-rest_desc-fmmtc_prediction.tsv")
    assert row["fmmtc_probability"] == "n/a"


@pytest.mark.slow
def test_a_tampered_bundle_stops_the_run_before_any_work(model, tmp_path):
    root = tmp_path / "m"
    shutil.copytree(model, root)
    head = root / "model" / "head.safetensors"
    data = bytearray(head.read_bytes())
    data[-1] ^= 1
    head.write_bytes(data)
    done = run(command(root, "--model", str(root / "model")))
    assert done.returncode == 65
    assert "head.safetensors" in done.stderr
    assert not (root / "out").exists()


@pytest.mark.slow
def test_a_killed_participant_has_a_prediction_row(model, tmp_path):
    root = tmp_path / "m"
    shutil.copytree(model, root)
    process = start(command(root, "--model", str(root / "model")))
    kill_child_of("02", root)
    process.communicate(timeout=patience(300))
    assert process.returncode == 1
    (row,) = read_table(root / "out" / "sub-02" / "func" / "sub-02_task-rest_desc-fmmtc_prediction.tsv")
    assert row["fmmtc_probability"] == "n/a"
    assert "killed by SIGKILL" in row["fmmtc_qc"]
    (row,) = read_table(root / "out" / "sub-01" / "func" / "sub-01_task-rest_desc-fmmtc_prediction.tsv")
    assert row["fmmtc_probability"] != "n/a"
    assert validate(root / "out")[0] == 0


def variant(source: Path, target: Path, **changes) -> None:
    """Save a bundle again with another card or recipe, its weights unchanged."""
    old = load_bundle(source)
    card = changes.get("card", dict(old.card))
    save_bundle(
        target,
        recipe=changes.get("recipe", old.recipe),
        shapes=old.shapes,
        head_spec=old.head,
        head=changes.get("head", load_file(source / "head.safetensors")),
        calibration=old.calibration,
        card=card,
        encoders={"brainlm": source / "encoders" / "brainlm"},
        include_encoders=True,
    )


@pytest.mark.slow
def test_a_target_repetition_time_lets_runs_be_pooled(model, tmp_path):
    root = tmp_path / "m"
    shutil.copytree(model, root)
    sidecar = next((root / "fmriprep" / "sub-01" / "func").glob("*run-2*bold.json"))
    sidecar.write_text(json.dumps({"RepetitionTime": 3.0}))
    recipe = replace(load_bundle(root / "model").recipe, target_repetition_time=2.0)
    variant(root / "model", root / "resampling", recipe=recipe)
    done = run(command(root, "--model", str(root / "resampling"), "--participant-label", "01"))
    assert done.returncode == 0, done.stdout
    (row,) = read_table(root / "out" / "sub-01" / "func" / "sub-01_task-rest_desc-fmmtc_prediction.tsv")
    assert row["fmmtc_n_windows"] == "7"  # 260 frames of 2 s, and of 3 s made 390 of 2 s
    record = json.loads(next((root / "out" / "sub-01" / "func").glob("*run-2*_features.json")).read_text())
    assert record["Resampled"] is True
    assert record["WindowRepetitionTime"] == 2.0


@pytest.mark.slow
def test_another_bundle_in_the_same_place_predicts_anew(model, tmp_path):
    root = tmp_path / "m"
    shutil.copytree(model, root)
    words = command(root, "--model", str(root / "model"), "--participant-label", "02")
    assert run(words).returncode == 0
    sidecar = root / "out" / "sub-02" / "func" / "sub-02_task-rest_desc-fmmtc_prediction.json"
    before = json.loads(sidecar.read_text())
    arrays = next(sidecar.parent.glob("*_features.safetensors"))
    stamp = arrays.stat().st_mtime_ns
    head = load_file(root / "model" / "head.safetensors")
    (last,) = [name for name in head if name.endswith("bias")]
    variant(root / "model", root / "next", head={**head, last: head[last] + 1})
    shutil.rmtree(root / "model")
    (root / "next").rename(root / "model")
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert "another model" in done.stderr
    after = json.loads(sidecar.read_text())
    assert after["BundleDigest"] != before["BundleDigest"]
    assert after["PerWindow"] != before["PerWindow"]
    assert arrays.stat().st_mtime_ns == stamp  # a new head never reads the image again


@pytest.mark.slow
def test_a_bundle_run_under_another_space_rule_says_so(model, tmp_path):
    root = tmp_path / "m"
    shutil.copytree(model, root)
    words = command(root, "--model", str(root / "model"), "--participant-label", "02")
    done = run([*words, "--on-space-mismatch", "fail"])
    assert done.returncode == 0, done.stderr
    assert "recipe_differs" in done.stdout
