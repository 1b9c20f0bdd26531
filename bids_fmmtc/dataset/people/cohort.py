"""Features of our own output datasets joined with outcomes: the cohort that a model learns from or is judged on.

Nobody vanishes: whoever has a recording here or a row in the outcome's table is in the cohort or in the exclusions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bids_fmmtc.dataset.derivatives.records import (
    Record,
    attempts_note,
    common_recipe,
    gather,
    mixed_versions,
)
from bids_fmmtc.dataset.naming import natural, padded_otherwise, some, told_padding
from bids_fmmtc.dataset.people.outcomes import OutcomeRow, Outcomes, count_reasons
from bids_fmmtc.dataset.people.response import refuse_degenerate
from bids_fmmtc.dataset.store import read_features
from bids_fmmtc.errors import DataError, MissingInputError, SelectionError
from bids_fmmtc.keys import Key
from bids_fmmtc.pooling import pooled
from bids_fmmtc.quality import Quality, over_runs
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.types import Cohort, Features, Float32

SAME_TR = 0.01  # runs whose repetition times differ by more than this share are not pooled


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A recording, session or participant that is not in the cohort, and why."""

    key: str
    participant: str
    reason: str


class Loaded(NamedTuple):
    """A cohort, all that is not in it, and what the user should know of it (one line each)."""

    cohort: Cohort
    exclusions: tuple[Exclusion, ...]
    notes: tuple[str, ...]


def load_cohort(
    features_dirs: Sequence[Path],
    outcomes: Outcomes,
    participants: Sequence[str] = (),
    tasks: Sequence[str] = (),
    modalities: Sequence[str] = (),
) -> Loaded:
    """Join session-pooled features with outcomes.

    Runs with one session key are pooled; a run that failed leaves its session to the others and has a row of its own,
    as at the participant level. Two datasets may not hold one participant label: nobody can tell from here whether
    they are one person.

    Parameters
    ----------
    features_dirs
        Output datasets of ours; one given twice counts once.
    outcomes
        Of the people in them. Where the outcome is one a participant, each may have one scan only; its ``sessions``
        say which scans are taken.
    participants, tasks
        Labels to take, with or without their prefix; empty means all.
    modalities
        Arrays to read; empty means all that the recipe makes.

    Raises
    ------
    MissingInputError, InputError
        No features, or a folder that this program did not make.
    RecipeError
        Datasets of different recipes (other than in ``space``).
    SelectionError
        A label that nobody has, or a modality the recipe does not make.
    DataError
        Labels of two datasets that clash, nobody in both features and table, several scans where one is wanted,
        or outcomes from which nothing can be learnt.
    """
    roots = list({Path(each).resolve(): Path(each).absolute() for each in features_dirs}.values())
    recipes, notes = common_recipe(roots)
    first = recipes[roots[0]]
    names = tuple(modalities) or tuple(m.name for m in first.modalities)
    unknown = set(names) - {m.name for m in first.modalities}
    if unknown:
        raise SelectionError(f"features hold {some(m.name for m in first.modalities)}, not {some(unknown)}.")
    records = gather(roots)
    _refuse_clashes(records, roots)
    table = _by_person(outcomes)
    _refuse_strangers(records, table)
    out: list[Exclusion] = []
    wanted = _select(records, _reasons(records, participants, tasks, outcomes.sessions), out)
    matched = _match(wanted, outcomes, table, out)
    out += _without_features(records, outcomes, {p.removeprefix("sub-") for p in participants})
    pairs = padded_otherwise(table, {record.participant for record in records})
    out = _tell_padding(out, pairs)
    arrays: dict[str, list[Float32]] = {name: [] for name in names}
    kept: list[tuple[str, OutcomeRow]] = []
    qualities: list[tuple[Quality, ...]] = []
    for key, (row, runs) in matched.items():
        pooled = _pool(key, runs, recipes, arrays, out)
        if pooled:
            kept.append((key, row))
            qualities.append(pooled)
    if not kept:
        raise DataError(f"nobody has both features and an outcome: {count_reasons([e.reason for e in out])}.")
    cohort = _cohort(kept, qualities, arrays, outcomes, first.digest)
    refuse_degenerate(cohort.y, cohort.subjects, cohort.kind, f"those with features ({outcomes.definition})")
    ordered = sorted(dict.fromkeys(out), key=lambda e: (natural(e.key), e.reason))
    used = {key for key, _ in kept}
    mine = [record for record in records if record.key.of_session in used]
    told = (*notes, *mixed_versions(mine), *told_padding(pairs), *_mixed_sessions(kept, outcomes), *attempts_note(mine))
    return Loaded(cohort, tuple(ordered), told)


