"""Trainable heads: one branch per modality, joined by a linear layer (FMM_TC, arXiv 2503.00210).

A head is described by plain data, for example::

    {"kind": "fmmtc", "outputs": 2,
     "branches": {"brainlm": {"branch": "identity"}, "fc": {"branch": "resnet18", "width": 256}}}

The order of ``branches`` is the order of concatenation. The other head is linear in the features as they are::

    {"kind": "linear", "outputs": 2, "modalities": ["brainlm", "fc"]}

A new branch is one class and one line in `BRANCHES`, a new head one builder and one line in `HEADS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bids_fmmtc.errors import BundleError

Shape = tuple[int, ...]
Spec = Mapping[str, Any]
T = TypeVar("T")


class Branch(nn.Module):
    """Turns one modality's array (B, *shape) into (B, width).

    Parameters
    ----------
    shape
        Shape of one window's array.
    options
        The branch's entry in the head's spec, without ``branch``.

    Raises
    ------
    BundleError
        An unknown option, a value out of range, or a shape the branch cannot take.
    """

    width: int

    def __init__(self, shape: Shape, options: Spec) -> None:
        super().__init__()
        del shape, options


class Identity(Branch):
    """Passes a vector (B, H) on: the CLS vector of a frozen encoder."""

    def __init__(self, shape: Shape, options: Spec) -> None:
        super().__init__(shape, options)
        _options(options, {}, "branch identity")
        if len(shape) != 1:
            raise BundleError(f"branch identity takes vectors, found arrays of shape {shape}.")
        self.width = shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, H)."""
        return x


class ResNet18(Branch):
    """ResNet-18 over a connectivity matrix (B, R, R), average-pooled, then linear to ``width``.

    FMM_TC copies the matrix to three channels; since they are equal, one channel with conv1 summed over its inputs
    computes the same, and is the default here. ``channels`` 3 takes weights of the published layout. Options:
    ``width`` 256, ``channels`` 1, ``embedding_size`` 64, ``hidden_sizes`` (64, 128, 256, 512), ``depths`` (2, 2, 2, 2).
    """

    DEFAULTS: ClassVar[Spec] = {
        "width": 256,
        "channels": 1,
        "embedding_size": 64,
        "hidden_sizes": (64, 128, 256, 512),
        "depths": (2, 2, 2, 2),
    }

    def __init__(self, shape: Shape, options: Spec) -> None:
        super().__init__(shape, options)
        from transformers.models.resnet import ResNetConfig, ResNetModel  # noqa: PLC0415  (4 s)

        chosen = _options(options, self.DEFAULTS, "branch resnet18")
        sizes, depths = list(chosen["hidden_sizes"]), list(chosen["depths"])
        if len(sizes) != len(depths):
            raise BundleError(f"branch resnet18: {len(sizes)} hidden_sizes but {len(depths)} depths.")
        if len(shape) != 2:
            raise BundleError(f"branch resnet18 takes matrices, found arrays of shape {shape}.")
        self.width, self.channels = chosen["width"], chosen["channels"]
        self.body = ResNetModel(
            ResNetConfig(
                num_channels=self.channels,
                embedding_size=chosen["embedding_size"],
                hidden_sizes=sizes,
                depths=depths,
                layer_type="basic",
                downsample_in_first_stage=False,
            )
        )
        self.projection = nn.Linear(sizes[-1], self.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width) of matrices x (B, R, R)."""
        image = x.unsqueeze(1).expand(-1, self.channels, -1, -1)  # (B, C, R, R)
        pooled = self.body(image).pooler_output  # (B, last, 1, 1)
        projected: Tensor = self.projection(pooled.flatten(1))
        return projected


BRANCHES: dict[str, Callable[[Shape, Spec], Branch]] = {"identity": Identity, "resnet18": ResNet18}


class FusionHead(nn.Module):
    """Branches side by side, concatenated in the order of the spec, then one linear layer to the logits.

    Parameters
    ----------
    spec
        ``kind``, ``branches`` (modality -> ``branch`` and its options) and ``outputs``.
    shapes
        Modality -> shape of one window's array; the modalities of ``branches``, in any order.

    Raises
    ------
    BundleError
        An unknown branch or option, or modalities that differ from ``branches``.
    """

    def __init__(self, spec: Spec, shapes: Mapping[str, Shape]) -> None:
        super().__init__()
        unknown = sorted(set(spec) - {"kind", "branches", "outputs"})
        branches, outputs = spec.get("branches"), spec.get("outputs", 2)
        if unknown or not isinstance(branches, Mapping) or not branches or not _positive(outputs):
            raise BundleError("head: expected kind, branches (not empty) and outputs (1 or more).")
        if set(branches) != set(shapes):
            raise BundleError(f"head: branches for {', '.join(branches)}, but modalities are {', '.join(shapes)}.")
        built: dict[str, Branch] = {name: _branch(entry, shapes[name]) for name, entry in branches.items()}
        self.order = tuple(built)
        self.branches = nn.ModuleDict(built)
        self.classifier = nn.Linear(sum(branch.width for branch in built.values()), outputs)

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Return logits (B, outputs) for modality -> (B, *shape)."""
        joined = torch.cat([self.branches[name](arrays[name]) for name in self.order], dim=1)
        logits: Tensor = self.classifier(joined)
        return logits


