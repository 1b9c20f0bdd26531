import json
import tempfile
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_fmmtc.errors import ConfoundsError, ShortRecordingError
from bids_fmmtc.recipe import Denoising
from bids_fmmtc.recipes import named
from bids_fmmtc.signals.denoise import STRATEGIES, Confounds, choose, confound_arguments, denoise, read_confounds
from bids_fmmtc.signals.parcellate import parcellate, read_header
from bids_fmmtc.types import RoiSeries


def series(n_frames, r=5, seed=0, lost=()):
    values = np.random.default_rng(seed).normal(1000, 10, (n_frames, r)).astype(np.float32)
    values[:, list(lost)] = np.nan
    return RoiSeries(values, np.ones(r, np.float32), 2.0)


def spikes(n, *at):
    return {f"non_steady_state_outlier{i:02d}": np.eye(n, dtype=int)[t] for i, t in enumerate(at)}


# against nilearn, voxel by voxel, on a real recording


@pytest.fixture(scope="module")
def slab(devfix_recording, write_bold, grid_of):
    """Crop a slab of the brain, cut it into 12 random parcels, and average them."""
    img = nib.load(devfix_recording.bold)
    raw = img.dataobj.get_unscaled()[18:33, 20:40, 24:27]
    path = write_bold(raw, affine=img.affine, slope=img.dataobj.slope, tr=1.5)
    labels = np.random.default_rng(0).integers(0, 13, raw.shape[:3])
    exact = nib.Nifti1Image(nib.load(path).get_fdata(), img.affine)  # float64, or the oracle itself is the coarser one
    return exact, labels, parcellate(read_header(path), grid_of(labels), None, 1.5).series


@pytest.fixture(scope="module")
def restless(devfix_recording, tmp_path_factory):
    """Link the real confounds under nilearn's names, with a few frames of high motion for scrubbing to take."""
    folder = tmp_path_factory.mktemp("restless")
    rows = [line.split("\t") for line in devfix_recording.confounds.read_text(encoding="utf-8").splitlines()]
    fd = rows[0].index("framewise_displacement")
    for frame in (30, 31, 80, 120, 124, 125, 200):
        rows[frame + 1][fd] = "1.5"
    path = folder / devfix_recording.confounds.name
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n", encoding="utf-8")
    path.with_suffix(".json").symlink_to(devfix_recording.confounds.with_suffix(".json"))
    image = folder / devfix_recording.bold.name
    image.touch()
    return image, read_confounds(path, 260)


ANY = [(None, None), (0.01, None), (None, 0.1), (0.008, 0.1)]
COMBINATIONS = [
    *((s, g, f) for s in ("simple", "scrubbing", "compcor") for g in (None, "basic") for f in ANY),
    ("simple", "full", (None, None)),
    ("none", "derivatives", (None, None)),
    ("none", "basic", (0.008, 0.1)),
    *(("none", None, f) for f in ANY[1:]),
]


