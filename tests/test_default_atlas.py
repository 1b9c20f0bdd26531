"""The default path, where nothing but two folders is given: A424 from the cache, in its own format, and the warp."""

import json

import numpy as np
import pytest
from published import R, T, planted, write_dataset, write_pair

from bids_fmmtc.dataset.store import read_features, read_table
from bids_fmmtc.resources import ATLAS_FOLDER, ATLAS_IMAGE, ATLAS_TABLE

NAMES = [f"A424_{i:02d}" for i in range(1, R + 1)]


@pytest.fixture
def resources(tmp_path):
    write_pair(tmp_path / "resources" / ATLAS_FOLDER)
    return tmp_path / "resources"


def series_of(out, label, space):
    stem = out / f"sub-{label}" / "func" / f"sub-{label}_task-rest_space-{space}_atlas-A424"
    rows = read_table(stem.with_name(f"{stem.name}_timeseries.tsv"))
    assert list(rows[0]) == NAMES
    about = json.loads(stem.with_name(f"{stem.name}_timeseries.json").read_text())
    features = read_features(stem.with_name(f"{stem.name}_features.json"))
    return np.array([[float(row[name]) for name in NAMES] for row in rows]), about, features


def test_two_folders_are_enough(run_app, resources, tmp_path):
    six, nine = "MNI152NLin6Asym", "MNI152NLin2009cAsym"
    bids, out = write_dataset(tmp_path / "fmriprep", ("01", six), ("02", nine)), tmp_path / "out"
    done = run_app(bids, out, "participant", FMMTC_RESOURCES=str(resources))
    assert done.returncode == 0, done.stdout + done.stderr

    own, about, features = series_of(out, "01", six)
    np.testing.assert_array_equal(own, planted("01"))  # every voxel of a parcel carries its series, and nobody else's
    assert features.arrays["fc"].shape == (1, R, R)
    assert features.windows.tolist() == [[0, 200]]
    expected = np.corrcoef(planted("01").T)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(features.arrays["fc"][0], np.arctanh(expected), atol=1e-5)

    # In the other template the labels are a few mm off: most of a parcel's voxels are still its own.
    warped, about, _ = series_of(out, "02", nine)
    assert "shipped with bids_fmmtc" in about["AtlasPlacement"]
    assert not np.array_equal(warped, planted("02"))
    r = np.corrcoef(warped.T, planted("02").T)[:R, R:]
    assert r.diagonal().min() > 0.9
    assert len(warped) == T
    assert [path.name for path in out.glob("tpl-*/*_dseg.tsv")] == [f"tpl-{six}_atlas-A424_res-2_dseg.tsv"]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda folder: (folder / ATLAS_TABLE).unlink(), 65, f"holds {ATLAS_IMAGE} but no {ATLAS_TABLE}"),
        (lambda folder: (folder / ATLAS_IMAGE).write_bytes(b""), 65, f"{ATLAS_IMAGE} is not a readable NIfTI image"),
        (lambda folder: (folder / ATLAS_TABLE).write_text("1\t0\t0\t0\n"), 65, "labels that its table lacks"),
        (
            lambda folder: (folder / ATLAS_IMAGE).write_bytes(b"x" * 400),
            65,
            f"{ATLAS_IMAGE} is not a readable NIfTI image",
        ),
    ],
    ids=["no table", "a placeholder", "another table", "no image"],
)
def test_a_pair_that_is_not_whole_is_one_line(run_app, resources, fmriprep, tmp_path, change, code, says):
    change(resources / ATLAS_FOLDER)
    done = run_app(fmriprep, tmp_path / "out", "participant", FMMTC_RESOURCES=str(resources))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
