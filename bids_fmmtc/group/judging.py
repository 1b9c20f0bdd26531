"""The evaluation of an analysis: every contestant on the same folds, tests, sites, other cohorts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from bids_fmmtc.errors import DataError, FmmtcError
from bids_fmmtc.group.study import Others, Study, load_other, people
from bids_fmmtc.learning.folds import Fold, site_folds
from bids_fmmtc.learning.judging.contestants import LEARNERS, Contestant, contestants, learnt_from
from bids_fmmtc.learning.judging.evaluate import Final, Judgements, cross_validate, permutation_null
from bids_fmmtc.learning.judging.intervals import corrected_t, difference, estimates, fold_values, permutation_p
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, REGRESSION, Metric
from bids_fmmtc.learning.learner import Learner
from bids_fmmtc.plain import from_json
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.evaluation import (
    Adapted,
    Comparison,
    Division,
    Elsewhere,
    Evaluation,
    Excluded,
    LeftOut,
    Metrics,
    Part,
    Permutation,
    Published,
    Scored,
)
from bids_fmmtc.results.measures import FALLBACK, PRIMARY
from bids_fmmtc.types import Cohort, Float64, OutcomeKind

log = logging.getLogger("bids_fmmtc")

PERMUTATIONS = 1000


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


def evaluation(
    study: Study, judged: Sequence[Judged], *, permutations: int | None, sites_apart: bool, threads: int
) -> Evaluation:
    """Return the comparison, the permutation test and the checks by site.

    Parameters
    ----------
    permutations
        How many; None: 1,000, or none where each would take long (other heads than linear, and tangent space).
    sites_apart
        Whether every site is judged by models of the others, too.
    threads
        With which the numbers were made; it is stored beside them.
    """
    cohort, model = study.cohort, judged[0]
    most = _permutations(study) if permutations is None else permutations
    sites = cohort.sites is not None and len(set(cohort.sites)) > 1
    division = Division(
        folds=study.scheme.folds,
        repeats=study.scheme.repeats,
        inner_folds=study.scheme.inner.folds,
        seed=study.scheme.seed,
        threads=threads,
        interval="95 %, bootstrap over people, widened for cross-validation (Nadeau and Bengio 2003)",
    )
    return Evaluation(
        kind=cohort.kind,
        n=len(cohort),
        people=people(study),
        scheme=division,
        models={each.contestant.name: _scored(study, each) for each in judged},
        comparisons=tuple(_compared(study, model, each) for each in judged[1:] if each.judgements is not None),
        permutation=_permutation(study, model, most) if most else None,
        within_site=_within_site(study, made(model)) if sites else None,
        leave_one_site_out=_left_out(study, model.contestant) if sites_apart else None,
    )


def _permutations(study: Study) -> int:
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


def published(study: Study) -> Published | Part:
    """Run the published protocol beside ours, so that the difference is seen; refused for a number as outcome."""
    from bids_fmmtc.learning.judging.published import published_protocol  # noqa: PLC0415
    from bids_fmmtc.learning.learners.epochs import TrainingOptions  # noqa: PLC0415  (torch)

    if study.cohort.kind == "regression":
        return Part("not run", "the published protocol classifies; give --responder-if")
    blocks = learnt_from(study.cohort)
    head: Literal["fmmtc", "linear"] = "linear" if study.setup.head == "linear" else "fmmtc"
    options = TrainingOptions(**study.setup.options)
    try:
        found = published_protocol(study.cohort, blocks, options, study.setup, head)
    except FmmtcError as error:
        return Part("failed", str(error))
    return from_json(Published, {"status": "ok", **found}, "the published protocol")


def _trained(study: Study) -> float:
    """Return the mean number of rows a fold's model learnt from."""
    return len(study.cohort) * (1 - 1 / study.scheme.folds)


def _scored(study: Study, each: Judged) -> Scored:
    about = each.contestant
    if each.judgements is None:
        return Scored(about.text, about.role, "not run", about.reason)
    metrics = _measured(study.cohort, each.judgements, _trained(study), study.scheme.seed)
    return Scored(about.text, about.role, "ok", metrics=metrics, settings=each.judgements.settings)


def _measured(cohort: Cohort, judged: Judgements, n_train: float | None, seed: int) -> Metrics:
    """Return every measure of judgements of a cohort."""
    return estimates(cohort.y, judged, cohort.groups, measures(cohort.kind), n_train, seed)


