"""Training by epochs: what a head is trained towards, how its weights step, and what an epoch is.

Repeatable to the bit on one kind of processor with one number of threads: every draw comes from a generator that is
seeded by the name of the work and the number of the epoch, so neither history nor a restart changes it. Another
number of torch threads sums in another order and ends at other bits (seen at 12 and 424 parcels).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.folds import rng_of
from bids_fmmtc.learning.learners.fitted import arrays_of, state_of
from bids_fmmtc.learning.learners.inputs import Inputs, score_of, session_scores
from bids_fmmtc.modalities.numerics import strict
from bids_fmmtc.types import Float64, OutcomeKind, Rows

FINAL_RATE = 1e-7
"""Learning rate at the end of the cosine schedule, as published."""
_STEPS = "steps/"


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How heads are trained; the defaults are those of FMM_TC (arXiv 2503.00210) where it states any.

    Parameters
    ----------
    epochs
        Length of the cosine schedule, and the most epochs that are trained.
    batch
        Sessions a step, 2 or more: batch normalisation needs two.
    rate, weight_decay
        Of AdamW.
    adapting_rate
        Of `RelativeSteps`, when a given head is adapted: norm of a step in norms of the weights it moves.
    patience
        Epochs without improvement on the inner validation part before training stops early.
    resnet
        Options of the connectivity branch, see `head.ResNet18`; the published widths where left out.
    """

    epochs: int = 100
    batch: int = 8
    rate: float = 5e-4
    weight_decay: float = 0.01
    adapting_rate: float = 0.02
    patience: int = 20
    resnet: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.patience < 1:
            raise ValueError("epochs and patience are at least 1, and a batch holds at least 2")

    def rate_at(self, epoch: int, first: float) -> float:
        """Return the learning rate of an epoch, counted from 0: a cosine from ``first`` to `FINAL_RATE`."""
        return FINAL_RATE + (first - FINAL_RATE) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """What a head is trained towards, estimated on its training rows.

    Classification: cross-entropy, each row weighted so that both classes count the same. Regression: squared error in
    standard deviations of the training rows.

    Parameters
    ----------
    kind
        Of the outcome.
    y
        (N,) outcomes; only those of rows that are asked for are read.
    train
        Row numbers.
    weights
        Weight of a non-responder and of a responder; 1 on average over the training rows.
    centre, spread
        Mean and standard deviation of the training rows' outcomes, 0 and 1 in classification.
    """

    kind: OutcomeKind
    y: Float64
    train: Rows
    weights: tuple[float, float]
    centre: float
    spread: float

    @classmethod
    def of(cls, kind: OutcomeKind, y: Float64, train: Rows) -> Goal:
        """Estimate weights, centre and spread.

        Raises
        ------
        DataError
            Fewer than two training rows, or outcomes that do not differ.
        """
        seen = y[train]
        if len(seen) < 2 or seen.min() == seen.max():
            raise DataError(
                f"outcomes of the {len(seen)} training rows must differ to be learnt from, found {np.unique(seen)}.",
                "Use fewer folds, or an outcome that is spread over people and sites.",
            )
        if kind == "regression":
            return cls(kind, y, train, (1.0, 1.0), float(seen.mean()), float(seen.std()))
        ones = float(seen.sum())
        n = len(seen)
        return cls(kind, y, train, (n / (2 * (n - ones)), n / (2 * ones)), 0.0, 1.0)

    def training_loss(self, scores: Tensor, rows: Rows, *, standard: bool) -> Tensor:
        """Return the mean loss of a batch; in regression ``standard`` tells that scores are standardised already."""
        y = torch.tensor(self.y[rows], dtype=torch.float32, device=scores.device)
        if self.kind == "regression":
            given = scores if standard else (scores - self.centre) / self.spread
            return nn.functional.mse_loss(given, (y - self.centre) / self.spread)
        weights = torch.where(y == 1, self.weights[1], self.weights[0])
        return nn.functional.binary_cross_entropy_with_logits(scores, y, weight=weights)

    def shift(self, scores: Float64) -> float:
        """Return what to add to (n,) session scores of the training rows for the least loss."""
        y = self.y[self.train]
        if self.kind == "regression":
            return float(np.mean(y - scores))
        weights = np.where(y == 1, self.weights[1], self.weights[0])
        # The slope of the loss rises with the shift; at 40 beyond the scores it has the sign of either class.
        low, high = -40.0 - float(scores.max()), 40.0 - float(scores.min())
        for _ in range(60):
            middle = (low + high) / 2
            above = float(np.sum(weights * (1 / (1 + np.exp(-scores - middle)) - y))) > 0
            low, high = (low, middle) if above else (middle, high)
        return (low + high) / 2

    def loss(self, scores: Float64, rows: Rows) -> float:
        """Return the same loss of (n,) session scores of other rows."""
        y = self.y[rows]
        if self.kind == "regression":
            return float(np.mean(((scores - y) / self.spread) ** 2))
        responder = y == 1
        each = np.logaddexp(0, np.where(responder, -scores, scores))
        return float(np.mean(each * np.where(responder, self.weights[1], self.weights[0])))


