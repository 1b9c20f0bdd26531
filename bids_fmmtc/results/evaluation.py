"""What an evaluation holds, part by part: people, contestants, tests, sites, other cohorts, and what follows them.

Everything has a default but what makes a thing what it is: pages draw analyses that did not finish, too. A part that
was not run or failed is a `Part`, which says why; it comes first in a union, since it alone must have its status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, Literal, Never

from bids_fmmtc.plain import unwritten
from bids_fmmtc.results.estimate import UNDEFINED, UNTESTED, Estimate, PairedTest
from bids_fmmtc.results.measures import PRIMARY, Measure
from bids_fmmtc.results.trial import TrialPlan
from bids_fmmtc.types import OutcomeKind

Role = Literal["model", "ablation", "baseline"]
Ok = Literal["ok"]
Row = Mapping[str, str | bool | int | float | None]
"""A row of a table: column -> cell."""
Metrics = Mapping[str, Estimate]
"""Measure -> estimate."""
NOTHING: Mapping[str, Never] = MappingProxyType({})
PARTS = ("external", "reference_protocol", "bundle", "trial", "explanation")
"""Fields of an evaluation that follow the judgements, each of which may fail alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something without a result: ``failed`` or ``not run``, and why."""

    status: Literal["failed", "not run"]
    reason: str = "no reason is given"


@dataclass(frozen=True, slots=True)
class People:
    """How many sessions, participants and groups are analysed, how many left out, and why."""

    sessions: int | None = None
    participants: int | None = None
    groups: int | None = None
    excluded: int | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    responders: int | None = unwritten(None)
    non_responders: int | None = unwritten(None)
    sites: Mapping[str, int] | None = unwritten(None)
    arms: Mapping[str, int] | None = unwritten(None)


@dataclass(frozen=True, slots=True)
class Division:
    """How people were divided to be judged, and how intervals were made."""

    folds: int | None = None
    repeats: int | None = None
    inner_folds: int | None = None
    seed: int | None = None
    threads: int | None = None
    interval: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a learner chose for itself.

    Parameters
    ----------
    penalty, epochs
        One of them, by the kind of learner.
    blocks
        Which of several are used.
    edge
        Where it lies on the edge of what was tried, on which (`verdict.EDGES`): beyond it another might do better.
    """

    penalty: float | None = unwritten(None)
    epochs: int | None = unwritten(None)
    blocks: tuple[str, ...] | None = unwritten(None)
    edge: str | None = unwritten(None)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The setting of the final model."""

    setting: Setting = field(default_factory=Setting)


@dataclass(frozen=True, slots=True)
class Scored:
    """A contestant with its figures: the model, a part of it, or what it must beat.

    ``reason`` says why one was not run; ``settings`` are what each fold chose, a list a repeat.
    """

    text: str = ""
    role: Role = "baseline"
    status: str = ""
    reason: str | None = unwritten(None)
    metrics: Metrics | None = unwritten(None)
    settings: tuple[tuple[Setting, ...], ...] | None = unwritten(None)

    @property
    def judged(self) -> bool:
        """Whether it was run."""
        return self.status == "ok"

    def estimate(self, measure: str) -> Estimate | None:
        """Return an estimate, None where there is none."""
        return (self.metrics or NOTHING).get(measure)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model less another on the same people and folds: the difference with its interval, and a test of it."""

    against: str = ""
    metric: str = ""
    difference: Estimate = UNDEFINED
    corrected_resampled_t: PairedTest = UNTESTED


@dataclass(frozen=True, slots=True)
class Permutation:
    """The whole procedure on outcomes dealt out anew: ``n`` times, one-sided ``p``, what each gave in ``null``."""

    metric: str = ""
    n: int | None = None
    observed: float | None = None
    p: float | None = None
    null: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Every site judged by models of the others; ``sites`` are numbers of sessions."""

    status: Ok = "ok"
    sites: Mapping[str, int] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Excluded:
    """A session that was left out, and why."""

    key: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Adapted:
    """On folds of another cohort: the model fine-tuned there, and one learnt there from scratch."""

    adapted: Metrics
    from_scratch: Metrics


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The final model on another cohort, nothing refitted."""

    status: Ok = "ok"
    n: int | None = None
    excluded: tuple[Excluded, ...] = ()
    metrics: Metrics = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    adapted: Part | Adapted | None = unwritten(None)


