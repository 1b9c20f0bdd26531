"""The demo's synthetic inputs: an atlas, a cohort as a fMRIPrep derivative, an encoder of random weights, a recipe.

Nothing here comes from a person. Participants are at two sites; in responders one group of parcels is coupled more
tightly and swings more slowly; one participant's image is cut off, to show what a failure looks like. All of it is
drawn from fixed seeds: writing it twice gives the same files.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc import __version__
from bids_fmmtc.dataset.store import write_bytes, write_json, write_table
from bids_fmmtc.keys import Key
from bids_fmmtc.plain import Cells, Object
from bids_fmmtc.recipe import AtlasSpec, ModalitySpec, Recipe, SpaceSpec, Windows
from bids_fmmtc.signals.atlas import read_atlas

SPACE = "MNI152NLin2009aSym"  # the template that nilearn ships
ATLAS = "Demo"
GRID_MM = 6
N_PARCELS = 48
N_FRAMES = 260
TR = 2.0
WINDOW, STRIDE = 100, 80
PLANTED = tuple(range(0, N_PARCELS, 4))  # parcels in which responders differ
BROKEN = "12"


@dataclass(frozen=True, slots=True)
class Person:
    """One synthetic participant."""

    label: str
    site: str
    responder: bool
    age: int
    sex: str
    runs: int = 1


def cohort(n: int = 12, first: int = 1) -> list[Person]:
    """Return ``n`` participants numbered from ``first``; sites and response balanced where ``n`` is a multiple of 4.

    Numbers seed the signal, so people of other numbers are other people. Number 1 has two runs.
    """
    return [
        Person(
            label=f"{first + i:02d}",
            site="north" if i % 2 == 0 else "south",
            responder=(i // 2) % 2 == 0,
            age=35 + (7 * i) % 40,
            sex="FM"[(i // 3) % 2],
            runs=2 if first + i == 1 else 1,
        )
        for i in range(n)
    ]


# --------------------------------------------------------------------------------------------------------------- atlas


def write_atlas(folder: Path) -> None:
    """Write a parcellation of the grey matter of nilearn's bundled template: a BIDS atlas folder."""
    import nibabel as nib  # noqa: PLC0415
    from nilearn.datasets import load_mni152_gm_mask  # noqa: PLC0415

    mask = load_mni152_gm_mask(resolution=GRID_MM, threshold=0.3)
    inside = np.argwhere(np.asarray(mask.dataobj) > 0)
    world = inside @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    labels = np.zeros(mask.shape, np.int16)
    labels[tuple(inside.T)] = _clusters(world) + 1
    stem = folder / f"tpl-{SPACE}_atlas-{ATLAS}_res-{GRID_MM}_dseg"
    image = nib.Nifti1Image(labels, mask.affine)
    image.header.set_xyzt_units("mm")
    write_bytes(stem.with_suffix(".nii.gz"), gzip.compress(image.to_bytes(), mtime=0))
    rows = []
    for i in range(N_PARCELS):
        x, y, z = world[labels[tuple(inside.T)] == i + 1].mean(0).round(1)
        side = "L" if x < 0 else "R"
        network = "planted" if i in PLANTED else ("anterior" if y > 0 else "posterior")
        rows.append({"index": i + 1, "name": f"{side}{i + 1:02d}", "x": x, "y": y, "z": z, "network": network})
    write_table(stem.with_suffix(".tsv"), ("index", "name", "x", "y", "z", "network"), rows)
    write_json(stem.with_suffix(".json"), {"Description": "Synthetic parcellation for demonstration only."})


