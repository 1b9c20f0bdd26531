"""The records of an output dataset, and whether several datasets were made by one recipe."""

import json
from pathlib import Path

import pytest
from outputs import RECIPE, Output, other_recipe

from bids_fmmtc.dataset.derivatives.describe import IMPORTED_KEY
from bids_fmmtc.dataset.derivatives.records import PREPARED_BY, Record, common_recipe, gather, mixed_versions
from bids_fmmtc.dataset.store import write_json
from bids_fmmtc.errors import InputError, MissingInputError, RecipeError
from bids_fmmtc.keys import Key
from bids_fmmtc.recipe import Denoising, SpaceSpec


@pytest.fixture
def out(tmp_path):
    return Output(tmp_path / "out")


def test_records_of_all_layouts_in_natural_order(out):
    keys = [
        "sub-2_task-rest_run-1", "sub-2_task-rest_run-2", "sub-2_task-rest_run-10",
        "sub-10_ses-a_task-rest_acq-x_dir-AP", "sub-10_ses-b_task-pain",
    ]  # fmt: skip
    for key in reversed(keys):
        out.add(key)
    out.fail("sub-30", "selection", "no recording.")
    (out.root / "sub-2" / "func" / "notes_features.json.bak").touch()
    (out.root / "logs").mkdir()
    (out.root / "logs" / "x_features.json").touch()
    records = gather([out.root])
    assert [record.key for record in records] == [*keys, "sub-30"]
    assert [record.participant for record in records] == ["sub-2"] * 3 + ["sub-10"] * 2 + ["sub-30"]
    assert [record.session for record in records] == [None] * 3 + ["a", "b", None]
    assert [record.task for record in records] == ["rest"] * 4 + ["pain", None]
    assert [bool(record.problem) for record in records] == [False] * 5 + [True]
    assert records[-1].problem == "failed: selection: no recording. Mend it."
    assert gather([]) == ()


def test_a_broken_renamed_or_moved_record_is_a_problem_of_where_it_lies(out):
    broken, renamed, moved = out.add("sub-1_task-rest"), out.add("sub-2_task-rest"), out.add("sub-3_ses-a_task-rest")
    broken.write_text("{")
    renamed.rename(renamed.with_name(renamed.name.replace("rest", "pain")))
    target = out.root / "sub-4" / "func" / moved.name
    target.parent.mkdir(parents=True)
    moved.rename(target)
    first, second, third = gather([out.root])
    assert (first.key, first.problem) == ("sub-1_task-rest", f"{broken.name} cannot be read.")
    assert second.key == "sub-2_task-pain"
    assert "is the record of sub-2_task-rest: it was renamed or moved" in second.problem
    assert (third.key, third.participant) == ("sub-4", "sub-4")
    assert "record of sub-3_ses-a_task-rest" in third.problem


def test_a_record_in_another_session_folder_is_moved_too(out):
    path = out.add("sub-1_ses-a_task-rest")
    (out.root / "sub-1" / "ses-a").rename(out.root / "sub-1" / "ses-b")
    (record,) = gather([out.root])
    assert record.path.name == path.name
    assert "renamed or moved" in record.problem


def test_one_recipe(tmp_path, out):
    same = Output(tmp_path / "same")
    recipes, notes = common_recipe([out.root, same.root])
    assert recipes == {out.root: RECIPE, same.root: RECIPE}
    assert notes == ()


def test_the_space_rule_may_differ_and_is_told(tmp_path, out):
    other = Output(tmp_path / "other", other_recipe(space=SpaceSpec("affine")))
    (note,) = common_recipe([out.root, other.root])[1]
    assert 'space.on_mismatch: "warp" there, "affine" here' in note


def test_imported_series_beside_images_are_told(tmp_path, out):
    other = Output(tmp_path / "other")
    path = other.root / "dataset_description.json"
    data = json.loads(path.read_text())
    data["GeneratedBy"][0][IMPORTED_KEY] = True
    write_json(path, data)
    (note,) = common_recipe([out.root, other.root])[1]
    assert note == f"of {out.root} and {other.root}, one was imported as series and one extracted from images."


def test_any_other_difference_is_named(tmp_path, out):
    other = Output(tmp_path / "other", other_recipe(space=SpaceSpec("affine"), denoising=Denoising("simple")))
    with pytest.raises(RecipeError, match=r': denoising\.strategy: "none" there, "simple" here\. ') as caught:
        common_recipe([out.root, other.root])
    assert "space" not in caught.value.message.split("there):")[1]


def test_folders_that_are_not_ours(tmp_path, out):
    with pytest.raises(MissingInputError, match="does not exist"):
        common_recipe([tmp_path / "nowhere"])
    for description in ({}, {"GeneratedBy": [{"Name": "fMRIPrep"}, {"Name": "bids_fmmtc"}]}, {"GeneratedBy": "x"}):
        write_json(tmp_path / "foreign" / "dataset_description.json", description)
        with pytest.raises(InputError, match="does not name bids_fmmtc"):
            common_recipe([tmp_path / "foreign"])
    path = out.root / "dataset_description.json"
    data = json.loads(path.read_text())
    del data["GeneratedBy"][0]["Recipe"]
    write_json(path, data)
    with pytest.raises(RecipeError):
        common_recipe([out.root])


def test_several_versions_of_fmriprep_in_one_cohort_are_told():
    def record(label, version, problem=""):
        content = {} if version is None else {PREPARED_BY: version}
        return Record(Key(f"sub-{label}_task-rest"), Path("/o"), Path("/o/x"), content, problem)

    assert mixed_versions([record("01", "25.2.3"), record("02", "25.2.3"), record("03", None)]) == ()
    assert mixed_versions([record("01", "25.2.3"), record("02", "20.2.7", problem="failed")]) == ()
    (said,) = mixed_versions([record("01", "25.2.3"), record("02", "20.2.7"), record("03", "20.2.7")])
    assert "20.2.7 (2 people), 25.2.3 (1 people)" in said


def test_features_of_several_versions_of_this_program_are_told():
    made = [
        Record(Key(f"sub-{i}_task-rest"), Path("/o"), Path("/o/x"), {"SoftwareVersion": f"0.{i}.0"}, "") for i in (1, 2)
    ]
    (said,) = mixed_versions(made)
    assert "0.1.0 (1 people), 0.2.0 (1 people)" in said
    assert "run the participant level again" in said
