"""Heads learnt by epochs: FMM_TC's own from scratch, and any given head adapted to another cohort.

As published where that is sound (arXiv 2503.00210): features of a frozen encoder, which is never run here; ResNet-18
over connectivity; AdamW at 5e-4 with weight decay 0.01; a cosine over 100 epochs down to 1e-7; batches of 8; one
window of each session an epoch. Otherwise than published: gradients are zeroed before every step, both classes weigh
the same, the number of epochs is chosen on an inner validation part, and a score is the mean over all windows.

A finished path or fit is a piece of the ledger; one under way leaves a checkpoint there, and goes on from it after a
kill to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.head import FusionHead, build_head
from bids_fmmtc.learning.bundle.load import TANGENT_MODALITY
from bids_fmmtc.learning.bundle.predict import filled_head
from bids_fmmtc.learning.folds import rng_of
from bids_fmmtc.learning.learner import HeadParts
from bids_fmmtc.learning.learners.epochs import Goal, Trainer, TrainingOptions, shift_outputs
from bids_fmmtc.learning.learners.fitted import FittedNetwork, own_state, packed, unpacked
from bids_fmmtc.learning.learners.inputs import Inputs, session_scores
from bids_fmmtc.learning.ledger import Ledger
from bids_fmmtc.learning.progress import Progress
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.results.evaluation import Setting
from bids_fmmtc.types import Cohort, Float64, Rows

CHECKPOINT_SECONDS = 10.0
"""Least time between two checkpoints."""


class Surroundings(Protocol):
    """Where and how to compute; `contestants.Setup` is one."""

    @property
    def tangent(self) -> bool:
        """Whether ``fc`` holds covariances, to be projected by a reference fitted on training windows."""

    @property
    def seed(self) -> int:
        """Seed of all draws."""

    @property
    def ledger(self) -> Ledger:
        """Where pieces are kept."""

    @property
    def device(self) -> str:
        """Name of the torch device."""

    @property
    def say(self) -> Callable[[str], None]:
        """Takes lines on how long the rest will take."""


class EpochLearner(ABC):
    """Learns by epochs, which are its settings; the two ways of doing so are below. Fulfils `learner.Learner`.

    Parameters
    ----------
    cohort
        Features, and the kind of outcome; its outcomes are not read.
    inputs
        The cohort's features as the head reads them, before any projection that is yet to be fitted.
    options, setup
        How, and where.
    least
        Epochs of the first setting: 1, or 0 where there is a head to begin with.
    """

    def __init__(
        self, cohort: Cohort, inputs: Inputs, options: TrainingOptions, setup: Surroundings, least: int
    ) -> None:
        self.cohort, self.options, self.setup, self._least = cohort, options, setup, least
        self._inputs, self._features = inputs, inputs.digest()
        self.choices = options.epochs + 1 - least
        self.progress = Progress(setup.say)

    def plan(self, runs: int) -> None:
        """Say how many paths and fits lie ahead, so that the time left can be estimated."""
        self.progress.plan(runs * self.options.epochs)

    def path(self, y: Float64, train: Rows, rows: Rows, name: str) -> Float64:
        """Return (E, len(rows)) scores of ``rows`` after each number of epochs; see `learner.Learner`.

        Stops after ``patience`` epochs without a smaller loss on ``rows``, whose outcomes serve for nothing else.

        Raises
        ------
        DataError
            Outcomes of the training rows that do not differ, or a loss that is not finite.
        """
        piece = self._piece("path", name, y, train, rows)
        found = self.setup.ledger.get(piece)
        if found is None:
            _, lines = self._trained(partial(self._trainer, y, train, name), piece, self.options.epochs, rows)
            found = {"scores": np.stack(lines)}
            self._keep(piece, found)
        else:
            self.progress.skip(self.options.epochs)
        return np.asarray(found["scores"], dtype=np.float64)

    def fit(self, y: Float64, train: Rows, choice: int, name: str) -> FittedNetwork:
        """Return the head after the epochs of a setting on all training rows; raises as `path`."""
        epochs = choice + self._least
        piece = self._piece(f"fit {epochs}", name, y, train, np.arange(0))
        found = self.setup.ledger.get(piece)
        if found is None:
            trainer, _ = self._trained(partial(self._trainer, y, train, name), piece, epochs, None)
            found = packed(self._parts(trainer))
            self._keep(piece, found)
            self.progress.skip(self.options.epochs - epochs)
        else:
            self.progress.skip(self.options.epochs)
        spec, shapes = self._spec()
        return FittedNetwork(unpacked(spec, shapes, found), self.cohort, self.setup.device)

    def describe(self, choice: int) -> Setting:
        """Return the number of epochs, and the edge where it is all that were allowed."""
        return Setting(epochs=choice + self._least, edge="most" if choice + 1 == self.choices else None)

    @abstractmethod
    def _spec(self) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
        """Return spec and shapes of the head."""

    @abstractmethod
    def _trainer(self, y: Float64, train: Rows, name: str) -> Trainer:
        """Return a head before its first epoch."""

    @abstractmethod
    def _parts(self, trainer: Trainer) -> HeadParts:
        """Return the head as it stands, with outputs in units of the outcome."""

    def _start_digest(self) -> bytes:
        """Return what tells apart the weights that training starts from; fresh ones follow from seed and name."""
        return b""

    def _piece(self, what: str, name: str, y: Float64, train: Rows, rows: Rows) -> str:
        """Name a piece by everything that decides it, so that no other is ever taken for it."""
        spec, shapes = self._spec()
        facts = [asdict(self.options), spec, {k: list(v) for k, v in shapes.items()}, self.setup.seed]
        told = json.dumps([*facts, self.setup.tangent, self.setup.device, self._features], default=dict)
        digest = hashlib.sha256(told.encode() + self._start_digest())
        for numbers in (train, rows):
            digest.update(np.asarray([len(numbers), *numbers], dtype=np.int64).tobytes())
            digest.update(np.asarray(y[numbers], dtype=np.float64).tobytes())
        return f"{type(self).__name__} {what} {name} {digest.hexdigest()}"

    def _keep(self, piece: str, found: Mapping[str, NDArray[Any]]) -> None:
        self.setup.ledger.put(piece, found)
        self.setup.ledger.forget(checkpoint_of(piece))

    def _trained(
        self, fresh: Callable[[], Trainer], piece: str, epochs: int, rows: Rows | None
    ) -> tuple[Trainer, list[Float64]]:
        """Train up to so many epochs, or until it idles; return the scores of ``rows`` along the way, too."""
        ledger, saved = self.setup.ledger, time.monotonic()
        trainer, lines = self._resumed(fresh, ledger.get(checkpoint_of(piece)), rows)
        if rows is not None and not lines and self._least == 0:
            lines.append(trainer.scores(rows))
        self.progress.skip(trainer.epochs)
        self.progress.start(epochs - trainer.epochs)
        while trainer.epochs < epochs and not (rows is not None and self._idles(trainer.goal, lines, rows)):
            trainer.epoch()
            if rows is not None:
                lines.append(trainer.scores(rows))
            self.progress.epoch()
            if time.monotonic() - saved >= CHECKPOINT_SECONDS and trainer.epochs < epochs:
                ledger.put(checkpoint_of(piece), trainer.arrays() | {"scores": np.array(lines)})
                saved = time.monotonic()
        self.progress.skip(epochs - trainer.epochs)
        return trainer, lines

    def _idles(self, goal: Goal, lines: list[Float64], rows: Rows) -> bool:
        losses = [goal.loss(line, rows) for line in lines]
        return len(losses) > 0 and len(losses) - 1 - int(np.argmin(losses)) >= self.options.patience

    def _resumed(
        self, fresh: Callable[[], Trainer], kept: Mapping[str, NDArray[Any]] | None, rows: Rows | None
    ) -> tuple[Trainer, list[Float64]]:
        """Return a head as a checkpoint left it and the scores so far, or a fresh one where it does not fit."""
        trainer = fresh()
        if kept is None:
            return trainer, []
        try:
            trainer.restore(kept)
            expected = (0,) if rows is None else (trainer.epochs + 1 - self._least, len(rows))
            if kept["scores"].shape != expected:
                raise ValueError(f"scores are {expected}, found {kept['scores'].shape}")
        except (KeyError, ValueError, RuntimeError):
            return fresh(), []  # it may have been put back in part
        return trainer, list(kept["scores"])


def checkpoint_of(piece: str) -> str:
    """Return the name under which a piece is kept while it is under way."""
    return f"checkpoint of {piece}"


def fresh_head(spec: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> nn.Module:
    """Build a head with random weights that depend on ``rng`` alone; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        return build_head(spec, shapes)


