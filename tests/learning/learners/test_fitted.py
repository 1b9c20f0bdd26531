from dataclasses import replace

import numpy as np
import pytest
import torch
from bundle_parts import ENCODER_SHA256
from bundle_parts import parts as bundle_parts
from qualities import FAULTLESS
from train_parts import BLOCKS, RESNET, H, R, make_cohort

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.bundle.predict import Predictor
from bids_fmmtc.learning.bundle.save import save_bundle
from bids_fmmtc.learning.learner import HeadParts
from bids_fmmtc.learning.learners.fitted import FittedNetwork, arrays_of, own_state, packed, state_of, unpacked
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.recipe import Connectivity, ModalitySpec, Recipe
from bids_fmmtc.types import Features

SHAPES = {"brainlm": (H,), "fc": (R, R)}
BRANCHES = {"brainlm": {"branch": "identity"}, "fc": {"branch": "resnet18", **RESNET}}
SPEC = {"kind": "fmmtc", "outputs": 2, "branches": BRANCHES}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(5, covariance=True)


@pytest.fixture(scope="module")
def head(cohort):
    torch.manual_seed(0)
    state = own_state(build_head(SPEC, SHAPES))
    return HeadParts(SPEC, SHAPES, state, TangentReference.fit(np.concatenate(cohort.arrays["fc"])))


def test_packed_and_unpacked_are_inverse(head):
    again = unpacked(SPEC, SHAPES, {name: np.array(a) for name, a in packed(head).items()})
    assert again.spec == SPEC
    assert again.shapes == SHAPES
    assert list(again.state) == list(head.state)
    assert all(torch.equal(t, head.state[n]) and t.dtype == head.state[n].dtype for n, t in again.state.items())
    assert np.array_equal(again.tangent.mean, head.tangent.mean)
    assert np.array_equal(again.tangent.whitening, head.tangent.whitening)
    plain = HeadParts(SPEC, SHAPES, head.state)
    assert unpacked(SPEC, SHAPES, packed(plain)).tangent is None


def test_states_are_in_memory_of_their_own():
    layer = torch.nn.Linear(2, 1)
    state = own_state(layer)
    arrays = {n: a.copy() for n, a in arrays_of(layer.state_dict()).items()}
    again = state_of(arrays)
    with torch.no_grad():
        layer.weight.add_(1)
    for array in arrays.values():
        array[...] += 5
    assert torch.equal(state["weight"], again["weight"])
    assert torch.equal(state["weight"] + 1, layer.weight)


def test_a_cohort_elsewhere_is_scored_as_the_own_one(head, cohort):
    fitted = FittedNetwork(head, cohort, "cpu")
    own = fitted.scores(np.arange(5))
    assert np.array_equal(fitted.elsewhere(cohort), own)
    assert np.array_equal(fitted.elsewhere(cohort.take(np.array([3, 0]))), own[[3, 0]])
    assert fitted.head() is head
    narrow = {"brainlm": tuple(a[:, 1:] for a in cohort.arrays["brainlm"]), "fc": cohort.arrays["fc"]}
    with pytest.raises(DataError, match="reads brainlm"):
        fitted.elsewhere(replace(cohort, arrays=narrow))


def test_a_bundle_of_the_head_says_the_same_of_a_session(head, cohort, encoder, tmp_path):
    recipe = Recipe(
        connectivity=Connectivity("tangent"),
        modalities=(ModalitySpec("brainlm", ENCODER_SHA256), ModalitySpec("fc")),
    )
    given = {"recipe": recipe, "shapes": SHAPES, "head_spec": SPEC, "head": head.state, "tangent": head.tangent}
    given |= {"calibration": {"kind": "none"}, "conformal": None, "reference": None}
    bundle = save_bundle(tmp_path / "model", **{**bundle_parts(encoder), **given})
    predictor, scores = Predictor(bundle), FittedNetwork(head, cohort, "cpu").scores(np.arange(5))
    for i in range(5):
        arrays = {name: cohort.arrays[name][i] for name in BLOCKS}
        windows = np.array([[0, 9], [9, 18]], np.int32)
        said = predictor.predict("sub-1", [Features("sub-1", windows, arrays, FAULTLESS, recipe.digest)])
        assert said.probability == pytest.approx(1 / (1 + np.exp(-scores[i])), rel=1e-14)
