"""The published training protocol with its flaws, so that people can see what they do to the figures.

Nothing else in this program uses it, and its result says of itself that its figures are inflated. On noise (40
balanced people, 512 random features, linear layer, 20 cohorts) it reports a mean Matthews correlation of about 0.4
where the last epoch gives about 0; `tests/learning/judging/test_published.py` repeats that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bids_fmmtc.errors import DataError, UsageError
from bids_fmmtc.learning.folds import rng_of
from bids_fmmtc.learning.judging import metrics
from bids_fmmtc.learning.learners.epochs import TrainingOptions, batches
from bids_fmmtc.learning.learners.inputs import Inputs
from bids_fmmtc.learning.learners.train import Surroundings, fresh_head
from bids_fmmtc.learning.progress import Progress
from bids_fmmtc.modalities.numerics import strict
from bids_fmmtc.types import Cohort, Float32, Float64, Rows

FOLDS = 5
REPRODUCED = (
    "The epoch is chosen by the Matthews correlation on the very fold that is then reported (main.py 159-174).",
    "Validation windows are drawn anew at every epoch, so lucky draws are chosen too (dataset.py 70).",
    "Gradients are zeroed once an epoch, so each step uses the sum of all gradients since then (main.py 129).",
    "Folds follow the order of the rows and do not keep sessions of a person together (main.py 97).",
    "AUROC is that of logit 1 alone, which is no function of the predicted probability (main.py 154).",
    "A fold that never exceeds a correlation of 0 is saved by nobody and drops out of the mean (main.py 122).",
    "No class weights, no inner validation, no calibration, no intervals, no test against chance.",
)
NOT_REPRODUCED = (
    "Features are those of this program's recipe: raw intensities and the Gram matrix only where it asks for them.",
    "A random window is one of the session's windows, not one that starts at any frame.",
    "The encoder's tokens are not shuffled anew at each access, for features are kept.",
    "Nothing is scaled by statistics of all people together.",
    "A last batch of a single session joins the one before, as batch normalisation cannot train on one.",
)


def published_protocol(
    cohort: Cohort,
    blocks: Sequence[str],
    options: TrainingOptions,
    setup: Surroundings,
    head: Literal["fmmtc", "linear"] = "fmmtc",
) -> dict[str, Any]:
    """Run the published protocol on one cohort and report its figures, marked as inflated.

    Parameters
    ----------
    cohort
        Features and outcomes, 0 and 1.
    blocks
        Modalities in the order of concatenation.
    options
        ``epochs``, ``batch``, ``rate``, ``weight_decay`` and ``resnet`` are used.
    setup
        Where to compute; connectivity enters as the recipe gives it, whatever ``setup.tangent`` says.
    head
        ``fmmtc``: the published head. ``linear``: its linear layer alone, on vectors as they are and on the upper
        triangle of matrices, averaged over a session's windows.

    Returns
    -------
    JSON-ready: ``protocol`` "published", ``inflated`` true, ``text``, ``reproduced`` and ``not_reproduced`` flaws,
    ``settings``, ``folds`` with metrics at the best epoch (None where none was saved) and the last, ``best_epoch`` (of
    the folds that were saved) and ``last_epoch`` with means and standard deviations over folds.

    Raises
    ------
    UsageError
        An outcome that is a number: the published code classifies only.
    DataError
        Fewer people of a class than folds.
    """
    if cohort.kind != "classification":
        raise UsageError("the published protocol classifies; this outcome is a number.", "Give a --responder-if rule.")
    rarer = int(min(cohort.y.sum(), len(cohort) - cohort.y.sum()))
    if rarer < FOLDS:
        raise DataError(f"the published protocol needs {FOLDS} sessions of each class, found {rarer}.")
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415  (1 s)

    arrays = {name: cohort.arrays[name] for name in blocks}
    if head == "linear":
        arrays = {name: tuple(_flat(windows) for windows in column) for name, column in arrays.items()}
    run = _Run(replace(cohort, arrays=arrays), options, setup)
    folds = [
        (cohort.y[test], run.logits(k, train, test))
        for k, (train, test) in enumerate(StratifiedKFold(FOLDS, shuffle=False).split(cohort.y, cohort.y))
    ]
    settings = {"seed": setup.seed, "folds": FOLDS, "blocks": list(blocks), **asdict(options)}
    return {"protocol": "published", "head": head, "settings": settings, **report(folds)}


class _Run:
    """The loop over epochs, as published; vectors pass to the linear layer as they are, matrices by ResNet-18."""

    def __init__(self, cohort: Cohort, options: TrainingOptions, setup: Surroundings) -> None:
        self._y, self._options, self._setup = cohort.y, options, setup
        self._shapes = {name: tuple(column[0].shape[1:]) for name, column in cohort.arrays.items()}
        matrix = {"branch": "resnet18", "channels": 3, **options.resnet}
        branches = {name: {"branch": "identity"} if len(s) == 1 else matrix for name, s in self._shapes.items()}
        self._spec = {"kind": "fmmtc", "outputs": 2, "branches": branches}
        self._inputs = Inputs(cohort, self._shapes, None, setup.device)
        self._progress = Progress(setup.say)
        self._progress.plan(FOLDS * options.epochs)
        facts = [self._spec, asdict(options), setup.seed, setup.device, cohort.y.tolist(), self._inputs.digest()]
        self._digest = hashlib.sha256(json.dumps(facts, default=dict).encode()).hexdigest()

    def logits(self, k: int, train: Rows, test: Rows) -> Float64:
        """Return (E, n, 2) logits of the n test rows after each epoch; a piece of the ledger."""
        piece, ledger = f"published fold {k} {self._digest}", self._setup.ledger
        found = ledger.get(piece)
        if found is None:
            found = {"logits": self._trained(f"published/fold-{k}", train, test)}
            ledger.put(piece, found)
        else:
            self._progress.skip(self._options.epochs)
        return np.asarray(found["logits"], dtype=np.float64)

    @strict()
    def _trained(self, name: str, train: Rows, test: Rows) -> Float32:
        options, seed = self._options, self._setup.seed
        head = fresh_head(self._spec, self._shapes, rng_of(seed, name, "start")).to(self._setup.device)
        steps = torch.optim.AdamW(head.parameters(), lr=options.rate, weight_decay=options.weight_decay)
        course = []
        self._progress.start(options.epochs)
        for epoch in range(options.epochs):
            rng = rng_of(seed, name, epoch)
            steps.param_groups[0]["lr"] = options.rate_at(epoch, options.rate)
            head.train()
            steps.zero_grad()  # once an epoch: gradients add up over its steps
            for rows in batches(rng.permutation(train), options.batch):
                target = torch.tensor(self._y[rows], dtype=torch.int64, device=self._setup.device)
                nn.functional.cross_entropy(head(self._drawn(rows, rng)), target).backward()  # type: ignore[no-untyped-call]
                steps.step()
            head.eval()
            with torch.inference_mode():
                parts = [head(self._drawn(rows, rng)) for rows in np.array_split(test, -(-len(test) // options.batch))]
                course.append(torch.cat(parts).cpu().numpy())
            self._progress.epoch()
        return np.stack(course)

    def _drawn(self, rows: Rows, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return one random window of each row, anew at each access."""
        return self._inputs.take(rows, [int(rng.integers(self._inputs.windows(int(row)))) for row in rows])


