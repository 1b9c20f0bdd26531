"""Group attributions as tables and images: rows by columns that are described here, and values on the atlas's grid.

Rows are plain mappings from column to value; what is not known is None. Where people have classes, each adds a
column ``mean_CLASS``: the mean over people of that class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.explaining.attribution import (
    COMBINED,
    EDGE_PARCELS,
    EDGES,
    SERIES,
    TOP,
    VOLUMES,
    GroupAttribution,
    MapSummary,
)
from bids_fmmtc.types import Float32, Int32

Row = dict[str, Any]

SHARE_COLUMNS = {
    "modality": "Input of the model.",
    "part": "Mean over people of what the modality adds to the score, above its baseline.",
    "share": "Mean absolute part, divided by the sum of that over modalities; rests on the baselines.",
    "share_low": "Lower end of its 95 % bootstrap interval over people.",
    "share_high": "Upper end.",
    "between": "Share of the differences between people's scores that comes through the modality: covariance with the "
    "explained score over its variance; modalities add up to 1. Does not rest on the baselines.",
    "between_low": "Lower end of its 95 % bootstrap interval over people.",
    "between_high": "Upper end.",
    "absolute": "Mean sum of absolute attributions, divided by the sum of that over modalities.",
    "error": "Largest completeness error of all people, as a share of what all modalities move together.",
}
_SUMMARY = {
    "mean": "Mean attribution over people, in units of the score.",
    "absolute": "Mean absolute attribution over people.",
    "consistency": "Mean divided by standard deviation over people.",
    "between": "Share of the differences between people's scores that comes this way.",
    "rank": "Rank, from 1, by absolute between, or by absolute where between is not known.",
}
PARCEL_COLUMNS = {
    "index": "Label value in the atlas's image.",
    "name": "Name of the parcel.",
    "network": "Network of the parcel.",
    "series_mean": "Mean attribution to the parcel's series.",
    "series_between": "Share of the differences between people's scores that comes through its series.",
    "volumes_mean": "Mean attribution to the parcel's voxels.",
    "volumes_between": "Share of the differences between people's scores that comes through its voxels.",
    "edges_mean": "Mean attribution to its edges, each divided evenly between its two parcels.",
    "edges_between": "Share of the differences between people's scores that comes through its edges.",
    **{name: text[:-1] + ", all of these together." for name, text in _SUMMARY.items()},
    "stability": f"Share of bootstrap draws of people in which the parcel is among the {TOP} top ones.",
}
_ENDS = {
    f"{column}_{end}": f"{text} {end}."
    for end in (1, 2)
    for column, text in (
        ("index", "Label value of parcel"),
        ("name", "Name of parcel"),
        ("network", "Network of parcel"),
    )
}
EDGE_COLUMNS = {**_ENDS, **_SUMMARY}
NETWORK_COLUMNS = {
    "input": "series, volumes: sum over the parcels of network_1; edges: sum over the edges between the two networks.",
    "network_1": "Network.",
    "network_2": "The other network; n/a for series and volumes.",
    "count": "Number of parcels or edges summed; the diagonal of a matrix is summed but not counted.",
    **{name: text for name, text in _SUMMARY.items() if name in ("mean", "between")},
}


class Parcels(Protocol):
    """What tables say of R parcels; `bids_fmmtc.types.Atlas` is one."""

    @property
    def index(self) -> Sequence[int]:
        """Label values of the parcels in the atlas's own image."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Names of the parcels."""
        ...

    @property
    def networks(self) -> Sequence[str] | None:
        """Network of each parcel, or None."""
        ...


# ------------------------------------------------------------------------------------------------------------ tables


def share_rows(group: GroupAttribution) -> list[Row]:
    """Return one row a modality, by `SHARE_COLUMNS`."""
    return [
        {
            "modality": s.modality,
            "part": s.part,
            "share": s.share,
            "share_low": s.share_interval[0],
            "share_high": s.share_interval[1],
            "between": known(s.between),
            "between_low": known(s.between_interval[0]),
            "between_high": known(s.between_interval[1]),
            "absolute": s.absolute,
            "error": s.error,
        }
        for s in group.shares
    ]


def parcel_columns(group: GroupAttribution) -> dict[str, str]:
    """Return the columns of `parcel_rows`: `PARCEL_COLUMNS`, those of volumes only where there is such a map."""
    return {
        name: text for name, text in PARCEL_COLUMNS.items() if VOLUMES in group.maps or not name.startswith(VOLUMES)
    }


def parcel_rows(group: GroupAttribution, parcels: Parcels) -> list[Row]:
    """Return R rows by `PARCEL_COLUMNS`, in the order of the atlas; none for a model that reaches no parcels.

    Raises
    ------
    DataError
        As many parcels as ``parcels`` were not attributed to.
    """
    combined = group.maps.get(COMBINED)
    if combined is None or group.stability is None:
        return []
    _check(len(combined.mean), parcels)
    ranks = _ranks(combined)
    rows = []
    for i in range(len(combined.mean)):
        row = _named(parcels, i)
        for prefix, name in (("series", SERIES), ("volumes", VOLUMES), ("edges", EDGE_PARCELS)):
            found = group.maps.get(name)
            if name == VOLUMES and found is None:
                continue
            row[f"{prefix}_mean"] = None if found is None else float(found.mean[i])
            row[f"{prefix}_between"] = None if found is None else known(found.between[i])
        rows.append(
            row | _summary_row(combined, i, ranks) | {"stability": float(group.stability[i])} | _classes(combined, i)
        )
    return rows


