"""Functional connectivity of a window: Pearson, Gram, partial correlation, or a covariance for tangent space.

Nothing is shrunk silently. Pearson is the plain sample correlation; partial correlation and the tangent's covariance
have more parcels than frames (424 against 200), so they rest on a Ledoit-Wolf shrunk covariance and say so in
`describe`. ``gram`` is what FMM_TC (arXiv 2503.00210) feeds its connectivity branch: X'X of the raw window, without
demeaning or division.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_fmmtc.errors import DataError, RecipeError
from bids_fmmtc.modalities.about import About
from bids_fmmtc.plain import Object
from bids_fmmtc.pooling import about_all
from bids_fmmtc.recipe import Connectivity, ConnectivityKind, ModalitySpec, Recipe
from bids_fmmtc.types import Float32, Int32, Windowed

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

ABOUT = About("C")

FISHER_LIMIT = 1 - 1e-7
"""Correlations are clipped to this size before arctanh, so that Fisher z never exceeds 8.41."""


def connectivity(x: NDArray[Any], kind: ConnectivityKind, *, fisher_z: bool, lost: Bool | None = None) -> Float32:
    """Return the connectivity matrix of one window.

    Computed in float64. Partial correlation and covariance are of z-scored parcels, so that scanner units do not
    decide what is shrunk how far.

    Parameters
    ----------
    x
        (T, R) float32 or float64, any units.
    kind
        ``pearson``, ``gram``, ``partial`` or ``tangent`` (the covariance; `TangentReference.project` does the rest).
    fisher_z
        Replace correlations by arctanh, clipped at `FISHER_LIMIT`, with diagonal 0. No effect on ``gram`` and
        ``tangent``.
    lost
        (R,) True for parcels without signal, whose values are not read. A parcel that is constant in the window is
        treated alike, except in ``gram``, which keeps what it holds.

    Returns
    -------
    (R, R) float32, symmetric, finite. Rows and columns of lost parcels are 0, diagonal included; in ``tangent`` they
    have variance 1 and covariance 0, which keeps the matrix positive definite.

    Raises
    ------
    RecipeError
        Unknown kind.
    DataError
        A value that is not finite, or a shrunk covariance that is still singular.
    """
    entry = _entry(kind)
    data = np.array(x, dtype=np.float64)
    if data.ndim != 2 or len(data) == 0:
        raise ValueError(f"a window is (T, R) with T > 0, found {data.shape}")
    if lost is not None:
        data[:, lost] = 0
    if not np.isfinite(data).all():
        raise DataError("a window holds values that are not finite.")
    matrix = entry.estimate(data)
    if fisher_z and entry.correlation:
        matrix = np.arctanh(np.clip(matrix, -FISHER_LIMIT, FISHER_LIMIT))
        np.fill_diagonal(matrix, 0)
    return matrix.astype(np.float32)


def measure_name(kind: ConnectivityKind) -> str:
    """Return the ``meas-`` label of a kind, as BEP017 spells it: ``pearsoncorrelation``."""
    return _entry(kind).measure


def describe(kind: ConnectivityKind, *, fisher_z: bool = False) -> Object:
    """Return what a sidecar says of a kind: BEP017's keys, and the estimator in words."""
    entry = _entry(kind)
    z = fisher_z and entry.correlation
    return {
        "RelationshipMeasure": entry.relationship + (", Fisher z" if z else ""),
        "Estimator": entry.estimator + (f" arctanh with |r| clipped at {FISHER_LIMIT!r}, diagonal 0." if z else ""),
        "Weighted": True,
        "Directed": False,
        "ValidDiagonal": not entry.correlation,
        "StorageFormat": "Full",
    }


def _standardised(data: Float64) -> tuple[Float64, Bool]:
    """Return z-scores (T, L) of the L parcels that vary, and which they are (R,).

    Subtracting the first frame makes a constant parcel exactly 0; dividing by the peak before squaring keeps tiny
    and large units from under- and overflowing.
    """
    deviation = data - data[0]
    peak = np.abs(deviation).max(axis=0)
    live = peak > 0
    z = deviation[:, live] / peak[live]
    z -= z.mean(axis=0)
    z /= np.sqrt(np.mean(z * z, axis=0))
    return z, live


