"""The evaluation of an analysis: every contestant on the same folds, tests, sites, other cohorts; JSON-ready."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bids_fmmtc.errors import DataError, FmmtcError
from bids_fmmtc.group.study import Study, load_other, people
from bids_fmmtc.learning.folds import Fold, site_folds
from bids_fmmtc.learning.judging.contestants import LEARNERS, Contestant, contestants, learnt_from
from bids_fmmtc.learning.judging.evaluate import Final, Judgements, cross_validate, permutation_null
from bids_fmmtc.learning.judging.intervals import corrected_t, difference, estimates, fold_values, permutation_p
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, REGRESSION, Metric
from bids_fmmtc.learning.judging.verdict import PRIMARY
from bids_fmmtc.learning.learner import Learner
from bids_fmmtc.settings import GroupSettings, Settings
from bids_fmmtc.types import Cohort, Float64, OutcomeKind

log = logging.getLogger("bids_fmmtc")

PERMUTATIONS = 1000
FALLBACK = "r2"
"""Measure of regression that is defined for a model that says the same of everybody, too."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A contestant and its out-of-fold judgements; None where it could not run."""

    contestant: Contestant
    judgements: Judgements | None


def judge_all(study: Study) -> list[Judged]:
    """Judge the model and everything beside it on the same folds; what fails says why and costs no other."""
    divisions = study.scheme.divisions(study.cohort)
    done = []
    for contestant in contestants(study.cohort, study.setup):
        if contestant.learner is None:
            done.append(Judged(contestant, None))
            continue
        log.info("Judging: %s", contestant.text)
        try:
            found = cross_validate(
                contestant.learner, study.cohort, divisions, study.scheme.inner, f"evaluate/{contestant.name}"
            )
        except FmmtcError as error:
            if contestant.role == "model":
                raise
            done.append(Judged(replace(contestant, learner=None, reason=str(error)), None))
        else:
            done.append(Judged(contestant, found))
    return done


def evaluation(study: Study, judged: Sequence[Judged], settings: Settings) -> dict[str, Any]:
    """Return the comparison, the permutation test and the checks by site, JSON-ready."""
    cohort, model = study.cohort, judged[0]
    found: dict[str, Any] = {
        "kind": cohort.kind,
        "n": len(cohort),
        "people": people(study),
        "scheme": {
            "folds": study.scheme.folds,
            "repeats": study.scheme.repeats,
            "inner_folds": study.scheme.inner.folds,
            "seed": study.scheme.seed,
            "threads": settings.omp_nthreads,
            "interval": "95 %, bootstrap over people, widened for cross-validation (Nadeau and Bengio 2003)",
        },
        "models": {each.contestant.name: _model(study, each) for each in judged},
        "comparisons": [_compared(study, model, each) for each in judged[1:] if each.judgements is not None],
    }
    permutations = _permutations(study, settings.group)
    if permutations:
        found["permutation"] = _permutation(study, model, permutations)
    if cohort.sites is not None and len(set(cohort.sites)) > 1:
        found["within_site"] = _within_site(study, made(model))
    if settings.group.leave_one_site_out:
        found["leave_one_site_out"] = _left_out(study, model.contestant)
    return found


def _permutations(study: Study, asked: GroupSettings) -> int:
    """Return how many; by default none where each would take long: other heads than linear, and tangent space."""
    if asked.permutations is not None:
        return asked.permutations
    return PERMUTATIONS if study.setup.head == "linear" and not study.setup.tangent else 0


def measures(kind: OutcomeKind) -> Mapping[str, Metric]:
    """Return the table of measures of a kind of outcome."""
    return CLASSIFICATION if kind == "classification" else REGRESSION


def made(each: Judged) -> Judgements:
    """Return the judgements of a contestant that has run."""
    if each.judgements is None:
        raise ValueError(f"{each.contestant.name} has judged nobody")
    return each.judgements


def learner_of(each: Judged) -> Learner:
    """Return the learner of a contestant that has run."""
    if each.contestant.learner is None:
        raise ValueError(f"{each.contestant.name} cannot learn")
    return each.contestant.learner


