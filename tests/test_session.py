from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from qualities import quality

from bids_fmmtc import session
from bids_fmmtc.dataset.store import read_table, write_json
from bids_fmmtc.errors import RepetitionTimeError
from bids_fmmtc.recording import Workplace
from bids_fmmtc.session import process_session, write_prediction
from bids_fmmtc.types import Failure, Features, Prediction

KEY = "sub-01_task-rest"
KILLED = Failure(KEY, "process", "killed", "its process was killed by SIGKILL.", "Give more memory.")


def table(task):
    return task.output / "sub-01" / "func" / f"{KEY}_desc-fmmtc_prediction.tsv"


def test_a_session_without_any_features_is_a_row_with_the_first_reason(task):
    bad = {r.key: replace(KILLED, key=r.key) for r in task.recordings}
    outcome = process_session(KEY, task.recordings, bad, Workplace(task))
    assert isinstance(outcome, Failure)
    assert outcome.message.endswith("(and 1 more)")
    (row,) = read_table(table(task))
    assert row["fmmtc_probability"] == "n/a"
    assert "killed" in row["fmmtc_qc"]
    assert "session_id" not in row


def test_a_prediction_says_where_it_comes_from(task):
    place = Workplace(task)
    own = quality(n_frames_in_windows=100, mean_fd=0.2, mean_coverage=0.9, n_frames_left=120)
    good = [Features(task.recordings[0].key, np.array([[0, 2], [2, 4]], np.int32), {}, own, "d")]
    record = {"Key": good[0].key, "Status": "ok", "FeaturesSHA256": "0a"}
    write_json(place.layout.derivative(task.recordings[0], "features", ".json"), record)
    p = np.array([0.25, 0.75], np.float32)
    found = Prediction(KEY, 0.5, p, 0.5, "responder", ("responder",), ("high_motion",), "b")
    write_prediction(KEY, task.recordings, found, good, place)
    (row,) = read_table(table(task))
    assert (row["fmmtc_probability"], row["fmmtc_label"], row["fmmtc_qc"]) == ("0.5", "responder", "high_motion")
    assert row["fmmtc_sd"] == "0.353553"
    assert row["fmmtc_n_volumes"] == "100"
    sidecar = json.loads(table(task).with_suffix(".json").read_text())
    (source,) = sidecar["Sources"]  # the run that has features, not the other
    assert source.startswith("bids::sub-01/func/sub-01_task-rest_run-1_")
    assert sidecar["FeaturesSHA256"] == {source: "0a"}
    assert "not a medical device" in sidecar["IntendedUse"]


def test_runs_of_one_session_must_agree_in_repetition_time():
    def features(key, tr):
        return Features(key, np.array([[0, 2]], np.int32), {}, quality(window_repetition_time=tr), "d")

    session._same_repetition_time([features("a", 2.0), features("b", 2.01)])
    with pytest.raises(RepetitionTimeError, match=r"a 2 s, b 2\.5 s"):
        session._same_repetition_time([features("a", 2.0), features("b", 2.5)])
