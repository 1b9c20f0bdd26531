"""Keys: put together and taken apart in one place, and texts like any other."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.keys import Key

label = st.text("abcXYZ019+", min_size=1, max_size=5)
maybe = st.none() | label
more = st.lists(st.tuples(st.sampled_from(["acq", "ce", "rec", "dir"]), label), max_size=3, unique_by=lambda p: p[0])


@given(label, maybe, maybe, more, maybe)
def test_what_is_put_together_is_found_again(subject, session, task, entities, run):
    key = Key.of(subject, session, task, entities, run)
    assert (key.subject, key.session, key.task, key.run) == (subject, session, task, run)
    assert key.participant == f"sub-{subject}"
    assert all(key.label(name) == value for name, value in entities)
    assert key.of_session == Key.of(subject, session, task, entities)
    assert key.whole == (key == key.participant)
    assert Key.parse(f"{key}_space-S_atlas-A_features.json") == key
    assert Key("_".join(key.parts)) == key


@pytest.mark.parametrize(
    ("text", "session", "without_run"),
    [
        ("sub-01", None, "sub-01"),
        ("sub-01_ses-a_task-rest_run-1", "a", "sub-01_ses-a_task-rest"),
        ("sub-01_task-rest_acq-run_run-02", None, "sub-01_task-rest_acq-run"),
    ],
)
def test_session_and_what_is_pooled(text, session, without_run):
    assert (Key(text).session, Key(text).of_session) == (session, without_run)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sub-1_task-rest_run-2_space-S_atlas-A_features.json", "sub-1_task-rest_run-2"),
        ("sub-1_task-rest_desc-fmmtc_prediction.tsv", "sub-1_task-rest"),
        ("sub-1_desc-fmmtc_features.json", "sub-1"),
        ("sub-1_scans.tsv", "sub-1_scans.tsv"),
        ("", ""),
    ],
)
def test_a_key_is_found_in_the_name_of_a_file(name, key):
    assert Key.parse(name) == key


def test_a_key_is_a_text():
    key = Key("sub-1_task-rest")
    assert json.dumps({key: key}) == '{"sub-1_task-rest": "sub-1_task-rest"}'
    assert {key: 1}["sub-1_task-rest"] == 1
    assert f"{key}" == str(key) == "sub-1_task-rest"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("sub-1_ses-a_task-rest_run-2", "session a, task rest, run 2"),
        ("sub-1_task-rest_acq-x_dir-AP_rec-b", "task rest, acquisition x, direction AP, reconstruction b"),
        ("sub-1", "sub-1"),
    ],
)
def test_a_key_in_words(key, words):
    assert Key(key).words() == words


def test_labels_of_any_name():
    assert (
        Key("sub-1_task-rest_space-MNI_atlas-A_meas-pearsoncorrelation_relmat.tsv").label("meas")
        == "pearsoncorrelation"
    )
    assert Key("sub-1_task-rest").label("run") is None
    assert Key("sub-1_ses-a_task-rest_run-1").without("sub", "ses") == "task-rest_run-1"
