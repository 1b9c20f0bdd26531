"""The default path, where nothing but two folders is given: A424 from the cache, in its own format, and the warp."""

import json

import numpy as np
import pytest
from published import GRID, GRID_SHAPE, R, T, parcels, planted, write_dataset, write_pair
from served import sha
from test_spaces import composite

from bids_fmmtc import fetch
from bids_fmmtc.dataset.store import read_features, read_table
from bids_fmmtc.resources import ATLAS_FOLDER, ATLAS_IMAGE, ATLAS_SHA256, ATLAS_TABLE
from bids_fmmtc.resources.download import fetch_atlas

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


def test_two_folders_are_enough(run_warm, resources, tmp_path):
    six, nine = "MNI152NLin6Asym", "MNI152NLin2009cAsym"
    bids, out = write_dataset(tmp_path / "fmriprep", ("01", six), ("02", nine)), tmp_path / "out"
    done = run_warm(bids, out, "participant", FMMTC_RESOURCES=str(resources))
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


def test_what_was_fetched_is_found_in_the_cache_and_its_transform_is_used(run_app, clean_environ, tmp_path):
    """Atlas and TemplateFlow's transform as `bids_fmmtc-fetch` puts them; this transform moves a voxel's width.

    The pair is not A424, so its own sums are told to the function that fetches; the command knows A424's alone.
    """
    pair, cache = write_pair(tmp_path / "usb"), tmp_path / "home" / ".cache" / "bids_fmmtc"
    fetch_atlas(cache, source=pair, checksums={p.name: sha(p.read_bytes()) for p in pair.iterdir()})
    width = GRID[0, 0]
    no_turn = [*np.eye(3).ravel()]
    by_one = ("AffineTransform_double_3_3", [0, 0, 0], [*no_turn, -width, 0, 0])  # ITK's x runs to the left
    composite(tmp_path / "any.h5", by_one)
    assert fetch.main(["transform", "--cache", str(cache), "--from", str(tmp_path / "any.h5")]) == 0

    bids, out = write_dataset(tmp_path / "fmriprep", ("02", "MNI152NLin2009cAsym")), tmp_path / "out"
    done = run_app(bids, out, "participant")
    assert done.returncode == 0, done.stdout + done.stderr
    found, about, _ = series_of(out, "02", "MNI152NLin2009cAsym")
    assert "TemplateFlow" in about["AtlasPlacement"]
    ahead = GRID.copy()
    ahead[0, 3] += width  # each voxel takes the label of its neighbour on the right
    own, taken = parcels(GRID_SHAPE, GRID), parcels(GRID_SHAPE, ahead)
    voxels = np.concatenate([np.full((T, 1), 900), planted("02")], 1)
    expected = np.stack([voxels[:, own[taken == p]].mean(axis=1) for p in range(1, R + 1)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_pair_that_is_not_a424_is_not_fetched_as_a424(tmp_path, capsys):
    pair = write_pair(tmp_path / "usb")
    assert fetch.main(["atlas", "--cache", str(tmp_path / "cache"), "--from", str(pair)]) == 65
    said = capsys.readouterr().err
    assert any(sum_ in said for sum_ in ATLAS_SHA256.values())
    assert not (tmp_path / "cache" / ATLAS_FOLDER).exists()


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
def test_a_pair_that_is_not_whole_is_one_line(run_warm, resources, fmriprep, tmp_path, change, code, says):
    change(resources / ATLAS_FOLDER)
    done = run_warm(fmriprep, tmp_path / "out", "participant", FMMTC_RESOURCES=str(resources))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
