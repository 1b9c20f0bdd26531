"""Reports of a participant's process: stored whole, and read again by whoever waits for it."""

import json

import numpy as np
import pytest
from qualities import quality

from bids_fmmtc.plain import to_json
from bids_fmmtc.rows import Report, Row, read_report
from bids_fmmtc.states import RecordingState
from bids_fmmtc.types import Failure, Features, Prediction

FAILURE = Failure("sub-01_task-rest_run-2", "extract", "image", "it is cut off.", "Copy it.", "/t.txt")
GOOD = Row("sub-01_task-rest_run-1", flags=("padded",), windows=2)
BAD = Row(FAILURE.key, FAILURE, before=RecordingState.STALE)
SESSION = Row("sub-01_task-rest", windows=2, probability=0.25, label="no")
REPORT = Report("01", (GOOD, BAD), (SESSION,), ("a.tsv",), complete=True)


def test_a_report_is_read_as_it_was_stored(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(to_json(REPORT), allow_nan=False))
    assert read_report(path) == REPORT


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"subject": "01", "recordings": [{"key": "k", "status": "ok"}]}'])
def test_a_report_that_is_none_is_as_if_it_were_not_there(tmp_path, text):
    path = tmp_path / "report.json"
    assert read_report(path) is None
    path.write_text(text)
    assert read_report(path) is None


@pytest.mark.parametrize(
    ("report", "succeeded"),
    [
        (Report("01", (GOOD,), (SESSION,), complete=True), True),
        (Report("01", (GOOD,), (SESSION,)), False),
        (Report("01", (GOOD, BAD), complete=True), False),
        (Report("01", (GOOD,), (BAD,), complete=True), False),
    ],
)
def test_success_is_a_complete_report_without_a_failure(report, succeeded):
    assert report.succeeded is succeeded


def test_rows_of_what_was_made():
    windows = np.array([[0, 5], [5, 10]], np.int32)
    features = Features("k", windows, {}, quality(flags=("padded",)), "d")
    assert (Row.of("k", features).flags, Row.of("k", features).windows, Row.of("k", features).status) == (
        ("padded",),
        2,
        "ok",
    )
    prediction = Prediction("k", 0.7, np.ones(3, np.float32), 0.5, "yes", None, ("x",), "d")
    assert Row.of("k", prediction) == Row("k", None, ("x",), 3, None, 0.7, "yes")
    assert Row.of("k", FAILURE) == Row("k", FAILURE)
    assert (BAD.status, BAD.ok, REPORT.rows) == ("failed", False, (GOOD, BAD, SESSION))
