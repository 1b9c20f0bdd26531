"""BrainLM but for its configuration: model, loader, and the modality that gives one CLS vector per window.

BrainLM (Ortega Caro et al., "BrainLM: A foundation model for brain activity recordings", ICLR 2024) is a masked
autoencoder of parcel time series. A token is 20 consecutive frames of one parcel; the encoder's CLS token sums up
a window. This is the time-series architecture of checkpoint-1400 (256 wide) and ``old_13M`` (512 wide), written
from its published facts; the later ``vitmae_*`` checkpoints are another architecture and are refused.

Shapes: B windows, V parcels, T frames, P frames per token, N = T / P tokens per parcel, H width, S tokens at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own habit)
from torch.utils.checkpoint import checkpoint

from bids_fmmtc.errors import DataError, MissingInputError, WeightsError
from bids_fmmtc.modalities.brainlm_config import FETCH, OTHER, BrainLMConfig, token_order
from bids_fmmtc.modalities.numerics import strict
from bids_fmmtc.modalities.token_order import TokenOrder
from bids_fmmtc.modalities.weights import weights_file, weights_sha256
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.types import Float32, Int32, Windowed

__all__ = ["BrainLM", "BrainLMConfig", "BrainLMModality", "load_brainlm"]

MAX_PIECES = 5000
"""Rows of the position table: the most tokens one parcel can have."""

EMBEDDING_DROPOUT = 0.1
"""Dropout after the position table, in training; fixed by the architecture, not by the config."""


# ------------------------------------------------------------------------------------------------------------ model
# Attribute names are those of the published state dicts, odd ones included (`self.self`): only then can a file be
# checked name by name.


class SelfAttention(nn.Module):
    """Softmax attention over all tokens, plus a depth-wise convolution of the values along the token axis."""

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.conv = nn.Conv2d(heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False)

    def forward(self, x: Tensor, rows: int) -> Tensor:
        """Attend from the first ``rows`` tokens of x [B,S,H] to all S; return [B,rows,H]."""
        q = self._split(self.query(x[:, :rows]))  # [B,rows,H] -> [B,heads,rows,H/heads]
        k = self._split(self.key(x))  # [B,S,H] -> [B,heads,S,H/heads]
        v = self._split(self.value(x))  # [B,S,H] -> [B,heads,S,H/heads]
        context = F.scaled_dot_product_attention(q, k, v)  # [B,heads,rows,H/heads]
        # The convolution of a row reaches half a kernel further, so that many values are all it needs.
        reach = rows + self.conv.kernel_size[0] // 2
        out: Tensor = context + self.conv(v[:, :, :reach])[:, :, :rows]
        return out.transpose(1, 2).flatten(2)  # [B,heads,rows,H/heads] -> [B,rows,H]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class AddNorm(nn.Module):
    """Linear layer, residual, LayerNorm after it (post-norm, as in BERT)."""

    def __init__(self, width_in: int, width: int, config: BrainLMConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Map x [B,S,width_in] to [B,S,H] and add it to residual [B,S,H]."""
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return out


class Attention(nn.Module):
    """The attention half of a block."""

    def __init__(self, width: int, heads: int, config: BrainLMConfig) -> None:
        super().__init__()
        self.self = SelfAttention(width, heads, config.conv_kernel_size)
        self.output = AddNorm(width, width, config)

    def forward(self, x: Tensor, rows: int) -> Tensor:
        """Return the first ``rows`` of S tokens: [B,S,H] -> [B,rows,H]."""
        out: Tensor = self.output(self.self(x, rows), x[:, :rows])
        return out


