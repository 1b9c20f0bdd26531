"""Integrated gradients of real heads and a small encoder: against closed forms, finite differences and completeness."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attribution_parts import symmetric
from bundle_parts import make_tangent
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.explaining.attribution import group_attribution
from bids_fmmtc.learning.explaining.checks import sanity_check
from bids_fmmtc.learning.explaining.explain import MOST_STEPS, TOLERANCE, Explainer, mean_features, randomised
from bids_fmmtc.learning.explaining.paths import SeriesPath
from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig, BrainLMModality
from bids_fmmtc.modalities.connectivity import connectivity
from bids_fmmtc.modalities.token_order import TokenOrder

CONFIG = runpy.run_path(str(Path(__file__).parents[2] / "modalities" / "brainlm_parts.py"))["CONFIG"]
R, T, H = 7, 20, CONFIG["hidden_size"]
LOST = 4
ORDERS = [TokenOrder(), TokenOrder("shuffles", count=3, seed=1)]
FC = {"branch": "resnet18", "width": 6, "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
FMMTC = {"kind": "fmmtc", "outputs": 2, "branches": {"brainlm": {"branch": "identity"}, "fc": FC}}
LINEAR = {"kind": "linear", "outputs": 2, "modalities": ["brainlm", "fc"]}


def make_head(spec, seed=0, r=R, h=H):
    torch.manual_seed(seed)
    head = build_head(spec, {"brainlm": (h,), "fc": (r, r)}).eval()
    if spec["kind"] == "linear":
        with torch.no_grad():
            head.weights["brainlm"].normal_()
            head.weights["fc"].copy_(torch.from_numpy(symmetric(np.random.default_rng(seed), r)))
    return head


def make_path(order=ORDERS[0], scaling="global_sd"):
    torch.manual_seed(0)
    model = BrainLM(BrainLMConfig.from_json(CONFIG)).eval()
    xyz = np.random.default_rng(3).normal(0, 3, (R, 3)).astype(np.float32)
    return SeriesPath(BrainLMModality(model, order), xyz, scaling)


def make_person(path, windows=2, seed=0):
    """Series with a lost parcel, the encoder's vectors of them, and their connectivity."""
    rng = np.random.default_rng(seed)
    series = rng.standard_normal((windows, T, R)).astype(np.float32)
    series[:, :, LOST] = 0
    fc = np.stack([connectivity(s, "pearson", fisher_z=True) for s in series])
    return {"brainlm": vectors(path, series), "fc": fc}, series


@torch.no_grad()
def vectors(path, series):
    signal = torch.tensor(np.swapaxes(series, 1, 2).copy())
    return path.encoder.vectors(signal, torch.tensor(path.xyz).expand(len(signal), -1, -1)).numpy()


def baselines(seed=9, r=R, h=H):
    rng = np.random.default_rng(seed)
    return {"brainlm": rng.normal(size=h).astype(np.float32), "fc": symmetric(rng, r).astype(np.float32)}


def score(head, arrays):
    with torch.no_grad():
        logits = head({name: torch.tensor(array) for name, array in arrays.items()}).double()
    return (logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]).numpy()


# ------------------------------------------------------------------------------------------ the way through the encoder


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
def test_the_path_with_gradients_gives_the_vectors_of_the_path_without(order):
    path = make_path(order)
    _, series = make_person(path)
    signal = torch.tensor(series[0].T.copy())[None].requires_grad_()
    found = path.encoder.vectors(signal, torch.tensor(path.xyz)[None])
    source = type("Source", (), {"scaled": series[0], "xyz": path.xyz})
    expected = path.encoder.compute(source, np.array([[0, T]], np.int32))
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-6)
    assert found.requires_grad
    assert not any(p.requires_grad for p in path.encoder.model.parameters())


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
def test_gradients_of_the_encoder_equal_finite_differences(order):
    path = make_path(order)
    path.encoder.model.double()
    rng = np.random.default_rng(1)
    signal, way = (torch.tensor(rng.standard_normal((1, R, T))) for _ in range(2))
    xyz, weights = torch.tensor(path.xyz)[None].double(), torch.tensor(rng.standard_normal(H))

    def value(x):
        return (path.encoder.vectors(x, xyz) @ weights).sum()

    x = signal.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        slope = (value(signal + 1e-5 * way) - value(signal - 1e-5 * way)) / 2e-5
    assert (gradient * way).sum().item() == pytest.approx(slope.item(), rel=1e-6)


