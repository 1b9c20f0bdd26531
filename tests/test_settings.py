"""Settings and tasks: a task goes to its process as JSON and must arrive whole."""

import json
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.settings import Settings, Task, failure_to_json
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
def test_a_task_comes_back_from_json(task):
    again = Task.from_json(json.loads(json.dumps(task.to_json(), allow_nan=False)))
    assert again == task
    assert again.recipe.digest == task.recipe.digest


def test_every_field_of_a_task_is_in_its_json():
    assert set(FULL.to_json()) == {f.name for f in fields(Task)}
    # None of them at its default, or the round trip above would not see that it is lost.
    assert not [f.name for f in fields(Task) if getattr(FULL, f.name) == f.default]


def test_a_failure_is_plain_json():
    (failure,) = FULL.failures
    assert Failure(**failure_to_json(failure)) == failure
    assert json.loads(json.dumps(failure_to_json(failure))) == failure_to_json(failure)


def test_settings_are_frozen_and_need_three_values():
    settings = Settings(Path("/in"), Path("/out"), "participant")
    assert settings.tasks == ("rest",)
    assert settings.model is None
    assert not settings.dry_run
    with pytest.raises(FrozenInstanceError):
        settings.nprocs = 2
