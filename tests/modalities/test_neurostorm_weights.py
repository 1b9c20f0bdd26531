"""Checkpoints of both generations, strictly; other models' by name; nothing that runs code."""

import argparse
import json
import pickle
import subprocess
import sys

import pytest
import torch
from neurostorm_parts import SMALL, fixture, manifest, random_model, write_encoder
from safetensors.torch import save_file

from bids_fmmtc.errors import MissingInputError, WeightsError
from bids_fmmtc.modalities.neurostorm_weights import load_neurostorm, read_checkpoint

OPTIONS = {k: v for k, v in SMALL.to_json().items() if k not in ("model_type", "in_chans")}


def state(**more):
    found = {f"model.{k}": v for k, v in random_model().state_dict().items()}
    return found | more


def lightning(path, tensors=None, options=OPTIONS, **more):
    content = {"state_dict": state() if tensors is None else tensors, "hyper_parameters": options, "epoch": 3, **more}
    torch.save(content, path)
    return path


def test_a_fine_tuned_checkpoint_of_either_generation_is_sorted(tmp_path):
    head = {"weight": torch.ones(1, 8), "bias": torch.zeros(1)}
    new = {f"output_head.head.head.{k}": v for k, v in head.items()}
    old = {f"output_head.head.{k}": v for k, v in head.items()} | {"output_head.norm.weight": torch.ones(8)}
    for more in (new, old):
        found = read_checkpoint(lightning(tmp_path / "x.ckpt", state(**more)))
        assert found.config == SMALL
        assert set(found.encoder) == set(random_model().state_dict())
        assert set(found.heads) == {"head.weight", "head.bias"}
        assert not found.decoder
    assert found.ignored == ("output_head.norm.weight",)


def test_the_older_mask_token_is_the_window_s_now(tmp_path):
    found = read_checkpoint(lightning(tmp_path / "x.ckpt", state(**{"model.mask_token": torch.zeros(256, 4)})))
    assert set(found.decoder) == {"window_mask_token"}
    found = read_checkpoint(lightning(tmp_path / "x.ckpt", state(**{"model.mask_token": torch.zeros(4)})))
    assert set(found.decoder) == {"mask_token"}


def test_the_reference_s_pre_training_state_is_accounted_for_whole(tmp_path):
    tensors = {f"model.{k}": v for k, v in fixture("mae_state").items()}
    found = read_checkpoint(lightning(tmp_path / "x.ckpt", tensors, manifest()["mae_config"]))
    assert len(found.encoder) + len(found.decoder) == len(tensors)


def test_options_may_be_a_namespace(tmp_path):
    path = lightning(tmp_path / "x.ckpt", options=argparse.Namespace(**OPTIONS, lr=1e-3))
    assert read_checkpoint(path).config == SMALL


def test_every_key_that_does_not_fit_is_named_at_once(tmp_path):
    tensors = state(**{"model.surprise": torch.zeros(1), "model.layers.0.blocks.0.mamba.D": torch.zeros(3)})
    del tensors["model.patch_embed.fc.bias"]
    tensors["model.patch_embed.fc.weight"][0, 0] = float("nan")
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(lightning(tmp_path / "x.ckpt", tensors))
    for word in (
        "missing: patch_embed.fc.bias",
        "unexpected: model.surprise",
        "mamba.D is (3,)",
        "not finite: patch_embed.fc.weight",
    ):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("vit.embeddings.signal_embedding_projection.weight", "BrainLM"),
        ("vit.embeddings.patch_embeddings.projection.weight", "ViT-MAE"),
        ("model.layers.0.blocks.0.attn.qkv.weight", "SwiFT"),
    ],
)
def test_another_model_s_file_is_refused_by_name(tmp_path, key, model):
    with pytest.raises(WeightsError, match=f"checkpoint of .*{model}"):
        read_checkpoint(lightning(tmp_path / "x.ckpt", {key: torch.zeros(2)}))
    folder = write_encoder(tmp_path / "enc")
    save_file({key: torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=f"checkpoint of .*{model}"):
        load_neurostorm(folder)


def test_a_checkpoint_without_its_options_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"hyper_parameters lacks .*window_size"):
        read_checkpoint(lightning(tmp_path / "x.ckpt", options={}))


class _Touch:
    """What a pickle could do: make a harmless file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    for write in (lambda p, c: torch.save(c, p), lambda p, c: p.write_bytes(pickle.dumps(c))):
        write(tmp_path / "x.ckpt", {"state_dict": _Touch(tmp_path / "ran")})
        with pytest.raises(WeightsError, match="cannot be read as tensors"):
            read_checkpoint(tmp_path / "x.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a checkpoint"])
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingInputError, match="does not exist"):
        read_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(MissingInputError):
        load_neurostorm(tmp_path / "nowhere")


def test_a_converted_folder_loads_to_the_bit_and_its_checksum_counts(tmp_path):
    model = random_model()
    loaded = load_neurostorm(write_encoder(tmp_path / "enc", model))
    assert loaded.weights_sha256
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(WeightsError, match="expected 00"):
        load_neurostorm(tmp_path / "enc", "00")


def test_loading_needs_nothing_of_torch_s_compiler(tmp_path):
    """Its import takes seconds, in the process of every participant."""
    code = (
        "import sys; from pathlib import Path; from bids_fmmtc.modalities.neurostorm_weights import load_neurostorm\n"
    )
    code += "load_neurostorm(Path(sys.argv[1])); print('torch._dynamo' in sys.modules)"
    words = [sys.executable, "-c", code, str(write_encoder(tmp_path / "enc"))]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_folder_with_more_than_an_encoder_or_a_pickle_is_refused(tmp_path):
    folder = write_encoder(tmp_path / "enc")
    more = {**random_model().state_dict(), "mask_token": torch.zeros(4)}
    save_file({k: v.contiguous() for k, v in more.items()}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="more than an encoder: mask_token"):
        load_neurostorm(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="--convert"):
        load_neurostorm(folder)


def test_a_config_of_another_size_does_not_fit(tmp_path):
    folder = write_encoder(tmp_path / "enc")
    config = json.loads((folder / "config.json").read_text()) | {"embed_dim": 6}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="of another shape"):
        load_neurostorm(folder)