# --------------------------------------------------------------------------------------------------------- closed forms


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), r=st.integers(2, 6), windows=st.integers(1, 3), outputs=st.sampled_from([1, 2]))
def test_a_linear_head_gives_weight_times_difference(seed, r, windows, outputs):
    rng = np.random.default_rng(seed)
    head = make_head({**LINEAR, "outputs": outputs}, seed, r, 5)
    base = baselines(seed, r, 5)
    fc = np.stack([symmetric(rng, r) for _ in range(windows)]).astype(np.float32)
    arrays = {"brainlm": rng.normal(size=(windows, 5)).astype(np.float32), "fc": fc}
    found = Explainer(head, base).explain("s", arrays)
    weights = {name: head.weights[name].detach().numpy().astype(np.float64) for name in arrays}
    edges = (weights["fc"] * (fc - base["fc"])).mean(axis=0) * 2  # i-j and j-i together; the diagonal is 0
    np.testing.assert_allclose(found.edges, edges, atol=1e-5)
    vector = (weights["brainlm"] * (arrays["brainlm"] - base["brainlm"])).mean(axis=0)
    assert found.parts["brainlm"] == pytest.approx(vector.sum(), abs=1e-5)
    assert found.parts["fc"] == pytest.approx(np.triu(edges).sum(), abs=1e-5)
    assert found.score == pytest.approx(score(head, arrays).mean(), abs=1e-5)
    assert sum(found.parts.values()) == pytest.approx(found.score - found.baseline_score, abs=1e-5)
    assert found.parcels is found.parcels_time is None  # the encoder's vector has no parcels
    assert (found.windows, found.steps) == (windows, 16)


def test_planted_edges_come_out_on_top():
    planted = [(0, 3), (2, 5), (1, 6)]
    head = make_head(LINEAR)
    with torch.no_grad():
        head.weights["brainlm"].zero_()
        head.weights["fc"].zero_()
        for i, j in planted:
            head.weights["fc"][i, j] = head.weights["fc"][j, i] = 0.5
    rng = np.random.default_rng(0)
    people = [symmetric(rng, R).astype(np.float32)[None] for _ in range(20)]
    arrays = [{"brainlm": np.zeros((1, H), np.float32), "fc": fc} for fc in people]
    explainer = Explainer(head, mean_features({name: [a[name] for a in arrays] for name in arrays[0]}))
    group = group_attribution([explainer.explain(f"s{i}", a) for i, a in enumerate(arrays)])
    first, second = np.triu_indices(R)
    assert {(first[k], second[k]) for k in group.maps["edges"].order[:3]} == set(planted)
    assert group.maps["edges"].between.sum() == pytest.approx(1)
    vector, edges = group.shares
    assert (vector.share, edges.share, vector.between) == (0, 1, 0)
    assert edges.part == pytest.approx(0, abs=1e-6)  # the baseline is the mean person


# ----------------------------------------------------------------------------------------------- completeness and zeros