def _embedded(block: Float64, live: Bool, diagonal: float) -> Float64:
    """Put a block (L, L) into a matrix (R, R) that is 0 elsewhere but for ``diagonal``."""
    matrix = np.diag(np.where(live, 0.0, diagonal))
    matrix[np.ix_(live, live)] = block
    return matrix


def _pearson(data: Float64) -> Float64:
    z, live = _standardised(data)
    block = np.clip(z.T @ z / len(z), -1, 1)
    np.fill_diagonal(block, 1)
    return _embedded(block, live, 0)


def _gram(data: Float64) -> Float64:
    gram: Float64 = data.T @ data
    return gram


def _shrunk(data: Float64) -> tuple[Float64, Bool]:
    """Return the Ledoit-Wolf covariance (L, L) of the z-scored parcels that vary, and which they are (R,)."""
    from sklearn.covariance import ledoit_wolf  # noqa: PLC0415  (1.4 s; only these two kinds need it)

    z, live = _standardised(data)
    if z.shape[1] == 0:
        return np.zeros((0, 0)), live
    block = np.asarray(ledoit_wolf(z, assume_centered=True)[0], dtype=np.float64)
    values = np.linalg.eigvalsh(block)
    if values[0] <= 1e-10 * values[-1]:
        raise DataError(
            f"the shrunk covariance of a window of {len(data)} frames is singular.",
            "Use longer windows or connectivity.kind pearson.",
        )
    return (block + block.T) / 2, live


def _partial(data: Float64) -> Float64:
    covariance, live = _shrunk(data)
    precision = np.linalg.inv(covariance)
    scale = 1 / np.sqrt(np.diagonal(precision))
    block = np.clip(-(precision + precision.T) / 2 * scale[:, None] * scale, -1, 1)
    np.fill_diagonal(block, 1)
    return _embedded(block, live, 0)


