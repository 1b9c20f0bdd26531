"""Whether the embedding of a patient lies where those of the training people lie.

The distance is taken along the training people's principal components and along their mean (which a scrambled or
misplaced recording lacks), each in units of its spread, with what these leave over as one coordinate more (only more
of it than usual counts). All units come from people left out while the components were fitted: these lie closer to
those they were fitted on than to anybody else, above all with tens of people and 90,000 edges. Only components that
keep their variance in people left out are used. Distances are divided by their limit, so that 1 is the limit, whatever
the model.

The limit is where a further person like those of training would lie with probability 1 - `FALSE_ALARMS`: an upper
prediction bound on the logarithm of the distances of people left out. Of simulated further people (normal, t with 5
degrees of freedom, or unequal in noise; 8 to 200 people of training) 1 to 3 % lay beyond it. On the connectivity of a
real cohort (122 parcels, 12 to 35 people of training) 0.4 to 2.5 % of further people of the same centres did, and 14 %
and 0 % of the people of the other centre. A shift of normal people as large as their largest component, along a
direction in which they do not vary, was found in 5 % of cases by 8 people, 71 % by 20 and all by 40, but in 16 % at
most where people are unequal in noise. An embedding that is not flagged is no proof of likeness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bids_fmmtc.errors import BundleError, DataError
from bids_fmmtc.learning.penalised import one_thread
from bids_fmmtc.types import Float32, Float64

FALSE_ALARMS = 0.02
FEWEST = 8
"""People without whom no limit can be told."""
MOST_COMPONENTS = 10
LASTING = 0.5
"""Components that lose more of their variance in people left out are noise of those fitted on."""
MOST_FOLDS = 20
"""As many groups of people are left out in turn; one by one where there are no more people than this."""
_COLUMNS = 8192  # held in float64 at once


@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """Where the training people lie: K directions among embeddings of P numbers.

    Parameters
    ----------
    mean
        (P,) float32 mean embedding.
    basis
        (K, P) float32 orthonormal rows: the direction of the mean, then principal components.
    weights
        (K,) float32, 1 over the spread along each direction, over the limit.
    residual
        (2,) float32: the usual length of what the basis leaves over, and 1 over its spread, over the limit.
    """

    mean: Float32
    basis: Float32
    weights: Float32
    residual: Float32

    @classmethod
    @one_thread()
    def fit(cls, matrix: NDArray[Any], groups: Sequence[str] | None = None) -> Novelty:
        """Fit to the embeddings of the training people.

        Needs two (N, N) matrices and one copy of 8192 columns beside ``matrix``.

        Parameters
        ----------
        matrix
            (N, P), one row a session; see `embedding`.
        groups
            N names of what is left out together: the person, or the family. Default: every row by itself.

        Raises
        ------
        DataError
            Fewer than `FEWEST` groups, a value that is not finite, or rows that are all the same.
        """
        people = [str(i) for i in range(len(matrix))] if groups is None else list(groups)
        if matrix.ndim != 2 or len(people) != len(matrix):
            raise ValueError(f"expected (N, P) and N groups, found {matrix.shape} and {len(people)}")
        order = {name: i for i, name in enumerate(dict.fromkeys(people))}
        if len(order) < FEWEST:
            raise DataError(f"the spread of embeddings needs at least {FEWEST} people, found {len(order)}.")
        gram = _gram(matrix)
        folds = np.array([order[name] for name in people]) % MOST_FOLDS
        scores, left = _left_out(gram, folds, _lasting(gram, folds, min(len(order) // 4, MOST_COMPONENTS)))
        units, usual, spread = _units(scores, left)
        limit = _limit(scores, left, folds, len(order))
        return cls(
            mean=matrix.mean(axis=0, dtype=np.float64).astype(np.float32),
            basis=_basis(matrix, _directions(gram, scores.shape[1] - 1)),
            weights=(1 / (units * limit)).astype(np.float32),
            residual=np.array([usual, 1 / (spread * limit)], np.float32),
        )

    def distance(self, x: NDArray[Any]) -> float:
        """Return how far an embedding (P,) lies from those of training; beyond 1 it lies outside."""
        offset = np.asarray(x, dtype=np.float64) - self.mean
        scores = self.basis @ offset
        left = float(np.linalg.norm(offset - scores @ self.basis))
        usual, weight = self.residual.astype(np.float64)
        inside = float(np.sum((self.weights * scores) ** 2))
        return math.sqrt(inside + (weight * max(0.0, left - usual)) ** 2)

    def to_arrays(self) -> dict[str, Float32]:
        """Return the arrays to store."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def embedding(windows: NDArray[Any]) -> Float32:
    """Return the embedding of a session, (P,) float32: the mean over its windows (W, *shape) of one modality.

    Of square matrices the upper triangle and the diagonal are taken, since connectivity is symmetric.
    """
    mean = np.asarray(windows).mean(axis=0, dtype=np.float64)
    if mean.ndim == 2 and mean.shape[0] == mean.shape[1]:
        mean = mean[np.triu_indices(len(mean))]
    flat: Float32 = mean.ravel().astype(np.float32)
    return flat


