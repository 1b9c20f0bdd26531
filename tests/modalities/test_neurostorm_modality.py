"""The modality: which clips are encoded how often, what a window's vector is, and what is refused."""

import json

import numpy as np
import pytest
import torch
from neurostorm_parts import SMALL, random_model, write_encoder

from bids_fmmtc.errors import DataError, MissingInputError, RecipeError, WeightsError
from bids_fmmtc.modalities import clip_forms, load_modality, of_volumes
from bids_fmmtc.modalities.neurostorm_modality import NeuroStormModality
from bids_fmmtc.recipe import ModalitySpec, Recipe

RECIPE = Recipe(modalities=(ModalitySpec("neurostorm"), ModalitySpec("fc")))
WINDOWS = np.array([[0, 10], [5, 15], [10, 20]], np.int32)
ROWS = ([0], [0, 1], [1, 2], [2])  # of the windows in which each clip lies


class Told:
    """A recording of few clips; their memory is used again, as that of a real one is."""

    def __init__(self, rows=ROWS, seed=3):
        rng = np.random.default_rng(seed)
        self.rows = [np.array(r, np.intp) for r in rows]
        self.values = [rng.standard_normal((SMALL.frames, *SMALL.img_size[:3])).astype(np.float32) for _ in self.rows]
        self.asked = []

    def clips(self, form, windows):
        self.asked.append((form, windows))
        buffer = np.empty_like(self.values[0])
        for rows, values in zip(self.rows, self.values, strict=True):
            buffer[:] = values
            yield rows, buffer
            buffer[:] = np.nan


@pytest.fixture(scope="module")
def modality():
    return NeuroStormModality(random_model())


def test_a_window_is_the_mean_of_its_clips(modality):
    source = Told()
    out = modality.compute(source, WINDOWS)
    assert (out.shape, out.dtype) == ((3, SMALL.width), np.float32)
    with torch.inference_mode():
        each = [modality.vectors(torch.from_numpy(v)[None])[0].double().numpy() for v in source.values]
    expected = [np.mean([v for v, rows in zip(each, ROWS, strict=True) if w in rows], axis=0) for w in range(3)]
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert np.abs(out[0] - out[1]).max() > 1e-4
    ((form, windows),) = source.asked
    assert (form, windows is WINDOWS) == (modality.form, True)


def test_a_clip_is_encoded_once_however_many_windows_hold_it(modality, monkeypatch):
    seen = []
    real = modality.model.vector
    monkeypatch.setattr(modality.model, "vector", lambda clip: seen.append(tuple(clip.shape)) or real(clip))
    modality.compute(Told(), WINDOWS)
    assert seen == [(1, 1, *SMALL.img_size)] * len(ROWS)


@pytest.mark.parametrize("compiled", [True, False])
def test_threads_and_other_windows_change_no_bit(modality, monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr("bids_fmmtc.modalities.neurostorm.kernels", lambda: None)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            found.append(modality.compute(Told(), WINDOWS))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    alone = Told()
    alone.rows, alone.values = [np.array([0])] * 2, alone.values[:2]
    assert modality.compute(alone, WINDOWS[:1])[0].tobytes() == found[0][0].tobytes()


def test_an_untrained_encoder_has_the_shape_and_its_seed_s_weights(modality):
    state = torch.random.get_rng_state()
    first, again, other = (modality.untrained(seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    one, two, three = (m.model.state_dict() for m in (first, again, other))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in modality.model.state_dict().items()}
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], three[k]) for k in one)
    assert first.weights_sha256 is None
    assert not np.allclose(first.compute(Told(), WINDOWS), modality.compute(Told(), WINDOWS), atol=1e-3)


def test_a_result_that_is_not_finite_is_refused(modality):
    source = Told()
    source.values[3][0, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match=r"vectors of windows \[2\] are not finite"):
        modality.compute(source, WINDOWS)


def test_gradients_reach_the_clip_and_no_weight(modality):
    clip = torch.from_numpy(Told().values[0])[None].requires_grad_()
    modality.vectors(clip).sum().backward()
    assert clip.grad.abs().max() > 0
    assert all(p.grad is None for p in modality.model.parameters())


def test_a_recipe_builds_it_from_its_folder(tmp_path):
    folder = write_encoder(tmp_path / "enc")
    spec = RECIPE.modalities[0]
    found = load_modality(spec, RECIPE, folder)
    assert (found.name, found.width, len(found.weights_sha256)) == ("neurostorm", SMALL.width, 64)
    assert of_volumes(RECIPE) == ("neurostorm",)
    assert clip_forms(RECIPE, {"neurostorm": folder}) == (found.form,)
    assert clip_forms(Recipe(), {}) == ()
    with pytest.raises(MissingInputError, match="no folder with its weights"):
        load_modality(spec, RECIPE, None)
    with pytest.raises(WeightsError, match="expected 000"):
        load_modality(ModalitySpec("neurostorm", "0" * 64), RECIPE, folder)
    with pytest.raises(RecipeError, match="neurostorm has no option zoo"):
        load_modality(ModalitySpec("neurostorm", options={"zoo": 1}), RECIPE, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "brainlm_mae"}))
    with pytest.raises(WeightsError):
        load_modality(spec, RECIPE, folder)
