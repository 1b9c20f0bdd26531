"""Quality: what is stored of it is read again, and columns, words and rows are made from its fields."""

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qualities import FAULTLESS, quality

from bids_fmmtc.errors import DataError
from bids_fmmtc.plain import to_json
from bids_fmmtc.quality import ABOUT, COLUMNS, Quality, over_runs, quality_in, read_quality

finite = st.floats(allow_nan=False, allow_infinity=False)
qualities = st.builds(
    quality,
    n_frames=st.integers(0),
    mean_fd=st.none() | finite,
    tsnr=st.none() | finite,
    single_echo=st.none() | st.booleans(),
    columns_left_out=st.none() | st.lists(st.text(), max_size=2).map(tuple),
    flags=st.lists(st.text(), max_size=3).map(tuple),
)


@given(qualities)
def test_what_is_stored_is_read(found):
    stored = json.loads(json.dumps({"Quality": to_json(found)}, allow_nan=False))
    assert read_quality(stored) == found
    assert read_quality({"Quality": stored["Quality"] | {"of_another_version": [1]}}) == found


def test_what_is_asked_of_some_recordings_only_is_not_written_of_others():
    assert list(to_json(FAULTLESS))[-4:] == ["placement", "has_mask", "padded", "flags"]
    assert list(to_json(quality(single_echo=False)))[-2:] == ["single_echo", "flags"]


@pytest.mark.parametrize("change", [{"n_frames": None}, {"n_frames": "3"}, {"tsnr": float("inf")}, {"padded": 1}])
def test_what_is_no_quality_is_none(change):
    content = {"Quality": to_json(FAULTLESS) | change}
    with pytest.raises(DataError, match=rf"record\.Quality\.{next(iter(change))}: "):
        read_quality(content)
    assert quality_in(content) is None
    assert quality_in({}) is None


def test_a_quality_is_whole_or_none():
    with pytest.raises(TypeError, match="n_dropped"):
        Quality(n_frames=3)
    with pytest.raises(TypeError, match="n_frmes"):
        quality(n_frmes=3)


def test_columns_are_made_from_the_fields():
    assert set(COLUMNS) == {name for name, about in ABOUT.items() if about.description}
    assert COLUMNS["mean_fd"] == {"Description": "Mean framewise displacement (Power et al. 2012)", "Units": "mm"}
    assert COLUMNS["tsnr"] == {"Description": "Temporal signal-to-noise ratio, median over labelled voxels"}
    assert list(ABOUT) == [f.name for f in fields(Quality) if f.name != "flags"]


def test_what_is_compared_with_training_has_a_name_in_words():
    compared = {name for name, about in ABOUT.items() if about.reference}
    assert compared == {name for name, about in ABOUT.items() if about.words}


@pytest.mark.parametrize("name", ["embedding_fc", "flags", "value", "__class__", ""])
def test_a_name_from_elsewhere_finds_nothing(name):
    assert FAULTLESS.value(name) is None
    assert FAULTLESS.value("tsnr") == 50.0


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("mean_fd", [0.1, None, 0.3], 0.2),
        ("mean_coverage", [0.9, None, 0.8, 1.0], 0.8),
        ("n_frames_in_windows", [100, 50, 1], 151),
        ("minutes_left", [4.5, 5.0], 9.5),
        ("mean_fd", [None], None),
        ("mean_coverage", [], None),
    ],
)
def test_runs_of_a_session_together(name, values, expected):
    assert over_runs(name, values) == (expected if expected is None else pytest.approx(expected))
