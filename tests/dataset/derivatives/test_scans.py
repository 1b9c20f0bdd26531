"""``scans.tsv``: every recording has a row, and no row outlives what it tells of."""

from dataclasses import replace
from pathlib import Path

import pytest
from qualities import quality

from bids_fmmtc.dataset.derivatives.scans import write_scans
from bids_fmmtc.dataset.store import Layout, read_record, read_table, write_json
from bids_fmmtc.plain import to_json
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.rows import Row
from bids_fmmtc.settings import Task
from bids_fmmtc.types import Failure, Recording


def recording(run=None, session=None):
    return Recording("01", session, "rest", run, (), "S", None, Path("/b"), None, None, 2.0, Path("/d"))


def ok(key):
    return Row(key, flags=("high_motion",), quality=quality(mean_fd=1.5, flags=("high_motion",)))


def failed(key, kind="image"):
    return Row(key, Failure(key, "extract", kind, "it broke.", "Mend it."))


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path, "A")


@pytest.fixture
def write(layout):
    """Do as a run does: records of what worked are there before the table is written."""

    def write(rows, *recordings):
        by_key = {r.key: r for r in recordings}
        for row in rows:
            if row.ok:
                record = layout.derivative(by_key[row.key], "features", ".json")
                write_json(record, {"Status": "ok", "RecipeDigest": Recipe().digest})
        write_scans(Task("01", recordings, (), Recipe(), layout.root, Path("/a")), rows, layout)

    return write


def table(layout, session=None):
    path = layout.scans("01", session, ".tsv")
    return {r["filename"]: r for r in read_table(path)} if path.is_file() else None


def test_every_recording_has_a_row(layout, write):
    one, two = recording("1"), recording("2")
    write([ok(one.key), failed(two.key)], one, two)
    rows = table(layout)
    assert list(rows) == [f"func/{r.key}_space-S_atlas-A_features.json" for r in (one, two)]
    assert [r["fmmtc_status"] for r in rows.values()] == ["ok", "failed"]
    first, second = rows.values()
    assert (first["fmmtc_flags"], first["fmmtc_reason"], first["fmmtc_mean_fd"]) == ("high_motion", "n/a", "1.5")
    assert (second["fmmtc_reason"], second["fmmtc_mean_fd"]) == ("image: it broke. Mend it.", "n/a")
    assert all((layout.folder("01", None) / name).is_file() for name in rows)
    assert read_record(layout.derivative(two, "features", ".json"))["Kind"] == "image"
    assert set(read_record(layout.scans("01", None, ".json"))) >= set(first) - {"filename"}


def test_sessions_have_tables_of_their_own(layout, write):
    a, b = recording(session="a"), recording(session="b")
    write([ok(a.key), ok(b.key)], a, b)
    assert len(table(layout, "a")) == len(table(layout, "b")) == 1
    assert table(layout) is None


def test_rows_of_other_recordings_are_kept(layout, write):
    one, two = recording("1"), recording("2")
    write([ok(one.key)], one)
    write([ok(two.key)], two)
    assert len(table(layout)) == 2
    write([failed(two.key)], two)
    assert [r["fmmtc_last_attempt"] != "n/a" for r in table(layout).values()] == [False, True]
    layout.derivative(one, "features", ".json").unlink()
    write([ok(two.key)], two)
    assert len(table(layout)) == 1