# ---------------------------------------------------------------------------------------------------------------- who


def _refuse_clashes(records: Sequence[Record], roots: Sequence[Path]) -> None:
    if not records:
        raise MissingInputError(
            f"there are no features (*_features.json) in {', '.join(map(str, roots))}.",
            "Run the participant level first.",
        )
    people = {root: {r.participant for r in records if r.root == root} for root in roots}
    for i, root in enumerate(roots):
        for other in roots[:i]:
            clash = people[root] & people[other]
            if clash:
                raise DataError(
                    f"{some(clash)} is in {other} and in {root}: one person or two cannot be told.",
                    "Keep every participant in one dataset, rename one side, or evaluate it with --external.",
                )


def _by_person(outcomes: Outcomes) -> dict[str, dict[str | None, OutcomeRow]]:
    table: dict[str, dict[str | None, OutcomeRow]] = {}
    for row in outcomes.rows:
        table.setdefault(row.participant, {})[row.session] = row
    return table


def _refuse_strangers(records: Sequence[Record], table: Mapping[str, object]) -> None:
    people = {record.participant for record in records}
    if not people & set(table):
        raise DataError(
            f"nobody in the outcome's table has features: the table has {some(table, 3)}; the features are of "
            f"{some(people, 3)}.",
            " ".join(told_padding(padded_otherwise(table, people))) or "Labels are compared as written: 1 is not 01.",
        )


def _tell_padding(out: Sequence[Exclusion], pairs: dict[str, str]) -> list[Exclusion]:
    """Say in the reasons who may be whom, where labels of table and features differ by leading zeros only."""
    others = pairs | {there: here for here, there in pairs.items()}
    where = dict.fromkeys(pairs, "of the features") | dict.fromkeys(pairs.values(), "of the table")
    told = [e.participant in others and e.reason.startswith(("no outcome", "no features")) for e in out]
    return [
        replace(e, reason=f"{e.reason}; {others[e.participant]} {where[e.participant]} differs by leading zeros only")
        if tell
        else e
        for e, tell in zip(out, told, strict=True)
    ]


def _reasons(
    records: Sequence[Record], participants: Sequence[str], tasks: Sequence[str], sessions: Sequence[str]
) -> Callable[[Record], str]:
    """Return the function that says why a record was not asked for; refuse labels that nobody has."""
    asked = {
        "participant": {label.removeprefix("sub-") for label in participants},
        "session": {label.removeprefix("ses-") for label in sessions},
        "task": {label.removeprefix("task-") for label in tasks},
    }
    there = {
        "participant": {r.participant.removeprefix("sub-") for r in records},
        "session": {r.session for r in records if r.session is not None},
        "task": {r.task for r in records if r.task is not None},
    }
    for name, labels in asked.items():
        absent = labels - there[name]
        if absent:
            raise SelectionError(f"no features of {name} {some(absent)}; there are {some(there[name])}.")

    def reason(record: Record) -> str:
        whole = record.task is None  # tells of the participant, so of every session and task
        own = {"participant": record.participant.removeprefix("sub-"), "session": record.session, "task": record.task}
        for name in ("participant", *(() if whole else ("session", "task"))):
            if asked[name] and own[name] not in asked[name]:
                return f"other {name}: {own[name] or 'none'}"
        return ""

    return reason


