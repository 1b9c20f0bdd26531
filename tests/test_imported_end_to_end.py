"""Whole runs on parcel series that other programs made, started as a user starts them."""

from __future__ import annotations

import csv
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from small import SHARED, content, run, scans, validate

from bids_fmmtc.dataset.store import read_features, read_record, read_table, write_array, write_json, write_table
from bids_fmmtc.recipe import Recipe, Windows
from bids_fmmtc.recording import reopen
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.parcels import open_atlas

N = 260


def censored(seed):
    return np.isin(np.arange(N), np.random.default_rng([seed, 1]).choice(N - 20, 2, replace=False) + 10)


def write_xcp(root, atlas, label, run="", seed=0, *, whole=False):
    """Write what xcp_d writes of one run; its series lack censored frames unless ``whole`` (interpolated ones)."""
    func = root / f"sub-{label}" / "func"
    stem = f"sub-{label}_task-rest{run}"
    rng, marked = np.random.default_rng(seed), censored(seed)
    values = rng.normal(0, 1, (N, atlas.n_parcels)).astype(np.float32)
    values[:, 5] = np.nan
    series = func / f"{stem}_space-MNI152NLin2009cAsym_seg-Demo_stat-mean_timeseries.tsv"
    write_array(series, atlas.names, values if whole else values[~marked])
    write_json(series.with_suffix(".json"), {"RepetitionTime": 2, "TaskName": "rest"})
    for name, column in (("motion", np.where(marked, 0.9, 0.1)), ("outliers", marked.astype(int))):
        write_table(func / f"{stem}_{name}.tsv", ["framewise_displacement"],
                    [{"framewise_displacement": v} for v in column.tolist()])  # fmt: skip
    return values


@pytest.fixture
def xcp(tmp_path, demo_atlas):
    """Three participants; the second one's table is cut off, the third has two runs and their concatenation."""
    atlas = read_atlas(demo_atlas)
    root = tmp_path / "xcp_d"
    write_xcp(root, atlas, "01")
    write_xcp(root, atlas, "02", seed=1)
    for i in (1, 2):
        write_xcp(root, atlas, "03", f"_run-{i}", seed=2 + i, whole=i == 2)
    write_xcp(root, atlas, "03", seed=9)
    (cut,) = root.glob("sub-02/func/*_timeseries.tsv")
    cut.write_bytes(cut.read_bytes()[:-500])
    write_json(
        root / "dataset_description.json",
        {
            "Name": "x",
            "BIDSVersion": "1.9.0",
            "Authors": ["A", "B"],
            "GeneratedBy": [{"Name": "xcp_d", "Version": "0.10"}],
        },
    )
    return root


def words(root, *more):
    return [str(root), str(root.parent / "out"), "participant", "--timeseries", str(root), "-w", str(root.parent / "w"),
            *map(str, more)]  # fmt: skip


@pytest.mark.slow
def test_series_of_xcp_d_become_predictions(xcp, demo_atlas, demo_bundle):
    before = content(xcp)
    more = ("--model", demo_bundle, "--atlas", demo_atlas)
    dry = run([*words(xcp, *more), "--dry-run"])
    assert dry.returncode == 0, dry.stderr
    assert "run   sub-03_task-rest_run-2  space-MNI152NLin2009cAsym  2 s" in dry.stdout
    assert "skip  sub-03_task-rest_space-MNI152NLin2009cAsym_seg-Demo_stat-mean_timeseries.tsv" in dry.stdout
    assert not (xcp.parent / "out").exists()

    done = run(words(xcp, *more))
    assert done.returncode == 1, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "failed" in rows["sub-02_task-rest"]
    assert "imported_series" in rows["sub-03_task-rest_run-2"]
    assert "is passed over" in done.stderr
    assert content(xcp) == before

    out = xcp.parent / "out"
    assert [r["fmmtc_status"] for r in scans(xcp.parent, "02")] == ["failed"]
    for row in (*scans(xcp.parent, "01"), *scans(xcp.parent, "03")):
        assert (row["fmmtc_status"], row["fmmtc_n_frames"], row["fmmtc_n_censored"]) == ("ok", str(N), "2")
        assert row["fmmtc_n_lost_parcels"] == "1"
        assert float(row["fmmtc_mean_fd"]) == pytest.approx((258 * 0.1 + 2 * 0.9) / N, rel=1e-5)
    for label in ("01", "03"):
        (prediction,) = read_table(out / f"sub-{label}" / "func" / f"sub-{label}_task-rest_desc-fmmtc_prediction.tsv")
        assert 0 < float(prediction["fmmtc_probability"]) < 1
        assert "imported_series" in prediction["fmmtc_qc"].split(",")
    generated = json.loads((out / "dataset_description.json").read_text())["GeneratedBy"]
    assert (generated[0]["ImportedSeries"], generated[1]["Name"]) == (True, "xcp_d")
    assert validate(out) == (0, [])

    kept = content(out)
    again = run(words(xcp, *more))
    assert "2 of 3 participants are done already" in again.stderr
    assert content(out) == kept

    other = run([*words(xcp, *more), "--participant-label", "01", "--session-label", "a"])
    assert other.returncode == 18
    assert "session a" in other.stderr


