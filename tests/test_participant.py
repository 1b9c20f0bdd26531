from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import content, write_inputs

from bids_fmmtc import demo, participant
from bids_fmmtc.dataset.discover import Query, find_recordings
from bids_fmmtc.dataset.store import read_features, read_table
from bids_fmmtc.errors import ImageError, OutputError, RepetitionTimeError, WeightsError
from bids_fmmtc.participant import Workplace, extract, fingerprint, guarded, process_subject, record_lost
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.settings import Task
from bids_fmmtc.signals.source import Source
from bids_fmmtc.types import Failure, Features


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("participant")
    write_inputs(root, [demo.Person("01", "north", True, 50, "F", 2)])
    return root


@pytest.fixture
def task(inputs, tmp_path):
    found = find_recordings([inputs / "fmriprep"], Query(spaces=(demo.SPACE,)))
    return Task(
        subject="01",
        recordings=found.recordings,
        failures=(),
        recipe=Recipe.read(inputs / "recipe.json"),
        output=tmp_path / "out",
        atlas=inputs / "atlas-Demo",
        links={"fmriprep": inputs / "fmriprep"},
    )


def test_extract_gives_one_array_per_modality_and_window(task):
    place = Workplace(task)
    source = Source(task.recordings[0], place.grids, task.recipe)
    features = extract(source, place.modalities)
    assert set(features.arrays) == {"fc"}
    assert features.arrays["fc"].shape == (3, demo.N_PARCELS, demo.N_PARCELS)
    assert features.windows.tolist() == [[0, 100], [80, 180], [160, 260]]
    window = source.frames[80:180].astype(np.float64)
    z = np.arctanh(np.corrcoef(window.T) - np.eye(demo.N_PARCELS))
    np.testing.assert_allclose(features.arrays["fc"][1], z, atol=1e-5)
    assert features.digest == task.recipe.digest


def test_process_subject_writes_everything_and_saves_after_each_recording(task):
    saved = []
    report = process_subject(task, lambda r: saved.append(json.loads(json.dumps(r))))
    assert [len(r["recordings"]) for r in saved] == [1, 2, 2]
    assert [r["complete"] for r in saved] == [False, False, True]
    assert [row["status"] for row in report["recordings"]] == ["ok", "ok"]
    assert all((task.output / name).is_file() for name in report["outputs"])
    written = {p for p in content(task.output) if "_scans." not in p}
    assert set(report["outputs"]) == written
    rows = read_table(task.output / "sub-01" / "sub-01_scans.tsv")
    assert [r["fmmtc_n_frames"] for r in rows] == ["260", "260"]


def test_the_matrix_on_disk_is_plain_correlation_over_all_frames(task):
    process_subject(task, lambda _: None)
    func = task.output / "sub-01" / "func"
    stem = f"sub-01_task-rest_run-1_space-{demo.SPACE}_atlas-Demo"
    series = np.array([[float(v) for v in row.values()] for row in read_table(func / f"{stem}_timeseries.tsv")])
    rows = read_table(func / f"{stem}_meas-pearsoncorrelation_relmat.tsv")
    matrix = np.array([[float(v) for v in row.values()] for row in rows])
    np.testing.assert_allclose(matrix, np.corrcoef(series.T), atol=1e-5)
    sidecar = json.loads((func / f"{stem}_meas-pearsoncorrelation_relmat.json").read_text())
    assert sidecar["FisherZ"] is False
    assert "not shrunk" in sidecar["Estimator"]
    assert sidecar["Sources"][0].startswith("bids:fmriprep:sub-01/func/")


def test_features_of_equal_digest_are_reused_and_others_are_not(task, monkeypatch):
    process_subject(task, lambda _: None)
    opened = []
    monkeypatch.setattr(participant, "extract", lambda source, _: opened.append(source.recording.key))
    report = process_subject(task, lambda _: None)
    assert opened == []
    assert [row["status"] for row in report["recordings"]] == ["ok", "ok"]
    record = task.output / "sub-01" / "func" / f"sub-01_task-rest_run-1_space-{demo.SPACE}_atlas-Demo_features.json"
    for change in (
        {"SoftwareVersion": "0"},
        {"InputFingerprint": {}},
        {"FeaturesSHA256": "0" * 64},
        {"Status": "failed"},
    ):
        data = json.loads(record.read_text())
        record.write_text(json.dumps(data | change))
        opened.clear()
        process_subject(task, lambda _: None)
        assert opened == ["sub-01_task-rest_run-1"], change
        record.write_text(json.dumps(data))


