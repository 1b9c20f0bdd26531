"""Outcomes, arms, sites, families and covariates from the tables of a dataset: who responded, and to what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bids_fmmtc.dataset.naming import some
from bids_fmmtc.dataset.people.codes import settle, unused
from bids_fmmtc.dataset.people.response import Rule, all_numbers, find_rule, refuse_degenerate, refuse_twins
from bids_fmmtc.dataset.tables import (
    PARTICIPANTS,
    Column,
    Table,
    find_table,
    no_column,
    number,
    quoted,
    split_source,
)
from bids_fmmtc.errors import DataError, MissingInputError, SelectionError, UsageError
from bids_fmmtc.types import OutcomeKind

_MANY_LEVELS = 10  # a column with more words, in most rows another one, holds names rather than a covariate


@dataclass(frozen=True, slots=True)
class OutcomeSpec:
    """Which columns hold the outcome and what goes with it, as the user typed them.

    Parameters
    ----------
    outcome
        ``COLUMN`` of participants.tsv, ``phenotype/FILE.tsv:COLUMN``, ``sessions:COLUMN`` (every
        ``sub-X_sessions.tsv``), or any ``PATH.tsv:COLUMN``.
    responder_if
        ``>=20``, ``>20``, ``<=-30``, ``<-30`` on numbers, or ``==value`` on numbers or words. None leaves it to the
        column: 0/1 or a known pair of words is classified, more than two numbers are predicted as numbers.
    arm_column, arms
        Column of the treatment arm, and the arms to learn from; no arms means all of them.
    site_column, group_column
        Columns of the site, and of what must never be divided (a family).
    covariates
        Columns of covariates.
    sessions
        Session labels, with or without ``ses-``: where the outcome is told by session, the only rows that count, and
        the only scans that a cohort takes. Empty means all.
    non_responders
        Beside ``==value``: the values of those who did not respond, where there are more than one.
    missing_codes
        Values that are missing in all these columns; ``n/a`` says that there are no others (see `codes`).
    """

    outcome: str
    responder_if: str | None = None
    arm_column: str | None = None
    arms: tuple[str, ...] = ()
    site_column: str | None = None
    covariates: tuple[str, ...] = ()
    group_column: str | None = None
    sessions: tuple[str, ...] = ()
    non_responders: tuple[str, ...] = ()
    missing_codes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels = tuple(dict.fromkeys(label.removeprefix("ses-") for label in self.sessions))
        object.__setattr__(self, "sessions", labels)
        object.__setattr__(self, "covariates", tuple(dict.fromkeys(self.covariates)))


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """What the tables say of one participant, or of one of its sessions.

    Parameters
    ----------
    participant, session
        ``sub-01``; the session's label, or None where the outcome is one a participant.
    y
        1 responder, 0 non-responder, or a number; NaN where missing.
    group
        The family, or the participant where there is none.
    site, arm
        None where no column was asked for; ``n/a`` for an arm that is missing while all arms are taken.
    covariates
        Column -> its numbers, NaN where missing.
    reason
        Why the row cannot be used; empty if it can.
    """

    participant: str
    session: str | None
    y: float
    group: str
    site: str | None
    arm: str | None
    covariates: Mapping[str, tuple[float, ...]]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcomes of a dataset.

    Parameters
    ----------
    rows
        One a participant, or one a session; those that cannot be used, too.
    kind
        ``classification`` or ``regression``.
    definition
        What the outcome is, in words: ``responder where Pain change >= 30``.
    per_session
        Whether the table tells the outcome by session.
    sessions
        As in the spec.
    levels
        Covariate -> its sorted words, of which the first has no indicator; empty for a column of numbers.
    sources
        Column -> path of the table it was taken from.
    notes
        What the user should know, one line each.
    """

    rows: tuple[OutcomeRow, ...]
    kind: OutcomeKind
    definition: str
    per_session: bool
    sessions: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, str]
    notes: tuple[str, ...]


