"""NeuroSTORM's ``config.json`` and what a recipe asks of it; no torch, so the parent process can check both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bids_fmmtc.errors import RecipeError, UnreadableError, WeightsError
from bids_fmmtc.modalities.about import About
from bids_fmmtc.modalities.weights import weights_file
from bids_fmmtc.plain import Object
from bids_fmmtc.reading import read_json
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.types import ClipForm

FETCH = "Fetch the weights with: bids_fmmtc-fetch neurostorm."
MODEL_TYPE = "neurostorm"

ABOUT = About(
    "V",
    "NeuroSTORM",
    "Wang et al. 2026",
    "Wang et al., Towards a general-purpose foundation model for fMRI analysis, Nature Biomedical Engineering 2026, "
    "doi:10.1038/s41551-026-01666-y.",
    "NeuroSTORM's weights are large, so each user fetches or converts them once",
)

CLIP_FRAMES = 20
"""Frames of a clip as the published encoder saw them; a model holds as many time embeddings."""

STATES = 16
"""States of a Mamba block; fixed by the architecture, as are `TAPS` and `EXPAND`."""

TAPS = 4
EXPAND = 2

Four = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class NeuroStormConfig:
    """What shapes the encoder, under the names of the reference's options.

    The published checkpoints were trained with the values of the reference's model file (`PUBLISHED`), not with the
    defaults of its command line (`BARE`), which make a smaller network; so nothing has a default here.

    Parameters
    ----------
    img_size
        Voxels and frames of a clip: x, y, z, t.
    in_chans
        Channels of the image; 1.
    patch_size
        Voxels and frames that become one token; one frame.
    embed_dim
        Width of the first stage; it grows by ``c_multiplier`` a stage.
    depths
        Blocks of each stage.
    first_window_size, window_size
        Tokens scanned together (x, y, z, t): of the first stage, of the others.
    c_multiplier
        Factor of the width from stage to stage; 2.
    last_layer_full_MSA
        Whether the last stage's windows hold the whole volume and are never shifted.

    Raises
    ------
    WeightsError
        A value out of range, or a grid that patches or stages do not divide.
    """

    img_size: Four
    in_chans: int
    patch_size: Four
    embed_dim: int
    depths: tuple[int, ...]
    first_window_size: Four
    window_size: Four
    c_multiplier: int
    last_layer_full_MSA: bool  # noqa: N815  (the reference's name)

    def __post_init__(self) -> None:
        shapes = {f.name: getattr(self, f.name) for f in fields(self) if "Four" in str(f.type)}
        if not all(len(shape) == 4 for shape in shapes.values()):
            raise WeightsError(f"NeuroSTORM config: {', '.join(shapes)} must hold x, y, z, t.", FETCH)
        counts = [*self.depths, self.in_chans, self.embed_dim, *(n for shape in shapes.values() for n in shape)]
        last = 2 ** (len(self.depths) - 1)
        for ok, message in (
            (len(self.depths) > 0 and all(n >= 1 for n in counts), "every size must be at least 1"),
            (self.c_multiplier == 2, f"c_multiplier must be 2, found {self.c_multiplier}"),
            (self.patch_size[3] == 1, f"patches must hold one frame, found {self.patch_size[3]}"),
            (
                all(n % (p * last) == 0 for n, p in zip(self.img_size[:3], self.patch_size[:3], strict=True)),
                f"patches and {len(self.depths)} stages must divide the volume {self.img_size[:3]}",
            ),
        ):
            if not ok:
                raise WeightsError(f"NeuroSTORM config: {message}.", FETCH)

    @property
    def width(self) -> int:
        """Length of the encoder's vector: the width of the last stage."""
        return self.embed_dim << (len(self.depths) - 1)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of a frame along x, y, z."""
        x, y, z = (n // p for n, p in zip(self.img_size[:3], self.patch_size[:3], strict=True))
        return x, y, z

    @property
    def frames(self) -> int:
        """Most frames of a clip."""
        return self.img_size[3]

    def windows(self, stage: int) -> Four:
        """Return the nominal window of a stage, before it is shrunk to the grid."""
        if stage == len(self.depths) - 1 and self.last_layer_full_MSA:
            x, y, z = (n // 2**stage for n in self.grid)
            return x, y, z, self.window_size[3]
        return self.first_window_size if stage == 0 else self.window_size

    def to_json(self) -> Object:
        """Return the content of ``config.json``."""
        return {
            "model_type": MODEL_TYPE,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()},
        }

    @classmethod
    def from_json(cls, data: Any, source: str = "config.json") -> NeuroStormConfig:
        """Build a config from the content of a ``config.json``, or from the options a checkpoint was trained with.

        Raises
        ------
        WeightsError
            Another model's config, a field that is missing or of the wrong type; all such fields are named.
        """
        if not isinstance(data, Mapping):
            raise WeightsError(f"{source}: expected an object, found {type(data).__name__}.", FETCH)
        kind = data.get("model_type", MODEL_TYPE)
        if kind != MODEL_TYPE:
            raise WeightsError(f"{source}: model_type is {kind!r}, expected {MODEL_TYPE!r}.", FETCH)
        missing = [f.name for f in fields(cls) if f.name not in data]
        if missing:
            raise WeightsError(f"{source}: not a NeuroSTORM config; missing are {', '.join(missing)}.", FETCH)
        values: dict[str, Any] = {f.name: data[f.name] for f in fields(cls)}
        wrong = [f"{f.name} = {values[f.name]!r}" for f in fields(cls) if not _fits(str(f.type), values[f.name])]
        if wrong:
            raise WeightsError(f"{source}: fields of the wrong type: {', '.join(wrong)}.", FETCH)
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
        return cls(**plain)

    @classmethod
    def from_file(cls, path: Path) -> NeuroStormConfig:
        """Read a ``config.json``.

        Raises
        ------
        WeightsError
            It cannot be read, or as `from_json`.
        """
        try:
            return cls.from_json(read_json(path), str(path))
        except UnreadableError as error:
            raise WeightsError(f"NeuroSTORM config {error.message}", FETCH) from None


def _fits(kind: str, value: Any) -> bool:
    """Tell whether a value is of a field's kind; true and false are no numbers."""
    if kind in ("int", "bool"):
        return type(value).__name__ == kind
    return isinstance(value, list | tuple) and all(type(v) is int for v in value)


