from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_fmmtc.errors import DataError, RecipeError
from bids_fmmtc.modalities import load_modality
from bids_fmmtc.modalities.connectivity import (
    FISHER_LIMIT,
    ConnectivityModality,
    TangentReference,
    connectivity,
    describe,
    measure_name,
)
from bids_fmmtc.recipe import Connectivity, ModalitySpec, Recipe

KINDS = ("pearson", "gram", "partial", "tangent")


def series(t=200, r=12, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((t, 3)) @ rng.standard_normal((3, r)) + rng.standard_normal((t, r))
    return (mixed * rng.uniform(1, 50, r) + rng.uniform(500, 2000, r)).astype(np.float32)


def zscored(x):
    x = x.astype(np.float64)
    return (x - x.mean(axis=0)) / x.std(axis=0)


@dataclass
class Source:
    frames: np.ndarray
    lost: np.ndarray
    scaled: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    xyz: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    left: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


windows = st.tuples(st.integers(2, 12), st.integers(1, 7)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-1e4, 1e4, width=32))
)


def test_pearson_is_the_plain_sample_correlation():
    x = series(r=424)
    np.testing.assert_allclose(connectivity(x, "pearson", fisher_z=False), np.corrcoef(x.T), atol=1e-6)


def test_nilearn_by_default_shrinks_and_we_do_not():
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance

    x = series(t=60)
    ours = connectivity(x, "pearson", fisher_z=False)
    default = ConnectivityMeasure(kind="correlation", standardize=False).fit_transform([x.astype(float)])[0]
    plain = ConnectivityMeasure(kind="correlation", cov_estimator=EmpiricalCovariance()).fit_transform([zscored(x)])[0]
    assert np.abs(default - ours).max() > 1e-3
    np.testing.assert_allclose(plain, ours, atol=1e-6)


@pytest.mark.parametrize("kind", ["pearson", "partial"])
def test_fisher_z_is_arctanh_with_zero_diagonal(kind):
    x = series()
    r = connectivity(x, kind, fisher_z=False).astype(np.float64)
    expected = np.arctanh(np.where(np.eye(len(r)), 0, r))
    np.testing.assert_allclose(connectivity(x, kind, fisher_z=True), expected, atol=1e-5)


def test_fisher_z_of_identical_parcels_is_clipped():
    x = series()
    x[:, 1] = x[:, 0]
    x[:, 2] = -x[:, 0]
    z = connectivity(x, "pearson", fisher_z=True)
    assert z[0, 1] == pytest.approx(np.arctanh(FISHER_LIMIT))
    assert z[0, 2] == -z[0, 1]


@pytest.mark.parametrize("kind", ["gram", "tangent"])
def test_fisher_z_leaves_other_kinds_alone(kind):
    x = series()
    np.testing.assert_array_equal(connectivity(x, kind, fisher_z=True), connectivity(x, kind, fisher_z=False))


def test_gram_is_of_the_raw_window():
    x = series()
    np.testing.assert_allclose(connectivity(x, "gram", fisher_z=True), x.astype(float).T @ x.astype(float), rtol=1e-6)


def test_partial_equals_nilearn_of_z_scores_with_fewer_frames_than_parcels():
    from nilearn.connectome import ConnectivityMeasure

    x = series(t=20, r=30)
    theirs = ConnectivityMeasure(kind="partial correlation").fit_transform([zscored(x)])[0]
    np.testing.assert_allclose(connectivity(x, "partial", fisher_z=False), theirs, atol=1e-6)


def test_tangent_equals_nilearn_of_z_scores():
    from nilearn.connectome import ConnectivityMeasure

    runs = [series(t=40, r=15, seed=seed) for seed in range(6)]
    measure = ConnectivityMeasure(kind="tangent").fit([zscored(x) for x in runs])
    covariances = np.stack([connectivity(x, "tangent", fisher_z=True) for x in runs])
    reference = TangentReference.fit(covariances)
    np.testing.assert_allclose(reference.mean, measure.mean_, atol=1e-6)
    np.testing.assert_allclose(reference.whitening, measure.whitening_, atol=1e-6)
    np.testing.assert_allclose(reference.project(covariances), measure.transform([zscored(x) for x in runs]), atol=1e-5)