class LinearHead(nn.Module):
    """One weight for every number of every modality, and a bias: what `learning.linear` learns.

    Connectivity enters whole, each edge twice, so its weights are symmetric with half of an edge's weight on either
    side, and 0 on the diagonal. Products are summed in float64: connectivity holds 180,000 of them, which may nearly
    cancel.

    Parameters
    ----------
    spec
        ``kind``, ``modalities`` (a list of names) and ``outputs``: 2 for classes, whose logits are -z / 2 and z / 2
        for the weighted sum z, or 1 for a number, which is z.
    shapes
        Modality -> shape of one window's array; the modalities of ``modalities``, in any order.

    Raises
    ------
    BundleError
        A field that is unknown, missing or out of range, or modalities that differ from ``modalities``.
    """

    def __init__(self, spec: Spec, shapes: Mapping[str, Shape]) -> None:
        super().__init__()
        modalities, outputs = spec.get("modalities"), spec.get("outputs")
        names = modalities if isinstance(modalities, list | tuple) else ()
        counted = outputs in (1, 2) and outputs is not True
        if set(spec) != {"kind", "modalities", "outputs"} or not names or not counted:
            raise BundleError("head linear: expected kind, modalities (a list, not empty) and outputs (1 or 2).")
        if sorted(map(str, names)) != sorted(shapes):
            raise BundleError(f"head: modalities {', '.join(map(str, names))}, expected {', '.join(shapes)}.")
        self.order, self.outputs = tuple(names), outputs
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.zeros(tuple(shapes[name]))) for name in self.order})
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Return logits (B, 2), or predicted outcomes (B, 1), for modality -> (B, *shape)."""
        z = self.bias.double()
        for name in self.order:
            z = z + (arrays[name].double() * self.weights[name].double()).flatten(1).sum(dim=1)
        logits = z[:, None] if self.outputs == 1 else torch.stack([-z / 2, z / 2], dim=1)
        return logits.to(self.bias.dtype)


HEADS: dict[str, Callable[[Spec, Mapping[str, Shape]], nn.Module]] = {"fmmtc": FusionHead, "linear": LinearHead}


def build_head(spec: Spec, shapes: Mapping[str, Shape]) -> nn.Module:
    """Build the head a spec describes, with fresh weights.

    Raises
    ------
    BundleError
        Unknown head, branch or option, or shapes that do not fit.
    """
    return _named(HEADS, spec.get("kind"), "head")(spec, shapes)


def _branch(entry: Any, shape: Shape) -> Branch:
    if not isinstance(entry, Mapping):
        raise BundleError(f"head: a branch is an object, found {entry!r}.")
    options = {name: value for name, value in entry.items() if name != "branch"}
    return _named(BRANCHES, entry.get("branch"), "branch")(tuple(shape), options)


def _named(table: Mapping[str, T], name: Any, what: str) -> T:
    if not isinstance(name, str) or name not in table:
        raise BundleError(f"no {what} {name!r}; known are {', '.join(sorted(table))}.")
    return table[name]


def _options(given: Spec, defaults: Spec, where: str) -> dict[str, Any]:
    """Return defaults updated by options of the same kind: a positive integer or a list of them."""
    for name, value in given.items():
        if name not in defaults:
            raise BundleError(f"{where}: unknown option {name!r}; known are {', '.join(defaults) or 'none'}.")
        many = isinstance(defaults[name], tuple)
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        if many != listed or not all(map(_positive, value if listed else (value,))) or (listed and not value):
            expected = "a list of positive integers" if many else "a positive integer"
            raise BundleError(f"{where}: {name} must be {expected}, found {value!r}.")
    return {**defaults, **given}


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
