from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from small import content, validate

from bids_fmmtc import demo
from bids_fmmtc.dataset.store import read_table
from bids_fmmtc.learning.bundle import load_bundle
from bids_fmmtc.signals.atlas import read_atlas


def test_the_cohort_is_balanced():
    people = demo.cohort()
    assert len(people) == 12
    assert sum(p.responder for p in people) == 6
    for site in ("north", "south"):
        assert sum(p.responder for p in people if p.site == site) == 3


def test_the_effect_is_in_the_planted_parcels_only():
    people = demo.cohort(40)
    planted = list(demo.PLANTED)
    others = [i for i in range(demo.N_PARCELS) if i not in planted]

    def coupling(person, parcels):
        matrix = np.corrcoef(demo.parcel_series(person, 1)[:, parcels].T)
        return matrix[np.triu_indices(len(parcels), 1)].mean()

    for parcels, effect in ((planted, True), (others, False)):
        yes = np.mean([coupling(p, parcels) for p in people if p.responder])
        no = np.mean([coupling(p, parcels) for p in people if not p.responder])
        assert bool(yes - no > 0.2) is effect


def test_atlas_and_model_are_repeatable(tmp_path):
    for name in ("a", "b"):
        demo.write_atlas(tmp_path / name / "atlas-Demo")
        demo.write_model(tmp_path / name / "model", tmp_path / name / "atlas-Demo")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    atlas = read_atlas(tmp_path / "a" / "atlas-Demo")
    assert atlas.n_parcels == demo.N_PARCELS
    assert set(atlas.networks) == {"planted", "anterior", "posterior"}
    bundle = load_bundle(tmp_path / "a" / "model")
    assert bundle.demo
    assert "DEMO" in (bundle.root / "README.md").read_text()


@pytest.mark.slow
def test_the_demo_runs_as_the_readme_says(tmp_path):
    words = [sys.executable, "-m", "bids_fmmtc.demo", str(tmp_path / "demo")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DEMO MODEL" in done.stderr
    assert "As planned, sub-12 failed" in done.stdout
    output = tmp_path / "demo" / "output"
    for person in demo.cohort():
        table = output / f"sub-{person.label}" / "func" / f"sub-{person.label}_task-rest_desc-fmmtc_prediction.tsv"
        (row,) = read_table(table)
        assert ("demo_model" in row["fmmtc_qc"]) is (person.label != demo.BROKEN)
        assert (row["fmmtc_probability"] == "n/a") is (person.label == demo.BROKEN)
    assert validate(output) == (0, [])


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    assert demo.main([str(tmp_path)]) == 73
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
