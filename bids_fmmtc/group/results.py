"""What an analysis leaves in its folder: tables with described columns, and one JSON that holds every figure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bids_fmmtc import __version__
from bids_fmmtc.dataset.derivatives.describe import NOT_A_DEVICE, PAPER
from bids_fmmtc.dataset.store import read_record, write_json, write_table
from bids_fmmtc.errors import UsageError
from bids_fmmtc.group.study import Study
from bids_fmmtc.keys import Key
from bids_fmmtc.learning.bundle.save import refuse_occupied
from bids_fmmtc.learning.judging.evaluate import Judgements
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, REGRESSION
from bids_fmmtc.pages import BUNDLE_PAGE
from bids_fmmtc.plain import Cell, Cells, Columns
from bids_fmmtc.results.evaluation import (
    PARTS,
    Evaluation,
    Explanation,
    Part,
    Published,
    Scored,
    parts_of,
    states,
)
from bids_fmmtc.results.record import Origin, evaluation_of, origin_of, stored
from bids_fmmtc.results.trial import COLUMNS, TrialPlan
from bids_fmmtc.results.verdict import NOISE, found_effect, shown

EVALUATION, COMPARISON, PREDICTIONS, EXCLUSIONS = "evaluation.json", "comparison", "predictions", "exclusions"
TRIAL, ATTRIBUTION, BUNDLE = "trial", "attribution", "bundle"
_TEMPORARY = re.compile(r"\..+\.(tmp|old)")  # of writes that were killed; see dataset.store and learning.save

_WHO: Columns = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session"},
    "key": {"Description": "Key of the session"},
}
_EXCLUSION_COLUMNS: Columns = {**_WHO, "reason": {"Description": "Why it was not learnt from"}}


def write_described(stem: Path, description: str, columns: Columns, rows: Iterable[Mapping[str, Cell]]) -> None:
    """Write ``stem.tsv`` and, beside it, ``stem.json`` with what its columns hold."""
    write_table(stem.with_suffix(".tsv"), list(columns), rows)
    about = {"Description": description, "IntendedUse": NOT_A_DEVICE}
    write_json(stem.with_suffix(".json"), {**about, **columns})


def described(columns: Mapping[str, str]) -> Columns:
    """Return column -> description as a sidecar has it."""
    return {name: {"Description": text} for name, text in columns.items()}


def write_plan(study: Study, plan: TrialPlan) -> None:
    """Write the trial plan: a row an enrichment threshold, and everything, the decision curve too, as JSON."""
    write_described(study.folder / TRIAL, "Trial plan by enrichment threshold", COLUMNS, plan.rows())
    write_json(study.folder / f"{TRIAL}_plan.json", plain(plan.to_json()))


def tell(study: Study, evaluation: Evaluation) -> None:
    """Print the comparison and what it means; ``study`` has the folder where results are at last."""
    lines = [f"\n{study.label}: {study.outcomes.definition}, {len(study.cohort)} sessions"]
    for name, model in evaluation.models.items():
        estimate = evaluation.estimate(name)
        if estimate is not None:
            lines.append(f"  {shown(evaluation.measure, estimate):<48} {model.text}")
        else:
            lines.append(f"  {'not run':<48} {model.text}: {model.reason}")
    lines += ["", *evaluation.verdicts, *_notes(evaluation)]
    trial = evaluation.trial
    if isinstance(trial, TrialPlan):
        lines += ["", f"Enrichment by this model: {trial.verdict}.", *trial.sentences]
    lines += ["", f"Everything is in {study.folder}", NOT_A_DEVICE]
    sys.stdout.write("\n".join(lines) + "\n")


def _notes(evaluation: Evaluation) -> list[str]:
    """Return what must not be overlooked in the parts that follow the evaluation."""
    said = []
    if isinstance(evaluation.reference_protocol, Published):
        said += ["", evaluation.reference_protocol.text]
    if isinstance(evaluation.explanation, Explanation):
        said += ["", evaluation.explanation.sanity.text]
        if not found_effect(evaluation):
            said.append(NOISE)
    for name in PARTS:
        part = getattr(evaluation, name)
        if isinstance(part, Part):
            said.append(f"{name.replace('_', ' ')} {part.status}: {part.reason}")
    return said


def write_evaluation(study: Study, evaluation: Evaluation, command: str) -> None:
    """Write ``evaluation.json``: every figure of the analysis, what it was made of, and sentences on it."""
    origin = Origin(
        description=f"Evaluation of a model of treatment response ({PAPER}).",
        intended_use=NOT_A_DEVICE,
        software_version=__version__,
        command=command,
        analysis=study.label,
        outcome=study.outcomes.definition,
        sources=dict(study.outcomes.sources),
        notes=tuple(study.notes),
        design=study.design,
        cohort_digest=study.digest,
        recipe_digest=study.recipe.digest,
        recipe=study.recipe.to_json(),
    )
    write_json(study.folder / EVALUATION, plain(stored(origin, evaluation)))


def write_comparison(study: Study, models: Mapping[str, Scored]) -> None:
    """Write a row for each contestant, also for those that could not run."""
    metrics = CLASSIFICATION if study.cohort.kind == "classification" else REGRESSION
    columns: dict[str, Mapping[str, str]] = {
        "model": {"Description": "Name"},
        "text": {"Description": "What it is"},
        "role": {"Description": "model, ablation (a part of it), or baseline (what it must beat)"},
        "status": {"Description": "ok, or not run"},
        "reason": {"Description": "Why it was not run"},
    }
    for name, metric in metrics.items():
        columns[name] = {"Description": f"{metric.measure.text}; mean over repeats, out of fold"}
        columns[f"{name}_low"] = {"Description": "Lower end of its 95 % interval"}
        columns[f"{name}_high"] = {"Description": "Upper end of its 95 % interval"}
    rows = []
    for name, model in models.items():
        row = {"model": name, **{k: getattr(model, k) for k in ("text", "role", "status", "reason")}}
        for measure, estimate in (model.metrics or {}).items():
            row |= {measure: estimate.value, f"{measure}_low": estimate.low, f"{measure}_high": estimate.high}
        rows.append(row)
    write_described(study.folder / COMPARISON, "Every model on the same folds", columns, rows)


def write_predictions(study: Study, judged: Judgements) -> None:
    """Write what models that did not learn from a person said of it, one row a session."""
    cohort = study.cohort
    probability = cohort.kind == "classification"
    what = "calibrated probability of being a responder" if probability else "predicted outcome"
    columns: dict[str, Mapping[str, str | Mapping[str, str]]] = {
        **_WHO,
        "outcome": {"Description": study.outcomes.definition},
        "site": {"Description": "Site"},
        "arm": {"Description": "Arm"},
        "value": {"Description": f"Out-of-fold {what}, mean over repeats"},
        "value_sd": {"Description": "Its standard deviation over repeats"},
    }
    if probability:
        columns["called_responder"] = {"Description": "Share of repeats that called it a responder"}
    rows = []
    for i, key in enumerate(cohort.keys):
        value = judged.value[:, i]
        row = {
            **_who(key, cohort.subjects[i]),
            "outcome": float(cohort.y[i]),
            "site": None if cohort.sites is None else cohort.sites[i],
            "arm": None if cohort.arms is None else cohort.arms[i],
            "value": _digits(value.mean()),
            "value_sd": _digits(value.std(ddof=1)) if len(value) > 1 else None,
        }
        if judged.label is not None:
            row["called_responder"] = _digits(judged.label[:, i].mean())
        rows.append(row)
    write_described(study.folder / PREDICTIONS, "Out-of-fold judgements of the model", columns, rows)


def refuse_another(study: Study) -> None:
    """Refuse a folder that holds another analysis: another outcome, rule, arm, head or choice of people.

    Raises
    ------
    UsageError
        It does.
    OutputError
        The folder of its bundle holds something else.
    """
    refuse_occupied(study.folder / BUNDLE, overwrite=True)
    before = origin_of(read_record(study.folder / EVALUATION)).design
    if before is None:
        return
    # What an earlier version did not know of was not asked for there.
    both = {k: (before.get(k) or None, study.design.get(k) or None) for k in {**before, **study.design}}
    differs = [f"{k}: {there} there, {here} here" for k, (there, here) in both.items() if there != here]
    if not differs:
        return
    raise UsageError(
        f"{study.folder} holds another analysis ({'; '.join(differs)}).", "Give this one a name with --analysis-label."
    )


def ours(path: PurePosixPath) -> bool:
    """Tell whether a file of an analysis' folder, by its path there, has a name that this program gives.

    A bundle counts whole: `refuse_occupied` has looked at it.
    """
    first, name = path.parts[0], path.name
    if len(path.parts) == 1:
        stems = (COMPARISON, PREDICTIONS, EXCLUSIONS, TRIAL)
        known = {
            EVALUATION,
            BUNDLE_PAGE,
            f"{TRIAL}_plan.json",
            *(f"{s}{end}" for s in stems for end in (".tsv", ".json")),
        }
        return name in known or bool(_TEMPORARY.fullmatch(name))
    if first == ATTRIBUTION:
        return name.endswith((".tsv", ".json", ".nii.gz")) or bool(_TEMPORARY.fullmatch(name))
    return first == BUNDLE or bool(_TEMPORARY.fullmatch(first))


def worsened(before: Mapping[str, object] | None, evaluation: Evaluation, digest: str) -> list[str]:
    """Return the parts that failed now and that an earlier run of the same cohort has, by its ``evaluation.json``."""
    if before is None or origin_of(before).cohort_digest != digest:
        return []
    whole = {name for name, status in states(parts_of(evaluation_of(before))) if status == "ok"}
    return [name for name, status in states(parts_of(evaluation)) if status == "failed" and name in whole]


def failures(evaluation: Evaluation) -> int:
    """Return how many parts, and parts of parts, failed that were asked for."""
    return sum(status == "failed" for _, status in states(parts_of(evaluation)))


def write_exclusions(study: Study) -> None:
    """Write a row for everyone who is not in the cohort."""
    rows = [{**_who(out.key, out.participant), "reason": out.reason} for out in study.exclusions]
    write_described(study.folder / EXCLUSIONS, "Who was not learnt from, and why", _EXCLUSION_COLUMNS, rows)


def _who(key: str, participant: str) -> Cells:
    session = Key(key).session
    return {"participant_id": participant, "session_id": None if session is None else f"ses-{session}", "key": key}


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def plain(value: Any) -> Any:
    """Return JSON-ready data: numpy numbers become Python's, and a number that is not finite null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.9g}") if np.isfinite(value) else None
    return value
