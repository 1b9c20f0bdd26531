"""Does the group level say what is there? Noise, planted effects and a site in disguise, evaluated at length.

Every cohort is synthetic (``tests/planted.py``), every evaluation the default one: 5 x 5 nested folds, repeated 5
times, linear head, unless a line says otherwise. Figures are deterministic but for seconds.

    python benchmarks/honesty.py --json honesty.json            # hours on one core
    python benchmarks/honesty.py --quick                        # minutes; says nothing about the targets
    python benchmarks/honesty.py noise time --permutations 200  # only these parts
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import fields
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import planted

from bids_fmmtc.group.judging import evaluation, judge_all
from bids_fmmtc.group.study import Study
from bids_fmmtc.learning.bundle.calibrate import prediction_set
from bids_fmmtc.learning.judging.contestants import Setup
from bids_fmmtc.learning.judging.decide import fit_conformal
from bids_fmmtc.learning.judging.evaluate import Scheme, cross_validate, final_model, permutation_null
from bids_fmmtc.learning.judging.intervals import estimates, permutation_p
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, auroc, calibration_slope
from bids_fmmtc.learning.judging.nested import Inner, probabilities
from bids_fmmtc.learning.learners.linear import LinearLearner
from bids_fmmtc.learning.ledger import Ledger
from bids_fmmtc.modalities.about import LETTERS
from bids_fmmtc.plain import to_json
from bids_fmmtc.results.measures import MEASURES, PRIMARY
from bids_fmmtc.results.verdict import verdicts

BOTH = ("brainlm", "fc")
AREAS = ("auroc", "auroc_within")
AREA = PRIMARY["classification"].name


def value_of(name, y, judged):
    return float(CLASSIFICATION[name](y, judged, np.ones((1, len(y))))[0])


def linear(cohort):
    return LinearLearner(cohort, BOTH, tangent=False)


def evaluated(cohort, scheme, *, left_out=False):
    """Return what ``evaluation.json`` holds of a cohort, with its verdicts, as the group level makes them."""
    given = {field.name: None for field in fields(Study)}
    given |= {"cohort": cohort, "exclusions": (), "scheme": scheme, "setup": Setup(), "ledger": Ledger(None, "")}
    study = Study(**given)
    found = evaluation(study, judge_all(study), permutations=0, sites_apart=left_out, threads=1)
    return to_json(found), [each.text for each in verdicts(found, LETTERS)]


def say(line):
    print(line, file=sys.stderr, flush=True)


def table(head, rows):
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


# ------------------------------------------------------------------------------------------------------------- noise


def null_areas(cohort, scheme, n):
    """Return name -> (n,) areas of the whole procedure on permuted outcomes, both from the same permutations."""
    found = {name: [] for name in AREAS}

    def statistic(y, judged):
        for name in AREAS:
            found[name].append(value_of(name, y, judged))
        return 0.0

    permutation_null(linear(cohort), cohort, scheme, statistic, n, Ledger(None, ""), lambda _: None)
    return {name: np.array(values) for name, values in found.items()}


def published(cohort):
    """Return the mean Matthews correlation at the best and at the last epoch of the published protocol."""
    from bids_fmmtc.learning.judging.published import published_protocol
    from bids_fmmtc.learning.learners.epochs import TrainingOptions

    found = published_protocol(cohort, BOTH, TrainingOptions(), Setup(), head="linear")
    best, last = found["best_epoch"], found["last_epoch"]
    return {"best": None if best is None else best["mean"]["mcc"], "last": last["mean"]["mcc"]}


def noise(options):
    """Judge cohorts in which nothing can be predicted, honestly and as published."""
    scheme = Scheme(repeats=options.repeats)
    rows = []
    for seed in range(options.cohorts):
        cohort = planted.cohort(options.people, "none", seed=seed)
        judged = cross_validate(linear(cohort), cohort, scheme.divisions(cohort), scheme.inner, "noise")
        chosen = {name: CLASSIFICATION[name] for name in (*AREAS, "mcc", "balanced_accuracy")}
        n_train = len(cohort) * (1 - 1 / scheme.folds)
        found = estimates(cohort.y, judged, cohort.groups, chosen, n_train)
        null = null_areas(cohort, scheme, options.permutations)
        row = {name: to_json(estimate) for name, estimate in found.items()}
        row["p"] = {name: permutation_p(found[name].value, null[name]) for name in AREAS}
        row["published"] = published(cohort)
        rows.append(row)
        say(f"noise {seed + 1} of {options.cohorts}: " + json.dumps({k: row[k]["value"] for k in chosen} | row["p"]))
    return rows


def show_noise(rows, options):
    n = len(rows)
    lines = []
    for name in (*AREAS, "mcc", "balanced_accuracy"):
        chance = MEASURES[name].chance
        values = np.array([row[name]["value"] for row in rows])
        covered = sum(row[name]["low"] <= chance <= row[name]["high"] for row in rows)
        claimed = sum(row[name]["low"] > chance for row in rows)
        significant = sum(row["p"][name] < 0.05 for row in rows) if name in AREAS else ""
        mean = f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(n):.3f}"
        lines.append([name, chance, mean, f"{values.std(ddof=1):.3f}", f"{covered} of {n}", claimed, significant])
    head = ["figure", "chance", "mean ± standard error", "sd", "intervals that hold chance", "above it", "p < 0.05"]
    text = (
        f"Noise: {n} cohorts of {options.people}, {options.repeats} repeats, {options.permutations} permutations.\n\n"
    )
    text += table(head, lines)
    best = [row["published"]["best"] for row in rows if row["published"]["best"] is not None]
    last = [row["published"]["last"] for row in rows]
    return text + (
        f"\nThe published protocol with its linear layer on the same cohorts: mean Matthews correlation "
        f"{np.mean(best):.2f} as it reports (best epoch of each fold), {np.mean(last):.2f} at the last epoch.\n"
    )


def targets_noise(rows):
    n = len(rows)

    def mean(name):
        return float(np.mean([row[name]["value"] for row in rows]))

    for name in AREAS:
        covered = sum(row[name]["low"] <= 0.5 <= row[name]["high"] for row in rows)
        significant = sum(row["p"][name] < 0.05 for row in rows)
        yield abs(mean(name) - 0.5) <= 0.05, f"noise: mean {name} {mean(name):.3f} (target 0.45 to 0.55)"
        yield covered >= 0.85 * n, f"noise: {covered} of {n} intervals of {name} hold chance (target 17 of 20)"
        yield significant <= 0.15 * n, f"noise: {significant} of {n} p of {name} below 0.05 (target at most 3 of 20)"
    yield abs(mean("mcc")) <= 0.08, f"noise: mean Matthews correlation {mean('mcc'):.3f} (target -0.08 to 0.08)"


# ----------------------------------------------------------------------------------------------------------- planted

SENTENCES = {
    "T": "The time series predict the outcome on their own; connectivity alone is not",
    "C": "Connectivity predicts the outcome on its own; time series alone are not",
    "both": "Time series and connectivity each predict",
}


def top_planted(cohort, effect, n, seed):
    """Return how many of the 20 top parcels of the group attribution are planted ones; a window of each person."""
    from bids_fmmtc.learning.bundle.predict import filled_head
    from bids_fmmtc.learning.explaining.attribution import COMBINED, TOP, group_attribution
    from bids_fmmtc.learning.explaining.explain import Explainer, mean_features
    from bids_fmmtc.learning.explaining.paths import SeriesPath
    from bids_fmmtc.modalities.brainlm import BrainLMModality
    from bids_fmmtc.modalities.token_order import TokenOrder

    parts = final_model(linear(cohort), cohort, Inner(), "model").fitted.head()
    head = filled_head(parts.spec, parts.shapes, parts.state).eval()
    path = SeriesPath(BrainLMModality(planted.encoder(), TokenOrder()), planted.XYZ, "global_sd")
    explainer = Explainer(head, mean_features({name: cohort.arrays[name] for name in BOTH}), None, (path,))
    found = []
    for i, (values, _, _) in enumerate(planted.recordings(n, effect, seed=seed)):
        first = {name: cohort.arrays[name][i][:1] for name in BOTH}
        found.append(explainer.explain(cohort.keys[i], first, {"brainlm": planted.cut(values)[:1]}))
    top = group_attribution(found).maps[COMBINED].order[:TOP]
    return int(np.isin(top, planted.PLANTED).sum())


def effects(options):
    """Judge cohorts with an effect in 16 of 48 parcels: in the series, in connectivity, in both."""
    rows = []
    for effect, sentence in SENTENCES.items():
        for n in options.sizes:
            for seed in range(options.seeds):
                cohort = planted.cohort(n, effect, seed=100 + seed)
                found, said = evaluated(cohort, Scheme(repeats=options.repeats))
                row = {"effect": effect, "n": n, "seed": seed}
                row |= {
                    f"{model}_{name}": found["models"][model]["metrics"][name]["value"]
                    for model in ("model", "t_only", "c_only", "amplitude")
                    for name in AREAS
                }
                chosen = [setting for repeat in found["models"]["model"]["settings"] for setting in repeat]
                row["edge"] = sum(setting.get("edge") == "weakest" for setting in chosen) / len(chosen)
                row["named"] = any(line.startswith(sentence) for line in said)
                row["top"] = top_planted(cohort, effect, n, 100 + seed)
                rows.append(row)
                say(json.dumps(row))
    return rows


def show_effects(rows, options):
    lines = []
    for effect in SENTENCES:
        for n in options.sizes:
            some = [r for r in rows if r["effect"] == effect and r["n"] == n]
            cells = [effect, n]
            for model in ("model", "t_only", "c_only", "amplitude"):
                values = [r[f"{model}_auroc_within"] for r in some]
                cells.append(f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
            pooled = [r["model_auroc"] for r in some]
            cells.append(f"{np.mean(pooled):.2f} ({min(pooled):.2f} to {max(pooled):.2f})")
            named = f"{sum(r['named'] for r in some)} of {len(some)}"
            lines.append([*cells, named, f"{min(r['top'] for r in some)} to {max(r['top'] for r in some)}"])
    head = [
        "effect in",
        "people",
        "model",
        "T only",
        "C only",
        "amplitude, no encoder",
        "model, all pairs",
        "ablation names it",
    ]
    head.append(f"planted ({planted.N_PLANTED}) among the top 20 of {planted.R} parcels")
    return f"Planted effects: AUROC within folds, mean (range) of {options.seeds} cohorts.\n\n" + table(head, lines)


def targets_effects(rows):
    least = min(r[f"model_{name}"] for r in rows for name in AREAS)
    named, top = sum(r["named"] for r in rows), min(r["top"] for r in rows)
    yield least >= 0.85, f"planted: least AUROC of all cohorts, either way, {least:.2f} (target 0.85)"
    yield named == len(rows), f"planted: the ablation names the modality in {named} of {len(rows)} cohorts"
    yield top >= 10, f"planted: at least {top} of the 20 top parcels are planted (target 10)"


# ----------------------------------------------------------------------------------------------------- published head


def network(options):
    """Judge the published head on 24 of the parcels, effects three times as large, one window a person."""
    from bids_fmmtc.learning.learners.train import NetworkLearner, TrainingOptions

    resnet = {"width": 32, "embedding_size": 16, "hidden_sizes": [16, 32, 64, 128]}
    training = TrainingOptions(epochs=options.epochs, resnet=resnet)
    scheme = Scheme(folds=5, repeats=1, inner=Inner(folds=3))
    rows = []
    for effect in SENTENCES:
        cohort = planted.cohort(60, effect, seed=100, size=3, windows=(1, 1))
        start = time.process_time()
        learner = NetworkLearner(cohort, BOTH, training, Setup(head="fmmtc"))
        judged = cross_validate(learner, cohort, scheme.divisions(cohort), scheme.inner, "network")
        row = {"effect": effect, "cpu_s": time.process_time() - start}
        row |= {name: value_of(name, cohort.y, judged) for name in (*AREAS, "mcc")}
        row["epochs"] = [s.epochs for s in judged.settings[0]]
        rows.append(row)
        say(json.dumps(row))
    return rows


def show_network(rows, options):
    lines = [
        [r["effect"], *(f"{r[n]:.2f}" for n in ("auroc_within", "auroc", "mcc")), r["epochs"], f"{r['cpu_s']:.0f}"]
        for r in rows
    ]
    head = ["effect in", "AUROC within folds", "AUROC, all pairs", "Matthews correlation", "epochs chosen", "CPU s"]
    return (
        f"Published head, ResNet-18 of widths 16 to 128, at most {options.epochs} epochs, 60 people with one window, "
        "effects three times as large, 5 x 3 nested folds.\n\n" + table(head, lines)
    )


def targets_network(rows):
    for r in rows:
        yield r["auroc_within"] >= 0.85, f"published head, effect in {r['effect']}: AUROC {r['auroc_within']:.2f}"


# -------------------------------------------------------------------------------------------------------------- site

EXPOSED = (
    "The site alone predicts the outcome",
    "Among people of one site it is not shown to be better than chance",
    "Each site judged by models of the other sites: not shown to be better than chance",
)


def site(options):
    """Judge cohorts whose outcome follows the site and nothing else."""
    rows = []
    for seed in range(options.seeds):
        found, said = evaluated(
            planted.cohort(60, "site", seed=100 + seed), Scheme(repeats=options.repeats), left_out=True
        )
        row = {
            "model": found["models"]["model"]["metrics"][AREA],
            "site": found["models"]["site"]["metrics"][AREA],
            "within": found["within_site"],
            "left_out": found["leave_one_site_out"]["metrics"][AREA],
            "said": [text for text in EXPOSED if any(line.startswith(text) for line in said)],
        }
        rows.append(row)
        say(json.dumps(row))
    return rows


def show_site(rows, options):
    del options
    names = {
        "model": "the model, sites mixed",
        "site": "the site alone",
        "within": "the model, pairs of one site",
        "left_out": "the model, each site by models of the others",
    }
    lines = []
    for key, text in names.items():
        values = [r[key]["value"] for r in rows]
        above = sum(r[key]["low"] > 0.5 for r in rows)
        lines.append(
            [text, f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})", f"{above} of {len(rows)}"]
        )
    said = "; ".join(f'"{text}": {sum(text in r["said"] for r in rows)} of {len(rows)}' for text in EXPOSED)
    text = f"A site in disguise, {len(rows)} cohorts of 60.\n\n"
    return text + table(["judged", "AUROC, mean (range)", "interval above chance"], lines) + f"\nSaid: {said}.\n"


def targets_site(rows):
    exposed = sum(bool(r["said"]) for r in rows)
    yield exposed == len(rows), f"site: the text exposes it in {exposed} of {len(rows)} cohorts"


# ------------------------------------------------------------------------------------------------------------ bundle

STRENGTHS = (("T", 0.7), ("C", 0.5), ("both", 0.5), ("both", 1.0))


def bundle(options):
    """Apply final models to 200 new people: calibration, and conformal sets at 10 % error."""
    rows = []
    for effect, size in STRENGTHS:
        new = planted.cohort(200, effect, seed=1000, size=size)
        ones = np.ones((1, len(new)))
        for n in options.sizes:
            for seed in range(options.seeds):
                cohort = planted.cohort(n, effect, seed=200 + seed, size=size)
                final = final_model(linear(cohort), cohort, Inner(), "model")
                p, label = final.judge(new)
                own = np.mean([probabilities(s, final.settled.calibration) for s in final.settled.scores], axis=0)
                quantiles = fit_conformal(own, cohort.y, 0.1)
                sets = [prediction_set(float(v), ("0", "1"), quantiles, final.settled.threshold) for v in p]
                rows.append(
                    {
                        "effect": effect,
                        "size": size,
                        "n": n,
                        "auroc": float(auroc(new.y, p, ones)[0]),
                        "slope": float(calibration_slope(new.y, p, ones)[0]),
                        "covered": float(np.mean([f"{y:.0f}" in s for y, s in zip(new.y, sets, strict=True)])),
                        "single": float(np.mean([len(s) == 1 for s in sets])),
                        "accuracy": float(np.mean(label == new.y)),
                    }
                )
        say(f"bundle {effect} {size}")
    return rows


def show_bundle(rows, options):
    lines = []
    for effect, size in STRENGTHS:
        for n in options.sizes:
            some = [r for r in rows if (r["effect"], r["size"], r["n"]) == (effect, size, n)]
            column = {k: [r[k] for r in some] for k in ("auroc", "slope", "covered", "single", "accuracy")}
            lines.append(
                [
                    effect,
                    size,
                    n,
                    f"{np.mean(column['auroc']):.2f}",
                    f"{np.median(column['slope']):.2f} ({min(column['slope']):.2f} to {max(column['slope']):.2f})",
                    f"{np.mean(column['covered']):.2f} ({min(column['covered']):.2f} to {max(column['covered']):.2f})",
                    f"{np.mean(column['single']):.2f}",
                    f"{np.mean(column['accuracy']):.2f}",
                ]
            )
    head = ["effect in", "size", "people", "AUROC", "calibration slope, median (range)", "sets that hold the truth"]
    head += ["sets of one class", "labels right"]
    text = f"Final models on 200 new people, {options.seeds} cohorts a line, conformal sets at 10 % error.\n\n"
    return text + table(head, lines)


def targets_bundle(rows):
    full = [r for r in rows if r["size"] == 1]
    good = sum(0.5 <= r["slope"] <= 2 for r in full)
    covered = min(r["covered"] for r in full)
    yield good == len(full), f"bundle, full effect: slope between 0.5 and 2 in {good} of {len(full)} cohorts"
    yield covered >= 0.85, f"bundle, full effect: least coverage {covered:.2f} (target 0.85)"
    mean = float(np.mean([r["covered"] for r in rows]))
    yield mean >= 0.85, f"bundle, all effects: mean coverage {mean:.2f} (target 0.85)"


# -------------------------------------------------------------------------------------------------------------- time


def seconds(options):
    """Time the linear head on 60 people with its permutation test, in this one process."""
    cohort = planted.cohort(60, "T", seed=0)
    rows = []
    for repeats in (1, 5):
        scheme = Scheme(repeats=repeats)
        wall, cpu = time.perf_counter(), time.process_time()
        cross_validate(linear(cohort), cohort, scheme.divisions(cohort), scheme.inner, "time")
        once = time.process_time() - cpu
        null_areas(cohort, scheme, options.timed)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rows.append({"repeats": repeats, "permutations": options.timed, "once_s": once, "cpu_s": cpu, "wall_s": wall})
        say(json.dumps(rows[-1]))
    return rows


def show_seconds(rows, options):
    del options
    lines = [
        [r["repeats"], f"{r['once_s']:.2f}", r["permutations"], f"{r['cpu_s']:.0f}", f"{r['wall_s']:.0f}"] for r in rows
    ]
    head = ["repeats", "one evaluation, CPU s", "permutations", "all, CPU s", "wall s"]
    return "Linear head, 60 people, 5 x 5 nested folds, one thread.\n\n" + table(head, lines)


def targets_seconds(rows):
    for r in rows:
        minutes = r["cpu_s"] * 1000 / r["permutations"] / 60
        yield minutes < 10, f"time: 1,000 permutations with {r['repeats']} repeats take {minutes:.1f} CPU minutes"


PARTS = {
    "noise": (noise, show_noise, targets_noise),
    "planted": (effects, show_effects, targets_effects),
    "network": (network, show_network, targets_network),
    "site": (site, show_site, targets_site),
    "bundle": (bundle, show_bundle, targets_bundle),
    "time": (seconds, show_seconds, targets_seconds),
}
QUICK = {"cohorts": 3, "permutations": 9, "repeats": 1, "seeds": 1, "sizes": [40], "epochs": 2, "timed": 9}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"some of: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--cohorts", type=int, default=20, help="cohorts of noise (default 20)")
    parser.add_argument("--people", type=int, default=40, help="people in each (default 40)")
    parser.add_argument("--permutations", type=int, default=1000, help="for each cohort of noise (default 1000)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of the folds (default 5)")
    parser.add_argument("--seeds", type=int, default=5, help="cohorts of every other line (default 5)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[40, 60, 80], help="people (default 40 60 80)")
    parser.add_argument("--epochs", type=int, default=60, help="most epochs of the published head (default 60)")
    parser.add_argument("--timed", type=int, default=1000, help="permutations that are timed (default 1000)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure here")
    parser.add_argument("--quick", action="store_true", help="a few small cohorts, to see that the benchmark works")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}")
    if options.quick:
        vars(options).update(QUICK)
    import torch

    torch.set_num_threads(1)
    result, verdict = {"options": {k: v for k, v in vars(options).items() if k != "json"}}, []
    for name in options.parts or PARTS:
        run, show, targets = PARTS[name]
        result[name] = run(options)
        print(show(result[name], options), flush=True)
        verdict += targets(result[name])
        if options.json:
            result["verdicts"] = [{"met": bool(ok), "what": what} for ok, what in verdict]
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.quick:
        print("Quick: exercises the benchmark; its figures say nothing about the targets.")
    else:
        print("\n".join(f"- {'met' if ok else 'MISSED'}: {what}" for ok, what in verdict))


if __name__ == "__main__":
    main()
