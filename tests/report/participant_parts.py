"""An output dataset of one small participant, written file by file as the participant level writes it."""

import nibabel as nib
import numpy as np
from PIL import Image

from bids_fmmtc.dataset.store import write_array, write_json, write_table

R, T, TR = 12, 60, 2.0
NAMES = [f"P{i:02d}" for i in range(1, R + 1)]
NETWORKS = ["visual", "motor", "visual"] * 4
STEM = "space-S_atlas-Own"
HOSTILE = '<script>alert("1")</script>'
LOST = 3
CLASSES = ["non-responder", "responder"]


def write_dataset(root, networks=NETWORKS, image=True, demo=False):
    """Write description and atlas."""
    recipe = {
        "atlas": {"name": "Own", "sha256": "a" * 64, "n_parcels": R},
        "denoising": {"strategy": "scrubbing", "fd_threshold": 0.5, "std_dvars_threshold": 1.5, "high_pass": 0.008,
                      "low_pass": None, "drop_non_steady_state": True},
        "windows": {"length": 20, "stride": 10},
        "connectivity": {"kind": "pearson", "fisher_z": True},
        "target_repetition_time": None,
        "modalities": [{"name": "brainlm"}, {"name": "fc"}],
    }  # fmt: skip
    made = [{"Name": "bids_fmmtc", "Version": "9.9", "Recipe": recipe}, {"Name": "fMRIPrep", "Version": "23.2.1"}]
    made += [{"Name": "bids_fmmtc-demo"}] if demo else []
    write_json(root / "dataset_description.json", {"Name": "x", "GeneratedBy": made, "DatasetLinks": {"in": "../in"}})
    table = root / "tpl-S" / "tpl-S_atlas-Own_res-4_dseg.tsv"
    rows = [{"index": i + 1, "name": n, "x": 0, "y": 0, "z": 0, "network": m}
            for i, (n, m) in enumerate(zip(NAMES, networks or NAMES, strict=True))]  # fmt: skip
    write_table(table, ["index", "name", "x", "y", "z", *(["network"] if networks else [])], rows)
    if image:
        nib.save(nib.Nifti1Image(labels(), np.diag([4.0, 4, 4, 1])), table.with_suffix(".nii.gz"))


def labels():
    """Return labels 1..R in blocks, with an empty border."""
    data = np.zeros((14, 10, 10), np.int16)
    data[1:13, 1:9, 1:9] = (np.arange(12) + 1)[:, None, None]
    return data


