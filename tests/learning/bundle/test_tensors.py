"""The tensors of a bundle against what its JSON promises: found out before the first participant, in one line."""

import hashlib
import json

import numpy as np
import pytest
import torch
from bundle_parts import SHAPES, make_novelty, make_tangent, parts, restate
from safetensors.numpy import save

from bids_fmmtc.errors import BundleError
from bids_fmmtc.learning.bundle.calibrate import Limits
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.bundle.load import load_bundle
from bids_fmmtc.learning.bundle.save import save_bundle
from bids_fmmtc.learning.bundle.tensors import check_tensors
from bids_fmmtc.recipe import Connectivity, Recipe

LINEAR = {"kind": "linear", "modalities": list(SHAPES), "outputs": 2}
RUNS = 500


@pytest.fixture(params=["linear", "fmmtc"])
def bundle(request, tmp_path, encoder):
    given = parts(encoder)
    if request.param == "linear":
        torch.manual_seed(1)
        head = build_head(LINEAR, SHAPES)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.normal_()
        given |= {"head_spec": LINEAR, "head": head}
    return save_bundle(tmp_path / "bundle", **given)


@pytest.fixture
def tangent_bundle(tmp_path, encoder):
    given = parts(encoder)
    recipe = Recipe(modalities=given["recipe"].modalities, connectivity=Connectivity("tangent"))
    return save_bundle(tmp_path / "bundle", **{**given, "recipe": recipe, "tangent": make_tangent()})


def put(root, name, content):
    """Replace a file, and the sum and size that bundle.json states of it: somebody who knows how."""
    (root / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    restate(root, lambda document: document["files"].update({name: entry}))
    return load_bundle(root)


def arrays_of(bundle, name="head.safetensors"):
    from safetensors.numpy import load

    return load(bundle.read(name))


def test_a_saved_bundle_is_whole(bundle):
    check_tensors(bundle)


def test_one_of_tangent_space_is_whole_and_another_reference_is_not(tangent_bundle):
    check_tensors(tangent_bundle)
    for arrays in (
        {"mean": np.eye(3)},
        {"mean": np.eye(3), "whitening": np.eye(3)},
        {"mean": np.ones(2), "whitening": np.ones(2)},
    ):
        changed = put(tangent_bundle.root, "tangent.safetensors", save(arrays))
        with pytest.raises(BundleError, match=r"tangent\.safetensors does not fit"):
            check_tensors(changed)


def test_novelty_of_another_shape_is_refused(tmp_path, encoder):
    given = parts(encoder)
    reference = {**given["reference"], **{f"embedding_{name}": Limits(1.0, 0.0) for name in SHAPES}}
    made = save_bundle(tmp_path / "bundle", **{**given, "reference": reference, "novelty": make_novelty()})
    check_tensors(made)
    arrays = arrays_of(made, "novelty.safetensors")
    arrays["fc.mean"] = arrays["fc.mean"][1:]
    with pytest.raises(BundleError, match="novelty"):
        check_tensors(put(made.root, "novelty.safetensors", save(arrays)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(bundle, value):
    arrays = arrays_of(bundle)
    name = sorted(n for n, a in arrays.items() if a.dtype == np.float32)[0]
    arrays[name].flat[-1] = value
    with pytest.raises(BundleError, match="not finite"):
        check_tensors(put(bundle.root, "head.safetensors", save(arrays)))


@pytest.mark.parametrize("how", ["missing", "more", "shape", "type"])
def test_weights_of_another_head_are_refused(bundle, how):
    arrays = arrays_of(bundle)
    name = sorted(arrays)[0]
    if how == "missing":
        del arrays[name]
    elif how == "more":
        arrays["extra"] = np.zeros(2, np.float32)
    else:
        arrays[name] = arrays[name].astype(np.float64) if how == "type" else arrays[name].reshape(-1)[:-1].copy()
        if not arrays[name].size:
            arrays[name] = np.zeros(7, np.float32)
    with pytest.raises(BundleError):
        check_tensors(put(bundle.root, "head.safetensors", save(arrays)))


@pytest.mark.parametrize("length", [2**62, 10**9, 0, 7])
def test_a_header_that_lies_about_its_length_is_refused(bundle, length):
    content = bundle.read("head.safetensors")
    with pytest.raises(BundleError, match="cannot be read"):
        check_tensors(put(bundle.root, "head.safetensors", length.to_bytes(8, "little") + content[8:]))


@pytest.mark.slow
def test_five_hundred_bundles_at_random(tmp_path, encoder):
    """Bytes of the header or of the weights changed, sums put right: one line, or weights that are numbers."""
    torch.manual_seed(2)
    made = save_bundle(tmp_path / "bundle", **parts(encoder, head_spec=LINEAR, head=build_head(LINEAR, SHAPES)))
    sound = made.read("head.safetensors")
    header = int.from_bytes(sound[:8], "little") + 8
    rng, passed = np.random.default_rng(3), 0
    for run in range(RUNS):
        data = bytearray(sound)
        top = header if run % 2 else len(data)
        for at in rng.integers(0, top, rng.integers(1, 4)):
            data[at] = int(rng.integers(256))
        changed = put(made.root, "head.safetensors", bytes(data))
        said = None
        try:
            check_tensors(changed)
        except BundleError as error:
            said = str(error)
        if said is None:
            passed += 1
            found = arrays_of(changed)
            shapes = {n: a.shape for n, a in found.items()}
            assert shapes == {
                "bias": (1,),
                **{f"weights.{n}": s for n, s in SHAPES.items()},
            }
            assert all(np.isfinite(a).all() for a in found.values())
        else:
            assert "\n" not in said
    assert 0 < passed < RUNS


def test_five_hundred_documents_at_random(bundle):
    """Values of bundle.json replaced, its sum put right: refused in one line, or read."""
    sound = (bundle.root / "bundle.json").read_bytes()
    document = json.loads(sound)
    odd = [None, True, -1, 0, 1e308, "", "x", [], {}, [None], {"a": None}, 10**400, [[[]]], "../x"]
    rng = np.random.default_rng(4)
    for _ in range(RUNS):
        changed = json.loads(json.dumps(document))
        names = [n for n in changed if n not in ("format", "format_version", "checksum")]
        place, key = changed, names[int(rng.integers(len(names)))]
        while isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
            place = place[key]
            key = sorted(place)[int(rng.integers(len(place)))]
        place[key] = odd[int(rng.integers(len(odd)))]
        (bundle.root / "bundle.json").write_bytes(sound)
        said = ""
        try:
            restate(bundle.root, lambda d, c=changed: (d.clear(), d.update(c)))
            check_tensors(load_bundle(bundle.root))
        except BundleError as error:
            said = str(error)
        assert "\n" not in said
