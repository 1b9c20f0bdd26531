"""Who is learnt from and who is judged: folds that never divide a person or a family."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import DataError
from bids_fmmtc.types import Float64, OutcomeKind, Rows

BINS = 5  # a number as outcome is stratified by its fifths


class Fold(NamedTuple):
    """Row numbers to learn from and to judge, each in ascending order."""

    train: Rows
    test: Rows


def rng_of(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of a named piece of work: the same whatever was drawn before it."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], np.uint32).tolist()])


def stratified_folds(
    y: Float64, groups: Sequence[str], kind: OutcomeKind, n_folds: int, rng: np.random.Generator
) -> list[Fold]:
    """Deal groups to folds at random so that each fold holds its share of every class, or fifth of the outcome.

    Parameters
    ----------
    y
        (N,) outcomes.
    groups
        N names; rows of one name share a fold. A group counts as the class of most of its rows.
    n_folds
        At least 2.
    rng
        Decides who goes where.

    Returns
    -------
    ``n_folds`` folds whose test parts hold every row once.

    Raises
    ------
    DataError
        Fewer groups than folds, or fewer than two groups of a class.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    mean = np.bincount(member, weights=y) / np.bincount(member)
    strata = (mean > 0.5).astype(np.intp) if kind == "classification" else _fifths(mean)
    if len(names) < n_folds:
        raise DataError(
            f"{len(names)} independent people or families cannot be divided into {n_folds} folds.",
            "Give fewer --folds, or more people.",
        )
    if kind == "classification" and min(np.bincount(strata, minlength=2)) < 2:
        found = np.bincount(strata, minlength=2)
        raise DataError(
            f"cross-validation needs at least two people of each class, found {found[1]} responders and {found[0]} "
            "non-responders.",
            "Check the outcome column and --responder-if.",
        )
    fold_of = np.empty(len(names), np.intp)
    dealt = 0
    # The next class goes on where the last one stopped, so that folds differ by one group at most.
    for stratum in np.unique(strata):
        inside = rng.permutation(np.flatnonzero(strata == stratum))
        fold_of[inside] = (dealt + np.arange(len(inside))) % n_folds
        dealt += len(inside)
    return [_fold(fold_of[member] == k) for k in range(n_folds)]


def most_folds(y: Float64, groups: Sequence[str], kind: OutcomeKind, wanted: int) -> int:
    """Return how many folds people can be divided into: ``wanted``, or as many as the rarer class has groups."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if kind == "regression":
        return max(2, min(wanted, len(names)))
    responders = np.bincount(member, weights=y) / np.bincount(member) > 0.5
    return max(2, min(wanted, int(responders.sum()), int((~responders).sum())))


def site_folds(sites: Sequence[str], groups: Sequence[str]) -> dict[str, Fold]:
    """Return site -> fold that judges its people by a model of all others; a group at two sites is in no training.

    Raises
    ------
    DataError
        Fewer than two sites.
    """
    names = sorted(set(sites))
    if len(names) < 2:
        raise DataError(f"leaving a site out needs at least two sites, found {', '.join(names) or 'none'}.")
    where, who = np.asarray(sites, dtype=str), np.asarray(groups, dtype=str)
    folds = {}
    for name in names:
        test = where == name
        train = ~test & ~np.isin(who, who[test])
        folds[name] = Fold(np.flatnonzero(train), np.flatnonzero(test))
    return folds


def permuted_rows(groups: Sequence[str], rng: np.random.Generator) -> Rows:
    """Return a permutation of rows that moves whole groups to the places of groups of equal size.

    Row ``result[i]`` takes the place, and so the outcome and the fold, of row ``i``.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    rows = [np.flatnonzero(member == g) for g in range(len(names))]
    result = np.arange(len(member))
    sizes = np.array([len(r) for r in rows])
    for size in np.unique(sizes):
        same = np.flatnonzero(sizes == size)
        for place, other in zip(same, rng.permutation(same), strict=True):
            result[rows[place]] = rows[other]
    return result


def _fifths(values: Float64) -> NDArray[np.intp]:
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(order * min(BINS, len(values)) // len(values), dtype=np.intp)


def _fold(test: NDArray[np.bool_]) -> Fold:
    return Fold(np.flatnonzero(~test), np.flatnonzero(test))
