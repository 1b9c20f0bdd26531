"""The JSON beside each derivative: required keys, sources as BIDS URIs, everything storable."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qualities import quality

from bids_fmmtc.dataset.derivatives import sidecars
from bids_fmmtc.dataset.derivatives.describe import atlas_image
from bids_fmmtc.dataset.derivatives.sidecars import (
    FRAME_COLUMNS,
    PREDICTION_COLUMNS,
    SCANS_COLUMNS,
    Context,
    Links,
)
from bids_fmmtc.quality import read_quality
from bids_fmmtc.recipe import Denoising, Recipe
from bids_fmmtc.types import Atlas, Prediction, Recording

LINKS = Links(Path("/out"), {"fmriprep": Path("/in/fmriprep"), "more": Path("/in")})
RECORDING = Recording(
    "01", "a", "rest", "1", (), "S", None, Path("/in/fmriprep/b.nii.gz"), None, Path("/in/c.tsv"), 0.72, Path("/in")
)
ATLAS = Atlas(
    "A424", "S", np.zeros((1, 1, 1), np.int32), np.eye(4), (1,), ("x",), None, np.zeros((1, 3), np.float32), "0" * 64
)
QUALITY = quality(repetition_time=0.72, window_repetition_time=0.72, mean_fd=None)
ABOUT = Context(RECORDING, ATLAS, Recipe(denoising=Denoising(high_pass=0.01)), LINKS, QUALITY)
PREDICTION = Prediction("k", 0.75, np.array([0.5, 1.0], np.float32), 0.5, "responder", ("responder",), ("x",), "d")


def storable(data):
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    return data


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/out/sub-01/x.tsv", "bids::sub-01/x.tsv"),
        ("/in/fmriprep/x", "bids:fmriprep:x"),
        ("/in/x", "bids:more:x"),
        ("/elsewhere/x", "x"),
        ("/output/x", "x"),
    ],
)
def test_paths_become_uris(path, uri):
    assert LINKS.uri(Path(path)) == uri


def test_sources_leave_out_what_is_not_there():
    assert LINKS.sources(RECORDING) == ["bids:fmriprep:b.nii.gz", "bids:more:c.tsv"]


def test_series_say_how_they_were_made():
    data = storable(sidecars.timeseries_sidecar(ABOUT, ["a", "b"]))
    assert (data["SamplingFrequency"], data["RepetitionTime"]) == (1.388888889, 0.72)
    assert (data["HighPassFilter"], data["LowPassFilter"], data["MeanFramewiseDisplacement"]) == (0.01, "n/a", "n/a")
    assert data["ConfoundRegressors"] == ["a", "b"]
    assert data["Sources"][-1] == f"bids::{atlas_image(ABOUT.atlas)}"
    assert data["RecipeDigest"] == ABOUT.recipe.digest
    assert (data["TaskName"], data["SpatialReference"]) == ("rest", "S")


@pytest.mark.parametrize("placement", ["same", "packaged", "templateflow", "affine"])
def test_every_placement_has_its_words(placement):
    about = Context(RECORDING, ATLAS, Recipe(), LINKS, replace(QUALITY, placement=placement))
    assert sidecars.timeseries_sidecar(about, [])["AtlasPlacement"]


def test_matrix_coverage_and_features():
    matrix = storable(sidecars.relmat_sidecar(ABOUT, {"RelationshipMeasure": "x"}))
    assert matrix["NodeFiles"] == ["bids::tpl-S/tpl-S_atlas-A424_res-1_dseg.tsv"]
    assert (matrix["Directed"], matrix["ValidDiagonal"], matrix["StorageFormat"]) == (False, False, "Full")
    facts = {"ValidDiagonal": True, "NonNegative": True}
    assert facts.items() <= storable(sidecars.relmat_sidecar(ABOUT, facts)).items()
    assert storable(sidecars.coverage_sidecar(ABOUT))["LeastCoverage"] == 0.0
    record = storable(sidecars.features_record(ABOUT, "k", {"fc": (3, 3)}, "sha"))
    assert (record["Status"], record["FeaturesSHA256"], read_quality(record)) == ("ok", "sha", QUALITY)
    assert record["Modalities"] == {"fc": {"Shape": [3, 3]}}
    assert storable(sidecars.failed_record("k", "image", "why"))["Status"] == "failed"
    assert set(storable(sidecars.frames_sidecar(ABOUT))) >= set(FRAME_COLUMNS)
    assert storable(sidecars.carpet_sidecar(ABOUT, [0, 0, 3], 2.5))["RowParcels"] == [0, 0, 3]


@pytest.mark.parametrize("target", [0.72, 2.0])
def test_windows_are_placed_in_the_recording(target):
    about = Context(RECORDING, ATLAS, Recipe(), LINKS, replace(QUALITY, window_repetition_time=target))
    onsets = np.array([[0.72, 144.72], [144.72, 0.1 + 0.2]])
    record = storable(sidecars.features_record(about, "k", {"fc": (3, 3)}, "sha", onsets))
    assert record["WindowOnsets"] == [[0.72, 144.72], [144.72, 0.3]]
    assert (record["WindowRepetitionTime"], record["Resampled"]) == (target, target != 0.72)
    assert record["EncoderScaling"] == "global_sd"
    assert "start and stop" in record["WindowIndices"]


@pytest.mark.parametrize(
    ("denoising", "demeaned", "detrended"),
    [
        (Denoising(), False, False),
        (Denoising("simple"), True, True),
        (Denoising("simple", detrend=False), False, False),
        (Denoising(high_pass=0.01, detrend=False), True, False),
        (Denoising(low_pass=0.1), True, True),
    ],
)
def test_series_tell_their_level_and_their_arguments(denoising, demeaned, detrended):
    about = Context(RECORDING, ATLAS, Recipe(denoising=denoising), LINKS, QUALITY)
    data = storable(sidecars.timeseries_sidecar(about, ["a"], {"clean": {"detrend": True}}))
    assert (data["Demeaned"], data["Detrended"]) == (demeaned, detrended)
    assert ("deviations" in data["Description"]) == demeaned
    assert data["DenoisingParameters"] == {"clean": {"detrend": True}}
    assert sidecars.timeseries_sidecar(about, [])["DenoisingParameters"] == {}


def test_a_prediction_and_its_absence():
    data = storable(sidecars.prediction_sidecar(PREDICTION, {"ModelName": "m"}, {"bids::x": "0"}, ""))
    assert (data["Sources"], data["FeaturesSHA256"]) == (["bids::x"], {"bids::x": "0"})
    assert (data["Status"], data["PerWindow"], data["Flags"], data["ModelName"]) == ("ok", [0.5, 1.0], ["x"], "m")
    assert "not a medical device" in data["IntendedUse"]
    assert set(PREDICTION_COLUMNS) <= set(data)
    data = storable(sidecars.prediction_sidecar(None, {}, {}, "why"))
    assert (data["Status"], data["Reason"]) == ("failed", "why")


def test_the_row_of_a_session_pools_its_runs():
    runs = [
        quality(mean_fd=0.1, n_frames_in_windows=100, mean_coverage=0.9),
        quality(mean_fd=0.3, n_frames_in_windows=50, mean_coverage=0.8),
        quality(mean_fd=None, n_frames_in_windows=1, mean_coverage=1.0),
    ]
    row = sidecars.prediction_row("01", "a", PREDICTION, runs, "ok")
    assert set(row) <= set(PREDICTION_COLUMNS)
    assert (row["participant_id"], row["session_id"], row["fmmtc_probability"]) == ("sub-01", "ses-a", 0.75)
    assert (row["fmmtc_n_volumes"], row["fmmtc_coverage"], row["fmmtc_n_windows"]) == (151, 0.8, 2)
    assert row["fmmtc_mean_fd"] == pytest.approx(0.2)
    assert row["fmmtc_sd"] == pytest.approx(np.std([0.5, 1.0], ddof=1), abs=1e-6)


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        (("responder",), "responder"),
        (("non-responder",), "non-responder"),
        (("non-responder", "responder"), "undecided"),
        (None, None),
    ],
)
def test_one_of_three_words_is_read(classes, word):
    row = sidecars.prediction_row("01", "a", replace(PREDICTION, prediction_set=classes), [], "ok")
    assert (row["fmmtc_set"], row["fmmtc_decision"]) == (classes, word)


def test_a_failed_session_keeps_a_row():
    assert sidecars.prediction_row("01", None, None, [], "why") == {"participant_id": "sub-01", "fmmtc_qc": "why"}


@pytest.mark.parametrize("columns", [SCANS_COLUMNS, PREDICTION_COLUMNS, FRAME_COLUMNS])
def test_every_column_is_described(columns):
    assert all(c["Description"] for c in columns.values())


IMPORTED = replace(
    QUALITY, placement="imported", columns_matched="name", columns_left_out=("GlobSig",), frames_removed=True
)
NO_LABELS = np.zeros((0, 0, 0), np.int32)
CENTRES = np.zeros((1, 3), np.float32)
TABLE = Atlas("Own", "unknown", NO_LABELS, np.eye(4), (1,), ("x",), None, CENTRES, "0" * 64)


def test_imported_series_claim_nothing_they_do_not_know():
    about = Context(RECORDING, TABLE, Recipe(), LINKS, IMPORTED, (Path("/in/outliers.tsv"),))
    data = storable(sidecars.timeseries_sidecar(about, []))
    assert data["Sources"][-2:] == ["bids:more:outliers.tsv", "bids::tpl-unknown/tpl-unknown_atlas-Own_dseg.tsv"]
    assert not {"Demeaned", "Detrended", "HighPassFilter", "ConfoundRegressors"} & set(data)
    assert (data["ColumnsLeftOut"], data["FramesRemovedBeforeImport"]) == (["GlobSig"], True)
    assert "imported" in data["Description"]
    assert "Not known" in sidecars.coverage_sidecar(about)["Description"]
    matrix = sidecars.relmat_sidecar(about, {})
    assert matrix["NodeFiles"] == ["bids::tpl-unknown/tpl-unknown_atlas-Own_dseg.tsv"]
