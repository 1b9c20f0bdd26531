from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bids_fmmtc import recording, synthetic
from bids_fmmtc.dataset.store import read_features, read_record, read_table, write_array, write_json
from bids_fmmtc.errors import DataError, ImageError, OutputError, WeightsError
from bids_fmmtc.modalities import load_modality
from bids_fmmtc.participant import process_subject
from bids_fmmtc.recipe import Connectivity, Denoising, Windows
from bids_fmmtc.recording import Workplace, extract, fingerprint, guarded, open_source, reopen
from bids_fmmtc.signals.series import SeriesSource
from bids_fmmtc.signals.source import Source
from bids_fmmtc.types import Failure, Features, Recording


def test_extract_gives_one_array_per_modality_and_window(task):
    place = Workplace(task)
    source = Source(task.recordings[0], place.grids, task.recipe)
    features = extract(source, place.modalities)
    assert set(features.arrays) == {"fc"}
    assert features.arrays["fc"].shape == (3, synthetic.N_PARCELS, synthetic.N_PARCELS)
    assert features.windows.tolist() == [[0, 100], [80, 180], [160, 260]]
    window = source.frames[80:180].astype(np.float64)
    z = np.arctanh(np.corrcoef(window.T) - np.eye(synthetic.N_PARCELS))
    np.testing.assert_allclose(features.arrays["fc"][1], z, atol=1e-5)
    assert features.digest == task.recipe.digest


def test_the_matrix_on_disk_is_plain_correlation_over_all_frames(task):
    process_subject(task, lambda _: None)
    func = task.output / "sub-01" / "func"
    stem = f"sub-01_task-rest_run-1_space-{synthetic.SPACE}_atlas-Demo"
    series = np.array([[float(v) for v in row.values()] for row in read_table(func / f"{stem}_timeseries.tsv")])
    rows = read_table(func / f"{stem}_meas-pearsoncorrelation_relmat.tsv")
    matrix = np.array([[float(v) for v in row.values()] for row in rows])
    np.testing.assert_allclose(matrix, np.corrcoef(series.T), atol=1e-5)
    sidecar = json.loads((func / f"{stem}_meas-pearsoncorrelation_relmat.json").read_text())
    assert sidecar["FisherZ"] is False
    assert "not shrunk" in sidecar["Estimator"]
    assert sidecar["Sources"][0].startswith("bids:fmriprep:sub-01/func/")


def test_frames_and_a_carpet_are_kept_for_the_page(task):
    process_subject(task, lambda _: None)
    stem = f"sub-01_task-rest_run-1_space-{synthetic.SPACE}_atlas-Demo"
    record = json.loads((task.output / "sub-01" / "func" / f"{stem}_features.json").read_text())
    frames = read_table(task.output / "sub-01" / "func" / f"{stem}_qc.tsv")
    assert len(frames) == record["Quality"]["n_frames"]
    fd = [float(row["framewise_displacement"]) for row in frames if row["framewise_displacement"] != "n/a"]
    assert np.mean(fd) == pytest.approx(record["Quality"]["mean_fd"], rel=1e-5)
    assert {row["status"] for row in frames} == {"used"}
    picture = task.output / "sub-01" / "figures" / f"{stem}_carpet.png"
    about = json.loads(picture.with_suffix(".json").read_text())
    with Image.open(picture) as found:
        assert found.size == (len(frames), len(about["RowParcels"]))
        assert np.asarray(found).std() > 20
    assert f"sub-01/figures/{stem}_carpet.png" in record["Outputs"]


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
    assert again.quality == result.quality


def test_features_of_equal_digest_are_reused_and_others_are_not(task, monkeypatch):
    process_subject(task, lambda _: None)
    opened = []
    monkeypatch.setattr(recording, "extract", lambda source, _: opened.append(source.recording.key))
    report = process_subject(task, lambda _: None)
    assert opened == []
    assert [row.status for row in report.recordings] == ["ok", "ok"]
    record = (
        task.output / "sub-01" / "func" / f"sub-01_task-rest_run-1_space-{synthetic.SPACE}_atlas-Demo_features.json"
    )
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


# finished recordings, opened again


