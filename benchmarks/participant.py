"""From a 4-D file to parcel series: ours against gunzip alone, nilearn and the published loop; then the encoder.

    python benchmarks/participant.py [--rounds 3] [--atlas DIR] [--keep DIR] [--json OUT] [--quick]

A synthetic recording is made first: 97 x 115 x 97 voxels of 2 mm, 300 frames, int16, gzip level 1 (as nibabel writes),
zeros outside the field of view; tissue texture, smooth networks, thermal noise. The atlas is A424 where --atlas or
FMMTC_RESOURCES has it, else 424 seeded parcels of about its volume. Then each variant runs in a fresh child process
(wall and CPU time and peak memory from ``os.wait4``), in rounds over all variants; medians count. All children get one
thread. On a busy machine compare CPU seconds, not wall.
"""

from __future__ import annotations

# Children run this file too: whatever only the parent needs is imported where it is used, so as not to count for them.
import json
import os
import sys
import time
from pathlib import Path

FULL = {"shape": (97, 115, 97), "voxel": 2.0, "frames": 300, "few": 100}
QUICK = {"shape": (40, 48, 40), "voxel": 4.85, "frames": 60, "few": 20}
ORIGIN = (-96.5, -132.5, -78.5)  # of MNI152NLin2009cAsym's 2 mm grid, world millimetres
SPACE = "MNI152NLin2009cAsym"
TR, SEED, PARCELS, ATLAS_VOXELS = 2.0, 20240501, 424, 133_743
VARIANTS = {
    "imports-ours": "imports of ours",
    "imports-nilearn": "imports of nilearn",
    "imports-loop": "imports of the published loop",
    "gunzip": "gunzip alone, isal",
    "gzip": "gunzip alone, Python",
    "ours": "ours",
    "ours-few": "ours, a third of the frames",
    "ours-warp": "ours, labels through the warp",
    "nilearn": "nilearn NiftiLabelsMasker",
    "loop": "published loop over masks",
}
IMPORTS = {"ours": "ours", "ours-few": "ours", "ours-warp": "ours", "nilearn": "nilearn", "loop": "loop"}
"""Variant -> whose imports are subtracted from its peak memory."""

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}


# ------------------------------------------------------------------------------------------------------- the recording


def synthetic_atlas(folder):
    """Write 424 parcels of similar size, as a BIDS atlas: k-means over an ellipsoid of about A424's volume."""
    import nibabel as nib
    import numpy as np
    from scipy.spatial import cKDTree

    shape, origin = (91, 109, 91), np.array([-90.0, -126.0, -72.0])
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3) * 2.0 + origin
    distance = np.sum(((points - (0, -18, 10)) / (68, 86, 62)) ** 2, axis=1)
    inside = np.sort(np.argsort(distance, kind="stable")[:ATLAS_VOXELS])
    brain = points[inside]
    centres = brain[np.random.default_rng(SEED).choice(len(brain), PARCELS, replace=False)]
    for _ in range(10):
        owner = cKDTree(centres).query(brain)[1]
        counts = np.bincount(owner, minlength=PARCELS)
        centres = np.stack([np.bincount(owner, axis, PARCELS) for axis in brain.T], 1) / counts[:, None]
    labels = np.zeros(len(points), np.int16)
    labels[inside] = owner + 1
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = origin
    stem = "tpl-MNI152NLin6Asym_atlas-Synthetic_dseg"
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels.reshape(shape), affine), folder / f"{stem}.nii.gz")
    rows = "".join(f"{i}\tparcel{i}\n" for i in range(1, PARCELS + 1))
    (folder / f"{stem}.tsv").write_text("index\tname\n" + rows)
    return folder


def find_atlas(given, folder):
    from bids_fmmtc.resources import find_resource, resource_dirs

    found = given or find_resource("atlas", resource_dirs(os.environ))
    return synthetic_atlas(folder / "atlas") if found is None else Path(found)


