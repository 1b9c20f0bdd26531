"""Settings and tasks: a task goes to its process as JSON and must arrive whole."""

import json
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from bids_fmmtc.errors import DataError
from bids_fmmtc.plain import to_json
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.settings import Settings, Task, read_task
from bids_fmmtc.types import Failure, Recording

RECORDING = Recording(
    "01", "a", "rest", "1", (("acq", "x"),), "S", "2", Path("/d/b.nii"), Path("/d/m.nii"), None, 2.0, Path("/d")
)
FULL = Task(
    subject="01",
    recordings=(RECORDING,),
    failures=(Failure("sub-01_task-rest_run-2", "discover", "missing", "not there.", "Get it.", "/t.txt"),),
    recipe=Recipe(modalities=(ModalitySpec("brainlm", "0" * 64, {"a": 1}), ModalitySpec("fc"))),
    output=Path("/out"),
    atlas=Path("/atlas"),
    bundle=Path("/bundle"),
    bundle_digest="1" * 64,
    weights={"brainlm": Path("/w")},
    transform=Path("/t.h5"),
    links={"fmriprep": Path("/d")},
    device="cuda",
    threads=3,
    seed=7,
)
BARE = Task("02", (), (), Recipe(), Path("/out"), Path("/atlas"))


@pytest.mark.parametrize("task", [FULL, BARE], ids=["full", "bare"])
def test_a_task_comes_back_from_its_file(task, tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps({**to_json(task), "software": "0", "inputs": {}}, allow_nan=False))
    again = read_task(path)
    assert again == task
    assert again.recipe.digest == task.recipe.digest


def test_every_field_of_a_task_is_in_its_json():
    assert set(to_json(FULL)) == {f.name for f in fields(Task)}
    # None of them at its default, or the round trip above would not see that it is lost.
    assert not [f.name for f in fields(Task) if getattr(FULL, f.name) == f.default]


def test_a_file_that_is_no_task_is_named(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps({**to_json(BARE), "recordings": [{"subject": 1}]}))
    with pytest.raises(DataError, match=r"task\.json\.recordings\[0\]: field session is missing"):
        read_task(path)


def test_settings_are_frozen_and_need_three_values():
    settings = Settings(Path("/in"), Path("/out"), "participant")
    assert settings.tasks == ("rest",)
    assert settings.model is None
    assert not settings.dry_run
    with pytest.raises(FrozenInstanceError):
        settings.nprocs = 2
