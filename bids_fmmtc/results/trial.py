"""What a trial plan holds: options, evidence, rows by threshold, and how they are written.

`bids_fmmtc.learning.trial` makes it. What a file does not tell is `UNKNOWN`, or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from bids_fmmtc.errors import UsageError
from bids_fmmtc.plain import Cells, to_json
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.measures import PRIMARY
from bids_fmmtc.types import Float64

LARGEST_TRIAL = 100_000
"""Patients; a larger trial counts as not reachable, as does one whose arms do not differ."""
Kind = Literal["rate", "size", "saving"]
Source = Literal["given", "control arm", "none"]
Rule = Literal["everybody", "share", "decision"]
Verdict = Literal["supported", "supported if the rate under control is as given", "not supported"]
WHY: Mapping[Kind, tuple[str, str, str]] = MappingProxyType(
    {
        "rate": ("nobody is kept", "", ""),
        "size": (
            "nobody is kept",
            f"not reachable: the drug's rate is not above the control's, or more than {LARGEST_TRIAL:,} patients",
            "",
        ),
        "saving": (
            "no trial is reachable, with or without enrichment",
            "no trial is reachable without enrichment",
            "no trial is reachable with enrichment",
        ),
    }
)
"""Kind of quantity -> what NaN, plus infinity and minus infinity mean."""


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """The trial that is planned: two arms, drug against control, a two-sided test of responder rates.

    Parameters
    ----------
    power, alpha
        In 0..1; alpha is two-sided.
    ratio
        Control patients per drug patient.
    dropout
        Share in 0..1 of enrolled patients who yield no outcome; arms are enlarged by it.
    control_rate
        Assumed responder rate of the control arm, 0 included, 1 not; None to take it from a control arm, if any.
    cost_scan, cost_patient
        Of one scan and of one enrolled patient, in ``currency``; both or neither.
    cost_screening
        Of screening one person beyond the scan; also paid in the trial without enrichment.
    currency
        As it shall be written.
    n_bootstrap, seed
        Number of draws, and what they start from.

    Raises
    ------
    UsageError
        A value out of range, or one cost without the other.
    """

    power: float = 0.8
    alpha: float = 0.05
    ratio: float = 1.0
    dropout: float = 0.0
    control_rate: float | None = None
    cost_scan: float | None = None
    cost_patient: float | None = None
    cost_screening: float = 0.0
    currency: str = ""
    n_bootstrap: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        costs = [self.cost_screening, self.cost_scan or 0.0, self.cost_patient or 0.0]
        rules = (
            (
                0 < self.alpha < self.power < 1,
                f"alpha and power: {self.alpha} and {self.power}",
                "0 < alpha < power < 1",
            ),
            (0.1 <= self.ratio <= 10, f"ratio of control to drug patients: {self.ratio}", "0.1 to 10"),
            (0 <= self.dropout < 1, f"share of dropouts: {self.dropout}", "0 to below 1"),
            (0 <= (self.control_rate or 0) < 1, f"responder rate under control: {self.control_rate}", "0 to below 1"),
            (all(0 <= c < np.inf for c in costs), f"costs: {costs}", "numbers from 0 on"),
            (
                (self.cost_scan is None) == (self.cost_patient is None),
                "only one of the costs of a scan and of a patient",
                "both, or neither",
            ),
            (self.n_bootstrap >= 100, f"{self.n_bootstrap} draws", "at least 100"),
        )
        for holds, found, expected in rules:
            if not holds:
                raise UsageError(f"Trial plan: found {found}; expected {expected}.", "Correct the option.")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the evaluation says of the model: its AUROC, and whether it found an effect (permutation test, if any).

    ``threshold`` is that of the model to be used in the trial, 0..1; it is shown, not applied: the people of the sample
    helped to decide it.
    """

    auroc: Estimate
    effect: bool
    threshold: float | None = None

    @property
    def beats_chance(self) -> bool:
        """True when the whole interval of the AUROC lies above chance and the evaluation found an effect."""
        return self.effect and self.auroc.above(PRIMARY["classification"].chance)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its 95 % interval; NaN and infinities mean what `WHY` says of its kind."""

    value: float
    low: float
    high: float
    kind: Kind = "rate"

    @classmethod
    def of(cls, values: Float64, kind: Kind = "rate") -> Quantity:
        """Return the quantity of (1 + B,) values: the estimate, then its draws.

        Ends of the interval are draws themselves, the next one outwards, so that infinity stays infinity. The
        interval always holds the estimate.
        """
        value, drawn = float(values[0]), np.sort(values[1:])
        if np.isnan(drawn[-1]):
            return cls(value, np.nan, np.nan, kind)
        last = len(drawn) - 1
        low, high = float(drawn[int(0.025 * last)]), float(drawn[last - int(0.025 * last)])
        return cls(value, float(np.fmin(low, value)), float(np.fmax(high, value)), kind)

    @classmethod
    def from_stored(cls, data: Mapping[str, object]) -> Quantity:
        """Return the quantity of stored numbers, where one was not finite by the reason; NaN where none is told."""
        ends = {name: _number(data.get(name)) for name in ("value", "low", "high")}
        told = dict(part.partition(": ")[::2] for part in str(data.get("reason", "")).split("; "))
        kinds = [kind for kind, words in WHY.items() if set(told.values()) <= set(words)] or ["rate"]
        for name in told.keys() & ends.keys():
            _, above, below = WHY[kinds[0]]
            ends[name] = {above: np.inf, below: -np.inf}.get(told[name], np.nan)
        return cls(ends["value"], ends["low"], ends["high"], kinds[0])

    def above(self, level: float) -> bool:
        """Tell whether the whole interval lies above a level."""
        return self.low > level

    def as_stored(self) -> Mapping[str, float | str | None]:
        """Return value, low and high, None where not finite, and then the reason."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        out: dict[str, float | str | None] = {name: x if np.isfinite(x) else None for name, x in numbers.items()}
        reasons = [f"{name}: {self._why(x)}" for name, x in numbers.items() if not np.isfinite(x)]
        return {**out, "reason": "; ".join(reasons)} if reasons else out

    def _why(self, x: float) -> str:
        unknown, above, below = WHY[self.kind]
        return unknown if np.isnan(x) else above if x > 0 else below


