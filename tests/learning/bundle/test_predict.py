import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from bundle_parts import CARD, SHAPES, R, features, make_tangent, parts, restate
from qualities import quality
from safetensors.numpy import load, save

from bids_fmmtc.errors import BundleError, DataError
from bids_fmmtc.learning.bundle.calibrate import calibrated
from bids_fmmtc.learning.bundle.load import load_bundle
from bids_fmmtc.learning.bundle.novelty import from_arrays
from bids_fmmtc.learning.bundle.predict import Predictor
from bids_fmmtc.recipe import Connectivity


def test_prediction_is_the_calibrated_mean_logit(plain, predictor, encoder):
    runs = [features(plain, 3, seed=1), features(plain, 2, seed=2)]
    prediction = predictor.predict("sub-1", runs, flags=("motion",))
    head = parts(encoder)["head"].eval()
    with torch.inference_mode():
        logits = np.concatenate([head({n: torch.tensor(r.arrays[n]) for n in SHAPES}).numpy() for r in runs])
    expected = calibrated(logits, plain.calibration)
    np.testing.assert_allclose(prediction.per_window, expected, atol=1e-6)
    difference = float((logits[:, 1] - logits[:, 0]).astype(np.float64).mean())
    assert prediction.probability == pytest.approx(1 / (1 + np.exp(0.25 - 1.5 * difference)), abs=1e-6)
    assert prediction.probability != pytest.approx(expected.mean(), abs=1e-6)
    assert prediction.label == plain.classes[int(prediction.probability >= 0.5)]
    assert prediction.digest == plain.digest
    assert prediction.flags == ("motion",)
    assert prediction.prediction_set
    assert prediction.key == "sub-1"


def test_prediction_is_repeatable_and_windows_do_not_touch_each_other(plain, predictor):
    whole = features(plain, 6)
    first = predictor.predict("s", [whole])
    state = torch.get_rng_state()
    second = Predictor(plain).predict("s", [whole])
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(first.per_window, second.per_window)
    assert first.probability == second.probability
    order = [4, 0, 5]
    some = features(plain, windows=3, arrays={n: a[order] for n, a in whole.arrays.items()})
    np.testing.assert_array_equal(predictor.predict("s", [some]).per_window, first.per_window[order])
    runs = [features(plain, windows=1, arrays={n: a[i : i + 1] for n, a in whole.arrays.items()}) for i in range(6)]
    np.testing.assert_array_equal(predictor.predict("s", runs).per_window, first.per_window)


def test_tangent_is_projected_with_the_bundles_reference(saved, encoder):
    run = features(saved)
    prediction = Predictor(saved).predict("s", [run])
    projected = dict(run.arrays, fc=make_tangent().project(run.arrays["fc"]))
    head = parts(encoder)["head"].eval()
    with torch.inference_mode():
        logits = head({n: torch.tensor(projected[n]) for n in SHAPES}).numpy()
    np.testing.assert_allclose(prediction.per_window, calibrated(logits, saved.calibration), atol=1e-5)


def test_threshold_belongs_to_the_second_class(plain, predictor):
    run = features(plain)
    p = predictor.predict("s", [run]).probability
    for threshold, label in ((p, "responder"), (np.nextafter(p, 1), "non-responder")):
        bundle = dataclasses.replace(plain, threshold=threshold)
        assert Predictor(bundle).predict("s", [run]).label == label


def test_flags_and_missing_conformal(plain):
    bundle = dataclasses.replace(plain, card={**CARD, "demo": True}, conformal=None)
    runs = [features(plain, quality=quality(tsnr=tsnr)) for tsnr in (5, None, 5)]
    prediction = Predictor(bundle).predict("s", runs, flags=("z", "demo_model"))
    assert prediction.flags == ("z", "demo_model", "outside_reference:tsnr", "unknown:tsnr")
    assert prediction.prediction_set is None
    assert prediction.reference == {"tsnr": {"found": [5, None, 5], "high": 90.0, "low": 20.0}}
    assert Predictor(dataclasses.replace(bundle, reference=None)).predict("s", runs).flags == ("demo_model",)


