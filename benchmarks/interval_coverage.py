"""How often intervals of cross-validated measures hold the truth, and how often tests find what is not there.

Cohorts are drawn anew, judged by repeated cross-validation, and the true performance of every model is known in
closed form (normal features, linear scores). The truth is the mean over all models of all cohorts: the performance
to expect of this way of learning from so many people. A second model sees other features, for the differences.

    python benchmarks/interval_coverage.py COHORTS [FIRST [LAST]]
"""

import math
import sys
from types import SimpleNamespace

import numpy as np
from scipy.stats import norm

from bids_fmmtc.learning.judging.intervals import corrected_t, difference, estimates, fold_values
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, REGRESSION

TABLE = {m: CLASSIFICATION[m] for m in ("auroc", "auroc_within", "mcc", "balanced_accuracy", "sensitivity")}
# name, learner, threshold, people, responders, features, effect of the model, effect of the other
SETTINGS = (
    ("noise", "ridge", "zero", 40, 20, 100, 0.0, 0.0),
    ("AUROC 0.75", "ridge", "zero", 40, 20, 100, 0.64, 0.64),
    ("AUROC 0.76, 5 features, chosen threshold", "least squares", "youden", 40, 20, 5, 0.56, 0.0),
    ("AUROC 0.79, 10 of 40, chosen threshold", "ridge", "youden", 40, 10, 100, 0.75, 0.4),
    ("noise, 10 of 40, chosen threshold", "ridge", "youden", 40, 10, 100, 0.0, 0.0),
    ("AUROC 0.90", "ridge", "zero", 40, 20, 100, 0.93, 0.64),
    ("AUROC 0.98", "ridge", "zero", 40, 20, 100, 1.25, 1.25),
    ("noise, best single feature", "best feature", "zero", 40, 20, 100, 0.0, 0.0),
    ("AUROC 0.81, 20 people", "ridge", "zero", 20, 10, 100, 0.85, 0.85),
    ("AUROC 0.66, 100 people", "ridge", "zero", 100, 50, 100, 0.4, 0.4),
)
FOLDS, REPEATS, DRAWS = 5, 5, 1000


def ridge(x, y, penalty):
    """Weights, offset, and leave-one-out scores of the training rows."""
    centre, target, n = x.mean(0), y - y.mean(), len(y)
    z = x - centre
    kernel = z @ z.T
    inverse = np.linalg.inv(kernel + penalty * np.eye(n))
    w = z.T @ (inverse @ target)
    hat = kernel @ inverse
    return w, -centre @ w, target - (target - hat @ target) / (1 - np.diag(hat) - 1 / n)


def best_feature(x, y, _):
    gap = x[y == 1].mean(0) - x[y == 0].mean(0)
    w = np.zeros(x.shape[1])
    w[np.argmax(np.abs(gap))] = np.sign(gap[np.argmax(np.abs(gap))])
    return w, -x.mean(0) @ w, (x - x.mean(0)) @ w


LEARNERS = {"ridge": ridge, "least squares": lambda x, y, _: ridge(x, y, 1e-3), "best feature": best_feature}


def youden(scores, y):
    ordered = np.sort(scores)
    cuts = (ordered[1:] + ordered[:-1]) / 2
    return cuts[int(np.argmax([(scores[y == 1] > c).mean() - (scores[y == 0] > c).mean() for c in cuts]))]


def stratified(y, rng):
    fold, dealt = np.empty(len(y), int), 0
    for c in (0, 1):
        inside = rng.permutation(np.flatnonzero(y == c))
        fold[inside] = (dealt + np.arange(len(inside))) % FOLDS
        dealt += len(inside)
    return fold


def truth(w, b, cut, shift, share):
    """AUROC twice, MCC, balanced accuracy and sensitivity of a linear score on endless people."""
    size = np.linalg.norm(w)
    se, sp = norm.sf((cut - b - shift @ w) / size), norm.cdf((cut - b) / size)
    tp, fn, fp, tn = share * se, share * (1 - se), (1 - share) * (1 - sp), (1 - share) * sp
    margins = math.sqrt((tp + fp) * (fn + tn) * (tp + fn) * (fp + tn))
    auroc = norm.cdf(shift @ w / size / math.sqrt(2))
    return auroc, auroc, (tp * tn - fp * fn) / margins if margins else 0.0, (se + sp) / 2, se


def cohort(seed, learner, threshold, n, n_yes, p, effects):
    """Outcomes, judgements of both models, and their mean true performance."""
    rng = np.random.default_rng([11, seed])
    y = (np.arange(n) < n_yes).astype(float)
    k = min(10, p)
    shifts = np.zeros((2, p))
    shifts[0, :k], shifts[1, -k:] = effects
    features = [rng.normal(size=(n, p)) + y[:, None] * shift for shift in shifts]
    folds = np.stack([stratified(y, rng) for _ in range(REPEATS)])
    judged, true = [], []
    for x, shift in zip(features, shifts, strict=True):
        value, label, each = np.zeros(folds.shape), np.zeros(folds.shape), []
        for r, q in np.ndindex(REPEATS, FOLDS):
            test = folds[r] == q
            w, b, inner = LEARNERS[learner](x[~test], y[~test], float(p))
            cut = youden(inner, y[~test]) if threshold == "youden" else 0.0
            scores = x[test] @ w + b
            value[r, test] = 1 / (1 + np.exp(-1.5 * scores / np.std(x[~test] @ w)))
            label[r, test] = scores > cut
            each.append(truth(w, b, cut, shift, n_yes / n))
        judged.append(SimpleNamespace(value=value, label=label, fold=folds))
        true.append(np.mean(each, axis=0))
    return y, judged, true


