"""What the page shows of one analysis, part by part: figures, tables, and the sentences that are stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bids_fmmtc.report.analysis import attribution, figures
from bids_fmmtc.report.analysis.checks import confound_rows, elsewhere, protocol
from bids_fmmtc.report.analysis.facts import Analysis, reasons, told
from bids_fmmtc.report.analysis.forest import ForestRow, forest, interval_text
from bids_fmmtc.report.analysis.methods import methods, provenance
from bids_fmmtc.report.analysis.trial import plan_table, trial_figures
from bids_fmmtc.report.group.facts import Group
from bids_fmmtc.report.group.figures import distributions, flow_figure
from bids_fmmtc.report.kit.page import number
from bids_fmmtc.report.kit.sheet import attempt, plain, short
from bids_fmmtc.results.evaluation import NOTHING, Compared, Explanation, Part
from bids_fmmtc.results.measures import words_of
from bids_fmmtc.results.verdict import NOISE, found_effect

Table = Mapping[str, object]
"""``columns`` and ``rows`` for the macro ``table``."""


def analysis_view(group: Group, analysis: Analysis, prefix: str) -> dict[str, object]:
    """Return everything that ``analysis.html`` shows; what cannot be drawn is a line of text instead.

    Parameters
    ----------
    prefix
        Starts every id of this analysis.
    """
    parts = {
        "flow": ("The flow of people", lambda: flow_figure(group, analysis, f"{prefix}-flow")),
        "spread": ("The spread of predictions", lambda: distributions(analysis, f"{prefix}-spread")),
        "curves": ("The curves", lambda: _curves(analysis, prefix)),
        "forest": ("The comparison", lambda: _forest(analysis, f"{prefix}-forest")),
        "comparisons": ("The table of differences", lambda: _comparisons(analysis)),
        "measures": ("The table of measures", lambda: _measures(analysis)),
        "permutation": ("The permutation test", lambda: figures.permutation_figure(analysis, f"{prefix}-permutation")),
        "confounds": ("The checks of confounds", lambda: confound_rows(analysis)),
        "elsewhere": ("Other cohorts", lambda: elsewhere(analysis, f"{prefix}-elsewhere")),
        "protocol": ("The published protocol", lambda: protocol(analysis)),
        "attribution": ("The explanation", lambda: _explanation(analysis, f"{prefix}-map")),
        "trial": ("The trial plan", lambda: _trial(analysis, f"{prefix}-trial")),
        "methods": ("The methods text", lambda: methods(analysis)),
        "provenance": ("The provenance", lambda: provenance(analysis)),
    }
    origin, measure = analysis.origin, analysis.measure
    return {
        "prefix": prefix,
        "of": f" ({analysis.label})" if len(group.analyses) > 1 else "",
        "label": analysis.label,
        "bundle": _bundle_page(analysis),
        "outcome": plain(origin.outcome),
        "n": plain(analysis.evaluation.n),
        "problems": analysis.problems,
        "readable": analysis.readable,
        "verdicts": list(analysis.evaluation.verdicts),
        "lead": " ".join(analysis.evaluation.verdicts[:1] or analysis.problems[:1]),
        "trial_verdict": trial_verdict(analysis),
        "measure": measure.words,
        "headline": f"{measure.words} {interval_text(analysis.estimate(measure.name))}",
        "notes": list(origin.notes),
        "reasons": [{"reason": reason, "n": plain(n)} for reason, n in reasons(analysis).most_common()],
        "excluded": _excluded(analysis),
        "command": origin.command,
        "regression": analysis.regression,
        **{name: attempt(what, make) for name, (what, make) in parts.items()},
    }


def _bundle_page(analysis: Analysis) -> str:
    """Return the link to the card of the analysis' bundle; empty without one, or for a name that is no plain name."""
    plain_name = re.fullmatch(r"[A-Za-z0-9+_-]+", analysis.label) is not None
    return f"group/{analysis.label}/bundle.html" if plain_name and (analysis.folder / "bundle").is_dir() else ""


def trial_verdict(analysis: Analysis) -> str:
    """Return the stored verdict on enrichment, or why there is none."""
    found, why = told(analysis.trial)
    if found is not None and found.verdict:
        return f"Enrichment of a trial by this model: {found.verdict}."
    return f"Enrichment of a trial by this model was not judged ({why})." if why else ""


def _excluded(analysis: Analysis) -> list[dict[str, str]]:
    return [
        {"participant": row.get("participant_id", ""), "what": row.get("key", ""), "reason": row.get("reason", "")}
        for row in analysis.exclusions or ()
    ]


def _curves(analysis: Analysis, prefix: str) -> list[Any]:
    """Return the figures of performance, each by itself: one that fails leaves the others."""
    drawn = {"roc": figures.roc_figure, "pr": figures.pr_figure, "calibration": figures.calibration_figure}
    drawn |= {"confusion": figures.confusion_figure}
    if analysis.regression:
        drawn = {"scatter": figures.scatter_figure}
    found = []
    for name, draw in drawn.items():
        figure = attempt(f"The figure {name}", draw, analysis, f"{prefix}-{name}")
        found += [] if figure is None else [figure]
    return found


def forest_rows(analysis: Analysis) -> list[ForestRow]:
    """Return every contestant in the order of the evaluation, those not run with the reason."""
    return [
        ForestRow(model.text or name, model.role, model.estimate(analysis.measure.name), model.reason or "")
        for name, model in analysis.evaluation.models.items()
    ]