class NetworkLearner(EpochLearner):
    """FMM_TC's head from fresh weights: vectors as they are, connectivity through a ResNet-18, one linear layer.

    Parameters
    ----------
    cohort
        Features to learn from, and the kind of outcome.
    blocks
        Modalities in the order of concatenation: vectors (H,) or matrices (R, R).
    options, setup
        How, and where.

    Raises
    ------
    DataError
        The cohort lacks a modality.
    """

    def __init__(self, cohort: Cohort, blocks: tuple[str, ...], options: TrainingOptions, setup: Surroundings) -> None:
        if lacking := [name for name in blocks if name not in cohort.arrays]:
            raise DataError(f"the cohort holds no features {', '.join(lacking)}; it holds {', '.join(cohort.arrays)}.")
        self._shapes = {name: tuple(cohort.arrays[name][0].shape[1:]) for name in blocks}
        super().__init__(cohort, Inputs(cohort, self._shapes, None, setup.device), options, setup, least=1)

    def _spec(self) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
        branches = {
            name: {"branch": "identity"} if len(shape) == 1 else {"branch": "resnet18", **self.options.resnet}
            for name, shape in self._shapes.items()
        }
        outputs = 2 if self.cohort.kind == "classification" else 1
        return {"kind": "fmmtc", "outputs": outputs, "branches": branches}, self._shapes

    def _trainer(self, y: Float64, train: Rows, name: str) -> Trainer:
        setup, inputs = self.setup, self._inputs
        if setup.tangent and TANGENT_MODALITY in self._shapes:
            windows = np.concatenate([self.cohort.arrays[TANGENT_MODALITY][i] for i in train])
            inputs = Inputs(self.cohort, self._shapes, TangentReference.fit(windows), setup.device)
        goal = Goal.of(self.cohort.kind, y, train)
        head = fresh_head(*self._spec(), rng_of(setup.seed, name, "start"))
        return Trainer(head.to(setup.device), inputs, goal, self.options, setup.seed, name, given=False)

    def _parts(self, trainer: Trainer) -> HeadParts:
        spec, shapes = self._spec()
        head, goal = trainer.head, trainer.goal
        if isinstance(head, FusionHead):
            with torch.no_grad():
                # Standardised outcomes are turned back by the linear layer itself; 1 and 0 in classification.
                head.classifier.weight.mul_(goal.spread)
                head.classifier.bias.mul_(goal.spread).add_(goal.centre)
        return HeadParts(spec, shapes, own_state(head), trainer.inputs.tangent)


