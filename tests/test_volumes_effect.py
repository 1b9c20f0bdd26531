"""An effect that only volumes can show: inside parcels, cancelling in their means. Real images, the real levels.

In responders one half of each planted parcel's voxels is brighter, waxing and waning, and the other half darker by the
same: to the last bit nothing of it is left in the parcel's mean, so nothing in time series or connectivity.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from modalities.neurostorm_parts import random_model, write_encoder
from nilearn.datasets import load_mni152_brain_mask
from safetensors.torch import save_file
from volumes_parts import make_features

from bids_fmmtc import synthetic
from bids_fmmtc.cli import main
from bids_fmmtc.dataset.store import write_json, write_table
from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig
from bids_fmmtc.modalities.neurostorm_config import NeuroStormConfig
from bids_fmmtc.recipe import AtlasSpec, Connectivity, ModalitySpec, Recipe, Windows
from bids_fmmtc.signals.atlas import read_atlas

pytestmark = pytest.mark.slow

PEOPLE, FRAMES, TR = 40, 40, 2.0
# Voxels of 6 mm, as the images have; clips of 16 s.
VOLUMES = NeuroStormConfig(
    (32, 32, 32, 20), 1, (4, 4, 4, 1), 8, (1, 1), (4, 4, 4, 4), (4, 4, 4, 4), 2, last_layer_full_MSA=False
)
SERIES = {**synthetic.ENCODER, "num_timepoints_per_voxel": FRAMES, "initializer_range": 0.2}
LEVEL, EFFECT = 1000, 60


def halves(labels):
    """Return +1 and -1 in equally many voxels of each planted parcel, along the first axis, and 0 elsewhere."""
    sign = np.zeros(labels.shape, np.int16)
    for parcel in synthetic.PLANTED:
        where = np.argwhere(labels == parcel + 1)  # in the order of x
        half = len(where) // 2
        sign[tuple(where[:half].T)], sign[tuple(where[-half:].T)] = 1, -1
    return sign


def volumes(person, labels, brain, *, responder):
    """Return (X, Y, Z, T) int16; a person has the same noise whether he responds or not."""
    rng = np.random.default_rng([77, person])
    shared, own = rng.standard_normal((FRAMES, 3)), rng.standard_normal((FRAMES, synthetic.N_PARCELS))
    series = 0.6 * shared[:, np.arange(synthetic.N_PARCELS) % 3] + own
    size = rng.uniform(0.6, 1.4)
    slow = np.cumsum(rng.standard_normal(FRAMES))
    amount = np.rint(EFFECT * size * (1 + 0.4 * (slow - slow.mean()) / slow.std())).astype(np.int16)
    signal = np.concatenate([np.zeros((FRAMES, 1)), series], axis=1)[:, labels]  # (T, X, Y, Z)
    noise = rng.standard_normal((FRAMES, *labels.shape), dtype=np.float32)
    level = LEVEL * rng.uniform(0.9, 1.1) * rng.uniform(0.9, 1.1, labels.shape)
    data = np.where(brain, np.rint(level * (1 + 0.01 * signal) + 10 * noise), 0).astype(np.int16)
    if responder:
        data = data + amount[:, None, None, None] * halves(labels)
    return np.moveaxis(data, 0, -1)


def write_person(root, i, atlas, brain, *, responder):
    func = root / f"sub-{i:02d}" / "func"
    func.mkdir(parents=True)
    stem = func / f"sub-{i:02d}_task-rest"
    image = nib.Nifti1Image(volumes(i, atlas.labels, brain, responder=responder), atlas.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((6, 6, 6, TR))
    bold = f"{stem}_space-{synthetic.SPACE}_desc-preproc_bold"
    Path(f"{bold}.nii.gz").write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))
    Path(f"{bold}.json").write_text(json.dumps({"RepetitionTime": TR}))
    mask = nib.Nifti1Image(brain.astype(np.uint8), atlas.affine)
    nib.save(mask, f"{stem}_space-{synthetic.SPACE}_desc-brain_mask.nii.gz")
    rng = np.random.default_rng([78, i])
    rows = [{"framewise_displacement": round(float(rng.gamma(4, 0.03)), 4) if t else None} for t in range(FRAMES)]
    write_table(func / f"{stem.name}_desc-confounds_timeseries.tsv", ("framewise_displacement",), rows)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Images, encoders and features of all people, by the steps of the participant level in this process."""
    root = tmp_path_factory.mktemp("inside")
    synthetic.write_atlas(root / "atlas-Demo")
    atlas = read_atlas(root / "atlas-Demo")
    brain = np.asarray(load_mni152_brain_mask(resolution=synthetic.GRID_MM).dataobj) > 0
    synthetic.write_cohort(root / "fmriprep", root / "atlas-Demo", [])
    rng = np.random.default_rng(9)
    responds = rng.permutation(np.arange(PEOPLE) % 2)
    for i in range(PEOPLE):
        write_person(root / "fmriprep", i, atlas, brain, responder=bool(responds[i]))
    rows = [{"participant_id": f"sub-{i:02d}", "responder": int(responds[i])} for i in range(PEOPLE)]
    write_table(root / "fmriprep" / "participants.tsv", ("participant_id", "responder"), rows)

    torch.manual_seed(0)
    write_json(root / "weights" / "brainlm" / "config.json", SERIES)
    save_file(BrainLM(BrainLMConfig.from_json(SERIES)).state_dict(), root / "weights" / "brainlm" / "model.safetensors")
    write_encoder(root / "weights" / "neurostorm", random_model(VOLUMES))
    recipe = Recipe(
        atlas=AtlasSpec(atlas.name, atlas.sha256, atlas.n_parcels), connectivity=Connectivity(frames="all"),
        windows=Windows(FRAMES, FRAMES, short_least=FRAMES),
        modalities=tuple(map(ModalitySpec, ("brainlm", "neurostorm", "fc"))),
    )  # fmt: skip
    write_json(root / "recipe.json", recipe.to_json())
    make_features(root)
    return root


