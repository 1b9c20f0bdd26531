"""BrainLM's ``config.json`` and what a recipe asks of the encoder; no torch, so the parent process can check both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bids_fmmtc.errors import MissingInputError, RecipeError, UnreadableError, WeightsError
from bids_fmmtc.modalities.about import About
from bids_fmmtc.modalities.token_order import TokenOrder
from bids_fmmtc.modalities.weights import weights_file
from bids_fmmtc.reading import read_json
from bids_fmmtc.recipe import ModalitySpec, Recipe

FETCH = "Fetch the weights with: bids_fmmtc-fetch brainlm."
OTHER = "Only BrainLM's time-series checkpoints fit (checkpoint-1400, old_13M), not the vitmae_* ones."

ABOUT = About(
    "T",
    "BrainLM",
    "Ortega Caro et al. 2024",
    "Ortega Caro et al., BrainLM: a foundation model for brain activity recordings, ICLR 2024.",
    "BrainLM's licence (CC BY-NC-ND 4.0) forbids passing its weights on, so each user fetches them",
)


@dataclass(frozen=True, slots=True)
class BrainLMConfig:
    """The fields of BrainLM's ``config.json`` that shape the model, under the names of the file.

    Nothing has a default: the reference's class defaults differ from every published checkpoint, so falling back
    to them would build another model. Fields of the file that are not listed here are not used.

    Parameters
    ----------
    hidden_size, decoder_hidden_size
        Width H; both must be equal.
    num_hidden_layers, num_attention_heads, intermediate_size
        Encoder blocks, heads, and width of the feed-forward layer. ``decoder_...`` are the decoder's.
    hidden_act, hidden_dropout_prob, layer_norm_eps, initializer_range
        As in BERT; the activation must be ``gelu``.
    conv_kernel_size
        Taps of the depth-wise convolution along the tokens; odd.
    num_landmarks, segment_means_seq_len
        Must be equal: attention is then plain softmax attention, else Nyström's approximation.
    timepoint_patching_size
        P, frames per token.
    num_brain_voxels, num_timepoints_per_voxel
        Parcels and frames seen in training; the model accepts other numbers.
    mask_ratio, loss_fn, use_tanh_decoder
        Of pre-training.
    patch_size, num_channels
        Leftovers of ViT-MAE that size a tensor nothing uses.

    Raises
    ------
    WeightsError
        A value is out of range or asks for something BrainLM's checkpoints never had.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    decoder_hidden_size: int
    decoder_num_hidden_layers: int
    decoder_num_attention_heads: int
    decoder_intermediate_size: int
    hidden_act: str
    hidden_dropout_prob: float
    layer_norm_eps: float
    initializer_range: float
    conv_kernel_size: int
    num_landmarks: int
    segment_means_seq_len: int
    timepoint_patching_size: int
    num_brain_voxels: int
    num_timepoints_per_voxel: int
    mask_ratio: float
    loss_fn: str
    use_tanh_decoder: bool
    patch_size: int
    num_channels: int

    def __post_init__(self) -> None:
        counts = [f.name for f in fields(self) if f.type == "int" and getattr(self, f.name) < 1]
        if counts:
            raise WeightsError(f"BrainLM config: {', '.join(counts)} must be at least 1.")
        for ok, message in (
            (self.decoder_hidden_size == self.hidden_size, "decoder_hidden_size must equal hidden_size"),
            (self.hidden_size % 2 == 0, "hidden_size must be even"),
            (self.hidden_size % self.num_attention_heads == 0, "hidden_size must be divisible by the heads"),
            (
                self.hidden_size % self.decoder_num_attention_heads == 0,
                "decoder_hidden_size must be divisible by the decoder's heads",
            ),
            (
                self.num_landmarks == self.segment_means_seq_len,
                "num_landmarks must equal segment_means_seq_len (full softmax attention)",
            ),
            (self.hidden_act == "gelu", f"hidden_act must be gelu, found {self.hidden_act!r}"),
            (self.conv_kernel_size % 2 == 1, "conv_kernel_size must be odd"),
            (self.loss_fn in ("mse", "mae"), f"loss_fn must be mse or mae, found {self.loss_fn!r}"),
            (0 <= self.mask_ratio < 1, "mask_ratio must lie in 0..1, below 1"),
            (0 <= self.hidden_dropout_prob < 1, "hidden_dropout_prob must lie in 0..1, below 1"),
            (0 < self.layer_norm_eps < math.inf, "layer_norm_eps must be positive"),
            (0 <= self.initializer_range < math.inf, "initializer_range must not be negative"),
        ):
            if not ok:
                raise WeightsError(f"BrainLM config: {message}.", OTHER)

    @classmethod
    def from_json(cls, data: Any, source: str = "config.json") -> BrainLMConfig:
        """Build a config from the content of a ``config.json``.

        Parameters
        ----------
        data
            The parsed JSON.
        source
            What to call it in messages.

        Raises
        ------
        WeightsError
            Not BrainLM's config, a field is missing or of the wrong type; all such fields are named.
        """
        if not isinstance(data, Mapping):
            raise WeightsError(f"{source}: expected an object, found {type(data).__name__}.", OTHER)
        model_type = data.get("model_type", "brainlm_mae")
        if model_type != "brainlm_mae":
            raise WeightsError(f"{source}: model_type is {model_type!r}, expected 'brainlm_mae'.", OTHER)
        missing = [f.name for f in fields(cls) if f.name not in data]
        if missing:
            raise WeightsError(
                f"{source}: not a BrainLM config, these fields are missing: {', '.join(missing)}.", OTHER
            )
        # bool is an int in Python but not in JSON, hence `type` and not `isinstance`.
        kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
        wrong = [f.name for f in fields(cls) if type(data[f.name]) not in kinds[str(f.type)]]
        if wrong:
            found = ", ".join(f"{name} = {json.dumps(data[name])}" for name in wrong)
            raise WeightsError(f"{source}: fields of the wrong type: {found}.", OTHER)
        return cls(**{f.name: data[f.name] for f in fields(cls)})

    @classmethod
    def from_file(cls, path: Path) -> BrainLMConfig:
        """Read a ``config.json``.

        Raises
        ------
        MissingInputError
            The file is not there.
        WeightsError
            It is not readable JSON, or as `from_json`.
        """
        if not path.exists():
            raise MissingInputError(f"BrainLM config {path} does not exist.", FETCH)
        try:
            data = read_json(path)
        except UnreadableError as error:
            raise WeightsError(f"BrainLM config {error.message}", FETCH) from None
        return cls.from_json(data, str(path))