def _flat(windows: Float32) -> Float32:
    """Return vectors (W, H) as they are, and of matrices (W, R, R) the mean upper triangle, the same W times."""
    if windows.ndim == 2:
        return windows
    mean = windows.mean(axis=0, dtype=np.float64).astype(np.float32)
    edges = mean[np.triu_indices(len(mean), 1)]
    return np.broadcast_to(edges, (len(windows), len(edges)))


def report(folds: Sequence[tuple[Float64, Float64]]) -> dict[str, Any]:
    """Return what the published code makes of each fold's outcomes (n,) and logits (E, n, 2) after each epoch."""
    found = [_fold(y, logits) for y, logits in folds]
    best = [f["best"]["metrics"] for f in found if f["best"] is not None]
    saved, final = _mean(best) if best else None, _mean([f["last"]["metrics"] for f in found])
    shown = "none" if saved is None else f"{saved['mean']['mcc']:.2f}"
    text = (
        f"Published protocol, for comparison only; its figures are inflated. Mean Matthews correlation {shown} at the "
        f"best epoch of each fold ({len(best)} of {len(found)} folds saved), {final['mean']['mcc']:.2f} at the last "
        "epoch. The best of many epochs is chosen on the people it is reported for, which gives high values even where "
        "nothing can be predicted. Do not quote it as performance."
    )
    return {
        "inflated": True,
        "text": text,
        "reproduced": list(REPRODUCED),
        "not_reproduced": list(NOT_REPRODUCED),
        "folds": found,
        "best_epoch": saved,
        "last_epoch": final,
    }


def _fold(y: Float64, logits: Float64) -> dict[str, Any]:
    labels = (logits[..., 1] > logits[..., 0]).astype(np.float64)  # argmax: the first of equals
    ones = np.ones((1, len(y)))
    course = np.array([metrics.mcc(y, label, ones)[0] for label in labels])
    best = int(np.argmax(course))
    chosen = {e: {"epoch": e + 1, "metrics": _metrics(y, logits[e], labels[e])} for e in (best, len(course) - 1)}
    return {
        "n": len(y),
        "best": chosen[best] if course[best] > 0 else None,
        "last": chosen[len(course) - 1],
        "mcc_by_epoch": [round(float(v), 6) for v in course],
    }


def _metrics(y: Float64, logits: Float64, label: Float64) -> dict[str, float]:
    """Return the published metrics of one epoch; undefined ones are 0, as in scikit-learn."""
    ones = np.ones((1, len(y)))
    found = {
        "accuracy": metrics.accuracy(y, label, ones),
        "balanced_accuracy": metrics.balanced_accuracy(y, label, ones),
        "macro_f1": (np.nan_to_num(metrics.f1(y, label, ones)) + np.nan_to_num(metrics.f1(1 - y, 1 - label, ones))) / 2,
        "auroc_of_logit_1": metrics.auroc(y, logits[:, 1], ones),
        "mcc": metrics.mcc(y, label, ones),
        "sensitivity": metrics.sensitivity(y, label, ones),
        "specificity": metrics.specificity(y, label, ones),
        "precision": metrics.ppv(y, label, ones),
    }
    return {name: float(np.nan_to_num(value[0])) for name, value in found.items()}


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    columns = {name: [f[name] for f in found] for name in found[0]}
    return {
        "folds": len(found),
        "mean": {name: float(np.mean(column)) for name, column in columns.items()},
        "sd": {name: float(np.std(column)) for name, column in columns.items()},
    }
