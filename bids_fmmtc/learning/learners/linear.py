"""Linear models of few people and many features: penalised logistic regression, or ridge, from inner products.

Once centred, n training rows span at most n - 1 dimensions, however many features there are. A linear model with an
L2 penalty on their principal components (all of them: the penalty does the shrinking, on a smoother scale than a
number of components would) depends on the features through inner products alone, and is computed from these. It is
the model that in-fold scaling, in-fold PCA and penalised regression on its scores give, without computing the PCA.

Each block of features is centred on the training rows and divided by one number so that the mean squared norm of the
training rows is 1: 90,000 edges and 256 numbers of an encoder have the same say.

Both classes weigh the same. Scores are hence log-odds as if responders were as frequent as non-responders; the
calibration that is fitted later, on out-of-fold scores, brings the true frequency back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.load import TANGENT_MODALITY
from bids_fmmtc.learning.learner import HeadParts
from bids_fmmtc.learning.learners.blocks import STATISTICS, Block, block_of
from bids_fmmtc.learning.penalised import logistic, one_thread, ridge
from bids_fmmtc.results.evaluation import Setting
from bids_fmmtc.types import Cohort, Float64, Rows

PENALTIES = (100.0, 10.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001, 1e-4, 1e-5, 1e-6)
"""Strengths p of the penalty, strongest first: minimised is mean weighted loss + p / 2 * squared norm of the weights
of the scaled features, where the loss is the negative log-likelihood or half the squared error. At 100 the scores
order people as the difference of the class means does. At 0.001 tens of people are fitted almost exactly, and yet an
effect in few of many edges needs less: norm on the many others is what the penalty forbids. At 1e-6 people who can be
parted are parted by nearly the widest margin, which no weaker penalty widens."""


class LinearLearner:
    """Penalised logistic regression (classification) or ridge (regression); fulfils `learner.Learner`.

    Parameters
    ----------
    cohort
        Features to learn from, and the kind of outcome.
    blocks
        What to learn from: modalities of the cohort (mean over a session's windows; ``fc`` by its upper triangle
        without diagonal), ``covariates`` and ``motion`` (missing values imputed, columns standardised), ``site`` (an
        indicator of each site of the training rows). A block, or a column, that is constant or unknown in all
        training rows contributes nothing.
    tangent
        Whether ``fc`` holds covariances, to be projected to tangent space at the mean of the training windows.

    Raises
    ------
    DataError
        A block that the cohort does not hold.
    """

    def __init__(self, cohort: Cohort, blocks: Sequence[str], *, tangent: bool) -> None:
        self.cohort = cohort
        self._blocks = tuple(block_of(cohort, name, tangent=tangent) for name in blocks)
        # Where one modality tells nothing, an equal say would drown the other (AUROC 0.68 where it has 0.94 alone).
        n = len(self._blocks)
        alone = [tuple(float(i == j) for j in range(n)) for i in range(n)] if n > 1 else []
        self._mixes = [(1.0,) * n, *alone]
        self.choices = len(PENALTIES) * len(self._mixes)

    def path(self, y: Float64, train: Rows, rows: Rows, name: str) -> Float64:
        """Return (C, len(rows)) scores, strongest penalty first; ``name`` is not needed.

        Where there are several blocks, each penalty is tried with all of them and with each alone.

        Raises
        ------
        DataError
            Outcomes of the training rows that do not differ.
        """
        del name
        train = np.sort(train)
        scores = np.stack([self._learnt(y, train, mix, PENALTIES)[2][:, rows] for mix in self._mixes], axis=1)
        return scores.reshape(self.choices, -1)

    def fit(self, y: Float64, train: Rows, choice: int, name: str) -> LinearFit:
        """Return the model at one setting; raises as `path`."""
        del name
        train = np.sort(train)
        strength, which = divmod(choice, len(self._mixes))
        mix = self._mixes[which]
        duals, intercepts, own = self._learnt(y, train, mix, PENALTIES[: strength + 1])
        return LinearFit(self.cohort, self._blocks, mix, train, duals[-1], float(intercepts[-1]), own[-1])

    def describe(self, choice: int) -> Setting:
        """Return the penalty, with several blocks which of them are used, and the edge where it is one."""
        strength, which = divmod(choice, len(self._mixes))
        used = tuple(block.name for block, say in zip(self._blocks, self._mixes[which], strict=True) if say)
        edge = {0: "strongest", len(PENALTIES) - 1: "weakest"}.get(strength)
        return Setting(penalty=PENALTIES[strength], blocks=used if len(self._blocks) > 1 else None, edge=edge)

    def _learnt(
        self, y: Float64, train: Rows, mix: Sequence[float], penalties: Sequence[float]
    ) -> tuple[Float64, Float64, Float64]:
        """Return dual weights (C, n), intercepts (C,), and scores (C, N) of all rows.

        Of all rows at once, so that rounding does not depend on which of them are asked for.
        """
        known = y[train]
        if len(known) == 0 or known.min() == known.max():
            found = f"all {len(known)} are {known[0]:g}" if len(known) else "there are none"
            raise DataError(
                f"outcomes of the training rows must differ to be learnt from, but {found}.",
                "Use fewer folds, or an outcome that is spread over people and sites.",
            )
        solve = logistic if self.cohort.kind == "classification" else ridge
        with one_thread():
            kernel = np.zeros((len(y), len(train)))
            for block, say in zip(self._blocks, mix, strict=True):
                if say:
                    products, scale = block.centred(train)
                    kernel += say * scale * products
            duals, intercepts = solve(kernel[train], known, penalties)
            return duals, intercepts, duals @ kernel.T + intercepts[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class LinearFit:
    """A fitted linear model; fulfils `learner.Fitted`.

    Parameters
    ----------
    cohort, blocks, mix, train
        What it was learnt from, the say of each block, and the training rows in ascending order.
    dual, intercept
        Weights (n,) of the training rows, and the score at their mean.
    own
        (N,) scores of the cohort's rows.
    """

    cohort: Cohort
    blocks: tuple[Block, ...]
    mix: tuple[float, ...]
    train: Rows
    dual: Float64
    intercept: float
    own: Float64

    def scores(self, rows: Rows) -> Float64:
        """Return (len(rows),) scores of rows of the cohort it was learnt from."""
        found: Float64 = self.own[rows]
        return found

    def elsewhere(self, cohort: Cohort) -> Float64:
        """Return (M,) scores of another cohort by the weights and statistics of the training rows.

        Raises
        ------
        DataError
            The cohort lacks a block, or holds one of another shape.
        """
        total = np.full(len(cohort), self.intercept)
        for block in self.blocks:
            centre, weights = self._weights(block)
            data = block.transform(self.train)(cohort)
            if data.shape[1:] != centre.shape:
                found, expected = data.shape[1], len(centre)
                raise DataError(f"{block.name} of the other cohort holds {found} numbers a row, expected {expected}.")
            total += (data - centre) @ weights
        return total

    def head(self) -> HeadParts:
        """Return weights of the features as they are, for `head.LinearHead`.

        Raises
        ------
        ValueError
            The model rests on other things than modalities, so it has no place in a bundle.
        """
        import torch  # noqa: PLC0415  (2 s; evaluation does without)

        if foreign := [block.name for block in self.blocks if block.name in STATISTICS]:
            raise ValueError(f"no head can be made of {', '.join(foreign)}")
        names = [block.name for block in self.blocks]
        shapes = {name: self.cohort.arrays[name][0].shape[1:] for name in names}
        state, bias, tangent = {}, self.intercept, None
        for block in self.blocks:
            centre, weights = self._weights(block)
            kept = weights.astype(np.float32)
            bias -= float(centre @ kept)  # by the weights as they are kept: no rounding at the training mean
            state[f"weights.{block.name}"] = torch.tensor(_shaped(block.name, kept, shapes[block.name]))
            tangent = getattr(block.transform(self.train), "reference", None) or tangent
        state["bias"] = torch.tensor([bias], dtype=torch.float32)
        outputs = 2 if self.cohort.kind == "classification" else 1
        return HeadParts({"kind": "linear", "outputs": outputs, "modalities": names}, shapes, state, tangent)

    def _weights(self, block: Block) -> tuple[Float64, Float64]:
        """Return the mean (P,) of the training rows and the weights (P,) of a block's features."""
        data = block.transform(self.train)(self.cohort.take(self.train))
        centre = data.mean(axis=0)
        say = self.mix[self.blocks.index(block)]
        weights: Float64 = say * block.centred(self.train)[1] * (self.dual @ (data - centre))
        return centre, weights


def _shaped(name: str, weights: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return weights (*shape) that give of a window's whole array what ``weights`` give of a block's features."""
    if name != TANGENT_MODALITY:
        return weights.reshape(shape)
    matrix = np.zeros(shape, dtype=np.float32)
    matrix[np.triu_indices(shape[0], 1)] = weights / 2
    return matrix + matrix.T
