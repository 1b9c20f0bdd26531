"""Small synthetic cohorts for the tests of whole runs, and ways to start the program as a user would."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import warm
from patience import patience

from bids_fmmtc import synthetic
from bids_fmmtc.dataset.store import read_table
from bids_fmmtc.recipe import AtlasSpec, Recipe, Windows
from bids_fmmtc.signals.atlas import read_atlas

SHARED = Path(__file__).parents[1].parent / "shared"


@cache
def _atlas() -> dict[str, bytes]:
    """Files of the demo's atlas, made once a process: name -> bytes."""
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write_atlas(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write_inputs(root: Path, people: list[synthetic.Person]) -> Path:
    """Write atlas, cohort and a features-only recipe below ``root``; return the derivative dataset."""
    atlas = root / "atlas-Demo"
    atlas.mkdir(parents=True)
    for name, data in _atlas().items():
        (atlas / name).write_bytes(data)
    synthetic.write_cohort(root / "fmriprep", atlas, people)
    found = read_atlas(atlas)
    recipe = Recipe(
        atlas=AtlasSpec(found.name, found.sha256, found.n_parcels), windows=Windows(100, 80, short_least=50)
    )
    (root / "recipe.json").write_text(json.dumps(recipe.to_json()))
    return root / "fmriprep"


def command(root: Path, *more: str, output: str = "out") -> list[str]:
    """Return the command line of a features-only run on `write_inputs`."""
    words = [str(root / "fmriprep"), str(root / output), "participant", "--atlas", str(root / "atlas-Demo")]
    if "--model" not in more:
        words += ["--recipe", str(root / "recipe.json")]
    return [*words, "-w", str(root / f"work-{output}"), *more]


def run_fresh(words: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m bids_fmmtc`` as a user does."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FMMTC_")}
    return subprocess.run(
        [sys.executable, "-m", "bids_fmmtc", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**clean, **environ},
        timeout=patience(300),
    )


def run(words: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, forked where all is imported: see `warm`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FMMTC_")}
    return warm.run(words, environ={**clean, **environ}, cwd=Path.cwd(), timeout=patience(300))


def start(words: list[str], **environ: str) -> subprocess.Popen[str]:
    """Start ``python -m bids_fmmtc`` and return at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "bids_fmmtc", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )


def prefix(root: Path, label: str) -> Path:
    """Return the path of a participant's files up to ``_desc-`` or ``_space-``."""
    return root / "fmriprep" / f"sub-{label}" / "func" / f"sub-{label}_task-rest"


def work(root: Path, output: str = "out") -> Path:
    """Return the folder of task files below ``--work-dir``."""
    (found,) = (root / f"work-{output}").glob("bids_fmmtc-*")
    return found


def processes(*words: str) -> list[int]:
    """Return the processes whose command line holds all of these words."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace") if entry.name.isdigit() else ""
        except OSError:
            continue
        if line and all(word in line for word in words) and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def bold(root: Path, label: str) -> Path:
    """Return the path of a participant's image."""
    return Path(f"{prefix(root, label)}_space-{synthetic.SPACE}_desc-preproc_bold.nii.gz")


def mask(root: Path, label: str) -> Path:
    """Return the path of a participant's brain mask."""
    return Path(f"{prefix(root, label)}_space-{synthetic.SPACE}_desc-brain_mask.nii.gz")


def move_affine(path: Path, millimetres: float) -> None:
    """Shift an image in world space."""
    img = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    affine = img.affine.copy()
    affine[:3, 3] += millimetres
    path.write_bytes(gzip.compress(nib.Nifti1Image(np.asanyarray(img.dataobj), affine, img.header).to_bytes(), 1))


def content(root: Path, *, but: tuple[str, ...] = ("logs",)) -> dict[str, str]:
    """Return relative path -> sha256 of every file below ``root``, leaving out the named top folders."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.relative_to(root).parts[0] not in but]
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def scans(root: Path, label: str, output: str = "out") -> list[dict[str, str]]:
    """Return the rows of a participant's scans.tsv."""
    return read_table(root / output / f"sub-{label}" / f"sub-{label}_scans.tsv")


def validate(folder: Path) -> tuple[int, list[tuple[str, str]]]:
    """Run the real BIDS validator; return its exit code and the (severity, code) of what it found."""
    done = subprocess.run(
        [Path(sys.executable).with_name("bids-validator-deno"), str(folder), "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return done.returncode, [(i["severity"], i["code"]) for i in issues]