@pytest.fixture(scope="module")
def found(cohort):
    """Content of ``evaluation.json``, with the default head and scheme, two repeats."""
    words = [cohort / "fmriprep", cohort / "out", "group", "-w", cohort / "work", "--omp-nthreads", "1"]
    words += ["--outcome", "responder", "--repeats", "2", "--permutations", "0", "--no-explanation"]
    assert main([*map(str, words)]) == 0
    return json.loads((cohort / "out" / "group" / "responder_linear" / "evaluation.json").read_text())


def test_nothing_of_it_is_in_the_means_of_parcels(cohort):
    atlas = read_atlas(cohort / "atlas-Demo")
    ones = np.ones(atlas.labels.shape, bool)
    planted, without = (volumes(3, atlas.labels, ones, responder=r) for r in (True, False))
    assert np.abs(planted.astype(int) - without).max() > EFFECT / 2
    for parcel in range(1, synthetic.N_PARCELS + 1):
        inside = atlas.labels == parcel
        np.testing.assert_array_equal(planted[inside].sum(axis=0, dtype=int), without[inside].sum(axis=0, dtype=int))


def test_volumes_find_it_and_neither_time_series_nor_connectivity_do(found):
    area = {
        name: model["metrics"]["auroc_within"] for name, model in found["models"].items() if model["status"] == "ok"
    }
    for name in ("v_only", "tv_only", "vc_only", "model"):
        assert area[name]["value"] >= 0.85
        assert area[name]["low"] > 0.5
    for name in ("t_only", "c_only", "tc_only", "amplitude"):
        assert area[name]["low"] < 0.5 < area[name]["high"]


def test_the_ablation_names_volumes(found):
    said = " ".join(found["verdicts"])
    assert "Volumes predict the outcome on their own; time series and connectivity alone are not shown to" in said
