"""Penalised logistic and ridge regression of n people from their (n, n) inner products.

Minimised is mean weighted loss + p / 2 * squared norm of the weights of the features, for a penalty of strength p. The
loss is the negative log-likelihood or half the squared error; the intercept is free. By the weights' representation as
a sum over people, times n dual weights a, scores are K a + b, and the squared norm is a'K a.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
from scipy.linalg.lapack import dposv
from scipy.special import expit
from threadpoolctl import ThreadpoolController

from bids_fmmtc.errors import DataError
from bids_fmmtc.types import Float64

TOLERANCE = 1e-7
"""The largest change of a log-odds in the last step; convergence being quadratic, the error is its square."""

SURE_STEP, MOST_STEPS, LEAST_CURVATURE = 1.5, 1000, 1e-12


@contextmanager
def one_thread() -> Iterator[None]:
    """Have linear algebra use one thread (costs 16 us).

    Matrices of some tens of people gain nothing from a second, lose much to one whose core is busy, and the rounding
    of sums may depend on how many there are.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries: 4 ms


def logistic(kernel: Float64, y: Float64, penalties: Sequence[float]) -> tuple[Float64, Float64]:
    """Fit logistic regression in which both classes weigh the same.

    Newton's method on the dual weights; each step is one well-conditioned system of n equations (Rasmussen and
    Williams 2006, algorithm 3.1, with an intercept added). A step that does not lower the objective is halved until it
    does, but never so far that it changes no log-odds by 1.5. That much is sure to lower it: the third derivative of
    the logistic loss being at most its second, a step changing log-odds by m at most lowers it if
    (exp(m) - m - 1) / m^2 < 1 (Bach 2010, Electronic Journal of Statistics 4:384). Sure steps alone would take a row
    far outside all others by 1.5 at a time to a log-odds of thousands, which weak penalties allow. Perfect separation
    is no exception, as the penalty bounds the weights.

    Parameters
    ----------
    kernel
        (n, n) inner products, symmetric positive semidefinite.
    y
        (n,) 0 or 1, both present.
    penalties
        C strengths. Each starts from the solution of the one before, so give the strongest first.

    Returns
    -------
    (C, n) dual weights, each line of sum 0, and (C,) intercepts: log-odds are kernel @ dual + intercept.

    Raises
    ------
    DataError
        A kernel that is none, or one of which rounding leaves too little.
    """
    n, share = len(y), y.mean()
    weights = np.where(y == 1, 0.5 / share, 0.5 / (1 - share))  # of sum n
    duals, intercepts = np.zeros((len(penalties), n)), np.zeros(len(penalties))
    dual, intercept, score = np.zeros(n), 0.0, np.zeros(n)
    for c, penalty in enumerate(penalties):
        objective = partial(_objective, weights, 1 - 2 * y, n * penalty)
        for _ in range(MOST_STEPS):
            p = expit(score)
            curvature = np.maximum(weights * (p - p * p), LEAST_CURVATURE)
            aim, origin = _bordered(kernel, curvature, score + weights * (y - p) / curvature, n * penalty)
            step = kernel @ aim
            step += origin - score
            largest = np.abs(step).max()
            if largest > SURE_STEP:
                part = _part(objective, (dual, score), (aim - dual, step), SURE_STEP / largest)
                aim, origin, step = dual + part * (aim - dual), intercept + part * (origin - intercept), part * step
            dual, intercept, score = aim, origin, score + step
            if largest <= TOLERANCE:
                break
        else:
            raise DataError(
                f"logistic regression did not converge in {MOST_STEPS} steps at a penalty of {penalty:g}.",
                "Look for a row whose features lie extremely far from all others.",
            )
        duals[c], intercepts[c] = dual, intercept
    return duals, intercepts


def _objective(weights: Float64, signs: Float64, strength: float, dual: Float64, score: Float64) -> float:
    """Return n times what is minimised; as dual weights sum to 0, a'K a is their product with the scores."""
    return float(weights @ np.logaddexp(0, signs * score) + strength / 2 * (dual @ score))


def _part(
    objective: Callable[[Float64, Float64], float],
    at: tuple[Float64, Float64],
    step: tuple[Float64, Float64],
    sure: float,
) -> float:
    """Return by which part a step of dual weights and scores is taken: 1, or half and so on, at least ``sure``."""
    now, part = objective(*at), 1.0
    while part > sure and not objective(at[0] + part * step[0], at[1] + part * step[1]) < now:
        part /= 2
    return max(part, sure)


def ridge(kernel: Float64, y: Float64, penalties: Sequence[float]) -> tuple[Float64, Float64]:
    """Fit ridge regression; as `logistic`, but ``y`` is any numbers and scores are predicted ones.

    The solution is linear in ``y``, so that standardising it would change nothing; centring it saves digits.
    """
    mean, ones = float(y.mean()), np.ones(len(y))
    solved = [_bordered(kernel, ones, y - mean, len(y) * penalty) for penalty in penalties]
    return np.array([dual for dual, _ in solved]), np.array([intercept + mean for _, intercept in solved])


def _bordered(kernel: Float64, curvature: Float64, working: Float64, strength: float) -> tuple[Float64, float]:
    """Return a (n,) and b with (K + strength / curvature) a + b = working and sum(a) = 0: weighted ridge regression.

    By the Cholesky factor of I + V K V with V^2 = curvature / strength, whose eigenvalues are 1 and more.
    """
    v = np.sqrt(curvature / strength)
    matrix = kernel * v
    matrix *= v[:, None]
    matrix.flat[:: len(v) + 1] += 1
    sides = np.empty((2, len(v)))
    np.multiply(v, working, out=sides[0])
    sides[1] = v
    _, solved, trouble = dposv(matrix.T, sides.T, overwrite_a=True, overwrite_b=True)
    if trouble:
        raise DataError("inner products of the training rows are not positive definite: rounding outweighs them.")
    first, second = solved.T * v
    b = float(first.sum() / second.sum())
    return first - b * second, b
