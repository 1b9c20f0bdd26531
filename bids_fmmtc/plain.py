"""Values to plain JSON and back: the type hints of a frozen dataclass are its schema.

`to_json` writes every field by its name, `from_json` builds the value again and names what does not fit. A class that
is stored otherwise says so by ``as_stored`` (to plain data) and ``from_stored`` (from a mapping). A new field
of a value needs nothing here; one that is to leave what was stored before it as it was is `unwritten` at its default.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from bids_fmmtc.errors import DataError, FmmtcError

T = TypeVar("T")

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What JSON can hold: for what is free, or written and never read as a value."""
Object: TypeAlias = "dict[str, Json]"
"""A JSON object that is being made."""
Cell: TypeAlias = "bool | int | float | str | Sequence[str] | None"
"""What a cell of a table can be made of."""
Cells: TypeAlias = "dict[str, Cell]"
"""A row of a table: column -> cell."""
Columns: TypeAlias = "Mapping[str, Mapping[str, str | Mapping[str, str]]]"
"""Columns of a table, described as a BIDS sidecar wants: ``Description``, ``Units``, ``Levels``."""

_UNWRITTEN = "unwritten"


def unwritten(default: Any, **metadata: Any) -> Any:
    """Return a field of a dataclass, with this metadata, that `to_json` leaves out where it has its default.

    What was stored before the field was thought of stays equal to what is stored now, to the byte.
    """
    return dataclasses.field(default=default, metadata={**metadata, _UNWRITTEN: True})


def to_json(value: Any, *, whole: bool = False) -> Any:
    """Return JSON-ready data; `from_json` inverts it.

    Parameters
    ----------
    value
        A dataclass, or tuples, lists, mappings, paths, enums, numbers and arrays of numpy in each other. Fields that
        are a float by their hint become one: 2 and 2.0, or 0.0 and -0.0, are equal, and so is what is written of them.
    whole
        Spell out fields that are `unwritten`, too.
    """
    value = value.as_stored() if hasattr(value, "as_stored") else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _inner(getattr(value, f.name), _hints(type(value))[f.name], whole=whole)
            for f in dataclasses.fields(value)
            if whole or _UNWRITTEN not in f.metadata or getattr(value, f.name) != f.default
        }
    if isinstance(value, Mapping):
        return {str(k): to_json(v, whole=whole) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v, whole=whole) for v in value]
    if isinstance(value, enum.Enum):
        return to_json(value.value)
    if hasattr(value, "dtype"):  # of numpy, which is not loaded for a recipe's sake
        return value.tolist()
    return str(value) if isinstance(value, PurePath) else value


def _inner(value: Any, kind: Any, *, whole: bool) -> Any:
    if isinstance(value, int | float) and not isinstance(value, enum.Enum) and float in (kind, *get_args(kind)):
        return float(value) + 0.0
    return to_json(value, whole=whole)


@dataclass(frozen=True, slots=True)
class Strictness:
    """What becomes of JSON that does not fit.

    Parameters
    ----------
    error
        What is raised.
    hint
        What the user can do about it.
    drop
        Takes the line that tells of an unknown field, which is then dropped; None refuses the field.
    forgive
        Drop and tell of values that do not fit, too: a field has its default or is None, an entry of a list or mapping
        is left out, and what lacks a value that it must have does not fit itself.
    """

    error: type[FmmtcError] = DataError
    hint: str = ""
    drop: Callable[[str], object] | None = None
    forgive: bool = False

    def wrong(self, message: str) -> FmmtcError:
        """Return the error to raise."""
        return self.error(message, self.hint)


REFUSE = Strictness()


def from_json(kind: type[T], data: Any, where: str, strictness: Strictness = REFUSE) -> T:
    """Build a value from JSON; fields that are left out keep their defaults.

    Parameters
    ----------
    kind
        A dataclass, whose hints may name dataclasses, tuples, lists, mappings, literals, enums, paths, plain values,
        and unions of these.
    where
        What to call the data in messages.
    strictness
        What is raised, and what becomes of unknown fields.

    Raises
    ------
    DataError
        Or what ``strictness`` names: an unknown field, one that is missing, a wrong type, or a number that is not
        finite; names the field.
    """
    value: T = _build(kind, data, where, strictness)
    return value


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _build(kind: Any, data: Any, where: str, how: Strictness) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where, how)
    if origin in (Union, UnionType):
        return _union(args, data, where, how)
    if origin in (tuple, list, Sequence):
        return _listed(origin, args, data, where, how)
    if origin is Mapping and args[1] is not Any:
        if not isinstance(data, Mapping):
            raise how.wrong(f"{where}: expected an object, found {_shown(data)}.")
        return _fitting({str(k): (args[1], v) for k, v in data.items()}, where, how)
    return _scalar(kind, data, where, how)


