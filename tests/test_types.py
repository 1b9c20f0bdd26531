"""The values that travel: what they refuse, and that JSON gives back what it was given."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qualities import FAULTLESS

from bids_fmmtc.plain import from_json, to_json
from bids_fmmtc.types import Atlas, Failure, Features, Prediction, Recording, RoiSeries, Selection, Skipped

label = st.text("abcXYZ019", min_size=1, max_size=5)
maybe = st.none() | label
path = st.text("abc/ é", min_size=1).map(lambda t: Path("/") / t)
RECORDING = Recording("01", None, "rest", None, (), "S", None, Path("/b"), None, None, None, Path("/d"))


@st.composite
def recordings(draw):
    entities = tuple(draw(st.lists(st.tuples(st.sampled_from(["acq", "ce", "rec", "dir"]), label), max_size=3)))
    optional = st.none() | path
    return Recording(
        draw(label), draw(maybe), draw(label), draw(maybe), entities, draw(label), draw(maybe),
        draw(path), draw(optional), draw(optional), draw(st.none() | st.floats(0.01, 20)), draw(path),
    )  # fmt: skip


@given(recordings())
def test_a_recording_comes_back_from_json(recording):
    assert from_json(Recording, json.loads(json.dumps(to_json(recording), allow_nan=False)), "recording") == recording


@given(recordings())
def test_a_key_is_the_session_key_and_the_run(recording):
    run = "" if recording.run is None else f"_run-{recording.run}"
    assert recording.key == recording.session_key + run
    assert replace(recording, run=None).key == recording.session_key


def test_a_key_spells_entities_in_their_order():
    full = replace(RECORDING, session="a", run="1", entities=(("acq", "x"), ("dir", "AP")))
    assert full.key == "sub-01_ses-a_task-rest_acq-x_dir-AP_run-1"
    assert RECORDING.key == "sub-01_task-rest"


@pytest.mark.parametrize("tr", [0, -1.0, float("nan")])
def test_a_repetition_time_is_positive(tr):
    with pytest.raises(ValueError, match="positive"):
        replace(RECORDING, repetition_time=tr)
    with pytest.raises(ValueError, match="positive"):
        RoiSeries(np.zeros((3, 2), np.float32), np.ones(2, np.float32), tr)


@pytest.mark.parametrize(
    ("values", "coverage", "message"),
    [
        (np.zeros(3, np.float32), np.ones(3, np.float32), r"\(T, R\)"),
        (np.zeros((3, 2), np.float32), np.ones(3, np.float32), r"\(T, R\)"),
        (np.zeros((3, 2)), np.ones(2, np.float32), "float32"),
        (np.zeros((3, 2), np.float32), np.ones(2), "float32"),
    ],
)
def test_series_have_their_shape_and_type(values, coverage, message):
    with pytest.raises(ValueError, match=message):
        RoiSeries(values, coverage, 2.0)


def test_a_parcel_is_lost_where_all_frames_are():
    values = np.array([[np.nan, np.nan, 1], [np.nan, 1, 1]], np.float32)
    assert RoiSeries(values, np.ones(3, np.float32), 2.0).lost.tolist() == [True, False, False]


WINDOWS = np.array([[0, 5], [5, 10]], np.int32)


def test_features_are_one_entry_a_window():
    good = {"fc": np.zeros((2, 3, 3), np.float32)}
    assert Features("k", WINDOWS, good, FAULTLESS, "d").arrays is good
    with pytest.raises(ValueError, match="fc holds 1 windows, expected 2"):
        Features("k", WINDOWS, {"fc": np.zeros((1, 3, 3), np.float32)}, FAULTLESS, "d")
    for windows in (WINDOWS[:0], WINDOWS[0], np.zeros((2, 3), np.int32)):
        with pytest.raises(ValueError, match=r"\(W, 2\)"):
            Features("k", windows, {}, FAULTLESS, "d")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_are_finite(bad):
    array = np.zeros((2, 3), np.float32)
    array[1, 2] = bad
    with pytest.raises(ValueError, match="fc holds values that are not finite"):
        Features("k", WINDOWS, {"fc": array}, FAULTLESS, "d")


@pytest.mark.parametrize("p", [-0.01, 1.01, float("nan")])
def test_a_probability_lies_between_nought_and_one(p):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Prediction("k", p, np.ones(1, np.float32), 0.5, "x", None, (), "d")


def test_a_reason_is_one_line():
    failure = Failure("k", "extract", "image", "it is\n cut\toff.", "Copy\nit.")
    assert failure.reason == "image: it is cut off. Copy it."
    assert Failure("k", "extract", "image", "cut off.").reason == "image: cut off."


def test_an_atlas_counts_the_rows_of_its_table():
    labels = np.zeros((2, 2, 2), np.int32)
    atlas = Atlas("A", "S", labels, np.eye(4), (1, 5), ("a", "b"), None, np.zeros((2, 3), np.float32), "0" * 64)
    assert atlas.n_parcels == 2


@pytest.mark.parametrize(
    "value",
    [
        RECORDING,
        Failure("k", "s", "kind", "m"),
        Skipped("01", Path("p"), "r"),
        Selection(()),
        Features("k", WINDOWS, {}, FAULTLESS, "d"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_values_are_frozen_and_hold_nothing_else(value):
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, "other")
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(value, "more", 1)