class Intermediate(nn.Module):
    """Widening layer of the feed-forward half of a block."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """[B,S,H] -> [B,S,inner]."""
        return F.gelu(self.dense(x))


class Block(nn.Module):
    """One transformer block: attention with convolution, then a feed-forward network, each post-norm."""

    def __init__(self, width: int, heads: int, inner: int, config: BrainLMConfig) -> None:
        super().__init__()
        self.attention = Attention(width, heads, config)
        self.intermediate = Intermediate(width, inner)
        self.output = AddNorm(inner, width, config)

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        """Return the first ``rows`` tokens (all if None): [B,S,H] -> [B,rows,H]."""
        x = self.attention(x, x.shape[1] if rows is None else rows)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


class Positions(nn.Module):
    """Fixed sine and cosine of the piece number within a parcel; a buffer that the checkpoints store."""

    pe: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # On the CPU even where shapes alone are wanted: arithmetic on "meta" would import torch's compiler, too.
        n = torch.arange(MAX_PIECES, device="cpu").unsqueeze(1)  # [5000,1]
        angle = n * torch.exp(torch.arange(0, width, 2, device="cpu") * (-math.log(10000.0) / width))  # [5000,H/2]
        table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # [5000,H/2,2] -> [5000,H]
        self.register_buffer("pe", table)
        self.dropout = nn.Dropout(EMBEDDING_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Add the table to x [B,V,N,H]."""
        out: Tensor = self.dropout(x + self.pe[: x.shape[2]])
        return out


class Tokens(NamedTuple):
    """What the encoder sees.

    ``x`` [B,1+kept,H] is the CLS token and the kept tokens in the given order; ``mask`` [B,V*N] float is 0 for kept
    and 1 for removed tokens, parcel by parcel; ``restore`` [B,V*N] int64 is the place of each token in the order.
    """

    x: Tensor
    mask: Tensor
    restore: Tensor