def read_outcomes(
    spec: OutcomeSpec, roots: Sequence[Path], levels: Mapping[str, tuple[str, ...]] | None = None
) -> Outcomes:
    """Read outcomes and what goes with them.

    Arms, sites, families and covariates are taken from the outcome's own table, else from participants.tsv. A
    covariate of numbers (0/1 too) stays one number; a covariate of words becomes indicators of its sorted words but
    the first, which is the reference. Where site is missing, or the arm while arms are named, the row is unusable;
    where the family is missing, the participant stands for itself.

    Parameters
    ----------
    spec
        What to read.
    roots
        Folders to look in, from `tables.dataset_roots`.
    levels
        `Outcomes.levels` of another cohort, so that indicators mean the same here; words unknown there are missing.

    Raises
    ------
    UsageError
        Options that contradict each other, or an expression that cannot be read.
    MissingInputError
        A table that is not there.
    SelectionError
        An arm or session that nobody has.
    DataError
        A column that is not there, is ambiguous or contradicts itself, or holds what may be codes for missing values;
        one class only, or a constant outcome.
    """
    _check(spec)
    source, name = split_source(spec.outcome)
    table, notes = find_table(source, name, roots)
    raw = table.column(name)
    outcome = settle(raw, spec.missing_codes)
    rule = find_rule(outcome, spec.responder_if, spec.non_responders)
    if any(other == name for other in (*spec.covariates, spec.arm_column, spec.site_column, spec.group_column)):
        raise UsageError(f"{outcome} is the outcome and cannot be arm, site, family or covariate too.")
    columns = _Columns(table, roots, spec)
    _check_arms(spec, columns)
    encoded = {c: _encode(columns[c], None if levels is None else levels.get(c)) for c in spec.covariates}
    rows = tuple(
        _row(spec, columns, rule, {c: code.of(p, s) for c, code in encoded.items()}, (p, s, text))
        for p, sessions in outcome.values.items()
        for s, text in sessions.items()
    )
    _check_groups(rows, spec)
    per_session = any(row.session is not None for row in rows)
    _check_sessions(rows, spec, outcome)
    usable = [row for row in rows if not row.reason]
    if not usable:
        raise DataError(f"nobody has an outcome in {outcome}: {count_reasons([row.reason for row in rows])}.")
    refuse_degenerate(np.array([row.y for row in usable]), [row.participant for row in usable], rule.kind, str(outcome))
    return Outcomes(
        rows=rows,
        kind=rule.kind,
        definition=rule.definition,
        per_session=per_session,
        sessions=spec.sessions,
        levels={c: code.levels for c, code in encoded.items()},
        sources={name: table.name, **columns.sources},
        notes=(
            *(*notes, *outcome.notes, *columns.notes, *rule.notes),
            *(note for code in encoded.values() for note in code.notes),
            *unused(spec.missing_codes, [raw, *columns.read]),
        ),
    )


def count_reasons(reasons: Sequence[str]) -> str:
    """Return reasons with how often each occurs, the most frequent first."""
    return "; ".join(f"{n} x {reason}" for reason, n in Counter(reasons).most_common(5))


# ------------------------------------------------------------------------------------------------------- other columns


