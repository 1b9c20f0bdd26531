"""What derivatives tell of a participant."""

import numpy as np
import pytest
from participant_parts import (
    LOST,
    NAMES,
    NETWORKS,
    R,
    T,
    write_attribution,
    write_dataset,
    write_failed,
    write_prediction,
    write_recording,
)

from bids_fmmtc.report.participant.facts import AtlasFacts, atlas_facts, number_in, participant_facts, read_numbers


@pytest.fixture
def root(tmp_path):
    write_dataset(tmp_path)
    return tmp_path


def test_recordings_and_predictions_meet_in_sessions(root):
    write_recording(root, "sub-01_task-rest_run-1")
    write_failed(root, "sub-01_task-rest_run-2")
    write_prediction(root)
    write_recording(root, "sub-01_task-rest_acq-b_run-1")
    facts = participant_facts(root, "01")
    assert [s.key for s in facts.sessions] == ["sub-01_task-rest_acq-b", "sub-01_task-rest"]
    session = facts.sessions[1]
    assert [(r.key, r.ok) for r in session.recordings] == [
        ("sub-01_task-rest_run-1", True), ("sub-01_task-rest_run-2", False),
    ]  # fmt: skip
    assert (session.probability, session.per_window) == (0.62, (0.5, 0.6, 0.7))
    assert session.flags == ("high_motion", "outside_reference:tsnr")
    assert not facts.sessions[0].predicted
    assert facts.sessions[0].flags == ("high_motion", "few_minutes")  # of its recordings
    assert facts.recipe.atlas.name == "Own"
    assert (facts.atlas.names, facts.atlas.networks) == (tuple(NAMES), tuple(NETWORKS))


def test_numbers_are_those_of_the_tables(root):
    write_recording(root)
    (recording,) = participant_facts(root, "01").sessions[0].recordings
    series = recording.array("_timeseries.tsv")
    assert series.shape == (T, R)
    assert np.isnan(series[:, LOST]).all()
    assert np.isfinite(np.delete(series[0], LOST)).all()
    assert len(recording.frames()) == T
    assert recording.output("_carpet.png").name.endswith("_carpet.png")
    assert recording.output("_never.tsv") is None


def test_a_participant_of_whom_there_is_nothing(root):
    assert participant_facts(root, "77").sessions == ()


def test_a_prediction_that_failed_is_none(root):
    write_failed(root, "sub-01_task-rest")
    write_prediction(root, p=None)
    (session,) = participant_facts(root, "01").sessions
    assert not session.predicted
    assert session.per_window == ()


@pytest.mark.parametrize("demo", [True, False])
def test_demo_data_or_a_demo_model_make_a_demo(tmp_path, demo):
    write_dataset(tmp_path, demo=demo)
    write_recording(tmp_path)
    write_prediction(tmp_path, DemoModel=not demo)
    assert participant_facts(tmp_path, "01").demo
    write_prediction(tmp_path)
    assert participant_facts(tmp_path, "01").demo is demo


def test_explanations_are_those_of_this_participant(root):
    write_recording(root)
    write_attribution(root)
    write_attribution(root, "sub-02_task-rest")
    write_attribution(root, analysis="other")
    assert [name for name, _ in participant_facts(root, "01").explained] == ["mine", "other"]


@pytest.mark.parametrize("content", ["", "a\tb\n1\tx\n", "a\tb\n1\t2\n3\n"])
def test_a_table_that_is_none_is_none_or_empty(root, content):
    record = write_recording(root)
    (root / record["Outputs"][0]).write_text(content)
    (recording,) = participant_facts(root, "01").sessions[0].recordings
    found = recording.array("_timeseries.tsv")
    assert found is None or found.size == 0


def test_networks_order_parcels():
    atlas = AtlasFacts("x", ("a", "b", "c", "d"), ("v", "m", "v", "m"))
    assert atlas.order(4).tolist() == [0, 2, 1, 3]
    assert atlas.blocks(4) == [("v", 0, 2), ("m", 2, 4)]
    assert atlas.order(3).tolist() == [0, 1, 2]
    assert atlas.blocks(3) == []
    assert atlas.name_of(1) == "b"
    assert atlas.name_of(9) == "10"


def test_an_atlas_that_is_not_there_has_no_names(root):
    assert atlas_facts(root, "Other") == AtlasFacts("Other")


@pytest.mark.parametrize(("text", "value"), [("1.5", 1.5), ("n/a", None), ("", None), ("x", None), ("inf", None)])
def test_cells(text, value):
    assert number_in({"a": text}, "a") == value


def test_numbers_of_a_missing_file_are_none(tmp_path):
    assert read_numbers(tmp_path / "x.tsv") is None