def test_features_of_another_recipe_or_shape_are_refused(plain, predictor):
    other = features(plain, digest="f" * 64)
    with pytest.raises(BundleError, match="come from recipe ffff"):
        predictor.predict("s", [features(plain), other])
    good = features(plain).arrays
    for arrays in ({"fc": good["fc"]}, {**good, "brainlm": good["brainlm"][:, :4]}):
        with pytest.raises(BundleError, match="brainlm is of shape"):
            predictor.predict("s", [features(plain, arrays=arrays)])
    with pytest.raises(DataError, match="no features"):
        predictor.predict("s", [])


def with_space(recipe, **changes):
    return dataclasses.replace(recipe, space=dataclasses.replace(recipe.space, **changes))


def test_a_recipe_may_differ_in_space_only_and_is_flagged(plain, predictor):
    own = plain.recipe
    other = with_space(own, on_mismatch="affine")
    run = features(plain, digest=other.digest)
    assert predictor.predict("s", [run], ("motion",), other).flags == ("motion", "recipe_differs")
    with pytest.raises(BundleError, match=f"come from recipe {other.digest}, expected {own.digest}"):
        predictor.predict("s", [run])
    with pytest.raises(BundleError, match="come from recipe"):
        predictor.predict("s", [features(plain)], recipe=other)
    for changed, line in (
        (dataclasses.replace(own, scaling="none"), 'scaling: "global_sd" there, "none" here'),
        (dataclasses.replace(other, least_coverage=0.5), "least_coverage: 0.0 there, 0.5 here"),
        (dataclasses.replace(own, atlas=dataclasses.replace(own.atlas, name="Other")), "atlas.name"),
        (dataclasses.replace(own, modalities=own.modalities[:1]), "modalities"),
    ):
        with pytest.raises(BundleError, match=line) as caught:
            predictor.predict("s", [features(plain, digest=changed.digest)], recipe=changed)
        assert "on_mismatch" not in caught.value.message


def test_what_the_bundle_leaves_open_may_be_filled_in(plain, predictor):
    filled = dataclasses.replace(
        with_space(plain.recipe, warp="packaged"),
        atlas=dataclasses.replace(plain.recipe.atlas, sha256="a", n_parcels=3),
    )
    run = features(plain, digest=filled.digest)
    assert predictor.predict("s", [run], recipe=filled).flags == ()
    # But not once it is filled in.
    bundle = dataclasses.replace(plain, recipe=filled)
    other = with_space(filled, warp="templateflow")
    run = features(plain, digest=other.digest)
    assert Predictor(bundle).predict("s", [run], recipe=other).flags == ("recipe_differs",)
    other = dataclasses.replace(filled, atlas=dataclasses.replace(filled.atlas, sha256="b"))
    with pytest.raises(BundleError, match=r'atlas\.sha256: "a" there, "b" here'):
        Predictor(bundle).predict("s", [features(plain, digest=other.digest)], recipe=other)


def test_the_head_computes_strictly(plain):
    predictor, seen = Predictor(plain), []
    predictor._head.register_forward_pre_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        predictor.predict("s", [features(plain, 1)])
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest"]