def anatomy(labels, affine, rng):
    """Return expected signal and what lies in the field of view, which is a tilted box of 64 % of the grid."""
    import numpy as np
    from scipy import ndimage

    voxel = affine[0, 0]
    outside = ndimage.distance_transform_edt(labels == 0) * voxel  # mm
    texture = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), 2.0 / voxel)
    texture *= 45 / texture.std()
    signal = np.select([outside < 6, outside < 10, outside < 18], [640 + texture, 140, 320 + texture], 0)
    where = np.stack(np.meshgrid(*(np.arange(n) * voxel for n in labels.shape), indexing="ij"), -1)
    where += affine[:3, 3] - (0, -18, 18)
    angle = np.deg2rad(4)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    size = np.max(np.abs(where @ tilt.T) / np.array(labels.shape), axis=-1)
    # All variants leave out or keep unsampled voxels in their own way; with none in a parcel they can be compared.
    view = (size <= np.quantile(size, 0.64)) | (labels > 0)
    return signal.astype(np.float32), view


def volumes(labels, affine, frames):
    """Yield frames (X,Y,Z) int16."""
    import numpy as np
    from scipy import ndimage

    rng = np.random.default_rng(SEED)
    signal, view = anatomy(labels, affine, rng)
    maps = np.stack([rng.standard_normal(labels.shape, np.float32) for _ in range(12)])
    maps = np.stack([ndimage.gaussian_filter(m, 12 / affine[0, 0]) for m in maps])
    maps *= 0.005 * signal / maps.std(axis=(1, 2, 3), keepdims=True)
    course = np.zeros(12, np.float32)
    for _ in range(frames):
        course = 0.8 * course + 0.6 * rng.standard_normal(12).astype(np.float32)
        noise = rng.standard_normal(labels.shape, np.float32)
        for axis in range(3):  # resampling makes neighbours alike
            noise = ndimage.correlate1d(noise, [0.25, 0.5, 0.25], axis)
        noise *= 6 / noise.std()
        level = signal + np.tensordot(course, maps, 1) + noise
        level = np.hypot(level, np.roll(noise, 7, axis=2))  # magnitude of a complex signal: Rician in air
        yield np.where(view, np.rint(level), 0).astype(np.int16)


def make(folder, given, grid):
    """Write the recording, its first frames as a recording of its own, labels on its grid, and a mask."""
    import gzip

    import nibabel as nib
    import numpy as np
    from scipy import ndimage

    from bids_fmmtc.signals.atlas import labels_on_grid, read_atlas

    affine = np.diag([grid["voxel"]] * 3 + [1.0])
    affine[:3, 3] = ORIGIN
    source = find_atlas(given, folder)
    atlas = read_atlas(source)
    labels = labels_on_grid(atlas, grid["shape"], affine).labels
    mask = ndimage.binary_dilation(labels > 0, iterations=2)
    nib.save(nib.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), folder / "mask.nii.gz")
    files = {}
    for name in ("frames", "few"):
        files[name] = gzip.GzipFile(folder / f"{name}.nii.gz", "wb", compresslevel=1, mtime=0)
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((*grid["shape"], grid[name]))
        header.set_zooms((*[grid["voxel"]] * 3, TR))
        header.set_xyzt_units("mm", "sec")
        header.set_sform(affine, code=4)
        header.set_slope_inter(1, 0)
        header.write_to(files[name])
    zeros = 0.0
    for t, volume in enumerate(volumes(labels, affine, grid["frames"])):
        data = volume.tobytes(order="F")
        for name, file in files.items():
            if t < grid[name]:
                file.write(data)
        zeros = float(np.mean(volume == 0))
    for file in files.values():
        file.close()
    return {
        "atlas": atlas.name,
        "atlas_folder": str(source),
        "parcels": atlas.n_parcels,
        "labelled_voxels": int(np.count_nonzero(labels)),
        "parcels_on_grid": len(np.unique(labels)) - 1,
        "zeros": round(zeros, 3),
        "frames_mb": (folder / "frames.nii.gz").stat().st_size / 1e6,
    }


# ------------------------------------------------------------------------------------------------------- the variants


