"""What a trial would be that enrols only those whom the model calls likely responders, and how sure that is.

The sample stands for the people who would be screened. A row of the plan is one enrichment threshold: the share of
people at or above it, the responder rate among them, and the two-arm trial that this rate needs, beside the trial
that enrols everybody (Kerr et al. 2017, Clinical Trials 14, 629; FDA 2019, Enrichment Strategies for Clinical Trials).

Intervals hold 95 % of draws of people (groups) from out-of-fold judgements. A plain bootstrap takes 5 responders of 5
for certain; so each draw also holds half a responder and half a non-responder on average, with gamma weights: were the
people's weights exponential, that would be the Jeffreys interval (Rubin 1981, Ann. Stat. 9, 130; Brown, Cai and
DasGupta 2001, Stat. Sci. 16, 101). Where the judged people also taught the models, what the model changes (share kept,
log-odds of response among those kept less that of everybody) is spread out by the arm's `intervals.widening`. Sizes,
costs and savings are computed draw by draw; where the drug's rate is not above the control's, no trial is large
enough, which counts as infinite and is written as "not reachable". What is saved is a part of the trial without
enrichment, and no draw makes the part exceed the whole: a draw that saves says which share of its own trial it saves,
and that share of the trial as estimated counts. (The plain difference reaches a hundred times the estimated trial, for
a draw in which drug and control hardly differ needs nearly 100,000 patients.) What a draw loses is its difference.

Measured by simulation (least squares on 5 features, 5 folds, 3 repeats, 40 and 80 people, 250 cohorts each): 95 %
intervals held the rate among those kept in 97 to 100 % of cohorts and its rise in 93 to 98 %, and on noise claimed a
rise in at most 1 %. Without the spread they held the rise on noise in 84 %. With two arms and a fixed model (400
cohorts of 40 or 80 an arm) intervals of the trial's size held the true one in 93 to 97 %.

What responders in the control arm would be decides everything. A marker of response in general raises both arms and
helps no drug trial. With a control arm in the sample its rate is taken among its own people above the threshold. A
rate given as a number is an assumption, and the plan says what it costs if it is wrong. With neither there are no
sample sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bids_fmmtc.learning.folds import rng_of
from bids_fmmtc.learning.judging.intervals import draws, interval
from bids_fmmtc.learning.trial.arm import Arm
from bids_fmmtc.learning.trial.words import notes_of, verdict_of
from bids_fmmtc.results.trial import (
    LARGEST_TRIAL,
    CurvePoint,
    Enrichment,
    Evidence,
    Quantity,
    Rule,
    Source,
    Trial,
    TrialOptions,
    TrialPlan,
)
from bids_fmmtc.types import Float64

FEWEST_KEPT = 10
"""People of an arm at or above a threshold; below, the row is marked unreliable."""
FEWEST_OF_A_CLASS = 5
"""Responders, and non-responders: with fewer in all, chance alone often puts all of them above a threshold."""
SMALLEST_CELL = 5
"""Expected responders or non-responders of an arm; below, the normal approximation of the sample size is doubtful."""
SHARES = np.arange(9, 0, -1) / 10
PREFERENCES = np.arange(1, 20) / 20


def plan_trial(drug: Arm, options: TrialOptions, evidence: Evidence, control: Arm | None = None) -> TrialPlan:
    """Plan a trial of the studied drug from out-of-fold judgements.

    Parameters
    ----------
    drug
        People under the drug.
    options, evidence
        The trial, and what the evaluation found.
    control
        The sample's own control arm. Where ``options.control_rate`` is given, that counts, and a note says so.
    """
    arms = [drug] if control is None else [drug, control]
    names = [name for arm in arms for name in arm.groups]
    # Not within classes: the share of responders is what is asked for.
    weights = np.vstack([np.ones((1, len(names))), draws(names, options.n_bootstrap, options.seed)])
    cuts = _cuts(arms, evidence.threshold)
    rng = rng_of(options.seed, "trial")
    parts = np.split(weights, [len(drug.y)], axis=1)
    tables = [_table(arm, part, cuts, rng) for arm, part in zip(arms, parts, strict=False)]
    source: Source = "given" if options.control_rate is not None else "none" if control is None else "control arm"
    rows = tuple(_row(tables, column, cut, source, options) for column, cut in enumerate(cuts))
    verdict, sentences = verdict_of(rows, evidence, source, options)
    unused = Quantity.of(tables[1].rate[:, 0]) if control is not None and source == "given" else None
    notes, curve = notes_of(source, unused, options), _decision_curve(drug, parts[0])
    return TrialPlan("ok", options, evidence, source, verdict, tuple(sentences), tuple(notes), rows, curve)


def sample_size(
    drug: Float64 | float, control: Float64 | float, options: TrialOptions, *, corrected: bool = False
) -> tuple[Float64, Float64]:
    """Return patients with an outcome of the drug and the control arm; infinite where no trial is reachable.

    Normal approximation for Pearson's chi-squared test, pooled variance under the null hypothesis, one tail at
    alpha / 2: the textbook formula (Fleiss 1981, chapter 3), 93 an arm for rates of 0.5 and 0.3.
    ``corrected`` adds the continuity correction that Fisher's exact test wants (Fleiss, Tytun and Ury 1980,
    Biometrics 36, 343): 103. Without is the default because it is the number that trial software gives first, and
    because Pearson's test needs no more unless arms are small.

    Parameters
    ----------
    drug, control
        Responder rates in 0..1, any shapes that broadcast; NaN gives infinity.
    """
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail  # noqa: PLC0415  (1 s)

    drug, control = np.broadcast_arrays(np.asarray(drug, np.float64), np.asarray(control, np.float64))
    reached = drug > control
    gap, base = np.where(reached, drug - control, 0.5), np.where(reached, control, 0.25)
    n = samplesize_proportions_2indep_onetail(gap, base, options.power, options.ratio, options.alpha)
    if corrected:
        n = n / 4 * (1 + np.sqrt(1 + 2 * (options.ratio + 1) / (n * options.ratio * gap))) ** 2
    first, second = _up(n), _up(options.ratio * n)
    reached = reached & (first + second <= LARGEST_TRIAL)
    return np.where(reached, first, np.inf), np.where(reached, second, np.inf)


def _up(x: Float64) -> Float64:
    """Return the next whole number, forgiving what rounding adds."""
    whole: Float64 = np.ceil(np.round(x, 6))
    return whole


# rates


Cut = tuple[float | None, Rule]


class _Table(NamedTuple):
    """Of one arm: people (T,) kept, share kept and responder rate (1 + B, T), people of the rarer class."""

    people: Float64
    share: Float64
    rate: Float64
    rarer: int


def _cuts(arms: Sequence[Arm], own: float | None) -> list[Cut]:
    """Return threshold and rule of every row, tied people kept or left together."""
    seen = arms[0].value[~np.isnan(arms[0].value)]
    shares = np.unique(np.quantile(seen, 1 - SHARES, method="higher"))
    decision: list[Cut] = [(own, "decision")] if all(arm.label is not None for arm in arms) else []
    return [(0.0, "everybody"), *decision, *((float(t), "share") for t in shares if t > seen.min())]


def _table(arm: Arm, weights: Float64, cuts: Sequence[Cut], rng: np.random.Generator) -> _Table:
    """Return shares and rates, the sample's own first, then those of the draws with their gamma people."""
    kept = arm.kept(np.array([np.nan if t is None else t for t, _ in cuts]))
    for column, (_, rule) in enumerate(cuts):
        if rule == "decision" and arm.label is not None:
            kept[:, column] = np.nanmean(arm.label, axis=0)
    extra = np.zeros((len(weights), 4))
    extra[1:] = rng.gamma(0.5, size=(len(weights) - 1, 4))
    inside, responders = weights @ kept, weights @ (kept * arm.y[:, None])
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (inside + extra[:, :1]) / (weights.sum(axis=1) + extra[:, :2].sum(axis=1))[:, None]
        rate = (responders + extra[:, 2:3]) / (inside + extra[:, 2:].sum(axis=1, keepdims=True))
    rate[1:] = _spread(rate[1:], rate[1:, :1], arm.factor)
    share[1:] = _spread(share[1:], np.full((1, 1), 0.5), arm.factor)
    share[:, 0] = 1
    rate[:, inside[0] == 0] = np.nan
    names, number = np.unique(arm.groups, return_inverse=True)
    # A person kept in some of the repeats, or in one session of several, counts as the largest of these shares.
    most = np.zeros((len(names), len(cuts)))
    np.maximum.at(most, number, kept)
    rarer = min(len(set(number[arm.y == c])) for c in (0, 1))
    return _Table(most.sum(axis=0), share, rate, rarer)