def _dataclass(kind: Any, data: Any, where: str, how: Strictness) -> Any:
    if not isinstance(data, Mapping):
        raise how.wrong(f"{where}: expected an object, found {_shown(data)}.")
    if hasattr(kind, "from_stored"):
        return kind.from_stored(data)
    hints = _hints(kind)
    unknown = sorted(str(name) for name in data if name not in hints)
    if unknown:
        line = f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(hints)}."
        if how.drop is None:
            raise how.wrong(line)
        how.drop(line)
    required = _required(kind)  # a list: the field that is named is the first, not one by the order of a set
    if missing := [name for name in required if name not in data]:
        raise how.wrong(f"{where}: field {missing[0]} is missing.")
    values = _fitting({name: (hints[name], v) for name, v in data.items() if name in hints}, where, how)
    for name in [name for name in required if name not in values]:  # forgiven, if nothing can stand for them
        if NoneType not in get_args(hints[name]):
            raise how.wrong(f"{where}.{name}: nothing that fits is stored.")
        values[name] = None
    try:
        return kind(**values)
    except FmmtcError:
        raise
    except ValueError as error:  # what a value refuses when it is made
        raise how.wrong(f"{where}: {error}.") from None


def _required(kind: Any) -> list[str]:
    """Return the names of fields without a default, in their order."""
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is missing]


def _fitting(entries: Mapping[str, tuple[Any, Any]], where: str, how: Strictness) -> dict[str, Any]:
    """Build values by their names, of kinds that are given; forgiving, leave out those that do not fit."""
    built = {}
    for name, (kind, data) in entries.items():
        try:
            built[name] = _build(kind, data, f"{where}{'' if name.startswith('[') else '.'}{name}", how)
        except FmmtcError as error:
            if not how.forgive or how.drop is None:
                raise
            how.drop(str(error))
    return built


def _union(kinds: Sequence[Any], data: Any, where: str, how: Strictness) -> Any:
    """Build the first that fits; of one kind or nothing, whatever that kind says."""
    if data is None and NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not NoneType]
    for kind in others:
        try:
            return _build(kind, data, where, how)
        except how.error:
            continue
    return _build(last, data, where, how)


def _listed(origin: Any, args: Sequence[Any], data: Any, where: str, how: Strictness) -> Any:
    if not isinstance(data, list | tuple):
        raise how.wrong(f"{where}: expected a list, found {_shown(data)}.")
    kinds = list(args)
    if origin is not tuple or kinds[1:] == [...]:
        kinds = kinds[:1] * len(data)
    if len(kinds) != len(data):
        raise how.wrong(f"{where}: expected {len(kinds)} values, found {len(data)}.")
    pairs = {f"[{i}]": (kind, v) for i, (kind, v) in enumerate(zip(kinds, data, strict=True))}
    built = _fitting(pairs, where, how).values()
    return list(built) if origin is list else tuple(built)


def _scalar(kind: Any, data: Any, where: str, how: Strictness) -> Any:
    if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return _chosen(kind, data, where, how)
    if not _storable(data):
        raise how.wrong(f"{where}: holds a number that is not finite.")
    if kind is Any:
        return data
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    wanted = get_origin(kind) or kind
    stored = str if isinstance(wanted, type) and issubclass(wanted, PurePath) else wanted
    if not isinstance(data, stored) or (isinstance(data, bool) and kind is not bool):
        raise how.wrong(f"{where}: expected {getattr(kind, '__name__', kind)}, found {_shown(data)}.")
    return data if stored is wanted else wanted(data)


def _chosen(kind: Any, data: Any, where: str, how: Strictness) -> Any:
    choices = get_args(kind) or [member.value for member in kind]
    # By type, too, since True == 1 to Python.
    if not any(data == choice and type(data) is type(choice) for choice in choices):
        raise how.wrong(f"{where}: {_shown(data)} is none of {', '.join(map(str, choices))}.")
    return data if get_args(kind) else kind(data)


def _shown(data: Any) -> str:
    return json.dumps(data, default=repr)


def _storable(data: Any) -> bool:
    """Tell whether all numbers are finite, which JSON demands."""
    if isinstance(data, Mapping | list | tuple):
        return all(map(_storable, data.values() if isinstance(data, Mapping) else data))
    return not isinstance(data, int | float) or abs(data) <= sys.float_info.max