def drain(folder, opened):
    """Read a gzipped file into one buffer the size of a volume."""
    made = json.loads((folder / "made.json").read_text())
    x, y, z = made["grid"]["shape"]
    view = memoryview(bytearray(x * y * z * 2))
    total = 0
    with opened(folder / "frames.nii.gz", "rb") as file:
        while n := file.readinto(view):
            total += n
    return {"bytes": total}


def gunzip(folder):
    from isal import igzip

    return drain(folder, igzip.open)


def python_gzip(folder):
    import gzip

    return drain(folder, gzip.open)


def ours(folder, *, rule="affine", name="frames"):
    """Run what the program runs from a file to `RoiSeries`; the mask is read as `Source` does."""
    import nibabel as nib
    import numpy as np

    from bids_fmmtc.recipe import SpaceSpec
    from bids_fmmtc.signals.atlas import labels_on_grid, read_atlas
    from bids_fmmtc.signals.parcellate import parcellate, read_header
    from bids_fmmtc.signals.spaces import place

    marks = [time.process_time()]
    made = json.loads((folder / "made.json").read_text())
    atlas = read_atlas(Path(made["atlas_folder"]))
    marks.append(time.process_time())
    header = read_header(folder / f"{name}.nii.gz")
    warp = place(SPACE, atlas.space, SpaceSpec(rule, "packaged")).warp
    grid = labels_on_grid(atlas, header.shape[:3], header.affine, warp)
    mask = np.asarray(np.asanyarray(nib.load(folder / "mask.nii.gz").dataobj) > 0)
    marks.append(time.process_time())
    found = parcellate(header, grid, mask, TR)
    marks.append(time.process_time())
    np.save(folder / f"{name}-{rule}.npy", found.series.values)
    stages = ("read_atlas", "header_grid_mask", "parcellate")
    return {f"{s}_cpu_s": b - a for s, a, b in zip(stages, marks, marks[1:], strict=False)}


def nilearn(folder):
    import numpy as np
    from nilearn.maskers import NiftiLabelsMasker

    masker = NiftiLabelsMasker(
        labels_img=folder / "labels.nii.gz",
        mask_img=folder / "mask.nii.gz",
        resampling_target=None,
        standardize=None,
        reports=False,
    )
    np.save(folder / "nilearn.npy", masker.fit_transform(folder / "frames.nii.gz"))
    return {}


def loop(folder):
    """Load everything as float64 and average under one boolean mask after another, as the published code does."""
    import nibabel as nib
    import numpy as np

    data = nib.load(folder / "frames.nii.gz").get_fdata()
    labels = nib.load(folder / "labels.nii.gz").get_fdata()
    present = np.unique(labels)[1:]
    series = np.stack([np.nanmean(data[labels == label], axis=0) for label in present], axis=1)
    np.save(folder / "loop.npy", series)
    return {}


def import_ours(_folder):
    import nibabel
    import numpy

    import bids_fmmtc.recipe
    import bids_fmmtc.signals.atlas
    import bids_fmmtc.signals.parcellate
    import bids_fmmtc.signals.spaces  # noqa: F401

    return {"nibabel": nibabel.__version__, "numpy": numpy.__version__}


def import_nilearn(_folder):
    from nilearn.maskers import NiftiLabelsMasker

    return {"masker": NiftiLabelsMasker.__name__}


def import_loop(_folder):
    import nibabel
    import numpy

    return {"nibabel": nibabel.__version__, "numpy": numpy.__version__}


def compare(folder):
    """Return the largest difference of each result to ours, over the parcels that both have."""
    import numpy as np

    mine = np.load(folder / "frames-affine.npy")
    kept = mine[:, ~np.isnan(mine).any(axis=0)]
    few = np.load(folder / "few-affine.npy")
    found = {name: np.load(folder / f"{name}.npy") for name in ("nilearn", "loop")}
    result = {n: float(np.abs(f.astype(np.float64) - kept).max()) for n, f in found.items()}
    result |= {f"{n}_dtype": str(f.dtype) for n, f in found.items()}
    # Our values are float32; nobody else's can lie nearer than that.
    rounded = {n: f.astype(np.float32) for n, f in found.items()}
    result |= {f"{n}_float32": float(np.abs(f - kept).max()) for n, f in rounded.items()}
    result["few"] = float(np.nanmax(np.abs(few - mine[: len(few)])))
    result["largest"] = float(kept.max())
    return result


