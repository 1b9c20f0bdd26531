"""Training and evaluation of the linear head, permutations and all, against one cross-validation with scikit-learn.

    python benchmarks/group.py [--rounds 1] [--permutations 1000] [--json OUT] [--quick]

A cohort is drawn in memory: 60 people, two windows each of 424 x 424 connectivity and of 256 numbers of an encoder,
an effect in some of both. Each variant runs in a fresh child process (wall and CPU time and peak memory from
``os.wait4``) with one thread. Ours: 5 x 5 nested folds, repeated once and five times; then the permutation test of
the whole procedure. scikit-learn: the same outer folds once, Pipeline(StandardScaler, PCA, LogisticRegressionCV) with 5
inner folds and as many penalties, on a table of features; no permutations, calibration or threshold. That no encoder
is run is checked in the child: none is imported. On a busy machine compare CPU seconds, not wall.
"""

from __future__ import annotations

# Children run this file too: whatever only the parent needs is imported where it is used, so as not to count for them.
import json
import os
import sys
import time

FULL = {"people": 60, "parcels": 424, "hidden": 256, "windows": 2, "folds": 5}
QUICK = {"people": 20, "parcels": 30, "hidden": 16, "windows": 2, "folds": 3}
SEED = 20240501
VARIANTS = {
    "data": "imports and the cohort alone",
    "sklearn": "scikit-learn, one cross-validation",
    "ours-1": "ours, one repeat",
    "ours-5": "ours, five repeats",
    "permuted-1": "ours, one repeat, and its permutations",
    "permuted-5": "ours, five repeats, and their permutations",
}
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
ENCODERS = ("bids_fmmtc.modalities.brainlm", "transformers", "torch")
"""Modules without which no encoder can be run."""


# ---------------------------------------------------------------------------------------------------------- the cohort


