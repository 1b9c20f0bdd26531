"""Whole runs with an encoder of volumes, started as a user starts them, on small images."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from neurostorm_parts import SMALL, random_model, write_encoder
from small import bold, command, content, run, scans, validate, write_inputs

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
    done = run([*command(inputs), "--encoder-weights", str(inputs / "weights")])
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
