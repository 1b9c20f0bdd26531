"""What one analysis left in its folder, read for a page; nothing is drawn, and nothing missing is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bids_fmmtc.dataset.naming import natural
from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.report.kit.values import estimate_in, mapping, number_of, read_rows, real, texts, word

PRIMARY: Mapping[str, str] = MappingProxyType({"classification": "auroc_within", "regression": "r_within"})
"""Kind of outcome -> the measure that the verdicts rest on; as in `bids_fmmtc.learning.judging.verdict`."""
CHANCE: Mapping[str, float] = MappingProxyType(
    {"auroc": 0.5, "auroc_within": 0.5, "balanced_accuracy": 0.5, "mcc": 0.0, "r": 0.0, "r_within": 0.0, "r2": 0.0}
)
"""Measure -> what a model that knows nothing gets."""
METRIC_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "auroc": "AUROC, all pairs",
        "auroc_within": "AUROC within folds",
        "auprc": "average precision",
        "mcc": "Matthews correlation",
        "balanced_accuracy": "balanced accuracy",
        "f1": "F1",
        "ppv": "positive predictive value",
        "npv": "negative predictive value",
        "brier": "Brier score",
        "log_loss": "log loss",
        "calibration_slope": "calibration slope",
        "calibration_intercept": "calibration intercept",
        "calibration_error": "calibration error",
        "r": "r",
        "r_within": "r within folds",
        "spearman": "rank correlation",
        "r2": "R²",
        "mae": "mean absolute error",
        "rmse": "root mean squared error",
    }
)
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Judged:
    """One session as models judged it that did not learn from it.

    ``value`` is a calibrated probability or a predicted outcome, mean over repeats; ``called`` the share of repeats
    that called it a responder. None where not known.
    """

    key: str
    participant: str
    outcome: float | None
    value: float | None
    sd: float | None = None
    called: float | None = None
    site: str | None = None
    arm: str | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """One folder below ``group``.

    Parameters
    ----------
    label
        Its name.
    folder
        Where it is.
    evaluation
        Content of ``evaluation.json``; empty where it cannot be read.
    judged
        Rows of ``predictions.tsv`` that hold an outcome and a value.
    exclusions
        Rows of ``exclusions.tsv``; None where it cannot be read.
    card
        Model card of its bundle; empty without one.
    problems
        What could not be read, one line each.
    """

    label: str
    folder: Path
    evaluation: Mapping[str, Any]
    judged: tuple[Judged, ...]
    exclusions: tuple[Mapping[str, str], ...] | None
    card: Mapping[str, Any]
    problems: tuple[str, ...]

    @property
    def regression(self) -> bool:
        """Whether the outcome is a number."""
        return self.evaluation.get("kind") == "regression"

    @property
    def metric(self) -> str:
        """Name of the measure that the verdicts rest on."""
        return PRIMARY["regression" if self.regression else "classification"]

    @property
    def models(self) -> dict[str, Mapping[str, Any]]:
        """Name -> what the evaluation says of each contestant, in order."""
        return {str(k): v for k, v in mapping(self.evaluation.get("models")).items() if isinstance(v, Mapping)}

    @property
    def verdicts(self) -> list[str]:
        """Sentences as they are stored."""
        return texts(self.evaluation.get("verdicts"))

    @property
    def trial(self) -> Mapping[str, Any]:
        """The trial plan, from ``evaluation.json`` or from its own file."""
        stored = mapping(self.evaluation.get("trial"))
        return stored or (read_record(self.folder / "trial_plan.json") or {})

    def part(self, name: str) -> tuple[Mapping[str, Any], str]:
        """Return a part of the evaluation, and why there is nothing in it (empty where there is)."""
        found = self.trial if name == "trial" else mapping(self.evaluation.get(name))
        if not found:
            return {}, "not run"
        status = str(found.get("status", "ok"))
        if status == "ok":
            return found, ""
        return {}, f"{status}: {found.get('reason', 'no reason is given')}"

    def estimate(self, model: str, metric: str) -> Mapping[str, Any] | None:
        """Return a stored estimate of a contestant, None where there is none."""
        return estimate_in(mapping(self.models.get(model, {}).get("metrics")), metric)

    @property
    def better_than_chance(self) -> bool:
        """Whether the evaluation found an effect: by the interval and, where it was run, by the permutation test."""
        found = self.estimate("model", self.metric)
        if found is None or found["low"] is None or not found["low"] > CHANCE[self.metric]:
            return False
        test = mapping(self.evaluation.get("permutation"))
        p = number_of(test.get("p"))
        return not test or (p is not None and p < SIGNIFICANT)

    @property
    def explained(self) -> list[str]:
        """Names of the folders that explain single people."""
        folder = self.folder / "attribution"
        found = [path.name for path in folder.glob("sub-*") if path.is_dir()] if folder.is_dir() else []
        return sorted(found, key=natural)


def read_analyses(root: Path) -> tuple[Analysis, ...]:
    """Read every analysis of an output dataset, in natural order of their names."""
    folder = root / "group"
    try:
        found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return ()
    return tuple(read_analysis(path) for path in sorted(found, key=lambda path: natural(path.name)))


def read_analysis(folder: Path) -> Analysis:
    """Read one analysis; what is not there or broken is named in ``problems``."""
    problems = []
    evaluation = read_record(folder / "evaluation.json")
    if evaluation is None:
        problems.append("evaluation.json is missing or cannot be read: this analysis did not finish. Run it again.")
    elif not texts(evaluation.get("verdicts")):
        problems.append("evaluation.json holds no verdicts: the run did not finish. Run the same command again.")
    rows, exclusions = read_rows(folder / "predictions.tsv"), read_rows(folder / "exclusions.tsv")
    if rows is None:
        problems.append("predictions.tsv is missing or cannot be read: what rests on it is left out.")
    if exclusions is None:
        problems.append("exclusions.tsv is missing or cannot be read: who was left out is not known.")
    judged = tuple(_judged(row) for row in rows or ())
    card = mapping((read_record(folder / "bundle" / "bundle.json") or {}).get("card"))
    excluded = None if exclusions is None else tuple(exclusions)
    return Analysis(folder.name, folder, evaluation or {}, judged, excluded, card, tuple(problems))


def _judged(row: Mapping[str, str]) -> Judged:
    return Judged(
        row.get("key", ""),
        row.get("participant_id", ""),
        real(row.get("outcome")),
        real(row.get("value")),
        real(row.get("value_sd")),
        real(row.get("called_responder")),
        word(row.get("site")),
        word(row.get("arm")),
    )


# ---------------------------------------------------------------------------------------------------------------- flow


def reason_class(reason: str) -> str:
    """Return what kind of reason this is, short enough for a figure: ``failed (image)``, ``no features``."""
    parts = [part.strip() for part in reason.split(":")]
    if parts[0] == "failed" and len(parts) > 2 and " " not in parts[1]:
        return f"failed ({parts[1]})"
    return parts[0] or "no reason is given"


def reasons(analysis: Analysis) -> Counter[str]:
    """Return reason -> number of rows that an analysis leaves out for it, as they are stored."""
    stored = mapping(mapping(analysis.evaluation.get("people")).get("reasons"))
    if stored:
        return Counter({str(k): v for k, v in stored.items() if isinstance(v, int)})
    return Counter(row.get("reason", "") for row in analysis.exclusions or ())


def classes(analysis: Analysis) -> Counter[str]:
    """Return the same by kind of reason."""
    found: Counter[str] = Counter()
    for reason, n in reasons(analysis).items():
        found[reason_class(reason)] += n
    return found
