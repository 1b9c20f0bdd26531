"""Whether the maps of a model are its own, and whether they are the same in another data set.

Sanity check: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018. A map that hardly changes when the
weights are random does not show what was learnt. Maps that multiply a gradient by the input, as integrated gradients
do, may fail it, since they repeat the size of the input; a failure is to be reported with the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.explaining.attribution import TOP, GroupAttribution, MapSummary
from bids_fmmtc.learning.explaining.tables import Row, known
from bids_fmmtc.types import Float64

LIMIT = 0.5
"""Absolute rank correlation with the map of a random model from which a map fails the sanity check. Adebayo et al.
set no number; this one is a convention of ours."""

SANITY_COLUMNS = {
    "map": "Which map.",
    "summary": "absolute: mean absolute attribution; between: absolute share of differences between people.",
    "random_model": "Rank correlation with the same map of the model with random weights, mean over models.",
    "input_size": "Rank correlation with the mean absolute difference of the input from the baseline, which needs "
    "neither model nor labels.",
    "passes": f"Whether the absolute value of random_model is below {LIMIT}.",
}
COMPARISON_COLUMNS = {
    "what": "share, between or absolute of a modality, or a map and its summary.",
    "name": "Modality or map.",
    "one": "Value in the first data set.",
    "other": "Value in the second data set.",
    "pearson": "Correlation of the two maps over parcels or edges. Neighbours resemble each other, so a p value from "
    "their number would be too small, and none is given.",
    "spearman": "Rank correlation of the two maps.",
    "top_shared": f"How many of the {TOP} top parcels or edges are the same.",
    "top_by_chance": "How many would be, on average, if the top ones were drawn at random.",
}


# ------------------------------------------------------------------------------------------------------ sanity check


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """Rows by `SANITY_COLUMNS`, whether all pass, and the verdict in words."""

    rows: tuple[Row, ...]
    passes: bool
    text: str


def sanity_check(trained: GroupAttribution, randomised: Sequence[GroupAttribution]) -> SanityCheck:
    """Compare the maps of a model with those of the same model with random weights.

    Parameters
    ----------
    trained
        Of the model.
    randomised
        One or more of the same people by models of random weights, see `explain.Explainer.randomised`.

    Notes
    -----
    Rank correlations of absolute values, over places where either map is not 0. A map of zeros, as of a modality that
    the model ignores, is left out. ``between`` of few people is noise in both, so it passes easily: use all people
    where the cost allows.

    Raises
    ------
    ValueError
        No random model.
    """
    if not randomised:
        raise ValueError("the sanity check needs at least one random model")
    rows = [
        row
        for name, found in trained.maps.items()
        for summary in ("absolute", "between")
        if (row := _sanity_row(name, summary, found, trained, randomised)) is not None
    ]
    failed = [f"{row['map']} by {row['summary']} ({row['random_model']:.2f})" for row in rows if not row["passes"]]
    if not rows:
        text = "There is no map to check."
    elif failed:
        text = (
            f"Model randomisation: with random weights these maps still resemble the model's, at a rank correlation of "
            f"{LIMIT} or more: {', '.join(failed)}. They show the size of the input more than what was learnt."
        )
    else:
        worst = max(abs(row["random_model"]) for row in rows)
        text = (
            f"Model randomisation: passed. No map resembles that of random weights (largest rank correlation "
            f"{worst:.2f}, limit {LIMIT})."
        )
    return SanityCheck(tuple(rows), bool(rows) and not failed, text)


def _sanity_row(
    name: str, summary: str, found: MapSummary, trained: GroupAttribution, randomised: Sequence[GroupAttribution]
) -> Row | None:
    values = np.abs(getattr(found, summary))
    if np.isnan(values).any() or not values.any():
        return None
    found_rhos = [_spearman(values, np.abs(getattr(group.maps[name], summary))) for group in randomised]
    rhos = [rho for rho in found_rhos if rho is not None]
    rho = float(np.mean(rhos)) if rhos else 0.0  # constant maps of random models: nothing is alike
    size = trained.inputs.get(name)
    return {
        "map": name,
        "summary": summary,
        "random_model": rho,
        "input_size": None if size is None else _spearman(values, size),
        "passes": abs(rho) < LIMIT,
    }


def _spearman(one: Float64, other: Float64) -> float | None:
    """Return the rank correlation over places where either is not 0; None where one is constant there, or unknown."""
    from scipy.stats import rankdata  # noqa: PLC0415  (0.5 s)

    used = (one != 0) | (other != 0)
    return _pearson(rankdata(one[used]), rankdata(other[used]))


def _pearson(one: Float64, other: Float64) -> float | None:
    if len(one) < 3 or not np.ptp(one) > 0 or not np.ptp(other) > 0:  # NaN where a value is
        return None
    return float(np.corrcoef(one, other)[0, 1])


# ------------------------------------------------------------------------------------------------------ side by side


def compare(one: GroupAttribution, other: GroupAttribution) -> list[Row]:
    """Return what one model does in two data sets, by `COMPARISON_COLUMNS`: shares of modalities, and maps.

    Maps are compared by ``mean`` and by ``between``, signed. Their classes and people need not be alike.

    Raises
    ------
    DataError
        Other modalities, or another number of parcels.
    """
    names = [s.modality for s in one.shares]
    if names != [s.modality for s in other.shares]:
        found = ", ".join(s.modality for s in other.shares)
        raise DataError(f"attributions of {', '.join(names)} cannot be compared with those of {found}.")
    rows: list[Row] = []
    for what in ("share", "between", "absolute"):
        for a, b in zip(one.shares, other.shares, strict=True):
            rows.append(_row(what, a.modality, {"one": known(getattr(a, what)), "other": known(getattr(b, what))}))
    for kind, summary in one.maps.items():
        if kind in other.maps:
            rows += [_compared(kind, by, summary, other.maps[kind]) for by in ("mean", "between")]
    return rows


def _compared(name: str, by: str, one: MapSummary, other: MapSummary) -> Row:
    if len(one.mean) != len(other.mean):
        raise DataError(
            f"maps {name} of {len(one.mean)} and {len(other.mean)} values cannot be compared.",
            "Compare data sets of one parcellation.",
        )
    a, b = getattr(one, by), getattr(other, by)
    values: Row = {"pearson": _pearson(a, b), "spearman": _spearman(a, b)}
    if not np.isnan(a + b).any():
        top = min(TOP, len(a))
        first, second = (set(np.argsort(-np.abs(m), kind="stable")[:top].tolist()) for m in (a, b))
        values |= {"top_shared": len(first & second), "top_by_chance": top * top / len(a)}
    return _row(f"map by {by}", name, values)


def _row(what: str, name: str, values: Mapping[str, Any]) -> Row:
    return {**dict.fromkeys(COMPARISON_COLUMNS), "what": what, "name": name, **values}