@pytest.mark.slow
def test_without_coordinates_there_is_connectivity(xcp):
    recipe = xcp.parent / "recipe.json"
    write_json(recipe, {"windows": {"length": 60, "stride": 60, "short_least": 20}})
    done = run([*words(xcp, "--recipe", recipe), "--participant-label", "01"])
    assert done.returncode == 0, done.stderr
    assert "centres of 48 of 48 parcels are unknown" in done.stderr
    out = xcp.parent / "out"
    record = next((out / "sub-01" / "func").glob("*_features.json"))
    assert set(json.loads(record.read_text())["Modalities"]) == {"fc"}
    assert not list(out.rglob("*.nii.gz"))
    assert validate(out) == (0, [])
    table = read_table(out / "tpl-unknown" / "tpl-unknown_atlas-Demo_dseg.tsv")
    assert (table[0]["x"], len(table)) == ("n/a", 48)


@pytest.mark.slow
def test_giga_and_halfpipe_are_read_by_their_own_rules(tmp_path):
    rng = np.random.default_rng(0)
    giga, half = tmp_path / "giga", tmp_path / "half"
    stem = "sub-1_task-rest_run-01"
    write_array(giga / "sub-1" / "func" / f"{stem}_seg-S100_desc-denoiseSimple_timeseries.tsv",
                ["1", "2", "3", "4"], rng.normal(size=(60, 4)))  # fmt: skip
    write_json(
        giga / "sub-1" / "func" / f"{stem}_desc-denoiseSimple_timeseries.json",
        {"SamplingFrequency": 0.5, "MeanFramewiseDisplacement": 0.07, "NumberOfVolumesDiscardedByMotionScrubbing": 3},
    )
    stem = "sub-1_task-rest_feature-corrMatrix_atlas-schaefer100_timeseries"
    (half / "sub-1" / "func").mkdir(parents=True)
    np.savetxt(half / "sub-1" / "func" / f"{stem}.tsv", rng.normal(size=(60, 4)), fmt="%.10f", delimiter="\t")
    write_json(half / "sub-1" / "func" / f"{stem}.json", {"SamplingFrequency": 2.0, "FDMean": 0.11})
    write_json(tmp_path / "recipe.json", {"windows": {"length": 30, "stride": 30, "short_least": 20}})
    for folder, mean_fd, flags in ((giga, 0.07, {"frames_removed"}), (half, 0.11, set())):
        out = tmp_path / f"{folder.name}-out"
        done = run([str(folder), str(out), "participant", "--timeseries", str(folder), "--recipe",
                    str(tmp_path / "recipe.json"), "-w", str(tmp_path / "w")])  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        (record,) = out.rglob("*_features.json")
        quality = read_features(record).quality
        assert (quality.repetition_time, quality.mean_fd) == (2.0, mean_fd)
        assert set(quality.flags) == {"few_minutes", "imported_series"} | flags


# -------------------------------------------------------------------------------------------------- the real cohort

REAL = SHARED / "data" / "rpn_pain122"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real pain cohort is not part of the project")
TR = 2.5


def write_real(root):
    """Write both centres as plain tables, with the global signal they hold, and an atlas table with centres."""
    for centre in ("bochum", "szeged"):
        with np.load(REAL / f"{centre}_122.npz", allow_pickle=False) as data:
            columns = data["columns"].tolist()
            for name in set(data.files) - {"columns"}:
                write_array(root / "series" / centre / f"{name}_timeseries.tsv", columns, data[name])
    write_json(root / "series" / "timeseries.json", {"RepetitionTime": TR})
    img = nib.load(REAL / "atlas_relabeled.nii.gz")
    labels = np.rint(np.asanyarray(img.dataobj)).astype(int)
    inside = np.nonzero(labels)
    row = labels[inside] - 1
    means = np.stack([np.bincount(row, weights=axis) / np.bincount(row) for axis in inside], 1)
    xyz = means @ img.affine[:3, :3].T + img.affine[:3, 3]
    with (REAL / "atlas_relabeled.tsv").open(newline="") as f:
        networks = [r["modules"] for r in csv.DictReader(f, delimiter="\t")]
    rows = [
        {"name": columns[i + 1], "network": networks[i], **dict(zip("xyz", xyz[i].tolist(), strict=True))}
        for i in range(122)
    ]
    write_table(root / "atlas-MIST122_dseg.tsv", ("name", "x", "y", "z", "network"), rows)
    shutil.copy(REAL / "participants.tsv", root / "series" / "participants.tsv")
    windows = {"length": 180, "stride": 180, "short": "reflect", "short_least": 150}
    write_json(root / "recipe.json", {"windows": windows})


