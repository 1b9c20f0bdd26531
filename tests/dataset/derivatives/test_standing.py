"""What a failed attempt leaves of finished results: everything, and a note; stale only where a change is proven."""

import json

import pytest

from bids_fmmtc.dataset.derivatives.standing import (
    attempt_reason,
    find_standing,
    holds_results,
    made_by,
    settled,
    stale_reason,
)
from bids_fmmtc.dataset.find.fingerprint import fingerprint
from bids_fmmtc.dataset.store import Layout, write_json
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.types import Failure, Recording

FAILURE = Failure("sub-01_task-rest", "process", "killed", "by SIGKILL.")
BOTH = Recipe(modalities=(ModalitySpec("brainlm", "0" * 64), ModalitySpec("fc")))


@pytest.fixture
def recording(tmp_path):
    bold = tmp_path / "in" / "bold.nii.gz"
    bold.parent.mkdir()
    bold.write_bytes(b"image" * 100)
    return Recording("01", None, "rest", None, (), "S", None, bold, None, None, 2.0, tmp_path)


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "out", "A")


@pytest.fixture
def record(recording, layout):
    path = layout.derivative(recording, "features", ".json")
    output = path.with_name("sub-01_timeseries.tsv")
    write_json(
        path,
        {
            "Key": recording.key,
            "Status": "ok",
            "RecipeDigest": Recipe().digest,
            "Modalities": {"fc": {"Shape": [3, 3]}},
            "InputFingerprint": fingerprint(recording),
            "Outputs": [layout.relative(output)],
        },
    )
    output.touch()
    return path


def standing(recording, layout, recipe=None, known=True):
    return find_standing(
        recording.key, recording if known else None, layout, layout.folder("01", None), recipe or Recipe()
    )


def test_a_note_is_added_and_taken_away_to_the_byte(recording, layout, record):
    before = record.read_bytes()
    (found,) = standing(recording, layout)
    assert (found.state, found.changed, found.record) == ("ok", (), record)
    noted = found.noted(FAILURE)
    assert attempt_reason(noted) == "killed: by SIGKILL."
    assert noted["LastAttempt"]["Stage"] == "process"
    write_json(record, noted)
    write_json(record, settled(json.loads(record.read_text())))
    assert record.read_bytes() == before


def test_a_settled_record_is_one_that_succeeded_and_a_failed_one_stays_failed():
    assert settled({"Status": "stale", "Changed": ["bold"], "LastAttempt": {"Reason": "x"}}) == {"Status": "ok"}
    assert settled({"Status": "failed", "LastAttempt": {"Reason": "x"}}) == {"Status": "failed"}


def test_a_changed_image_makes_stale_until_it_is_what_it_was(recording, layout, record):
    image, text = recording.bold.read_bytes(), record.read_bytes()
    recording.bold.write_bytes(b"other")
    (found,) = standing(recording, layout)
    noted = found.noted(FAILURE)
    assert (noted["Status"], noted["Changed"]) == ("stale", ["bold"])
    assert stale_reason(noted) == "stale: made before a change of image or series, and not made again yet."
    write_json(record, noted)

    recording.bold.unlink()  # nothing can be said now: what was proven holds
    for known in (True, False):
        (found,) = standing(recording, layout, known=known)
        assert found.changed == ("bold",)

    recording.bold.write_bytes(image)
    (found,) = standing(recording, layout)
    assert found.state == "ok"
    write_json(record, settled(found.noted(FAILURE)))
    assert record.read_bytes() == text


def test_another_recipe_makes_stale_and_a_completing_one_does_not(recording, layout, record):
    (found,) = standing(recording, layout, Recipe(scaling="none"))
    assert found.changed == ("recipe",)
    (found,) = standing(recording, layout, BOTH)
    assert found.changed == ()
    assert made_by(found.content, Recipe())
    assert not made_by({**found.content, "Modalities": {"brainlm": {}}}, BOTH)


def test_results_whose_files_are_gone_do_not_stand(recording, layout, record):
    record.with_name("sub-01_timeseries.tsv").unlink()
    (found,) = standing(recording, layout)
    assert (found.state, found.changed) == ("stale", ("outputs",))


def test_failures_and_other_recordings_are_no_results(recording, layout, record):
    write_json(record, {"Status": "failed"})
    assert not holds_results(json.loads(record.read_text()))
    assert standing(recording, layout) == ()
    write_json(record.with_name("sub-01_task-rest2_space-S_atlas-A_features.json"), {"Status": "ok"})
    assert standing(recording, layout) == ()


def test_results_in_another_space_stand_and_nothing_is_known_of_their_input(recording, layout, record):
    other = record.with_name(record.name.replace("space-S", "space-T"))
    record.rename(other)
    recording.bold.write_bytes(b"the image in space S, not the one they were made of")
    (found,) = standing(recording, layout)
    assert (found.record, found.changed) == (other, ())


def test_of_one_recording_one_result_stands_and_of_a_participant_all(recording, layout, record):
    """Where nothing of a participant could be found its label is all that a failure has: everything of it stands."""
    one, other = (record.with_name(record.name.replace("space-S", f"space-{space}")) for space in "TU")
    other.write_bytes(record.read_bytes())
    record.rename(one)
    assert [found.record for found in standing(recording, layout)] == [one]
    whole = find_standing("sub-01", None, layout, layout.folder("01", None), Recipe())
    assert [found.record for found in whole] == [one, other]