@pytest.mark.parametrize(("spec", "order"), [(FMMTC, ORDERS[0]), (LINEAR, ORDERS[1])], ids=["fmmtc", "linear"])
def test_series_and_edges_add_up_to_the_score(spec, order):
    head, path = make_head(spec), make_path(order)
    arrays, series = make_person(path)
    found = Explainer(head, baselines(), paths=(path,)).explain("s", arrays, {"brainlm": series}, keep_time=True)
    assert found.score == pytest.approx(score(head, arrays).mean(), abs=1e-5)
    assert max(found.relative_errors.values()) <= TOLERANCE
    assert set(found.errors) == {"brainlm", "fc", "total"}
    assert abs(sum(found.parts.values()) - (found.score - found.baseline_score)) <= found.errors["total"] + 1e-9
    silent = vectors(path, np.zeros((1, T, R), np.float32))
    base = {"brainlm": silent, "fc": baselines()["fc"][None]}
    lost = base["fc"].copy()
    lost[0, LOST], lost[0, :, LOST] = 0, 0
    assert found.baseline_score == pytest.approx(score(head, {**base, "fc": lost})[0], abs=1e-5)
    # Maps add up to their parts.
    assert found.parcels.sum() == pytest.approx(found.parts["brainlm"])
    assert found.edge_parcels.sum() == pytest.approx(found.parts["fc"])
    assert np.array_equal(found.edges, found.edges.T)
    one = Explainer(head, baselines(), paths=(path,)).explain(
        "s", {n: a[:1] for n, a in arrays.items()}, {"brainlm": series[:1]}
    )
    np.testing.assert_allclose(found.parcels_time.sum(axis=0), one.parcels, rtol=1e-4, atol=1e-6)
    assert found.parcels_time.shape == (T, R)
    assert found.absolute["brainlm"] >= np.abs(found.parcels).sum() - 1e-9


@pytest.mark.parametrize("spec", [FMMTC, LINEAR], ids=lambda spec: spec["kind"])
def test_a_lost_parcel_gets_nothing(spec):
    path = make_path()
    arrays, series = make_person(path)
    found = Explainer(make_head(spec), baselines(), paths=(path,)).explain("s", arrays, {"brainlm": series})
    assert found.parcels[LOST] == 0
    assert not found.edges[LOST].any()
    assert np.count_nonzero(found.parcels) == R - 1
    assert found.inputs["series"][LOST] == 0
    assert found.inputs["edges"][LOST].sum() == 0


def test_a_lost_parcel_gets_nothing_in_tangent_space_either():
    tangent = make_tangent()
    r = len(tangent.mean)
    head = make_head(LINEAR, r=r, h=3)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4 * r, r)).astype(np.float32)
    lost = np.arange(r) == 2
    covariance = connectivity(data, "tangent", fisher_z=False, lost=lost)[None]
    base = mean_features({"brainlm": [np.zeros((1, 3), np.float32)], "fc": [tangent.mean[None]]}, tangent)
    np.testing.assert_allclose(base["fc"], 0, atol=1e-6)  # the mean is where tangent space touches
    arrays = {"brainlm": np.zeros((1, 3), np.float32), "fc": covariance}
    found = Explainer(head, base, tangent=tangent).explain("s", arrays)
    assert not found.edges[2].any()
    assert found.edges.any()
    assert "tangent space" in found.baseline["fc"]
    own = tangent.project(covariance)
    assert found.score == pytest.approx(score(head, {**arrays, "fc": own})[0], abs=1e-5)
    weights = head.weights["fc"].detach().numpy()
    expected = 2 * weights * own[0]
    expected[2] = expected[:, 2] = 0
    np.testing.assert_allclose(found.edges, expected, atol=1e-5)


@pytest.mark.parametrize("ignored", ["brainlm", "fc"])
@pytest.mark.parametrize("spec", [FMMTC, LINEAR], ids=lambda spec: spec["kind"])
def test_an_ignored_modality_gets_exactly_zero(spec, ignored):
    head, path = make_head(spec), make_path()
    with torch.no_grad():
        if spec["kind"] == "linear":
            head.weights[ignored].zero_()
        else:
            head.classifier.weight[:, slice(H) if ignored == "brainlm" else slice(H, None)] = 0
    arrays, series = make_person(path)
    found = Explainer(head, baselines(), paths=(path,)).explain("s", arrays, {"brainlm": series})
    values = found.parcels if ignored == "brainlm" else found.edges
    other = found.edges if ignored == "brainlm" else found.parcels
    assert found.parts[ignored] == found.absolute[ignored] == 0
    assert not values.any()
    assert other.any()
    assert group_attribution([found]).shares[["brainlm", "fc"].index(ignored)].share == 0