def first(judged, repeats):
    return SimpleNamespace(value=judged.value[:repeats], label=judged.label[:repeats], fold=judged.fold[:repeats])


def ends(found):
    return [(e.low, e.high) for e in found]


def simulate(cohorts, name, learner, threshold, n, n_yes, p, *effects):
    n_train, names = n - n / FOLDS, [str(i) for i in range(n)]
    alone, between, tested, true = [], [], [], []
    for c in range(cohorts):
        y, (one, other), t = cohort(c, learner, threshold, n, n_yes, p, effects)
        true.append(t)
        alone.append(
            [
                ends(estimates(y, first(one, r), names, TABLE, width, c, DRAWS).values())
                for r in (1, REPEATS)
                for width in (None, n_train)
            ]
        )
        between.append(
            [
                ends(difference(y, one, other, TABLE[m], names, width, c) for m in ("auroc_within", "mcc"))
                for width in (None, n_train)
            ]
        )
        gaps = fold_values(y, one, TABLE["auroc"]) - fold_values(y, other, TABLE["auroc"])
        t_test = corrected_t(gaps, n_train, n / FOLDS)
        tested.append((t_test.low, t_test.high, t_test.p))
    true = np.mean(true, axis=0)
    print(f"{name}: {learner}, {n_yes} of {n} people, {p} features, {cohorts} cohorts")
    alone, between, tested = (np.array(a, float) for a in (alone, between, tested))
    held = 100 * ((alone[..., 0] <= true[0]) & (true[0] <= alone[..., 1])).mean(0)
    for i, metric in enumerate(TABLE):
        width = (alone[:, 3, i, 1] - alone[:, 3, i, 0]).mean()
        print(
            f"  {metric:18s} truth {true[0][i]:5.2f}; 1 repeat: plain {held[0, i]:.1f}, widened {held[1, i]:.1f}; "
            f"{REPEATS} repeats: plain {held[2, i]:.1f}, widened {held[3, i]:.1f} % (width {width:.2f})"
        )
    gap = (true[0] - true[1])[[1, 2]]
    held = 100 * ((between[..., 0] <= gap) & (gap <= between[..., 1])).mean(0)
    print(
        f"  difference in AUROC: plain {held[0, 0]:.1f}, widened {held[1, 0]:.1f}; "
        f"MCC: {held[0, 1]:.1f}, {held[1, 1]:.1f} %"
    )
    held = 100 * ((tested[:, 0] <= gap[0]) & (gap[0] <= tested[:, 1])).mean()
    print(
        f"  corrected t-test: interval {held:.1f} %, p < 0.05 in {100 * (tested[:, 2] < 0.05).mean():.1f} %", flush=True
    )


def regression(cohorts, n, p, effect):
    """The same for numbers as outcome, ridge only; the truth on 1500 further people."""
    rng = np.random.default_rng(1)
    beta = np.where(np.arange(p) < 10, effect / math.sqrt(min(p, 10)), 0)
    more = rng.normal(size=(1500, p))
    outcome = more @ beta + rng.normal(size=1500)
    alone, true, names = [], [], [str(i) for i in range(n)]
    for c in range(cohorts):
        rng = np.random.default_rng([31, c])
        x = rng.normal(size=(n, p))
        y = x @ beta + rng.normal(size=n)
        value, fold = np.zeros((REPEATS, n)), np.stack([rng.permutation(n) % FOLDS for _ in range(REPEATS)])
        for r, q in np.ndindex(REPEATS, FOLDS):
            test = fold[r] == q
            w, b, _ = ridge(x[~test], y[~test], float(p))
            b += y[~test].mean()
            value[r, test] = x[test] @ w + b
            said = SimpleNamespace(value=(more @ w + b)[None], label=None, fold=np.zeros((1, 1500), int))
            table = REGRESSION if r == 0 else {m: REGRESSION[m] for m in REGRESSION if m != "spearman"}
            ones = np.ones((1, 1500))
            true.append([table[m](outcome, said, ones)[0] if m in table else np.nan for m in REGRESSION])
        said = SimpleNamespace(value=value, label=None, fold=fold)
        alone.append([ends(estimates(y, said, names, REGRESSION, w, c, DRAWS).values()) for w in (None, n * 0.8)])
    alone, true = np.array(alone), np.nanmean(true, axis=0)
    held = 100 * ((alone[..., 0] <= true) & (true <= alone[..., 1])).mean(0)
    print(f"regression: {n} people, {p} features, {cohorts} cohorts")
    for i, m in enumerate(REGRESSION):
        print(f"  {m:10s} truth {true[i]:5.2f}; plain {held[0, i]:.1f}, widened {held[1, i]:.1f} %", flush=True)


if __name__ == "__main__":
    number, first_one, last = (*map(int, sys.argv[1:]), *(600, 0, 99)[len(sys.argv) - 1 :])
    for setting in SETTINGS[first_one:last]:
        simulate(number, *setting)
    if last > len(SETTINGS):
        for setting in ((40, 100, 0.0), (40, 100, 1.5), (40, 5, 0.6), (100, 100, 1.0)):
            regression(number // 2, *setting)
