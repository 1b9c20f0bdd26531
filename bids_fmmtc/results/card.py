"""The model card: what it says of a trained model, what else a bundle says of itself, and what a section of it shows.

A card is JSON in ``bundle.json``, where other sections may stand beside those of `ModelCard`. It is shown twice, in the
bundle's README.md and on its page; both take headings and the shape of a section from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bids_fmmtc.errors import BundleError
from bids_fmmtc.plain import from_json, unwritten
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.record import STORED

TEXTS = {
    "title": "Title",
    "intended_use": "Intended use",
    "limits": "Limits",
    "data": "Training data",
}
"""Texts every model card holds, and their headings."""
SECTIONS = {
    "data": TEXTS["data"],
    "outcome": "Outcome",
    "intended_use": TEXTS["intended_use"],
    "limits": TEXTS["limits"],
    "findings": "What the evaluation found",
    "metrics": "Performance, out of fold",
    "baselines": "Beside it, in the same folds",
    "out_of_fold": "Probabilities of the people learnt from, out of fold",
    "external": "On other cohorts, untouched",
    "protocol": "Protocol",
    "software": "Software",
}
"""Sections in their order, and their headings; any others follow by name, under it."""
COMMAND = "training_command"
"""The one entry that is shown as code."""
CAUTION = "caution"
"""The one entry that is not shown by itself: the limits hold it, and pages of people that the model is applied to."""
OLDEST = 89.0
"""Years; greater ages could tell who a person is and are not shown, as BIDS advises."""


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate as a card holds it."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def estimate(self) -> Estimate:
        """The same with the words and rules of an estimate."""
        return Estimate(self.value, self.low, self.high)


Figures = Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is made of.

    Parameters
    ----------
    datasets
        Names.
    classes
        Class -> number of people, the predicted class last.
    outcome
        Its definition in words.
    findings
        Sentences of the evaluation, whatever they say.
    metrics, baselines
        Measure -> figure, and the same by what was judged beside the model.
    protocol, software
        Anything JSON.
    sites
        Name -> number of people.
    ages
        Years, NaN where missing; None where they were not read.
    arms
        Names of the arms learnt from.
    external
        Cohort -> figures.
    out_of_fold
        Range of probability -> class -> number of sessions.
    caution
        Why its conformal sets are not to be relied on.
    """

    title: str
    datasets: Sequence[str]
    classes: Mapping[str, int]
    outcome: str
    findings: tuple[str, ...]
    metrics: Figures
    baselines: Mapping[str, Figures]
    protocol: Mapping[str, Any]
    software: Mapping[str, str]
    training_command: str
    sites: Mapping[str, int] = field(default_factory=dict)
    ages: Sequence[float] | None = None
    arms: Sequence[str] = ()
    external: Mapping[str, Figures] = field(default_factory=dict)
    out_of_fold: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    version: str = ""
    demo: bool = False
    caution: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A card of a trained classifier, in the order it is stored."""

    title: str = ""
    outcome: str = ""
    findings: tuple[str, ...] = ()
    metrics: Figures = field(default_factory=dict)
    baselines: Mapping[str, Figures] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    demo: bool = False
    data: str = ""
    intended_use: str = ""
    limits: str = ""
    software: Mapping[str, str] = field(default_factory=dict)
    training_command: str = ""
    external: Mapping[str, Figures] | None = unwritten(None)
    out_of_fold: Mapping[str, Mapping[str, int]] | None = unwritten(None)
    version: str = unwritten("")
    caution: str = unwritten("")


def trained_card(facts: Facts) -> ModelCard:
    """Return the card of a trained classifier.

    Nothing in it depends on time or place: the same facts give the same card.

    Raises
    ------
    BundleError
        There are not two classes.
    """
    if len(facts.classes) != 2:
        raise BundleError(f"model card: expected two classes, found {list(facts.classes)}.")
    return ModelCard(
        title=facts.title,
        outcome=facts.outcome,
        findings=facts.findings,
        metrics=facts.metrics,
        baselines=facts.baselines,
        protocol=facts.protocol,
        demo=facts.demo,
        data=_data(facts),
        intended_use=_intended_use(facts),
        limits=_limits(facts),
        software=facts.software,
        training_command=facts.training_command,
        external=facts.external or None,
        out_of_fold=facts.out_of_fold or None,
        version=facts.version,
        caution=facts.caution,
    )


def _data(facts: Facts) -> str:
    counts = facts.classes
    said = [f"{sum(counts.values())} people ({_counted(counts)}) from {', '.join(facts.datasets)}."]
    if facts.arms:
        said.append(f"Arms: {', '.join(facts.arms)}.")
    if facts.sites:
        said.append(f"Sites: {_counted(facts.sites)}.")
    said.append("Ages were not read." if facts.ages is None else _ages(facts.ages))
    return " ".join(said)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _ages(given: Sequence[float]) -> str:
    ages = np.asarray(given, dtype=np.float64)
    known = np.minimum(ages[np.isfinite(ages)], OLDEST + 1)
    if len(known) < 2:
        return "Ages are not known."
    youngest, oldest = (f"{a:.0f}" if a <= OLDEST else f"over {OLDEST:.0f}" for a in (known.min(), known.max()))
    some = "" if len(known) == len(ages) else f", known of {len(known)}"
    return f"Age {known.mean():.0f} years on average (SD {known.std(ddof=1):.0f}, {youngest} to {oldest}{some})."


def _intended_use(facts: Facts) -> str:
    responder = list(facts.classes)[-1]
    return (
        f"Research on treatment response and the planning of trials: the probability that a person becomes {responder} "
        "by the outcome defined here, from a resting-state recording made and preprocessed like those of training. "
        "Predictions must not guide the care of an individual patient."
    )


def _limits(facts: Facts) -> str:
    n, fewest = sum(facts.classes.values()), min(facts.classes.values())
    elsewhere = "Not validated elsewhere: every figure comes from the training cohort itself, out of fold."
    if facts.external:
        elsewhere = f"Tried elsewhere only on: {', '.join(facts.external)}. Of other cohorts nothing is known."
    return "\n\n".join(
        (
            "Research software, not a medical device.",
            f"Learnt from {n} people, {fewest} of them in the smaller class. From so few, figures are uncertain; read "
            "them with their intervals, and beside the baselines.",
            elsewhere,
            "A recording whose repetition time, frames, motion, coverage, signal-to-noise ratio, placement of the "
            "atlas or embedding lies outside what training saw is flagged outside_reference; its probability is not "
            "to be relied on. The flags are no proof of likeness: another diagnosis, treatment, age or scanner than "
            "in training is outside too, and need not raise one.",
            facts.caution
            or "The conformal set holds the true class at the stated rate among people like those of training, not for "
            "any one of them.",
        )
    )


# ------------------------------------------------------------------------------------------------- sections of any card


def estimate_of(value: Any) -> Estimate | None:
    """Return the estimate that a JSON value is; None for anything else."""
    if not isinstance(value, Mapping) or not {"value", "low", "high"} <= set(value):
        return None
    ends = [value[name] for name in ("value", "low", "high")]
    plain = all(end is None or (isinstance(end, int | float) and not isinstance(end, bool)) for end in ends)
    return Estimate(*ends) if plain else None


def estimates_of(value: Any) -> dict[str, Estimate] | None:
    """Return name -> estimate where a JSON value is an object of these and of nothing else."""
    if not isinstance(value, Mapping) or not value:
        return None
    found = {str(name): estimate_of(each) for name, each in value.items()}
    known = {name: estimate for name, estimate in found.items() if estimate is not None}
    return known if len(known) == len(found) else None


# ------------------------------------------------------------------------------------------------- the rest of a bundle


@dataclass(frozen=True, slots=True)
class Head:
    """Which head a bundle holds."""

    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How scores become probabilities."""

    kind: str | None = None
    slope: float | None = None
    intercept: float | None = None


@dataclass(frozen=True, slots=True)
class Conformal:
    """Error rate of conformal sets, and the quantile of each class."""

    alpha: float | None = None
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Weights:
    """Those of an encoder: whether they lie in the bundle, and their checksum."""

    included: bool = False
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What training saw of a quantity: its range, or its values."""

    low: float | None = None
    high: float | None = None
    values: tuple[str | float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a bundle: size and checksum."""

    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """What ``bundle.json`` says of a bundle, as far as it can be read; `learning.bundle.load` checks it whole."""

    card: ModelCard = field(default_factory=ModelCard)
    classes: tuple[str, ...] = ()
    threshold: float | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    head: Head = field(default_factory=Head)
    unit: str | None = None
    calibration: Calibration = field(default_factory=Calibration)
    conformal: Conformal | None = None
    reference: Mapping[str, Limits] | None = None
    encoders: Mapping[str, Weights] = field(default_factory=dict)
    files: Mapping[str, Listed] = field(default_factory=dict)
    checksum: str | None = None


def document_of(content: Mapping[str, object] | None) -> Document:
    """Return what the content of a ``bundle.json`` says."""
    return from_json(Document, content or {}, "bundle.json", STORED)
