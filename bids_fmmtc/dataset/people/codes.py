"""Codes that stand for a missing value, such as -99, 999 or ``unknown``: settled by the user or refused, never guessed.

What settles them: ``--missing-code`` (group level), and the data dictionary beside the table (``participants.json``),
with ``MissingValues`` and ``Levels`` of the column.

When a number looks like a code
-------------------------------
It has the shape of one: a single digit 7, 8 or 9 repeated (9, 88, -999, 99.9), nines that end in 6, 7 or 8 (98, 997),
-1, or the end of an integer's range. And it lies outside the range of the other values, far from them:

- farther than half their range; a 7, 8 or 9 farther than all of it (0, 1 and 9); -1 is left to the next rule;
- or, where it is negative and they are not, or where two people or more have it, farther than twice the widest gap
  between neighbours in that half of them which is on its side.

Values of that shape which are not far join the others, nearest first. So -9 in a change of -20 to 60, an age of 99
beside one of 95, and ages of 7, 8 and 9 are values; -99 and 999 in the same change, and -9 among ages, are not. One of
two digits or more that is the very lowest or highest, but not far, is a value with a note. In a column of words, the
few numbers of that shape look like codes, and so do words that say it (``missing``, ``unknown``, ``?``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from bids_fmmtc.dataset.tables import Column, number, quoted
from bids_fmmtc.errors import DataError
from bids_fmmtc.reading import is_missing

OPTION = "--missing-code"
_SHAPE = re.compile(r"-?(7+|8+|9+)(\.9+)?|-?9+[678]|-1|-32768|32767|-?214748364[78]", re.ASCII)
_ONE_DIGIT = 10.0
_SAYS_MISSING = re.compile(
    r"((data|value|score|item|answer)s? )?((is|was|are|were) )?"
    r"(missing|unknown|unk|undefined|no (data|answer|value|score|information)|"
    r"(not|un)[ -]?(available|applicable|assessed|recorded|known|collected|acquired|reported|done|stated|given|tested|"
    r"measured|answered|specified|obtained|rated))"
    r"( (data|values?|scores?|codes?|items?))?"
)
_HINTS_AT_MISSING = re.compile(r"\b(missing|unknown|not|no|n/?a|refus\w+|drop\w*|lost|withdr\w+|declin\w+|skip\w*)\b")


def says_missing(text: str) -> bool:
    """Tell whether words say that a value is missing: ``unknown``, ``not available``, ``?``, or as `is_missing`."""
    plain = " ".join(re.sub(r"[^\w/ -]", " ", text.replace("_", " ").casefold()).split())
    return is_missing(text) or not any(map(str.isalnum, plain)) or _SAYS_MISSING.fullmatch(plain) is not None


# --------------------------------------------------------------------------------------------------------------- shape


@dataclass(frozen=True, slots=True)
class Odd:
    """Numbers of a code's shape that look like codes (``far``), or that are the lowest or highest value (``near``)."""

    far: tuple[float, ...]
    near: tuple[float, ...]
    low: float
    high: float


def odd_numbers(values: Sequence[float]) -> Odd:
    """Tell which numbers look like codes, by the rule above.

    Parameters
    ----------
    values
        One a person; repeats count.

    Returns
    -------
    Distinct numbers in order; ``low`` and ``high`` are the range of the others (NaN where there is none).
    """
    counts = Counter(values)
    left = sorted(filter(_shaped, counts))
    rest = sorted(value for value in values if value not in left)
    near = []
    while rest:
        joining = [value for value in left if not _stands_apart(value, counts[value], rest)]
        if not joining:
            break
        one = min(joining, key=lambda value: _gap(value, rest))
        if _gap(one, rest) > 0 and (abs(one) >= _ONE_DIGIT or (one < 0 <= rest[0])):
            near.append(one)
        left.remove(one)
        rest = sorted([*rest, *[one] * counts[one]])
    if not rest:
        return Odd((), (), float("nan"), float("nan"))
    return Odd(tuple(left), tuple(value for value in sorted(near) if value in (rest[0], rest[-1])), rest[0], rest[-1])


def _shaped(value: float) -> bool:
    return _SHAPE.fullmatch(f"{value:.15g}") is not None


def _gap(value: float, rest: Sequence[float]) -> float:
    """Return how far a value lies outside the range of sorted others; 0 within it."""
    return max(rest[0] - value, value - rest[-1], 0.0)


def _stands_apart(value: float, people: int, rest: Sequence[float]) -> bool:
    gap, span = _gap(value, rest), rest[-1] - rest[0]
    if gap == 0 or (span == 0 and abs(value) < _ONE_DIGIT):  # beside one value only, a digit says nothing
        return False
    if 0 < value < _ONE_DIGIT:
        return gap > span
    if value != -1 and gap > span / 2:
        return True
    if people == 1 and not value < 0 <= rest[0]:
        return False
    middle = len(rest) // 2
    side = rest[: middle + 1] if value < rest[0] else rest[middle:]
    widest = max((b - a for a, b in pairwise(side)), default=0.0) or span
    return gap > 2 * widest


