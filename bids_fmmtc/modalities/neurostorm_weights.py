"""Files of NeuroSTORM: the published training checkpoints, both generations, and the folder they are converted to.

The reference loads whatever fits and goes on, so that a wrong file leaves a random network that looks like a result.
Here every key of a file is accounted for: taken, known and set aside, or refused, all in one message.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from bids_fmmtc.errors import MissingInputError, WeightsError
from bids_fmmtc.modalities.neurostorm import NeuroStorm
from bids_fmmtc.modalities.neurostorm_config import FETCH, NeuroStormConfig, block_shapes, parameter_shapes
from bids_fmmtc.modalities.weights import file_sha256, weights_file, weights_sha256

OTHER = "Only NeuroSTORM's encoder fits: its pre-training or fine-tuned checkpoints."

# What gives other models away, by a key that they have and NeuroSTORM has not.
FOREIGN: Mapping[str, str] = {
    r"(^|\.)signal_embedding_projection\.": "BrainLM",
    r"(^|\.)embeddings\.patch_embeddings\.": "a ViT-MAE model (BrainLM's vitmae_* checkpoints among them)",
    r"(^|\.)attn\.(qkv|relative_position)": "SwiFT",
}

_PREFIX = "model."
_HEAD = "output_head."
_OPTIONS = ("hyper_parameters", "datamodule_hyper_parameters")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a training checkpoint holds.

    Parameters
    ----------
    encoder
        The encoder's tensors by name, float32.
    config
        Shapes, from the options it was trained with.
    decoder
        Tensors of pre-training: mask tokens under their newer names, decoder; empty in a fine-tuned file.
    heads
        Tensors of a task's head, without the wrappers of either generation.
    prompts
        Prompt tokens by the name of their block; empty where it was not prompt-tuned.
    ignored
        Names that are known to hold nothing of use.
    """

    encoder: Mapping[str, Tensor]
    config: NeuroStormConfig
    decoder: Mapping[str, Tensor] = field(default_factory=dict)
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    prompts: Mapping[str, Tensor] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------- checkpoints


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a Lightning checkpoint of NeuroSTORM; nothing in it can run code.

    Accepts both generations: heads with and without their wrapper, one old ``mask_token`` that is now the
    ``window_mask_token``, keys with and without ``model.``.

    Raises
    ------
    MissingInputError
        The file is not there.
    WeightsError
        It cannot be read without running code, is another model's, or its keys or shapes are not exactly the
        architecture's: every one is named.
    """
    if not path.is_file():
        raise MissingInputError(f"checkpoint {path} does not exist.", FETCH)
    content = _loaded(path)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds no state_dict with tensors by name.", OTHER)
    _refuse_foreign(state, path)
    config = NeuroStormConfig.from_json(_options(content, state, path), f"options in {path.name}")
    return _sorted(state, config, path)


def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # weights_only builds tensors and plain containers alone, of which a namespace of options is one.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        first = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{path} cannot be read as tensors and plain values: {type(error).__name__}: {first}",
            "The file is truncated, not a checkpoint, or would run code when it is read.",
        ) from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected a checkpoint.", OTHER)
    return content


def _refuse_foreign(state: Mapping[str, Any], path: Path) -> None:
    for pattern, model in FOREIGN.items():
        found = next((str(name) for name in state if re.search(pattern, str(name))), None)
        if found is not None:
            raise WeightsError(f"{path.name} is a checkpoint of {model}, not of NeuroSTORM (it holds {found}).", OTHER)


def _options(content: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of the config from the options that a checkpoint was trained with."""
    options: dict[str, Any] = {}
    for name in _OPTIONS:
        part = content.get(name, {})
        options |= vars(part) if isinstance(part, argparse.Namespace) else dict(part)
    known = NeuroStormConfig.__dataclass_fields__
    found = {name: options[name] for name in known if name in options}
    missing = sorted(set(known) - set(found) - {"in_chans"})
    if missing:
        raise WeightsError(
            f"{path.name} does not tell the options it was trained with (hyper_parameters lacks {', '.join(missing)}); "
            f"windows cannot be seen from its {len(state)} tensors.",
            "Give the training checkpoint itself, not tensors taken out of it.",
        )
    return {"in_chans": 1, **found}


