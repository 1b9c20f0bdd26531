"""What every way of learning offers to the evaluation: scores along its settings, and a fit at one of them.

A learner is bound to the features of one `Cohort` and is told, call by call, the outcomes and the rows it may learn
from. Everything it estimates (scalers, principal components, tangent reference, weights) comes from those rows only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bids_fmmtc.results.evaluation import Setting
from bids_fmmtc.types import Cohort, Float64, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from bids_fmmtc.modalities.connectivity import TangentReference


@dataclass(frozen=True, slots=True)
class HeadParts:
    """A fitted head as a bundle keeps it: spec for `build_head`, weights, and the tangent reference if there is one."""

    spec: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    state: Mapping[str, Tensor]
    tangent: TangentReference | None = None


class Fitted(Protocol):
    """A fitted model. Scores are log-odds of the second class, or predicted outcomes in regression.

    A session's score is the mean over its windows of what the head says of each.
    """

    def scores(self, rows: Rows) -> Float64:
        """Return (len(rows),) scores of rows of the learner's own cohort."""
        ...

    def elsewhere(self, cohort: Cohort) -> Float64:
        """Return (M,) scores of another cohort, with nothing refitted."""
        ...

    def head(self) -> HeadParts:
        """Return the head to keep; ValueError for a model of other things than modalities."""
        ...


class Learner(Protocol):
    """One way of learning, bound to a cohort's features.

    ``choices`` settings stand in a fixed order: penalties, or numbers of epochs.
    """

    choices: int

    def path(self, y: Float64, train: Rows, rows: Rows, name: str) -> Float64:
        """Return (C, len(rows)) scores of ``rows`` by models learnt from ``train``, one line a setting.

        Parameters
        ----------
        y
            (N,) outcomes of all rows; those outside ``train`` may be read only to stop early on ``rows``, an inner
            validation part.
        train, rows
            Disjoint row numbers.
        name
            Unique name of this piece of work within a run, for seeds and checkpoints.

        Returns
        -------
        At most ``choices`` lines: fewer where learning stopped early.
        """
        ...

    def fit(self, y: Float64, train: Rows, choice: int, name: str) -> Fitted:
        """Return the model learnt from ``train`` at one setting."""
        ...

    def describe(self, choice: int) -> Setting:
        """Return a setting by its number."""
        ...