def _spread(values: Float64, base: Float64, factor: float) -> Float64:
    """Return shares (B, T) whose log-odds less those of ``base`` lie ``factor`` times as far from their median."""
    least = np.finfo(np.float64).eps
    odds, start = (np.log(p) - np.log1p(-p) for p in (np.clip(v, least, 1 - least) for v in (values, base)))
    away = odds - start
    middle = np.median(away, axis=0)
    spread: Float64 = 1 / (1 + np.exp(-(start + middle + factor * (away - middle))))
    return spread


def _decision_curve(arm: Arm, weights: Float64) -> tuple[CurvePoint, ...]:
    """Return net benefit: true positives less false ones at the threshold's odds, per person (Vickers and Elkin 2006).

    Medical Decision Making 26, 565.
    """
    worth = arm.y[:, None] - (1 - arm.y[:, None]) * PREFERENCES / (1 - PREFERENCES)
    total = weights.sum(axis=1)[:, None]
    model, everybody = (weights @ (kept * worth) / total for kept in (arm.kept(PREFERENCES), 1))
    policies = ((model, arm.factor), (everybody, 1.0), (model - np.maximum(everybody, 0), arm.factor))
    columns = [[interval(t[1:], float(t[0]), factor) for t in table.T] for table, factor in policies]
    return tuple(CurvePoint(float(t), *three) for t, *three in zip(PREFERENCES, *columns, strict=True))