def embedding_size(shape: Sequence[int]) -> int:
    """Return P for one window's shape."""
    if len(shape) == 2 and shape[0] == shape[1]:
        return shape[0] * (shape[0] + 1) // 2
    return math.prod(shape)


def to_arrays(novelty: Mapping[str, Novelty]) -> dict[str, Float32]:
    """Return modality -> novelty as arrays under ``modality.part``; `from_arrays` is the inverse."""
    return {f"{name}.{part}": a for name, entry in sorted(novelty.items()) for part, a in entry.to_arrays().items()}


def from_arrays(arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, Novelty]:
    """Rebuild from `to_arrays`.

    Parameters
    ----------
    arrays
        What a file holds.
    shapes
        Modality -> shape of one window's array, of the modalities expected.

    Raises
    ------
    BundleError
        A name is missing or unknown, or an array has another shape or type, or holds what is not finite or, where a
        length or weight is expected, negative.
    """
    parts = [field.name for field in fields(Novelty)]
    expected = {f"{name}.{part}" for name in shapes for part in parts}
    if set(arrays) != expected:
        raise BundleError(f"novelty: expected arrays {sorted(expected)}, found {sorted(arrays)}.")
    found = {name: Novelty(**{part: arrays[f"{name}.{part}"] for part in parts}) for name in shapes}
    for name, entry in found.items():
        _check(name, entry, embedding_size(shapes[name]))
    return found


def _check(name: str, entry: Novelty, size: int) -> None:
    k = entry.weights.size
    expected = {"mean": (size,), "basis": (k, size), "weights": (k,), "residual": (2,)}
    for part, array in entry.to_arrays().items():
        if array.dtype != np.float32 or array.shape != expected[part]:
            raise BundleError(
                f"novelty: {name}.{part} must be float32 {expected[part]}, found {array.dtype} {array.shape}."
            )
        if not np.isfinite(array).all() or (part in ("weights", "residual") and (array < 0).any()):
            raise BundleError(f"novelty: {name}.{part} holds values that are not finite or negative.")


# ------------------------------------------------------------------------------------------------------------- fitting


def _gram(matrix: NDArray[Any]) -> Float64:
    """Return the inner products (N, N) of rows."""
    gram = np.zeros((len(matrix), len(matrix)))
    for start in range(0, matrix.shape[1], _COLUMNS):
        part = matrix[:, start : start + _COLUMNS].astype(np.float64)
        gram += part @ part.T
    if not np.isfinite(gram).all():
        raise DataError("an embedding holds values that are not finite, or too large to square.")
    # Rows of float32 that should be equal may differ in their last bit.
    if not np.trace(_centred(gram)) > 1e-13 * np.trace(gram):
        raise DataError("the embeddings of all people are the same.", "Check the encoder and its scaling.")
    return gram


def _centred(gram: Float64) -> Float64:
    """Return the inner products of rows about their mean, symmetric to the bit."""
    centred = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    half: Float64 = (centred + centred.T) / 2
    return half


