"""Small cohorts with every kind of block, for the tests of linear models."""

from dataclasses import replace

import numpy as np

from bids_fmmtc.types import Cohort

H, R = 5, 12
SITES = ("a", "b", "c")


def make_cohort(n=24, seed=0, kind="classification", windows=2, h=H, r=R, effect=0.0):
    """Vectors about 3 and covariances of random series, so that ``fc`` can be projected to tangent space."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2).astype(float) if kind == "classification" else rng.normal(50, 20, n)
    code = (y - y.mean()) / y.std()
    arrays = {"brainlm": [], "fc": []}
    for z in code:
        arrays["brainlm"].append((rng.standard_normal((windows, h)) + 3 + effect * z).astype(np.float32))
        series = rng.standard_normal((windows, 3 * r, r))
        covariance = np.swapaxes(series, 1, 2) @ series / (3 * r)
        arrays["fc"].append(((covariance + np.swapaxes(covariance, 1, 2)) / 2).astype(np.float32))
    names = tuple(f"sub-{i:03d}" for i in range(n))
    return Cohort(
        keys=names,
        subjects=names,
        groups=names,
        arrays={name: tuple(rows) for name, rows in arrays.items()},
        y=y,
        kind=kind,
        covariates={"age": holed(rng, rng.normal(50, 10, (n, 1))), "sex": np.eye(2)[rng.integers(0, 2, n)]},
        motion=holed(rng, rng.gamma(2, 0.1, n)),
        sites=tuple(rng.choice(SITES, n)),
        arms=None,
        quality=((),) * n,
        digest="",
    )


def holed(rng, values):
    """Values with about one in six missing."""
    return np.where(rng.random(values.shape) < 1 / 6, np.nan, values)


def changed(cohort, rows, seed=9):
    """The cohort with everything but the outcome changed in some rows."""
    other = make_cohort(len(cohort), seed, cohort.kind, h=cohort.arrays["brainlm"][0].shape[1])
    rows = set(map(int, rows))

    def mixed(mine, theirs):
        return tuple(b if i in rows else a for i, (a, b) in enumerate(zip(mine, theirs, strict=True)))

    return replace(
        cohort,
        arrays={name: mixed(a, [4 * x for x in other.arrays[name]]) for name, a in cohort.arrays.items()},
        covariates={n: np.array(mixed(a, 10 * other.covariates[n])) for n, a in cohort.covariates.items()},
        motion=np.array(mixed(cohort.motion, 7 * other.motion)),
        sites=mixed(cohort.sites, ["elsewhere"] * len(cohort)),
    )
