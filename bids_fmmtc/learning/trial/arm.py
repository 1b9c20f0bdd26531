"""People of one treatment, as a trial plan takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_fmmtc.learning.judging.intervals import widening
from bids_fmmtc.types import Float64


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """People of one treatment, judged by models that learnt from nobody of their groups.

    In a crossover study the other session of a person must not be learnt from either.

    Parameters
    ----------
    value
        (R, N) or (N,) calibrated probabilities, R repeats; NaN where a repeat did not judge a row. Rows that no
        repeat judged are left out.
    y
        (N,) 1 responder and 0 non-responder under the treatment.
    groups
        N names: what is drawn together, a participant or a family, also across arms.
    n_train
        Rows a judging model learnt from, mean over folds; None for people who taught none of the models, as a control
        arm may be. See `intervals.widening`.
    label
        Like ``value``: 1 where the judging model's own threshold, decided without the row, is reached; None for none.

    Raises
    ------
    ValueError
        Shapes that do not fit, outcomes other than 0 and 1, probabilities out of 0..1, or nobody judged.
    """

    value: Float64
    y: Float64
    groups: Sequence[str]
    n_train: float | None
    label: Float64 | None = None

    def __post_init__(self) -> None:
        value, y = np.atleast_2d(np.asarray(self.value, np.float64)), np.asarray(self.y, np.float64)
        label = value if self.label is None else np.atleast_2d(np.asarray(self.label, np.float64))
        if value.ndim != 2 or label.shape != value.shape or not value.shape[1:] == y.shape == (len(self.groups),):
            shapes = f"{value.shape}, {label.shape}, {y.shape}, {len(self.groups)}"
            raise ValueError(f"value and label (R, N), y (N,), N groups expected; found {shapes}")
        if not np.isin(y, (0, 1)).all() or ((value < 0) | (value > 1)).any():
            raise ValueError("outcomes are 0 or 1, judgements probabilities in 0..1")
        some = ~np.isnan(value).all(axis=0)
        if not some.any():
            raise ValueError("nobody was judged")
        kept = {"value": value[:, some], "y": y[some], "groups": tuple(np.asarray(self.groups, str)[some].tolist())}
        for name, part in {**kept, "label": None if self.label is None else label[:, some]}.items():
            object.__setattr__(self, name, part)

    @property
    def factor(self) -> float:
        """How much wider intervals are because the judged people also taught the models."""
        return widening(len(self.y), self.n_train)

    def kept(self, limits: Float64) -> Float64:
        """Return (N, T): in what share of the repeats that judged it a row is at or above each threshold."""
        judged = (~np.isnan(self.value)).sum(axis=0)
        kept: Float64 = (self.value[:, :, None] >= limits).sum(axis=0) / judged[:, None]
        return kept
