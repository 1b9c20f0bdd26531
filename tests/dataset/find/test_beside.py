"""Names of tables of series, and the sidecars, motion and outliers beside them."""

import json
from pathlib import Path

import pytest

from bids_fmmtc.dataset.find.beside import Neighbours, SeriesFile, beside_series, identity_of, is_series, labels_of
from bids_fmmtc.errors import RepetitionTimeError
from bids_fmmtc.types import Recording

XCP = "sub-01_ses-a_task-rest_run-01_space-MNI152NLin6Asym_seg-4S156Parcels_stat-mean_timeseries"
GIGA = "sub-1_task-rest_seg-Schaefer2018100Parcels7Networks_desc-denoiseSimple_timeseries"
HALFPIPE = "sub-01_task-rest_feature-corrMatrix1_atlas-schaefer2018_timeseries"


@pytest.fixture
def file(tmp_path):
    """Make a table of this name in ``sub-x/func`` below the root, empty."""

    def make(stem, folder="sub-x/func"):
        path = tmp_path / folder / f"{stem}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return SeriesFile(path, labels_of(path.name))

    return make


def beside(path, name, data=None):
    target = path.with_name(name)
    target.write_text("" if data is None else json.dumps(data))
    return target


@pytest.mark.parametrize(
    ("name", "atlas", "variant"),
    [
        (XCP, "4S156Parcels", {"space": "MNI152NLin6Asym", "stat": "mean"}),
        (GIGA, "Schaefer2018100Parcels7Networks", {"desc": "denoiseSimple"}),
        (HALFPIPE, "schaefer2018", {"feature": "corrMatrix1"}),
        ("sub-01_task-rest_space-S_atlas-A424_timeseries", "A424", {"space": "S"}),
        ("sub-01_atlas-Schaefer2018_seg-7n_scale-400_timeseries", "Schaefer20187n400", {}),
        ("sub-01_timeseries", None, {}),
    ],
)
def test_what_a_name_says(file, name, atlas, variant):
    found = file(name)
    assert found.atlas == atlas
    assert dict(found.variant) == variant
    assert {k for k, _ in found.identity} <= {"sub", "ses", "task", "run"}
    assert found.space == variant.get("space", "unknown")


@pytest.mark.parametrize("name", ["x.tsv", "sub-01.tsv", "sub-0 1_timeseries.tsv", "sub-01_sub-02_timeseries.tsv",
                                  "sub_01_timeseries.tsv", "sub-01__timeseries.tsv"])  # fmt: skip
def test_a_name_that_is_not_made_of_entities(name):
    assert labels_of(name) is None


def test_runs_are_told_apart_by_number():
    one, other = ({"sub": "01", "run": run} for run in ("1", "01"))
    assert identity_of(one) == identity_of(other)
    assert identity_of(one) != identity_of({"sub": "1", "run": "1"})


def recording(path, confounds=None):
    return Recording("01", None, "rest", None, (), "S", None, path, None, confounds, 2.0, path.parents[2])


def test_a_recording_of_series_is_told_by_its_name(file):
    assert is_series(recording(file(XCP).path))
    assert not is_series(recording(Path("/d/sub-01/func/sub-01_task-rest_desc-preproc_bold.nii.gz")))


# sidecars


def test_sidecars_are_inherited_and_the_nearest_and_most_specific_rules(file, tmp_path):
    found = file(GIGA)
    beside(tmp_path / "x", "timeseries.json", {"RepetitionTime": 1.0, "FDMean": 0.4})
    assert Neighbours(tmp_path).repetition_time(found, None) == 1.0
    beside(tmp_path / "x", "task-rest_timeseries.json", {"RepetitionTime": 1.5})
    assert Neighbours(tmp_path).repetition_time(found, None) == 1.5
    beside(tmp_path / "x", "task-nback_timeseries.json", {"RepetitionTime": 9.0})
    # giga_connectome leaves seg- out of the name of its sidecars.
    beside(found.path, "sub-1_task-rest_desc-denoiseSimple_timeseries.json", {"RepetitionTime": 2.0})
    assert Neighbours(tmp_path).repetition_time(found, None) == 2.0
    told = Neighbours(tmp_path).beside(found).told
    assert told["mean_fd"] == 0.4


def test_what_sidecars_tell(file, tmp_path):
    found = file(GIGA)
    beside(found.path, f"{GIGA}.json", {
        "SamplingFrequency": 0.5, "MeanFramewiseDisplacement": 0.07, "NumberOfVolumesDiscardedByMotionScrubbing": 12,
        "NumberOfVolumesDiscardedByNonsteadyStatesDetector": 2,
    })  # fmt: skip
    assert Neighbours(tmp_path).beside(found).told == {"mean_fd": 0.07, "n_scrubbed": 12, "n_skipped": 2}
    assert Neighbours(tmp_path).repetition_time(found, None) == 2.0
    assert beside_series(recording(found.path)).told["n_scrubbed"] == 12


