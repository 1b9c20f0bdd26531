"""What attributions say: parts and maps of a person; shares, maps and their stability of a group.

An `Attribution` divides a score, less the score of a baseline, among parcels and edges; `learning.explain` makes it.
Attributions are in the units of the score: log-odds of the second class, or units of the outcome in regression.

Two kinds of summary are kept apart. ``mean`` and ``absolute`` tell how far a parcel moves people's scores from the
baseline's. ``between`` tells what makes people's scores differ: the covariance of a parcel's attribution with the
whole explained score, divided by the latter's variance. It adds up to 1 over everything that is explained, knows no
labels, and what moves everybody alike, the choice of baseline above all, drops out. So it is what parcels and edges
are ranked by, and what a claim that a model relies on one modality should rest on.

Nothing here says that a parcel causes a response: an attribution describes a model, not a brain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import DataError
from bids_fmmtc.types import Float32, Float64

TOP = 20
"""How many parcels or edges count as the top ones."""
DRAWS, INTERVAL = 1000, (2.5, 97.5)
"""Bootstrap draws of people, and the percentiles between which 95 % of them lie."""
LEAST_PEOPLE = 3
"""Fewer people have no ``between``."""
SERIES, VOLUMES, EDGES, EDGE_PARCELS, COMBINED = "series", "volumes", "edges", "edge_parcels", "combined"
"""Maps: parcels through their series; through their voxels; edges; parcels through their edges; parcels through all."""


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """What moved the score of one person from the baseline's; means over windows.

    Parameters
    ----------
    key
        The session's key.
    score, baseline_score
        What the head says of the person and of the baseline.
    parts
        Modality -> sum of its attributions. All parts add up to ``score - baseline_score`` but for ``errors``.
    absolute
        Modality -> sum of the absolute attributions of its frames, edges, parcels (volumes) or numbers.
    parcels
        (R,) float64 sums over frames; None where series were not attributed to.
    parcels_time
        (T, R) float32 of one window, or None.
    edges
        (R, R) float64, symmetric: entry (i, j) is the whole of edge i-j, so an edge counts once, not twice. None for
        a head without connectivity.
    inputs
        ``series`` (R,), ``volumes`` (R,) and ``edges`` (R, R): mean absolute difference of the input from the baseline.
    errors, relative_errors
        Modality and ``total`` -> completeness error, the largest of all windows: absolute, and divided by what all
        modalities move together (the sum of their absolute parts).
    steps, windows
        Points on the path of the window that needed most; number of windows.
    baseline
        Modality -> what its baseline is, in words.
    volumes
        (R,) float64 sums over voxels and frames; None where volumes were not attributed to. What lies in no parcel is
        in the modality's part alone.
    """

    key: str
    score: float
    baseline_score: float
    parts: Mapping[str, float]
    absolute: Mapping[str, float]
    parcels: Float64 | None
    parcels_time: Float32 | None
    edges: Float64 | None
    inputs: Mapping[str, Float64]
    errors: Mapping[str, float]
    relative_errors: Mapping[str, float]
    steps: int
    windows: int
    baseline: Mapping[str, str]
    volumes: Float64 | None = None

    @property
    def edge_parcels(self) -> Float64 | None:
        """(R,) half of each edge to either of its parcels, the diagonal whole; adds up to the part of the edges."""
        return None if self.edges is None else halved(self.edges)

    @property
    def combined(self) -> Float64 | None:
        """(R,) `parcels`, `volumes` and `edge_parcels` together, as far as they are there."""
        maps = [values for values in (self.parcels, self.volumes, self.edge_parcels) if values is not None]
        return np.sum(maps, axis=0) if maps else None


def halved(edges: NDArray[Any]) -> Float64:
    """Return (R,) half of the off-diagonal row sums of a symmetric (R, R), plus its diagonal."""
    matrix = np.asarray(edges, np.float64)
    result: Float64 = (matrix.sum(axis=1) + np.diagonal(matrix)) / 2
    return result


# ------------------------------------------------------------------------------------------------------------ groups


@dataclass(frozen=True, slots=True, eq=False)
class MapSummary:
    """One map over people, M values: parcels, or edges as ``np.triu_indices(R)`` orders them.

    ``mean``, ``absolute`` (mean of absolute values), ``consistency`` (mean / standard deviation; NaN below 2 people
    and where all are equal, 0 where all are 0), ``between`` (see the module; NaN below 3 people or where scores do
    not differ), and ``by_class`` (class -> mean). All (M,) float64.
    """

    mean: Float64
    absolute: Float64
    consistency: Float64
    between: Float64
    by_class: Mapping[str, Float64]

    @property
    def ranked_by(self) -> str:
        """``between``, or ``absolute`` where that is not known."""
        return "absolute" if np.isnan(self.between).any() else "between"

    @property
    def weight(self) -> Float64:
        """(M,) absolute values that decide the ranks."""
        weight: Float64 = np.abs(getattr(self, self.ranked_by))
        return weight

    @property
    def order(self) -> NDArray[np.intp]:
        """Positions from the largest `weight` on; of equals the first one first."""
        return np.argsort(-self.weight, kind="stable")


@dataclass(frozen=True, slots=True)
class ModalityShare:
    """What one modality contributes, over people.

    Parameters
    ----------
    modality
        Its name.
    part
        Mean of its parts, signed.
    share, share_interval
        Mean absolute part, divided by the sum of that over modalities: 0..1. It rests on the baselines: a modality
        whose baseline is unlike everybody gets a large share though it tells nobody apart.
    between, between_interval
        Share of the differences between people's scores, see the module; negative where the modality works against
        the others. All modalities add up to 1.
    absolute
        Mean sum of absolute attributions, divided by the sum of that over modalities: 0..1. It grows with how finely
        a modality is cut (frames, edges).
    error
        Largest relative completeness error of all people.
    """

    modality: str
    part: float
    share: float
    share_interval: tuple[float, float]
    between: float
    between_interval: tuple[float, float]
    absolute: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class GroupAttribution:
    """Attributions of N people together.

    Parameters
    ----------
    keys
        Whose.
    shares
        One entry a modality.
    maps
        ``series``, ``volumes``, ``edges``, ``edge_parcels``, ``combined`` -> summary; those there are.
    inputs
        ``series``, ``volumes``, ``edges``, ``edge_parcels`` -> (M,) mean absolute difference of the inputs from the
        baseline.
    stability
        (R,) share of bootstrap draws in which a parcel of `COMBINED` is among the top ones; None without that map.
    top_stability
        Mean of ``stability`` over the top parcels: 1 if every draw finds the same ones.
    error
        Largest relative completeness error of all people, of the total.
    steps
        Most points on a path.
    baseline
        Modality -> what its baseline is, in words.
    """

    keys: tuple[str, ...]
    shares: tuple[ModalityShare, ...]
    maps: Mapping[str, MapSummary]
    inputs: Mapping[str, Float64]
    stability: Float64 | None
    top_stability: float | None
    error: float
    steps: int
    baseline: Mapping[str, str]


def group_attribution(
    people: Sequence[Attribution], classes: Sequence[str] | None = None, *, seed: int = 0
) -> GroupAttribution:
    """Put attributions together; one person alone is a group, too.

    Parameters
    ----------
    people
        Of one head, with the same modalities and parcels.
    classes
        Name of the class of each, observed or predicted, for means by class; None in regression.
    seed
        Of the bootstrap over people.

    Raises
    ------
    DataError
        Nobody, or people whose attributions are not alike in what they hold.
    """
    if not people:
        raise DataError("there is no attribution to summarise.", "Explain at least one person.")
    if classes is not None and len(classes) != len(people):
        raise ValueError(f"{len(people)} people but {len(classes)} classes")
    stacks = _stacks(people)
    parts = np.array([[p.parts[name] for name in people[0].parts] for p in people])
    total = parts.sum(axis=1)
    drawn = np.random.default_rng([seed, len(people)]).multinomial(len(people), [1 / len(people)] * len(people), DRAWS)
    weights = drawn / len(people)
    maps = {name: _summary(values, total, classes) for name, values in stacks.items()}
    stability = top = None
    if COMBINED in maps:
        stability = _stability(stacks[COMBINED], total, maps[COMBINED].ranked_by, weights)
        top = float(stability[maps[COMBINED].order[:TOP]].mean())
    inputs = {name: np.mean([_flat(p.inputs[name]) for p in people], axis=0) for name in people[0].inputs}
    if EDGES in inputs:
        inputs[EDGE_PARCELS] = np.mean([halved(p.inputs[EDGES]) for p in people], axis=0)
    return GroupAttribution(
        keys=tuple(p.key for p in people),
        shares=_shares(people, parts, weights),
        maps=maps,
        inputs=inputs,
        stability=stability,
        top_stability=top,
        error=max(p.relative_errors["total"] for p in people),
        steps=max(p.steps for p in people),
        baseline=people[0].baseline,
    )


def _stacks(people: Sequence[Attribution]) -> dict[str, NDArray[Any]]:
    """Return map -> (N, M) values of all people."""
    getters: dict[str, Callable[[Attribution], NDArray[Any] | None]] = {
        SERIES: lambda p: p.parcels,
        VOLUMES: lambda p: p.volumes,
        EDGES: lambda p: p.edges,
        EDGE_PARCELS: lambda p: p.edge_parcels,
        COMBINED: lambda p: p.combined,
    }
    if len({tuple(p.parts) for p in people}) > 1:
        raise DataError("attributions of one group must be of the same modalities.")
    stacks = {}
    for name, get in getters.items():
        column = [None if (values := get(person)) is None else _flat(values) for person in people]
        if len({None if values is None else values.shape for values in column}) > 1:
            raise DataError(f"attributions of one group must hold {name} all or none, and of as many parcels.")
        if column[0] is not None:
            stacks[name] = np.stack([values for values in column if values is not None])
    return stacks


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """Return a map as (M,): of a matrix the upper triangle with the diagonal."""
    return values if values.ndim == 1 else values[np.triu_indices(len(values))]


def _summary(values: NDArray[Any], total: Float64, classes: Sequence[str] | None) -> MapSummary:
    mean = values.mean(axis=0, dtype=np.float64)
    spread = values.std(axis=0, ddof=1, dtype=np.float64) if len(values) > 1 else np.full_like(mean, np.nan)
    unknown = np.where((mean == 0) & (spread == 0), 0.0, np.nan)
    even = np.full((1, len(values)), 1 / len(values))
    named = np.array(classes if classes is not None else [])
    return MapSummary(
        mean=mean,
        absolute=np.abs(values).mean(axis=0, dtype=np.float64),
        consistency=np.divide(mean, spread, out=unknown, where=spread > 0),
        between=_between(values, total, even)[0],
        by_class={str(c): values[named == c].mean(axis=0, dtype=np.float64) for c in np.unique(named)},
    )


def _between(values: NDArray[Any], total: Float64, weights: Float64) -> Float64:
    """Return (B, M) covariances with the total (N,), divided by its variance, under weights (B, N) of people."""
    n, count = values.shape
    centred = total - total.mean()
    if n < LEAST_PEOPLE or not centred.any():
        return np.full((len(weights), count), np.nan)
    data = values - values.mean(axis=0, dtype=np.float64)
    mean = weights @ centred
    variance = weights @ centred**2 - mean**2
    covariance = weights @ (data * centred[:, None]) - (weights @ data) * mean[:, None]
    # A draw of one person over and over has no variance but for rounding.
    known = variance > 1e-12 * (centred**2).mean()
    return np.where(known[:, None], covariance / np.where(known, variance, 1)[:, None], np.nan)


def _stability(values: NDArray[Any], total: Float64, ranked_by: str, weights: Float64) -> Float64:
    """Return (R,) the share of draws in which each parcel is among the `TOP` ones."""
    drawn = _between(values, total, weights) if ranked_by == "between" else weights @ np.abs(values)
    drawn = np.abs(drawn[~np.isnan(drawn).any(axis=1)])
    top = np.argsort(-drawn, axis=1, kind="stable")[:, :TOP]
    return np.bincount(top.ravel(), minlength=values.shape[1]) / len(drawn)


def _shares(people: Sequence[Attribution], parts: Float64, weights: Float64) -> tuple[ModalityShare, ...]:
    even = np.full((1, len(people)), 1 / len(people))
    rows = np.concatenate([even, weights])  # first what was found, then the draws
    share = _divided(rows @ np.abs(parts))
    between = _between(parts, parts.sum(axis=1), rows)
    absolute = _divided(np.array([[np.mean([p.absolute[name] for p in people]) for name in people[0].parts]]))
    return tuple(
        ModalityShare(
            modality=name,
            part=float(parts[:, i].mean()),
            share=float(share[0, i]),
            share_interval=_interval(share[1:, i]),
            between=float(between[0, i]),
            between_interval=_interval(between[1:, i]),
            absolute=float(absolute[0, i]),
            error=max(p.relative_errors[name] for p in people),
        )
        for i, name in enumerate(people[0].parts)
    )


def _divided(values: Float64) -> Float64:
    """Divide rows (B, M) by their sums; 0 where that is 0."""
    total = values.sum(axis=1, keepdims=True)
    result: Float64 = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    return result


def _interval(draws: Float64) -> tuple[float, float]:
    known = draws[~np.isnan(draws)]
    low, high = np.percentile(known, INTERVAL) if len(known) else (np.nan, np.nan)
    return float(low), float(high)