def _compared(study: Study, model: Judged, other: Judged) -> Comparison:
    """Return by how much the model is better than another on the same people and folds, and two tests of it."""
    cohort, seed = study.cohort, study.scheme.seed
    name = PRIMARY[cohort.kind].name
    ours, theirs = made(model), made(other)
    ones = np.ones((1, len(cohort)))
    if np.isnan(measures(cohort.kind)[name](cohort.y, theirs, ones)).any():
        name = FALLBACK.name  # a constant has no correlation, but an error
    metric = measures(cohort.kind)[name]
    by_fold = fold_values(cohort.y, ours, metric) - fold_values(cohort.y, theirs, metric)
    n_train = _trained(study)
    return Comparison(
        against=other.contestant.name,
        metric=name,
        difference=difference(cohort.y, ours, theirs, metric, cohort.groups, n_train, seed),
        corrected_resampled_t=corrected_t(by_fold, n_train, len(cohort) - n_train),
    )


def _permutation(study: Study, model: Judged, n: int) -> Permutation:
    """Repeat the whole procedure on outcomes dealt out anew."""
    cohort, learner = study.cohort, learner_of(model)
    name = PRIMARY[cohort.kind].name
    metric = measures(cohort.kind)[name]

    def statistic(y: Float64, judged: Judgements) -> float:
        return float(metric(y, judged, np.ones((1, len(y))))[0])

    observed = statistic(cohort.y, made(model))
    null = permutation_null(learner, cohort, study.scheme, statistic, n, study.ledger, study.setup.say)
    shown = tuple(float(f"{v:.6g}") for v in null)
    return Permutation(metric=name, n=n, observed=observed, p=permutation_p(observed, null), null=shown)


def _within_site(study: Study, judged: Judgements) -> Estimate:
    """Return the first measure among people of one site judged by one model: what is left without the site."""
    cohort = study.cohort
    names, site = np.unique(np.asarray(cohort.sites, dtype=str), return_inverse=True)
    by_site = replace(judged, fold=np.where(judged.fold >= 0, judged.fold * len(names) + site, -1))
    name = PRIMARY[cohort.kind].name
    table = {name: measures(cohort.kind)[name]}
    return estimates(cohort.y, by_site, cohort.groups, table, _trained(study), study.scheme.seed)[name]


def _left_out(study: Study, contestant: Contestant) -> LeftOut | Part:
    """Judge every site by a model of the others; the reason where that cannot be."""
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
        return Part("not run", str(error))
    n_train = float(np.mean([len(fold.train) for fold in folds.values()]))
    sites = {site: len(fold.test) for site, fold in folds.items()}
    return LeftOut("ok", sites, _measured(cohort, judged, n_train, study.scheme.seed))


def _refuse_one_class(site: str, cohort: Cohort, fold: Fold) -> None:
    rest = cohort.y[fold.train]
    if cohort.kind == "classification" and min((rest == 1).sum(), (rest == 0).sum()) < 2:
        raise DataError(
            f"without site {site} there are {int(rest.sum())} responders and {int((1 - rest).sum())} non-responders "
            "to learn from, fewer than two of a class."
        )


def judge_others(study: Study, final: Final, others: Others) -> dict[str, Part | Elsewhere]:
    """Judge every other cohort with the final model, nothing refitted; what fails says why."""
    found: dict[str, Part | Elsewhere] = {}
    for name, folder, outcome in others.cohorts:
        log.info("Judging cohort %s", name)
        try:
            found[name] = _other(study, final, others, folder, outcome)
        except (FmmtcError, MemoryError, RuntimeError, OSError) as error:
            found[name] = Part("failed", str(error))
    return found


def _other(study: Study, final: Final, others: Others, folder: Path, outcome: str) -> Elsewhere:
    loaded = load_other(others, study, folder, outcome)
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
    found = Elsewhere(
        status="ok",
        n=len(cohort),
        excluded=tuple(Excluded(out.key, out.reason) for out in loaded.exclusions),
        metrics=_measured(cohort, judged, None, study.scheme.seed),
        notes=tuple(loaded.notes),
    )
    if not others.adapt:
        return found
    try:
        return replace(found, adapted=_adapted(study, final, cohort))
    except FmmtcError as error:
        return replace(found, adapted=Part("failed", str(error)))


def _adapted(study: Study, final: Final, cohort: Cohort) -> Adapted:
    """Compare, on the same folds of the other cohort, fine-tuning the model there and learning there from scratch."""
    from bids_fmmtc.learning.learners.epochs import TrainingOptions  # noqa: PLC0415  (torch)
    from bids_fmmtc.learning.learners.train import AdaptedLearner  # noqa: PLC0415

    there = study.with_cohort(cohort)
    options = TrainingOptions(**study.setup.options)
    divisions = study.scheme.divisions(cohort)

    def judged(learner: Learner, name: str) -> Metrics:
        found = cross_validate(learner, cohort, divisions, study.scheme.inner, f"external/{name}")
        return _measured(cohort, found, _trained(there), study.scheme.seed)

    tuned = AdaptedLearner(final.fitted.head(), cohort, options, study.setup)
    fresh = LEARNERS[study.setup.head](cohort, learnt_from(cohort), study.setup)
    return Adapted(judged(tuned, "adapted"), judged(fresh, "from_scratch"))