# rows


def _row(tables: Sequence[_Table], column: int, cut: Cut, source: Source, o: TrialOptions) -> Enrichment:
    drug = tables[0]
    control = _control(tables, source, o)
    empty = bool(np.isnan(drug.rate[0, column]))
    trial = None
    if control is not None and not empty and not np.isnan(control[0, column]):
        trial = _trial(drug, control, column, source, o)
    shortages = _too_few(tables, column, source)
    return Enrichment(
        *cut,
        people=float(drug.people[column]),
        share=Quantity.of(drug.share[:, column]),
        rate=Quantity.of(drug.rate[:, column]),
        rise=Quantity.of(drug.rate[:, column] - drug.rate[:, 0]),
        control=None if control is None else Quantity.of(control[:, column]),
        trial=trial,
        reliable=not shortages,
        cautions=shortages or _small_cells(trial, drug, control, column),
    )


def _control(tables: Sequence[_Table], source: Source, options: TrialOptions) -> Float64 | None:
    """Return (1 + B, T) responder rates under control."""
    if source == "given":
        return np.full_like(tables[0].rate, options.control_rate)
    return tables[1].rate if source == "control arm" else None


def _trial(drug: _Table, control: Float64, column: int, source: Source, options: TrialOptions) -> Trial:
    both = [0, column]
    rate, under = drug.rate[:, both], control[:, both]
    arms = sample_size(rate, under, options)
    enrolled = _enrolled(arms, options)
    screened = _up(enrolled / drug.share[:, both])
    prognostic = None
    if source == "given":
        prognostic = _enrolled(sample_size(rate, _as_odds(rate, under), options), options)
    cost = _cost(enrolled, screened, options, scanned=column > 0)
    return Trial(
        drug_arm=Quantity.of(arms[0][:, 1], "size"),
        control_arm=Quantity.of(arms[1][:, 1], "size"),
        enrolled=Quantity.of(enrolled[:, 1], "size"),
        enrolled_corrected=Quantity.of(
            _enrolled(sample_size(rate, under, options, corrected=True), options)[:, 1], "size"
        ),
        enrolled_if_prognostic=None if prognostic is None else Quantity.of(prognostic[:, 1], "size"),
        screened=Quantity.of(screened[:, 1], "size"),
        fewer=Quantity.of(_saved(enrolled), "saving"),
        cost=None if cost is None else Quantity.of(cost[:, 1], "size"),
        saving=None if cost is None else Quantity.of(_saved(cost), "saving"),
        feasible=float(np.isfinite(enrolled[1:, 1]).mean()),
        smaller=float((enrolled[1:, 1] < enrolled[1:, 0]).mean()),
    )