def cohort(grid):
    import numpy as np

    from bids_fmmtc.types import Cohort

    rng = np.random.default_rng(SEED)
    n, r, w = grid["people"], grid["parcels"], grid["windows"]
    y = np.arange(n) % 2.0
    matrices, vectors = [], []
    for sign in 2 * y - 1:
        person = 0.3 * rng.standard_normal((r, r), np.float32)
        person[: r // 20, : r // 20] += 0.1 * sign
        windows = person + 0.3 * rng.standard_normal((w, r, r), np.float32)
        windows = (windows + windows.transpose(0, 2, 1)) / 2
        windows[:, np.arange(r), np.arange(r)] = 0
        matrices.append(windows.astype(np.float32))
        own = rng.standard_normal(grid["hidden"]) + (np.arange(grid["hidden"]) < 8) * 0.3 * sign
        vectors.append((own + 0.3 * rng.standard_normal((w, grid["hidden"]))).astype(np.float32))
    ids = tuple(f"sub-{i:02d}" for i in range(n))
    return Cohort(
        keys=ids,
        subjects=ids,
        groups=ids,
        arrays={"brainlm": tuple(vectors), "fc": tuple(matrices)},
        y=y,
        kind="classification",
        covariates={},
        motion=np.full(n, np.nan),
        sites=None,
        arms=None,
        quality=((),) * n,
        digest="benchmark",
    )


# -------------------------------------------------------------------------------------------------------- the variants


def data(grid):
    from bids_fmmtc.learning.judging import evaluate  # noqa: F401

    return {"people": len(cohort(grid)), "work_cpu_s": 0.0}


def scheme_of(grid, repeats):
    from bids_fmmtc.learning.judging.evaluate import Scheme
    from bids_fmmtc.learning.judging.nested import Inner

    return Scheme(grid["folds"], repeats, Inner(grid["folds"], seed=SEED), SEED)


def auroc(y, judged):
    import numpy as np

    from bids_fmmtc.learning.judging.metrics import CLASSIFICATION

    return float(CLASSIFICATION["auroc"](y, judged, np.ones((1, len(y))))[0])


def ours(grid, repeats, permutations):
    """Run what the group level runs of the linear head: judge it out of fold, then the permutation test."""
    from bids_fmmtc.learning.judging.contestants import Setup, contestants
    from bids_fmmtc.learning.judging.evaluate import cross_validate, final_model, permutation_null
    from bids_fmmtc.learning.judging.intervals import permutation_p
    from bids_fmmtc.learning.ledger import Ledger

    people, scheme = cohort(grid), scheme_of(grid, repeats)
    start = time.process_time()
    learner = contestants(people, Setup())[0].learner
    judged = cross_validate(learner, people, scheme.divisions(people), scheme.inner, "evaluate/model")
    final_model(learner, people, scheme.inner, "model")
    found = {"auroc": auroc(people.y, judged)}
    if permutations:
        null = permutation_null(learner, people, scheme, auroc, permutations, Ledger(None, ""), lambda _: None)
        found["p"] = permutation_p(found["auroc"], null)
    found["work_cpu_s"] = time.process_time() - start
    return found | {"imported": [name for name in ENCODERS if name in sys.modules]}


def explicit(grid):
    """Cross-validate once with scikit-learn's own parts, on a table of all edges and the encoder's numbers."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from bids_fmmtc.learning.learners.linear import PENALTIES

    people = cohort(grid)
    start = time.process_time()
    upper = np.triu_indices(grid["parcels"], 1)
    edges = [windows.mean(axis=0)[upper] for windows in people.arrays["fc"]]
    table = np.hstack([np.stack(edges), np.stack([windows.mean(axis=0) for windows in people.arrays["brainlm"]])])
    probability = np.empty(len(people))
    for fold in scheme_of(grid, 1).divisions(people)[0]:
        model = make_pipeline(
            StandardScaler(),
            PCA(svd_solver="full"),
            LogisticRegressionCV(
                Cs=[1 / p for p in PENALTIES],
                cv=grid["folds"],
                scoring="neg_log_loss",
                class_weight="balanced",
                l1_ratios=(0.0,),
                use_legacy_attributes=False,
                max_iter=1000,
            ),
        )
        model.fit(table[fold.train], people.y[fold.train])
        probability[fold.test] = model.predict_proba(table[fold.test])[:, 1]
    return {"auroc": float(roc_auc_score(people.y, probability)), "work_cpu_s": time.process_time() - start}


def child(name, grid, permutations):
    kind, _, repeats = name.partition("-")
    if kind == "data":
        return data(grid)
    if kind == "sklearn":
        return explicit(grid)
    return ours(grid, int(repeats), permutations if kind == "permuted" else 0)


# ---------------------------------------------------------------------------------------------------------- the parent


def measure(name, grid, permutations):
    """Start one child and return its figures; the parent stays small, as its memory counts towards a child's peak."""
    import subprocess

    command = [sys.executable, __file__, "--child", name, json.dumps(grid), str(permutations)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | ONE_THREAD) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the child for {name} ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": usage.ru_maxrss / 1024, **json.loads(output)}  # kB on Linux


def summarise(runs):
    """Medians and ratios."""
    import statistics

    table = {}
    for variant, found in runs.items():
        names = [name for name, value in found[0].items() if isinstance(value, float | int)]
        table[variant] = {name: statistics.median(run[name] for run in found) for name in names}
    for row in table.values():
        row["net_mb"] = row["peak_mb"] - table["data"]["peak_mb"]
        row["of_sklearn"] = row["work_cpu_s"] / table["sklearn"]["work_cpu_s"]
    return table


def markdown(table, grid, permutations, rounds):
    lines = [
        f"{grid['people']} people, {grid['windows']} windows each, {grid['parcels']} parcels, encoder of "
        f"{grid['hidden']}; {grid['folds']} x {grid['folds']} nested folds, {permutations} permutations. Medians of "
        f"{rounds} fresh processes with one thread.",
        "",
        "| variant | wall s | CPU s | of it work: CPU s | x scikit-learn's | peak MB | above the data's | AUROC | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, row in table.items():
        cells = [VARIANTS[variant], f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['work_cpu_s']:.2f}"]
        cells += [f"{row['of_sklearn']:.2f}", f"{row['peak_mb']:.0f}", f"{row['net_mb']:.0f}"]
        cells += [f"{row[name]:.3f}" if name in row else "" for name in ("auroc", "p")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(table, imported):
    """Yield (met, what was found) for each target."""
    for repeats in (1, 5):
        minutes = table[f"permuted-{repeats}"]["cpu_s"] / 60
        yield minutes < 15, f"{repeats} x the folds and all permutations: {minutes:.1f} minutes of CPU (target: 15)"
    ratio = table["ours-1"]["of_sklearn"]
    yield ratio <= 1, f"one repeat takes {ratio:.2f} times the CPU of scikit-learn's cross-validation (target: 1)"
    growth = table["permuted-5"]["net_mb"]
    yield growth < 500, f"peak memory is {growth:.0f} MB above that of the cohort (target: below 500)"
    yield not imported, f"no encoder is run in training: imported there are {', '.join(imported) or 'none'}"


def main():
    import argparse
    import importlib.metadata
    import platform
    from pathlib import Path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="rounds over all variants (default 1)")
    parser.add_argument("--permutations", type=int, default=1000, help="default 1000; with --quick 5")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure here")
    parser.add_argument("--quick", action="store_true", help="a small cohort, to see that the benchmark works")
    options = parser.parse_args()
    grid, permutations = (QUICK, 5) if options.quick else (FULL, options.permutations)
    runs = {variant: [] for variant in VARIANTS}
    for done in range(options.rounds):
        for variant, found in runs.items():
            found.append(measure(variant, grid, permutations))
            print(f"round {done + 1}: {VARIANTS[variant]}, {found[-1]['cpu_s']:.1f} s of CPU", file=sys.stderr)
    table = summarise(runs)
    imported = sorted({name for group in runs.values() for run in group for name in run.get("imported", ())})
    versions = {p: importlib.metadata.version(p) for p in ("bids_fmmtc", "numpy", "scipy", "scikit-learn")}
    versions |= {"python": platform.python_version()}
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + f"; {os.cpu_count()} cores.\n")
    print(markdown(table, grid, permutations, options.rounds) + "\n")
    found = list(verdicts(table, imported))
    if options.quick:
        print("Quick cohort: exercises the benchmark; its figures say nothing about the targets.")
    else:
        print("\n".join(f"- {'met' if ok else 'MISSED'}: {what}" for ok, what in found))
    if imported:
        raise SystemExit(f"training imported {', '.join(imported)}")
    if options.json:
        settings = {"grid": grid, "permutations": permutations, "rounds": options.rounds, "versions": versions}
        result = {"settings": settings, "median": table, "runs": runs}
        result |= {"verdicts": [{"met": bool(ok), "what": what} for ok, what in found]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--child":
        name, grid, permutations = sys.argv[2:]
        print(json.dumps(child(name, json.loads(grid), int(permutations))))
    else:
        main()
