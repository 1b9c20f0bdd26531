"""BrainLM's config, and what a recipe asks of it: all of it before torch is imported."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from brainlm_parts import CONFIG

from bids_fmmtc.errors import MissingInputError, RecipeError, WeightsError
from bids_fmmtc.modalities.brainlm_config import BrainLMConfig, check_spec, token_order
from bids_fmmtc.modalities.token_order import TokenOrder
from bids_fmmtc.recipe import AtlasSpec, ModalitySpec, Recipe, Windows

SHUFFLES = {"kind": "shuffles", "count": 2, "seed": 1}
RECIPE = Recipe(windows=Windows(20, 15, short_least=10))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").touch()  # only the config is read
    return tmp_path


def test_config_reads_the_file_and_never_defaults(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"model_type": "brainlm_mae", "image_size": [224, 224], "train_mode": "x"}))
    assert BrainLMConfig.from_file(path) == BrainLMConfig(**CONFIG)
    for name in CONFIG:
        with pytest.raises(WeightsError, match=rf"missing: {name}\."):
            BrainLMConfig.from_json({k: v for k, v in CONFIG.items() if k != name})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder_hidden_size": 8}, "decoder_hidden_size must equal hidden_size"),
        ({"hidden_size": 15, "decoder_hidden_size": 15}, "even"),
        ({"num_attention_heads": 3}, "divisible by the heads"),
        ({"decoder_num_attention_heads": 3}, "decoder's heads"),
        ({"num_landmarks": 32}, "full softmax"),
        ({"hidden_act": "relu"}, "gelu, found 'relu'"),
        ({"conv_kernel_size": 8}, "odd"),
        ({"conv_kernel_size": None}, "conv_kernel_size = null"),
        ({"loss_fn": "huber"}, "mse or mae"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"hidden_dropout_prob": -0.1}, "hidden_dropout_prob"),
        ({"layer_norm_eps": 0}, "layer_norm_eps"),
        ({"initializer_range": float("nan")}, "initializer_range"),
        ({"num_hidden_layers": 0, "patch_size": -1}, "num_hidden_layers, patch_size must be at least 1"),
        ({"num_hidden_layers": True, "hidden_size": "16"}, 'hidden_size = "16", num_hidden_layers = true'),
        ({"model_type": "vit_mae"}, "model_type is 'vit_mae'"),
    ],
)
def test_config_values_that_do_not_fit_are_named(change, words):
    with pytest.raises(WeightsError, match=words):
        BrainLMConfig.from_json(CONFIG | change)


def test_config_file_errors(tmp_path):
    with pytest.raises(MissingInputError, match="bids_fmmtc-fetch brainlm"):
        BrainLMConfig.from_file(tmp_path / "config.json")
    for text in ("{", "[]", "\xff"):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(WeightsError):
            BrainLMConfig.from_file(tmp_path / "config.json")


def test_without_weights_options_are_checked():
    check_spec(ModalitySpec("brainlm", "0" * 64), RECIPE, None)
    check_spec(ModalitySpec("brainlm", options={"token_order": SHUFFLES}), RECIPE, None)
    for options, words in (
        ({"mask_ratio": 0.2, "b": 1}, "no option b, mask_ratio; known is token_order"),
        ({"token_order": {"kind": "random"}}, "'random' is none of"),
        ({"token_order": {"kind": "shuffles", "count": 0, "seed": 1}}, "count must be"),
    ):
        with pytest.raises(RecipeError, match=words):
            check_spec(ModalitySpec("brainlm", options=options), RECIPE, None)


def test_with_weights_windows_and_order_must_fit_the_checkpoint(folder):
    spec = ModalitySpec("brainlm", options={"token_order": {"kind": "permutation", "permutation": [1, 0]}})
    plain = ModalitySpec("brainlm")
    check_spec(plain, RECIPE, folder)
    check_spec(spec, RECIPE, folder)  # how many parcels there are is not known yet
    with pytest.raises(RecipeError, match="has 2 entries, expected 28"):
        check_spec(spec, replace(RECIPE, atlas=AtlasSpec(n_parcels=7)), folder)
    with pytest.raises(RecipeError, match=r"windows\.length is 22.*multiple of 5"):
        check_spec(plain, replace(RECIPE, windows=Windows(22, 15, short_least=10)), folder)
    with pytest.raises(MissingInputError, match="does not exist"):
        check_spec(plain, RECIPE, folder / "nowhere")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": "vit_mae"}))
    with pytest.raises(WeightsError, match="'vit_mae'"):
        check_spec(plain, RECIPE, folder)


def test_the_order_is_identity_unless_the_recipe_says_otherwise():
    assert token_order(ModalitySpec("brainlm")) == TokenOrder()
    assert token_order(ModalitySpec("brainlm", options={"token_order": SHUFFLES})) == TokenOrder("shuffles", (), 2, 1)


def test_checking_needs_no_torch(folder):
    code = (
        "import sys; from pathlib import Path; from bids_fmmtc.modalities import check_spec;"
        "from bids_fmmtc.recipe import *; check_spec(ModalitySpec('brainlm'), Recipe(), Path(sys.argv[1]));"
        "assert 'bids_fmmtc.modalities.brainlm_config' in sys.modules; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
