"""Flags in words."""

import pytest

from bids_fmmtc.learning.bundle.calibrate import EMBEDDING
from bids_fmmtc.modalities import TABLE, about
from bids_fmmtc.quality import ABOUT
from bids_fmmtc.report.kit.words import (
    FLAG_WORDS,
    REFERENCE_WORDS,
    flag_words,
    is_embedding,
    listed,
    reference_words,
    serious,
)
from bids_fmmtc.signals.quality import FLAGS


def test_every_flag_of_a_recording_has_words():
    assert set(FLAGS) <= set(FLAG_WORDS)
    assert all(text.endswith(".") for text in FLAG_WORDS.values())


def test_every_entry_of_the_reference_has_words():
    assert {name for name, about in ABOUT.items() if about.reference} == set(REFERENCE_WORDS)
    assert not any(is_embedding(name) for name in REFERENCE_WORDS)
    for name in TABLE:
        assert is_embedding(f"{EMBEDDING}{name}")
        assert reference_words(f"{EMBEDDING}{name}") == about(name).embedding
    assert len({reference_words(f"{EMBEDDING}{name}") for name in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("high_motion", "0.5 mm"),
        ("outside_reference:repetition_time", "training: repetition time. The probability is not to be relied on"),
        ("outside_reference:new_thing", "training: new thing."),
        ("unknown:tsnr", "temporal signal-to-noise ratio"),
        ("run_failed:sub-01_task-rest_run-2", "sub-01_task-rest_run-2"),
        ("never_heard_of", "Flag never_heard_of."),
        ("outside_reference:", "Flag outside_reference:."),
    ],
)
def test_a_flag_is_a_sentence(flag, words):
    assert words in flag_words(flag)


def test_what_takes_the_ground_from_under_a_number_is_serious():
    assert serious("outside_reference:tsnr")
    assert serious("demo_model")
    assert not serious("high_motion")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
    ],
)  # fmt: skip
def test_lists(names, text):
    assert listed(names, 3) == text