PUBLISHED = NeuroStormConfig(
    (96, 96, 96, CLIP_FRAMES),
    1,
    (6, 6, 6, 1),
    36,
    (2, 2, 6, 2),
    (4, 4, 4, 4),
    (4, 4, 4, 4),
    2,
    last_layer_full_MSA=True,
)
"""The reference's model file, and by their number of parameters its published checkpoints."""

BARE = NeuroStormConfig(
    (96, 96, 96, CLIP_FRAMES),
    1,
    (6, 6, 6, 1),
    24,
    (2, 2, 6, 2),
    (2, 2, 2, 2),
    (4, 4, 4, 4),
    2,
    last_layer_full_MSA=False,
)
"""What the reference's bare command line makes."""


CLOCK_SECONDS = 0.8
"""Seconds between frames in training (HCP's 0.72 and UK Biobank's 0.735 s brought to one clock)."""

_STEP_MM = 2.0
_CENTRE_MM = (1.0, -19.0, 17.0)
"""Of the training grid: what a 2 mm image of MNI152 becomes where 96 of its voxels are kept or padded an axis, be it
stored on FSL's grid (91 x 109 x 91) or on that of MNI152NLin2009cAsym (97 x 115 x 97); both come out the same."""


def clip_form(config: NeuroStormConfig) -> ClipForm:
    """Return the clips that an encoder reads: 2 mm, stored from right to left (LAS) as in training, 0.8 s.

    Encoders of another size than the published one see the same point of space in their middle, at a step that keeps
    the field of view.
    """
    x, y, z, frames = config.img_size
    steps = [_STEP_MM * PUBLISHED.img_size[0] / n for n in (x, y, z)]
    signs = (-1.0, 1.0, 1.0)
    rows = []
    for axis, (n, step, sign, centre) in enumerate(zip((x, y, z), steps, signs, _CENTRE_MM, strict=True)):
        row = [0.0, 0.0, 0.0, centre - sign * step * (n - 1) / 2]
        row[axis] = sign * step
        rows.append((row[0], row[1], row[2], row[3]))
    return ClipForm((x, y, z), (*rows, (0.0, 0.0, 0.0, 1.0)), CLOCK_SECONDS, frames)


def form_of(weights: Path) -> ClipForm:
    """Return the clips that the encoder in a folder reads.

    Raises
    ------
    WeightsError
        Its config cannot be read.
    """
    return clip_form(NeuroStormConfig.from_file(weights / "config.json"))


def parameter_shapes(config: NeuroStormConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of an encoder's state, in the order of the layers."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.fc.weight": (config.embed_dim, math.prod(config.patch_size) * config.in_chans),
        "patch_embed.fc.bias": (config.embed_dim,),
    }
    for i, depth in enumerate(config.depths):
        width, grid = config.embed_dim * 2**i, tuple(n // 2**i for n in config.grid)
        shapes[f"pos_embeds.{i}.pos_embed"] = (1, width, *grid, 1)
        shapes[f"pos_embeds.{i}.time_embed"] = (1, width, 1, 1, 1, config.frames)
        for j in range(depth):
            shapes |= {f"layers.{i}.blocks.{j}.{name}": shape for name, shape in block_shapes(width).items()}
        if i < len(config.depths) - 1:
            shapes |= {
                f"layers.{i}.downsample.reduction.weight": (2 * width, 8 * width),
                f"layers.{i}.downsample.norm.weight": (8 * width,),
                f"layers.{i}.downsample.norm.bias": (8 * width,),
            }
    return shapes


def block_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a block of that width."""
    inner, rank = EXPAND * width, math.ceil(width / 16)
    return {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "mamba.A_log": (inner, STATES),
        "mamba.D": (inner,),
        "mamba.in_proj.weight": (2 * inner, width),
        "mamba.conv1d.weight": (inner, 1, TAPS),
        "mamba.conv1d.bias": (inner,),
        "mamba.x_proj.weight": (rank + 2 * STATES, inner),
        "mamba.dt_proj.weight": (inner, rank),
        "mamba.dt_proj.bias": (inner,),
        "mamba.out_proj.weight": (width, inner),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.linear1.weight": (4 * width, width),
        "mlp.linear1.bias": (4 * width,),
        "mlp.linear2.weight": (width, 4 * width),
        "mlp.linear2.bias": (width,),
    }


def check_spec(spec: ModalitySpec, recipe: Recipe, weights: Path | None) -> None:
    """Check a recipe's entry; with the folder of weights also that the checkpoint is NeuroSTORM's.

    Raises
    ------
    RecipeError
        An option; it has none.
    MissingInputError
        The folder or a file in it is not there.
    WeightsError
        The config is not that of a checkpoint that fits.
    """
    del recipe
    if spec.options:
        raise RecipeError(f"recipe: neurostorm has no option {', '.join(sorted(spec.options))}; it takes none.")
    if weights is not None:
        weights_file(weights)
        NeuroStormConfig.from_file(weights / "config.json")


__all__ = [
    "BARE",
    "PUBLISHED",
    "NeuroStormConfig",
    "block_shapes",
    "check_spec",
    "clip_form",
    "form_of",
    "parameter_shapes",
]
