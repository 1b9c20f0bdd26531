"""Blocks of features that a linear model learns from, and their inner products.

A block turns a cohort into (M, P) numbers. What that needs to know (means, scales, the levels of a factor, the point
of tangency) is estimated on the training rows and then applied to everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.load import TANGENT_MODALITY
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.types import Cohort, Float64, Rows

CONSTANT = 1e-12
"""Features whose squared spread is below this share of their squared size hold nothing but rounding of float32."""

KEPT = 32
"""Training sets whose inner products are remembered: those of 5 x 5 nested folds (30), and two more."""

Transform = Callable[[Cohort], Float64]
"""Cohort of M rows -> (M, P) features of a block; what it rests on was estimated on training rows only."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Features of one kind, and their inner products over a cohort.

    Parameters
    ----------
    cohort, name
        Whose features, and which.
    estimate
        Cohort and training rows -> transform.
    fixed
        The transform rests on nothing, so inner products serve all training sets.
    """

    cohort: Cohort
    name: str
    estimate: Callable[[Cohort, Rows], Transform]
    fixed: bool
    _kept: dict[bytes, tuple[Transform, Float64]] = field(default_factory=dict)

    def transform(self, train: Rows) -> Transform:
        """Return what turns any cohort into features, estimated on the training rows (ascending)."""
        return self._products(train)[0]

    def centred(self, train: Rows) -> tuple[Float64, float]:
        """Return inner products (N, n) of all rows with training rows, about the mean of the latter, and their scale.

        The scale is 1 / mean squared norm of the training rows, or 0 where these do not differ.
        """
        products = self._products(train)[1][:, train]
        size = products[train].trace()
        mine, theirs = products.mean(axis=1), products[train].mean(axis=0)
        products -= mine[:, None]
        products -= theirs
        products += theirs.mean()
        spread = float(products[train].trace())
        return products, len(train) / spread if spread > CONSTANT * size else 0.0

    def _products(self, train: Rows) -> tuple[Transform, Float64]:
        """Return the transform and (N, N) inner products, not centred."""
        key = b"" if self.fixed else train.tobytes()
        if key not in self._kept:
            transform = self.estimate(self.cohort, train)
            data = transform(self.cohort)
            products = data @ data.T
            if not np.isfinite(products).all():
                raise DataError(f"{self.name} holds values that are not finite.")
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (transform, products)
        self._kept[key] = self._kept.pop(key)  # the oldest stand first
        return self._kept[key]


def block_of(cohort: Cohort, name: str, *, tangent: bool) -> Block:
    """Return a block of a cohort by its name: a modality, or one of `STATISTICS`.

    Raises
    ------
    DataError
        The cohort does not hold it.
    """
    if name in STATISTICS:
        block = Block(cohort, name, STATISTICS[name], fixed=False)
        block.estimate(cohort, np.arange(0))  # complains of what the cohort does not hold
        return block
    if name not in cohort.arrays:
        known = ", ".join((*cohort.arrays, *STATISTICS))
        raise DataError(f"the cohort holds no features {name!r}; known are {known}.")
    if tangent and name == TANGENT_MODALITY:
        return Block(cohort, name, _tangent, fixed=False)
    return Block(cohort, name, lambda *_: _Windows(name), fixed=True)


@dataclass(frozen=True, slots=True)
class _Windows:
    """Mean over windows of a modality's array: flat, or the upper triangle of connectivity."""

    name: str
    reference: TangentReference | None = None

    def __call__(self, cohort: Cohort) -> Float64:
        if self.name not in cohort.arrays:
            raise DataError(f"the cohort holds no features {self.name!r}; it holds {', '.join(cohort.arrays)}.")
        return np.stack([self._mean(windows) for windows in cohort.arrays[self.name]])

    def _mean(self, windows: NDArray[np.float32]) -> Float64:
        if self.reference is not None:
            windows = self.reference.project(windows)
        mean: Float64 = windows.mean(axis=0, dtype=np.float64)
        return mean[np.triu_indices(len(mean), 1)] if self.name == TANGENT_MODALITY else mean.ravel()


def _tangent(cohort: Cohort, train: Rows) -> Transform:
    windows = cohort.arrays[TANGENT_MODALITY]
    return _Windows(TANGENT_MODALITY, TangentReference.fit(np.concatenate([windows[i] for i in train])))


def _covariates(cohort: Cohort, train: Rows) -> Transform:
    names = tuple(cohort.covariates)
    if not names:
        raise DataError("the cohort holds no covariates.")

    def columns(other: Cohort) -> Float64:
        if lacking := [name for name in names if name not in other.covariates]:
            raise DataError(f"the cohort holds no covariates {', '.join(lacking)}.")
        return np.hstack([other.covariates[name].reshape(len(other), -1) for name in names])

    return _standardised(columns, cohort, train)


def _motion(cohort: Cohort, train: Rows) -> Transform:
    return _standardised(lambda other: other.motion[:, None], cohort, train)


def _standardised(columns: Transform, cohort: Cohort, train: Rows) -> Transform:
    """Impute by the training mean, then standardise: a missing value becomes 0, and so does a constant column."""
    data = columns(cohort)[train]
    known = np.isfinite(data)
    mean = np.where(known, data, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    deviation = np.sqrt((np.where(known, data - mean, 0) ** 2).sum(axis=0) / max(len(train), 1))
    live = deviation > np.sqrt(CONSTANT) * np.abs(mean)
    scale = np.divide(1, deviation, out=np.zeros_like(mean), where=live)

    def transform(other: Cohort) -> Float64:
        values = columns(other)
        if values.shape[1] != len(mean):
            raise DataError(f"covariates of the other cohort make {values.shape[1]} columns, expected {len(mean)}.")
        return np.where(np.isfinite(values), (values - mean) * scale, 0)

    return transform


def _site(cohort: Cohort, train: Rows) -> Transform:
    """Indicate the sites of the training rows; a site that is none of them is 0 in all."""

    def sites(other: Cohort) -> NDArray[Any]:
        if other.sites is None:
            raise DataError("the cohort holds no sites.")
        return np.array(other.sites)

    levels = np.unique(sites(cohort)[train])
    return lambda other: (sites(other)[:, None] == levels).astype(np.float64)


STATISTICS: Mapping[str, Callable[[Cohort, Rows], Transform]] = {
    "covariates": _covariates,
    "motion": _motion,
    "site": _site,
}
"""Blocks that are no modality, and how they are estimated."""