def test_more_points_are_taken_until_it_adds_up():
    head, path = make_head(FMMTC), make_path()
    arrays, series = make_person(path, windows=1)
    one = Explainer(head, baselines(), paths=(path,), steps=1).explain("s", arrays, {"brainlm": series})
    assert 1 < one.steps <= MOST_STEPS
    assert max(one.relative_errors.values()) <= TOLERANCE
    fine = Explainer(head, baselines(), paths=(path,), steps=100).explain("s", arrays, {"brainlm": series})
    assert fine.steps == 100
    np.testing.assert_allclose(one.parcels, fine.parcels, atol=0.05 * np.abs(fine.parcels).max())


def test_the_person_as_baseline_moves_nothing():
    head = make_head(FMMTC)
    base = baselines()
    found = Explainer(head, base).explain("s", {name: array[None] for name, array in base.items()})
    assert set(found.parts.values()) == set(found.errors.values()) == set(found.relative_errors.values()) == {0.0}
    assert found.steps == 16


def test_series_that_are_not_scaled_start_from_their_mean():
    path = make_path(scaling="none")
    _, series = make_person(path, windows=1)
    series[:, :, 0] = 3  # it does not fluctuate
    series[:, :, 1:] += 5
    found = Explainer(make_head(LINEAR), baselines(), paths=(path,)).explain(
        "s", {"brainlm": vectors(path, series), "fc": baselines()["fc"][None]}, {"brainlm": series}
    )
    assert found.parcels[0] == 0
    assert np.abs(found.inputs["series"][1:]).max() < 2  # not 5
    assert "mean over the window" in found.baseline["brainlm"]
    assert "level over the recording" in make_path().text


def test_people_count_the_same_in_the_mean_whatever_their_windows():
    arrays = {"fc": [np.zeros((1, 2, 2), np.float32), np.ones((3, 2, 2), np.float32)]}
    found = mean_features(arrays)["fc"]
    assert found.dtype == np.float32
    assert (found == 0.5).all()


# ------------------------------------------------------------------------------------------------------- random weights


def test_random_weights_are_a_copy_of_the_same_size():
    head = make_head(FMMTC)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    one, two, other = (randomised(head, seed) for seed in (0, 0, 1))
    for name, value in head.named_parameters():
        assert torch.equal(value, before[name])
        found = dict(one.named_parameters())[name]
        assert torch.equal(found, dict(two.named_parameters())[name])
        if value.std() > 0:
            assert not torch.equal(found, value)
            assert not torch.equal(found, dict(other.named_parameters())[name])
    wide, wide_random = (h.branches["fc"].body.embedder.embedder.convolution.weight for h in (head, one))
    assert wide_random.std().item() == pytest.approx(wide.std().item(), rel=0.2)
    assert not one.training


def test_a_random_encoder_changes_the_series_map_and_forgets_its_checksum():
    path = make_path()
    path.encoder.model.weights_sha256 = "0" * 64
    explainer = Explainer(make_head(LINEAR), baselines(), paths=(path,))
    arrays, series = make_person(path, windows=1)
    head_only, both = explainer.randomised(1), explainer.randomised(1, encoder=True)
    assert head_only.paths[0] is path
    assert path.encoder.weights_sha256 == "0" * 64
    assert both.paths[0].encoder.weights_sha256 is None
    one, other = (e.explain("s", arrays, {"brainlm": series}) for e in (head_only, both))
    np.testing.assert_allclose(one.edges, other.edges)
    assert not np.allclose(one.parcels, other.parcels)


