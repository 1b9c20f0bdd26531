"""Integrated gradients of a head: what in a person's scan and connectivity moved the score from a baseline's.

Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017. Gradients of the score are averaged
along the straight path from a baseline to the input, by Gauss-Legendre points, all modalities moving at once, and
multiplied by the difference of the two. The results add up to the difference of the scores (completeness); where
they miss it by more than `TOLERANCE`, the path is walked again with twice the points.

Series, volumes and connectivity are inputs of their own, as in FMM_TC, though all come from one recording: a parcel
can matter through its series or voxels (a frozen encoder and the head) and through its edges (the head alone). How an
input passes an encoder is a path, see `learning.paths`.

Cost at 424 parcels and 200 frames with an encoder of checkpoint-1400's size: 3.7 CPU seconds a point, hence 62 a
window with 16 points and the linear head, 69 with ResNet-18, and 270 and 410 MB at the peak beside the program.
Without a path the encoder's vector is an input of its own, whose part is known but which has no parcels; then a window
takes 0.04 and 7 CPU seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.load import TANGENT_MODALITY
from bids_fmmtc.learning.explaining.attribution import EDGES, SERIES, VOLUMES, Attribution
from bids_fmmtc.learning.explaining.paths import InputPath, Walk, tensor
from bids_fmmtc.learning.learners.inputs import score_of
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.modalities.numerics import strict
from bids_fmmtc.types import Float32, Float64

Module = TypeVar("Module", bound=nn.Module)

STEPS, MOST_STEPS = 16, 128
"""Points on the path to begin with, and at most. With 16, random encoders miss completeness by 1e-6 (checkpoint-1400's
size) to 1 % (32 wide), and a ResNet-18 trained on 40 people by 0.04 to 0.7 %."""
TOLERANCE = 0.01
"""Completeness error that is let be, as a share of what all modalities move together."""
LEAST_MOVE = 1e-3
"""Least move of the score that errors are divided by: below it they are rounding of float32."""
AGREEMENT = 1e-3
"""Largest difference between the encoder's cached vector and that of the inputs given, whose entries are of size 1."""


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """Attributions of one window, (1, *shape) float64 by modality, and what they should add up to.

    Those of a path are as it reduces them.
    """

    values: dict[str, Float64]
    moves: dict[str, Float64]
    score: float
    baseline_score: float
    alone: dict[str, float]
    steps: int

    @property
    def errors(self) -> dict[str, float]:
        """Modality and ``total`` -> absolute completeness error."""
        sums = {name: float(values.sum()) for name, values in self.values.items()}
        errors = {name: abs(sums[name] - self.alone[name]) for name in sums}
        return {**errors, "total": abs(sum(sums.values()) - (self.score - self.baseline_score))}

    @property
    def relative_errors(self) -> dict[str, float]:
        """`errors` divided by what all modalities move together."""
        scale = max(sum(map(abs, self.alone.values())), LEAST_MOVE)
        return {name: error / scale for name, error in self.errors.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Explainer:
    """Attributes the scores of one head.

    Parameters
    ----------
    head
        A head in evaluation mode. The sum of what its modalities add is its score, as with every head in
        `learning.head`: the completeness error of a single modality takes that for granted.
    baselines
        Modality -> (*shape) input of no information, for the modalities of the head; see `mean_features`. In tangent
        space it is a point of that space. An encoder's is not read where there is a path.
    tangent
        Reference that brings ``fc`` to tangent space, if the head reads it there.
    paths
        From what encoders read to their vectors; the vector of an encoder without one is an input of its own.
    steps, most_steps
        Points on the path to begin with, and the most that doubling them may reach.

    Notes
    -----
    The baseline of connectivity is the mean person of the training set rather than no connectivity, which no brain
    has and on which a network was never trained: attributions say what makes a person unlike the mean. In tangent
    space they are of its entries: the whitening mixes parcels, so an edge there is no edge of the brain alone.

    A parcel that is lost in a window starts where it ends, so that it gets nothing: its series are 0 all along, and
    its edges are kept at the person's own values in the baseline.
    """

    head: nn.Module
    baselines: Mapping[str, Float32]
    tangent: TangentReference | None = None
    paths: tuple[InputPath, ...] = ()
    steps: int = STEPS
    most_steps: int = MOST_STEPS

    def __post_init__(self) -> None:
        if self.head.training:
            raise ValueError("a head is explained in evaluation mode")
        for name in self.through:
            if name not in self.baselines:
                raise ValueError(f"the head does not read {name}, so it has no path")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")

    @property
    def through(self) -> dict[str, InputPath]:
        """Modality -> the path through its encoder, of those that have one."""
        return {path.encoder.name: path for path in self.paths}

    def explain(
        self,
        key: str,
        arrays: Mapping[str, Float32],
        inputs: Mapping[str, Sequence[Any]] | None = None,
        *,
        keep_time: bool = False,
    ) -> Attribution:
        """Attribute the mean score of a session's windows.

        Parameters
        ----------
        key
            The session's key.
        arrays
            Modality -> (W, *shape) features, as cached. W may be fewer than the session has: the first few.
        inputs
            Modality -> W windows of what its encoder saw, as its path wants them; needed for each of the `paths`.
        keep_time
            Keep the attribution (T, R) of the first window to parcel series.

        Raises
        ------
        DataError
            No window, features or inputs that do not fit the baselines or each other, or attributions that are not
            finite.
        """
        arrays = {name: np.asarray(arrays[name], np.float32) for name in self.baselines if name in arrays}
        inputs = inputs or {}
        self._check(key, arrays, inputs)
        windows = [
            self._window(
                key,
                {name: array[i] for name, array in arrays.items()},
                {name: path.walk(key, inputs[name][i], self._device) for name, path in self.through.items()},
            )
            for i in range(len(next(iter(arrays.values()))))
        ]
        return self._pooled(key, windows, keep_time=keep_time)

    def randomised(self, seed: int, *, encoder: bool = False) -> Explainer:
        """Return the explainer of the same head with random weights, for the sanity check; the original stays.

        Parameters
        ----------
        seed
            Of the weights.
        encoder
            Take encoders that were never trained, too, where there are paths.
        """
        paths = tuple(path.untrained(seed) for path in self.paths) if encoder else self.paths
        # A check of how maps look needs no completeness, which random encoders reach late if at all.
        return replace(self, head=randomised(self.head, seed), paths=paths, most_steps=self.steps)

    @property
    def _device(self) -> torch.device:
        return next(self.head.parameters()).device

    def _check(self, key: str, arrays: Mapping[str, Float32], inputs: Mapping[str, Sequence[Any]]) -> None:
        for name, baseline in self.baselines.items():
            found = arrays[name].shape[1:] if name in arrays else None
            if found != baseline.shape:
                raise DataError(f"{key}: {name} is of shape {found}, expected {baseline.shape}.")
        counts = {len(array) for array in arrays.values()}
        if lost := sorted(set(self.through) - set(inputs)):
            raise DataError(f"{key}: what {', '.join(lost)} reads is not given, and its path needs it.")
        if stray := sorted(set(inputs) - set(self.through)):
            raise ValueError(f"inputs of {', '.join(stray)} are given, but no path on which to attribute to them")
        counts |= {len(windows) for windows in inputs.values()}
        if len(counts) > 1 or counts == {0}:
            raise DataError(f"{key}: features and inputs hold {sorted(counts)} windows; expected one number above 0.")

    @strict()
    def _window(self, key: str, arrays: dict[str, Float32], walks: Mapping[str, Walk]) -> _Window:
        """Attribute one window, with more points until it is complete."""
        starts, ends = self._ends(arrays, walks)
        with torch.inference_mode():
            at_end, at_start = _features(ends, walks), _features(starts, walks)
            score, baseline_score = self._score(at_end), self._score(at_start)
            alone = {name: self._score({**at_start, name: at_end[name]}) - baseline_score for name in at_end}
        for name, path in self.through.items():
            if path.encoder.weights_sha256 is not None:
                _agree(key, at_end[name], arrays[name])
        moves = _reduced(
            {name: (ends[name] - starts[name]).cpu().numpy() for name in ends}, {n: w.sizes for n, w in walks.items()}
        )
        steps = self.steps
        while True:
            values = self._integrated(starts, ends, walks, steps)
            if not all(np.isfinite(value).all() for value in values.values()):
                raise DataError(f"{key}: attributions are not finite.")
            window = _Window(values, moves, score, baseline_score, alone, steps)
            if max(window.relative_errors.values()) <= TOLERANCE or steps >= self.most_steps:
                return window
            steps = min(2 * steps, self.most_steps)

    def _ends(
        self, arrays: dict[str, Float32], walks: Mapping[str, Walk]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the path's start and end, modality -> (1, *shape): of what an encoder reads, where it is walked."""
        starts, ends = {}, {}
        for name, own in arrays.items():
            start, end = np.array(self.baselines[name]), own
            if name in walks:
                start, end = walks[name].start, walks[name].end
            elif name == TANGENT_MODALITY:
                lost = ~(own - np.diag(np.diagonal(own))).any(axis=1)
                end = own if self.tangent is None else self.tangent.project(own)
                start[lost], start[:, lost] = end[lost], end[:, lost]
            starts[name], ends[name] = (tensor(a, self._device) for a in (start, end))
        return starts, ends

    def _score(self, features: Mapping[str, Tensor]) -> float:
        return float(score_of(self.head(features)))

    def _integrated(
        self, starts: dict[str, Tensor], ends: dict[str, Tensor], walks: Mapping[str, Walk], steps: int
    ) -> dict[str, Float64]:
        from captum.attr import IntegratedGradients  # noqa: PLC0415  (2 s)

        names = tuple(ends)

        def scores(*inputs: Tensor) -> Tensor:
            return score_of(self.head(_features(dict(zip(names, inputs, strict=True)), walks)))

        found = IntegratedGradients(scores).attribute(
            tuple(ends.values()),
            baselines=tuple(starts.values()),
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=1,  # one point at a time: memory stays flat
        )
        values = {name: value.detach().cpu().numpy() for name, value in zip(names, found, strict=True)}
        return _reduced(values, {name: walk.reduce for name, walk in walks.items()})

    def _pooled(self, key: str, windows: Sequence[_Window], *, keep_time: bool) -> Attribution:
        """Average windows; turn (1, R, T), (1, R + 1) and (1, R, R) into maps."""
        names = tuple(windows[0].values)
        mean = {name: np.mean([w.values[name][0] for w in windows], axis=0) for name in names}
        moves = {name: np.mean([np.abs(w.moves[name][0]) for w in windows], axis=0) for name in names}
        series, volumes = (
            [name for name, path in self.through.items() if path.map == which] for which in (SERIES, VOLUMES)
        )
        time = windows[0].values[series[0]][0].T.astype(np.float32) if keep_time and series else None
        inputs = {}
        if series:
            inputs[SERIES] = np.sum([moves[name].mean(axis=1) for name in series], axis=0)
        if volumes:
            inputs[VOLUMES] = np.sum([moves[name][:-1] for name in volumes], axis=0)
        if TANGENT_MODALITY in names:
            inputs[EDGES] = moves[TANGENT_MODALITY]
        return Attribution(
            key=key,
            score=float(np.mean([w.score for w in windows])),
            baseline_score=float(np.mean([w.baseline_score for w in windows])),
            parts={name: float(values.sum()) for name, values in mean.items()},
            absolute={name: float(np.mean([_absolute(name, w.values[name][0]) for w in windows])) for name in names},
            parcels=np.sum([mean[name].sum(axis=1) for name in series], axis=0) if series else None,
            parcels_time=time,
            volumes=np.sum([mean[name][:-1] for name in volumes], axis=0) if volumes else None,
            edges=_whole(mean[TANGENT_MODALITY]) if TANGENT_MODALITY in names else None,
            inputs=inputs,
            errors=_worst([w.errors for w in windows]),
            relative_errors=_worst([w.relative_errors for w in windows]),
            steps=max(w.steps for w in windows),
            windows=len(windows),
            baseline={name: self._text(name) for name in names},
        )

    def _text(self, name: str) -> str:
        if name in self.through:
            return self.through[name].text
        space = ", in tangent space, where an entry mixes parcels" if name == TANGENT_MODALITY and self.tangent else ""
        return f"mean {name} of the training set{space}"


def _reduced(
    values: Mapping[str, NDArray[np.float32]], how: Mapping[str, Callable[[Float32], Float64]]
) -> dict[str, Float64]:
    """Return float64 values, those of an encoder's input as its walk reduces them."""
    return {name: how[name](array) if name in how else array.astype(np.float64) for name, array in values.items()}


def _features(inputs: Mapping[str, Tensor], walks: Mapping[str, Walk]) -> dict[str, Tensor]:
    """Return what the head reads, of what is attributed to."""
    return {name: walks[name].vector(value) if name in walks else value for name, value in inputs.items()}


def mean_features(
    arrays: Mapping[str, Sequence[Float32]], tangent: TangentReference | None = None
) -> dict[str, Float32]:
    """Return the mean features of people, each person counting the same: the baselines of an `Explainer`.

    Parameters
    ----------
    arrays
        Modality -> N arrays (W_i, *shape) of the training rows.
    tangent
        Reference that brings ``fc`` to tangent space first, if the head reads it there.

    Returns
    -------
    Modality -> (*shape) float32.
    """
    means = {}
    for name, people in arrays.items():
        project = tangent.project if tangent is not None and name == TANGENT_MODALITY else None
        each = [(a if project is None else project(a)).mean(axis=0, dtype=np.float64) for a in people]
        means[name] = np.mean(each, axis=0).astype(np.float32)
    return means


def randomised(module: Module, seed: int) -> Module:
    """Return a copy whose parameters are random: normal, each tensor with the mean and spread that it had.

    Running statistics of batch normalisation and other buffers stay.
    """
    copy = deepcopy(module)
    rng = np.random.default_rng([seed, 0])
    with torch.no_grad():
        for parameter in copy.parameters():
            old = parameter.detach().cpu().numpy().astype(np.float64)
            parameter.copy_(torch.from_numpy(rng.normal(old.mean(), old.std(), old.shape).astype(np.float32)))
    return copy


def _agree(key: str, found: Tensor, cached: Float32) -> None:
    """Raise DataError if inputs do not give the vector that the features hold."""
    off = float(np.abs(found[0].cpu().numpy() - cached).max())
    if not off <= AGREEMENT:
        raise DataError(
            f"{key}: the inputs give an encoder vector that differs from the cached one by {off:.2g} "
            f"(at most {AGREEMENT:g}).",
            "Use inputs and features of one recipe, encoder and window.",
        )


def _whole(values: Float64) -> Float64:
    """Add up the two entries (i, j) and (j, i) of each edge; the diagonal stays."""
    both = values + values.T
    np.fill_diagonal(both, np.diagonal(values))
    return both


def _absolute(name: str, values: Float64) -> float:
    """Sum absolute attributions, each edge once."""
    return float(np.abs(values if name != TANGENT_MODALITY else np.triu(_whole(values))).sum())


def _worst(errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: max(e[name] for e in errors) for name in errors[0]}