def _select(
    records: Sequence[Record], reason: Callable[[Record], str], out: list[Exclusion]
) -> dict[str, list[Record]]:
    """Group what was asked for by session key; a participant's own record is an exclusion at once."""
    sessions: dict[str, list[Record]] = {}
    for record in records:
        why = reason(record) or (record.problem if record.task is None else "")
        if why or record.task is None:
            out.append(Exclusion(record.key, record.participant, why or "it is no recording."))
        else:
            sessions.setdefault(record.key.of_session, []).append(record)
    return sessions


def _match(
    sessions: Mapping[str, list[Record]],
    outcomes: Outcomes,
    table: Mapping[str, Mapping[str | None, OutcomeRow]],
    out: list[Exclusion],
) -> dict[str, tuple[OutcomeRow, list[Record]]]:
    """Find the outcome of every session key; a row that fits two of them is an error, even if one has failed."""
    matched: dict[str, tuple[OutcomeRow, list[Record]]] = {}
    taken: dict[tuple[str, str | None], list[str]] = {}
    for key, runs in sessions.items():
        participant, session = runs[0].participant, runs[0].session
        rows = table.get(participant, {})
        row = rows.get(session if outcomes.per_session else None)
        if row is None or row.reason:
            reason = row.reason if row else "no outcome: not in the table"
            if row is None and rows:
                others = some(f"ses-{s}" if s else "no session" for s in rows)
                reason = f"no outcome for {f'ses-{session}' if session else 'a scan without session'}; it has {others}"
            out.append(Exclusion(key, participant, reason))
            continue
        taken.setdefault((participant, row.session), []).append(key)
        matched[key] = (row, runs)
    several = {whom: keys for whom, keys in taken.items() if len(keys) > 1}
    if several:
        raise _several(several)
    return matched


def _several(several: Mapping[tuple[str, str | None], list[str]]) -> DataError:
    keys = next(iter(several.values()))
    labels = {name: sorted({Key(k).label(name) or "none" for k in keys}) for name in ("ses", "task")}
    hint = "Extract one kind of recording into a folder of its own, with --bids-filter-file."
    if len(labels["task"]) > 1:
        hint = f"Choose one with --task-id: {some(labels['task'])}."
    if len(labels["ses"]) > 1:
        everywhere = {Key(key).session or "none" for found in several.values() for key in found}
        hint = f"Choose the baseline scan with --session-label: {some(everywhere)}."
    return DataError(
        f"{some(keys)} belong to one outcome ({len(several)} such cases): which scan predicts?",
        hint,
    )


def _without_features(records: Sequence[Record], outcomes: Outcomes, asked: set[str]) -> list[Exclusion]:
    """List rows of the table for whom there is no recording at all."""
    people = {record.participant for record in records}
    scans = {(record.participant, record.session) for record in records}
    whole = {record.participant for record in records if record.task is None}
    found = []
    for row in outcomes.rows:
        by_session = outcomes.per_session and row.session is not None
        if (row.participant, row.session) in scans or row.participant in (whole if by_session else people):
            continue
        key = row.participant if row.session is None else f"{row.participant}_ses-{row.session}"
        chosen = not asked or row.participant.removeprefix("sub-") in asked
        found.append(Exclusion(key, row.participant, "no features" if chosen else "other participant; no features"))
    return found


def _mixed_sessions(kept: Sequence[tuple[str, OutcomeRow]], outcomes: Outcomes) -> list[str]:
    """Say so if people's only scans are of different sessions: some may not be baseline scans."""
    sessions = [Key(key).session or "none" for key, _ in kept]
    if outcomes.per_session or len(set(sessions)) < 2:
        return []
    counts = ", ".join(f"{sessions.count(s)} of session {s}" for s in sorted(set(sessions), key=natural))
    return [f"one scan each, but not of one session: {counts}. Choose the baseline scan with --session-label."]