def _number(x: Any) -> float:
    return float(x) if isinstance(x, int | float) and not isinstance(x, bool) else np.nan


UNKNOWN = Quantity(np.nan, np.nan, np.nan)
"""A quantity that a file does not tell."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The trial that a threshold leads to.

    Parameters
    ----------
    drug_arm, control_arm
        Patients with an outcome, for Pearson's chi-squared test (no continuity correction).
    enrolled
        Patients of both arms, dropouts included.
    enrolled_corrected
        The same with continuity correction: for Fisher's exact test.
    enrolled_if_prognostic
        The same as ``enrolled`` if the model foretells response under control as well (one odds ratio between arms
        at every threshold); None where the control arm itself was looked at.
    screened
        People to screen.
    fewer
        Patients of the trial without enrichment less those of this one; the interval is at most the former, of which
        it is a part.
    cost, saving
        Total, and the trial without enrichment less this one, with an interval as of ``fewer``; None without costs.
    feasible, smaller
        Share of draws in which the trial is reachable, and in which it needs fewer patients than without enrichment.
    """

    drug_arm: Quantity = UNKNOWN
    control_arm: Quantity = UNKNOWN
    enrolled: Quantity = UNKNOWN
    enrolled_corrected: Quantity = UNKNOWN
    enrolled_if_prognostic: Quantity | None = None
    screened: Quantity = UNKNOWN
    fewer: Quantity = UNKNOWN
    cost: Quantity | None = None
    saving: Quantity | None = None
    feasible: float = np.nan
    smaller: float = np.nan