class AdaptedLearner(EpochLearner):
    """A given head, of any kind, adapted to another cohort.

    Its setting 0 is the head as it was but for its level, which is brought to that of the training rows before any
    epoch. Nothing but weights moves: the tangent reference and the statistics of batch normalisation stay, since the
    weights were learnt for them. See `epochs.RelativeSteps` for how they move.

    Parameters
    ----------
    parts
        The head to start from.
    cohort
        Features of the other cohort, and the kind of outcome.
    options, setup
        How, and where; ``setup.tangent`` is not needed.
    """

    def __init__(self, parts: HeadParts, cohort: Cohort, options: TrainingOptions, setup: Surroundings) -> None:
        super().__init__(cohort, Inputs(cohort, parts.shapes, parts.tangent, setup.device), options, setup, least=0)
        self._start = parts
        digest = hashlib.sha256()
        for name, array in packed(parts).items():
            digest.update(name.encode() + array.tobytes())
        self._digest = digest.digest()

    def _spec(self) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
        return self._start.spec, self._start.shapes

    def _start_digest(self) -> bytes:
        return self._digest

    def _trainer(self, y: Float64, train: Rows, name: str) -> Trainer:
        goal = Goal.of(self.cohort.kind, y, train)
        # Of their own, for they are changed in place.
        state = {key: tensor.detach().clone() for key, tensor in self._start.state.items()}
        head = filled_head(self._start.spec, self._start.shapes, state).to(self.setup.device)
        # Of all that may differ between cohorts the level is known best, and would else drive every weight.
        shift_outputs(head, goal.shift(session_scores(head, self._inputs, train)))
        return Trainer(head, self._inputs, goal, self.options, self.setup.seed, name, given=True)

    def _parts(self, trainer: Trainer) -> HeadParts:
        return HeadParts(self._start.spec, self._start.shapes, own_state(trainer.head), self._start.tangent)
