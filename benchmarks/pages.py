"""What drawing pages costs: ``--reports-only`` on many participants, seconds a page and peak memory of the process.

The derivatives are synthetic, of the size of real ones: 424 parcels, 300 frames, an atlas on a 2 mm grid, a prediction
with its place among training, and for every tenth participant an attribution on a glass brain.

    python benchmarks/pages.py                   # 200 participants
    python benchmarks/pages.py --quick           # 3; says nothing about the target
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))

import nibabel as nib
import numpy as np
import participant_parts as parts

TARGET_S, TARGET_MB = 3.0, 500


def atlas_labels(n):
    """Return labels 1..n of blobs on a 2 mm grid, nearest centre within a ball."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(k) for k in (91, 109, 91)), indexing="ij"), -1)
    inside = (((grid - [45, 54, 45]) / [36, 45, 36]) ** 2).sum(-1) < 1
    voxels = grid[inside]
    centres = voxels[rng.choice(len(voxels), n, replace=False)]
    from scipy.spatial import cKDTree

    labels = np.zeros(inside.shape, np.int16)
    labels[inside] = cKDTree(centres).query(voxels)[1] + 1
    return labels


def write_cohort(root, people, parcels=424, frames=300):
    """Write the output dataset; the tables of everybody but the first are links to the first one's."""
    parts.R, parts.T, parts.LOST = parcels, frames, 3
    parts.NAMES = [f"A424_{i + 1}" for i in range(parcels)]
    parts.NETWORKS = [f"network {i * 7 // parcels}" for i in range(parcels)]
    labels = atlas_labels(parcels)
    parts.labels = lambda: labels
    parts.write_dataset(root, networks=parts.NETWORKS)
    first = "sub-001_task-rest"
    record = parts.write_recording(root, first, networks=parts.NETWORKS)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = [-90, -126, -72]
    for path in root.glob("tpl-S/*.nii.gz"):
        nib.save(nib.Nifti1Image(labels, affine), path)
    for i in range(1, people + 1):
        key = f"sub-{i:03d}_task-rest"
        if i > 1:
            _link(root, record, first, key)
        parts.write_prediction(root, key, p=0.5, windows=(0.3, 0.5, 0.7))
        if i % 10 == 1:
            folder = parts.write_attribution(root, key)
            image = nib.load(folder / "parcels_mean.nii.gz")
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), folder / "parcels_mean.nii.gz")


def _link(root, record, first, key):
    old, new = first.split("_")[0], key.split("_")[0]
    for name in record["Outputs"]:
        source = root / name
        for path in (source, source.with_suffix(".json")):
            if path.is_file():
                target = root / str(path.relative_to(root)).replace(old, new)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(path)
    text = json.dumps(record).replace(old, new)
    (root / new / "func" / f"{key}_{parts.STEM}_features.json").write_text(text)


def measure(root, *more):
    """Return wall seconds, CPU seconds and peak MB of one ``--reports-only`` process."""
    words = [sys.executable, "-m", "bids_fmmtc", str(root), str(root), "participant", "--reports-only", *more]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu, after.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="3 people")
    options = parser.parse_args()
    people = 3 if options.quick else options.people
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "out"
        write_cohort(root, people)
        wall_one, cpu_one, mb_one = measure(root, "--participant-label", "001")
        wall, cpu, mb = measure(root)
        sizes = [p.stat().st_size for p in root.glob("sub-*.html")]
    print(f"one page:  {wall_one:.2f} s wall, {cpu_one:.2f} s CPU, imports included, peak {mb_one:.0f} MB")
    print(f"{people} pages: {wall / people:.2f} s wall, {cpu / people:.2f} s CPU a page, peak {mb:.0f} MB")
    print(f"size of a page: {np.median(sizes) / 1e6:.2f} MB, largest {max(sizes) / 1e6:.2f} MB")
    if not options.quick:
        met = wall / people < TARGET_S and mb < TARGET_MB and max(sizes) < 3e6
        print(f"targets ({TARGET_S:g} s, {TARGET_MB} MB a page, 3 MB of file): {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