@dataclass(frozen=True, slots=True)
class Enrichment:
    """One row of the plan: who is judged at or above ``threshold`` is enrolled.

    Parameters
    ----------
    threshold
        Calibrated probability; 0 for everybody, None where not known.
    rule
        ``everybody``; ``decision`` by the threshold of each judging model; ``share``, a quantile of the judgements.
    people
        Drug-arm people (groups) kept, mean over repeats.
    share
        Of screened people kept.
    rate, rise
        Responder rate under the drug among those kept, and that less the rate of everybody.
    control
        Responder rate under control; None where unknown.
    trial
        None where the control rate is unknown, or nobody is kept.
    reliable
        False where too few people stand behind the row.
    cautions
        Why not, and other reasons for care.
    """

    threshold: float | None
    rule: Rule = "share"
    people: float = np.nan
    share: Quantity = UNKNOWN
    rate: Quantity = UNKNOWN
    rise: Quantity = UNKNOWN
    control: Quantity | None = None
    trial: Trial | None = None
    reliable: bool = False
    cautions: tuple[str, ...] = ()

    def quantity(self, name: str) -> Quantity | None:
        """Return a quantity of the row or of its trial by its name; None where it is not told."""
        for of in (self, self.trial):
            found = getattr(of, name, None)
            if isinstance(found, Quantity) and found is not UNKNOWN:
                return found
        return None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Net benefit per person of enrolling by the model and of enrolling everybody; enrolling nobody has 0.

    ``threshold`` is the responder probability at which enrolling is just worth it. ``advantage`` is the model's net
    benefit less the better of the two simple policies.
    """

    threshold: float
    model: Estimate | None = None
    everybody: Estimate | None = None
    advantage: Estimate | None = None


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """The plan: rows by threshold (the first enrols everybody), decision curve, and what may be said of them.

    ``verdict`` says whether the model beats chance and the row fixed beforehand makes the trial smaller by an interval
    that excludes 0. ``sentences`` say it in words; ``notes`` say how the numbers came about.
    """

    status: Literal["ok"] = "ok"
    options: TrialOptions | None = None
    evidence: Evidence | None = None
    control: Source = "none"
    verdict: Verdict | None = None
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    enrichment: tuple[Enrichment, ...] = ()
    decision_curve: tuple[CurvePoint, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, object]:
        """Return all of it but the status, JSON-ready; None with a reason where a quantity is not finite."""
        stored: dict[str, object] = to_json(self)
        return {name: value for name, value in stored.items() if name != "status"}

    def rows(self) -> list[Cells]:
        """Return one flat mapping a threshold with the keys of `COLUMNS`, None where there is nothing to say."""
        return [_flat(row) for row in self.enrichment]


# tables and files

_TEXTS = {
    "share": "Share of screened people kept",
    "rate": "Responder rate under the drug among those kept",
    "rise": "That rate less the rate among everybody",
    "control": "Responder rate under control among those kept",
    "drug_arm": "Patients of the drug arm with an outcome",
    "control_arm": "Patients of the control arm with an outcome",
    "enrolled": "Patients of both arms, dropouts included",
    "enrolled_corrected": "The same with continuity correction, for Fisher's exact test",
    "enrolled_if_prognostic": "enrolled, if the model foretells response under control as well",
    "screened": "People to screen",
    "fewer": "Patients of the trial without enrichment less those of this one",
    "cost": "Total cost, in the currency of the plan's JSON file",
    "saving": "Cost of the trial without enrichment less that of this one",
}
COLUMNS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "threshold": {"Description": "Who has a calibrated probability at or above it is enrolled; 0: everybody"},
        "rule": {"Description": "everybody; decision: by the threshold of each judging model; share: a quantile"},
        "people": {"Description": "Drug-arm people of the sample at or above it, mean over repeats"},
        **{
            name + end: {"Description": text + more}
            for name, text in _TEXTS.items()
            for end, more in (("", ""), ("_low", ": low end, 95 %"), ("_high", ": high end, 95 %"))
        },
        "feasible": {"Description": "Share of draws in which the trial is reachable"},
        "smaller": {"Description": "Share of draws in which it needs fewer patients than without enrichment"},
        "reliable": {"Description": "false: too few people stand behind the row, see remarks"},
        "remarks": {"Description": "Reasons for care, and why numbers are missing"},
    }
)
"""Keys of `TrialPlan.rows` in order, described as a BIDS sidecar wants."""


def _flat(row: Enrichment) -> Cells:
    parts = {part.name: getattr(of, part.name) for of in (row, row.trial) if of is not None for part in fields(of)}
    flat: Cells = dict.fromkeys(COLUMNS)
    remarks = list(row.cautions)
    for name, part in parts.items():
        if isinstance(part, Quantity):
            stored = part.as_stored()
            flat |= {name: stored["value"], f"{name}_low": stored["low"], f"{name}_high": stored["high"]}
            remarks += [f"{name} {stored['reason']}"] if "reason" in stored else []
        elif name in flat:
            flat[name] = part
    return {**flat, "remarks": "; ".join(remarks) or None}
