"""What one analysis works on: the cohort, the scans behind it, who is left out, and where results go."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bids_fmmtc import __version__
from bids_fmmtc.dataset.derivatives.describe import input_folders, is_demo
from bids_fmmtc.dataset.derivatives.records import common_recipe
from bids_fmmtc.dataset.people.cohort import Exclusion, Loaded, load_cohort
from bids_fmmtc.dataset.people.outcomes import Outcomes, OutcomeSpec, read_outcomes
from bids_fmmtc.dataset.tables import dataset_roots
from bids_fmmtc.errors import DataError, SelectionError
from bids_fmmtc.learning.judging.contestants import Setup, learnt_from
from bids_fmmtc.learning.judging.evaluate import Scheme
from bids_fmmtc.learning.judging.nested import Inner
from bids_fmmtc.learning.ledger import Ledger
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.results.evaluation import People
from bids_fmmtc.settings import Settings
from bids_fmmtc.types import Cohort

Say = Callable[[str], None]
log = logging.getLogger("bids_fmmtc")


@dataclass(frozen=True, slots=True)
class Study:
    """One analysis: a cohort with an outcome, and how it is to be judged.

    Parameters
    ----------
    label
        Of the analysis; names its folder.
    folder
        Where results go.
    cohort, outcomes, exclusions, notes
        See `bids_fmmtc.dataset.people.cohort.load_cohort`.
    control
        People of the control arm, who are judged and never learnt from; None without such an arm.
    recipe
        Of the features.
    features
        The output datasets they come from.
    scheme, setup
        How people are divided, and how heads learn.
    ledger
        Finished pieces of this very analysis.
    digest
        Of everything in the cohort that can move a number.
    design
        What makes this analysis another one than its neighbours: outcome, rule, arms, head, people; JSON-ready.
    demo
        Whether the cohort is the demo's synthetic one; everything its model touches says so.
    """

    label: str
    folder: Path
    cohort: Cohort
    control: Cohort | None
    outcomes: Outcomes
    exclusions: tuple[Exclusion, ...]
    notes: tuple[str, ...]
    recipe: Recipe
    features: tuple[Path, ...]
    scheme: Scheme
    setup: Setup
    ledger: Ledger
    digest: str
    design: Mapping[str, object]
    demo: bool

    def with_cohort(self, cohort: Cohort) -> Study:
        """Return the study of another cohort, such as one with more arrays."""
        return replace(self, cohort=cohort)


def load_study(settings: Settings, work: Path, device: str, say: Say) -> Study:
    """Read outcomes and features, and decide how they are judged.

    Raises
    ------
    FmmtcError
        Whatever makes the outcome, the features or their match unusable; see `read_outcomes` and `load_cohort`.
    """
    asked = settings.group
    features = asked.features or (settings.output_dir,)
    spec = outcome_spec(settings, str(asked.outcome))
    outcomes = read_outcomes(spec, dataset_roots(settings.bids_dir))
    loaded = load_cohort(features, outcomes, settings.participants, settings.tasks)
    recipe = common_recipe(features)[0][features[0]]
    label = asked.label or _label(spec.outcome, asked.head)
    cohort, control, apart = _without_control(loaded.cohort, asked.control_arm, asked.arms)
    digest = digest_of(cohort)
    facts = {"cohort": digest, "head": asked.head, "epochs": asked.epochs, "folds": asked.folds}
    facts |= {"inner": asked.inner_folds, "repeats": asked.repeats, "seed": settings.seed, "version": __version__}
    facts |= {"recipe": recipe.digest, "device": device, "threads": settings.omp_nthreads}
    ledger = Ledger(work / "group", hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest())
    tangent = recipe.connectivity.kind == "tangent"
    return Study(
        label=label,
        folder=(settings.output_dir / "group" / label).resolve(),  # one that lies elsewhere is replaced there
        cohort=cohort,
        control=control,
        outcomes=outcomes,
        exclusions=(*loaded.exclusions, *apart),
        notes=(*outcomes.notes, *loaded.notes),
        recipe=recipe,
        features=tuple(features),
        scheme=Scheme(asked.folds, asked.repeats, Inner(asked.inner_folds, seed=settings.seed), settings.seed),
        setup=Setup(asked.head, tangent, {"epochs": asked.epochs}, settings.seed, ledger, device, say),
        ledger=ledger,
        digest=digest,
        design=_design(settings),
        demo=any(is_demo(folder) for folder in features),
    )


def _design(settings: Settings) -> dict[str, object]:
    asked = settings.group
    return {
        "outcome": asked.outcome,
        "responder_if": asked.responder_if,
        "non_responders": sorted(asked.non_responders),
        "missing_codes": sorted(asked.missing_codes),
        "arms": sorted(asked.arms),
        "control_arm": asked.control_arm,
        "head": asked.head,
        "participants": len(settings.participants),
        "sessions": sorted(settings.sessions),
        "tasks": sorted(settings.tasks),
    }


def _without_control(
    cohort: Cohort, control_arm: str | None, arms: Sequence[str]
) -> tuple[Cohort, Cohort | None, tuple[Exclusion, ...]]:
    """Set the control arm apart, unless it is named as an arm to learn from.

    A person who is also learnt from under a drug (a crossover) is no fair control: the model knows that scan's owner.
    """
    if control_arm is None or control_arm in arms or cohort.arms is None:
        return cohort, None, ()
    theirs = np.array([arm == control_arm for arm in cohort.arms])
    if not theirs.any():
        raise SelectionError(
            f"nobody is in control arm {control_arm!r}; arms are {', '.join(sorted(set(cohort.arms)))}.",
            "Case counts.",
        )
    if theirs.all():
        raise SelectionError(f"everybody is in control arm {control_arm!r}; nobody is left to learn from.")
    learnt = {group for group, there in zip(cohort.groups, theirs, strict=True) if not there}
    both = np.array([group in learnt for group in cohort.groups]) & theirs
    known = "control arm: they, or their family, are learnt from in another arm"
    apart = tuple(
        Exclusion(cohort.keys[i], cohort.subjects[i], known if both[i] else "control arm: judged, not learnt from")
        for i in np.flatnonzero(theirs)
    )
    controls = np.flatnonzero(theirs & ~both)
    if both.any():
        log.warning(
            "%d of %d people of control arm %s cannot serve as controls: they, or their families, are learnt from.",
            both.sum(),
            theirs.sum(),
            control_arm,
        )
    return cohort.take(np.flatnonzero(~theirs)), cohort.take(controls) if len(controls) else None, apart


@dataclass(frozen=True, slots=True)
class Others:
    """Other cohorts that are asked for.

    Parameters
    ----------
    cohorts
        Name, features and outcome of each.
    spec
        How the columns of the own cohort are read; those of another are read so, too, but for its outcome.
    tasks
        Tasks that count; none: all.
    adapt
        Whether the model is fine-tuned on them.
    control_arm, arms
        Which arm is set apart, and which are learnt from.
    """

    cohorts: tuple[tuple[str, Path, str], ...]
    spec: OutcomeSpec
    tasks: tuple[str, ...] = ()
    adapt: bool = False
    control_arm: str | None = None
    arms: tuple[str, ...] = ()


def others_of(settings: Settings) -> Others:
    """Return the other cohorts that the command line names."""
    asked = settings.group
    spec = outcome_spec(settings, str(asked.outcome))
    return Others(asked.external, spec, settings.tasks, asked.adapt, asked.control_arm, asked.arms)


def load_other(others: Others, study: Study, folder: Path, outcome: str) -> Loaded:
    """Read another cohort, without its control arm; its tables are looked for beside its features.

    Raises
    ------
    DataError
        Somebody in it was learnt from, so that it would not be untouched.
    FmmtcError
        As `load_study`.
    """
    spec = replace(others.spec, outcome=outcome, covariates=(), site_column=None, group_column=None)
    outcomes = read_outcomes(spec, dataset_roots(folder, input_folders(folder)))
    common_recipe((*study.features[:1], folder))
    loaded = load_cohort((folder,), outcomes, (), others.tasks, tuple(m.name for m in study.recipe.modalities))
    arms = loaded.cohort.arms
    if arms is not None and others.control_arm in set(arms) - set(others.arms):
        cohort, _, apart = _without_control(loaded.cohort, others.control_arm, others.arms)
        loaded = loaded._replace(cohort=cohort, exclusions=(*loaded.exclusions, *apart))
    own = {_scan_digest(study.cohort, i) for i in range(len(study.cohort))}
    shared = [key for i, key in enumerate(loaded.cohort.keys) if _scan_digest(loaded.cohort, i) in own]
    if shared:
        raise DataError(
            f"{len(shared)} of its {len(loaded.cohort)} scans were learnt from, {shared[0]} for one.",
            "Another cohort must be of other people.",
        )
    return loaded


def _scan_digest(cohort: Cohort, row: int) -> bytes:
    """Return the sha256 of a row's connectivity or vectors: equal for copies of one scan whatever their label."""
    name = min(learnt_from(cohort))
    return hashlib.sha256(np.ascontiguousarray(cohort.arrays[name][row]).tobytes()).digest()