# ------------------------------------------------------------------------------------------------------------ features


def _pool(
    key: str,
    runs: Sequence[Record],
    recipes: Mapping[Path, Recipe],
    arrays: Mapping[str, list[Float32]],
    out: list[Exclusion],
) -> tuple[Quality, ...]:
    """Add a session's windows to ``arrays`` and return its runs' quality; none where it is excluded."""
    read: list[Features] = []
    for run in runs:
        found = _read(run, recipes[run.root], tuple(arrays))
        if isinstance(found, Features):
            read.append(found)
        else:
            out.append(Exclusion(run.key, run.participant, found))
    problem = _unlike(read, arrays)
    if problem:
        out.append(Exclusion(key, runs[0].participant, problem))
    if not read or problem:
        return ()
    for name, column in arrays.items():
        column.append(pooled(name, read, recipes[runs[0].root]))
    return tuple(run.quality for run in read)


def _read(run: Record, recipe: Recipe, names: Sequence[str]) -> Features | str:
    """Return a run's features with only the arrays asked for, or why they cannot be used."""
    if run.problem:
        return run.problem
    if run.digest != recipe.digest:
        return "made with another recipe than its dataset's; run the participant level again"
    try:
        found = read_features(run.path)
        return Features(found.key, found.windows, {n: found.arrays[n] for n in names}, found.quality, found.digest)
    except DataError as error:
        return f"features cannot be read: {error}"
    except KeyError as error:
        return f"features cannot be read: {run.path.name} holds no array {error}."


def _unlike(runs: Sequence[Features], arrays: Mapping[str, list[Float32]]) -> str:
    """Say why runs cannot be pooled, or not be put beside the sessions before; empty if they can."""
    if len({run.key for run in runs}) < len(runs):
        return f"there are several sets of features of one recording: {', '.join(run.key for run in runs)}"
    times = [run.quality.window_repetition_time for run in runs]
    if times and max(times) - min(times) > SAME_TR * min(times):
        found = ", ".join(f"{run.key} {time:g} s" for run, time in zip(runs, times, strict=True))
        return f"runs of one session differ in repetition time: {found}"
    for name, column in arrays.items():
        shapes = {run.arrays[name].shape[1:] for run in runs} | {each.shape[1:] for each in column[:1]}
        if len(shapes) > 1:
            return f"{name} is of shapes {some(map(str, shapes))} a window; within a cohort it has one"
    return ""


def _cohort(
    kept: Sequence[tuple[str, OutcomeRow]],
    qualities: Sequence[tuple[Quality, ...]],
    arrays: Mapping[str, list[Float32]],
    outcomes: Outcomes,
    digest: str,
) -> Cohort:
    rows = [row for _, row in kept]
    covariates = {c: np.array([row.covariates[c] for row in rows], np.float64) for c in outcomes.levels}
    sites, arms = [row.site for row in rows], [row.arm for row in rows]
    return Cohort(
        keys=tuple(key for key, _ in kept),
        subjects=tuple(row.participant for row in rows),
        groups=tuple(row.group for row in rows),
        arrays={name: tuple(column) for name, column in arrays.items()},
        y=np.array([row.y for row in rows], np.float64),
        kind=outcomes.kind,
        covariates=covariates,
        motion=np.array([_mean_fd(runs) for runs in qualities], np.float64),
        sites=tuple(s for s in sites if s is not None) if None not in sites else None,
        arms=tuple(a for a in arms if a is not None) if None not in arms else None,
        quality=tuple(qualities),
        digest=digest,
    )


def _mean_fd(runs: Sequence[Quality]) -> float:
    known = over_runs("mean_fd", (run.mean_fd for run in runs))
    return float("nan") if known is None else known