def test_fingerprint_follows_content(task, tmp_path):
    before = fingerprint(task.recordings[0])
    assert set(before) == {"bold", "mask", "confounds", "repetition_time"}
    assert fingerprint(replace(task.recordings[0], repetition_time=3.0)) != before
    copy = tmp_path / "copy.tsv"
    copy.write_bytes(task.recordings[0].confounds.read_bytes())
    moved = replace(task.recordings[0], confounds=copy)
    assert fingerprint(moved) == before
    copy.with_suffix(".json").write_text("{}")
    assert "confounds_sidecar" in fingerprint(moved)
    copy.with_suffix(".json").unlink()
    copy.write_bytes(copy.read_bytes().replace(b"1", b"2", 1))
    assert fingerprint(moved) != before


def test_a_lost_process_keeps_what_it_had_done(task):
    saved = []
    process_subject(task, saved.append)
    first = json.loads(json.dumps(saved[0]))
    report = record_lost(task, first, Failure("sub-01", "process", "killed", "its process was killed by SIGKILL."))
    assert {row["key"]: row["status"] for row in report["recordings"]} == {
        "sub-01_task-rest_run-1": "ok",
        "sub-01_task-rest_run-2": "failed",
    }
    rows = read_table(task.output / "sub-01" / "sub-01_scans.tsv")
    assert [r["fmmtc_status"] for r in rows] == ["ok", "failed"]
    assert "killed" in rows[1]["fmmtc_reason"]


def test_what_discovery_turned_down_keeps_a_row(task):
    failure = Failure("sub-01_task-rest_run-3", "discover", "space", "no usable space.", "Rerun.")
    report = process_subject(replace(task, failures=(failure,)), lambda _: None)
    assert report["recordings"][0]["status"] == "failed"
    rows = read_table(task.output / "sub-01" / "sub-01_scans.tsv")
    assert [r["fmmtc_status"] for r in rows] == ["failed", "ok", "ok"] or sorted(r["fmmtc_status"] for r in rows) == [
        "failed",
        "ok",
        "ok",
    ]
    assert all((task.output / "sub-01" / r["filename"]).is_file() for r in rows)


@pytest.mark.parametrize(
    ("error", "kind", "stage"),
    [
        (ImageError("bad.", "Mend it."), "image", "extract"),
        (OutputError("full."), "output", "write"),
        (WeightsError("odd."), "weights", "extract"),
        (MemoryError(), "memory", "extract"),
        (ZeroDivisionError("oops"), "unexpected", "extract"),
    ],
)
def test_guarded_turns_any_error_into_one_line(task, error, kind, stage):
    def step():
        raise error

    failure = guarded("sub-01_task-rest", "extract", Workplace(task), step)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.stage) == (kind, stage)
    assert "\n" not in failure.reason
    if kind == "unexpected":
        assert "ZeroDivisionError: oops" in Path(failure.traceback_file).read_text()


def test_guarded_does_not_swallow_an_interrupt(task):
    def step():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded("sub-01", "extract", Workplace(task), step)


def test_the_child_process_imports_only_what_the_recipe_needs(task, tmp_path):
    task_file = tmp_path / "task.json"
    task_file.write_text(json.dumps(task.to_json()))
    code = (
        "import sys; from bids_fmmtc.participant import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'nilearn', 'transformers', 'sklearn', 'pandas', 'bids', 'nipype', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, task_file, tmp_path / "report.json"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert json.loads((tmp_path / "report.json").read_text())["complete"]


def test_no_space_for_the_derivatives_is_a_row_not_a_crash(task, tmp_path):
    (tmp_path / "file").touch()
    report = process_subject(replace(task, output=tmp_path / "file" / "out"), lambda _: None)
    kinds = {row["kind"] for row in report["recordings"]}
    assert kinds == {"output"}


def test_features_written_are_features_read(task):
    place = Workplace(task)
    result = participant.process_recording(task.recordings[0], place)
    assert isinstance(result, Features)
    record = place.layout.derivative(task.recordings[0], "features", ".json")
    again = read_features(record)
    np.testing.assert_array_equal(again.arrays["fc"], result.arrays["fc"])
    assert again.digest == result.digest
    assert dict(again.quality) == json.loads(json.dumps(dict(result.quality)))


def test_runs_of_one_session_must_agree_in_repetition_time():
    def features(key, tr):
        return Features(key, np.array([[0, 2]], np.int32), {}, {"window_repetition_time": tr}, "d")

    participant._same_repetition_time([features("a", 2.0), features("b", 2.01)])
    with pytest.raises(RepetitionTimeError, match=r"a 2 s, b 2\.5 s"):
        participant._same_repetition_time([features("a", 2.0), features("b", 2.5)])
