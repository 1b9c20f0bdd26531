"""NeuroSTORM's config, the grid of its clips, and what a recipe may ask of it."""

import json

import numpy as np
import pytest
from neurostorm_parts import SMALL, write_encoder

from bids_fmmtc.errors import MissingInputError, RecipeError, WeightsError
from bids_fmmtc.modalities import check_spec, clip_forms, of_volumes
from bids_fmmtc.modalities.neurostorm_config import BARE, PUBLISHED, NeuroStormConfig, clip_form
from bids_fmmtc.recipe import ModalitySpec, Recipe


def changed(**fields):
    return {**PUBLISHED.to_json(), **fields}


@pytest.mark.parametrize("config", [PUBLISHED, BARE, SMALL])
def test_a_config_comes_back_from_json(config):
    assert NeuroStormConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected an object"),
        (changed(model_type="brainlm_mae"), "model_type is 'brainlm_mae'"),
        ({k: v for k, v in changed().items() if k not in ("depths", "img_size")}, "missing are img_size, depths"),
        (changed(embed_dim="36"), "embed_dim = '36'"),
        (changed(embed_dim=True), "embed_dim = True"),
        (changed(last_layer_full_MSA=1), "last_layer_full_MSA = 1"),
        (changed(patch_size=[6, 6, 6]), "must hold x, y, z, t"),
        (changed(patch_size=[6, 6, 6, 2]), "one frame"),
        (changed(img_size=[96, 96, 90, 20]), "must divide"),
        (changed(c_multiplier=3), "c_multiplier"),
        (changed(depths=[2, 0]), "at least 1"),
    ],
)
def test_a_config_that_cannot_be_is_refused(data, message):
    with pytest.raises(WeightsError, match=message):
        NeuroStormConfig.from_json(data)


def test_a_config_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        NeuroStormConfig.from_file(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="not valid JSON"):
        NeuroStormConfig.from_file(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("shape", "origin", "first"),
    [
        # FSL's grid, from right to left: y is cropped from 6, x and z are padded by 3.
        ((91, 109, 91), (90, -126, -72), (-3, 6, -3)),
        # MNI152NLin2009cAsym at 2 mm, brought to the same direction: y is cropped from 9.
        ((97, 115, 97), (96, -132, -78), (0, 9, 0)),
    ],
)
def test_the_grid_is_where_training_put_it(shape, origin, first):
    """The reference crops or pads both template grids to 96 an axis; its first voxel is ours."""
    form = clip_form(PUBLISHED)
    stored = np.array([[-2, 0, 0, origin[0]], [0, 2, 0, origin[1]], [0, 0, 2, origin[2]], [0, 0, 0, 1]], float)
    expected = [(n - 96) // 2 if n > 96 else -((96 - n + 1) // 2) for n in shape]
    assert tuple(expected) == first
    assert np.allclose((stored @ [*first, 1])[:3], np.asarray(form.affine)[:3, 3])
    assert np.allclose(np.asarray(form.affine)[:3, :3], stored[:3, :3])
    assert (form.shape, form.seconds, form.frames) == ((96, 96, 96), 0.8, 20)


def test_a_smaller_encoder_sees_the_same_field_of_view():
    small, full = clip_form(SMALL), clip_form(PUBLISHED)
    middle = [(np.asarray(f.affine) @ [*((n - 1) / 2 for n in f.shape), 1])[:3] for f in (small, full)]
    assert np.allclose(*middle)
    assert np.isclose(abs(small.affine[0][0]) * 24, 2 * 96)


def test_a_recipe_names_it_and_its_folder_tells_the_clips(tmp_path):
    recipe = Recipe(modalities=(ModalitySpec("neurostorm"), ModalitySpec("fc")))
    folder = write_encoder(tmp_path / "neurostorm")
    assert of_volumes(recipe) == ("neurostorm",)
    assert clip_forms(recipe, {"neurostorm": folder}) == (clip_form(SMALL),)
    check_spec(recipe.modalities[0], recipe, folder)
    with pytest.raises(RecipeError, match="no option layers"):
        check_spec(ModalitySpec("neurostorm", options={"layers": 2}), recipe)
    with pytest.raises(MissingInputError):
        check_spec(recipe.modalities[0], recipe, tmp_path / "nowhere")
