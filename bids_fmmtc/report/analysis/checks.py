"""What could stand behind a model, and how it does elsewhere: confounds, sites, other cohorts, published protocol.

Sentences that claim something are those stored in ``evaluation.json``; the few made here say what was not checked or
not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bids_fmmtc.report.analysis.facts import CHANCE, METRIC_WORDS, Analysis
from bids_fmmtc.report.analysis.forest import ForestRow, forest, interval_text
from bids_fmmtc.report.kit.page import number
from bids_fmmtc.report.kit.sheet import plain
from bids_fmmtc.report.kit.values import estimate_in, mapping, mappings, number_of, texts

_NOT_BETTER = "Not shown to be better than chance."
_NO_PROOF = " That does not show that it plays no part."
INFLATED = "Published protocol, inflated"
_CONFOUNDS = {  # contestant -> (what is checked, how its stored sentence begins)
    "site": ("Site alone", "The site alone"),
    "motion": ("Motion alone", "Motion alone"),
    "covariates": ("Covariates alone", "The covariates alone"),
}


def stored_sentence(analysis: Analysis, *starts: str) -> str:
    """Return the stored verdict that begins with one of these, or nothing."""
    return next((said for said in analysis.verdicts if said.startswith(starts)), "")


def confound_rows(analysis: Analysis) -> list[dict[str, str]]:
    """Return what could stand behind the model: check, estimate, and a sentence that claims no more than it holds."""
    metric, rows = analysis.metric, []
    for name, (what, start) in _CONFOUNDS.items():
        model = analysis.models.get(name, {})
        estimate = analysis.estimate(name, metric)
        said = f"Not checked: {model.get('reason') or 'not in the evaluation'}."
        if model.get("status") == "ok":
            said = stored_sentence(analysis, start) or _standing(estimate, metric)
            said += _NO_PROOF if said == _NOT_BETTER else ""
        rows.append({"check": what, "estimate": interval_text(estimate) if estimate else plain(None), "said": said})
    inside = estimate_in(analysis.evaluation, "within_site")
    said = "Not checked: the cohort has one site, or none is known."
    if inside is not None:
        said = stored_sentence(analysis, "Among people of one site", "No two people of one site")
        said = said or _standing(inside, metric)
    text = interval_text(inside) if inside else plain(None)
    rows.append({"check": "The model, within sites", "estimate": text, "said": said})
    found, why = analysis.part("leave_one_site_out")
    estimate = estimate_in(found.get("metrics"), metric)
    said = stored_sentence(analysis, "Each site judged by", "No site could be left out")
    # Whether it was checked is told by the values: another version may word its sentence otherwise.
    unchecked = f"Not checked: {'--leave-one-site-out was not given' if why == 'not run' else why}."
    said = said or (_standing(estimate, metric) if found else unchecked)
    text = interval_text(estimate) if estimate else plain(None)
    return [*rows, {"check": "The model on a site left out", "estimate": text, "said": said}]


def _standing(estimate: Mapping[str, Any] | None, metric: str) -> str:
    """Return where an estimate stands, where no sentence of it is stored."""
    if estimate is None or estimate["value"] is None or estimate["low"] is None:
        return "Cannot be told: there is no interval."
    if estimate["low"] > CHANCE[metric]:
        return "The interval lies above chance."
    return _NOT_BETTER


def elsewhere(analysis: Analysis, name: str) -> dict[str, Any]:
    """Return other cohorts as figure, table and sentences; empty where there are none."""
    metric, rows, table = analysis.metric, [], []
    for cohort, content in mapping(analysis.evaluation.get("external")).items():
        found = mapping(content)
        estimate = estimate_in(found.get("metrics"), metric)
        ok = found.get("status") == "ok"
        why = "" if ok else f"{found.get('status')}: {found.get('reason')}"
        said = stored_sentence(analysis, f"On cohort {cohort},", f"Cohort {cohort} ") if ok else why
        said = said or _standing(estimate, metric)
        table.append(
            {
                "cohort": str(cohort),
                "n": plain(found.get("n")),
                "excluded": plain(len(mappings(found.get("excluded")))),
                "estimate": interval_text(estimate) if estimate else plain(None),
                "said": " ".join([said, *texts(found.get("notes"))]),
            }
        )
        rows.append(ForestRow(f"{cohort}, untouched", "elsewhere", estimate, why))
        rows += _adapted_rows(str(cohort), mapping(found.get("adapted")), metric)
    if not rows:
        return {}
    own = ForestRow("own cohort, out of fold", "model", analysis.estimate("model", metric))
    caption = "The model learnt from its own cohort, on people of other cohorts, with 95 % intervals."
    columns = [("cohort", "cohort", "text"), ("n", "sessions", "number"), ("excluded", "left out", "number")]
    columns += [("estimate", METRIC_WORDS[metric], "number"), ("said", "what that says", "text")]
    figure = forest([own, *rows], metric, name, "The model on other cohorts", caption)
    return {"figure": figure, "columns": columns, "rows": table}


def _adapted_rows(cohort: str, adapted: Mapping[str, Any], metric: str) -> list[ForestRow]:
    if not adapted:
        return []
    ways = {"adapted": "fine-tuned there", "from_scratch": "learnt there from scratch"}
    why = str(adapted.get("reason", "not run"))
    return [
        ForestRow(f"{cohort}, {words}", "elsewhere", estimate_in(adapted.get(way), metric), why)
        for way, words in ways.items()
    ]


def protocol(analysis: Analysis) -> dict[str, Any]:
    """Return the published protocol's figures, marked; empty where it was not asked for."""
    if "reference_protocol" not in analysis.evaluation:
        return {}
    found, why = analysis.part("reference_protocol")
    if not found:
        return {
            "text": f"The published protocol was asked for, but {why}.",
            "rows": [],
            "flaws": [],
            "heading": INFLATED,
        }
    rows = []
    for epoch, words in (("best_epoch", "best epoch of each fold (inflated)"), ("last_epoch", "last epoch")):
        mean, sd = mapping(mapping(found.get(epoch)).get("mean")), mapping(mapping(found.get(epoch)).get("sd"))
        told = {name: f"{number(number_of(mean[name]))} ± {number(number_of(sd.get(name)))}" for name in mean}
        rows.append({"epoch": words, "folds": plain(mapping(found.get(epoch)).get("folds")), **told})
    names = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "folds"))
    columns = [("epoch", "epoch", "text"), ("folds", "folds", "number")]
    columns += [(name, METRIC_WORDS.get(name, name.replace("_", " ")), "number") for name in names]
    flaws = [*texts(found.get("reproduced")), *texts(found.get("not_reproduced"))]
    text = str(found.get("text", ""))
    return {"text": text, "columns": columns, "rows": rows, "flaws": flaws, "heading": INFLATED}
