"""Measures of how well judgements agree with outcomes: name, words, chance, range and direction of each, once.

How one is computed stands in `bids_fmmtc.learning.judging.metrics`, under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType

from bids_fmmtc.types import OutcomeKind


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure.

    Parameters
    ----------
    name
        Key in files.
    words
        Its name on pages and in sentences.
    text
        What it is, in one line for tables.
    chance
        Value of a model that knows nothing; None where there is none, or where it depends on the cohort.
    low, high
        Ends of its range; infinite where it has none.
    higher_is_better
        None where the best value lies in between (calibration slope and intercept).
    """

    name: str
    words: str
    text: str
    chance: float | None = None
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool | None = True


_ALL = (
    Measure("auroc", "AUROC, all pairs", "area under the ROC curve, all pairs", 0.5),
    Measure("auroc_within", "AUROC within folds", "area under the ROC curve, pairs judged by one model", 0.5),
    Measure("auprc", "average precision", "average precision; chance is the share of responders"),
    Measure("mcc", "Matthews correlation", "Matthews correlation of label and outcome", 0.0, -1),
    Measure("balanced_accuracy", "balanced accuracy", "mean of sensitivity and specificity", 0.5),
    Measure("accuracy", "accuracy", "share labelled rightly"),
    Measure("f1", "F1", "harmonic mean of precision and recall of responders"),
    Measure("sensitivity", "sensitivity", "share of responders called so"),
    Measure("specificity", "specificity", "share of non-responders called so"),
    Measure("ppv", "positive predictive value", "share of responders among those called so"),
    Measure("npv", "negative predictive value", "share of non-responders among those called so"),
    Measure("brier", "Brier score", "mean squared error of the probability", higher_is_better=False),
    Measure("log_loss", "log loss", "mean negative log-likelihood, nats", high=inf, higher_is_better=False),
    Measure(
        "calibration_slope",
        "calibration slope",
        "slope of outcome on logit probability, best is 1",
        *(0.0, -inf, inf, None),
    ),
    Measure(
        "calibration_intercept", "calibration intercept", "intercept of that line, best is 0", None, -inf, inf, None
    ),
    Measure(
        "calibration_error",
        "calibration error",
        "mean distance of predicted and observed share over bins",
        higher_is_better=False,
    ),
    Measure("r", "r", "Pearson correlation", 0.0, -1),
    Measure("r_within", "r within folds", "Pearson correlation within folds", 0.0, -1),
    Measure("spearman", "rank correlation", "rank correlation", 0.0, -1),
    Measure("r2", "R²", "1 - SSE / SST; negative where the mean predicts better", 0.0, -inf),
    Measure("mae", "mean absolute error", "mean absolute error", high=inf, higher_is_better=False),
    Measure("rmse", "root mean squared error", "root mean squared error", high=inf, higher_is_better=False),
)
MEASURES: Mapping[str, Measure] = MappingProxyType({measure.name: measure for measure in _ALL})
"""Name -> measure, those of classification first."""
PRIMARY: Mapping[OutcomeKind, Measure] = MappingProxyType(
    {"classification": MEASURES["auroc_within"], "regression": MEASURES["r_within"]}
)
"""Kind of outcome -> the measure that verdicts rest on, of people judged by the same model.

Pooled over folds, scores of different models are compared, and on noise the AUROC of 40 people is 0.47 on average
instead of 0.50 (600 simulated cohorts, five folds).
"""
FALLBACK = MEASURES["r2"]
"""Of regression, and defined for a model that says the same of everybody, too."""
ON_CARD = (
    PRIMARY["classification"].name,
    *("auroc", "auprc", "mcc", "balanced_accuracy", "sensitivity", "specificity", "brier", "calibration_slope"),
)
"""Names of the measures on a model card, in their order."""


def words_of(name: str) -> str:
    """Return how a measure is called on pages; the name itself of one that is not known here."""
    return MEASURES[name].words if name in MEASURES else name