def published(study: Study) -> dict[str, Any]:
    """Run the published protocol beside ours, so that the difference is seen; refused for a number as outcome."""
    from bids_fmmtc.learning.judging.published import published_protocol  # noqa: PLC0415
    from bids_fmmtc.learning.learners.epochs import TrainingOptions  # noqa: PLC0415  (torch)

    if study.cohort.kind == "regression":
        return {"status": "not run", "reason": "the published protocol classifies; give --responder-if"}
    blocks = learnt_from(study.cohort)
    head: Literal["fmmtc", "linear"] = "linear" if study.setup.head == "linear" else "fmmtc"
    options = TrainingOptions(**study.setup.options)
    try:
        return {"status": "ok", **published_protocol(study.cohort, blocks, options, study.setup, head)}
    except FmmtcError as error:
        return {"status": "failed", "reason": str(error)}


def _trained(study: Study) -> float:
    """Return the mean number of rows a fold's model learnt from."""
    return len(study.cohort) * (1 - 1 / study.scheme.folds)


def _model(study: Study, each: Judged) -> dict[str, Any]:
    about = {"text": each.contestant.text, "role": each.contestant.role}
    if each.judgements is None:
        return {**about, "status": "not run", "reason": each.contestant.reason}
    cohort = study.cohort
    found = estimates(
        cohort.y, each.judgements, cohort.groups, measures(cohort.kind), _trained(study), study.scheme.seed
    )
    metrics = {name: estimate.to_json() for name, estimate in found.items()}
    return {**about, "status": "ok", "metrics": metrics, "settings": [list(s) for s in each.judgements.settings]}


def _compared(study: Study, model: Judged, other: Judged) -> dict[str, Any]:
    """Return by how much the model is better than another on the same people and folds, and two tests of it."""
    cohort, seed = study.cohort, study.scheme.seed
    name = PRIMARY[cohort.kind]
    ours, theirs = made(model), made(other)
    ones = np.ones((1, len(cohort)))
    if np.isnan(measures(cohort.kind)[name](cohort.y, theirs, ones)).any():
        name = FALLBACK  # a constant has no correlation, but an error
    metric = measures(cohort.kind)[name]
    by_fold = fold_values(cohort.y, ours, metric) - fold_values(cohort.y, theirs, metric)
    n_train = _trained(study)
    return {
        "against": other.contestant.name,
        "metric": name,
        "difference": difference(cohort.y, ours, theirs, metric, cohort.groups, n_train, seed).to_json(),
        "corrected_resampled_t": corrected_t(by_fold, n_train, len(cohort) - n_train).to_json(),
    }


def _permutation(study: Study, model: Judged, n: int) -> dict[str, Any]:
    """Repeat the whole procedure on outcomes dealt out anew."""
    cohort, learner = study.cohort, learner_of(model)
    name = PRIMARY[cohort.kind]
    metric = measures(cohort.kind)[name]

    def statistic(y: Float64, judged: Judgements) -> float:
        return float(metric(y, judged, np.ones((1, len(y))))[0])

    observed = statistic(cohort.y, made(model))
    null = permutation_null(learner, cohort, study.scheme, statistic, n, study.ledger, study.setup.say)
    return {
        "metric": name,
        "n": n,
        "observed": observed,
        "p": permutation_p(observed, null),
        "null": [float(f"{v:.6g}") for v in null],
    }


def _within_site(study: Study, judged: Judgements) -> dict[str, Any]:
    """Return the first measure among people of one site judged by one model: what is left without the site."""
    cohort = study.cohort
    names, site = np.unique(np.asarray(cohort.sites, dtype=str), return_inverse=True)
    by_site = replace(judged, fold=np.where(judged.fold >= 0, judged.fold * len(names) + site, -1))
    name = PRIMARY[cohort.kind]
    table = {name: measures(cohort.kind)[name]}
    found = estimates(cohort.y, by_site, cohort.groups, table, _trained(study), study.scheme.seed)
    return found[name].to_json()