class RelativeSteps(torch.optim.Optimizer):
    """Steps for adapting a given head: each against its gradient, by a share of the norm of the weights it moves.

    AdamW moves every weight alike. That suits fresh weights of one scale; a linear head with 90,000 small weights it
    would throw off at the first step. Here a step of a tensor has the norm lr x unit, whatever the scale of weights
    and gradients (You, Gitman and Ginsburg 2017, arXiv 1708.03888, without momentum), and lr x (weights - start) is
    taken back at each step (L2-SP: Li, Grandvalet and Davoine 2018, arXiv 1802.01483), so that no tensor ever gets
    farther from its start than one unit.

    Parameters
    ----------
    parameters
        Weights to move.
    lr
        See above.
    units
        One per tensor; by default the norm of its starting values.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, units: Mapping[Tensor, float]) -> None:
        super().__init__(parameters, {"lr": lr})
        for group in self.param_groups:
            for p in group["params"]:
                start = p.detach().clone()
                unit = torch.full((), units[p], device=p.device) if p in units else torch.linalg.vector_norm(start)
                self.state[p] = {"start": start, "unit": unit}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        del closure
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                own = self.state[p]
                size = torch.linalg.vector_norm(p.grad).clamp_min(torch.finfo(p.dtype).tiny)
                p.sub_(group["lr"] * (p.grad * (own["unit"] / size) + (p - own["start"])))


class Trainer:
    """A head on its way through epochs; the head may be read between any two.

    Parameters
    ----------
    head
        The weights to start from.
    inputs, goal
        What it reads, and what it is trained towards.
    options
        Of the training.
    seed, name
        Of the draws.
    given
        None: a fresh head is trained by AdamW, outputs standardised in regression. True: a trained one is adapted by
        `RelativeSteps`, outputs in units of the outcome, and batch normalisation keeps the statistics and so the
        function that it has: those of a few batches of a few people would be worse.
    """

    def __init__(
        self,
        head: nn.Module,
        inputs: Inputs,
        goal: Goal,
        options: TrainingOptions,
        seed: int,
        name: str,
        *,
        given: bool,
    ) -> None:
        self.head, self.inputs, self.goal, self.options = head, inputs, goal, options
        self._seed, self._name, self._given = seed, name, given
        self._first = options.adapting_rate if given else options.rate
        self.steps: torch.optim.Optimizer
        if given:
            # The norm of an intercept says nothing: its unit is 1 log-odds, or the spread of the outcome.
            self.steps = RelativeSteps(head.parameters(), self._first, {intercept_of(head): goal.spread})
        else:
            self.steps = torch.optim.AdamW(head.parameters(), lr=self._first, weight_decay=options.weight_decay)
        self.epochs = 0

    @strict()
    def epoch(self) -> None:
        """Train one epoch: one window of each training row, in batches.

        Raises
        ------
        DataError
            The loss, a weight or a statistic of batch normalisation is not finite.
        """
        rng = rng_of(self._seed, self._name, self.epochs)
        for group in self.steps.param_groups:
            group["lr"] = self.options.rate_at(self.epochs, self._first)
        self.head.train(not self._given)
        train, total = self.goal.train, 0.0
        share = rng.random(len(train))  # as many draws whatever the numbers of windows
        for part in batches(rng.permutation(len(train)), self.options.batch):
            rows = train[part]
            windows = [int(u * self.inputs.windows(int(row))) for u, row in zip(share[part], rows, strict=True)]
            self.steps.zero_grad()
            scores = score_of(self.head(self.inputs.take(rows, windows)))
            loss = self.goal.training_loss(scores, rows, standard=not self._given)
            loss.backward()  # type: ignore[no-untyped-call]
            self.steps.step()
            total += float(loss.detach())
        # A variance that overflows makes batch normalisation return 0, and so a loss like any other.
        if not (math.isfinite(total) and all(bool(t.isfinite().all()) for t in self.head.state_dict().values())):
            raise DataError(
                f"training {self._name}: loss or weights are not finite after epoch {self.epochs + 1}.",
                "Look for extreme values in the features.",
            )
        self.epochs += 1

    def scores(self, rows: Rows) -> Float64:
        """Return (n,) scores of rows as the head stands now, in units of the outcome."""
        raw = session_scores(self.head, self.inputs, rows)
        return raw if self._given else raw * self.goal.spread + self.goal.centre

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that `restore` needs, as named arrays."""
        kept = {"epochs": np.array(self.epochs)} | arrays_of(self.head.state_dict())
        for number, values in self.steps.state_dict()["state"].items():
            kept |= {f"{_STEPS}{number}/{key}": value.cpu().numpy() for key, value in values.items()}
        return kept

    def restore(self, kept: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `arrays` was taken; KeyError, ValueError or RuntimeError for arrays of another training."""
        self.head.load_state_dict(state_of(kept))
        state: dict[int, dict[str, Tensor]] = {}
        for name in (n for n in kept if n.startswith(_STEPS)):
            number, key = name.removeprefix(_STEPS).split("/")
            state.setdefault(int(number), {})[key] = torch.tensor(kept[name])
        expected = {"start", "unit"} if self._given else {"step", "exp_avg", "exp_avg_sq"}
        if len(state) != len(list(self.head.parameters())) or any(set(own) != expected for own in state.values()):
            raise ValueError("what the steps remember does not belong to this training")
        self.steps.load_state_dict({"state": state, "param_groups": self.steps.state_dict()["param_groups"]})
        self.epochs = int(kept["epochs"])


def intercept_of(head: nn.Module) -> nn.Parameter:
    """Return the intercept of the outputs, (1,) or (2,): ``classifier.bias`` of `FusionHead`, ``bias`` of `LinearHead`.

    Raises
    ------
    ValueError
        The head has none.
    """
    for name, parameter in head.named_parameters():
        if name in ("classifier.bias", "bias"):
            return parameter
    raise ValueError(f"{type(head).__name__} has no intercept")


def shift_outputs(head: nn.Module, by: float) -> None:
    """Add a number to the scores of a head."""
    with torch.no_grad():
        intercept = intercept_of(head)
        intercept.add_(torch.tensor([-by / 2, by / 2] if len(intercept) == 2 else [by], device=intercept.device))


def batches(order: Rows, size: int) -> list[Rows]:
    """Cut a list into batches of ``size``; a last one of a single row joins the one before, for batch normalisation."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)
