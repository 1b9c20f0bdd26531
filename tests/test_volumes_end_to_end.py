"""Whole runs with an encoder of volumes, started as a user starts them, on small images."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from modalities.neurostorm_parts import SMALL, random_model, write_encoder
from patience import patience
from small import bold, command, content, mask, prefix, processes, run, run_fresh, scans, start, validate, write_inputs
from volumes_parts import make_features

from bids_fmmtc.dataset.store import read_features
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.synthetic import Person

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two participants, a recipe file that names the encoder, and a small encoder of random weights."""
    root = tmp_path_factory.mktemp("volumes")
    write_inputs(root, [Person("01", "north", True, 50, "F"), Person("02", "south", False, 40, "M")])
    recipe = Recipe.read(root / "recipe.json")
    recipe = replace(recipe, modalities=(ModalitySpec("neurostorm"), ModalitySpec("fc")))
    (root / "recipe.json").write_text(json.dumps(recipe.to_json()))
    write_encoder(root / "weights" / "neurostorm", random_model())
    return root


@pytest.fixture(scope="module")
def first(inputs):
    done = run_fresh([*command(inputs), "--encoder-weights", str(inputs / "weights")])
    assert done.returncode == 0, done.stdout + done.stderr
    return inputs / "out"


def features(output, label):
    (path,) = output.glob(f"sub-{label}/func/*_features.json")
    return read_features(path), json.loads(path.read_text())


def test_features_hold_a_vector_a_window(first):
    found = [features(first, label) for label in ("01", "02")]
    for arrays, record in found:
        w = len(arrays.windows)
        assert w > 1
        assert arrays.arrays["neurostorm"].shape == (w, SMALL.width)
        assert arrays.arrays["fc"].shape == (w, 48, 48)
        assert np.isfinite(arrays.arrays["neurostorm"]).all()
        assert record["Modalities"]["neurostorm"] == {"Shape": [SMALL.width]}
    one, two = (arrays.arrays["neurostorm"] for arrays, _ in found)
    assert np.abs(one - two).max() > 1e-4
    assert np.abs(one[0] - one[1]).max() > 1e-6


def test_the_dataset_is_valid_bids(first):
    code, issues = validate(first)
    assert code == 0, issues


def test_again_by_two_processes_gives_the_same_bytes(inputs, first):
    done = run([*command(inputs, output="again"), "--encoder-weights", str(inputs / "weights"), "--nprocs", "2"])
    assert done.returncode == 0, done.stdout + done.stderr
    for label in ("01", "02"):
        (one,), (two,) = ((inputs / o).glob(f"sub-{label}/func/*_features.safetensors") for o in ("out", "again"))
        assert one.read_bytes() == two.read_bytes()


def far_in(pid, path, passes):
    """Wait until a process that reads a file for the so-manieth time is past its middle."""
    deadline, seen, open_ = time.monotonic() + patience(120), 0, False
    while time.monotonic() < deadline:
        place = None
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                if link.readlink() == path:
                    place = int((link.parents[1] / "fdinfo" / link.name).read_text().split()[1])
            except OSError:
                continue
        seen, open_ = seen + (place is not None and not open_), place is not None
        if seen == passes and place is not None and place > path.stat().st_size / 2:
            return
        time.sleep(0.001)
    raise AssertionError(f"{path.name} was read {seen} times, not {passes}")


