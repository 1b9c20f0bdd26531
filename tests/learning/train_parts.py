"""Small cohorts with a planted effect, and the surroundings of training, for the tests of training."""

import numpy as np

from bids_fmmtc.learning.judging.contestants import Setup
from bids_fmmtc.learning.ledger import Ledger
from bids_fmmtc.types import Cohort

R, H = 8, 6
RESNET = {"width": 4, "embedding_size": 4, "hidden_sizes": [4, 4], "depths": [1, 1]}
BLOCKS = ("brainlm", "fc")


def make_cohort(n=20, seed=0, effect=(1.0, 1.0), kind="classification", windows=2, direction=0, covariance=False):
    """``effect`` is that in T and in C; ``direction`` the number of the encoder's axis that carries it."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2).astype(float)
    vectors, matrices = [], []
    for sign in 2 * y - 1:
        own, edges = rng.standard_normal(H), 0.2 * rng.standard_normal((R, R))
        own[direction] += sign * effect[0]
        edges[:4, :4] += 0.2 * sign * effect[1]
        vectors.append(own + 0.3 * rng.standard_normal((windows, H)))
        matrices.append(np.stack([symmetric(edges + 0.1 * rng.standard_normal((R, R))) for _ in range(windows)]))
    if covariance:
        matrices = [np.stack([m @ m.T + np.eye(R) for m in person]) for person in matrices]
    arrays = {"brainlm": vectors, "fc": matrices}
    outcome = y if kind == "classification" else 50 + 10 * y + rng.standard_normal(n)
    ids = tuple(f"sub-{i:02d}" for i in range(n))
    return Cohort(
        keys=ids,
        subjects=ids,
        groups=ids,
        arrays={name: tuple(np.asarray(a, np.float32) for a in column) for name, column in arrays.items()},
        y=outcome,
        kind=kind,
        covariates={},
        motion=np.zeros(n),
        sites=None,
        arms=None,
        quality=((),) * n,
        digest="d",
    )


def symmetric(edges):
    matrix = (edges + edges.T) / 2
    np.fill_diagonal(matrix, 0)
    return matrix


def make_setup(folder=None, **changes):
    return Setup(**{"head": "fmmtc", "ledger": Ledger(folder, "d" * 64), "seed": 3, **changes})
