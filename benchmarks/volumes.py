"""From a 4-D file to an encoder's clips: CPU against gunzip alone, and peak memory at three lengths.

    python benchmarks/volumes.py [--rounds 3] [--keep DIR] [--json OUT] [--quick]

The recording is that of `participant.py` (97 x 115 x 97 voxels of 2 mm, int16, gzip level 1, zeros outside the field of
view; repetition time 2 s), of 100, 300 and 600 frames; the longest has frames twice, as no cost depends on what they
hold. It is brought to the grid and clock of NeuroSTORM's clips as the program does it: one pass for the sums that set
the scale, one that yields the clips; "and parcel series" makes those in the first pass, which a run needs anyway. Axes
of image and grid are parallel, a quarter of a voxel apart, as fMRIPrep's template outputs are, or not ("aligned"). Each
variant is a fresh child process with one thread, in rounds over all variants; medians count. On a busy machine compare
CPU seconds.
"""

from __future__ import annotations

# Children run this file too: whatever only the parent needs is imported where it is used, so as not to count for them.
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

FULL = {"shape": (97, 115, 97), "voxel": 2.0, "frames": (100, 300, 600)}
QUICK = {"shape": (40, 48, 40), "voxel": 4.85, "frames": (50, 60, 70)}
ORIGINS = {"shifted": (-96.5, -132.5, -78.5), "aligned": (-96.0, -132.0, -78.0)}
"""World millimetres of the first voxel; the first is MNI152NLin2009cAsym's, a quarter of a voxel off the encoder's."""

TR = 2.0
TARGET, MOST_MB, GROWTH_MB = 3.0, 400, 10


# ------------------------------------------------------------------------------------------------------- the recording


def make(folder, grid):
    """Write the body of the recording once; each length is a header and as many such bodies as it takes."""
    import gzip

    import nibabel as nib
    import numpy as np
    import participant
    from scipy import ndimage

    from bids_fmmtc.signals.atlas import labels_on_grid, read_atlas

    few, middle, many = grid["frames"]
    affine = np.diag([grid["voxel"]] * 3 + [1.0])
    affine[:3, 3] = ORIGINS["shifted"]
    labels = labels_on_grid(read_atlas(participant.synthetic_atlas(folder / "atlas")), grid["shape"], affine).labels
    mask = ndimage.binary_dilation(labels > 0, iterations=2)
    bodies = {
        n: gzip.GzipFile(folder / f"body{n}", "wb", compresslevel=1, mtime=0) for n in (few, middle, many - middle)
    }
    for t, volume in enumerate(participant.volumes(labels, affine, max(bodies))):
        for n, body in bodies.items():
            if t < n:
                body.write(volume.tobytes(order="F"))
    for body in bodies.values():
        body.close()
    for name, origin in ORIGINS.items():
        affine[:3, 3] = origin
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), folder / f"mask-{name}.nii.gz")
        for n, parts in ((few, [few]), (middle, [middle]), (many, [middle, many - middle])):
            header = nib.Nifti1Header()
            header.set_data_dtype(np.int16)
            header.set_data_shape((*grid["shape"], n))
            header.set_zooms((*[grid["voxel"]] * 3, TR))
            header.set_xyzt_units("mm", "sec")
            header.set_sform(affine, code=4)
            header.set_slope_inter(1, 0)
            with (folder / f"{name}-{n}.nii.gz").open("wb") as file:
                with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
                    header.write_to(packed)
                for part in parts:
                    file.write((folder / f"body{part}").read_bytes())
    print(json.dumps({"mb": (folder / f"shifted-{middle}.nii.gz").stat().st_size / 1e6, "voxels": int(mask.sum())}))


# -------------------------------------------------------------------------------------------------------- the children


def imports():
    """Import what the others need."""
    import nibabel as nib
    import numpy as np

    from bids_fmmtc.modalities.neurostorm_config import PUBLISHED, clip_form
    from bids_fmmtc.signals import placement, volumes
    from bids_fmmtc.signals.atlas import labels_on_grid, read_atlas
    from bids_fmmtc.signals.parcellate import frames, parcellate, read_header

    return (
        nib,
        np,
        clip_form(PUBLISHED),
        (placement, volumes),
        (read_atlas, labels_on_grid),
        (read_header, frames, parcellate),
    )


def gunzip(path):
    """Read a gzipped file into one buffer of a megabyte."""
    from isal import igzip

    view, total = memoryview(bytearray(1 << 20)), 0
    with igzip.open(path, "rb") as file:
        while n := file.readinto(view):
            total += n
    print(json.dumps({"bytes": total}))


def clips(path, mask, atlas):
    """Bring a recording to clips, as `signals.source` does; with an atlas, to parcel series in the first pass, too."""
    nib, np, form, (placement, volumes), (read_atlas, labels_on_grid), (read_header, frames, parcellate) = imports()
    start = time.process_time()
    header = read_header(path)
    inside = np.asanyarray(nib.load(mask).dataobj) > 0
    sums = volumes.FrameSums(placement.place_image(header, inside, form), header)
    placed = time.process_time()
    n = header.shape[3]
    if atlas is None:
        for raw in frames(header):
            sums.add(raw)
    else:
        grid = labels_on_grid(read_atlas(atlas), header.shape[:3], header.affine)
        parcellate(header, grid, inside, TR, 0.5, np.ones(n, bool), [sums.add])
    summed = time.process_time()
    clocks = volumes.clocks_of(np.ones(n, bool), TR, form.seconds)
    wanted = volumes.plan_clips(clocks, np.array([[0.0, n * TR]]), TR, form)
    found, check = 0, 0.0
    for _, clip in volumes.stream_clips(header, sums.placed, sums.scale(clocks), wanted, form):
        found, check = found + 1, check + float(clip[0, 48, 48, 48])
    end = time.process_time()
    stages = {"placing": placed - start, "first pass": summed - placed, "clips": end - summed}
    print(json.dumps({"clips": found, "check": check, "foreground": len(sums.placed.places), "stages": stages}))


