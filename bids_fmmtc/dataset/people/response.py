"""How the texts of one column become responders and non-responders, or numbers.

A column that could be read in two ways is refused, never guessed at: a wrong outcome misleads a trial silently.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bids_fmmtc.dataset.tables import Column, number, quoted
from bids_fmmtc.errors import DataError, UsageError
from bids_fmmtc.types import Float64, OutcomeKind

_EXPRESSION = re.compile(r"\s*(>=|<=|==|>|<)\s*(\S|\S.*\S)\s*", re.DOTALL)
_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_PAIRS = (("nonresponder", "responder"), ("no", "yes"), ("false", "true"))
_FEW_NUMBERS = 5  # an outcome of so few distinct numbers may hold codes


@dataclass(frozen=True, slots=True)
class Rule:
    """How the texts of an outcome column become numbers.

    Parameters
    ----------
    kind
        What they become.
    definition
        The same in words: ``responder where Pain change >= 30``.
    values
        Every text of the column -> 1 responder, 0 non-responder, or the number.
    notes
        What the user should know, one line each.
    """

    kind: OutcomeKind
    definition: str
    values: Mapping[str, float]
    notes: tuple[str, ...] = ()


def find_rule(column: Column, responder_if: str | None, non_responders: Sequence[str] = ()) -> Rule:
    """Decide what an outcome column holds.

    Parameters
    ----------
    column
        The outcome.
    responder_if
        ``>=20``, ``>20``, ``<=-30``, ``<-30`` on numbers, ``==value`` on numbers or words. None leaves it to the
        column: 0/1 and the pairs responder/non-responder, yes/no, true/false (in any case) are classified, more than
        two numbers are predicted as numbers.
    non_responders
        Beside ``==value``: who did not respond. Needed where there is more than one other value: a "lost" among
        "relapsed" is no failure of the drug.

    Raises
    ------
    UsageError
        The expression cannot be read, or non-responders are named without ``==value``.
    DataError
        Words where numbers are expected, a value that nobody has, one that is neither class, or a column that could
        be read in two ways.
    """
    if responder_if is None:
        _refuse_alone(non_responders)
        return _by_itself(column)
    match = _EXPRESSION.fullmatch(responder_if)
    limit = number(match[2]) if match else None
    if match is None or (limit is None and match[1] != "=="):
        raise UsageError(
            f"--responder-if {responder_if!r} cannot be read.",
            "Write >=20, >20, <=-30, <-30 with a plain number, or ==value; quote it, since the shell takes < and >.",
        )
    if match[1] == "==":
        return _by_value(column, match[2], non_responders)
    _refuse_alone(non_responders)
    compare, limit = _COMPARE[match[1]], limit or 0.0
    values = {word: float(compare(value, limit)) for word, value in all_numbers(column).items()}
    return Rule("classification", f"responder where {column.name} {match[1]} {match[2]}", values)


def _refuse_alone(non_responders: Sequence[str]) -> None:
    if non_responders:
        raise UsageError("--non-responder needs --responder-if ==VALUE.", "Say what makes a responder, too.")


def _by_value(column: Column, value: str, non_responders: Sequence[str]) -> Rule:
    """Classify by ``--responder-if ==value``: the known partner of a word, the only other value, or those named."""
    words = column.words()
    responders = [word for word in words if _equal(word, value)]
    if words and not responders:
        raise _nobody(value, column)
    absent = [word for word in non_responders if not any(_equal(other, word) for other in words)]
    if absent:
        raise _nobody(absent[0], column)
    refuse_twins(column)
    others = [word for word in words if word not in responders]
    partners = [pair[1 - pair.index(_plain(value))] for pair in _PAIRS if _plain(value) in pair]
    if non_responders:
        neither = [word for word in others if not any(_equal(word, other) for other in non_responders)]
    elif partners:
        neither = [word for word in others if _plain(word) not in partners]
    else:
        neither = others if len({word if number(word) is None else number(word) for word in others}) > 1 else []
    if neither:
        raise DataError(
            f"{column} holds {quoted(neither)}, and whether those are non-responders cannot be told from "
            f"--responder-if =={value}.",
            "Name the values of non-responders with --non-responder, and what is missing with --missing-code.",
        )
    named = f", non-responder where it is {quoted(others)}" if non_responders else ""
    values = {word: float(word in responders) for word in words}
    return Rule("classification", f"responder where {column.name} == {value}{named}", values)


def _equal(word: str, value: str) -> bool:
    limit = number(value)
    return word == value if limit is None else number(word) == limit


def _nobody(value: str, column: Column) -> DataError:
    near = difflib.get_close_matches(value, column.words(), 1)
    hint = f"Did you mean {quoted(near)}?" if near else ""
    return DataError(f"nobody has {value!r} in {column}; it holds {quoted(column.words())}.", hint)


def _plain(word: str) -> str:
    return re.sub(r"[\s_-]", "", word.casefold())


def _by_itself(column: Column) -> Rule:
    """Classify 0/1 and known pairs of words, predict numbers, refuse the rest."""
    words = column.words()
    plain = {word: _plain(word) for word in words}
    for pair in _PAIRS:
        if words and set(plain.values()) <= set(pair):
            values = {word: float(pair.index(plain[word])) for word in words}
            yes = [word for word in words if values[word]]
            return Rule("classification", f"responder where {column.name} is {quoted(yes)}", values)
    if words and all(number(word) is None for word in words):
        refuse_twins(column)
        which = "which word is the responder" if len(words) == 2 else f"{len(words)} words where two classes are wanted"
        raise DataError(
            f"{column} holds {quoted(words)}: {which}?",
            'Say it with --responder-if "==word"; write n/a for what is missing.',
        )
    return _by_number(column, all_numbers(column))


def _by_number(column: Column, values: Mapping[str, float]) -> Rule:
    distinct = sorted(set(values.values()))
    if set(distinct) <= {0.0, 1.0}:
        return Rule("classification", f"responder where {column.name} is 1", values)
    shown = ", ".join(f"{value:.15g}" for value in distinct)
    if len(distinct) == 2:
        raise DataError(
            f"{column} holds {shown}: which one is the responder?",
            f'Say it with --responder-if "=={distinct[1]:.15g}" or "=={distinct[0]:.15g}".',
        )
    if len(distinct) == 1:
        raise DataError(f"{column} is {shown} for everybody.", "Nothing can be learnt from a constant outcome.")
    notes: tuple[str, ...] = ()
    if len(distinct) <= _FEW_NUMBERS:
        notes = (f"{column} holds only {shown}; predicted as a number. Use --responder-if if these are codes.",)
    return Rule("regression", f"{column.name} as a number", values, notes)


def all_numbers(column: Column) -> dict[str, float]:
    """Return every text of a column with its number.

    Raises
    ------
    DataError
        Some are no numbers; names them.
    """
    numbers = {word: number(word) for word in column.words()}
    words = [word for word, value in numbers.items() if value is None]
    if words:
        raise DataError(
            f"{column} holds {quoted(words, 5)} where numbers are expected.",
            "Write n/a for what is missing (or name it with --missing-code), and a point for decimals.",
        )
    return {word: value for word, value in numbers.items() if value is not None}


def refuse_twins(column: Column) -> None:
    """Refuse a column whose words differ in case or inner white space only.

    Raises
    ------
    DataError
        Names the words.
    """
    seen: dict[str, str] = {}
    for word in column.words():
        other = seen.setdefault(" ".join(word.casefold().split()), word)
        if other != word:
            raise DataError(f"{column} holds {other!r} and {word!r}, which may mean the same.", "Spell them alike.")


def refuse_degenerate(y: Float64, participants: Sequence[str], kind: OutcomeKind, what: str) -> None:
    """Refuse outcomes that nothing can be learnt from.

    Parameters
    ----------
    y
        (N,) outcomes.
    participants
        N ids; people count, not their rows.
    kind
        What ``y`` holds.
    what
        The column, for the message.

    Raises
    ------
    DataError
        One class only, fewer than two people in a class, or a constant outcome.
    """
    if kind == "regression":
        if len(np.unique(y)) < 2:
            raise DataError(
                f"the outcome in {what} is {y[0]:g} for all {len(set(participants))} participants.",
                "Nothing can be learnt from a constant outcome.",
            )
        return
    people = {c: {p for p, value in zip(participants, y, strict=True) if value == c} for c in (0, 1)}
    found = f"{len(people[1])} responders and {len(people[0])} non-responders"
    if not (people[0] and people[1]):
        raise DataError(f"{what} gives one class only: {found}.", "Check --responder-if, --arm and the column.")
    if min(map(len, people.values())) < 2:
        raise DataError(f"{what} gives {found}; each class needs at least two participants.")