def _directions(gram: Float64, most: int) -> Float64:
    """Return (N, 1 + K) coefficients that turn rows into orthonormal directions.

    The first is that of the mean, less what lies in the others (zeros where that is nothing); then the K components
    of most variance, K being ``most`` or the rank. The sign of these is such that the greatest coefficient is positive.
    """
    values, vectors = np.linalg.eigh(_centred(gram))
    keep = np.flatnonzero(values > 1e-10 * max(values[-1], 0))[::-1][:most]
    chosen: Float64 = vectors[:, keep] / np.sqrt(values[keep])
    chosen *= np.sign(np.take_along_axis(chosen, np.abs(chosen).argmax(axis=0)[None], axis=0))
    chosen -= chosen.mean(axis=0)
    mean = 1 / len(gram) - chosen @ (chosen.T @ gram.mean(axis=0))
    square = float(mean @ gram @ mean)
    mean *= 1 / math.sqrt(square) if square > 1e-10 * gram.mean() else 0.0
    return np.column_stack([mean, chosen])


def _lasting(gram: Float64, folds: NDArray[np.intp], most: int) -> int:
    """Return how many leading components keep at least `LASTING` of their variance in people left out."""
    scores, _ = _left_out(gram, folds, most)
    k = scores.shape[1] - 1
    fitted = (gram - gram.mean(axis=0)) @ _directions(gram, k)
    lasts = (scores**2).mean(axis=0)[1:] >= LASTING * (fitted**2).mean(axis=0)[1:]
    return k if lasts.all() else int(np.argmin(lasts))


def _left_out(gram: Float64, folds: NDArray[np.intp], most: int) -> tuple[Float64, Float64]:
    """Return (N, 1 + K) scores and (N,) lengths of what is left over, of rows by the directions of all other folds."""
    scores, total = np.zeros((len(gram), 1 + most)), np.zeros(len(gram))
    rank = most
    for fold in np.unique(folds):
        out, rest = folds == fold, folds != fold
        inner, across = gram[np.ix_(rest, rest)], gram[np.ix_(out, rest)]
        directions = _directions(inner, most)
        rank = min(rank, directions.shape[1] - 1)
        scores[out, : directions.shape[1]] = (across - inner.mean(axis=0)) @ directions
        total[out] = np.diagonal(gram)[out] - 2 * across.mean(axis=1) + inner.mean()
    scores = scores[:, : 1 + rank]
    return scores, np.sqrt(np.maximum(total - (scores**2).sum(axis=1), 0))


def _units(scores: Float64, left: Float64) -> tuple[Float64, float, float]:
    """Return the spread (K,) along each direction, and the usual length and spread of what is left over.

    Spreads are kept above a thousandth of the whole, so that a direction in which training never varied counts much
    but not endlessly.
    """
    whole = float(np.mean((scores**2).sum(axis=1) + left**2))
    least = 1e-3 * math.sqrt(whole)
    return np.sqrt(np.maximum((scores**2).mean(axis=0), least**2)), float(left.mean()), max(float(left.std()), least)


def _limit(scores: Float64, left: Float64, folds: NDArray[np.intp], people: int) -> float:
    """Return the distance that a further person exceeds with probability `FALSE_ALARMS`."""
    distances = np.zeros(len(left))
    for fold in np.unique(folds):
        out = folds == fold
        units, usual, spread = _units(scores[~out], left[~out])
        beyond = np.maximum(left[out] - usual, 0) / spread
        distances[out] = np.sqrt(((scores[out] / units) ** 2).sum(axis=1) + beyond**2)
    logs = np.log(np.maximum(distances, 0.1))  # at the very centre, no matter how near
    bound = float(stdtrit(people - 1, 1 - FALSE_ALARMS)) * math.sqrt(1 + 1 / people)
    return float(np.exp(logs.mean() + bound * logs.std(ddof=1)))


def _basis(matrix: NDArray[Any], directions: Float64) -> Float32:
    """Return the directions (1 + K, P) float32."""
    basis = np.empty((directions.shape[1], matrix.shape[1]), np.float32)
    for start in range(0, matrix.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        basis[:, columns] = directions.T @ matrix[:, columns].astype(np.float64)
    return basis