def edge_rows(group: GroupAttribution, parcels: Parcels, most: int = 200) -> list[Row]:
    """Return the ``most`` top edges by `EDGE_COLUMNS`, best first; those that nothing is attributed to are left out.

    Raises
    ------
    DataError
        As `parcel_rows`.
    """
    edges = group.maps.get(EDGES)
    if edges is None:
        return []
    size = _size(len(edges.mean))
    _check(size, parcels)
    first, second = np.triu_indices(size)
    ranks, weight = _ranks(edges), edges.weight
    rows = []
    for place in edges.order[:most]:
        if weight[place] == 0:
            break
        ends = [_named(parcels, int(end[place])) for end in (first, second)]
        row = {f"{column}_{n}": value for n, end in enumerate(ends, 1) for column, value in end.items()}
        rows.append(row | _summary_row(edges, int(place), ranks) | _classes(edges, int(place)))
    return rows


def network_rows(group: GroupAttribution, parcels: Parcels) -> list[Row]:
    """Return sums over networks and over edges between networks, by `NETWORK_COLUMNS`; none without networks.

    Raises
    ------
    DataError
        As `parcel_rows`.
    """
    if parcels.networks is None:
        return []
    names, of = np.unique(np.array(parcels.networks), return_inverse=True)
    rows = []
    for name in (SERIES, VOLUMES):
        if (found := group.maps.get(name)) is not None:
            _check(len(found.mean), parcels)
            rows += _sums(name, [(str(network), None, of == i) for i, network in enumerate(names)], found)
    if (edges := group.maps.get(EDGES)) is not None:
        _check(_size(len(edges.mean)), parcels)
        ends = np.triu_indices(len(of))
        low, high = np.minimum(of[ends[0]], of[ends[1]]), np.maximum(of[ends[0]], of[ends[1]])
        pairs = [(i, j) for i in range(len(names)) for j in range(i, len(names))]
        masks = [(str(names[i]), str(names[j]), (low == i) & (high == j)) for i, j in pairs]
        rows += _sums("edges", masks, edges, ends[0] != ends[1])
    return rows


def _sums(
    kind: str,
    masks: Sequence[tuple[str, str | None, NDArray[np.bool_]]],
    found: MapSummary,
    counts: NDArray[np.bool_] | bool = True,  # noqa: FBT001, FBT002  (a mask, or all)
) -> list[Row]:
    return [
        {
            "input": kind,
            "network_1": one,
            "network_2": other,
            "count": int((mask & counts).sum()),
            "mean": float(found.mean[mask].sum()),
            "between": known(found.between[mask].sum()),
        }
        for one, other, mask in masks
    ]


def _named(parcels: Parcels, i: int) -> Row:
    network = None if parcels.networks is None else parcels.networks[i]
    return {"index": int(parcels.index[i]), "name": parcels.names[i], "network": network}


def _summary_row(found: MapSummary, i: int, ranks: NDArray[np.intp]) -> Row:
    numbers = {name: known(getattr(found, name)[i]) for name in ("mean", "absolute", "consistency", "between")}
    return {**numbers, "rank": int(ranks[i])}


def _classes(found: MapSummary, i: int) -> Row:
    return {f"mean_{name}": float(values[i]) for name, values in found.by_class.items()}


def _ranks(found: MapSummary) -> NDArray[np.intp]:
    ranks = np.empty(len(found.mean), np.intp)
    ranks[found.order] = np.arange(1, len(ranks) + 1)
    return ranks


def known(value: Any) -> float | None:
    """Return a number, or None for NaN."""
    return None if np.isnan(value) else float(value)


def _size(entries: int) -> int:
    """Return R of an upper triangle with R * (R + 1) / 2 entries."""
    return int((np.sqrt(8 * entries + 1) - 1) / 2 + 0.5)


def _check(found: int, parcels: Parcels) -> None:
    if found != len(parcels.names):
        raise DataError(f"attributions are of {found} parcels, the atlas holds {len(parcels.names)}.")


def to_volume(values: NDArray[Any], labels: Int32) -> Float32:
    """Return parcel values (R,) as a float32 image on the atlas's grid, 0 in the background.

    Parameters
    ----------
    labels
        (X, Y, Z) row number + 1 of each voxel's parcel, 0 for background: `bids_fmmtc.types.Atlas.labels`.

    Raises
    ------
    DataError
        Labels above R.
    """
    if labels.max(initial=0) > len(values):
        raise DataError(f"attributions are of {len(values)} parcels, the atlas image has label {labels.max()}.")
    table: Float32 = np.concatenate([[0], values]).astype(np.float32)
    return table[labels]