def test_what_was_learnt_passes_the_sanity_check_and_a_random_head_does_not():
    """Edges that differ alike in size: a map of weights on a few of them is not that of random weights."""
    r, rng = 20, np.random.default_rng(0)
    head = make_head(LINEAR, r=r, h=2)
    with torch.no_grad():
        head.weights["fc"] *= 0.01
        head.weights["fc"][:4, :4] += 1
    people = [symmetric(rng, r).astype(np.float32)[None] for _ in range(30)]
    arrays = [{"brainlm": np.zeros((1, 2), np.float32), "fc": fc} for fc in people]
    explainer = Explainer(head, mean_features({name: [a[name] for a in arrays] for name in arrays[0]}), steps=2)

    def group(used):
        return group_attribution([used.explain(f"s{i}", a) for i, a in enumerate(arrays)])

    random = [group(explainer.randomised(seed)) for seed in (1, 2)]
    assert sanity_check(group(explainer), random).passes
    assert not sanity_check(random[0], random[:1]).passes


# ---------------------------------------------------------------------------------------------------- bits and refusals


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
def test_the_same_input_gives_the_same_bits(order):
    path = make_path(order)
    arrays, series = make_person(path, windows=1)
    explainer = Explainer(make_head(FMMTC), baselines(), paths=(path,), steps=4)
    one, two = (explainer.explain("s", arrays, {"brainlm": series}, keep_time=True) for _ in range(2))
    assert one.edges.tobytes() == two.edges.tobytes()
    assert one.parcels.tobytes() == two.parcels.tobytes()
    assert one.parcels_time.tobytes() == two.parcels_time.tobytes()
    assert one.parts == two.parts


def test_the_input_is_left_alone():
    path = make_path()
    arrays, series = make_person(path, windows=1)
    base = baselines()
    given_arrays = [*arrays.values(), *base.values(), series, path.xyz]
    before = [array.copy() for array in given_arrays]
    for array in given_arrays:
        array.flags.writeable = False
    Explainer(make_head(LINEAR), base, paths=(path,), steps=1).explain("s", arrays, {"brainlm": series})
    assert all(np.array_equal(a, b) for a, b in zip(given_arrays, before, strict=True))


def test_series_of_other_features_are_refused_where_the_encoder_is_known():
    path = make_path()
    arrays, series = make_person(path)
    path.encoder.model.weights_sha256 = "0" * 64
    explainer = Explainer(make_head(LINEAR), baselines(), paths=(path,), steps=1)
    explainer.explain("s", arrays, {"brainlm": series})
    with pytest.raises(DataError, match="sub-9: the inputs give an encoder vector that differs"):
        explainer.explain("sub-9", arrays, {"brainlm": series[::-1]})


def test_inputs_that_do_not_fit_are_named():
    path = make_path()
    arrays, series = make_person(path)
    plain = Explainer(make_head(LINEAR), baselines())
    through = replace(plain, paths=(path,))
    with pytest.raises(DataError, match=r"s: fc is of shape None, expected \(7, 7\)"):
        plain.explain("s", {"brainlm": arrays["brainlm"]})
    with pytest.raises(DataError, match=r"s: fc is of shape \(6, 6\)"):
        plain.explain("s", {**arrays, "fc": arrays["fc"][:, 1:, 1:]})
    with pytest.raises(DataError, match="what brainlm reads is not given"):
        through.explain("s", arrays)
    with pytest.raises(DataError, match=r"expected series \(frames, 7\) in each window, found \(20, 6\)"):
        through.explain("s", arrays, {"brainlm": series[:, :, 1:]})
    with pytest.raises(DataError, match=r"hold \[1, 2\] windows"):
        through.explain("s", arrays, {"brainlm": series[:1]})
    with pytest.raises(DataError, match=r"hold \[0\] windows"):
        plain.explain("s", {name: array[:0] for name, array in arrays.items()})
    with pytest.raises(ValueError, match="no path"):
        plain.explain("s", arrays, {"brainlm": series})
    with pytest.raises(ValueError, match="does not read brainlm"):
        Explainer(plain.head, {"fc": baselines()["fc"]}, paths=(path,))
    with pytest.raises(ValueError, match="evaluation mode"):
        Explainer(make_head(LINEAR).train(), baselines())
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Explainer(make_head(LINEAR), baselines(), steps=0)
    series[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        through.explain("s", arrays, {"brainlm": series})