def test_tangent_of_one_equals_that_of_many_and_is_symmetric():
    covariances = np.stack([connectivity(series(seed=seed), "tangent", fisher_z=False) for seed in range(3)])
    reference = TangentReference.fit(covariances)
    one = reference.project(covariances[1])
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, one.T)
    np.testing.assert_allclose(one, reference.project(covariances)[1], atol=1e-6)
    np.testing.assert_allclose(reference.project(reference.mean), 0, atol=1e-6)


def test_tangent_reference_survives_storage():
    reference = TangentReference.fit(np.stack([np.eye(3), 2 * np.eye(3)]))
    again = TangentReference.from_arrays(reference.to_arrays())
    np.testing.assert_array_equal(again.mean, reference.mean)
    np.testing.assert_allclose(reference.mean, np.sqrt(2) * np.eye(3))


def test_tangent_refuses_what_is_not_positive_definite():
    reference = TangentReference.fit(np.eye(3)[None])
    for bad in (-np.eye(3), np.full((3, 3), np.nan), np.ones((3, 3))):
        with pytest.raises(DataError, match="positive definite"):
            TangentReference.fit(bad[None])
    with pytest.raises(DataError, match="positive definite"):
        reference.project(-np.eye(3))
    with pytest.raises(DataError, match="expected matrices"):
        reference.project(np.eye(4))
    with pytest.raises(ValueError, match="N > 0"):
        TangentReference.fit(np.zeros((0, 3, 3)))


def test_geometric_mean_that_does_not_converge_warns():
    from bids_fmmtc.modalities.connectivity import _geometric_mean

    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    matrices = np.stack([np.diag([1.0, 2, 3, 4]), turn @ np.diag([4.0, 1, 9, 2]) @ turn.T])
    with pytest.warns(UserWarning, match="geometric mean"):
        _geometric_mean(matrices, iterations=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fisher_z", [True, False])
def test_lost_and_constant_parcels_are_zero_never_nan(kind, fisher_z):
    x = series()
    lost = np.zeros(x.shape[1], bool)
    lost[[2, 7]] = True
    x[:, 2] = np.nan
    x[:, 5] = 1000 if kind != "gram" else 0
    matrix = connectivity(x, kind, fisher_z=fisher_z, lost=lost)
    dead = np.array([2, 5, 7])
    expected = np.zeros((3, x.shape[1]), np.float32)
    if kind == "tangent":
        expected[np.arange(3), dead] = 1
    np.testing.assert_array_equal(matrix[dead], expected)
    np.testing.assert_array_equal(matrix[:, dead], expected.T)
    kept = np.setdiff1d(np.arange(x.shape[1]), dead)
    np.testing.assert_allclose(
        matrix[np.ix_(kept, kept)], connectivity(x[:, kept], kind, fisher_z=fisher_z), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_all_parcels_lost(kind):
    matrix = connectivity(np.full((5, 3), np.nan, np.float32), kind, fisher_z=True, lost=np.ones(3, bool))
    np.testing.assert_array_equal(matrix, np.eye(3) if kind == "tangent" else np.zeros((3, 3)))


@given(windows, st.booleans())
def test_pearson_is_symmetric_and_bounded(x, fisher_z):
    matrix = connectivity(x, "pearson", fisher_z=fisher_z)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, matrix.T)
    limit = np.float32(np.arctanh(FISHER_LIMIT)) if fisher_z else 1
    assert np.abs(matrix).max() <= limit
    varies = np.ptp(x, axis=0) > 0
    np.testing.assert_array_equal(np.diagonal(matrix), np.where(varies, 0 if fisher_z else 1, 0))
    assert not matrix[~varies].any()


@given(windows, st.integers(-60, 60), st.integers(0, 2**31))
def test_pearson_does_not_depend_on_units(x, power, seed):
    factor = np.ldexp(1.0, np.random.default_rng(seed).integers(-60, 60, x.shape[1]) + power)
    expected = connectivity(x, "pearson", fisher_z=False)
    np.testing.assert_allclose(connectivity(x * factor, "pearson", fisher_z=False), expected, atol=1e-6)


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 2**31))
def test_permuted_parcels_give_permuted_matrices(kind, seed):
    order = np.random.default_rng(seed).permutation(8)
    x = series(t=30, r=8, seed=seed)
    matrix = connectivity(x, kind, fisher_z=False)
    np.testing.assert_array_equal(matrix, matrix.T)
    permuted = connectivity(x[:, order], kind, fisher_z=False)
    np.testing.assert_allclose(permuted, matrix[np.ix_(order, order)], rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 40))
