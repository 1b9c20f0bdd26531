"""NeuroSTORM's encoder: windows of a 4-D volume, each scanned by a Mamba block, on any machine.

NeuroSTORM (arXiv 2506.11167; Nature Biomedical Engineering 2026, doi 10.1038/s41551-026-01666-y) is a Swin hierarchy
over space and time whose attention is replaced by one causal selective scan (Mamba-1) over the 256 tokens of a window
of 4 x 4 x 4 x 4. A clip of 20 frames at 0.8 s on the 96-voxel grid at 2 mm becomes 288 numbers. Written from its
published facts; its own code needs CUDA kernels.

Shapes: B clips, C channels, (X, Y, Z) tokens of a frame, T frames, N = X Y Z T tokens, n windows of L tokens, E = 2 C
inner channels of a scan, S = 16 states. Inside a stage tensors are channel-last, (B, X, Y, Z, T, C); between stages
the reference keeps (B, C, X, Y, Z, T), and so do the stages' outputs here.
"""

# ruff: noqa: N803, N806  (A, B, C, D are the scan's own names)

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own habit)
from torch.utils.checkpoint import checkpoint

from bids_fmmtc.errors import DataError
from bids_fmmtc.modalities.neurostorm_config import EXPAND, STATES, TAPS, Four, NeuroStormConfig

CHUNK = 4096
"""Tokens worked on at a time: few enough to stay in the cache, and for a scan's steps to be held for the way back."""

STEPS = 8
"""Steps of a scan whose decay is computed at once, without numba."""


# ---------------------------------------------------------------------------------------------------------- windows


class Windows(NamedTuple):
    """How the tokens of a grid fall into windows; they partition it.

    ``tokens`` (n, L) int64 is the place of each window's tokens among the N of the grid, in the order of the scan (t
    fastest), and N for padding. ``place`` (N,) int64 is the way back: where in ``tokens``, flattened, each one stands.
    """

    tokens: Tensor
    place: Tensor