# ---------------------------------------------------------------------------------------------------------- the parent


def variants(grid):
    """Return label -> what a child is told."""
    few, middle, many = grid["frames"]
    return {
        "imports": ["imports"],
        "gunzip alone, isal": ["gunzip", "shifted", middle],
        "clips": ["clips", "shifted", middle],
        "clips, grids aligned": ["clips", "aligned", middle],
        "clips and parcel series": ["both", "shifted", middle],
        f"clips of {few} frames": ["clips", "shifted", few],
        f"clips of {many} frames": ["clips", "shifted", many],
    }


def measure(folder, *told):
    """Start one child and return its figures; the parent stays small, as its memory counts towards a child's peak."""
    command = [sys.executable, __file__, "--child", str(folder), *map(str, told)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | threads) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the child for {told} ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"cpu_s": cpu, "peak_mb": usage.ru_maxrss / 1024, **json.loads(output)}  # kB on Linux


def child(folder, what, *told):
    """Run one child."""
    if what == "make":
        make(folder, json.loads(told[0]))
    elif what == "imports":
        imports()
        print("{}")
    elif what == "gunzip":
        gunzip(folder / f"{told[0]}-{told[1]}.nii.gz")
    else:
        path, mask = folder / f"{told[0]}-{told[1]}.nii.gz", folder / f"mask-{told[0]}.nii.gz"
        clips(path, mask, folder / "atlas" if what == "both" else None)


def summarise(runs):
    """Return medians, and CPU seconds above the imports in units of gunzip's own."""
    table = {}
    for label, found in runs.items():
        table[label] = {k: statistics.median(run[k] for run in found) for k in ("cpu_s", "peak_mb")}
        of_gunzip = [
            (run["cpu_s"] - (0 if run is packed else base["cpu_s"])) / packed["cpu_s"]
            for run, base, packed in zip(found, runs["imports"], runs["gunzip alone, isal"], strict=True)
        ]
        table[label]["of_gunzip"] = statistics.median(of_gunzip)
    return table


def verdicts(table, grid):
    """Yield (met, what was found) for each target."""
    few, _, many = grid["frames"]
    for label in ("clips", "clips, grids aligned"):
        ratio = table[label]["of_gunzip"]
        yield ratio <= TARGET, f"{label}: {ratio:.2f} times the CPU of gunzip alone (target: at most {TARGET:g})"
    memory = max(row["peak_mb"] for row in table.values())
    yield memory <= MOST_MB, f"at most {memory:.0f} MB, imports and all (target: below {MOST_MB})"
    growth = table[f"clips of {many} frames"]["peak_mb"] - table[f"clips of {few} frames"]["peak_mb"]
    yield growth <= GROWTH_MB, f"{many} frames take {growth:.1f} MB more than {few} (target: flat, at most {GROWTH_MB})"


def run(folder, options):
    """Make the recording unless it is there, run all variants in turn, print what was found."""
    grid = QUICK if options.quick else FULL
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "made.json"
    if not record.is_file() or json.loads(record.read_text())["grid"] != json.loads(json.dumps(grid)):
        record.write_text(json.dumps({"grid": grid, **measure(folder, "make", json.dumps(grid))}))
    made = json.loads(record.read_text())
    runs = {label: [] for label in variants(grid)}
    for done in range(options.rounds):
        for label, told in variants(grid).items():
            runs[label].append(measure(folder, *told))
        print(f"round {done + 1} of {options.rounds}", file=sys.stderr)
    table = summarise(runs)
    size = " x ".join(map(str, (*grid["shape"], grid["frames"][1])))
    print(
        f"One recording, {size} int16, {made['mb']:.0f} MB compressed, mask of {made['voxels']} voxels. "
        f"Medians of {options.rounds} fresh processes.\n"
    )
    print("| variant | CPU s | above imports, x gunzip | peak MB |\n|---|---|---|---|")
    for label, row in table.items():
        print(f"| {label} | {row['cpu_s']:.2f} | {row['of_gunzip']:.2f} | {row['peak_mb']:.0f} |")
    stages = {s: statistics.median(r["stages"][s] for r in runs["clips"]) for s in runs["clips"][0]["stages"]}
    print("\nClips: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in stages.items()) + ".\n")
    found = list(verdicts(table, grid))
    if options.quick:
        print("Quick grid: exercises the benchmark; its figures say nothing about the targets.")
    else:
        print("\n".join(f"- {'met' if ok else 'MISSED'}: {what}" for ok, what in found))
    if options.json:
        verdict = [{"met": bool(ok), "what": what} for ok, what in found]
        options.json.write_text(
            json.dumps({"made": made, "median": table, "verdicts": verdict, "runs": runs}, indent=1)
        )


def main():
    """Read the options."""
    import argparse
    import tempfile

    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), *sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all variants (default 3; --quick 1)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the files here, keep them, reuse them")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure here")
    parser.add_argument("--quick", action="store_true", help="a small grid, once, to see that the benchmark works")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    with tempfile.TemporaryDirectory() as folder:
        run(options.keep or Path(folder), options)


if __name__ == "__main__":
    main()