@pytest.mark.parametrize(("strategy", "global_signal", "limits"), COMBINATIONS, ids=str)
def test_cleaning_parcels_equals_cleaning_voxels(slab, restless, strategy, global_signal, limits):
    from nilearn.image import clean_img
    from nilearn.interfaces.fmriprep import load_confounds, load_confounds_strategy

    voxels, labels, raw = slab
    high, low = limits
    spec = Denoising(strategy, global_signal, high, low)
    image, confounds = str(restless[0]), restless[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        design, sample = None, None
        if strategy != "none":
            design, sample = load_confounds_strategy(image, strategy, global_signal=global_signal)
        elif global_signal is not None:
            design, sample = load_confounds(image, ("global_signal",), global_signal=global_signal)
        if high is not None and design is not None:
            design = design.loc[:, ~design.columns.str.startswith("cosine")]
        cleaned = clean_img(
            voxels, standardize=False, confounds=design, high_pass=high, low_pass=low, t_r=1.5,
            **({} if sample is None else {"clean__sample_mask": sample}),
        ).get_fdata()  # fmt: skip
    expected = np.stack([cleaned[labels == r].mean(axis=0) for r in range(1, 13)], 1)
    got = denoise(raw, confounds, spec)
    assert got.keep.sum() == len(expected) == (260 if sample is None else len(sample))
    assert (got.keep.sum() < 260) == (strategy == "scrubbing")
    assert got.n_censored == (~got.keep).sum() == (10 if strategy == "scrubbing" else 0)
    assert np.isnan(got.values[~got.keep]).all()
    error = np.abs(got.values[got.keep] - expected).max(axis=0) / expected.std(axis=0)
    assert error.max() < 1e-4
    assert any(c.startswith("cosine") for c in got.regressors) == (strategy != "none" and high is None)
    assert any(c.startswith("global_signal") for c in got.regressors) == (global_signal is not None)
    # Something was cleaned at all.
    plain = raw.values[got.keep] - raw.values[got.keep].mean(axis=0)
    assert np.abs(got.values[got.keep] - plain).max() > 0.05 * plain.std()


def test_the_recipe_that_is_called_denoised_takes_out_what_its_page_says(slab, restless):
    got = denoise(slab[2], restless[1], named("fmm_tc_denoised").denoising)
    motion = {name for name in got.regressors if name.startswith(("trans_", "rot_"))}
    assert len(motion) == 24
    assert set(got.regressors) - motion == {"white_matter", "csf"}
    assert got.keep.all()
    plain = slab[2].values - slab[2].values.mean(axis=0)
    slow = np.fft.rfftfreq(260, 1.5) < 0.006
    before, after = ((np.abs(np.fft.rfft(values, axis=0)) ** 2)[slow].sum() for values in (plain, got.values))
    assert after < 0.1 * before


def test_detrend_false_keeps_the_trend(slab):
    raw = slab[2]
    drift = RoiSeries(
        (raw.values + np.linspace(0, 500, 260, dtype=np.float32)[:, None]).astype(np.float32), raw.coverage, 1.5
    )
    ramp = np.arange(260) - 129.5
    slopes = [
        np.abs(ramp @ denoise(drift, None, Denoising(low_pass=0.1, detrend=d)).values / (ramp @ ramp)).max()
        for d in (True, False)
    ]
    assert slopes[0] < 0.05
    assert slopes[1] > 1


# strategies


@pytest.mark.parametrize("name", [s for s in STRATEGIES if s != "none"])
def test_strategies_are_nilearns_presets(name):
    from nilearn.interfaces.fmriprep.load_confounds_strategy import preset_strategies

    # load_confounds_strategy drops global_signal unless it is asked for.
    expected = {k: v for k, v in preset_strategies[name].items() if k != "global_signal"}
    assert confound_arguments(Denoising(name)) == expected
    assert set(preset_strategies) == set(STRATEGIES) - {"none"}
    more = confound_arguments(Denoising(name, "full"))
    assert more == expected | {"strategy": (*expected["strategy"], "global_signal"), "global_signal": "full"}


def test_another_nilearn_changes_no_strategy(table, monkeypatch):
    from nilearn.interfaces.fmriprep.load_confounds_strategy import preset_strategies

    monkeypatch.setitem(preset_strategies["simple"], "wm_csf", "full")
    got = denoise(series(40), read_confounds(table(), 40), Denoising("simple"))
    assert "csf_power2" not in got.regressors


@pytest.mark.parametrize("spec", [Denoising("scrubbing", "basic", least_segment=3), Denoising(high_pass=0.01)])
def test_what_was_done_is_told_in_json(table, spec):
    got = denoise(series(40), read_confounds(table(), 40), spec).parameters
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["clean"]["detrend"] is True
    assert (got["clean"]["high_pass"], got["clean"]["t_r"]) == (spec.high_pass, 2.0)
    if spec.strategy == "none":
        assert got["load_confounds"] is None
    else:
        assert got["load_confounds"] == confound_arguments(spec) | {"strategy": got["load_confounds"]["strategy"]}
        assert got["load_confounds"]["strategy"] == list(confound_arguments(spec)["strategy"])
        assert (got["load_confounds"]["scrub"], got["cosine_regressors"]) == (3, True)


def test_nothing_done_is_nothing_told():
    assert denoise(series(40), None, Denoising()).parameters == {}


def test_none_returns_the_raw_values(table):
    raw = series(40, lost=[2])
    for confounds in (None, read_confounds(table(), 40)):
        got = denoise(raw, confounds, Denoising())
        np.testing.assert_array_equal(got.values, raw.values)
        assert got.keep.all()
        assert (got.n_dropped, got.n_censored, got.regressors) == (0, 0, ())


def test_ica_aroma_takes_the_image_that_aroma_made(table):
    spec = Denoising("ica_aroma")
    assert spec.bold_desc == "smoothAROMAnonaggr"
    assert {Denoising(s).bold_desc for s in ("none", "simple", "scrubbing", "compcor")} == {"preproc"}
    got = denoise(series(40), read_confounds(table(), 40), spec)
    assert set(got.regressors) == {"csf", "white_matter", "cosine00"}  # motion went with the components


def meta_table(meta, name):
    path = next(meta.rglob(name))
    n = len(path.read_text(encoding="utf-8").splitlines()) - 1
    return read_confounds(path, n), n


@pytest.mark.parametrize("name", ["test_desc-confounds_regressors.tsv", "test-v21_desc-confounds_timeseries.tsv"])
@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "compcor", "ica_aroma"])
def test_tables_of_fmriprep_old_and_new(meta, name, strategy):
    confounds, n = meta_table(meta, name)
    if strategy == "scrubbing" and "v21" in name:  # moves too much: every segment is too short
        with pytest.raises(ShortRecordingError):
            choose(confounds, Denoising(strategy), n)
        return
    got = choose(confounds, Denoising(strategy), n)
    assert got.regressors
    assert got.n_dropped == confounds.non_steady
    assert got.design.shape == (n, len(got.regressors))
    assert np.isfinite(got.design[got.keep]).all()
    assert any("comp_cor" in c for c in got.regressors) == (strategy == "compcor")
    if strategy == "ica_aroma":
        assert np.isfinite(denoise(series(n, 40), confounds, Denoising(strategy)).values[got.keep]).all()
    else:  # tables of 30 frames, from nilearn's tests: fewer than there are regressors
        with pytest.raises(ShortRecordingError, match="regressors leave nothing"):
            denoise(series(n, 40), confounds, Denoising(strategy))


