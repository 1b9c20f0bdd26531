from __future__ import annotations

import json
import os

import pytest
import warm
from browser import assert_clean, check, needs_browser
from patience import patience
from small import content, validate

from bids_fmmtc import demo, synthetic
from bids_fmmtc.dataset.store import read_features, read_table
from bids_fmmtc.learning.bundle.load import load_bundle
from bids_fmmtc.recipe import ModalitySpec, Recipe

SMALL = demo.Size(people=14, new=3, permutations=9, repeats=1)


def start_demo(folder, size=SMALL, encoder=demo.ENCODER, nprocs=2):
    """Run the demo at a reduced size in a process of its own."""
    code = "import sys; from pathlib import Path; from bids_fmmtc.demo import Size, run_demo; "
    code += f"sys.exit(run_demo(Path({str(folder)!r}), {nprocs}, {size!r}, {encoder!r}))"
    return warm.run([], code=code, environ=dict(os.environ), cwd=folder.parent, timeout=patience(900))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The demo's folder and what its process said."""
    folder = tmp_path_factory.mktemp("whole") / "demo"
    return folder, start_demo(folder)


@pytest.mark.slow
def test_the_demo_goes_the_whole_circle(finished):
    folder, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert "As planned, sub-12 failed" in done.stdout
    assert done.stdout.count("Running: bids_fmmtc ") == 3
    assert "synthetic" in done.stdout
    assert "DEMO MODEL" in done.stderr
    for output in ("output", "output-new"):
        assert validate(folder / output) == (0, [])


@pytest.mark.slow
def test_the_model_finds_what_was_planted(finished):
    folder, _ = finished
    analysis = folder / "output" / "group" / demo.ANALYSIS
    found = json.loads((analysis / "evaluation.json").read_text())
    assert found["people"]["sessions"] == SMALL.people - 1
    assert [r["participant_id"] for r in read_table(analysis / "exclusions.tsv")] == ["sub-12"]
    auroc = {name: m["metrics"]["auroc"]["value"] for name, m in found["models"].items() if m["status"] == "ok"}
    assert auroc["model"] >= 0.85
    assert auroc["model"] > max(auroc[name] for name in ("covariates", "motion", "site"))
    assert found["permutation"]["p"] == pytest.approx(1 / (SMALL.permutations + 1))
    top = [r["name"] for r in found["explanation"]["top_parcels"][:12]]
    atlas = read_table(next((folder / "atlas-Demo").glob("*.tsv")))
    planted = {r["name"] for r in atlas if r["network"] == "planted"}
    assert len(planted & set(top)) >= 6  # of 12; by chance 3
    assert (analysis / "trial_plan.json").is_file()
    assert (analysis / "attribution" / "parcels_mean.nii.gz").is_file()


@needs_browser
@pytest.mark.slow
def test_its_pages_are_right_in_a_browser(finished):
    folder, _ = finished
    names = ["output/group_fmmtc", "output-new/sub-101"]
    for name, seen in check({name: folder / f"{name}.html" for name in names}).items():
        assert_clean(seen)
        assert seen.counts["drawings"]
        assert "DEMO MODEL" in (folder / f"{name}.html").read_text()


@pytest.mark.slow
def test_new_people_are_predicted_by_a_model_that_says_demo(finished):
    folder, done = finished
    bundle = load_bundle(folder / "output" / "group" / demo.ANALYSIS / "bundle")
    assert bundle.demo
    assert "DEMO" in (bundle.root / "README.md").read_text()
    people = synthetic.cohort(SMALL.new, demo.FIRST_NEW)
    assert [p.responder for p in people] == [True, True, False]
    for person in people:
        name = f"sub-{person.label}"
        table = folder / "output-new" / name / "func" / f"{name}_task-rest_desc-fmmtc_prediction.tsv"
        (row,) = read_table(table)
        assert (float(row["fmmtc_probability"]) > 0.5) is person.responder
        assert "demo_model" in row["fmmtc_qc"].split(",")
        assert f"{name}  {float(row['fmmtc_probability']):.3f}" in done.stdout
        assert json.loads(table.with_suffix(".json").read_text())["BundleDigest"] == bundle.digest
    assert not list((folder / "output").glob("sub-10?"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """As `finished`, with an encoder of volumes and the fewest people that can be divided into five folds."""
    folder = tmp_path_factory.mktemp("volumes") / "demo"
    # One process: two would compile the encoder's kernels twice.
    return folder, start_demo(folder, demo.Size(people=8, new=1, permutations=3, repeats=1), "neurostorm", 1)


@pytest.mark.slow
def test_it_goes_the_whole_circle_with_an_encoder_of_volumes(volumes):
    folder, done = volumes
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Running: bids_fmmtc ") == 3
    assert "cut off on purpose" not in done.stdout  # sub-12 is not among them
    assert validate(folder / "output-new") == (0, [])
    for path in folder.glob("output*/sub-*/func/*_features.json"):
        arrays = read_features(path)
        assert arrays.arrays.keys() == {"neurostorm", "fc"}
        width = synthetic.VOLUME_ENCODER["embed_dim"] * 2
        assert arrays.arrays["neurostorm"].shape == (len(arrays.windows), width)
    assert len(list(folder.glob("output*/sub-*/func/*_features.json"))) == 10  # sub-01 has two runs


@pytest.mark.slow
def test_its_model_of_volumes_says_demo_wherever_the_other_does(volumes):
    folder, done = volumes
    bundle = load_bundle(folder / "output" / "group" / demo.ANALYSIS / "bundle")
    assert bundle.demo
    assert [m.name for m in bundle.recipe.modalities] == ["neurostorm", "fc"]
    assert "DEMO" in (bundle.root / "README.md").read_text()
    assert "DEMO MODEL" in done.stderr
    for page in ("output/group_fmmtc", "output/group/demo/bundle", "output-new/sub-101"):
        assert "DEMO" in (folder / f"{page}.html").read_text(), page
    (table,) = (folder / "output-new" / "sub-101").glob("func/*_prediction.tsv")
    (row,) = read_table(table)
    assert "demo_model" in row["fmmtc_qc"].split(",")
    assert float(row["fmmtc_probability"]) > 0.5  # sub-101 is a responder
    assert json.loads(table.with_suffix(".json").read_text())["DemoModel"] is True


@pytest.mark.parametrize("encoder", synthetic.ENCODERS)
def test_a_demo_with_another_encoder_is_left_alone(tmp_path, encoder, capsys):
    (other,) = synthetic.ENCODERS.keys() - {encoder}
    (tmp_path / "atlas-Demo").mkdir()
    recipe = Recipe(modalities=(ModalitySpec(other), ModalitySpec("fc")))
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    before = content(tmp_path)
    assert demo.main([str(tmp_path), "--encoder", encoder]) == 73
    assert f"holds a demo with {other}, not with {encoder}" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    assert demo.main([str(tmp_path)]) == 73
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