def test_nothing_told_is_nothing_known(file, tmp_path):
    found = file(XCP)
    beside(found.path, f"{XCP}.json", {"MeanFramewiseDisplacement": "n/a"})
    assert set(Neighbours(tmp_path).beside(found).told.values()) == {None}
    with pytest.raises(RepetitionTimeError, match=f"{XCP}.tsv: no sidecar tells .* --repetition-time"):
        Neighbours(tmp_path).repetition_time(found, None)
    assert Neighbours(tmp_path).repetition_time(found, 2.5) == 2.5


@pytest.mark.parametrize(
    ("data", "given", "words"),
    [
        ({"RepetitionTime": 2.0}, 2.5, "the sidecar says 2 s, --repetition-time 2.5 s"),
        ({"RepetitionTime": 2.0, "SamplingFrequency": 2.0}, None, "RepetitionTime says 2 s, SamplingFrequency 0.5 s"),
        ({"RepetitionTime": 2000}, None, "2000, expected 0.05 to 30"),
        ({"SamplingFrequency": 0.0001}, None, "10000, expected"),
    ],
)
def test_repetition_times_that_cannot_be(file, tmp_path, data, given, words):
    found = file(XCP)
    beside(found.path, f"{XCP}.json", data)
    with pytest.raises(RepetitionTimeError, match=words):
        Neighbours(tmp_path).repetition_time(found, given)


def test_two_that_agree_are_one(file, tmp_path):
    found = file(XCP)
    beside(found.path, f"{XCP}.json", {"RepetitionTime": 0.72, "SamplingFrequency": 1.388888889})
    assert Neighbours(tmp_path).repetition_time(found, 0.72) == 0.72


@pytest.mark.parametrize(("given", "expected"), [(None, 1.5), (2.0, 2.0)])
def test_the_sampling_frequency_of_halfpipe_is_its_repetition_time(file, tmp_path, given, expected):
    """HALFpipe connects ``repetition_time`` to the field ``sampling_frequency``; it is in seconds."""
    found = file(HALFPIPE)
    beside(found.path, f"{HALFPIPE}.json", {"SamplingFrequency": 1.5, "FDMean": 0.2})
    assert Neighbours(tmp_path).repetition_time(found, given) == expected
    assert Neighbours(tmp_path).beside(found).told["mean_fd"] == 0.2


# motion and outliers


def test_xcp_ds_motion_and_outliers(file, tmp_path):
    found = file(XCP)
    assert Neighbours(tmp_path).motion(found) is None
    confounds = beside(found.path, "sub-01_ses-a_task-rest_run-1_desc-confounds_timeseries.tsv")
    assert Neighbours(tmp_path).motion(found) == confounds
    motion = beside(found.path, "sub-01_ses-a_task-rest_run-01_motion.tsv")
    outliers = beside(found.path, "sub-01_ses-a_task-rest_run-01_outliers.tsv")
    beside(found.path, "sub-01_ses-a_task-rest_run-02_motion.tsv")
    beside(found.path, "sub-01_ses-a_task-rest_run-02_outliers.tsv")
    beside(found.path, "sub-01_ses-a_task-rest_run-01_desc-filtered_motion.tsv")
    assert Neighbours(tmp_path).motion(found) == motion
    assert Neighbours(tmp_path).beside(found).outliers == outliers


def test_the_old_name_of_confounds(file, tmp_path):
    found = file("sub-01_task-rest_timeseries")
    path = beside(found.path, "sub-01_task-rest_desc-confounds_regressors.tsv")
    assert Neighbours(tmp_path).motion(found) == path


@pytest.mark.parametrize("settings", ["a1b2c3d4", "0f9e8d7c+5b6a7988"])
def test_outliers_and_motion_are_those_of_the_same_settings(tmp_path, settings):
    func = tmp_path / "sub-01" / "func"
    func.mkdir(parents=True)
    for other in ("a1b2c3d4", "0f9e8d7c+5b6a7988", "00"):
        for suffix in ("outliers", "motion"):
            (func / f"sub-01_task-rest_hash-{other}_{suffix}.tsv").touch()
    name = f"sub-01_task-rest_space-S_atlas-X_stat-mean_hash-{settings}_timeseries.tsv"
    (func / name).touch()
    found = SeriesFile(func / name, labels_of(name))
    neighbours = Neighbours(tmp_path)
    assert neighbours.beside(found).outliers.name == f"sub-01_task-rest_hash-{settings}_outliers.tsv"
    assert neighbours.motion(found).name == f"sub-01_task-rest_hash-{settings}_motion.tsv"