def test_killed_while_clips_stream_and_started_again_it_gives_the_same_bytes(inputs, first):
    """The second pass over the image is that of the clips; nothing of the recording is there yet."""
    words = [*command(inputs, output="killed"), "--encoder-weights", str(inputs / "weights")]
    process = start(words)
    deadline = time.monotonic() + patience(60)
    while not (child := processes("bids_fmmtc.participant", str(inputs / "work-killed"), "/sub-01/task.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    far_in(child[0], bold(inputs, "01"), passes=2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=patience(60))
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + patience(15)
    while processes("bids_fmmtc", str(inputs / "work-killed")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list((inputs / "killed").rglob("*_features.*"))
    done = run(words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert content(inputs / "killed") == content(first)


def test_a_truncated_image_costs_its_own_row_only(inputs, first):
    path = bold(inputs, "02")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        done = run([*command(inputs, output="cut"), "--encoder-weights", str(inputs / "weights")])
    finally:
        path.write_bytes(whole)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [scans(inputs, label, "cut")[0]["fmmtc_status"] for label in ("01", "02")] == ["ok", "failed"]
    (one,), (two,) = ((inputs / o).glob("sub-01/func/*_features.safetensors") for o in ("out", "cut"))
    assert one.read_bytes() == two.read_bytes()


def test_nothing_is_written_beside_the_inputs(inputs, first):
    assert content(inputs / "weights").keys() == {"neurostorm/config.json", "neurostorm/model.safetensors"}


def test_series_are_refused_before_any_work(inputs, tmp_path):
    words = [str(inputs / "fmriprep"), str(tmp_path / "none"), "participant", "--timeseries", str(inputs / "out")]
    done = run([*words, "--recipe", str(inputs / "recipe.json")])
    assert done.returncode == 65
    assert "asks for neurostorm, which reads volumes" in done.stderr
    assert not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------------- recordings that are hard to use


def change(path, how, *, seconds=2.0):
    """Write an image anew with other values; the file is put in place of a link or a copy."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    other = nib.Nifti1Image(how(np.asanyarray(image.dataobj)), image.affine)
    other.header.set_xyzt_units("mm", "sec")
    if other.ndim == 4:
        other.header.set_zooms((*image.header.get_zooms()[:3], seconds))
    path.write_bytes(gzip.compress(other.to_bytes(), 1, mtime=0))


def copied(root, label, session=None):
    """Give the files of participant 01 to another one; returns the prefix of the copies' names."""
    func, name = root / "fmriprep" / f"sub-{label}", f"sub-{label}"
    func, name = (func / f"ses-{session}", f"{name}_ses-{session}") if session else (func, name)
    (func / "func").mkdir(parents=True)
    for path in (root / "fmriprep" / "sub-01" / "func").iterdir():
        shutil.copy(path, func / "func" / path.name.replace("sub-01", name))
    return name


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """Short recordings: a good one of 60 frames, and others with one thing wrong each."""
    root = tmp_path_factory.mktemp("hard")
    write_inputs(root, [Person("01", "north", True, 50, "F")])
    change(bold(root, "01"), lambda data: data[..., :60])
    table = Path(f"{prefix(root, '01')}_desc-confounds_timeseries.tsv")
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:61]))
    for label in ("flat", "one", "notr", "nomask", "empty", "offgrid", "still"):
        copied(root, label)
    for session in ("a", "b"):
        copied(root, "two", session)
    change(bold(root, "flat"), lambda data: data[:, :, 16, 0])
    change(bold(root, "one"), lambda data: data[..., :1])
    change(bold(root, "notr"), lambda data: data, seconds=0.0)
    bold(root, "notr").with_name(bold(root, "notr").name.replace(".nii.gz", ".json")).write_text("{}")
    mask(root, "nomask").unlink()
    change(mask(root, "empty"), np.zeros_like)
    change(mask(root, "offgrid"), lambda data: data[1:])
    change(bold(root, "still"), lambda data: np.repeat(data[..., :1], 60, axis=3))
    recipe = Recipe.read(root / "recipe.json")
    recipe = replace(recipe, modalities=(ModalitySpec("neurostorm"), ModalitySpec("fc")))
    for name, length, stride in (("recipe", 30, 30), ("brief", 2, 1)):
        windows = replace(recipe.windows, length=length, stride=stride)
        (root / f"{name}.json").write_text(json.dumps(replace(recipe, windows=windows).to_json()))
    write_encoder(root / "weights" / "neurostorm", random_model())
    make_features(root)
    return root


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("flat", "image: .* has shape (34, 40), expected four dimensions with several frames"),
        ("one", "image: .* has shape (34, 40, 33), expected four dimensions with several frames"),
        ("notr", "repetition-time: .* neither its sidecar nor its header tells the repetition time. Add"),
        (
            "empty",
            "coverage: .* has only 0 voxels on the encoder's grid inside its brain mask (0 of its own)",
        ),
        ("offgrid", "its brain mask lie on different grids"),
        ("still", "coverage: 48 of 48 parcels hold no signal"),
    ],
)
def test_an_image_whose_volumes_cannot_be_used_costs_its_own_row(hard, label, words):
    (row,) = scans(hard, label)
    assert row["fmmtc_status"] == "failed"
    for part in words.split(".*"):
        assert part.strip() in row["fmmtc_reason"]
    assert not list((hard / "out" / f"sub-{label}").rglob("*.safetensors"))
    assert not list((hard / "out" / "logs").glob("crash-*"))


def test_the_others_have_features_without_a_mask_too(hard):
    for label in ("01", "nomask"):
        arrays, _ = features(hard / "out", label)
        assert arrays.arrays["neurostorm"].shape == (2, SMALL.width)
    with_, without = (features(hard / "out", label)[0].arrays["neurostorm"] for label in ("01", "nomask"))
    assert np.abs(with_ - without).max() > 1e-6  # without a mask a voxel is brain where it is not 0


def test_sessions_have_volumes_of_their_own(hard):
    one, _ = features(hard / "out", "01")
    for session in "ab":
        (path,) = (hard / "out" / "sub-two" / f"ses-{session}").rglob("*_features.json")
        np.testing.assert_array_equal(read_features(path).arrays["neurostorm"], one.arrays["neurostorm"])


def test_a_window_without_a_clip_refuses_the_recording_with_a_way_out(hard):
    """Windows of 4 s that begin every 2 s, clips of 4 s that follow each other: every second window holds none."""
    make_features(hard, "--participant-label", "01", output="brief", recipe="brief.json")
    (row,) = scans(hard, "01", "brief")
    assert row["fmmtc_status"] == "failed"
    assert "29 of 59 windows hold no whole clip of 5 frames at 0.8 s" in row["fmmtc_reason"]
    assert "Use longer windows, a recipe without volumes, or exclude the recording." in row["fmmtc_reason"]