class Embeddings(nn.Module):
    """Pieces of signal, parcel coordinates and positions to tokens."""

    def __init__(self, config: BrainLMConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.patch = config.timepoint_patching_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.signal_embedding_projection = nn.Linear(self.patch, width)
        self.xyz_embedding_projection = nn.Linear(3, width)
        self.pos_embedding = Positions(width)

    def forward(self, signal: Tensor, xyz: Tensor, order: Tensor, mask_ratio: float) -> Tokens:
        """Embed signal [B,V,T] and xyz [B,V,3]; keep the first tokens of order [B,V*N]."""
        x = self.signal_embedding_projection(pieces(signal, self.patch))  # [B,V,N,P] -> [B,V,N,H]
        x = x + self.xyz_embedding_projection(xyz).unsqueeze(2)  # + [B,V,1,H]
        x = self.pos_embedding(x).flatten(1, 2)  # [B,V,N,H] -> [B,V*N,H]

        keep = int(x.shape[1] * (1 - mask_ratio))
        restore = order.argsort(dim=1)  # [B,V*N]
        mask = (restore >= keep).to(x.dtype)  # [B,V*N]
        x = x.gather(1, order[:, :keep, None].expand(-1, -1, x.shape[2]))  # [B,V*N,H] -> [B,kept,H]
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # [B,1+kept,H]
        return Tokens(x, mask, restore)


class Encoder(nn.Module):
    """The encoder's blocks."""

    def __init__(self, config: BrainLMConfig) -> None:
        super().__init__()
        shape = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
        self.layer = nn.ModuleList(Block(*shape, config) for _ in range(config.num_hidden_layers))


class Trunk(nn.Module):
    """Embedding, encoder and final LayerNorm: all that a CLS needs."""

    def __init__(self, config: BrainLMConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Decoder(nn.Module):
    """Latent tokens back to pieces of signal; used in pre-training only."""

    def __init__(self, config: BrainLMConfig) -> None:
        super().__init__()
        width, patch = config.decoder_hidden_size, config.timepoint_patching_size
        shape = (width, config.decoder_num_attention_heads, config.decoder_intermediate_size)
        self.tanh = config.use_tanh_decoder
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_embed = nn.Linear(config.hidden_size, width)
        self.decoder_xyz_projection = nn.Linear(3, width)
        self.pos_embedding = Positions(width)
        self.decoder_layers = nn.ModuleList(Block(*shape, config) for _ in range(config.decoder_num_hidden_layers))
        self.decoder_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder_pred = nn.Linear(width, config.patch_size**2 * config.num_channels)  # in every file, never used
        self.decoder_pred1 = nn.Linear(width, width // 2)
        self.decoder_pred2 = nn.Linear(width // 2, patch)

    def forward(self, latent: Tensor, restore: Tensor, xyz: Tensor) -> Tensor:
        """Decode latent [B,1+kept,H], restore [B,V*N] and xyz [B,V,3] to pieces [B,V,N,P]."""
        x = self.decoder_embed(latent)  # [B,1+kept,H]
        cls, x = x[:, :1], x[:, 1:]
        batch, kept, width = x.shape
        masked = self.mask_token.expand(batch, restore.shape[1] - kept, -1)
        x = torch.cat([x, masked], dim=1)  # [B,kept,H] -> [B,V*N,H]
        x = x.gather(1, restore[:, :, None].expand(-1, -1, width))  # given order -> parcel by parcel
        x = x.view(batch, xyz.shape[1], -1, width)  # [B,V*N,H] -> [B,V,N,H]
        x = self.pos_embedding(x + self.decoder_xyz_projection(xyz).unsqueeze(2))
        x = torch.cat([cls, x.flatten(1, 2)], dim=1)  # [B,V,N,H] -> [B,1+V*N,H]
        for block in self.decoder_layers:
            x = block(x)
        x = F.leaky_relu(self.decoder_pred1(self.decoder_norm(x)), 0.1)  # [B,1+V*N,H] -> [B,1+V*N,H/2]
        x = self.decoder_pred2(x)[:, 1:]  # [B,1+V*N,H/2] -> [B,V*N,P]
        out: Tensor = x.reshape(batch, xyz.shape[1], -1, x.shape[2])  # [B,V*N,P] -> [B,V,N,P]
        return out.tanh() if self.tanh else out


class BrainLM(nn.Module):
    """BrainLM: encoder and decoder, under the parameter names of the published checkpoints.

    A new model has random weights: encoder normal, decoder Xavier uniform (the decoder's convolutions as torch
    makes them), biases zero. Attention maps are never kept. In training mode dropout acts as in the reference; in
    evaluation mode every method is a pure function of its arguments.

    Parameters
    ----------
    config
        Shapes and constants.

    Notes
    -----
    The blocks are Nyströmformer's, but with as many landmarks as segment means they compute plain softmax attention.
    The convolution makes the result depend on the token order, also where nothing is masked; so the order is always
    the caller's choice.
    """

    def __init__(self, config: BrainLMConfig) -> None:
        super().__init__()
        self.config = config
        self.weights_sha256: str | None = None
        """Of the file the weights came from; None for a model that was not loaded."""
        self.vit = Trunk(config)
        self.decoder = Decoder(config)
        self._initialise()

    def embed(
        self,
        signal: Tensor,
        xyz: Tensor,
        *,
        order: Tensor | None = None,
        noise: Tensor | None = None,
        mask_ratio: float = 0.0,
    ) -> Tokens:
        """Turn signals into the tokens that the encoder sees.

        Parameters
        ----------
        signal
            [B,V,T] float, scaled to about unit variance; T a multiple of the patch size.
        xyz
            [B,V,3] parcel centres in MNI millimetres.
        order
            [V*N] or [B,V*N] int64, a permutation: the encoder sees token ``order[0]`` first. A token's number is
            parcel * N + piece. None stands for 0, 1, 2, ...
        noise
            [V*N] or [B,V*N] numbers to sort instead: ``order = argsort(noise)``, the first of equal numbers first.
            Uniform noise is BrainLM's training.
        mask_ratio
            Share of tokens removed, from the end of the order; 0 for features.

        Raises
        ------
        DataError
            Shapes do not fit, T is not a multiple of the patch size, or a parcel has more than 5000 pieces.
        ValueError
            ``order`` is no permutation, ``order`` and ``noise`` are both given, the ratio is outside 0..1, or tokens
            are to be removed and neither tells which.
        """
        patch = self.config.timepoint_patching_size
        _check(signal, xyz, patch)
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in 0..1, below 1, found {mask_ratio}")
        if mask_ratio > 0 and order is None and noise is None:
            raise ValueError("removing tokens needs an order or noise: in plain order the last parcels would go")
        tokens = signal.shape[1] * (signal.shape[2] // patch)
        order = _as_order(order, noise, (signal.shape[0], tokens), signal.device)
        out: Tokens = self.vit.embeddings(signal, xyz, order, mask_ratio)
        return out

    def hidden_states(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the embedded tokens [B,S,H], then the same after each block, before the final LayerNorm."""
        yield x
        for block in self.vit.encoder.layer:
            x = block(x)
            yield x

    def encode(self, x: Tensor) -> Tensor:
        """Return the last hidden state [B,S,H] of embedded tokens [B,S,H]; row 0 is the CLS token."""
        for block in self.vit.encoder.layer:
            x = block(x)
        out: Tensor = self.vit.layernorm(x)
        return out

    def cls(self, signal: Tensor, xyz: Tensor, order: Tensor | None = None) -> Tensor:
        """Return the CLS vector [B,H] of whole signals: ``encode(embed(...).x)[:, 0]`` at less cost.

        Nothing reads the last block's other tokens, so there only the CLS row is computed: it needs keys and values of
        all tokens, its own query, and the few values that the convolution reaches from position 0.

        Parameters
        ----------
        signal, xyz, order
            As for `embed`.

        Raises
        ------
        DataError, ValueError
            As `embed`.
        """
        x = self.embed(signal, xyz, order=order).x  # [B,1+V*N,H]
        *blocks, last = self.vit.encoder.layer
        for block in blocks:
            x = block(x)
        # Two rows, not one: torch splits the keys of a lone query among the threads, and the bits of that sum would
        # depend on their number.
        out: Tensor = self.vit.layernorm(last(x, rows=2)[:, 0])  # [B,2,H] -> [B,H]
        return out

    def decode(self, latent: Tensor, restore: Tensor, xyz: Tensor) -> Tensor:
        """Reconstruct all pieces of the signal.

        Parameters
        ----------
        latent
            [B,1+kept,H], the last hidden state.
        restore
            [B,V*N] int64 from `embed`.
        xyz
            [B,V,3] parcel centres in MNI millimetres; V may differ from the config's.

        Returns
        -------
        Tensor
            [B,V,N,P] in the units of the signal.
        """
        out: Tensor = self.decoder(latent, restore, xyz)
        return out

    def reconstruction_loss(self, logits: Tensor, signal: Tensor, mask: Tensor, kind: str | None = None) -> Tensor:
        """Mean error over the masked pieces alone; NaN where nothing is masked, as there is nothing to average.

        Parameters
        ----------
        logits
            [B,V,N,P] from `decode`.
        signal
            [B,V,T], the true signal.
        mask
            [B,V*N] from `embed`, 1 where a token was removed.
        kind
            ``mse`` or ``mae``; None takes the config's.

        Returns
        -------
        Tensor
            A scalar, in units of the signal, squared for ``mse``.

        Raises
        ------
        ValueError
            Another ``kind``.
        """
        kind = self.config.loss_fn if kind is None else kind
        if kind not in ("mse", "mae"):
            raise ValueError(f"kind must be mse or mae, found {kind!r}")
        error = logits - pieces(signal, logits.shape[-1])  # [B,V,N,P]
        error = error.square() if kind == "mse" else error.abs()
        weight = mask.view(*logits.shape[:3], 1).expand_as(error)  # [B,V*N] -> [B,V,N,P]
        loss: Tensor = (error * weight).sum() / weight.sum()
        return loss

    def _initialise(self) -> None:
        if self.vit.embeddings.cls_token.is_meta:
            return  # shapes only: there is nothing to fill, and torch would import its compiler for it, 1.5 s a process
        std = self.config.initializer_range
        for name, module in self.named_modules():
            encoder = name.startswith("vit.")
            if isinstance(module, nn.Linear):
                _ = nn.init.normal_(module.weight, std=std) if encoder else nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d) and encoder:
                nn.init.normal_(module.weight, std=std)
        nn.init.normal_(self.vit.embeddings.cls_token, std=std)
        nn.init.normal_(self.decoder.mask_token, std=std)


def pieces(signal: Tensor, patch: int) -> Tensor:
    """Cut each parcel's series into consecutive pieces: [B,V,T] -> [B,V,N,P]."""
    return signal.reshape(*signal.shape[:2], -1, patch)


def _check(signal: Tensor, xyz: Tensor, patch: int) -> None:
    if signal.ndim != 3 or xyz.shape != (*signal.shape[:2], 3):
        raise DataError(
            f"BrainLM: expected signal (B, V, T) and xyz (B, V, 3), found {tuple(signal.shape)} and {tuple(xyz.shape)}."
        )
    frames = signal.shape[2]
    if frames == 0 or frames % patch:
        raise DataError(f"BrainLM: a window must hold a multiple of {patch} frames, found {frames}.")
    if frames // patch > MAX_PIECES:
        raise DataError(f"BrainLM: a window holds at most {MAX_PIECES * patch} frames, found {frames}.")


def _as_order(order: Tensor | None, noise: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Return the order as a checked [B,V*N] int64 tensor."""
    if order is not None and noise is not None:
        raise ValueError("give an order or noise, not both")
    plain = torch.arange(shape[1], device=device).expand(shape)
    given = order if noise is None else noise
    if given is None:
        return plain
    if tuple(given.shape) not in (shape, shape[1:]):
        raise ValueError(f"an order or noise must be {shape[1:]} or {shape}, found {tuple(given.shape)}")
    given = given.to(device).expand(shape)
    if noise is not None:
        return given.argsort(dim=1, stable=True)  # the reference leaves open which of two equal numbers comes first
    if given.is_floating_point() or not torch.equal(given.long().sort(dim=1).values, plain):
        raise ValueError(f"an order must hold each of 0..{shape[1] - 1} once")
    return given.long()


# ---------------------------------------------------------------------------------------------------------- loading


def load_brainlm(folder: Path, expected_sha256: str | None = None, device: str = "cpu") -> BrainLM:
    """Load a BrainLM checkpoint, strictly, in evaluation mode and float32.

    Parameters
    ----------
    folder
        Holds ``config.json``, and ``model.safetensors`` or ``pytorch_model.bin``.
    expected_sha256
        What the weights file must hash to; None accepts any. `BrainLM.weights_sha256` tells what it was.
    device
        torch device name.

    Raises
    ------
    MissingInputError
        The folder or a file in it is not there.
    WeightsError
        Another checksum; a config or file that cannot be read or holds anything but tensors; names or shapes that
        are not exactly the architecture's, all listed; values that are not finite.
    """
    path = weights_file(folder)
    config = BrainLMConfig.from_file(folder / "config.json")
    sha256 = weights_sha256(folder)
    if expected_sha256 is not None and sha256 != expected_sha256.lower():
        raise WeightsError(
            f"BrainLM weights {path} have sha256 {sha256}, expected {expected_sha256}.",
            "The file is damaged or of another checkpoint. " + FETCH,
        )
    state = _read_state(path)
    with torch.device("meta"):  # shapes without memory: the file brings the values
        model = BrainLM(config)
    _check_state(state, model.state_dict(), path)
    model.load_state_dict({name: value.to(torch.float32) for name, value in state.items()}, assign=True)
    model.weights_sha256 = sha256
    return model.to(device).eval()


def _read_state(path: Path) -> dict[str, Tensor]:
    hint = "The file is truncated or not a checkpoint. " + FETCH
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            # weights_only: a pickle can run any code while it is read; this reader builds tensors alone.
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        first = (str(error).splitlines() or [""])[0]
        raise WeightsError(f"BrainLM weights {path} cannot be read: {type(error).__name__}: {first}", hint) from None
    if not isinstance(state, Mapping):
        raise WeightsError(f"BrainLM weights {path} hold a {type(state).__name__}, expected tensors by name.", hint)
    odd = [str(name) for name, value in state.items() if not (isinstance(name, str) and _is_plain(value))]
    if odd:
        raise WeightsError(f"BrainLM weights {path}: no plain floating-point tensors: {', '.join(odd)}.", hint)
    return dict(state)


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout == torch.strided
        and value.device.type == "cpu"
    )


def _check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Compare names, shapes and values with what the architecture expects; raise once for all that differ."""
    shared = sorted(set(state) & set(expected))
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in shared
        if state[name].shape != expected[name].shape
    ]
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("missing", sorted(set(expected) - set(state))),
            ("unexpected", sorted(set(state) - set(expected))),
            ("of another shape", shapes),
            ("not finite", [name for name in shared if not bool(state[name].isfinite().all())]),
        )
        if names
    ]
    if problems:
        raise WeightsError(f"BrainLM weights {path} do not fit. {'; '.join(problems)}.", OTHER)


# --------------------------------------------------------------------------------------------------------- modality


class BrainLMModality:
    """The CLS vector of each window: the modality ``brainlm``, (W, H) float32.

    Parameters
    ----------
    model
        A BrainLM in evaluation mode; its weights are frozen, so that gradients, where they are on, are of the signal.
    order
        The token order.
    """

    name = "brainlm"

    def __init__(self, model: BrainLM, order: TokenOrder) -> None:
        self.model = model.requires_grad_(False)  # noqa: FBT003  (torch's own signature)
        self.order = order

    @classmethod
    def from_spec(cls, spec: ModalitySpec, recipe: Recipe, weights: Path | None, device: str) -> BrainLMModality:
        """Load the encoder that a recipe asks for.

        Parameters
        ----------
        spec
            Its only option is ``token_order`` (see `TokenOrder`); without it the order is ``identity``.
        recipe
            Not used; `bids_fmmtc.modalities.check_spec` has compared it with the checkpoint.
        weights
            Folder with ``config.json`` and the weights file.
        device
            torch device name.

        Raises
        ------
        RecipeError
            A token order that is none.
        MissingInputError
            The folder is not given or not there.
        WeightsError
            As `load_brainlm`.
        """
        del recipe
        if weights is None:
            raise MissingInputError("the recipe asks for brainlm, and no folder with its weights is given.", FETCH)
        return cls(load_brainlm(weights, spec.weights_sha256, device), token_order(spec))

    def untrained(self, seed: int) -> BrainLMModality:
        """Return an encoder of the same shape and token order with the weights it has before any training."""
        device = next(self.model.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = BrainLM(self.model.config)
        return BrainLMModality(model.to(device).eval().requires_grad_(False), self.order)  # noqa: FBT003

    @property
    def weights_sha256(self) -> str | None:
        """Checksum of the weights file; None for a model that was not loaded from one."""
        return self.model.weights_sha256

    @property
    def width(self) -> int:
        """H, the length of a window's vector."""
        return self.model.config.hidden_size

    @strict()
    @torch.inference_mode()
    def compute(self, source: Windowed, windows: Int32) -> Float32:
        """Return the CLS vectors of windows, one window at a time (batches are no faster on a CPU, and larger).

        Parameters
        ----------
        source
            ``scaled`` (F, R), with lost parcels 0, and ``xyz`` (R, 3) in MNI millimetres are read.
        windows
            (W, 2) start and stop frames.

        Returns
        -------
        NDArray
            (W, H) float32; the same input gives the same bits on the same machine.

        Raises
        ------
        DataError
            A window is not a multiple of the frames per token, or the result is not finite.
        RecipeError
            The permutation does not fit the number of tokens.
        """
        device = self.model.vit.embeddings.cls_token.device
        xyz = torch.from_numpy(np.array(source.xyz, dtype=np.float32))[None].to(device)  # (R,3) -> [1,R,3]
        out = np.empty((len(windows), self.width), dtype=np.float32)
        for row, (start, stop) in enumerate(windows):
            frames = np.array(source.scaled[start:stop].T, dtype=np.float32, order="C")  # (L,R) -> (R,L)
            out[row] = self.vectors(torch.from_numpy(frames)[None].to(device), xyz)[0].cpu().numpy()
        if not np.isfinite(out).all():
            bad = np.flatnonzero(~np.isfinite(out).all(axis=1)).tolist()
            raise DataError(f"BrainLM: the vectors of windows {bad} are not finite; is the scaled signal?")
        return out

    def vectors(self, signal: Tensor, xyz: Tensor) -> Tensor:
        """Return the mean CLS vector over the token orders, [B,H]; gradients reach the signal where they are on.

        Where they are and there are several orders, each order's activations are computed again on the way back, so
        that memory is that of one order (225 MB at 424 parcels and 200 frames), at a third more time.

        Parameters
        ----------
        signal
            [B,R,L] scaled frames.
        xyz
            [B,R,3] in MNI millimetres.

        Raises
        ------
        DataError, RecipeError
            As `compute`, but for a result that is not finite.
        """
        tokens = signal.shape[1] * (signal.shape[2] // self.model.config.timepoint_patching_size)
        orders = [torch.from_numpy(order) for order in self.order.orders(tokens)]
        if torch.is_grad_enabled() and len(orders) > 1:
            rows = [checkpoint(self.model.cls, signal, xyz, order, use_reentrant=False) for order in orders]
        else:
            rows = [self.model.cls(signal, xyz, order) for order in orders]
        return torch.stack(rows).mean(0)  # K x [B,H] -> [B,H]
