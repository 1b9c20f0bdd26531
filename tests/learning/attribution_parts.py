"""Attributions of made-up people, for the tests of groups, tables and checks."""

from dataclasses import dataclass

import numpy as np

from bids_fmmtc.learning.explaining.attribution import Attribution


@dataclass
class Names:
    """As much of an atlas as tables need."""

    index: tuple
    names: tuple
    networks: tuple | None


def names_of(r, *, networks=True):
    of = tuple("ab"[i % 2] for i in range(r)) if networks else None
    return Names(tuple(range(10, 10 + r)), tuple(f"p{i}" for i in range(r)), of)


def person(key="sub-01", series=None, edges=None, vector=None, error=0.001):
    """An attribution with these maps: series (R,), symmetric edges (R, R); or the encoder's part as one number."""
    parts, absolute, inputs = {}, {}, {}
    if series is not None:
        parts["brainlm"], absolute["brainlm"] = float(series.sum()), float(np.abs(series).sum())
        inputs["series"] = np.abs(series)
    if vector is not None:
        parts["brainlm"], absolute["brainlm"] = vector, abs(vector)
    if edges is not None:
        parts["fc"], absolute["fc"] = float(np.triu(edges).sum()), float(np.abs(np.triu(edges)).sum())
        inputs["edges"] = np.abs(edges)
    errors = {**dict.fromkeys(parts, error), "total": 2 * error}
    return Attribution(
        key=key,
        score=sum(parts.values()) + 0.5,
        baseline_score=0.5,
        parts=parts,
        absolute=absolute,
        parcels=series,
        parcels_time=None,
        edges=edges,
        inputs=inputs,
        errors=errors,
        relative_errors=errors,
        steps=16,
        windows=1,
        baseline=dict.fromkeys(parts, "zero"),
    )


def symmetric(rng, r, scale=1.0):
    half = np.triu(rng.normal(0, scale, (r, r)), 1)
    return half + half.T


def people(n=12, r=30, seed=0, planted=(), effect=0.0, series=True):
    """People of two classes by turns; planted parcels carry an effect in series and in the edges among them."""
    rng = np.random.default_rng([seed, n])
    found = []
    for i in range(n):
        sign = effect * (1 if i % 2 else -1)
        parcels, edges = rng.normal(0, 1, r), symmetric(rng, r, 0.1)
        parcels[list(planted)] += sign
        for a in planted:
            for b in planted:
                edges[a, b] += sign if a != b else 0
        found.append(person(f"sub-{i:02d}", parcels if series else None, edges))
    return found
