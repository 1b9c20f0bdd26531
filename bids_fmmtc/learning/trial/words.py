"""Sentences made from the numbers of a trial plan; none claims more than its interval allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.trial import (
    LARGEST_TRIAL,
    Enrichment,
    Evidence,
    Quantity,
    Source,
    Trial,
    TrialOptions,
    Verdict,
)

UNKNOWN = (
    "Whether a trial would gain by it cannot be told: the responder rate under control is unknown, and a model may "
    "foretell response to anything. Sample sizes need that rate, given or from a control arm."
)


def _focus(rows: Sequence[Enrichment]) -> Enrichment | None:
    """Return the row that is spoken of, fixed before any gain is looked at."""
    own = [row for row in rows if row.rule == "decision"]
    return own[0] if own else min(rows[1:], key=lambda row: abs(row.share.value - 0.5), default=None)


def verdict_of(
    rows: Sequence[Enrichment], evidence: Evidence, source: Source, options: TrialOptions
) -> tuple[Verdict, list[str]]:
    """Return whether enrichment is supported, and the sentences."""
    everybody, row = rows[0], _focus(rows)
    if not evidence.beats_chance:
        return "not supported", [
            f"The model is not shown to be better than chance ({_auroc(evidence.auroc)}): enrichment by this model is "
            "not supported. The table describes this sample and is no ground for a plan."
        ]
    if row is None:
        return "not supported", ["The model gives everybody the same probability: there is nothing to enrich by."]
    if not row.reliable:
        return "not supported", [f"{_where(row)}, {' and '.join(row.cautions)}: nothing is claimed of enrichment."]
    said = [_rate_sentence(everybody, row)]
    if row.trial is None or everybody.trial is None or row.control is None or everybody.control is None:
        return "not supported", [*said, UNKNOWN]
    said.append(_control_sentence(everybody.control, row.control, row.trial, source))
    said += [_size_sentence(everybody.trial, row.trial), *_cautious(row, everybody.trial, row.trial)]
    said += _cost_sentence(everybody.trial, row.trial, options)
    if not row.trial.fewer.above(0):
        return "not supported", said
    return "supported if the rate under control is as given" if source == "given" else "supported", said


def _rate_sentence(everybody: Enrichment, row: Enrichment) -> str:
    said = (
        f"{_where(row)}, {_percent(row.share)} of those screened are kept; their responder rate under the drug is "
        f"{_percent(row.rate)}, that of everybody {_percent(everybody.rate)}"
    )
    if row.rise.above(0):
        return f"{said}."
    return f"{said}; the interval of the difference ({_points(row.rise)}) does not exclude that the rate is no higher."


def _size_sentence(everybody: Trial, trial: Trial) -> str:
    before, after = everybody.enrolled, trial.enrolled
    if not np.isfinite(after.value):
        without = (
            "nor without it" if not np.isfinite(before.value) else f"without it {_count(before.value)} patients do"
        )
        return f"With enrichment no trial is reachable, {without}."
    span = f"(interval {_span(after)}; {_count(trial.screened.value)} to be screened)"
    tail = "." if trial.fewer.above(0) else "; the interval does not exclude that nothing is gained."
    if not np.isfinite(before.value):
        return f"Without enrichment no trial is reachable; with it {_count(after.value)} patients would do {span}{tail}"
    sizes = f"from {_count(before.value)} to {_count(after.value)} patients {span}"
    if after.value >= before.value:
        return f"Enrichment would not make the trial smaller: {sizes}."
    return f"Enrichment would cut the trial {sizes}{tail}"


def _cautious(row: Enrichment, everybody: Trial, trial: Trial) -> list[str]:
    """Say what to plan with: the end of the interval where the drug's advantage is smallest."""
    if trial.enrolled.value >= everybody.enrolled.value:
        return []
    rests = f"the rate of those kept rests on {row.people:.0f} people and may be as low as {100 * row.rate.low:.0f} %"
    corrected = f"{_count(trial.enrolled_corrected.value)} patients, interval {_span(trial.enrolled_corrected)}"
    small = [f"Note that {caution} ({corrected})." for caution in row.cautions]
    if np.isfinite(trial.enrolled.high):
        most = trial.enrolled_corrected.high if row.cautions else trial.enrolled.high
        if not np.isfinite(most):
            most = trial.enrolled.high
        return [f"Plan with {_count(most)} patients, the cautious end of the interval: {rests}.", *small]
    return [
        f"Do not plan with {_count(trial.enrolled.value)}: {rests}, and no trial is reachable in "
        f"{100 * (1 - trial.feasible):.0f} % of the draws, which the interval includes. A larger sample is needed.",
        *small,
    ]