# -------------------------------------------------------------------------------------------------------------- settle


@dataclass(frozen=True, slots=True)
class _Said:
    """What the data dictionary says of a column: codes for missing, values that are none, and descriptions."""

    missing: tuple[str, ...]
    values: tuple[str, ...]
    closed: bool


def settle(column: Column, named: Sequence[str]) -> Column:
    """Return a column without its codes for missing values.

    Parameters
    ----------
    column
        As read, with what its data dictionary says.
    named
        Values of ``--missing-code``, words or numbers (-99 is -99.0, too); ``n/a`` says that there are no others.

    Raises
    ------
    DataError
        It holds what looks like a code, and nothing settles it.
    """
    said = _said(column)
    words = column.words()
    by_option = [word for word in words if _among(word, named)]
    by_table = [word for word in words if word not in by_option and _among(word, said.missing)]
    left = _without(column, {*by_option, *by_table})
    notes = []
    for taken, why in ((by_option, OPTION), (by_table, "its data dictionary")):
        if taken:
            notes.append(f"{column}: {quoted(taken)} taken as missing, by {why}.")
    if not (said.closed or any(map(is_missing, named))):
        notes += _look(left, said.values)
    return replace(left, notes=(*column.notes, *notes))


def unused(named: Sequence[str], columns: Iterable[Column]) -> tuple[str, ...]:
    """Return a note on values of ``--missing-code`` that none of the columns, as read, holds."""
    words = {word for column in columns for word in column.words()}
    idle = [code for code in named if not is_missing(code) and not any(_same(word, code) for word in words)]
    return (f"{OPTION}: {quoted(idle)} stands in none of the columns that are read.",) if idle else ()


def _look(column: Column, values: Sequence[str]) -> list[str]:
    """Refuse what looks like a code and is not among ``values``; return a note on what nearly does."""
    texts = column.texts()
    known = [value for text in texts if (value := number(text)) is not None]
    others = [text for text in texts if number(text) is None and not says_missing(text)]
    odd = odd_numbers(known)
    far, where = odd.far, f": the others lie between {odd.low:g} and {odd.high:g}"
    if len(others) > len(known) and all(map(_shaped, known)):
        far, where = tuple(known), ""
    found = [
        word
        for word in column.words()
        if (says_missing(word) if (value := number(word)) is None else value in far) and not _among(word, values)
    ]
    if found:
        found.sort(key=lambda word: (number(word) is None, number(word) or 0.0))
        raise DataError(
            f"{column} holds {quoted(found)}, which may stand for a missing value{where if far else ''}.",
            f"Give {OPTION} {' '.join(map(_shell, found))} if so, {OPTION} n/a if not; or tell it in the JSON beside "
            "the table (MissingValues, Levels).",
        )
    near = [word for word in column.words() if number(word) in odd.near and not _among(word, values)]
    return [f"{column}: {quoted(near)} taken as a value; if it is a code, give {OPTION}."] if near else []


def _shell(text: str) -> str:
    return text if re.fullmatch(r"[\w.-]+", text, re.ASCII) else f'"{text}"'


def _without(column: Column, missing: set[str]) -> Column:
    if not missing:
        return column
    values = {
        participant: {session: None if text in missing else text for session, text in row.items()}
        for participant, row in column.values.items()
    }
    return replace(column, values=values)


def _among(word: str, codes: Iterable[str]) -> bool:
    return any(_same(word, code) for code in codes)


def _same(word: str, code: str) -> bool:
    """Tell whether a cell is a code: the same number, or the same word in any case."""
    value = number(word)
    if value is not None:
        return value == number(code.strip())
    return word.casefold() == code.strip().casefold()


# ---------------------------------------------------------------------------------------------------------- dictionary


def _said(column: Column) -> _Said:
    """Read ``MissingValues`` (a list, one value, or value -> description) and ``Levels`` (value -> description)."""
    listed, levels = column.described.get("MissingValues"), column.described.get("Levels")
    missing = [] if listed is None else _texts(column, listed)
    closed = any(map(is_missing, missing))
    values = []
    for word, about in levels.items() if isinstance(levels, Mapping) else ():
        text = _words_of(about)
        if says_missing(text) and text.strip():
            missing.append(str(word))
        elif text.strip() and not _HINTS_AT_MISSING.search(text.casefold()):
            values.append(str(word))
    return _Said(tuple(word for word in missing if not is_missing(word)), tuple(values), closed)


def _texts(column: Column, listed: Any) -> list[str]:
    each = list(listed) if isinstance(listed, list | Mapping) else [listed]
    if not all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in each):
        raise DataError(
            f"MissingValues of {column} in its data dictionary is no list of numbers and words.",
            'Write for example "MissingValues": [-99, "unknown"].',
        )
    return [value if isinstance(value, str) else f"{value:.15g}" for value in each]


def _words_of(about: Any) -> str:
    """Return what a level says of itself: a text, or an object's Description."""
    if isinstance(about, Mapping):
        about = next((about[name] for name in ("Description", "LongName") if isinstance(about.get(name), str)), "")
    return about if isinstance(about, str) else ""