CHILDREN = {
    "imports-ours": import_ours,
    "imports-nilearn": import_nilearn,
    "imports-loop": import_loop,
    "gunzip": gunzip,
    "gzip": python_gzip,
    "ours": ours,
    "ours-few": lambda folder: ours(folder, name="few"),
    "ours-warp": lambda folder: ours(folder, rule="warp"),
    "nilearn": nilearn,
    "loop": loop,
    "compare": compare,
}


# -------------------------------------------------------------------------------------------------------- the parent


def measure(name, folder, *more):
    """Start one child and return its figures; the parent stays small, as its memory counts towards a child's peak."""
    import subprocess

    command = [sys.executable, __file__, "--child", name, str(folder), *more]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | ONE_THREAD) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the child for {name} ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": usage.ru_maxrss / 1024, **json.loads(output)}  # kB on Linux


def prepare(folder, options):
    """Make the files, unless the folder has them already."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = QUICK if options.quick else FULL
    wanted = json.loads(json.dumps({"grid": grid, "given": str(options.atlas), "seed": SEED}))
    record = folder / "made.json"
    if record.is_file():
        made = json.loads(record.read_text())
        if {name: made.get(name) for name in wanted} == wanted:
            return made
    record.unlink(missing_ok=True)
    made = wanted | measure("make", folder, json.dumps(grid), *([str(options.atlas)] if options.atlas else []))
    record.write_text(json.dumps(made, indent=1) + "\n")
    return made


def summarise(runs):
    """Medians and ratios."""
    import statistics

    names = ("wall_s", "cpu_s", "peak_mb")
    table = {v: {n: statistics.median(run[n] for run in found) for n in names} for v, found in runs.items()}
    for variant, row in table.items():
        row["of_gunzip"] = row["cpu_s"] / table["gunzip"]["cpu_s"]
        row["of_ours"] = row["cpu_s"] / table["ours"]["cpu_s"]
        if variant in IMPORTS:
            base = table[f"imports-{IMPORTS[variant]}"]
            row["net_mb"] = row["peak_mb"] - base["peak_mb"]
            row["net_cpu_s"] = row["cpu_s"] - base["cpu_s"]
    return table


def markdown(table, made, rounds):
    """Return the first table."""
    x, y, z = made["grid"]["shape"]
    lines = [
        f"One recording, {x} x {y} x {z} x {made['grid']['frames']} int16, {made['frames_mb']:.0f} MB compressed, "
        f"{100 * made['zeros']:.0f} % zeros; atlas {made['atlas']}, {made['parcels_on_grid']} of {made['parcels']} "
        f"parcels, {made['labelled_voxels']} voxels. Medians of {rounds} fresh processes, imports included.",
        "",
        "| variant | wall s | CPU s | x gunzip CPU | x our CPU | peak MB | above imports: CPU s | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, row in table.items():
        cells = [VARIANTS[variant], f"{row['wall_s']:.2f}", f"{row['cpu_s']:.2f}"]
        cells += [f"{row['of_gunzip']:.2f}", f"{row['of_ours']:.2f}", f"{row['peak_mb']:.0f}"]
        cells += [f"{row['net_cpu_s']:.2f}", f"{row['net_mb']:.0f}"] if "net_mb" in row else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(table, encoders, differences):
    """Yield (met, what was found) for each target."""
    ratio = table["ours"]["of_gunzip"]
    yield ratio <= 1.5, f"ours takes {ratio:.2f} times the CPU of gunzip alone (target: at most 1.5)"
    ratio = table["nilearn"]["of_ours"]
    yield ratio >= 7, f"nilearn takes {ratio:.1f} times our CPU (target: at least 7)"
    memory, growth = table["ours"]["net_mb"], table["ours"]["peak_mb"] - table["ours-few"]["peak_mb"]
    yield memory < 200, f"ours needs {memory:.0f} MB above its imports (target: below 200)"
    yield growth <= 5, f"three times the frames take {growth:.1f} MB more (target: flat, at most 5)"
    best = encoders["ours"]
    faster, share = best["times_faster_cpu"], best["share_of_memory"]
    yield faster >= 1.5, f"the encoder takes {faster:.2f} times less CPU than attention written out (target: 1.5)"
    yield share <= 1 / 3, f"the encoder needs {100 * share:.0f} % of its memory (target: a third)"
    off, largest = differences["nilearn_float32"], differences["largest"]
    yield off <= largest * 2.0**-22, f"ours differs from nilearn, rounded to float32, by at most {off:g}"


def run(folder, options):
    import importlib.metadata
    import platform

    import encoder  # this folder's

    made = prepare(folder, options)
    print(f"made {made['frames_mb']:.0f} MB", file=sys.stderr)
    runs = {variant: [] for variant in VARIANTS}
    encoder_runs = {variant: [] for variant in encoder.VARIANTS}
    weights = folder / "encoder"
    weights.mkdir(exist_ok=True)
    torch_version = encoder.measure("make", weights, options.threads)["torch"]
    for done in range(options.rounds):
        for variant, found in runs.items():
            found.append(measure(variant, folder))
        for variant, found in encoder_runs.items():
            found.append(encoder.measure(variant, weights, options.threads))
        print(f"round {done + 1} of {options.rounds}", file=sys.stderr)
    differences = measure("compare", folder)
    table, encoders = summarise(runs), encoder.summarise(encoder_runs)
    packages = ("bids_fmmtc", "numpy", "nibabel", "nilearn", "isal")
    versions = {p: importlib.metadata.version(p) for p in packages}
    versions |= {"python": platform.python_version(), "torch": torch_version}
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + f"; {os.cpu_count()} cores.\n")
    print(markdown(table, made, options.rounds) + "\n")
    for name in ("nilearn", "loop"):
        off, rounded = differences[name], differences[f"{name}_float32"]
        print(f"Largest difference of ours to {VARIANTS[name]}: {off:.3g}; rounded to float32 as ours is: {rounded:g}.")
    print("\n" + encoder.markdown(encoders, options.rounds, options.threads) + "\n")
    found = list(verdicts(table, encoders, differences))
    if options.quick:
        print("Quick grid: exercises the benchmark; its figures say nothing about the targets.")
    else:
        print("\n".join(f"- {'met' if ok else 'MISSED'}: {what}" for ok, what in found))
    if options.json:
        for run_ in (run_ for group in encoder_runs.values() for run_ in group):
            del run_["cls"]
        settings = {"rounds": options.rounds, "threads": options.threads, "quick": options.quick, "versions": versions}
        result = {"settings": settings, "made": made, "median": table, "encoder": encoders, "differences": differences}
        result |= {"verdicts": [{"met": bool(ok), "what": what} for ok, what in found], "runs": runs}
        options.json.write_text(json.dumps(result | {"encoder_runs": encoder_runs}, indent=1) + "\n")


def main():
    import argparse
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all variants (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the encoder (default 2)")
    parser.add_argument("--atlas", type=Path, help="atlas folder (default: FMMTC_RESOURCES, else a synthetic one)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the files here, keep them, reuse them")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure here")
    parser.add_argument("--quick", action="store_true", help="a small grid, to see that the benchmark works")
    options = parser.parse_args()
    if options.keep:
        run(options.keep, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), options)


def child(name, folder, *more):
    """Run one variant, or ``make`` with the grid as JSON and perhaps an atlas folder."""
    if name == "make":
        grid, *atlas = more
        return make(Path(folder), *(atlas or [None]), json.loads(grid))
    return CHILDREN[name](Path(folder))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])))
    else:
        main()