def outcome_spec(settings: Settings, outcome: str) -> OutcomeSpec:
    """Return which columns are read; ``outcome`` as the user typed it."""
    asked = settings.group
    # The control arm is read with the arms learnt from; no arms means all.
    arms = (*asked.arms, *((asked.control_arm,) if asked.control_arm and asked.arms else ()))
    return OutcomeSpec(
        outcome=outcome,
        responder_if=asked.responder_if,
        non_responders=asked.non_responders,
        missing_codes=asked.missing_codes,
        arm_column=asked.arm_column,
        arms=tuple(dict.fromkeys(arms)),
        site_column=asked.site_column,
        covariates=asked.covariates,
        group_column=asked.family_column,
        sessions=settings.sessions,
    )


def digest_of(cohort: Cohort) -> str:
    """Return the sha256 of everything in a cohort that can move a number."""
    digest = hashlib.sha256()
    for name, arrays in sorted(cohort.arrays.items()):
        digest.update(name.encode())
        for array in arrays:
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    for column in (cohort.y, cohort.motion, *(cohort.covariates[c] for c in sorted(cohort.covariates))):
        digest.update(np.ascontiguousarray(column, np.float64).tobytes())
    words: list[Any] = [cohort.keys, cohort.groups, cohort.sites, cohort.arms, cohort.kind, sorted(cohort.covariates)]
    digest.update(json.dumps(words).encode())
    return digest.hexdigest()


def _label(outcome: str, head: str) -> str:
    """Return a folder name made of the outcome's column and the head."""
    column = outcome.rsplit(":", 1)[-1]
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in column).strip("-")
    return f"{plain or 'outcome'}_{head}"


def people(study: Study) -> People:
    """Return how many were found, kept and left out, and why."""
    cohort = study.cohort
    reasons: dict[str, int] = {}
    for out in study.exclusions:
        reasons[out.reason] = reasons.get(out.reason, 0) + 1
    known = cohort.kind == "classification"
    return People(
        sessions=len(cohort),
        participants=len(set(cohort.subjects)),
        groups=len(set(cohort.groups)),
        excluded=len(study.exclusions),
        reasons=dict(sorted(reasons.items())),
        responders=int(cohort.y.sum()) if known else None,
        non_responders=int((1 - cohort.y).sum()) if known else None,
        sites=_counted(cohort.sites),
        arms=_counted(cohort.arms),
    )


def _counted(column: Sequence[str] | None) -> dict[str, int] | None:
    return None if column is None else {str(k): column.count(k) for k in sorted(set(column))}