def _sorted(state: Mapping[str, Any], config: NeuroStormConfig, path: Path) -> Checkpoint:  # noqa: C901
    """Put every key where it belongs; raise once for all that belong nowhere."""
    expected = parameter_shapes(config)
    decoder_shapes = _decoder_shapes(config)
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}, "heads": {}, "prompts": {}}
    ignored, odd, unexpected, shapes = [], [], [], []
    for raw, value in state.items():
        name = str(raw).removeprefix(_PREFIX)
        if not isinstance(value, Tensor):
            odd.append(str(raw))
        elif name in expected:
            parts["encoder"][name] = value
            if tuple(value.shape) != expected[name]:
                shapes.append(f"{raw} is {tuple(value.shape)}, expected {expected[name]}")
        elif str(raw).startswith(f"{_HEAD}norm."):
            ignored.append(str(raw))  # older heads keep a norm that nothing reads
        elif str(raw).startswith(_HEAD):
            parts["heads"][re.sub(r"^head\.head\.", "head.", str(raw).removeprefix(_HEAD))] = value
        elif re.fullmatch(r"layers\.\d+\.blocks\.\d+\.prompt", name):
            parts["prompts"][name] = value
        elif name == "mask_token" and value.ndim == 2:
            parts["decoder"]["window_mask_token"] = value  # the older generation's only one
        elif name in decoder_shapes:
            parts["decoder"][name] = value
        else:
            unexpected.append(str(raw))
    broken = [n for n, v in parts["encoder"].items() if not (v.is_floating_point() and bool(v.isfinite().all()))]
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("missing", sorted(set(expected) - set(parts["encoder"]))),
            ("unexpected", sorted(unexpected)),
            ("of another shape", shapes),
            ("no tensors", odd),
            ("not finite", broken),
        )
        if names
    ]
    if problems:
        raise WeightsError(f"{path.name} does not fit NeuroSTORM. {'; '.join(problems)}.", OTHER)
    encoder = {name: parts["encoder"][name].to(torch.float32).contiguous() for name in expected}
    return Checkpoint(encoder, config, parts["decoder"], parts["heads"], parts["prompts"], tuple(ignored))


def _decoder_shapes(config: NeuroStormConfig) -> set[str]:
    """Return the names of pre-training's own tensors; their shapes are checked by whoever uses them."""
    names = {"mask_token", "window_mask_token", "atlas_mask_token", "atlas_map"}
    names |= {f"first_patch_expanding.{n}" for n in ("expand.weight", "norm.weight", "norm.bias")}
    names |= {"norm_up.weight", "norm_up.bias", "decoder_pred.weight", "decoder_pred.bias"}
    block = block_shapes(config.embed_dim)
    for up, depth in enumerate(reversed(config.depths[:-1])):
        names |= {f"layers_up.{up}.blocks.{j}.{n}" for j in range(depth) for n in block}
        names |= {f"layers_up.{up}.upsample.{n}" for n in ("expand.weight", "norm.weight", "norm.bias")}
    return names


# ------------------------------------------------------------------------------------------------------------ folder


def load_neurostorm(folder: Path, expected_sha256: str | None = None, device: str = "cpu") -> NeuroStorm:
    """Load a converted encoder, strictly, in evaluation mode and float32.

    Parameters
    ----------
    folder
        Holds ``config.json`` and ``model.safetensors``.
    expected_sha256
        What the weights file must hash to; None accepts any. `NeuroStorm.weights_sha256` tells what it was.
    device
        torch device name.

    Raises
    ------
    MissingInputError
        The folder or a file in it is not there.
    WeightsError
        Another checksum, a pickle, a config or file that cannot be read, names or shapes that are not exactly the
        architecture's (all listed), values that are not finite.
    """
    path = weights_file(folder)
    config = NeuroStormConfig.from_file(folder / "config.json")
    sha256 = weights_sha256(folder)
    if expected_sha256 is not None and sha256 != expected_sha256.lower():
        raise WeightsError(
            f"NeuroSTORM weights {path} have sha256 {sha256}, expected {expected_sha256}.",
            "The file is damaged or of another checkpoint. " + FETCH,
        )
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is a training checkpoint.", f"Convert it: bids_fmmtc-fetch neurostorm --convert {path.name}."
        )
    state = _loaded(path)
    _refuse_foreign(state, path)
    found = _sorted(state, config, path)
    aside = [*found.decoder, *found.heads, *found.prompts, *found.ignored]
    if aside:
        raise WeightsError(f"NeuroSTORM weights {path} hold more than an encoder: {', '.join(sorted(aside))}.", OTHER)
    with torch.device("meta"):  # shapes without memory: the file brings the values
        model = NeuroStorm(config)
    model.load_state_dict(dict(found.encoder), strict=True, assign=True)
    model.weights_sha256 = sha256
    return model.to(device).eval()


def convert(path: Path, folder: Path) -> list[str]:
    """Write the encoder of a training checkpoint as `load_neurostorm` wants it, and what was left out of it.

    Parameters
    ----------
    path
        The checkpoint.
    folder
        An empty folder; gets ``model.safetensors``, ``config.json`` and ``conversion.json``, which tells the
        checkpoint's name and sha256 and the names of the tensors that are not the encoder's.

    Returns
    -------
    list of str
        What was made of it, a line each.

    Raises
    ------
    MissingInputError, WeightsError
        As `read_checkpoint`.
    """
    found = read_checkpoint(path)
    left_out = {
        "decoder": sorted(found.decoder),
        "heads": sorted(found.heads),
        "prompts": sorted(found.prompts),
        "ignored": sorted(found.ignored),
    }
    record = {"checkpoint": path.name, "sha256": file_sha256(path), "left_out": left_out}
    (folder / "model.safetensors").write_bytes(save(dict(found.encoder)))
    for name, content in (("config.json", found.config.to_json()), ("conversion.json", record)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    counts = ", ".join(f"{len(names)} of {part}" for part, names in left_out.items() if names)
    lines = [f"{path.name}: {len(found.encoder)} tensors of the encoder; left out: {counts or 'nothing'}"]
    if found.prompts:
        lines.append(f"{path.name} was tuned by prompts; without them this is the encoder that it was tuned from")
    return lines


__all__ = ["Checkpoint", "convert", "file_sha256", "load_neurostorm", "read_checkpoint"]