def _forest(analysis: Analysis, name: str) -> Any:
    caption = (
        "Everything judged on the same people and folds, with 95 % intervals. Overlap of two intervals is no test; the "
        "differences below are."
    )
    return forest(forest_rows(analysis), analysis.measure, name, "The model beside its parts and baselines", caption)


def _comparisons(analysis: Analysis) -> Table:
    columns = [
        ("against", "the model less", "text"),
        ("difference", "difference", "number"),
        ("t", "corrected t", "number"),
        ("p", "p", "number"),
    ]
    columns += [("folds", "folds", "number")]
    models, rows = analysis.evaluation.models, []
    for each in analysis.evaluation.comparisons:
        test = each.corrected_resampled_t
        text = models[each.against].text if each.against in models else ""
        other = "" if each.metric == analysis.measure.name else f" (in {words_of(each.metric)})"
        rows.append(
            {
                "against": (text or each.against) + other,
                "difference": interval_text(each.difference),
                "t": number(test.t),
                "p": p_text(test.p),
                "folds": plain(test.folds),
            }
        )
    return {"columns": columns, "rows": rows}


def p_text(p: float | None) -> str:
    """Return a p value with two digits that count, and no more than four decimals."""
    return plain(None) if p is None else "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p >= 0.001 else f"{p:.4f}"


def _measures(analysis: Analysis) -> Table:
    columns = [("metric", "measure", "text"), ("value", "value (95 % interval)", "number")]
    metrics = analysis.evaluation.model.metrics or NOTHING
    rows = [{"metric": words_of(name), "value": interval_text(estimate, 3)} for name, estimate in metrics.items()]
    return {"columns": columns, "rows": rows}


# --------------------------------------------------------------------------------------------------- explanation, trial


def _explanation(analysis: Analysis, name: str) -> dict[str, object]:
    found, why = told(analysis.evaluation.explanation)
    if found is None:
        return {"why": why}
    folder = analysis.folder / "attribution"
    drawn = [
        attempt("The map of means", attribution.map_figure, folder, "mean", f"{name}-mean"),
        attempt("The map of differences", attribution.map_figure, folder, "between", f"{name}-between"),
        attempt("Shares", attribution.share_figure, found.shares, f"{name}-shares"),
        attempt("Parcels", attribution.parcel_figure, found.top_parcels, f"{name}-parcels"),
    ]
    return {
        "why": "",
        "warning": "" if found_effect(analysis.evaluation) else NOISE,
        "sanity": found.sanity.text,
        "sane": found.sanity.passes is True,
        "sanity_table": _tabled(attribution.sanity_table(found.sanity.rows)),
        "figures": _drawn(drawn),
        "image": (folder / "parcels_mean.nii.gz").is_file(),
        "facts": _explained_facts(found),
        "parcels": _tabled(attribution.parcel_table(found.top_parcels)),
        "edges": _tabled(attribution.edge_table(found.top_edges)),
        "people": [f"group/{analysis.label}/attribution/{each}" for each in analysis.explained],
        "cohorts": [
            _cohort(analysis, cohort, content, f"{name}-{i}")
            for i, (cohort, content) in enumerate(found.compared.items(), 1)
        ],
    }


def _drawn(some: Iterable[Any]) -> list[Any]:
    return [each for each in some if each is not None]


def _tabled(found: tuple[Any, Any]) -> Table:
    return {"columns": found[0], "rows": found[1]}


def _cohort(analysis: Analysis, cohort: str, content: Compared | Part, name: str) -> dict[str, object]:
    """Return the model's behaviour on another cohort beside that on its own."""
    folder = analysis.folder / "attribution" / f"cohort-{cohort}"
    whose = short(cohort)
    maps = [
        attempt(f"The map of {whose}", attribution.map_figure, folder, column, f"{name}-{column}", whose)
        for column in ("mean", "between")
        if "/" not in cohort
    ]
    compared, why = told(content)
    table = _tabled(attribution.compared_table(() if compared is None else compared.rows))
    return {"name": cohort, "why": why, "table": table, "figures": _drawn(maps)}


def _explained_facts(found: Explanation) -> list[tuple[str, str]]:
    through = {True: "yes", False: "no: its vectors are the inputs"}.get(bool(found.encoder))
    of = found.people if found.of is None else found.of
    pairs = [
        ("People explained", f"{plain(found.people)} of {plain(of)} sessions"),
        ("Windows of each", plain(found.windows_each) if found.windows_each else "all"),
        ("Through the encoder to parcels", plain(None if found.encoder is None else through)),
        ("Steps", plain(found.steps)),
        ("Largest completeness error", plain(found.completeness_error, 2)),
        ("Top parcels that stay on top in draws", number(found.top_stability)),
    ]
    return [*pairs, *((f"Baseline of {attribution.input_words(k)}", v) for k, v in found.baseline.items())]


def _trial(analysis: Analysis, name: str) -> dict[str, object]:
    found, why = told(analysis.trial)
    if found is None:
        return {"why": why}
    return {
        "why": "",
        "sentences": list(found.sentences),
        "notes": list(found.notes),
        "figures": attempt("The trial's curves", lambda: trial_figures(found, name)),
        "table": plan_table(found),
    }