def _covariance(data: Float64) -> Float64:
    covariance, live = _shrunk(data)
    return _embedded(covariance, live, 1)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind is computed and named; ``correlation`` tells whether Fisher z applies."""

    estimate: Callable[[Float64], Float64]
    measure: str
    relationship: str
    estimator: str
    correlation: bool


_SHRUNK = "of z-scored parcels, shrunk by Ledoit-Wolf (scikit-learn)."
_KINDS: dict[str, _Kind] = {
    "pearson": _Kind(
        _pearson, "pearsoncorrelation", "Pearson correlation", "Plain sample correlation, not shrunk.", correlation=True
    ),
    "gram": _Kind(
        _gram, "gram", "Gram matrix", "X'X of the window as it is: not demeaned, not scaled.", correlation=False
    ),
    "partial": _Kind(
        _partial,
        "partialcorrelation",
        "partial correlation",
        f"From the inverse of the covariance {_SHRUNK}",
        correlation=True,
    ),
    "tangent": _Kind(_covariance, "covariance", "covariance", f"Covariance {_SHRUNK}", correlation=False),
}


def _entry(kind: str) -> _Kind:
    try:
        return _KINDS[kind]
    except KeyError:
        raise RecipeError(f"no connectivity of kind {kind!r}; known are {', '.join(_KINDS)}.") from None


@dataclass(frozen=True, slots=True, eq=False)
class TangentReference:
    """The point around which covariances are linearised; fitted on training windows only, kept in the bundle.

    Parameters
    ----------
    mean
        (R, R) float64 geometric mean of the training covariances.
    whitening
        (R, R) float64 inverse square root of ``mean``.
    """

    mean: Float64
    whitening: Float64

    @classmethod
    def fit(cls, covariances: ArrayLike) -> TangentReference:
        """Fit to (N, R, R) positive definite matrices.

        The geometric mean is found by gradient descent on the manifold (Fletcher and Joshi 2007, algorithm 3) with
        the steps of nilearn's ``ConnectivityMeasure(kind="tangent")``.

        Raises
        ------
        DataError
            A matrix that is not symmetric positive definite.
        """
        matrices = np.asarray(covariances, dtype=np.float64)
        if matrices.ndim != 3 or len(matrices) == 0 or matrices.shape[1] != matrices.shape[2]:
            raise ValueError(f"covariances are (N, R, R) with N > 0, found {matrices.shape}")
        if not np.isfinite(matrices).all() or np.linalg.eigvalsh(matrices).min() <= 0:
            raise DataError("tangent space needs positive definite covariances.")
        mean = _geometric_mean(matrices)
        return cls(mean, _mapped(mean, lambda v: 1 / np.sqrt(v)))

    def project(self, covariance: NDArray[Any]) -> Float32:
        """Return log(W C W), symmetric float32, for C (R, R) or (N, R, R) and whitening W.

        Raises
        ------
        DataError
            C has another number of parcels or is not positive definite.
        """
        data = np.asarray(covariance, dtype=np.float64)
        if data.shape[-2:] != self.mean.shape:
            raise DataError(f"tangent space: expected matrices {self.mean.shape}, found {data.shape}.")
        whitened = self.whitening @ data @ self.whitening
        values = np.linalg.eigvalsh((whitened + np.swapaxes(whitened, -1, -2)) / 2)
        if not values.min() > 0:
            raise DataError("tangent space: the covariance is not positive definite.")
        return _mapped(whitened, np.log).astype(np.float32)

    def to_arrays(self) -> dict[str, Float64]:
        """Return the arrays to store; `from_arrays` is the inverse."""
        return {"mean": self.mean, "whitening": self.whitening}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float64]) -> TangentReference:
        """Rebuild from `to_arrays`."""
        return cls(arrays["mean"], arrays["whitening"])


def _mapped(matrix: Float64, function: Callable[[Float64], Float64]) -> Float64:
    """Apply a function to the eigenvalues of symmetric matrices (..., R, R); the result is symmetric to the bit."""
    values, vectors = np.linalg.eigh((matrix + np.swapaxes(matrix, -1, -2)) / 2)
    result = (vectors * function(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    symmetric: Float64 = (result + np.swapaxes(result, -1, -2)) / 2
    return symmetric


def _geometric_mean(matrices: Float64, iterations: int = 30, tolerance: float = 1e-7) -> Float64:
    mean: Float64 = matrices.mean(axis=0)
    best, step = np.inf, 1.0
    for _ in range(iterations):
        root = _mapped(mean, np.sqrt)
        inverse = _mapped(mean, lambda v: 1 / np.sqrt(v))
        gradient = np.zeros_like(mean)
        for matrix in matrices:
            gradient += _mapped(inverse @ matrix @ inverse, np.log) / len(matrices)
        norm = float(np.linalg.norm(gradient))
        mean = root @ _mapped(step * gradient, np.exp) @ root
        if norm > best:
            step /= 2
        best = min(norm, best)
        if best / mean.size < tolerance:
            return mean
    warnings.warn(f"geometric mean: gradient {best / mean.size:.1e} after {iterations} iterations", stacklevel=3)
    return mean


class ConnectivityModality:
    """Connectivity of each window, as ``recipe.connectivity`` asks; no weights, no options of its own."""

    name = "fc"

    def __init__(self, choice: Connectivity) -> None:
        self.choice = choice

    @classmethod
    def from_spec(cls, spec: ModalitySpec, recipe: Recipe, weights: Path | None, device: str) -> ConnectivityModality:
        """Build from a recipe; see `bids_fmmtc.modalities.Modality`. nothing but ``recipe`` is used."""
        del spec, weights, device
        return cls(recipe.connectivity)

    def compute(self, source: Windowed, windows: Int32) -> Float32:
        """Return (W, R, R) float32 of the cleaned, unscaled frames; see `about_all` for the choice ``frames: all``."""
        frames, lost = source.frames, source.lost
        of_windows = np.stack([self._of(frames[a:b], lost) for a, b in windows])
        if self.choice.frames == "windows":
            return of_windows
        left = source.left
        whole = self._of(left, lost).astype(np.float64)
        if self.choice.kind == "gram":  # a sum over frames
            whole *= (windows[0, 1] - windows[0, 0]) / len(left)
        return about_all(of_windows, whole, self.choice.kind)

    def _of(self, frames: Float32, lost: Bool) -> Float32:
        return connectivity(frames, self.choice.kind, fisher_z=self.choice.fisher_z, lost=lost)
