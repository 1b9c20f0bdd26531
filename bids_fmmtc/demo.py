"""``bids_fmmtc-demo DIR``: a synthetic cohort as a fMRIPrep derivative, and the participant level run on it.

Nothing here comes from a person. Twelve participants at two sites; in responders one group of parcels is coupled
more tightly and swings more slowly; one participant's image is cut off, to show what a failure looks like. The
model is untrained: its predictions mean nothing and say so.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc import __version__
from bids_fmmtc.cli import main as run_app
from bids_fmmtc.dataset.store import write_bytes, write_json, write_table
from bids_fmmtc.errors import EXIT_FAILURE, EXIT_OK, FmmtcError, OutputError
from bids_fmmtc.signals.atlas import read_atlas

log = logging.getLogger("bids_fmmtc")

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


def cohort(n: int = 12) -> list[Person]:
    """Return ``n`` participants, sites and response balanced; the first has two runs."""
    return [
        Person(
            label=f"{i + 1:02d}",
            site="north" if i % 2 == 0 else "south",
            responder=(i // 2) % 2 == 0,
            age=35 + (7 * i) % 40,
            sex="FM"[(i // 3) % 2],
            runs=2 if i == 0 else 1,
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
    key = f"sub-{person.label}_task-rest" + (f"_run-{run}" if person.runs > 1 else "")
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
    rows: list[dict[str, Any]] = []
    for t in range(N_FRAMES):
        row = dict(zip(names, motion[t].tolist(), strict=True))
        rows.append(
            row | {"framewise_displacement": fd[t] if t else None, "std_dvars": 1 + 0.1 * rng.standard_normal()}
        )
    write_table(path, ("framewise_displacement", "std_dvars", *names), rows)


# -------------------------------------------------------------------------------------------------------------- cohort


def write_cohort(root: Path, atlas_folder: Path, people: Sequence[Person]) -> None:
    """Write the derivative dataset with its ``participants.tsv`` (outcome column ``responder``)."""
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
    rows = [
        {"participant_id": f"sub-{p.label}", "site": p.site, "age": p.age, "sex": p.sex, "responder": int(p.responder)}
        for p in people
    ]
    write_table(root / "participants.tsv", ("participant_id", "site", "age", "sex", "responder"), rows)
    for person in people:
        for run in range(1, person.runs + 1):
            write_recording(person, run, root, atlas_folder)


def write_model(folder: Path, atlas_folder: Path) -> None:
    """Write an untrained bundle with a small encoder of random weights, labelled as a demo on everything it touches."""
    import tempfile  # noqa: PLC0415

    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    from bids_fmmtc.learning.head import build_head  # noqa: PLC0415
    from bids_fmmtc.learning.save import save_bundle  # noqa: PLC0415
    from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig  # noqa: PLC0415
    from bids_fmmtc.modalities.weights import weights_sha256  # noqa: PLC0415
    from bids_fmmtc.recipe import AtlasSpec, ModalitySpec, Recipe, SpaceSpec, Windows  # noqa: PLC0415

    atlas = read_atlas(atlas_folder)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        encoder = Path(temporary)
        (encoder / "config.json").write_text(json.dumps(_ENCODER), encoding="utf-8")
        save_file(BrainLM(BrainLMConfig.from_json(_ENCODER)).state_dict(), encoder / "model.safetensors")
        recipe = Recipe(
            atlas=AtlasSpec(atlas.name, atlas.sha256, atlas.n_parcels),
            space=SpaceSpec(warp="packaged"),
            windows=Windows(length=WINDOW, stride=STRIDE, short_least=WINDOW),
            modalities=(ModalitySpec("brainlm", weights_sha256(encoder)), ModalitySpec("fc")),
        )
        shapes = {"brainlm": (int(_ENCODER["hidden_size"]),), "fc": (atlas.n_parcels, atlas.n_parcels)}
        spec = {
            "kind": "fmmtc",
            "branches": {
                "brainlm": {"branch": "identity"},
                "fc": {"branch": "resnet18", "width": 32, "embedding_size": 8, "hidden_sizes": [8, 16, 32, 64]},
            },
            "outputs": 2,
        }
        save_bundle(
            folder,
            recipe=recipe,
            shapes=shapes,
            head_spec=spec,
            head=build_head(spec, shapes),
            classes=("non-responder", "responder"),
            threshold=0.5,
            calibration={"kind": "none"},
            conformal=None,
            reference=None,
            card=_CARD,
            encoders={"brainlm": encoder},
            include_encoders=True,
        )


_ENCODER: dict[str, Any] = {
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

_CARD: dict[str, Any] = {
    "title": "DEMO MODEL",
    "demo": True,
    "data": "None: every weight is random.",
    "intended_use": "To show how the program runs. Its predictions mean nothing.",
    "limits": "Not trained on anything. Research software, not a medical device.",
}


# ------------------------------------------------------------------------------------------------------------- program


def main(argv: Sequence[str] | None = None) -> int:
    """Write the demo into a folder and run the participant level on it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bids_fmmtc-demo", description="Write a synthetic cohort and run bids_fmmtc on it; a minute on 2 cores."
    )
    parser.add_argument("folder", type=Path, help="where to put everything; made if absent")
    parser.add_argument("--nprocs", type=int, default=2, help="participants at once; default: 2")
    options = parser.parse_args(argv)
    try:
        return run_demo(options.folder.absolute(), options.nprocs)
    except FmmtcError as error:
        sys.stderr.write(f"bids_fmmtc-demo: error: {error}\n")
        return error.exit_code


def run_demo(folder: Path, nprocs: int) -> int:
    """Write cohort, atlas and model below ``folder``, run, and say where to look.

    Returns
    -------
    int
        0 when all but the broken participant succeeded and that one failed as planned.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "atlas-Demo").is_dir():
        raise OutputError(f"{folder} is not empty and holds no demo.", "Give another folder.")
    say = sys.stdout.write
    say(f"Writing a synthetic cohort to {folder} (no real person's data) ...\n")
    atlas_folder = folder / f"atlas-{ATLAS}"
    write_atlas(atlas_folder)
    write_cohort(folder / "fmriprep", atlas_folder, cohort())
    if not (folder / "model" / "bundle.json").is_file():
        write_model(folder / "model", atlas_folder)
    words = [str(folder / "fmriprep"), str(folder / "output"), "participant"]
    words += ["--model", str(folder / "model"), "--atlas", str(atlas_folder)]
    words += ["--nprocs", str(nprocs), "--work-dir", str(folder / "work")]
    say(f"Running: bids_fmmtc {' '.join(words)}\n\n")
    sys.stdout.flush()
    code = run_app(words)
    failed = sorted(p.name.split("_")[0] for p in _failed(folder / "output"))
    if code != EXIT_FAILURE or failed != [f"sub-{BROKEN}"]:
        say(f"\nThe demo did not go as planned: exit code {code}, failed: {', '.join(failed) or 'nobody'}.\n")
        return code or EXIT_FAILURE
    say(
        f"\nAs planned, sub-{BROKEN} failed (its image is cut off on purpose) and keeps a row; the others have results:"
        f"\n  {folder / 'output'}\nThe model is a DEMO with random weights: its probabilities mean nothing.\n"
    )
    return EXIT_OK


def _failed(output: Path) -> list[Path]:
    records = output.glob("sub-*/func/*_features.json")
    return [p for p in records if json.loads(p.read_text(encoding="utf-8"))["Status"] != "ok"]


if __name__ == "__main__":
    raise SystemExit(main())
