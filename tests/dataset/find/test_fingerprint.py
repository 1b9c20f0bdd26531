"""What counts as a proof that an input has changed: content known now that differs, never what cannot be read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.dataset.find.fingerprint import SIDECARS, changed, fingerprint, known_marks
from bids_fmmtc.errors import DataError, MissingInputError
from bids_fmmtc.types import Recording


@pytest.fixture
def recording(tmp_path):
    for name in ("bold.nii.gz", "mask.nii.gz", "confounds.tsv", "confounds.json"):
        (tmp_path / name).write_bytes(name.encode() * 200)
    paths = (tmp_path / name for name in ("bold.nii.gz", "mask.nii.gz", "confounds.tsv"))
    return Recording("01", None, "rest", None, (), "S", None, *paths, 2.0, tmp_path)


def test_what_is_known_is_the_fingerprint(recording):
    assert known_marks(recording) == fingerprint(recording)
    assert set(fingerprint(recording)) == {"bold", "mask", "confounds", "confounds_sidecar", "repetition_time"}


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def pointer(path):
    path.write_text("/annex/objects/MD5E-s3--abc.nii.gz\n")


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("drop", [dangling, pointer, folder])
@pytest.mark.parametrize("name", ["bold.nii.gz", "mask.nii.gz", "confounds.tsv"])
def test_what_cannot_be_read_proves_nothing(recording, drop, name):
    before = fingerprint(recording)
    drop(recording.dataset / name)
    with pytest.raises((DataError, MissingInputError)):
        fingerprint(recording)
    now = known_marks(recording)
    assert len(now) == len(before) - 1
    assert changed(before, now) == ()


@pytest.mark.parametrize(("name", "part"), [("bold.nii.gz", "bold"), ("confounds.json", "confounds_sidecar")])
def test_other_content_is_a_proof(recording, name, part):
    before = fingerprint(recording)
    (recording.dataset / name).write_bytes(b"other")
    assert changed(before, known_marks(recording)) == (part,)


def test_a_sidecar_that_is_there_now_is_a_proof(recording):
    (recording.dataset / "confounds.json").rename(recording.dataset / "aside")
    before = fingerprint(recording)
    (recording.dataset / "aside").rename(recording.dataset / "confounds.json")
    assert changed(before, known_marks(recording)) == ("confounds_sidecar",)


marks = st.dictionaries(st.sampled_from(["bold", "mask", "confounds", "repetition_time"]), st.text(max_size=3))


@given(marks, marks)
def test_only_known_parts_that_differ_are_named(before, now):
    assert set(changed(before, now)) == {name for name in now if now[name] != before.get(name)}


told = st.dictionaries(st.sampled_from(["mean_fd", "n_scrubbed"]), st.none() | st.integers(0, 3))


@given(told, told)
def test_what_sidecars_of_series_no_longer_tell_proves_nothing(before, now):
    found = changed({SIDECARS: json.dumps(before)}, {SIDECARS: json.dumps(now)})
    assert bool(found) == any(value is not None and before.get(name) != value for name, value in now.items())