def test_features_outlive_a_failure_until_they_are_made_in_another_space(layout, write):
    one = recording()
    write([ok(one.key)], one)
    arrays = layout.derivative(one, "features", ".safetensors")
    picture, strange = layout.figure(one, "carpet", ".png"), layout.root / "sub-01" / "mine.png"
    picture.parent.mkdir()
    for path in (arrays, picture, strange):
        path.touch()
    record = arrays.with_suffix(".json")
    own = quality(flags=("padded",), mean_fd=0.5)
    outputs = [layout.relative(picture), layout.relative(strange)]
    write_json(record, read_record(record) | {"Outputs": outputs, "Quality": to_json(own)})
    write([failed(one.key)], one)
    assert all(path.exists() for path in (arrays, picture, strange))
    (row,) = table(layout).values()
    assert (row["fmmtc_status"], row["fmmtc_flags"], row["fmmtc_mean_fd"]) == ("ok", "padded", "0.5")
    assert (row["fmmtc_reason"], row["fmmtc_last_attempt"]) == ("n/a", "image: it broke. Mend it.")
    noted = read_record(record)
    assert (noted["Status"], noted["LastAttempt"]["Kind"]) == ("ok", "image")

    other = replace(one, space="T")
    write([ok(other.key)], other)
    assert not any(path.exists() for path in (arrays, picture, record))
    assert strange.exists()  # nothing but what lies where this program writes


@pytest.mark.parametrize("session", [None, "a"])
@pytest.mark.parametrize("then", [ok, failed])
@pytest.mark.parametrize("which", ["recording", "session", "participant"])
def test_a_discovery_failure_is_forgotten_once_the_recording_is_found(layout, write, session, then, which):
    found = recording("1", session)
    key = {"recording": found.key, "session": found.session_key, "participant": "sub-01"}[which]
    write([failed(key, "missing")])
    (name,) = table(layout, None if which == "participant" else session)
    assert name == f"func/{key}_desc-fmmtc_features.json"
    write([then(found.key)], found)
    assert len(table(layout, session)) == 1
    assert [p.name for p in layout.root.rglob("*_desc-fmmtc_features.json")] == []
    if session is not None:
        assert table(layout) is None


def test_a_failure_of_this_very_run_is_kept(layout, write):
    """A file without run- that cannot be used, beside one with it."""
    found = recording("1")
    write([failed(found.session_key, "space"), ok(found.key)], found)
    assert len(table(layout)) == 2
    assert all((layout.folder("01", None) / name).is_file() for name in table(layout))


def test_a_recording_that_worked_and_is_now_turned_down_keeps_its_row_and_files(layout, write):
    found = recording("1")
    write([ok(found.key)], found)
    record = layout.derivative(found, "features", ".json")
    record.with_suffix(".safetensors").touch()
    other = layout.derivative(recording("10"), "features", ".json")
    write_json(other, {"Status": "ok", "RecipeDigest": Recipe().digest})
    before = other.read_bytes()
    write([failed(found.key, "space")])
    assert list(table(layout)) == [f"func/{record.name}"]
    assert read_record(record)["LastAttempt"]["Kind"] == "space"
    assert record.with_suffix(".safetensors").exists()
    assert other.read_bytes() == before  # run-10 is not run-1


def test_a_failure_about_a_whole_participant_is_noted_in_all_that_stands(layout, write):
    one, two = recording("1"), recording(session="a")
    write([ok(one.key), ok(two.key)], one, two)
    write([failed("sub-01", "selection")])
    records = [layout.derivative(r, "features", ".json") for r in (one, two)]
    assert [read_record(r)["LastAttempt"]["Kind"] for r in records] == ["selection"] * 2
    assert [p.name for p in layout.root.rglob("*_desc-fmmtc_features.json")] == []
    assert [len(table(layout, session)) for session in (None, "a")] == [1, 1]


def test_features_of_another_recipe_are_stale_and_stay(layout, write):
    found = recording("1")
    write([ok(found.key)], found)
    record = layout.derivative(found, "features", ".json")
    write_json(record, {"Status": "ok", "RecipeDigest": "another", "Key": found.key})
    write([failed(found.key)], found)
    noted = read_record(record)
    assert (noted["Status"], noted["Changed"], noted["RecipeDigest"]) == ("stale", ["recipe"], "another")
    (row,) = table(layout).values()
    assert row["fmmtc_status"] == "stale"
    assert row["fmmtc_reason"] == "stale: made before a change of recipe, and not made again yet."
