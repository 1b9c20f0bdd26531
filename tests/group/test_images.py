"""Images behind features, opened again by the group level."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
from neurostorm_parts import random_model, write_encoder

from bids_fmmtc.cli import parse
from bids_fmmtc.dataset.store import read_features
from bids_fmmtc.errors import DataError, MissingInputError
from bids_fmmtc.group.scans import scans_of
from bids_fmmtc.keys import Key
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.explaining.attribution import VOLUMES
from bids_fmmtc.learning.explaining.explain import Explainer, mean_features
from bids_fmmtc.learning.explaining.paths import VolumePath
from bids_fmmtc.modalities import load_modality
from bids_fmmtc.modalities.neurostorm_config import NeuroStormConfig
from bids_fmmtc.recipe import ModalitySpec, Recipe, Windows
from bids_fmmtc.synthetic import Person

pytestmark = pytest.mark.slow
LABEL, KEY = "01", "sub-01_task-rest"
# Clips of 16 s, on a coarse grid: a gradient takes a second.
CONFIG = NeuroStormConfig(
    (24, 24, 24, 20), 1, (4, 4, 4, 1), 4, (1, 1), (3, 3, 3, 4), (3, 3, 3, 4), 2, last_layer_full_MSA=False
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Features of one participant by a small encoder of volumes, its image beside them."""
    root = tmp_path_factory.mktemp("images")
    small.write_inputs(root, [Person(LABEL, "north", True, 50, "F")])
    recipe = Recipe.read(root / "recipe.json")
    modalities = (ModalitySpec("neurostorm"), ModalitySpec("fc"))
    recipe = replace(recipe, modalities=modalities, windows=Windows(40, 40, short_least=40))
    (root / "recipe.json").write_text(json.dumps(recipe.to_json()))
    write_encoder(root / "weights" / "neurostorm", random_model(CONFIG))
    done = small.run([*small.command(root), "--encoder-weights", str(root / "weights")])
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def opened(root, *words):
    settings = parse([str(root / "fmriprep"), str(root / "out"), "group", *words], {})
    scans = scans_of([root / "out"], settings)
    (recipe,) = scans.recipes.values()
    (spec,) = (m for m in recipe.modalities if m.name == "neurostorm")
    return scans, load_modality(spec, recipe, root / "weights" / "neurostorm")


def test_the_vectors_are_those_of_the_features_to_the_bit(root):
    scans, encoder = opened(root)
    (path,) = (root / "out").rglob("*_features.json")
    cached = read_features(path).arrays["neurostorm"]
    np.testing.assert_array_equal(scans.encoded(KEY, encoder), cached)
    other = scans.encoded(KEY, encoder.untrained(1))
    assert other.shape == cached.shape
    assert np.abs(other - cached).max() > 1e-3


def test_the_clips_of_windows_and_the_parcels_in_them(root):
    scans, encoder = opened(root)
    assert not scans.lacking(encoder, [KEY])
    windows = scans.inputs(KEY, encoder)
    (path,) = (root / "out").rglob("*_features.json")
    cached = read_features(path).arrays["neurostorm"]
    assert len(windows) == len(cached) > 1
    assert windows[0].clips.shape[1:] == (20, 24, 24, 24)
    assert set(np.unique(windows[0].labels)) <= set(range(49))
    assert (windows[0].labels > 0).any()
    # Parcels lie where the brain is: what never changes is background.
    moving = np.ptp(windows[0].clips, axis=(0, 1)) > 0
    assert moving[windows[0].labels > 0].mean() > 0.9
    (one,) = scans.inputs(KEY, encoder, 1)
    np.testing.assert_array_equal(one.clips, windows[0].clips)


def test_people_are_explained_down_to_voxels_from_the_image(root):
    scans, encoder = opened(root)
    (path,) = (root / "out").rglob("*_features.json")
    arrays = {name: array[:1] for name, array in read_features(path).arrays.items()}
    torch.manual_seed(0)
    shapes = {name: array.shape[1:] for name, array in arrays.items()}
    head = build_head({"kind": "linear", "outputs": 2, "modalities": list(shapes)}, shapes).eval()
    with torch.no_grad():
        head.weights["neurostorm"].normal_()
    base = mean_features({name: [0 * array] for name, array in arrays.items()})
    explainer = Explainer(head, base, paths=(VolumePath(encoder, 48),), steps=2, most_steps=2)
    # The encoder's checksum is known: what it makes of these clips must be what the features hold.
    inputs = {"neurostorm": scans.inputs(KEY, encoder, 1)}
    found = explainer.explain(KEY, arrays, inputs)
    assert found.volumes.shape == found.inputs[VOLUMES].shape == (48,)
    assert np.count_nonzero(found.volumes) > 24
    assert found.parts["neurostorm"] != pytest.approx(
        found.volumes.sum()
    )  # there is brain outside of the demo's parcels
    with pytest.raises(DataError, match="differs from the cached one"):
        explainer.explain(
            KEY, {**arrays, "neurostorm": -arrays["neurostorm"]}, {"neurostorm": scans.inputs(KEY, encoder, 1)}
        )


def test_an_image_that_changed_or_went_is_not_taken_for_it(root, tmp_path):
    for name in ("fmriprep", "weights", "out", "atlas-Demo"):
        shutil.copytree(root / name, tmp_path / name)
    description = tmp_path / "out" / "dataset_description.json"
    links = json.loads(description.read_text())
    links["DatasetLinks"] = {}
    description.write_text(json.dumps(links))
    scans, encoder = opened(tmp_path)
    assert not scans.lacking(encoder, [KEY])
    image = small.bold(tmp_path, LABEL)
    image.write_bytes(image.read_bytes() + b"\0" * 8)
    assert "not those that the features were made of" in scans.lacking(encoder, [KEY])
    with pytest.raises(DataError, match="Run the participant level again"):
        scans.encoded(KEY, encoder)
    image.unlink()
    assert scans.lacking(encoder, [KEY])
    without, _ = scans_of([tmp_path / "out"]), None
    with pytest.raises(MissingInputError, match="not at hand"):
        without.encoded(KEY, encoder)
    assert Key(KEY).of_session == KEY
    with pytest.raises(DataError, match="session sub-99 has no recording"):
        scans.encoded("sub-99", encoder)