def write_recording(root, key="sub-01_task-rest", *, carpet=True, networks=NETWORKS, seed=0, quality=None):
    """Write what one good recording leaves; returns its record."""
    rng = np.random.default_rng(seed)
    subject = root / key.split("_")[0]
    func = subject / "func"
    stem = f"{key}_{STEM}"
    series = rng.standard_normal((T, R)).astype(np.float32)
    series[:, LOST] = np.nan
    series[5] = np.nan
    coverage = np.linspace(0.4, 1, R)
    coverage[LOST] = 0
    matrix = np.ma.corrcoef(np.ma.masked_invalid(series).T).filled(np.nan)
    matrix[LOST] = matrix[:, LOST] = np.nan
    write_array(func / f"{stem}_timeseries.tsv", NAMES, series)
    write_array(func / f"{stem}_coverage.tsv", NAMES, coverage[None])
    write_array(func / f"{stem}_meas-pearsoncorrelation_relmat.tsv", NAMES, matrix)
    frames = [{"onset": i * TR, "framewise_displacement": None if i == 0 else 0.1 + 0.02 * i,
               "status": "censored" if i == 5 else "used"} for i in range(T)]  # fmt: skip
    write_table(func / f"{stem}_qc.tsv", ["onset", "framewise_displacement", "status"], frames)
    outputs = [f"{stem}_{end}.tsv" for end in ("timeseries", "coverage", "meas-pearsoncorrelation_relmat", "qc")]
    outputs = [f"{subject.name}/func/{name}" for name in outputs]
    if carpet:
        (subject / "figures").mkdir(exist_ok=True)
        picture = subject / "figures" / f"{stem}_carpet.png"
        Image.fromarray(rng.integers(0, 256, (24, T)).astype(np.uint8)).save(picture)
        write_json(picture.with_suffix(".json"), {"RowParcels": [i // 2 for i in range(24)]})
        outputs.append(f"{subject.name}/figures/{picture.name}")
    record = {
        "Key": key, "Status": "ok", "RecipeDigest": "d" * 64, "Outputs": outputs,
        "Sources": [f"bids:in:{key}_bold.nii.gz"], "WindowOnsets": [[0, 40], [20, 60], [40, 80]],
        "Quality": {"n_frames": T, "n_dropped": 0, "n_censored": 1, "n_frames_left": T - 1, "minutes_left": 1.97,
                    "repetition_time": TR, "mean_fd": 0.7, "max_fd": 1.28, "share_high_fd": 0.63, "tsnr": 51.2,
                    "mean_coverage": 0.71, "least_coverage": 0.0, "n_low_coverage": 2, "n_lost_parcels": 1,
                    "n_frames_in_windows": T - 1, "window_repetition_time": TR, "padded": False, "n_parcels": R,
                    "placement": "same", "has_mask": True,
                    "flags": ["high_motion", "few_minutes"], **(quality or {})},
    }  # fmt: skip
    write_json(func / f"{stem}_features.json", record)
    return record


def write_failed(root, key="sub-01_task-rest_run-2", reason="image: the file is truncated. Fetch it again."):
    """Write what a failed recording leaves."""
    write_json(root / key.split("_")[0] / "func" / f"{key}_{STEM}_features.json",
               {"Key": key, "Status": "failed", "Kind": "image", "Reason": reason})  # fmt: skip


def write_prediction(root, key="sub-01_task-rest", p=0.62, windows=(0.5, 0.6, 0.7), conformal=CLASSES, **more):
    """Write a session's prediction, or with ``p=None`` the row of one that failed."""
    path = root / key.split("_")[0] / "func" / f"{key}_desc-fmmtc_prediction.tsv"
    row = {"participant_id": key.split("_")[0], "fmmtc_qc": "image: nothing could be read."}
    facts = {"Status": "failed", "Reason": "image: nothing could be read."}
    if p is not None:
        row |= {
            "fmmtc_probability": p,
            "fmmtc_label": CLASSES[p >= 0.5],
            "fmmtc_set": list(conformal),
            "fmmtc_qc": "ok",
        }
        counts = {f"{i / 10:.1f} to {(i + 1) / 10:.1f}": {CLASSES[0]: 9 - i, CLASSES[1]: i} for i in range(10)}
        facts = {
            "Status": "ok", "PerWindow": list(windows), "Flags": ["high_motion", "outside_reference:tsnr"],
            "Threshold": 0.5, "Classes": CLASSES, "ModelName": "A model", "ModelVersion": "2", "DemoModel": False,
            "BundleDigest": "b" * 64, "Calibration": {"kind": "platt"}, "OutOfFold": counts, "Device": "cpu", "Seed": 0,
            "Conformal": {"alpha": 0.1, "quantiles": [0.4, 0.4]} if conformal else "n/a",
            "Reference": {"tsnr": {"found": [51.2], "low": 60.0}, "placement": {"found": ["same"], "values": ["same"]},
                          "embedding_fc": {"found": [0.31], "high": 1.0}},
            "SoftwareVersions": {"numpy": "2.4"},
        }  # fmt: skip
    columns = ["participant_id", "fmmtc_probability", "fmmtc_label", "fmmtc_set", "fmmtc_qc"]
    write_table(path, columns, [row])
    write_json(path.with_suffix(".json"), facts | more)


def write_attribution(root, key="sub-01_task-rest", analysis="mine", image=True):
    """Write what an analysis explains of one participant."""
    folder = root / "group" / analysis / "attribution" / key
    values = np.linspace(-0.5, 1.0, R)
    order = np.argsort(-np.abs(values))
    ranks = {int(i): rank + 1 for rank, i in enumerate(order)}
    parcels = [{"name": NAMES[i], "network": NETWORKS[i], "mean": float(values[i]), "rank": ranks[i]} for i in range(R)]
    write_table(folder / "parcels.tsv", ["name", "network", "mean", "rank"], parcels)
    edges = [{"name_1": "P01", "network_1": "visual", "name_2": "P02", "network_2": "motor", "mean": 0.25, "rank": 1}]
    write_table(folder / "edges.tsv", list(edges[0]), edges)
    facts = {"score": 1.5, "baseline_score": -0.25, "parts": {"brainlm": 1.0, "fc": 0.75},
             "relative_errors": {"total": 0.002}, "baseline": {"fc": "mean fc of the training set"}}  # fmt: skip
    write_json(folder / "attribution.json", facts)
    if image:
        data = np.where(labels() > 0, values[np.maximum(labels(), 1) - 1], 0).astype(np.float32)
        affine = np.diag([8.0, 8, 8, 1])
        affine[:3, 3] = [-50, -40, -30]
        nib.save(nib.Nifti1Image(data, affine), folder / "parcels_mean.nii.gz")
    return folder
