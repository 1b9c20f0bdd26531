"""What one analysis left in its folder, read for a page; nothing is drawn, and nothing missing is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bids_fmmtc.dataset.naming import natural
from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.report.kit.values import read_rows, real, word
from bids_fmmtc.results.card import ModelCard, document_of
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.evaluation import Evaluation, Part
from bids_fmmtc.results.measures import Measure
from bids_fmmtc.results.record import Origin, evaluation_of, origin_of, plan_of
from bids_fmmtc.results.trial import TrialPlan

T = TypeVar("T")


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
    origin, evaluation
        What ``evaluation.json`` is of and what it holds, as far as it can be read.
    readable
        Whether it can be read at all.
    judged
        Rows of ``predictions.tsv`` that hold an outcome and a value.
    exclusions
        Rows of ``exclusions.tsv``; None where it cannot be read.
    card
        Model card of its bundle; an empty one without.
    problems
        What could not be read, one line each.
    """

    label: str
    folder: Path
    origin: Origin
    evaluation: Evaluation
    readable: bool
    judged: tuple[Judged, ...]
    exclusions: tuple[Mapping[str, str], ...] | None
    card: ModelCard
    problems: tuple[str, ...]

    @property
    def regression(self) -> bool:
        """Whether the outcome is a number."""
        return self.evaluation.kind == "regression"

    @property
    def measure(self) -> Measure:
        """The measure that the verdicts rest on."""
        return self.evaluation.measure

    @property
    def trial(self) -> TrialPlan | Part | None:
        """The trial plan, from ``evaluation.json`` or from its own file."""
        return self.evaluation.trial or plan_of(read_record(self.folder / "trial_plan.json"))

    def estimate(self, measure: str) -> Estimate | None:
        """Return a stored estimate of the model, None where there is none."""
        return self.evaluation.model.estimate(measure)

    @property
    def explained(self) -> list[str]:
        """Names of the folders that explain single people."""
        folder = self.folder / "attribution"
        found = [path.name for path in folder.glob("sub-*") if path.is_dir()] if folder.is_dir() else []
        return sorted(found, key=natural)


def told(found: T | Part | None) -> tuple[T | None, str]:
    """Return a part of an evaluation, and why there is nothing in it (empty where there is)."""
    if isinstance(found, Part):
        return None, f"{found.status}: {found.reason}"
    return found, "not run" if found is None else ""


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
    content = read_record(folder / "evaluation.json")
    evaluation = evaluation_of(content)
    if content is None:
        problems.append("evaluation.json is missing or cannot be read: this analysis did not finish. Run it again.")
    elif not evaluation.verdicts:
        problems.append("evaluation.json holds no verdicts: the run did not finish. Run the same command again.")
    rows, exclusions = read_rows(folder / "predictions.tsv"), read_rows(folder / "exclusions.tsv")
    if rows is None:
        problems.append("predictions.tsv is missing or cannot be read: what rests on it is left out.")
    if exclusions is None:
        problems.append("exclusions.tsv is missing or cannot be read: who was left out is not known.")
    judged = tuple(_judged(row) for row in rows or ())
    card = document_of(read_record(folder / "bundle" / "bundle.json")).card
    excluded = None if exclusions is None else tuple(exclusions)
    origin, readable = origin_of(content), bool(content)
    return Analysis(folder.name, folder, origin, evaluation, readable, judged, excluded, card, tuple(problems))


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
    people = analysis.evaluation.people
    if people is not None and people.reasons:
        return Counter(people.reasons)
    return Counter(row.get("reason", "") for row in analysis.exclusions or ())


def classes(analysis: Analysis) -> Counter[str]:
    """Return the same by kind of reason."""
    found: Counter[str] = Counter()
    for reason, n in reasons(analysis).items():
        found[reason_class(reason)] += n
    return found
