from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bids_fmmtc import demo, recording
from bids_fmmtc.dataset.store import read_features, read_table
from bids_fmmtc.errors import ImageError, OutputError, WeightsError
from bids_fmmtc.participant import process_subject
from bids_fmmtc.recording import Workplace, extract, fingerprint, guarded
from bids_fmmtc.signals.source import Source
from bids_fmmtc.types import Failure, Features


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


def test_features_written_are_features_read(task):
    place = Workplace(task)
    result = recording.process_recording(task.recordings[0], place)
    assert isinstance(result, Features)
    record = place.layout.derivative(task.recordings[0], "features", ".json")
    again = read_features(record)
    np.testing.assert_array_equal(again.arrays["fc"], result.arrays["fc"])
    assert again.digest == result.digest
    assert dict(again.quality) == json.loads(json.dumps(dict(result.quality)))


def test_features_of_equal_digest_are_reused_and_others_are_not(task, monkeypatch):
    process_subject(task, lambda _: None)
    opened = []
    monkeypatch.setattr(recording, "extract", lambda source, _: opened.append(source.recording.key))
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
