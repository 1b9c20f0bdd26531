"""Attributions of a group, written as tables and maps."""

import gzip
import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from group.parts import study

from bids_fmmtc.cli import parse
from bids_fmmtc.dataset.store import read_table
from bids_fmmtc.errors import SelectionError
from bids_fmmtc.group import explaining, judging
from bids_fmmtc.group.scans import scans_of
from bids_fmmtc.group.study import others_of
from bids_fmmtc.learning.explaining.attribution import SERIES, VOLUMES
from bids_fmmtc.learning.judging.evaluate import final_model
from bids_fmmtc.plain import to_json
from bids_fmmtc.types import Atlas


@pytest.fixture(scope="module")
def case(made, tmp_path_factory):
    found = replace(study(made), folder=tmp_path_factory.mktemp("analysis"))
    learner = judging.contestants(found.cohort, found.setup)[0].learner
    return made, found, final_model(learner, found.cohort, found.scheme.inner, "m")


def settings(root, *words):
    return parse([str(root / "bids"), str(root / "out"), "group", "--outcome", "responder", *words], {})


def asked_of(given):
    return explaining.Asked(given.group.explain, given.group.explain_volumes, given.seed)


def explained(study, final, given):
    found = explaining.explain(study, final, (), asked_of(given), others_of(given), partial(scans_of, settings=given))
    return to_json(found)


def test_planted_parcels_come_first_and_parts_add_up(case):
    root, found, final = case
    said = explained(found, final, settings(root, "--explain", "00"))
    assert [p["network"] for p in said["top_parcels"][:4]] == ["B"] * 4
    assert said["completeness_error"] < 1e-4
    assert said["people"] == 23
    assert said["participants"] == ["sub-00_task-rest"]
    folder = found.folder / "attribution"
    assert len(read_table(folder / "parcels.tsv")) == 12
    assert not list(folder.glob("*.nii.gz"))  # the atlas of imported series is a table
    assert (folder / "sub-00_task-rest" / "attribution.json").is_file()


def test_somebody_who_was_not_learnt_from_cannot_be_explained(case):
    root, found, final = case
    with pytest.raises(SelectionError, match="23"):
        explained(found, final, settings(root, "--explain", "23"))


def test_through_volumes_no_more_people_are_explained_than_were_asked_for(case):
    root, found, _ = case
    through = SimpleNamespace(paths=(SimpleNamespace(map=VOLUMES),))
    series = SimpleNamespace(paths=(SimpleNamespace(map=SERIES),))
    for n in (2, 5):  # of the model's own cohort and of others alike
        assert len(explaining._rows(through, found.cohort, asked_of(settings(root, "--explain-volumes", str(n))))) == n
    assert len(explaining._rows(series, found.cohort, asked_of(settings(root)))) == explaining.THROUGH_ENCODER
    assert explaining._rows(SimpleNamespace(paths=()), found.cohort, asked_of(settings(root))) == list(range(23))


def test_a_map_lies_on_the_atlas_grid(tmp_path):
    labels = np.zeros((2, 3, 4), np.int32)
    labels[0, 0, 0], labels[1, 2, 3] = 1, 2
    xyz = np.zeros((2, 3), np.float32)
    atlas = Atlas("T", "S", labels, np.diag([-2.0, 2, 2, 1]), (5, 9), ("a", "b"), None, xyz, "0" * 64)
    explaining._write_map(tmp_path / "m.nii.gz", [0.5, None], atlas)
    image = nib.Nifti1Image.from_bytes(gzip.decompress((tmp_path / "m.nii.gz").read_bytes()))
    np.testing.assert_array_equal(image.affine, atlas.affine)
    data = np.asarray(image.dataobj)
    assert data[0, 0, 0] == 0.5
    assert np.count_nonzero(data) == 1


@pytest.fixture(scope="module")
def everybody(case, other, tmp_path_factory):
    """Everybody explained one by one, and two other cohorts, of which one is not there; returns the tables' folder."""
    root, found, final = case
    here = replace(found, folder=tmp_path_factory.mktemp("everybody"))
    labels = [subject.removeprefix("sub-") for subject in found.cohort.subjects]
    words = ("--explain", *labels[::-1], "--external", f"gone={here.folder / 'no'}:responder")
    words += ("--external", f"other={other / 'out'}:{other / 'bids' / 'participants.tsv'}:responder")
    explained(here, final, settings(root, *words))
    return here.folder / "attribution"


def column(table, name):
    return np.array([float(row[name]) for row in read_table(table)])


def test_whom_one_asks_for_changes_nothing_of_the_group(case, everybody):
    root, found, final = case
    few = found.folder / "attribution"
    if not few.is_dir():  # this test alone
        explained(found, final, settings(root, "--explain", "00"))
    names = {path.name for path in few.glob("*.tsv")}
    assert names == {"parcels.tsv", "edges.tsv", "networks.tsv", "shares.tsv", "sanity.tsv"}
    for name in names:
        assert (few / name).read_bytes() == (everybody / name).read_bytes()
    assert [path.name for path in few.glob("sub-*")] == ["sub-00_task-rest"]
    assert sorted(path.name for path in everybody.glob("sub-*")) == sorted(found.cohort.keys)


def test_the_group_is_what_its_people_are(case, everybody):
    """Means over people and classes; ``between``, how parcels go along with the score over people."""
    _, found, _ = case
    own = np.array([column(everybody / key / "parcels.tsv", "mean") for key in found.cohort.keys])
    told = [json.loads((everybody / key / "attribution.json").read_text()) for key in found.cohort.keys]
    score, group = np.array([each["score"] for each in told]), everybody / "parcels.tsv"
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(column(group, "mean"), own.mean(axis=0), **close)
    for name, of in (("mean_responder", found.cohort.y == 1), ("mean_non-responder", found.cohort.y == 0)):
        np.testing.assert_allclose(column(group, name), own[of].mean(axis=0), **close)
    slope = (own - own.mean(axis=0)).T @ (score - score.mean()) / ((score - score.mean()) ** 2).sum()
    np.testing.assert_allclose(column(group, "between"), slope, **close)


def test_a_persons_parts_lead_from_the_baseline_to_the_score_the_model_gives(case, everybody):
    _, found, final = case
    told = [json.loads((everybody / key / "attribution.json").read_text()) for key in found.cohort.keys]
    for each in told:
        assert each["baseline_score"] + sum(each["parts"].values()) == pytest.approx(each["score"], rel=1e-3, abs=1e-3)
    probability = final.judge(found.cohort)[0]
    assert np.argsort([each["score"] for each in told]).tolist() == np.argsort(probability).tolist()


def test_another_cohort_stands_beside_it_and_one_that_is_not_there_costs_nothing(everybody):
    assert [path.name for path in everybody.glob("cohort-*")] == ["cohort-other"]
    ranked = sorted(read_table(everybody / "cohort-other" / "parcels.tsv"), key=lambda row: int(row["rank"]))
    assert {row["network"] for row in ranked[:4]} == {"B"}  # where the same effect is planted
    compared = read_table(everybody / "cohort-other" / "compared.tsv")
    (edges,) = [row for row in compared if (row["what"], row["name"]) == ("map by between", "edges")]
    assert float(edges["pearson"]) > 0.9