def test_development_fmri_serves_what_its_columns_allow(meta):
    confounds, n = meta_table(meta, "sub-pixar123_task-pixar_desc-confounds_regressors.tsv")
    assert n == 168
    got = denoise(series(n), confounds, Denoising("ica_aroma", "basic"))
    assert set(got.regressors) == {"csf", "white_matter", "global_signal", *(f"cosine0{i}" for i in range(4))}
    with pytest.raises(ConfoundsError, match="trans_x_derivative1"):  # fMRIPrep 1.3 wrote no expansions
        denoise(series(n), confounds, Denoising("simple"))


@pytest.mark.parametrize(
    ("strategy", "global_signal", "without", "named"),
    [
        ("simple", None, ["rot_z_derivative1"], "rot_z_derivative1"),
        ("simple", None, ["csf"], r"\['csf'\]"),
        ("simple", "full", ["global_signal_power2"], "global_signal"),
        ("none", "basic", ["global_signal"], "global_signal"),
        ("scrubbing", None, ["framewise_displacement"], "scrub"),
        ("scrubbing", None, ["std_dvars"], "scrub"),
    ],
)
def test_missing_columns_are_named(table, strategy, global_signal, without, named):
    path = table(without=without)
    with pytest.raises(ConfoundsError, match=named) as caught:
        denoise(series(40), read_confounds(path, 40), Denoising(strategy, global_signal))
    assert path.name in str(caught.value)
    assert "fmmtc-" not in str(caught.value)  # the folder of links is nobody's business


def test_compcor_without_its_json_names_the_file(table):
    path = table(columns={"a_comp_cor_00": np.linspace(0, 1, 40)})
    with pytest.raises(ConfoundsError, match=path.with_suffix(".json").name) as caught:
        denoise(series(40), read_confounds(path, 40), Denoising("compcor"))
    assert "fmmtc-" not in str(caught.value)


@pytest.mark.parametrize("spec", [Denoising("simple"), Denoising(global_signal="basic")])
def test_a_strategy_without_confounds_is_refused(spec):
    with pytest.raises(ConfoundsError, match="needs confounds"):
        denoise(series(40), None, spec)


def test_filters_need_no_confounds():
    t = 2.0 * np.arange(200)
    slow, fast = 40 * np.sin(2 * np.pi * 0.01 * t), 10 * np.sin(2 * np.pi * 0.1 * t)
    raw = RoiSeries((1000 + slow + fast).astype(np.float32)[:, None], np.ones(1, np.float32), 2.0)
    got = denoise(raw, None, Denoising(high_pass=0.04)).values[20:-20, 0]
    assert np.abs(got - fast[20:-20]).max() < 1


