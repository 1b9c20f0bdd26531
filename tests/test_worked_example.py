"""The encoder of volumes in docs/add-an-encoder.md does what the page says, added to a copy of the program."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from patience import patience
from safetensors.numpy import save_file
from small import bold, command, mask, write_inputs

import bids_fmmtc
from bids_fmmtc.dataset.store import read_features
from bids_fmmtc.synthetic import Person

PACKAGE = Path(bids_fmmtc.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "add-an-encoder.md").read_text(encoding="utf-8")
_, _, EXAMPLE = PAGE.partition("### A worked example\n")
CODE, LINE = re.findall(r"^```python\n(.*?)^```", EXAMPLE, re.DOTALL | re.MULTILINE)
(RECIPE,) = re.findall(r"^```json\n(.*?)^```", EXAMPLE, re.DOTALL | re.MULTILINE)

BRIGHT = (0, 1, 0)
"""The eighth that is made brighter: left, front, bottom."""


def test_it_is_short():
    assert len(CODE.splitlines()) < 60
    assert len(LINE.splitlines()) == 1


def add_to(copy: Path) -> None:
    """Add the example to a copy of the package, as a reader would."""
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "modalities" / "octants.py").write_text(CODE, encoding="utf-8")
    table = copy / "modalities" / "__init__.py"
    head, start, tail = table.read_text(encoding="utf-8").partition("TABLE: dict[str, Entry] = {\n")
    assert start
    table.write_text(head + start + LINE + tail, encoding="utf-8")


def store(path: Path, data, affine, header) -> None:
    image = nib.Nifti1Image(data, affine, header)
    path.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))


def write_images(root: Path) -> None:
    """Make one eighth of sub-01 brighter, and let sub-02 be the same brain, stored from right to left."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(bold(root, "01").read_bytes()))
    at = np.moveaxis(np.indices(image.shape[:3]), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3]
    eighth = ((at > [0, -18, 16]) == np.array(BRIGHT, bool)).all(axis=-1)
    data = np.asanyarray(image.dataobj).copy()
    data[eighth] = data[eighth] * 3 // 2
    store(bold(root, "01"), data, image.affine, image.header)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = image.shape[0] - 1
    store(bold(root, "02"), data[::-1], image.affine @ flip, image.header)
    inside = nib.Nifti1Image.from_bytes(gzip.decompress(mask(root, "01").read_bytes()))
    store(mask(root, "02"), np.asanyarray(inside.dataobj)[::-1], image.affine @ flip, inside.header)


def run_copy(root: Path, output: str) -> subprocess.CompletedProcess[str]:
    """Run the participant level of the copy, in a folder that python -m finds no other one in."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FMMTC_")}
    return subprocess.run(
        [sys.executable, "-m", "bids_fmmtc", *command(root, output=output), "--encoder-weights", str(root / "weights")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={**clean, "PYTHONPATH": str(root / "program")},
        timeout=patience(300),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a participant run of the copy with the example in it, and what the run said."""
    root = tmp_path_factory.mktemp("example")
    add_to(root / "program" / "bids_fmmtc")
    write_inputs(root, [Person("01", "north", True, 50, "F"), Person("02", "south", False, 40, "M")])
    write_images(root)
    recipe = json.loads((root / "recipe.json").read_text())
    (root / "recipe.json").write_text(json.dumps({**recipe, **json.loads(RECIPE)}))
    (root / "weights").mkdir()
    (root / "weights" / "config.json").write_text("{}")
    save_file({"matrix": np.eye(16, dtype=np.float32)}, root / "weights" / "model.safetensors")
    return root, run_copy(root, "out")


def vectors(root, label):
    (path,) = (root / "out").glob(f"sub-{label}/func/*_features.json")
    return read_features(path).arrays["octants"], json.loads(path.read_text())


@pytest.mark.slow
def test_it_runs_as_the_page_says(finished):
    root, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    for label in ("01", "02"):
        found, record = vectors(root, label)
        assert found.shape == (3, 16)
        assert record["Modalities"]["octants"] == {"Shape": [16]}


@pytest.mark.slow
def test_its_numbers_lie_where_the_brain_does(finished):
    root, _ = finished
    one, two = (vectors(root, label)[0] for label in ("01", "02"))
    place = int(np.ravel_multi_index(BRIGHT, (2, 2, 2)))
    means = one[:, :8]
    assert (means.argmax(axis=1) == place).all()
    mirrored = int(np.ravel_multi_index((1 - BRIGHT[0], *BRIGHT[1:]), (2, 2, 2)))
    assert (means[:, place] > means[:, mirrored] + 0.1).all()
    np.testing.assert_allclose(one, two, atol=1e-4)


@pytest.mark.slow
def test_weights_that_are_not_its_own_end_the_run_by_name(finished):
    root, _ = finished
    save_file({"other": np.eye(16, dtype=np.float32)}, root / "weights" / "model.safetensors")
    done = run_copy(root, "wrong")
    assert done.returncode == 65
    assert "holds {'other': (16, 16)}, not the matrix (H, 16)" in done.stderr
    assert not (root / "wrong").exists()