@dataclass(frozen=True, slots=True)
class Spread:
    """Figures of the published protocol over ``folds``: mean and standard deviation of each."""

    folds: int | None = None
    mean: Mapping[str, float] = field(default_factory=dict)
    sd: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """The published protocol, whose figures are inflated; ``best_epoch`` is None where no fold was saved."""

    status: Ok = "ok"
    protocol: str = "published"
    head: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    inflated: bool = True
    text: str = ""
    reproduced: tuple[str, ...] = ()
    not_reproduced: tuple[str, ...] = ()
    folds: tuple[Mapping[str, Any], ...] = ()
    best_epoch: Spread | None = None
    last_epoch: Spread | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """The bundle that was written, by its folder in that of the analysis."""

    status: Ok = "ok"
    folder: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Sanity:
    """Whether maps differ from those of models of random weights; rows by `learning.explaining.checks`."""

    passes: bool | None = None
    text: str = ""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """What the model looks at in another cohort, beside its own."""

    status: Ok = "ok"
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the final model looks at: shares, parcels and edges as rows of their tables, and how they were made.

    Parameters
    ----------
    of, people
        Sessions there are, and how many were explained.
    windows_each
        Of each person; None where all were explained.
    encoder, through
        Whether parcels were reached through encoders, and through which.
    """

    status: Ok = "ok"
    of: int | None = None
    people: int | None = None
    shares: tuple[Row, ...] = ()
    top_parcels: tuple[Row, ...] = ()
    top_edges: tuple[Row, ...] = ()
    completeness_error: float | None = None
    steps: int | None = None
    baseline: Mapping[str, str] = field(default_factory=dict)
    top_stability: float | None = None
    windows_each: int | None = None
    encoder: bool | None = None
    through: tuple[str, ...] = ()
    sanity: Sanity = field(default_factory=Sanity)
    participants: tuple[str, ...] = ()
    compared: Mapping[str, Part | Compared] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One verdict: what it is ``about`` (see `verdict`), and the text."""

    about: str
    text: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that an analysis found.

    Parameters
    ----------
    kind, n
        Of the outcome, and how many sessions were judged.
    models
        Name -> contestant, the model first.
    comparisons
        Of the model with every other that was run.
    within_site
        The first measure among people of one site.
    external
        Name of a cohort -> the model there.
    verdicts, verdicts_about
        Texts of the sentences and, in the same order, what each is about.
    """

    kind: OutcomeKind = "classification"
    n: int | None = None
    people: People | None = None
    scheme: Division = field(default_factory=Division)
    models: Mapping[str, Scored] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    permutation: Permutation | None = unwritten(None)
    within_site: Estimate | None = unwritten(None)
    leave_one_site_out: Part | LeftOut | None = unwritten(None)
    final: Chosen | None = unwritten(None)
    external: Mapping[str, Part | Elsewhere] | None = unwritten(None)
    verdicts: tuple[str, ...] = unwritten(())
    verdicts_about: tuple[str, ...] = unwritten(())
    reference_protocol: Part | Published | None = unwritten(None)
    bundle: Part | Saved | None = unwritten(None)
    trial: Part | TrialPlan | None = unwritten(None)
    explanation: Part | Explanation | None = unwritten(None)

    @property
    def measure(self) -> Measure:
        """The measure that verdicts rest on."""
        return PRIMARY[self.kind]

    @property
    def model(self) -> Scored:
        """The model itself."""
        return self.models.get("model", _NOBODY)

    def estimate(self, contestant: str, measure: str | None = None) -> Estimate | None:
        """Return an estimate of a contestant that was run, by default of the measure of record."""
        found = self.models.get(contestant, _NOBODY)
        return found.estimate(measure or self.measure.name) if found.judged else None


_NOBODY = Scored()


def parts_of(evaluation: Evaluation) -> Mapping[str, object]:
    """Return name -> each of `PARTS` that was begun."""
    parts = {name: getattr(evaluation, name) for name in PARTS}
    return {name: part for name, part in parts.items() if part is not None}


def states(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and status of a part, then of everything below it: ``external west``, ``failed``."""
    if is_dataclass(value) and not isinstance(value, type):
        if isinstance(status := getattr(value, "status", None), str):
            yield name, status
        inner: Mapping[str, object] = {f.name: getattr(value, f.name) for f in fields(value)}
    else:
        inner = value if isinstance(value, Mapping) else NOTHING
    for key, each in inner.items():
        yield from states(each, f"{name} {key}".strip())
