"""The end of a run: no success is told of files that are gone; the table is printed before anything is stored."""

import json

import pytest

from bids_fmmtc.accounts import look_again, tell, unsettled
from bids_fmmtc.dataset.store import Layout, read_table, write_json
from bids_fmmtc.errors import OutputError
from bids_fmmtc.rows import Report, Row

NAME = "sub-01/func/sub-01_task-rest_space-S_atlas-A_features.json"


@pytest.fixture
def layout(tmp_path):
    write_json(tmp_path / "dataset_description.json", {"Name": "x"})
    write_json(tmp_path / NAME, {"Status": "ok"})
    return Layout(tmp_path, "A")


@pytest.fixture
def reports():
    return [Report("01", (Row("sub-01_task-rest", windows=3),), outputs=(NAME,), complete=True)]


def test_results_that_are_there_are_told_as_they_are(layout, reports, capsys):
    assert look_again(reports, layout) == reports
    assert tell(reports, layout, {"Command": "c"}) == 0
    (run,) = (layout.root / "logs").iterdir()
    (row,) = read_table(run / "outcomes.tsv")
    assert (row["key"], row["status"]) == ("sub-01_task-rest", "ok")
    assert json.loads((run / "run.json").read_text())["Command"] == "c"
    assert "sub-01_task-rest  recording  ok" in capsys.readouterr().out


@pytest.mark.parametrize("name", [NAME, "dataset_description.json"])
@pytest.mark.parametrize("empty", [True, False])
def test_results_that_are_gone_are_a_failure(layout, reports, name, empty, capsys):
    (layout.root / name).unlink()
    if empty:
        (layout.root / name).touch()
    found = look_again(reports, layout)
    assert tell(found, layout, {}) == 1
    out = capsys.readouterr().out
    assert f"of its files, 1 are not in the output folder any more, the first {name}" in out
    assert reports[0].recordings == found[0].recordings[:1]


def test_the_table_is_printed_though_it_cannot_be_stored(layout, reports, capsys):
    (layout.root / "logs").touch()  # as real as a full disk: nothing can be made below it
    with pytest.raises(OutputError, match=r"cannot write .*outcomes\.tsv"):
        tell(reports, layout, {})
    assert "sub-01_task-rest  recording  ok" in capsys.readouterr().out


def test_results_with_a_note_of_a_failed_attempt_are_not_settled(layout):
    assert not unsettled(layout.root, [NAME])
    assert unsettled(layout.root, [NAME, "sub-01.html"])
    write_json(layout.root / NAME, {"Status": "ok", "LastAttempt": {"Reason": "r"}})
    assert unsettled(layout.root, [NAME])