@pytest.mark.parametrize("name", ["high_pass", "low_pass"])
@pytest.mark.parametrize("lost", [(), range(5)])
def test_a_limit_that_nilearn_would_clip_is_refused(name, lost):
    for limit in (0.25, 0.3):  # the Nyquist frequency is 0.25 Hz; nilearn would clip the limit and go on
        with pytest.raises(ConfoundsError, match=rf"{name} .* Nyquist frequency, 0\.25 Hz"):
            denoise(series(40, lost=lost), None, Denoising(**{name: limit}))


def test_na_cells_do_not_spread(table):
    path = table(columns={"trans_x_derivative1": ["n/a"] + ["0.1", "-0.1", "0.2"] * 13})
    got = denoise(series(40), read_confounds(path, 40), Denoising("simple", "full"))
    assert np.isfinite(got.values).all()
    assert len(got.regressors) == 24 + 2 + 4 + 1


def test_lost_parcels_stay_nan(table):
    whole, holed = series(40), series(40, lost=[1, 4])
    confounds = read_confounds(table(), 40)
    for spec in (Denoising("simple"), Denoising(low_pass=0.1), Denoising("scrubbing")):
        got = denoise(holed, confounds, spec).values
        assert np.isnan(got[:, [1, 4]]).all()
        np.testing.assert_array_equal(got[:, [0, 2, 3]], denoise(whole, confounds, spec).values[:, [0, 2, 3]])


def test_all_parcels_lost(table):
    got = denoise(series(40, lost=range(5)), None, Denoising(high_pass=0.01))
    assert np.isnan(got.values).all()


# frames


@pytest.mark.parametrize("strategy", ["none", "simple", "scrubbing"])
@pytest.mark.parametrize("drop", [True, False])
def test_leading_frames_drop_for_every_strategy(table, strategy, drop):
    confounds = read_confounds(table(columns=spikes(40, 0, 1, 2)), 40)
    raw = series(40)
    got = denoise(raw, confounds, Denoising(strategy, drop_non_steady_state=drop))
    assert got.n_dropped == (3 if drop else 0)
    assert got.keep.tolist() == [not drop] * 3 + [True] * 37
    assert np.isnan(got.values[:3]).all() == drop
    assert got.n_censored == 0
    if strategy == "none":
        np.testing.assert_array_equal(got.values[got.keep], raw.values[got.keep])


def test_a_later_mark_drops_everything_before_it(table):
    assert read_confounds(table(columns=spikes(40, 0, 3)), 40).non_steady == 4
    assert read_confounds(table(columns={"non_steady_state_outlier00": np.zeros(40, int)}), 40).non_steady == 0


def test_scrubbing_takes_moved_frames_and_short_segments(table):
    fd = np.full(60, 0.1)
    fd[[20, 24, 40]] = 2.0  # between 20 and 24 only three frames are left: less than nilearn's five
    confounds = read_confounds(table(60, columns={"framewise_displacement": fd, "std_dvars": np.ones(60)}), 60)
    got = denoise(series(60), confounds, Denoising("scrubbing"))
    assert np.flatnonzero(~got.keep).tolist() == [20, 21, 22, 23, 24, 40]
    assert (got.n_censored, got.n_dropped) == (6, 0)


@pytest.mark.parametrize(
    ("limits", "censored"),
    [
        ({}, [10, 30, 31, 32, 33, 34]),
        ({"least_segment": 3}, [10, 30, 34]),
        ({"fd_threshold": 3.0}, [10]),
        ({"std_dvars_threshold": 6.0}, [30, 31, 32, 33, 34]),
        ({"fd_threshold": 0.05, "least_segment": 1}, None),
    ],
    ids=str,
)
def test_limits_of_scrubbing_are_the_recipes(table, limits, censored):
    fd, dvars = np.full(60, 0.1), np.ones(60)
    fd[[30, 34]], dvars[10] = 2.0, 5.0
    confounds = read_confounds(table(60, columns={"framewise_displacement": fd, "std_dvars": dvars}), 60)
    spec = Denoising("scrubbing", **limits)
    if censored is None:
        with pytest.raises(ShortRecordingError):
            denoise(series(60), confounds, spec)
    else:
        assert np.flatnonzero(~denoise(series(60), confounds, spec).keep).tolist() == censored


