"""What could stand behind a model, and how it does elsewhere: confounds, sites, other cohorts, published protocol.

Sentences that claim something are those stored in ``evaluation.json``; the few made here say what was not checked or
not shown.
"""

from __future__ import annotations

from bids_fmmtc.report.analysis.facts import Analysis, told
from bids_fmmtc.report.analysis.forest import ForestRow, forest, interval_text
from bids_fmmtc.report.kit.page import number
from bids_fmmtc.report.kit.sheet import plain
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.evaluation import NOTHING, Adapted, Part, Scored
from bids_fmmtc.results.measures import Measure, words_of
from bids_fmmtc.results.verdict import COHORT, SITE_LEFT_OUT, WITHIN_SITE, better, said_of

_NOT_BETTER = "Not shown to be better than chance."
_NO_PROOF = " That does not show that it plays no part."
INFLATED = "Published protocol, inflated"
_CONFOUNDS = {"site": "Site alone", "motion": "Motion alone", "covariates": "Covariates alone"}
"""Contestant -> what is checked by it."""


def confound_rows(analysis: Analysis) -> list[dict[str, str]]:
    """Return what could stand behind the model: check, estimate, and a sentence that claims no more than it holds."""
    evaluation, rows = analysis.evaluation, []
    for name, what in _CONFOUNDS.items():
        model = evaluation.models.get(name, Scored())
        said = f"Not checked: {model.reason or 'not in the evaluation'}."
        if model.judged:
            said = said_of(evaluation, name) or _standing(analysis, evaluation.estimate(name))
            said += _NO_PROOF if said == _NOT_BETTER else ""
        rows.append(_row(what, model.estimate(analysis.measure.name), said))
    inside = evaluation.within_site
    said = "Not checked: the cohort has one site, or none is known."
    if inside is not None:
        said = said_of(evaluation, WITHIN_SITE) or _standing(analysis, inside)
    rows.append(_row("The model, within sites", inside, said))
    found, why = told(evaluation.leave_one_site_out)
    estimate = None if found is None else found.metrics.get(analysis.measure.name)
    # Whether it was checked is told by the values: another version may word its sentence otherwise.
    unchecked = f"Not checked: {'--leave-one-site-out was not given' if why == 'not run' else why}."
    said = said_of(evaluation, SITE_LEFT_OUT) or (_standing(analysis, estimate) if found else unchecked)
    return [*rows, _row("The model on a site left out", estimate, said)]


def _row(check: str, estimate: Estimate | None, said: str) -> dict[str, str]:
    return {"check": check, "estimate": interval_text(estimate) if estimate else plain(None), "said": said}


def _standing(analysis: Analysis, estimate: Estimate | None) -> str:
    """Return where an estimate stands, where no sentence of it is stored."""
    if estimate is None or estimate.value is None or estimate.low is None:
        return "Cannot be told: there is no interval."
    return "The interval lies above chance." if better(analysis.evaluation, estimate) else _NOT_BETTER


def elsewhere(analysis: Analysis, name: str) -> dict[str, object]:
    """Return other cohorts as figure, table and sentences; empty where there are none."""
    measure = analysis.measure
    rows, table = [], []
    for cohort, content in (analysis.evaluation.external or NOTHING).items():
        found, why = told(content)
        estimate = None if found is None else found.metrics.get(measure.name)
        said = why if found is None else said_of(analysis.evaluation, f"{COHORT} {cohort}")
        said = said or _standing(analysis, estimate)
        table.append(
            {
                "cohort": cohort,
                "n": plain(None if found is None else found.n),
                "excluded": plain(0 if found is None else len(found.excluded)),
                "estimate": interval_text(estimate) if estimate else plain(None),
                "said": " ".join([said, *(() if found is None else found.notes)]),
            }
        )
        rows.append(ForestRow(f"{cohort}, untouched", "elsewhere", estimate, why))
        rows += [] if found is None else _adapted_rows(cohort, found.adapted, measure)
    if not rows:
        return {}
    own = ForestRow("own cohort, out of fold", "model", analysis.estimate(measure.name))
    caption = "The model learnt from its own cohort, on people of other cohorts, with 95 % intervals."
    columns = [("cohort", "cohort", "text"), ("n", "sessions", "number"), ("excluded", "left out", "number")]
    columns += [("estimate", measure.words, "number"), ("said", "what that says", "text")]
    figure = forest([own, *rows], measure, name, "The model on other cohorts", caption)
    return {"figure": figure, "columns": columns, "rows": table}


def _adapted_rows(cohort: str, adapted: Adapted | Part | None, measure: Measure) -> list[ForestRow]:
    if adapted is None:
        return []
    ways = {"adapted": "fine-tuned there", "from_scratch": "learnt there from scratch"}
    why = adapted.reason if isinstance(adapted, Part) else "not run"
    return [
        ForestRow(f"{cohort}, {words}", "elsewhere", getattr(adapted, way, NOTHING).get(measure.name), why)
        for way, words in ways.items()
    ]


def protocol(analysis: Analysis) -> dict[str, object]:
    """Return the published protocol's figures, marked; empty where it was not asked for."""
    if analysis.evaluation.reference_protocol is None:
        return {}
    found, why = told(analysis.evaluation.reference_protocol)
    if found is None:
        text = f"The published protocol was asked for, but {why}."
        return {"text": text, "rows": [], "flaws": [], "heading": INFLATED}
    rows = []
    epochs = {"best epoch of each fold (inflated)": found.best_epoch, "last epoch": found.last_epoch}
    for words, spread in epochs.items():
        mean, sd = (NOTHING, NOTHING) if spread is None else (spread.mean, spread.sd)
        told_of = {name: f"{number(mean[name])} ± {number(sd.get(name))}" for name in mean}
        rows.append({"epoch": words, "folds": plain(None if spread is None else spread.folds), **told_of})
    names = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "folds"))
    columns = [("epoch", "epoch", "text"), ("folds", "folds", "number")]
    columns += [(name, words_of(name).replace("_", " "), "number") for name in names]
    flaws = [*found.reproduced, *found.not_reproduced]
    return {"text": found.text, "columns": columns, "rows": rows, "flaws": flaws, "heading": INFLATED}
