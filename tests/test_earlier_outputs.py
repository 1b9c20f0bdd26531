"""Outputs of an earlier version, stored in ``stored/``: read, drawn again, gathered again, trained from again."""

import json
import math
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from small import run

from bids_fmmtc.dataset.store import read_table, write_table
from bids_fmmtc.learning.bundle.load import load_bundle

STORED = Path(__file__).parent / "stored"
PEOPLE = {"participant": ["101", "102"], "imported": ["01", "02"], "group": [f"{n:02}" for n in range(1, 25)]}
QUICK = ["--outcome", "responder", "--site-column", "site", "--covariates", "age", "sex", "--repeats", "1"]
QUICK += ["--permutations", "3", "--analysis-label", "quick", "--control-rate", "0.3", "--no-explanation"]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Return a function that unpacks one of the folders, beside a dataset with its participants, as a new copy."""

    def unpack(name):
        root = tmp_path_factory.mktemp(name)
        with tarfile.open(STORED / f"{name}.tar.xz") as archive:
            archive.extractall(root / "out", filter="data")
        dataset = root / "fmriprep"
        dataset.mkdir()
        description = {"Name": "demo", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
        (dataset / "dataset_description.json").write_text(json.dumps(description))
        whom = [row["participant_id"] for row in read_table(root / "out" / "desc-fmmtc_predictions.tsv")]
        for label in whom:
            (dataset / label).mkdir()
        if name == "group":
            shutil.copy(STORED / "participants.tsv", dataset)
        elif name == "participant":
            write_table(dataset / "participants.tsv", ["participant_id"], [{"participant_id": w} for w in whom])
        return root

    return unpack


def content(folder, *suffixes):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.suffix in suffixes and "logs" not in p.parts
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", PEOPLE)
def test_pages_are_drawn_and_nothing_else_is_touched(unpacked, name):
    root = unpacked(name)
    kept = content(root / "out", ".tsv", ".json", ".safetensors", ".md")
    for level in ("participant", "group"):
        done = run([str(root / "fmriprep"), str(root / "out"), level, "--reports-only", "-w", str(root / "w")])
        assert done.returncode == 0, done.stderr
    assert content(root / "out", ".tsv", ".json", ".safetensors", ".md") == kept
    for label in PEOPLE[name]:
        (row,) = rows(root / "out", label)
        page = (root / "out" / f"sub-{label}.html").read_text()
        assert "cannot be read" not in page
        if row["fmmtc_probability"] != "n/a":
            assert re.search(rf"\b{float(row['fmmtc_probability']):.2f}\b", page)
    everybody = (root / "out" / "group_fmmtc.html").read_text()
    assert "cannot be read" not in everybody
    assert all(f"sub-{label}" in everybody for label in PEOPLE[name])


def rows(out, label):
    return [r for r in read_table(out / "desc-fmmtc_predictions.tsv") if r["participant_id"] == f"sub-{label}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PEOPLE)
def test_gathered_again_the_tables_are_the_same_to_the_byte(unpacked, name):
    root = unpacked(name)
    kept = content(root / "out", ".tsv", ".json")
    for path in (root / "out").glob("desc-fmmtc_*"):
        path.unlink()
    (root / "out" / "phenotype" / "fmmtc.tsv").unlink()
    done = run([str(root / "fmriprep"), str(root / "out"), "group", "-w", str(root / "w")])
    assert done.returncode in {0, 1}, done.stderr
    assert content(root / "out", ".tsv", ".json") == kept


def same(new, old, where=""):
    """Assert that two stored values say the same; what hangs on a machine's arithmetic may differ in the sixth digit.

    Not compared: paths, and the sum over a bundle, in whose card they stand.
    """
    if isinstance(old, dict):
        assert list(old) == [key for key in new if key in old], where
        for key in old:
            if key not in {"Command", "Sources", "digest"}:
                same(new[key], old[key], f"{where}.{key}")
    elif isinstance(old, list):
        assert len(new) == len(old), where
        for i, (a, b) in enumerate(zip(new, old, strict=True)):
            same(a, b, f"{where}[{i}]")
    elif isinstance(old, float) and not isinstance(new, str):
        assert math.isclose(new, old, rel_tol=1e-6, abs_tol=1e-9), where
    else:
        assert new == old, where


@pytest.mark.slow
def test_trained_again_the_evaluation_and_its_tables_say_the_same(unpacked):
    root = unpacked("group")
    new, old = root / "out" / "group" / "quick", root / "quick"
    shutil.move(new, old)
    done = run([str(root / "fmriprep"), str(root / "out"), "group", *QUICK, "-w", str(root / "w")])
    assert done.returncode == 0, done.stderr
    same(json.loads((new / "evaluation.json").read_text()), json.loads((old / "evaluation.json").read_text()))
    for table in old.glob("*.tsv"):
        found, stored = read_table(new / table.name), read_table(table)
        same([numbers(r) for r in found], [numbers(r) for r in stored], table.name)
    assert load_bundle(new / "bundle").recipe.digest == load_bundle(old / "bundle").recipe.digest


def numbers(row):
    """Return a row of text with its numbers as such."""
    found = {}
    for key, text in row.items():
        try:
            found[key] = float(text)
        except ValueError:
            found[key] = text
    return found