def _clusters(points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Divide points (N, 3) into compact parcels: k-means from a seeded start."""
    rng = np.random.default_rng(0)
    centres = points[rng.choice(len(points), N_PARCELS, replace=False)]
    nearest = np.zeros(len(points), np.intp)
    for _ in range(25):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        filled = [k for k in range(N_PARCELS) if (nearest == k).any()]
        centres[filled] = [points[nearest == k].mean(0) for k in filled]
    return nearest


# -------------------------------------------------------------------------------------------------------------- signal


def parcel_series(person: Person, run: int) -> NDArray[np.float64]:
    """Return (T, R) synthetic parcel series; responders' planted parcels share a slow source."""
    rng = np.random.default_rng([int(person.label), run])
    sources = _smooth(rng.standard_normal((N_FRAMES, 4)), 0.6)
    series = 0.5 * sources[:, np.arange(N_PARCELS) % 3] + 0.9 * _smooth(rng.standard_normal((N_FRAMES, N_PARCELS)), 0.4)
    if person.responder:
        slow = _smooth(rng.standard_normal((N_FRAMES, 1)), 0.9)
        series[:, list(PLANTED)] = 0.6 * series[:, list(PLANTED)] + 0.9 * slow
    return series


def _smooth(noise: NDArray[np.float64], memory: float) -> NDArray[np.float64]:
    """Return a first-order autoregression (T, ...) of unit variance."""
    out = noise.copy()
    for t in range(1, len(out)):
        out[t] = memory * out[t - 1] + np.sqrt(1 - memory**2) * noise[t]
    return out


def write_recording(person: Person, run: int, root: Path, atlas_folder: Path) -> None:
    """Write one recording as fMRIPrep would: image, mask, sidecar, confounds."""
    import nibabel as nib  # noqa: PLC0415
    from nilearn.datasets import load_mni152_brain_mask  # noqa: PLC0415

    atlas = read_atlas(atlas_folder)
    brain = np.asarray(load_mni152_brain_mask(resolution=GRID_MM).dataobj) > 0
    rng = np.random.default_rng([int(person.label), run, 1])
    gain = 1.0 if person.site == "north" else 1.1  # scanners differ in scale
    level = rng.uniform(800, 1200, brain.shape) * gain * brain
    series = parcel_series(person, run)
    data = np.zeros((*brain.shape, N_FRAMES), np.int16)
    for t in range(N_FRAMES):
        signal = np.concatenate([[0.0], series[t]])[atlas.labels]
        frame = level * (1 + 0.01 * signal) + 4 * rng.standard_normal(brain.shape)
        data[..., t] = np.where(brain, frame, 0)
    folder = root / f"sub-{person.label}" / "func"
    key = Key.of(person.label, task="rest", run=str(run) if person.runs > 1 else None)
    stem = folder / f"{key}_space-{SPACE}_desc-preproc_bold"
    image = nib.Nifti1Image(data, atlas.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], TR))
    packed = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    write_bytes(stem.with_suffix(".nii.gz"), packed[: len(packed) // 2] if person.label == BROKEN else packed)
    write_json(stem.with_suffix(".json"), {"RepetitionTime": TR, "TaskName": "rest", "SkullStripped": False})
    mask = nib.Nifti1Image(brain.astype(np.uint8), atlas.affine)
    write_bytes(folder / f"{key}_space-{SPACE}_desc-brain_mask.nii.gz", gzip.compress(mask.to_bytes(), mtime=0))
    _write_confounds(folder / f"{key}_desc-confounds_timeseries.tsv", rng)


def _write_confounds(path: Path, rng: np.random.Generator) -> None:
    steps = rng.normal(0, 0.02, (N_FRAMES, 6)) * np.array([1, 1, 1, 0.002, 0.002, 0.002])
    motion = steps.cumsum(0)
    fd = np.abs(steps[:, :3]).sum(1) + 50 * np.abs(steps[:, 3:]).sum(1)
    names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    rows: list[Cells] = []
    for t in range(N_FRAMES):
        row = dict(zip(names, motion[t].tolist(), strict=True))
        rows.append(
            row | {"framewise_displacement": fd[t] if t else None, "std_dvars": 1 + 0.1 * rng.standard_normal()}
        )
    write_table(path, ("framewise_displacement", "std_dvars", *names), rows)


# -------------------------------------------------------------------------------------------------------------- cohort


def write_cohort(root: Path, atlas_folder: Path, people: Sequence[Person], *, outcome: bool = True) -> None:
    """Write the derivative dataset with its ``participants.tsv``; ``responder`` is its outcome column.

    Without ``outcome`` the column is left out, as of patients who are not treated yet.
    """
    write_json(
        root / "dataset_description.json",
        {
            "Name": "Synthetic cohort of bids_fmmtc-demo",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "License": "CC0",
            "Authors": ["bids_fmmtc-demo", "nobody"],
            "GeneratedBy": [{"Name": "bids_fmmtc-demo", "Version": __version__, "Description": "Synthetic data"}],
        },
    )
    rows: list[Cells] = [
        {"participant_id": f"sub-{p.label}", "site": p.site, "age": p.age, "sex": p.sex, "responder": int(p.responder)}
        for p in people
    ]
    columns = ("participant_id", "site", "age", "sex", *(["responder"] if outcome else []))
    write_table(root / "participants.tsv", columns, [{name: row[name] for name in columns} for row in rows])
    for person in people:
        for run in range(1, person.runs + 1):
            write_recording(person, run, root, atlas_folder)


# --------------------------------------------------------------------------------------------------- encoder and recipe


def write_encoder(folder: Path) -> None:
    """Write a small BrainLM encoder of random weights: ``config.json`` and ``model.safetensors``."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save  # noqa: PLC0415

    from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig  # noqa: PLC0415

    torch.manual_seed(0)
    write_json(folder / "config.json", ENCODER)
    write_bytes(folder / "model.safetensors", save(BrainLM(BrainLMConfig.from_json(ENCODER)).state_dict()))


def write_volume_encoder(folder: Path) -> None:
    """Write a small NeuroSTORM encoder of random weights: ``config.json`` and ``model.safetensors``."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save  # noqa: PLC0415

    from bids_fmmtc.modalities.neurostorm import NeuroStorm  # noqa: PLC0415
    from bids_fmmtc.modalities.neurostorm_config import NeuroStormConfig  # noqa: PLC0415

    torch.manual_seed(0)
    write_json(folder / "config.json", VOLUME_ENCODER)
    state = NeuroStorm(NeuroStormConfig.from_json(VOLUME_ENCODER)).state_dict()
    write_bytes(folder / "model.safetensors", save({name: value.contiguous() for name, value in state.items()}))


def recipe(atlas_folder: Path, encoder: Path, name: str = "brainlm") -> Recipe:
    """Return the demo's recipe: encoder and connectivity on windows of `WINDOW` frames.

    Parameters
    ----------
    atlas_folder, encoder
        What `write_atlas` and one of `ENCODERS` wrote; the recipe holds their checksums.
    name
        Of the encoder in `ENCODERS`.
    """
    from bids_fmmtc.modalities.weights import weights_sha256  # noqa: PLC0415

    atlas = read_atlas(atlas_folder)
    return Recipe(
        atlas=AtlasSpec(atlas.name, atlas.sha256, atlas.n_parcels),
        space=SpaceSpec(warp="packaged"),
        windows=Windows(length=WINDOW, stride=STRIDE, short_least=WINDOW),
        modalities=(ModalitySpec(name, weights_sha256(encoder)), ModalitySpec("fc")),
    )


ENCODER: Object = {
    "model_type": "brainlm_mae",
    "attention_probs_dropout_prob": 0.0,
    "conv_kernel_size": 65,
    "decoder_hidden_size": 32,
    "decoder_intermediate_size": 48,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "inv_coeff_init_option": False,
    "layer_norm_eps": 1e-12,
    "loss_fn": "mse",
    "mask_ratio": 0.2,
    "num_attention_heads": 2,
    "num_brain_voxels": N_PARCELS,
    "num_hidden_layers": 2,
    "num_landmarks": 64,
    "num_channels": 3,
    "num_timepoints_per_voxel": WINDOW,
    "patch_size": 16,
    "qkv_bias": True,
    "segment_means_seq_len": 64,
    "timepoint_patching_size": 20,
    "use_tanh_decoder": False,
}

VOLUME_ENCODER: Object = {
    "model_type": "neurostorm",
    "img_size": [24, 24, 24, 20],
    "in_chans": 1,
    "patch_size": [6, 6, 6, 1],
    "embed_dim": 16,
    "depths": [2, 2],
    "first_window_size": [4, 4, 4, 4],
    "window_size": [4, 4, 4, 4],
    "c_multiplier": 2,
    "last_layer_full_MSA": True,
}

ENCODERS: Mapping[str, Callable[[Path], None]] = {"brainlm": write_encoder, "neurostorm": write_volume_encoder}
"""Modality -> what writes a small encoder of it into a folder; the first is the demo's own."""
