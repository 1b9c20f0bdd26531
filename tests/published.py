"""A small atlas in the very format of A424, and recordings that fit it: the default path without the real atlas.

The image is float32 on FSL's 2 mm grid with x running to the left, as A424's is; the table has tabs, CRLF, and no line
end after the last line. Here are 24 parcels, cubes inside the brain, where A424 has 424.
"""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_fmmtc.resources import ATLAS_IMAGE, ATLAS_TABLE

SHAPE = (91, 109, 91)
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SIDE_MM = 20.0
CENTRES = np.array(list(itertools.product((-45.0, -15, 15, 45), (-60.0, -20, 20), (0.0, 36))))  # (R, 3) RAS+ mm
R, T, TR = len(CENTRES), 220, 2.0
GRID = np.array([[6.0, 0, 0, -90], [0, 6, 0, -126], [0, 0, 6, -72], [0, 0, 0, 1]])  # of the recordings
GRID_SHAPE = (31, 37, 31)


def parcels(shape, affine):
    """Parcel number (from 1) of every voxel, 0 outside: a cube around each centre, open at its upper end."""
    axes = [affine[i, i] * np.arange(shape[i]) + affine[i, 3] for i in range(3)]
    labels = np.zeros(shape, np.int16)
    for number, centre in enumerate(CENTRES, 1):
        away = [axis - middle for axis, middle in zip(axes, centre, strict=True)]
        labels[np.ix_(*((x >= -SIDE_MM / 2) & (x < SIDE_MM / 2) for x in away))] = number
    return labels


def write_pair(folder: Path) -> Path:
    """Write ``A424+2mm.nii.gz`` and ``A424_Coordinates.dat``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(parcels(SHAPE, AFFINE).astype(np.float32), AFFINE)
    image.header.set_sform(AFFINE, 4)
    image.header.set_qform(AFFINE, 4)
    image.header.set_xyzt_units("mm", "sec")
    (folder / ATLAS_IMAGE).write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))
    lines = ["\t".join(f"{v:g}" for v in (i + 1, *centre)) for i, centre in enumerate(CENTRES)]
    (folder / ATLAS_TABLE).write_bytes("\r\n".join(lines).encode())
    return folder


def planted(label: str):
    """Series (T, R) of whole numbers, one for every voxel of a parcel, so that its mean is exact."""
    rng = np.random.default_rng(list(label.encode()))
    return np.rint(1000 + 30 * rng.standard_normal((T, R))).astype(np.int16)


def write_recording(root: Path, label: str, space: str) -> None:
    """Write one recording of fMRIPrep on a 6 mm grid; every voxel carries the series of the parcel it is in."""
    series = np.concatenate([np.full((T, 1), 900, np.int16), planted(label)], 1)
    func = root / f"sub-{label}" / "func"
    func.mkdir(parents=True, exist_ok=True)
    stem = f"{func}/sub-{label}_task-rest_"
    bold, mask = series.T[parcels(GRID_SHAPE, GRID)], np.ones(GRID_SHAPE, np.uint8)
    for name, data in (("preproc_bold", bold), ("brain_mask", mask)):
        image = nib.Nifti1Image(data, GRID)
        image.header.set_sform(GRID, 4)
        image.header.set_qform(GRID, 4)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((6, 6, 6, TR)[: data.ndim])
        Path(f"{stem}space-{space}_desc-{name}.nii.gz").write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))
    Path(f"{stem}space-{space}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": TR}))
    rows = ["framewise_displacement", "n/a", *["0.05"] * (T - 1)]
    Path(f"{stem}desc-confounds_timeseries.tsv").write_text("\n".join(rows) + "\n")


def write_dataset(root: Path, *people: tuple[str, str]) -> Path:
    """Write a derivative of fMRIPrep with one recording for each (label, space); returns it."""
    root.mkdir(parents=True)
    about = {"Name": "t", "BIDSVersion": "1.10.0", "GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.1.0"}]}
    (root / "dataset_description.json").write_text(json.dumps(about))
    for label, space in people:
        write_recording(root, label, space)
    return root