class _Columns:
    """Columns beside the outcome, by name, from its table or from participants.tsv; each read once."""

    def __init__(self, table: Table, roots: Sequence[Path], spec: OutcomeSpec) -> None:
        self.notes: list[str] = []
        self.sources: dict[str, str] = {}
        self.read: list[Column] = []
        self._columns: dict[str, Column] = {}
        words = [name for name in (spec.arm_column, spec.site_column, spec.group_column) if name is not None]
        for name in dict.fromkeys((*words, *spec.covariates)):
            self.read.append(self._find(name, table, roots))
            column = settle(self.read[-1], spec.missing_codes)
            self.notes += column.notes
            if name in words:
                refuse_twins(column)
            self._columns[name] = column
            self.sources[name] = column.table

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def of(self, name: str | None, participant: str, session: str | None) -> str | None:
        """Return a text; None where no column was asked for, too."""
        return None if name is None else self[name].of(participant, session)

    def _find(self, name: str, table: Table, roots: Sequence[Path]) -> Column:
        if name in table.columns:
            return table.column(name)
        try:
            found, notes = find_table(PARTICIPANTS, name, roots)
        except MissingInputError:
            raise no_column(name, [table]) from None
        self.notes += [note for note in notes if note not in self.notes]
        return found.column(name)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A covariate as numbers."""

    column: Column
    levels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def of(self, participant: str, session: str | None) -> tuple[float, ...]:
        text = self.column.of(participant, session)
        if not self.levels:
            value = None if text is None else number(text)
            return (np.nan if value is None else value,)
        if text not in self.levels:
            return (np.nan,) * (len(self.levels) - 1)
        return tuple(float(text == level) for level in self.levels[1:])


def _encode(column: Column, levels: tuple[str, ...] | None) -> _Encoded:
    """Decide what a covariate is: numbers, or words as indicators of all sorted levels but the first."""
    words = column.words()
    if not words:
        raise DataError(f"{column} is empty.", "Leave it out of --covariates.")
    if levels:
        strange = [word for word in words if word not in levels]
        note = f"{column} holds {quoted(strange)}, unknown to the cohort learnt from; taken as missing."
        return _Encoded(column, levels, (note,) if strange else ())
    if levels is not None or any(number(word) is not None for word in words):
        all_numbers(column)
        return _Encoded(column, ())
    refuse_twins(column)
    filled = sum(text is not None for rows in column.values.values() for text in rows.values())
    if len(words) > max(_MANY_LEVELS, filled // 2):
        raise DataError(
            f"{column} holds {len(words)} different words in {filled} rows; a covariate has few.",
            "Leave it out of --covariates.",
        )
    if len(words) == 1:
        raise DataError(f"{column} is {words[0]!r} for everybody.", "Leave it out of --covariates.")
    return _Encoded(column, tuple(sorted(words)))


# ---------------------------------------------------------------------------------------------------------------- rows


def _row(
    spec: OutcomeSpec,
    columns: _Columns,
    rule: Rule,
    covariates: Mapping[str, tuple[float, ...]],
    about: tuple[str, str | None, str | None],
) -> OutcomeRow:
    participant, session, text = about
    arm = columns.of(spec.arm_column, participant, session)
    site = columns.of(spec.site_column, participant, session)
    group = columns.of(spec.group_column, participant, session)
    row = OutcomeRow(
        participant=participant,
        session=session,
        y=np.nan if text is None else rule.values[text],
        group=group or participant,
        site=site,
        arm="n/a" if arm is None and spec.arm_column is not None else arm,
        covariates=covariates,
    )
    reasons = (
        (bool(spec.sessions) and session is not None and session not in spec.sessions, f"other session: ses-{session}"),
        (bool(spec.arms) and arm is None, f"the arm is missing in column {spec.arm_column!r}"),
        (bool(spec.arms) and arm is not None and arm not in spec.arms, f"other arm: {arm}"),
        (text is None, "the outcome is missing"),
        (spec.site_column is not None and site is None, f"the site is missing in column {spec.site_column!r}"),
    )
    return replace(row, reason=next((reason for holds, reason in reasons if holds), ""))


def _check(spec: OutcomeSpec) -> None:
    if spec.arms and spec.arm_column is None:
        raise UsageError("--arm was given without --arm-column.", "Name the column that holds the arms.")


def _check_arms(spec: OutcomeSpec, columns: _Columns) -> None:
    if spec.arm_column is None:
        return
    arms = columns[spec.arm_column].words()
    unknown = [arm for arm in spec.arms if arm not in arms]
    if unknown:
        raise SelectionError(
            f"nobody is in arm {quoted(unknown)}; {columns[spec.arm_column]} holds {quoted(arms) or 'nothing'}.",
            "Case counts.",
        )


def _check_groups(rows: Sequence[OutcomeRow], spec: OutcomeSpec) -> None:
    groups: dict[str, str] = {}
    for row in rows:
        if groups.setdefault(row.participant, row.group) != row.group:
            raise DataError(
                f"{row.participant} is in two groups of column {spec.group_column!r}: {groups[row.participant]} and "
                f"{row.group}.",
                "A participant belongs to one family.",
            )


def _check_sessions(rows: Sequence[OutcomeRow], spec: OutcomeSpec, outcome: Column) -> None:
    there = {row.session for row in rows if row.session is not None}
    if spec.sessions and there and not there & set(spec.sessions):
        raise SelectionError(f"{outcome} has no row of session {some(spec.sessions)}; it has {some(there)}.")
