"""Attributions of a group, written as tables and maps."""

import gzip
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from group.parts import study

from bids_fmmtc.cli import parse
from bids_fmmtc.dataset.store import read_table
from bids_fmmtc.errors import SelectionError
from bids_fmmtc.group import explaining, judging
from bids_fmmtc.learning.explaining.attribution import SERIES, VOLUMES
from bids_fmmtc.learning.judging.evaluate import final_model
from bids_fmmtc.types import Atlas


@pytest.fixture(scope="module")
def case(made, tmp_path_factory):
    from dataclasses import replace

    found = replace(study(made), folder=tmp_path_factory.mktemp("analysis"))
    learner = judging.contestants(found.cohort, found.setup)[0].learner
    return made, found, final_model(learner, found.cohort, found.scheme.inner, "m")


def settings(root, *words):
    return parse([str(root / "bids"), str(root / "out"), "group", "--outcome", "responder", *words], {})


def test_planted_parcels_come_first_and_parts_add_up(case):
    root, found, final = case
    said = explaining.explain(found, final, (), settings(root, "--explain", "00"))
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
        explaining.explain(found, final, (), settings(root, "--explain", "23"))


def test_through_volumes_no_more_people_are_explained_than_were_asked_for(case):
    root, found, _ = case
    through = SimpleNamespace(paths=(SimpleNamespace(map=VOLUMES),))
    series = SimpleNamespace(paths=(SimpleNamespace(map=SERIES),))
    for n in (2, 5):  # of the model's own cohort and of others alike
        assert len(explaining._rows(through, found.cohort, settings(root, "--explain-volumes", str(n)))) == n
    assert len(explaining._rows(series, found.cohort, settings(root))) == explaining.THROUGH_ENCODER
    assert explaining._rows(SimpleNamespace(paths=()), found.cohort, settings(root)) == list(range(23))


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