def test_covariance_is_positive_definite_with_few_frames(seed, t):
    matrix = connectivity(series(t=t, r=20, seed=seed), "tangent", fisher_z=False)
    assert np.linalg.eigvalsh(matrix.astype(np.float64)).min() > 0


def test_singular_covariance_is_refused():
    with pytest.raises(DataError, match="singular"):
        connectivity(series(t=2), "partial", fisher_z=True)


def test_not_finite_is_refused():
    x = series()
    x[3, 3] = np.inf
    with pytest.raises(DataError, match="finite"):
        connectivity(x, "pearson", fisher_z=True)


def test_wrong_rank_and_unknown_kind():
    with pytest.raises(ValueError, match=r"\(T, R\)"):
        connectivity(np.zeros(3), "pearson", fisher_z=True)
    for call in (
        lambda: connectivity(series(), "spearman", fisher_z=True),
        lambda: measure_name("spearman"),
        lambda: describe("spearman"),
    ):
        with pytest.raises(RecipeError, match="known are pearson, gram, partial, tangent"):
            call()


def test_names_and_descriptions():
    assert [measure_name(k) for k in KINDS] == ["pearsoncorrelation", "gram", "partialcorrelation", "covariance"]
    assert "not shrunk" in describe("pearson")["Estimator"]
    assert all("Ledoit-Wolf" in describe(kind)["Estimator"] for kind in ("partial", "tangent"))
    assert describe("pearson", fisher_z=True)["RelationshipMeasure"] == "Pearson correlation, Fisher z"
    assert "Fisher" not in describe("gram", fisher_z=True)["RelationshipMeasure"]


@pytest.mark.parametrize("kind", KINDS)
def test_modality_computes_each_window(kind):
    x = series(t=90)
    lost = np.zeros(12, bool)
    lost[4] = True
    recipe = Recipe(connectivity=Connectivity(kind=kind))
    modality = load_modality(recipe.modalities[0], recipe, None)
    result = modality.compute(Source(x, lost), np.array([[0, 40], [40, 80]], np.int32))
    assert modality.name == "fc"
    assert result.shape == (2, 12, 12)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result[1], connectivity(x[40:80], kind, fisher_z=True, lost=lost))


def test_modality_has_neither_options_nor_weights():
    for spec, message in (
        (ModalitySpec("fc", options={"kind": "gram"}), "has no option kind"),
        (ModalitySpec("fc", weights_sha256="0" * 64), "no weights"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_modality(spec, Recipe(modalities=(spec,)), None)


def test_importing_and_pearson_need_no_sklearn_nilearn_or_torch():
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from bids_fmmtc.modalities.connectivity import connectivity as c;"
        "c(np.eye(3), 'pearson', fisher_z=True);"
        "assert not {'sklearn', 'nilearn', 'torch', 'scipy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_frames_the_mean_over_windows_is_that_of_every_frame_left(kind):
    x = series(t=135)
    lost = np.zeros(12, bool)
    lost[4] = True
    x[:, 4] = 0
    source = Source(x[:120], lost, left=x)
    windows = np.array([[0, 40], [40, 80], [80, 120]], np.int32)
    got, old = (
        ConnectivityModality(Connectivity(kind, frames=frames)).compute(source, windows)
        for frames in ("all", "windows")
    )
    whole = connectivity(x, kind, fisher_z=True, lost=lost) * (40 / 135 if kind == "gram" else 1)
    np.testing.assert_allclose(got.mean(axis=0), whole, atol=1e-5 * np.abs(whole).max())
    assert np.abs(got.mean(axis=0) - old.mean(axis=0)).max() > 1e-3 * np.abs(whole).max()
    np.testing.assert_array_equal(got, got.transpose(0, 2, 1))
    assert (got[:, 4, np.arange(12) != 4] == 0).all()
    if kind == "tangent":
        assert np.linalg.eigvalsh(got.astype(np.float64)).min() > 0
    else:  # windows differ from each other as they did
        np.testing.assert_allclose(got - got.mean(axis=0), old - old.mean(axis=0), atol=1e-5 * np.abs(old).max())
    single = ConnectivityModality(Connectivity(kind, frames="all")).compute(source, windows[:1])
    np.testing.assert_allclose(single[0], whole, rtol=1e-6)
