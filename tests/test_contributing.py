"""The five diffs of CONTRIBUTING.md are short, fit the package as it is, and show on the page and in the tables."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

import bids_fmmtc
from bids_fmmtc.dataset.store import read_table

PACKAGE, TESTS = Path(bids_fmmtc.__file__).parent, Path(__file__).parent
TEXT = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
DIFFS = dict(re.findall(r"^### (.*?)\n(?:(?!^### ).)*?^```diff\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
ADDED = ("A quality number", "A flag", "A measure", "A part of a page", "A learner")

RUN = """
import sys
from pathlib import Path
from group.parts import group_words, make_features, write_inputs
import bids_fmmtc.pages, bids_fmmtc.cli
root, copy = Path(sys.argv[1]), Path(sys.argv[2])
assert Path(bids_fmmtc.__file__).parent == copy
write_inputs(root, n=12)
make_features(root)
bids_fmmtc.pages.draw_participant(root / "out", "00")
small = ("--folds", "2", "--inner-folds", "2", "--repeats", "1", "--no-explanation")
words = group_words(root, "--head", "direction", *small)
sys.exit(bids_fmmtc.cli.main(words))
"""


def hunks(diff):
    """Yield path, lines that must be there, and lines that take their place, of each hunk."""
    path = ""
    for part in re.split(r"^(--- a/.*\n\+\+\+ b/.*|@@)\n", diff, flags=re.MULTILINE):
        if part.startswith("--- a/"):
            path = part.split("\n")[1].removeprefix("+++ b/bids_fmmtc/")
        elif part and part != "@@":
            lines = part.splitlines()
            old, new = ("\n".join(line[1:] for line in lines if line[:1] != sign) + "\n" for sign in "+-")
            yield path, old, new


def add(copy, diff):
    """Apply a diff to a copy of the package; what it takes for granted must be there exactly once."""
    for path, old, new in hunks(diff):
        text = (copy / path).read_text(encoding="utf-8")
        assert f"\n{text}".count(f"\n{old}") == 1, f"{path} holds this {text.count(old)} times:\n{old}"
        (copy / path).write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(PACKAGE, tmp_path / "there" / "bids_fmmtc", ignore=shutil.ignore_patterns("__pycache__"))


def test_each_thing_that_people_add_has_a_short_diff():
    assert tuple(DIFFS) == ADDED
    for what, diff in DIFFS.items():
        changed = [line for line in diff.splitlines() if re.match(r"[+-](?!--|\+\+)", line)]
        assert 0 < len(changed) <= 15, what


@pytest.mark.parametrize("what", ADDED)
def test_a_diff_fits_the_package_as_it_is_and_our_lint(copy, what):
    add(copy, DIFFS[what])
    pytest.importorskip("ruff", reason="ruff is of the dev extra")
    for words in (["check", "-q"], ["format", "--check", "-q"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *words,
            "--no-cache",
            "--config",
            TESTS.parent / "pyproject.toml",
            copy,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_all_five_show_in_tables_and_on_pages(copy, tmp_path):
    for diff in DIFFS.values():
        add(copy, diff)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FMMTC_")} | {"HOME": str(tmp_path)}
    environ["PYTHONPATH"] = os.pathsep.join(map(str, (copy.parent, TESTS)))
    root = tmp_path / "made"
    command = [sys.executable, "-c", RUN, str(root), str(copy)]
    run = {"capture_output": True, "text": True, "timeout": patience(200)}
    done = subprocess.run(command, env=environ, cwd=tmp_path, check=False, **run)
    assert done.returncode == 0, done.stdout + done.stderr
    scans = read_table(root / "out" / "sub-00" / "sub-00_scans.tsv")
    person, group = ((root / "out" / name).read_text() for name in ("sub-00.html", "group_fmmtc.html"))
    folder = root / "out" / "group" / "responder_direction"
    (model, *_) = read_table(folder / "comparison.tsv")
    # A quality number: a column, a row of the page.
    assert float(scans[0]["fmmtc_fluctuation"]) > 0
    assert "Fluctuation of parcels" in person
    # A flag: in the table, and in words.
    assert "few_parcels" in scans[0]["fmmtc_flags"].split(",")
    assert "Fewer than a hundred parcels" in person
    # A measure: computed, with its interval, in the table and on the page.
    assert float(model["youden"]) == pytest.approx(
        float(model["sensitivity"]) + float(model["specificity"]) - 1, abs=1e-5
    )
    assert float(model["youden_low"]) <= float(model["youden"]) <= float(model["youden_high"])
    assert "Youden" in group
    # A part of a page.
    _, _, part = group.partition("Where its files lie</h2>")
    assert "comparison.tsv" in part.partition("</section>")[0]
    # A learner: judged as the model, and in the bundle.
    assert "the difference of the class means" in model["text"]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert {s["penalty"] for repeat in evaluation["models"]["model"]["settings"] for s in repeat} == {100.0}
    assert evaluation["bundle"]["status"] == "ok"