def token_order(spec: ModalitySpec) -> TokenOrder:
    """Return the token order that a recipe's entry asks for.

    Raises
    ------
    RecipeError
        It is none.
    """
    return TokenOrder.from_json(spec.options["token_order"]) if "token_order" in spec.options else TokenOrder()


def check_spec(spec: ModalitySpec, recipe: Recipe, weights: Path | None) -> None:
    """Check a recipe's entry; with the folder of weights also that windows and token order fit the checkpoint.

    Raises
    ------
    RecipeError
        An unknown option, a token order that does not fit, or a window length that tokens do not divide.
    MissingInputError
        The folder or a file in it is not there.
    WeightsError
        The config is not that of a checkpoint that fits.
    """
    unknown = sorted(set(spec.options) - {"token_order"})
    if unknown:
        raise RecipeError(f"recipe: brainlm has no option {', '.join(unknown)}; known is token_order.")
    order = token_order(spec)
    if weights is None:
        return
    weights_file(weights)  # a folder that is not there is a clearer message than a config that is not
    length, patch = recipe.windows.length, BrainLMConfig.from_file(weights / "config.json").timepoint_patching_size
    if length % patch:
        raise RecipeError(f"recipe: windows.length is {length}; brainlm needs a multiple of {patch} frames.")
    if recipe.atlas.n_parcels is not None:
        order.check(recipe.atlas.n_parcels * (length // patch))