def _left_out(study: Study, contestant: Contestant) -> dict[str, Any]:
    """Judge every site by a model of the others; ``status`` tells where that cannot be."""
    cohort = study.cohort
    if contestant.learner is None or cohort.sites is None:
        raise ValueError("there is no model or no site")
    try:
        folds = site_folds(cohort.sites, cohort.groups)
        for site, fold in folds.items():
            _refuse_one_class(site, cohort, fold)
        judged = cross_validate(
            contestant.learner, cohort, [list(folds.values())], study.scheme.inner, "leave-one-site-out"
        )
    except DataError as error:
        return {"status": "not run", "reason": str(error)}
    n_train = float(np.mean([len(fold.train) for fold in folds.values()]))
    metrics = estimates(cohort.y, judged, cohort.groups, measures(cohort.kind), n_train, study.scheme.seed)
    return {
        "status": "ok",
        "sites": {site: len(fold.test) for site, fold in folds.items()},
        "metrics": {name: estimate.to_json() for name, estimate in metrics.items()},
    }


def _refuse_one_class(site: str, cohort: Cohort, fold: Fold) -> None:
    rest = cohort.y[fold.train]
    if cohort.kind == "classification" and min((rest == 1).sum(), (rest == 0).sum()) < 2:
        raise DataError(
            f"without site {site} there are {int(rest.sum())} responders and {int((1 - rest).sum())} non-responders "
            "to learn from, fewer than two of a class."
        )


def judge_others(study: Study, final: Final, settings: Settings) -> dict[str, Any]:
    """Judge every ``--external`` cohort with the final model, nothing refitted; what fails says why."""
    found: dict[str, Any] = {}
    for name, folder, outcome in settings.group.external:
        log.info("Judging cohort %s", name)
        try:
            found[name] = _other(study, final, settings, folder, outcome)
        except (FmmtcError, MemoryError, RuntimeError) as error:
            found[name] = {"status": "failed", "reason": str(error)}
    return found


def _other(study: Study, final: Final, settings: Settings, folder: Path, outcome: str) -> dict[str, Any]:
    loaded = load_other(settings, study, folder, outcome)
    cohort = loaded.cohort
    if cohort.kind != study.cohort.kind:
        raise DataError(
            f"its outcome is one of {cohort.kind}, the model's of {study.cohort.kind}.",
            "Give an outcome of the same kind; --responder-if applies to both.",
        )
    value, label = final.judge(cohort)
    judged = Judgements(
        value[None], None if label is None else label[None], np.zeros((1, len(cohort)), np.intp), ((final.setting,),)
    )
    metrics = estimates(cohort.y, judged, cohort.groups, measures(cohort.kind), None, study.scheme.seed)
    result: dict[str, Any] = {
        "status": "ok",
        "n": len(cohort),
        "excluded": [{"key": out.key, "reason": out.reason} for out in loaded.exclusions],
        "metrics": {k: estimate.to_json() for k, estimate in metrics.items()},
        "notes": list(loaded.notes),
    }
    if settings.group.adapt:
        try:
            result["adapted"] = _adapted(study, final, cohort)
        except FmmtcError as error:
            result["adapted"] = {"status": "failed", "reason": str(error)}
    return result


def _adapted(study: Study, final: Final, cohort: Cohort) -> dict[str, Any]:
    """Compare, on the same folds of the other cohort, fine-tuning the model there and learning there from scratch."""
    from bids_fmmtc.learning.learners.epochs import TrainingOptions  # noqa: PLC0415  (torch)
    from bids_fmmtc.learning.learners.train import AdaptedLearner  # noqa: PLC0415

    there = study.with_cohort(cohort)
    blocks = learnt_from(cohort)
    options = TrainingOptions(**study.setup.options)
    learners: dict[str, Learner] = {
        "adapted": AdaptedLearner(final.fitted.head(), cohort, options, study.setup),
        "from_scratch": LEARNERS[study.setup.head](cohort, blocks, study.setup),
    }
    divisions = study.scheme.divisions(cohort)
    found: dict[str, Any] = {}
    for name, learner in learners.items():
        judged = cross_validate(learner, cohort, divisions, study.scheme.inner, f"external/{name}")
        table = measures(cohort.kind)
        metrics = estimates(cohort.y, judged, cohort.groups, table, _trained(there), study.scheme.seed)
        found[name] = {k: estimate.to_json() for k, estimate in metrics.items()}
    return found