def _enrolled(arms: tuple[Float64, Float64], options: TrialOptions) -> Float64:
    first, second = (_up(arm / (1 - options.dropout)) for arm in arms)
    return first + second


def _cost(enrolled: Float64, screened: Float64, options: TrialOptions, *, scanned: bool) -> Float64 | None:
    """Return (1 + B, 2) costs of the trial without enrichment, which needs no scan, and of this one."""
    if options.cost_scan is None or options.cost_patient is None:
        return None
    finite = np.isfinite(screened)
    people, patients = (np.where(finite, n, 0) for n in (screened, enrolled))
    each = options.cost_screening + np.array([0, options.cost_scan if scanned else 0])
    return np.where(finite, people * each + patients * options.cost_patient, np.inf)


def _saved(both: Float64) -> Float64:
    """Return (1 + B,) the first column less the second; draws that save do so by the same share of the first estimate.

    A draw in which neither is reachable saves nothing. Where the trial without enrichment is estimated not to be
    reachable there is no whole to be a part of, and draws are differences.
    """
    whole = both[0, 0]
    with np.errstate(invalid="ignore"):
        saved = both[:, 0] - both[:, 1]
        saved[1:] = np.where(np.isnan(saved[1:]), 0, saved[1:])
        gains = np.flatnonzero((saved > 0) & np.isfinite(whole))
        gains = gains[gains > 0]
        saved[gains] = whole * (1 - both[gains, 1] / both[gains, 0])
    return np.asarray(saved)


def _as_odds(rate: Float64, under: Float64) -> Float64:
    """Return rates under control that rise with the drug's, so that the odds ratio of the arms stays the first's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        odds = rate / (1 - rate)
        raised = odds * (under / (1 - under))[:, :1] / odds[:, :1]
        risen = np.where(np.isinf(raised), 1, raised / (1 + raised))
    return np.where(under == 0, 0, risen)


def _too_few(tables: Sequence[_Table], column: int, source: Source) -> tuple[str, ...]:
    drug = tables[0]
    found = []
    if drug.people[column] < FEWEST_KEPT:
        found.append(f"{drug.people[column]:.3g} people are kept under the drug, fewer than {FEWEST_KEPT}")
    if drug.rarer < FEWEST_OF_A_CLASS:
        found.append(f"the rarer outcome under the drug has {drug.rarer} people, fewer than {FEWEST_OF_A_CLASS}")
    if source == "control arm" and tables[1].people[column] < FEWEST_KEPT:
        found.append(f"{tables[1].people[column]:.3g} people are kept under control, fewer than {FEWEST_KEPT}")
    return tuple(found)


def _small_cells(trial: Trial | None, drug: _Table, control: Float64 | None, column: int) -> tuple[str, ...]:
    if trial is None or control is None or not np.isfinite(trial.enrolled.value):
        return ()
    pairs = ((trial.drug_arm.value, drug.rate[0, column]), (trial.control_arm.value, control[0, column]))
    smallest = min(n * min(p, 1 - p) for n, p in pairs)
    if smallest >= SMALLEST_CELL:
        return ()
    return (
        f"the trial expects {smallest:.2g} responders or non-responders in an arm, fewer than {SMALLEST_CELL}: "
        "take the size with continuity correction",
    )