@pytest.mark.parametrize("drop", [True, False])
def test_scrubbing_everything_is_a_short_recording(table, drop):
    columns = {"framewise_displacement": np.full(40, 3.0), **spikes(40, 0)}
    confounds = read_confounds(table(columns=columns), 40)
    with pytest.raises(ShortRecordingError, match=r"[01] of 40 frames are left"):
        denoise(series(40), confounds, Denoising("scrubbing", drop_non_steady_state=drop))


# traces


def test_inputs_stay_and_no_folder_is_left(table, tmp_path, monkeypatch):
    work = tmp_path / "tmp"
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    path = table(json="{}")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.parent.iterdir() if p.is_file()}
    raw = series(40)
    values = raw.values.copy()
    denoise(raw, read_confounds(path, 40), Denoising("simple"))
    with pytest.raises(ConfoundsError):
        denoise(raw, read_confounds(path, 40), Denoising("compcor"))
    assert list(work.iterdir()) == []
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.parent.iterdir() if p.is_file()} == before
    np.testing.assert_array_equal(raw.values, values)


def test_a_read_only_input_folder_and_a_relative_path(table, monkeypatch):
    path = table()
    monkeypatch.chdir(path.parent)
    path.parent.chmod(0o555)
    try:
        got = denoise(series(40), read_confounds(Path(path.name), 40), Denoising("simple"))
    finally:
        path.parent.chmod(0o755)
    assert got.regressors


# what is left out


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("limits", ANY, ids=str)
@pytest.mark.parametrize("detrend", [True, False])
def test_no_frame_that_is_left_out_touches_one_that_is_kept(table, strategy, limits, detrend):
    """Whatever series and confounds hold there: leading frames, mirrored ones, runs, the last frame."""
    n = 160
    steady = {"framewise_displacement": np.full(n, 0.1), "std_dvars": np.ones(n)}
    left_out = [0, 1, 2]
    if strategy == "scrubbing":
        left_out += [40, 41, 60, 80, 99, 118, 119, 120, 121, 122, 123, 124, 125, 126, 159]
        steady["framewise_displacement"][left_out[3:]] = 2.0
    component = {"a_comp_cor_00": np.random.default_rng(4).normal(size=n)}
    meta = json.dumps({"a_comp_cor_00": {"Mask": "combined", "Method": "aCompCor", "Retained": True}})
    path = table(n, columns=steady | component | spikes(n, *left_out[:3]), json=meta)
    before = read_confounds(path, n)
    spec = Denoising(strategy, "full" if detrend else None, *limits, detrend=detrend, least_segment=1)
    raw = series(n)
    expected = denoise(raw, before, spec)
    assert np.flatnonzero(~expected.keep).tolist() == left_out
    marks = [c for c, m in enumerate(before.names) if m in steady or m.startswith("non_steady")]
    for junk in (np.nan, np.inf, -1e30, 0.0, 12345.6):
        values, confounds = raw.values.copy(), before.values.copy()
        values[left_out] = junk
        confounds[np.ix_(left_out, np.setdiff1d(np.arange(len(before.names)), marks))] = junk
        changed = Confounds(before.path, before.names, confounds)
        got = denoise(RoiSeries(values, raw.coverage, 2.0), changed, spec)
        np.testing.assert_array_equal(got.values, expected.values)
        assert got.regressors == expected.regressors
        assert (got.n_dropped, got.n_censored) == (3, len(left_out) - 3)
    assert np.isfinite(expected.values[expected.keep]).all()


def test_a_parcel_with_a_hole_costs_no_other(table):
    raw = series(80)
    holed = raw.values.copy()
    holed[33, 1] = np.nan
    spec = Denoising(low_pass=0.1)
    got = denoise(RoiSeries(holed, raw.coverage, 2.0), None, spec)
    assert np.isnan(got.values[:, 1]).all()
    np.testing.assert_array_equal(got.values[:, [0, 2, 3, 4]], denoise(raw, None, spec).values[:, [0, 2, 3, 4]])


def test_the_sidecar_tells_what_was_used(table):
    confounds = read_confounds(table(), 40)
    for spec, cosines in ((Denoising("simple"), True), (Denoising("simple", high_pass=0.05), False)):
        got = denoise(series(40), confounds, spec)
        assert got.parameters["cosine_regressors"] == cosines == any("cosine" in r for r in got.regressors)
        assert "extrapolate" not in got.parameters["clean"]
        assert "cut off first" in got.parameters["frames_left_out"]
