from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from small import content
from untrained import write_model

from bids_fmmtc import synthetic
from bids_fmmtc.dataset.store import read_table
from bids_fmmtc.learning.bundle.load import load_bundle
from bids_fmmtc.modalities import load_modality
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.signals.atlas import read_atlas


@pytest.mark.parametrize("n", [12, 24])
def test_the_cohort_is_balanced(n):
    people = synthetic.cohort(n)
    assert [p.label for p in people] == [f"{i:02d}" for i in range(1, n + 1)]
    assert sum(p.responder for p in people) == n // 2
    for site in ("north", "south"):
        assert sum(p.responder for p in people if p.site == site) == n // 4
    for sex in "FM":
        assert sum(p.responder for p in people if p.sex == sex) == n // 4
    ages = {who: [p.age for p in people if p.responder is who] for who in (True, False)}
    assert abs(np.mean(ages[True]) - np.mean(ages[False])) < 5
    assert sum(p.runs for p in people) == n + 1


def test_new_people_are_other_people():
    known, new = synthetic.cohort(24), synthetic.cohort(4, 101)
    assert not {p.label for p in known} & {p.label for p in new}
    assert sorted(p.responder for p in new) == [False, False, True, True]
    assert {p.site for p in new if p.responder} == {p.site for p in new if not p.responder} == {"north", "south"}
    assert all(p.runs == 1 for p in new)
    signals = [synthetic.parcel_series(p, 1) for p in (*known, *new)]
    assert len({x.tobytes() for x in signals}) == 28


def test_the_effect_is_in_the_planted_parcels_only():
    people = synthetic.cohort(40)
    planted = list(synthetic.PLANTED)
    others = [i for i in range(synthetic.N_PARCELS) if i not in planted]

    def coupling(person, parcels):
        matrix = np.corrcoef(synthetic.parcel_series(person, 1)[:, parcels].T)
        return matrix[np.triu_indices(len(parcels), 1)].mean()

    for parcels, effect in ((planted, True), (others, False)):
        yes = np.mean([coupling(p, parcels) for p in people if p.responder])
        no = np.mean([coupling(p, parcels) for p in people if not p.responder])
        assert bool(yes - no > 0.2) is effect


def test_atlas_encoder_and_recipe_are_repeatable(tmp_path):
    for name in ("a", "b"):
        synthetic.write_atlas(tmp_path / name / "atlas-Demo")
        for encoder, write in synthetic.ENCODERS.items():
            write(tmp_path / name / encoder)
        write_model(tmp_path / name / "model", tmp_path / name / "atlas-Demo")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    atlas = read_atlas(tmp_path / "a" / "atlas-Demo")
    assert atlas.n_parcels == synthetic.N_PARCELS
    assert set(atlas.networks) == {"planted", "anterior", "posterior"}
    bundle = load_bundle(tmp_path / "a" / "model")
    assert bundle.demo
    assert "DEMO" in (bundle.root / "README.md").read_text()
    recipe = synthetic.recipe(tmp_path / "a" / "atlas-Demo", tmp_path / "a" / "brainlm")
    assert recipe == bundle.recipe
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))).digest == recipe.digest
    assert [m.name for m in recipe.modalities] == ["brainlm", "fc"]
    assert (recipe.windows.length, recipe.windows.stride) == (synthetic.WINDOW, synthetic.STRIDE)


@pytest.mark.parametrize("name", synthetic.ENCODERS)
def test_an_encoder_of_either_kind_is_one_that_a_recipe_can_name(tmp_path, demo_atlas, name):
    synthetic.ENCODERS[name](tmp_path)
    recipe = synthetic.recipe(demo_atlas, tmp_path, name)
    spec = recipe.modalities[0]
    assert [m.name for m in recipe.modalities] == [name, "fc"]
    assert load_modality(spec, recipe, tmp_path).name == name


def test_a_cohort_is_written_with_or_without_its_outcome(tmp_path, demo_atlas):
    person, broken = synthetic.cohort(12)[1], synthetic.cohort(12)[-1]
    assert broken.label == synthetic.BROKEN
    synthetic.write_cohort(tmp_path / "with", demo_atlas, [person, broken])
    synthetic.write_cohort(tmp_path / "without", demo_atlas, [person], outcome=False)
    rows = read_table(tmp_path / "with" / "participants.tsv")
    assert [(r["participant_id"], r["responder"]) for r in rows] == [
        ("sub-02", str(int(person.responder))),
        ("sub-12", str(int(broken.responder))),
    ]
    (row,) = read_table(tmp_path / "without" / "participants.tsv")
    assert set(row) == {"participant_id", "site", "age", "sex"}
    images = {f"sub-{n}": next((tmp_path / "with" / f"sub-{n}" / "func").glob("*bold.nii.gz")) for n in ("02", "12")}
    gzip.decompress(images["sub-02"].read_bytes())
    with pytest.raises(EOFError):
        gzip.decompress(images["sub-12"].read_bytes())
    generated = json.loads((tmp_path / "with" / "dataset_description.json").read_text())["GeneratedBy"]
    assert [g["Name"] for g in generated] == ["bids_fmmtc-demo"]