@needs_real
@pytest.mark.slow
def test_a_real_cohort_of_two_centres_becomes_features(tmp_path):
    write_real(tmp_path)
    out = tmp_path / "out"
    line = [str(tmp_path / "series"), str(out), "participant", "--timeseries", str(tmp_path / "series"),
            "--atlas", str(tmp_path / "atlas-MIST122_dseg.tsv"), "--recipe", str(tmp_path / "recipe.json"),
            "-w", str(tmp_path / "w"), "--nprocs", "2"]  # fmt: skip
    # A process and a page each: some of both centres here; everybody is in test_group_end_to_end.py.
    everybody = sorted(p.name.split("_")[0] for p in (tmp_path / "series").rglob("sub-*_timeseries.tsv"))
    assert len(everybody) == 41 + 29
    line += ["--participant-label", *everybody[::7]]
    done = run(line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "matched to parcels by name; left out: GlobSig" in done.stderr
    records = sorted(out.rglob("*_features.json"))
    features = [read_features(r) for r in records]
    assert {f.arrays["fc"].shape for f in features} == {(1, 122, 122)}
    lengths = {f.key.split("_")[0]: f.quality.n_frames for f in features}
    assert set(lengths) == set(everybody[::7])
    assert {v for k, v in lengths.items() if k.startswith("sub-bochum")} == {200}
    assert min(lengths.values()) < 180 < max(lengths.values())
    padded = {f.key for f in features if f.quality.padded}
    assert padded == {f"{k}_task-rest" for k, v in lengths.items() if v < 180}
    by_key = {f.key.split("_")[0]: f for f in features}
    with np.load(REAL / "bochum_122.npz", allow_pickle=False) as data:
        for name in sorted(set(data.files) & set(by_key)):
            rows = data[name][:, 1:].astype(float)
            never = (rows == rows[0]).all(axis=0)  # in eight of everybody a parcel never changes
            assert by_key[name].quality.n_lost_parcels == never.sum()
            # Every frame that is left, though the only window takes 180 of 200.
            expected = np.corrcoef(rows[:, ~never].T) - np.eye((~never).sum())
            found = np.tanh(by_key[name].arrays["fc"][0])
            np.testing.assert_allclose(found[np.ix_(~never, ~never)], expected, atol=1e-5)
            assert (found[never] == 0).all()
    assert validate(out) == (0, [])

    recipe = Recipe.from_json(json.loads((out / "dataset_description.json").read_text())["GeneratedBy"][0]["Recipe"])
    atlas = open_atlas(out / "tpl-unknown" / "tpl-unknown_atlas-MIST122_dseg.tsv")
    assert np.isfinite(atlas.xyz).all()
    assert read_record(records[0])["RecipeDigest"] == recipe.digest
    assert reopen(records[0], recipe, atlas.xyz).frames.shape[1] == 122

    kept = content(out)
    again = run(line)
    assert again.returncode == 0, again.stderr
    assert "10 of 10 participants are done already" in again.stderr
    assert content(out) == kept


@needs_real
@pytest.mark.slow
def test_the_encoder_takes_the_parcels_of_a_real_cohort(tmp_path, demo_bundle):
    """122 parcels, where the small encoder's config names 48."""
    write_real(tmp_path)
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    write_json(tmp_path / "recipe.json", recipe | {"modalities": [{"name": "brainlm"}, {"name": "fc"}]})
    out = tmp_path / "out"
    done = run([str(tmp_path / "series"), str(out), "participant", "--timeseries", str(tmp_path / "series"),
                "--atlas", str(tmp_path / "atlas-MIST122_dseg.tsv"), "--recipe", str(tmp_path / "recipe.json"),
                "--encoder-weights", str(demo_bundle / "encoders" / "brainlm"), "-w", str(tmp_path / "w"),
                "--participant-label", "bochum004", "szeged017"])  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    one, other = (read_features(path).arrays for path in sorted(out.rglob("*_features.json")))
    assert one["brainlm"].shape == other["brainlm"].shape == (1, 32)
    assert np.isfinite(one["brainlm"]).all()
    assert not np.array_equal(one["brainlm"], other["brainlm"])


def test_a_table_in_a_folder_of_another_encoding_costs_its_own_row(tmp_path):
    series, odd = tmp_path / "series", tmp_path / "series" / os.fsdecode(b"d\xe9p")
    for folder, label in ((odd, "1"), (series, "2")):
        values = np.random.default_rng(int(label)).normal(size=(30, 4)).astype(np.float32)
        write_array(folder / f"sub-{label}_timeseries.tsv", list("abcd"), values)
    (tmp_path / "recipe.json").write_text(json.dumps(Recipe(windows=Windows(10, 10, short_least=5)).to_json()))
    words = [series, tmp_path / "out", "participant", "--timeseries", series, "--repetition-time", "2"]
    done = run([*map(str, words), "--recipe", str(tmp_path / "recipe.json"), "-w", str(tmp_path / "work")])
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list((tmp_path / "out" / "logs").glob("crash-*"))
    (line,) = [text for text in done.stdout.splitlines() if text.startswith("sub-1_")]
    assert r"d\xe9p/sub-1_timeseries.tsv is not UTF-8 text. Rename it" in line
    assert [scans(tmp_path, label)[0]["fmmtc_status"] for label in "12"] == ["failed", "ok"]
    assert validate(tmp_path / "out")[0] == 0