def test_weights_changed_after_loading_are_refused(copy):
    bundle = load_bundle(copy)
    data = bytearray((copy / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "head.safetensors").write_bytes(data)
    with pytest.raises(BundleError, match="checksum"):
        Predictor(bundle)


def test_weights_that_do_not_fit_the_head_are_refused(copy):
    restate(copy, lambda d: d["head"]["branches"]["fc"].update(width=7))
    with pytest.raises(BundleError, match=r"classifier\.weight"):
        Predictor(load_bundle(copy))


def near(bundle, **changes):
    """A session in the very middle of training: every window is the mean embedding."""
    novelty = from_arrays(load((bundle.root / "novelty.safetensors").read_bytes()), SHAPES)
    fc = np.zeros((R, R), np.float32)
    fc[np.triu_indices(R)] = novelty["fc"].mean
    fc = fc + np.triu(fc, 1).T + 20 * np.eye(R, dtype=np.float32)  # tangent space needs positive definite matrices
    arrays = {"brainlm": np.tile(novelty["brainlm"].mean, (2, 1)), "fc": np.tile(fc, (2, 1, 1)), **changes}
    return features(bundle, 2, arrays=arrays)


def test_distances_are_of_the_session_and_flagged_beyond_their_limit(saved):
    predictor = Predictor(saved)
    found = predictor.distances([near(saved)])
    assert list(found) == ["embedding_brainlm", "embedding_fc"]
    assert found["embedding_brainlm"] == pytest.approx(0, abs=1e-5)
    assert found["embedding_fc"] > 1  # the diagonal is not what training saw
    judged = predictor.predict("s", [near(saved)])
    assert judged.flags == ("outside_reference:embedding_fc",)
    assert judged.reference["embedding_fc"] == {
        "found": [pytest.approx(found["embedding_fc"], rel=1e-5)],
        "high": 1.0,
    }
    middle = near(saved).arrays["brainlm"][:1]
    apart = [near(saved, brainlm=middle.repeat(2, 0) + sign * 100) for sign in (-1, 1)]
    assert "outside_reference:embedding_brainlm" in predictor.predict("s", apart[:1]).flags
    # Two runs on either side of the middle: the session's mean lies there.
    assert predictor.distances(apart)["embedding_brainlm"] == pytest.approx(0, abs=1e-4)
    assert "outside_reference:embedding_brainlm" not in predictor.predict("s", apart).flags


def test_a_bundle_without_distances_has_none(plain, predictor):
    assert predictor.distances([features(plain)]) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("fc.mean"),
        lambda arrays: arrays.update({"t1.mean": arrays["fc.mean"]}),
        lambda arrays: arrays.update({"fc.mean": arrays["fc.mean"][1:]}),
        lambda arrays: arrays.update({"fc.basis": arrays["fc.basis"][1:]}),
        lambda arrays: arrays.update({"fc.weights": arrays["fc.weights"].astype(np.float64)}),
        lambda arrays: arrays.update({"fc.weights": -arrays["fc.weights"]}),
        lambda arrays: arrays.update({"brainlm.residual": arrays["brainlm.residual"] * np.float32(np.nan)}),
    ],
)
def test_tampered_distances_are_refused_even_with_a_right_checksum(copy, change):
    path = copy / "novelty.safetensors"
    arrays = load(path.read_bytes())
    change(arrays)
    path.write_bytes(save(arrays))
    with pytest.raises(BundleError, match=r"checksum|bytes"):
        load_bundle(copy)
    entry = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    restate(copy, lambda d: d["files"].update({path.name: entry}))
    with pytest.raises(BundleError, match="novelty"):
        Predictor(load_bundle(copy))


def test_distances_that_are_no_arrays_are_refused(copy):
    path = copy / "novelty.safetensors"
    path.write_bytes(b"no arrays")
    entry = {"bytes": 9, "sha256": hashlib.sha256(b"no arrays").hexdigest()}
    restate(copy, lambda d: d["files"].update({path.name: entry}))
    with pytest.raises(BundleError, match=r"novelty\.safetensors cannot be read"):
        Predictor(load_bundle(copy))


def test_runs_of_a_session_weigh_as_many_frames_as_they_have(plain):
    """With ``frames: all`` a session's connectivity is that of all its frames; bundles of windows see what they saw."""
    recipe = dataclasses.replace(plain.recipe, connectivity=Connectivity(frames="all"))
    bundle = dataclasses.replace(plain, recipe=recipe)
    runs = [
        features(bundle, windows=w, seed=s, quality=quality(n_frames_left=n))
        for s, (w, n) in enumerate(((1, 390), (2, 410)))
    ]
    pooled = np.concatenate([r.arrays["fc"] for r in runs]).astype(np.float64)
    whole = np.average([r.arrays["fc"].mean(axis=0, dtype=np.float64) for r in runs], axis=0, weights=[390, 410])
    shifted = (pooled + whole - pooled.mean(axis=0)).astype(np.float32)
    series = np.concatenate([r.arrays["brainlm"] for r in runs])
    one = features(bundle, windows=3, arrays={"fc": shifted, "brainlm": series}, quality=runs[0].quality)
    got, expected = Predictor(bundle).predict("s", runs), Predictor(bundle).predict("s", [one])
    np.testing.assert_allclose(got.per_window, expected.per_window, atol=1e-6)
    assert got.probability == pytest.approx(expected.probability, abs=1e-6)
    old = [dataclasses.replace(r, digest=plain.recipe.digest) for r in runs]
    assert Predictor(plain).predict("s", old).probability != pytest.approx(got.probability, abs=1e-4)