@lru_cache(maxsize=32)
def partition(grid: Four, window: Four, *, shifted: bool) -> Windows:
    """Cut a grid into windows, shifted by half a window or not.

    An axis that is not longer than the window is one window and is not shifted. Else the grid is padded at its end to a
    multiple, and rolled: the first and the last face then share a window, without a mask, as in the reference.
    """
    size = tuple(min(g, w) for g, w in zip(grid, window, strict=True))
    shift = [0 if g <= w or not shifted else w // 2 for g, w in zip(grid, window, strict=True)]
    n = math.prod(grid)
    places = np.arange(n).reshape(grid)
    places = np.pad(places, [(0, -g % w) for g, w in zip(grid, size, strict=True)], constant_values=n)
    places = np.roll(places, [-s for s in shift], axis=(0, 1, 2, 3))
    counts = [p // w for p, w in zip(places.shape, size, strict=True)]
    cut = places.reshape([v for pair in zip(counts, size, strict=True) for v in pair])
    index = cut.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(math.prod(counts), math.prod(size))
    place = np.empty(n + 1, np.int64)
    place[index.ravel()] = np.arange(index.size)
    with torch.inference_mode(mode=False):  # kept for later calls, of which some ask for gradients
        return Windows(torch.from_numpy(index), torch.from_numpy(place[:n]))


# ------------------------------------------------------------------------------------------------------------ model
# Attribute names are those of the published state dicts: only then can a file be checked name by name.


class Mamba(nn.Module):
    """Mamba-1 (Gu and Dao, arXiv 2312.00752): projection, short causal convolution, selective scan, gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner, self.rank = EXPAND * width, math.ceil(width / 16)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, TAPS, groups=inner, padding=TAPS - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * STATES, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, STATES))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    @property
    def bias(self) -> Tensor:
        """[E] of the convolution."""
        if self.conv1d.bias is None:
            raise ValueError("the convolution has a bias")
        return self.conv1d.bias

    def forward(self, x: Tensor) -> Tensor:
        """Scan sequences x [n,L,C] one by one; gradients reach x and the parameters."""
        u, z = self.in_proj(x).chunk(2, dim=-1)  # [n,L,C] -> 2 x [n,L,E]
        u = F.silu(self.conv1d(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        dt, B, C = self.x_proj(u).split([self.rank, STATES, STATES], dim=-1)
        dt = F.softplus(self.dt_proj(dt))  # [n,L,E]
        y = selective_scan(u, dt, -torch.exp(self.A_log), B, C) + self.D * u
        out: Tensor = self.out_proj(y * F.silu(z))
        return out


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return ``y_t = <h_t, C_t>`` of ``h_t = exp(dt_t A) h_(t-1) + dt_t u_t B_t``, step by step.

    On CUDA by mamba_ssm's kernel where that is installed.

    Parameters
    ----------
    u, dt
        [n,L,E].
    A
        [E,S].
    B, C
        [n,L,S].

    Returns
    -------
    Tensor
        [n,L,E].
    """
    if scan_of(u.device) == "mamba_ssm":
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: PLC0415

        out: Tensor = selective_scan_fn(*(v.transpose(1, 2) for v in (u, dt)), A, *(v.transpose(1, 2) for v in (B, C)))
        return out.transpose(1, 2)
    state = u.new_zeros(u.shape[0], u.shape[2], STATES)
    rows = []
    # `unbind`, not x[:, t]: the way back through an index writes a whole zero tensor for every step.
    for u_t, dt_t, B_t, C_t in zip(u.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        state = torch.exp(dt_t[..., None] * A) * state + (dt_t * u_t)[..., None] * B_t[:, None]
        rows.append((state @ C_t[..., None])[..., 0])  # [n,E,S] x [n,S,1] -> [n,E]
    return torch.stack(rows, 1)


def scan_of(device: torch.device) -> str:
    """Return which scan a device gets: ``mamba_ssm``, or ``torch``; without gradients a CPU asks `kernels` first."""
    return "mamba_ssm" if device.type == "cuda" and find_spec("mamba_ssm") is not None else "torch"


@lru_cache(maxsize=1)
def kernels() -> Any:
    """Return the compiled kernels; None where numba is not installed, or, with a warning, fails to compile them."""
    if find_spec("numba") is None:
        return None
    from bids_fmmtc.modalities import neurostorm_code  # noqa: PLC0415

    return neurostorm_code.load()


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, 4 * width)
        self.linear2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[...,C] -> [...,C]."""
        out: Tensor = self.linear2(F.gelu(self.linear1(x)))
        return out


class Block(nn.Module):
    """Pre-norm block: scan of windows, then a feed-forward network, each added to its input."""

    prompt: Tensor | None

    def __init__(self, width: int, prompts: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.mamba = Mamba(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.register_parameter("prompt", nn.Parameter(torch.zeros(1, prompts, width)) if prompts else None)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Map x [B,N,C] to [B,N,C]; gradients where they are on."""
        x = x + self.mix(self.norm1(x), windows)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def mix(self, x: Tensor, windows: Windows) -> Tensor:
        """Scan the windows of normed tokens x [B,N,C]; prompts, if there are any, come before each and are dropped."""
        batch, _, width = x.shape
        n, length = windows.tokens.shape
        rows = F.pad(x, (0, 0, 0, 1))[:, windows.tokens]  # [B,N+1,C] -> [B,n,L,C]; the last row is the padding
        rows = rows.reshape(batch * n, length, width)
        if self.prompt is not None:
            rows = torch.cat([self.prompt.expand(batch * n, -1, -1), rows], dim=1)
        out: Tensor = self._scanned(rows)[:, -length:].reshape(batch, n * length, width)[:, windows.place]
        return out

    def _scanned(self, rows: Tensor) -> Tensor:
        """Scan windows [n,L,C], some at a time, and on the way back once more: 2 GB a block are 100 MB then."""
        if not torch.is_grad_enabled() or scan_of(rows.device) == "mamba_ssm":
            return self.mamba(rows)  # type: ignore[no-any-return]
        parts = torch.split(rows, max(1, CHUNK // rows.shape[1]))
        return torch.cat([checkpoint(self.mamba, part, use_reentrant=False) for part in parts])


class PatchMerging(nn.Module):
    """Eight neighbours in space become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(8 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(8 * width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,X,Y,Z,T,C] -> [B,X/2,Y/2,Z/2,T,2C]; the last axis of space changes fastest among the eight."""
        # Two faces of the grid at a time, which stay in the cache.
        faces = x.unbind(1)
        return torch.stack([self._merged(faces[i], faces[i + 1]) for i in range(0, len(faces), 2)], 1)

    def _merged(self, *pair: Tensor) -> Tensor:
        parts = [x[:, j::2, k::2] for x in pair for j in (0, 1) for k in (0, 1)]  # 2 x [B,Y,Z,T,C]
        out: Tensor = self.reduction(self.norm(torch.cat(parts, dim=-1)))
        return out


class Stage(nn.Module):
    """Blocks on one grid, every other one shifted, then patch merging (but in the last)."""

    def __init__(self, width: int, depth: int, window: Four, *, shifts: bool, merges: bool, prompts: int) -> None:
        super().__init__()
        self.window, self.shifts = window, shifts
        self.blocks = nn.ModuleList(Block(width, prompts) for _ in range(depth))
        self.downsample = PatchMerging(width) if merges else None

    def forward(self, x: Tensor) -> Tensor:
        """[B,X,Y,Z,T,C] -> [B,X/2,Y/2,Z/2,T,2C], the last stage [B,X,Y,Z,T,C]; without gradients x is overwritten."""
        grid: Any = tuple(x.shape[1:5])
        flat = x.flatten(1, 4)  # [B,X,Y,Z,T,C] -> [B,N,C]
        for j, block in enumerate(self.blocks):
            windows = partition(grid, self.window, shifted=self.shifts and j % 2 == 1)
            if needs_gradient(flat, block) or scan_of(flat.device) == "mamba_ssm":
                flat = block(flat, windows)
            elif isinstance(block, Block):
                run_block(block, flat, windows)
        x = flat.view(x.shape)
        return x if self.downsample is None else self.downsample(x)


class Positions(nn.Module):
    """Learnt place in space and in time, added to every token at every stage."""

    def __init__(self, width: int, grid: tuple[int, int, int], frames: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, width, *grid, 1))
        self.time_embed = nn.Parameter(torch.zeros(1, width, 1, 1, 1, frames))

    def forward(self, x: Tensor) -> Tensor:
        """Add both to x [B,X,Y,Z,T,C], in place; a shorter clip takes the first time embeddings."""
        x += self.pos_embed.movedim(1, -1).contiguous()
        x += self.time_embed[..., : x.shape[4]].movedim(1, -1).contiguous()
        return x


class PatchEmbed(nn.Module):
    """Cubes of voxels become tokens, by one linear layer."""

    def __init__(self, config: NeuroStormConfig) -> None:
        super().__init__()
        self.patch = config.patch_size
        self.fc = nn.Linear(math.prod(self.patch) * config.in_chans, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B,1,X,Y,Z,T] voxels -> [B,X',Y',Z',T,C] tokens; within a patch z changes fastest."""
        a, b, c, _ = self.patch
        weight = self.fc.weight.view(-1, 1, a, b, c)
        tokens = x.new_empty(
            len(x), *(n // p for n, p in zip(x.shape[2:5], (a, b, c), strict=True)), x.shape[5], len(weight)
        )
        for t in range(x.shape[5]):
            # An axis of channels of stride 1 tells the convolution that they come last: it takes half the time.
            frame = x[:, 0, ..., t, None].movedim(-1, 1)  # [B,1,X,Y,Z]
            tokens[..., t, :] = F.conv3d(frame, weight, self.fc.bias, stride=(a, b, c)).movedim(1, -1)
        return tokens


class NeuroStorm(nn.Module):
    """The encoder, under the parameter names of the published checkpoints.

    A new model has random weights: positions truncated normal, the scan's as in Mamba, everything else as torch makes
    it. It is a pure function of its input; there is no dropout.

    Parameters
    ----------
    config
        Shapes.
    prompts
        Learnt tokens before each window (task-specific prompt tuning); 0 for none.
    """

    def __init__(self, config: NeuroStormConfig, prompts: int = 0) -> None:
        super().__init__()
        self.config = config
        self.weights_sha256: str | None = None
        """Of the file the weights came from; None for a model that was not loaded."""
        self.patch_embed = PatchEmbed(config)
        grids = [tuple(n // 2**i for n in config.grid) for i in range(len(config.depths))]
        widths = [config.embed_dim * 2**i for i in range(len(config.depths))]
        last = len(config.depths) - 1
        self.pos_embeds = nn.ModuleList(
            Positions(width, grid, config.frames) for width, grid in zip(widths, grids, strict=True)
        )
        self.layers = nn.ModuleList(
            Stage(
                widths[i],
                depth,
                config.windows(i),
                shifts=i < last or not config.last_layer_full_MSA,
                merges=i < last,
                prompts=prompts,
            )
            for i, depth in enumerate(config.depths)
        )
        self._initialise()

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the tokens [B,C,X,Y,Z,T] after the patch embedding and after each stage.

        Parameters
        ----------
        x
            [B,1,X,Y,Z,T] clips of ``config.img_size``, normalised; T may be smaller.

        Raises
        ------
        DataError
            Another shape, or more frames than there are time embeddings.
        """
        self._check(x)
        x = self.patch_embed(x)
        yield x.movedim(-1, 1)
        for positions, stage in zip(self.pos_embeds, self.layers, strict=True):
            x = stage(positions(x.clone()))  # whoever took it may keep it
            yield x.movedim(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last tokens [B,C,X,Y,Z,T] of clips [B,1,X,Y,Z,T]; raises as `stages`."""
        self._check(x)
        x = self.patch_embed(x)
        for positions, stage in zip(self.pos_embeds, self.layers, strict=True):
            x = stage(positions(x))
        return x.movedim(-1, 1)

    def _check(self, x: Tensor) -> None:
        expected = (self.config.in_chans, *self.config.img_size[:3])
        if x.ndim != 6 or tuple(x.shape[1:5]) != expected or not 0 < x.shape[5] <= self.config.frames:
            raise DataError(
                f"NeuroSTORM: expected clips (B, {', '.join(map(str, expected))}, T), T up to {self.config.frames}, "
                f"found {tuple(x.shape)}."
            )

    def vector(self, x: Tensor) -> Tensor:
        """Return the mean over the last tokens, [B,C]: what the published heads read."""
        out: Tensor = self(x).flatten(2).mean(-1)
        return out

    def _initialise(self) -> None:
        if self.patch_embed.fc.weight.is_meta:
            return  # shapes only: there is nothing to fill, and torch would import its compiler for it, 3 s a process
        for module in self.modules():
            if isinstance(module, Positions):
                nn.init.trunc_normal_(module.pos_embed, std=0.02)
                nn.init.trunc_normal_(module.time_embed, std=0.02)
            elif isinstance(module, Block) and module.prompt is not None:
                nn.init.trunc_normal_(module.prompt, std=0.02)
            elif isinstance(module, Mamba):
                low, high = math.log(1e-3), math.log(0.1)
                step = torch.exp(torch.rand(len(module.D)) * (high - low) + low)
                with torch.no_grad():
                    module.A_log.copy_(torch.log(torch.arange(1.0, STATES + 1)))
                    module.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus gives the step back


# -------------------------------------------------------------------------------------------------- without gradients


def needs_gradient(x: Tensor, block: nn.Module) -> bool:
    """Tell whether autograd has to follow a block: gradients are on, and something asks for one."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in block.parameters()))


def run_block(block: Block, x: Tensor, windows: Windows) -> None:
    """Make x ``block(x, windows)`` without gradients, in place, some windows at a time.

    Windows partition the tokens, so each piece is read, computed and written back before the next one.

    Parameters
    ----------
    x
        [B,N,C], contiguous.
    """
    compiled = kernels() if x.device.type == "cpu" and x.dtype == torch.float32 else None
    length = windows.tokens.shape[1] + (0 if block.prompt is None else block.prompt.shape[1])
    at_once = max(1, CHUNK // length) if x.device.type == "cpu" else len(windows.tokens)  # a GPU wants few, large steps
    pieces = torch.split(windows.tokens.to(x.device), at_once)
    run = _Torch(block, x.shape[2]) if compiled is None else _Compiled(block, len(pieces[0]), length, compiled)
    for clip in x:
        for piece in pieces:
            run(clip, piece)


class _Torch:
    """Runs a block on windows with torch alone, time first."""

    def __init__(self, block: Block, width: int) -> None:
        self.block, self.width = block, width

    def __call__(self, x: Tensor, windows: Tensor) -> None:
        """Run the windows with these tokens (n, L) of x [N,C], in place."""
        block, (n, length) = self.block, windows.shape
        tokens = windows.T.reshape(-1)  # [L*n], time-major: a step of all windows is one stretch of memory
        real = tokens < len(x)
        inside = bool(real.all())
        rows = x[tokens] if inside else F.pad(x, (0, 0, 0, 1))[tokens]  # [L*n,C]
        normed = block.norm1(rows)
        if not inside:
            normed[~real] = 0  # the reference pads after the norm
        if block.prompt is not None:
            before = block.prompt[0, :, None].expand(-1, n, -1).reshape(-1, self.width)  # [k*n,C]
            normed = torch.cat([before, normed])
        rows += _scan_in_steps(block.mamba, normed, n)[-length * n :]
        rows += block.mlp(block.norm2(rows))
        if inside:
            x[tokens] = rows
        else:
            x[tokens[real]] = rows[real]


def _scan_in_steps(mamba: Mamba, x: Tensor, n: int) -> Tensor:
    """Return ``mamba`` of n sequences, x [L*n,C] time-major -> [L*n,C]; decays of `STEPS` steps at once."""
    length, inner = len(x) // n, len(mamba.D)
    xz = F.linear(x, mamba.in_proj.weight).view(length, n, 2 * inner)
    taps = mamba.conv1d.weight[:, 0].T.contiguous()  # [4,E]
    u = torch.addcmul(mamba.bias, xz[..., :inner], taps[-1])
    for back in range(1, min(TAPS, length)):
        u[back:].addcmul_(xz[:-back, :, :inner], taps[-1 - back])
    F.silu(u, inplace=True)
    dt, B, C = torch.split(F.linear(u, mamba.x_proj.weight), [mamba.rank, STATES, STATES], dim=-1)
    dt = F.softplus(F.linear(dt, mamba.dt_proj.weight, mamba.dt_proj.bias))
    A = -torch.exp(mamba.A_log).T.contiguous()  # [S,E]: channels last, so that every step runs over whole vectors
    y = u * mamba.D
    du = dt * u
    state = x.new_zeros(n, STATES, inner)
    memory = x.new_empty(2, STEPS, n, STATES, inner)
    for start in range(0, length, STEPS):
        part = slice(start, min(start + STEPS, length))
        decay, states = memory[:, : part.stop - start].unbind()
        torch.mul(dt[part, :, None], A, out=decay).exp_()  # [steps,n,S,E]
        torch.mul(du[part, :, None], B[part, ..., None], out=states)
        for now, before, kept in zip(states, [state, *states[:-1]], decay, strict=True):
            now.addcmul_(kept, before)
        state = states[-1].clone()
        y[part] += states.mul_(C[part, ..., None]).sum(2)
    y *= F.silu(xz[..., inner:])
    return F.linear(y.view(length * n, inner), mamba.out_proj.weight)


class _Compiled:
    """Runs a block on windows: products by torch into memory that is kept, everything between them by the kernels.

    Parameters
    ----------
    block
        Its weights are read once, here.
    most, length
        Windows of a piece at most, tokens of a window with its prompts.
    compiled
        The kernels.
    """

    def __init__(self, block: Block, most: int, length: int, compiled: Any) -> None:
        mamba, mlp = block.mamba, block.mlp
        inner, width = len(mamba.D), len(block.norm1.weight)
        self.compiled, self.length, self.rank = compiled, length, mamba.rank
        self.prompt = None if block.prompt is None else block.prompt.detach()
        self.norm1 = (*_arrays(block.norm1.weight, block.norm1.bias), block.norm1.eps)
        self.norm2 = (*_arrays(block.norm2.weight, block.norm2.bias), block.norm2.eps)
        self.taps = _arrays(mamba.conv1d.weight[:, 0].T.contiguous(), mamba.bias)
        A2 = (-torch.exp(mamba.A_log) * math.log2(math.e)).T.contiguous()  # [S,E]
        self.scan = _arrays(mamba.dt_proj.bias, A2, mamba.D)
        self.biases = _arrays(mlp.linear1.bias, mlp.linear2.bias)
        layers = (mamba.in_proj, mamba.x_proj, mamba.dt_proj, mamba.out_proj, mlp.linear1, mlp.linear2)
        self.products = [layer.weight.detach().T for layer in layers]
        self.state = np.empty((STATES + 2, inner), np.float32)
        sizes = (width, 2 * inner, inner, mamba.rank + 2 * STATES, inner, inner, 4 * width)
        self.memory = [torch.empty(most * length, size) for size in sizes]

    def __call__(self, x: Tensor, windows: Tensor) -> None:
        """Run the windows with these tokens (n, L) of x [N,C], in place."""
        n = len(windows)
        tokens = torch.where(windows < len(x), windows, -1).reshape(-1).numpy()
        rows, xz, u, bc, dt, gated, hidden = (part[: n * self.length] for part in self.memory)
        into, step, compiled = self.products, self.scan, self.compiled
        values, own = x.numpy(), rows[: len(tokens)]
        compiled.gather_norm(values, tokens, *self.norm1, own.numpy())
        torch.mm(self._with_prompts(own, n), into[0], out=xz)
        compiled.convolve(xz.numpy(), self.length, *self.taps, u.numpy())
        torch.mm(u, into[1], out=bc)
        torch.mm(bc[:, : self.rank], into[2], out=dt)
        compiled.scan(u.numpy(), xz.numpy(), dt.numpy(), bc.numpy(), self.length, *step, self.state, gated.numpy())
        torch.mm(gated, into[3], out=rows)
        compiled.add_norm(values, tokens, self._without_prompts(rows, n).numpy(), *self.norm2, own.numpy())
        torch.mm(own, into[4], out=hidden[: len(tokens)])
        compiled.gelu(hidden[: len(tokens)].numpy(), self.biases[0])
        torch.mm(hidden[: len(tokens)], into[5], out=own)
        compiled.add_rows(values, tokens, own.numpy(), self.biases[1])

    def _with_prompts(self, rows: Tensor, n: int) -> Tensor:
        if self.prompt is None:
            return rows
        return torch.cat([self.prompt.expand(n, -1, -1), rows.view(n, -1, rows.shape[1])], 1).flatten(0, 1)

    def _without_prompts(self, rows: Tensor, n: int) -> Tensor:
        if self.prompt is None:
            return rows
        return rows.view(n, self.length, -1)[:, self.prompt.shape[1] :].flatten(0, 1)


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]