def _control_sentence(everybody: Quantity, kept: Quantity, trial: Trial, source: Source) -> str:
    if source == "control arm":
        return (
            f"Under control {_percent(kept)} of those kept respond and {_percent(everybody)} of everybody; the sizes "
            "allow for that."
        )
    risen = trial.enrolled_if_prognostic
    number = "no trial is reachable"
    if risen is not None and np.isfinite(risen.value):
        number = f"{_count(risen.value)} patients are needed"
    return (
        f"The rate of {100 * kept.value:.0f} % under control is an assumption, and so is that it is the same among "
        "those kept; the sizes rest on both. If the model foretells response under control as well, with one odds "
        f"ratio between the arms throughout, {number}."
    )


def _cost_sentence(everybody: Trial, trial: Trial, options: TrialOptions) -> list[str]:
    if trial.saving is None or everybody.cost is None or not np.isfinite(trial.saving.value):
        return []
    unit = f" {options.currency}".rstrip()
    sure = "" if everybody.cost.low == everybody.cost.high else f" (itself uncertain: {_span(everybody.cost)})"
    of = f"of {_count(everybody.cost.value)}{unit}{sure}"
    if trial.saving.value <= 0:
        return [f"It would save no money: {_count(-trial.saving.value)}{unit} more than the trial without it {of}."]
    tail = "." if trial.saving.above(0) else "; the interval does not exclude that it saves nothing."
    saved = f"{_count(trial.saving.value)} (interval {_span(trial.saving)}){unit}"
    return [f"Were the sizes as estimated, it would save {saved} {of}{tail}"]


def notes_of(source: Source, unused: Quantity | None, options: TrialOptions) -> list[str]:
    """Return how the numbers came about, and what they leave out; ``unused`` is the rate of a control arm."""
    said = [
        f"Intervals hold 95 % of {options.n_bootstrap} draws of people from out-of-fold judgements, each with about "
        "half a responder and half a non-responder added; they allow for people who taught the models that judged "
        "others. They leave out that the people of the trial may differ from this sample.",
        "The row spoken of was fixed beforehand: the model's own threshold, else the one nearest to keeping half. The "
        "best row of the table flatters itself, as it is the best on the same people.",
        f"Sizes: Pearson's chi-squared test, two-sided alpha {options.alpha:g}, power {options.power:g}, without "
        "continuity correction; enrolled_corrected is with it, as Fisher's exact test wants. More than "
        f"{LARGEST_TRIAL:,} patients counts as not reachable.",
        "A trial that enrols those kept says nothing of those left out.",
    ]
    if source != "none":
        said.append(
            "What is saved is a part of the trial without enrichment: its interval rests on the share that each draw "
            "saves and never exceeds that trial as estimated, whose own uncertainty it does not hold."
        )
    if source == "given":
        said.append(f"The responder rate under control, {options.control_rate:g}, was given and has no interval.")
    if unused is not None:
        said.append(f"The control arm of this sample ({_percent(unused)}) was not used.")
    if options.cost_scan is not None:
        said.append("The trial without enrichment pays for no scan.")
    return said


def _where(row: Enrichment) -> str:
    own = "At the model's own decision threshold" if row.rule == "decision" else "At the threshold"
    return own if row.threshold is None else f"{own} {row.threshold:.2f}"


def _auroc(auroc: Estimate) -> str:
    if auroc.value is None or auroc.low is None or auroc.high is None:
        return "AUROC without an interval"
    return f"AUROC {auroc.value:.2f}, 95 % interval {auroc.low:.2f} to {auroc.high:.2f}"


def _count(x: float) -> str:
    return f"{x:,.0f}" if np.isfinite(x) else "not reachable"


def _span(q: Quantity) -> str:
    return f"{_count(q.low)} to {_count(q.high)}"


def _percent(q: Quantity) -> str:
    if q.low == q.high:
        return f"{100 * q.value:.0f} %"
    return f"{100 * q.value:.0f} % ({100 * q.low:.0f} to {100 * q.high:.0f} %)"


def _points(q: Quantity) -> str:
    return f"{100 * q.low:+.0f} to {100 * q.high:+.0f} percentage points"