def restless(folder, n):
    """Write confounds that make scrubbing drop two frames at the start and censor some more."""
    rng = np.random.default_rng(3)
    names = [*(f"{k}_{a}" for k in ("trans", "rot") for a in "xyz"), "csf", "white_matter"]
    names += [f"{c}{s}" for c in names for s in ("_derivative1", "_power2", "_derivative1_power2")]
    columns = {c: rng.normal(0, 0.1, n).round(6) for c in [*names, "cosine00", "std_dvars"]}
    columns["framewise_displacement"] = np.where(np.isin(np.arange(n), [70, 71, 200]), 1.5, 0.1)
    columns |= {f"non_steady_state_outlier0{i}": np.eye(n, dtype=int)[i] for i in (0, 1)}
    path = folder / "confounds.tsv"
    rows = ["\t".join(columns), *("\t".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n")
    return path


def partial_mask(place, recording, folder):
    """Write a brain mask without the parcels 3 and 20."""
    source = Source(recording, place.grids, place.task.recipe)
    inside = source.mask.values & ~np.isin(place.grids.on(source.header, source.placement).labels, [4, 21])
    path = folder / "mask.nii.gz"
    nib.Nifti1Image(inside.astype(np.uint8), source.header.affine).to_filename(path)
    return path


PLAIN = {"denoising": Denoising(), "windows": Windows(100, 80, short_least=50)}
SCRUBBED = {"denoising": Denoising("scrubbing", least_segment=3), "windows": Windows(40, 30, short_least=20)}
LONG = Windows(400, 400, "reflect", 100)


@pytest.mark.parametrize(
    "change",
    [
        PLAIN,
        SCRUBBED,
        SCRUBBED | {"target_repetition_time": 1.3, "scaling": "median_iqr"},
        SCRUBBED | {"target_repetition_time": 3.1, "windows": Windows(30, 20, short_least=20)},
        {
            "denoising": Denoising(low_pass=0.1),
            "windows": LONG,
            "connectivity": Connectivity("gram"),
            "scaling": "none",
        },
    ],
    ids=["plain", "scrubbed", "faster", "slower", "padded"],
)
def test_a_finished_recording_gives_the_same_features_from_its_stored_series(task, tmp_path, change):
    first = replace(task.recordings[0], confounds=restless(tmp_path, synthetic.N_FRAMES))
    first = replace(first, mask=partial_mask(Workplace(task), first, tmp_path))
    task = replace(task, recordings=(first,), recipe=replace(task.recipe, **change))
    place = Workplace(task)
    assert isinstance(recording.process_recording(first, place), Features)
    record = place.layout.derivative(first, "features", ".json")
    stored, source = read_features(record), open_source(first, place)
    again = reopen(record, task.recipe, place.atlas.xyz)
    assert isinstance(again, SeriesSource)
    quality = stored.quality
    assert quality.n_lost_parcels == 2
    assert quality.n_dropped == 2
    assert (quality.n_censored > 0) == (task.recipe.denoising.strategy == "scrubbing")
    assert quality.padded == (task.recipe.windows is LONG)
    np.testing.assert_array_equal(again.windows, stored.windows)
    np.testing.assert_array_equal(again.frames, source.frames)
    np.testing.assert_array_equal(again.scaled, source.scaled)
    np.testing.assert_array_equal(again.window_onsets, source.window_onsets)
    np.testing.assert_array_equal(again.lost, source.lost)
    assert (again.key, again.quality) == (stored.key, stored.quality)
    (spec,) = task.recipe.modalities
    fc = load_modality(spec, task.recipe, None).compute(again, again.windows)
    assert fc.tobytes() == stored.arrays["fc"].tobytes()


@pytest.mark.parametrize(
    "change",
    [
        PLAIN,
        PLAIN | {"denoising": Denoising(low_pass=0.1)},
        SCRUBBED | {"denoising": Denoising("scrubbing", least_segment=3, high_pass=0.01, low_pass=0.1)},
        SCRUBBED | {"target_repetition_time": 3.1, "scaling": "median_iqr", "windows": Windows(30, 20, short_least=20)},
    ],
    ids=["dropped", "filtered", "scrubbed", "resampled"],
)
def test_frames_that_are_left_out_change_no_derivative(task, tmp_path, change):
    """Two images that differ only there give the same files, but for what is told of those very frames."""
    first = replace(task.recordings[0], confounds=restless(tmp_path, synthetic.N_FRAMES))
    image = nib.load(first.bold)
    image.header.set_data_dtype(np.float32)  # or what is left out decides how the rest is rounded
    image.header.set_slope_inter(1, 0)
    data = np.asanyarray(image.dataobj).astype(np.float32)
    source = Source(first, Workplace(task).grids, replace(task.recipe, **change))
    left_out = np.flatnonzero(~source.chosen.keep)
    data[..., left_out] = np.nan
    data[::2, ..., left_out[0]] = 1e6
    data[:, :, :3, left_out[-1]] = -7
    other = tmp_path / "other" / first.bold.name
    other.parent.mkdir()
    nib.Nifti1Image(data, image.affine, image.header).to_filename(other)
    plain = tmp_path / "plain" / first.bold.name  # as float32, too
    plain.parent.mkdir()
    nib.Nifti1Image(np.asanyarray(image.dataobj).astype(np.float32), image.affine, image.header).to_filename(plain)
    found = []
    for name, bold in (("a", plain), ("b", other)):
        here = replace(first, bold=bold)
        place = Workplace(
            replace(task, recordings=(here,), recipe=replace(task.recipe, **change), output=tmp_path / name)
        )
        assert isinstance(recording.process_recording(here, place), Features)
        found.append((place, here))
    files = [{p.name: p for p in place.layout.root.rglob("*") if p.is_file()} for place, _ in found]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        if name.endswith((".safetensors", "_timeseries.tsv", "_coverage.tsv", "_relmat.tsv")):
            assert files[0][name].read_bytes() == files[1][name].read_bytes(), name
    records, frames, pictures = (
        [next(path for n, path in listed.items() if n.endswith(end)) for listed in files]
        for end in ("_features.json", "_qc.tsv", "_carpet.png")
    )
    one, two = (json.loads(record.read_text())["Quality"] for record in records)
    assert one == two
    used = source.chosen.keep
    rows = [read_table(path) for path in frames]
    assert [r for r, u in zip(rows[0], used, strict=True) if u] == [r for r, u in zip(rows[1], used, strict=True) if u]
    grey = [np.asarray(Image.open(path)) for path in pictures]
    np.testing.assert_array_equal(grey[0][:, used], grey[1][:, used])


def test_only_a_finished_recording_of_this_recipe_is_opened_again(task):
    place = Workplace(task)
    recording.process_recording(task.recordings[0], place)
    record = place.layout.derivative(task.recordings[0], "features", ".json")
    with pytest.raises(DataError, match="another recipe"):
        reopen(record, replace(task.recipe, scaling="none"), place.atlas.xyz)
    with pytest.raises(DataError, match="has 48 parcels, the atlas 3"):
        reopen(record, task.recipe, place.atlas.xyz[:3])
    with pytest.raises(DataError, match="holds no parcel series"):
        reopen(record.with_name("absent_features.json"), task.recipe, place.atlas.xyz)
    (record.with_name(record.name.replace("_features.json", "_timeseries.tsv"))).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        reopen(record, task.recipe, place.atlas.xyz)
    write_json(record, (read_record(record) or {}) | {"Status": "failed"})
    with pytest.raises(DataError, match="holds no parcel series"):
        reopen(record, task.recipe, place.atlas.xyz)


# imported series


@pytest.fixture
def imported(task, tmp_path):
    """A task on one table of series of the same atlas, with motion and outliers beside it."""
    folder = tmp_path / "series"
    stem, names = "sub-01_task-rest", Workplace(task).atlas.names
    rows = np.random.default_rng(0).normal(size=(257, 49)).astype(np.float32)
    write_array(folder / f"{stem}_timeseries.tsv", ["GlobSig", *names], rows)
    marked = np.isin(np.arange(260), [4, 5, 180])
    for name, column in (("outliers", marked * 1), ("motion", marked * 0.5)):
        lines = ["framewise_displacement", *map(str, column)]
        (folder / f"{stem}_{name}.tsv").write_text("\n".join(lines) + "\n")
    r = Recording(
        "01", None, "rest", None, (), "unknown", None, folder / f"{stem}_timeseries.tsv", None,
        folder / f"{stem}_motion.tsv", 2.0, folder,
    )  # fmt: skip
    return replace(task, recordings=(r,), links={"series": folder})


def test_a_table_of_series_is_imported_and_an_image_is_not(task, imported):
    assert isinstance(open_source(task.recordings[0], Workplace(task)), Source)
    source = open_source(imported.recordings[0], Workplace(imported))
    assert isinstance(source, SeriesSource)
    assert source.cleaned.keep.sum() == 257


def test_an_import_writes_what_an_image_does_and_says_so(imported):
    report = process_subject(imported, lambda _: None)
    (row,) = report.recordings
    assert row.ok, row
    assert row.flags == ("imported_series",)
    assert row.quality.mean_fd == pytest.approx(3 * 0.5 / 260, rel=1e-5)
    func = imported.output / "sub-01" / "func"
    stem = "sub-01_task-rest_space-unknown_atlas-Demo"
    assert len([name for name in report.outputs if "_scans." not in name]) == 11  # a picture needs an image
    sidecar = json.loads((func / f"{stem}_timeseries.json").read_text())
    assert sidecar["Sources"][:3] == [
        f"bids:series:sub-01_task-rest_{n}.tsv" for n in ("timeseries", "motion", "outliers")
    ]
    assert (sidecar["ColumnsMatchedBy"], sidecar["ColumnsLeftOut"]) == ("name", ["GlobSig"])
    assert "imported" in sidecar["DenoisingStrategy"]
    assert "Not known" in json.loads((func / f"{stem}_coverage.json").read_text())["Description"]
    series = read_table(func / f"{stem}_timeseries.tsv")
    assert len(series) == 260
    assert set(series[180].values()) == {"n/a"}
    record = func / f"{stem}_features.json"
    again = reopen(record, imported.recipe, Workplace(imported).atlas.xyz)
    (spec,) = imported.recipe.modalities
    fc = load_modality(spec, imported.recipe, None).compute(again, again.windows)
    assert fc.tobytes() == read_features(record).arrays["fc"].tobytes()


@pytest.mark.parametrize("changed", ["timeseries.tsv", "motion.tsv", "outliers.tsv", "timeseries.json"])
def test_an_import_is_made_again_when_anything_it_is_made_of_changes(imported, changed):
    (r,) = imported.recordings
    before = fingerprint(r)
    assert before == fingerprint(r)
    path = r.dataset / f"sub-01_task-rest_{changed}"
    if changed.endswith(".json"):
        path.write_text(json.dumps({"MeanFramewiseDisplacement": 0.3}))
    else:
        path.write_text(path.read_text().replace("0", "1", 1))
    assert fingerprint(r) != before
