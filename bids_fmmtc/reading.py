"""Text files from outside, read with bounds: a regular file, of a size and a depth that can be real, in UTF-8.

A dataset is somebody else's. A name that looks like a sidecar may be a pipe that never ends, a device, a link to
content that was never fetched, or a gigabyte of brackets. Every JSON and every table that this program did not write
comes through here, so that each of these is one line about one file.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from bids_fmmtc.errors import UnreadableError

JSON_BYTES = 64 * 2**20
TABLE_BYTES = 256 * 2**20  # 5,000 frames of 1,000 parcels at full precision are half of that
JSON_DEPTH = 64
_FORMULA = re.compile(r"[=@]|[+-].*[A-Za-z(]")
_INTEGER_DIGITS = 300  # more do not fit a float; json gives infinity for 1e999, and so do we for them

MISSING_WORDS = frozenset(
    {"", "n/a", "na", "n.a.", "#n/a", "#na", "<na>", "null", "#null!", "nan", "-nan", "#nan", "."}  # casefolded
)
"""What BIDS, R, spreadsheets, pandas, SQL and SAS write where a value is missing. ``none`` is a word of its own: an arm
or a medication may be called so."""


def is_missing(cell: str) -> bool:
    """Tell whether a cell of a table says that its value is missing, in any case and with blanks around it."""
    return cell.strip().casefold() in MISSING_WORDS


def is_formula(cell: str) -> bool:
    """Tell whether a spreadsheet that opens a table may compute a cell instead of showing it."""
    return _FORMULA.match(cell) is not None


def is_there(path: Path) -> bool:
    """Tell whether a name is there, be it a link to nothing, as content is that DataLad has not fetched."""
    return os.path.lexists(path)


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file of at most ``most`` bytes.

    Raises
    ------
    UnreadableError
        It is absent, a link to nothing, no regular file, too large, or cannot be read.
    """
    try:
        _refuse_special(path, path.stat().st_mode)  # before opening: that alone can block, or wake a device
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as f:  # noqa: PTH123  (a descriptor, not a path)
            found = os.fstat(f.fileno())
            _refuse_special(path, found.st_mode)
            data = f.read(most + 1) if found.st_size <= most else b""
    except FileNotFoundError:
        lost = is_there(path)
        raise _unreadable(
            path, "is a link to a file that is not there" if lost else "does not exist", "Fetch its content." * lost
        ) from None
    except UnreadableError:  # a ValueError, too
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise _unreadable(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if found.st_size > most or len(data) > most:
        raise _unreadable(path, f"is larger than {most // 2**20} MiB, more than such a file can need")
    return data


def _refuse_special(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise _unreadable(path, "is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise _unreadable(path, "is no regular file, but a pipe, socket or device")


def _unreadable(path: Path, reason: str, hint: str = "") -> UnreadableError:
    return UnreadableError(f"{path.name} {reason}.", hint)


def read_text(path: Path, most: int = JSON_BYTES) -> str:
    """Read UTF-8 text, with or without a byte order mark; bounds as `read_bytes`.

    Raises
    ------
    UnreadableError
        As `read_bytes`, or the bytes are not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 text (byte {error.start})") from None


def read_json(path: Path) -> Any:
    """Read JSON of bounded size and depth.

    Returns
    -------
    The value. Numbers too large for a float are infinite, integers too; NaN is kept: whoever needs a finite number
    has to look.

    Raises
    ------
    UnreadableError
        As `read_text`, or it is no JSON, or nested deeper than `JSON_DEPTH`.
    """
    text = read_text(path)
    try:
        data = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise _unreadable(path, f"is nested deeper than {JSON_DEPTH} levels") from None
    except ValueError as error:
        raise _unreadable(path, f"is not valid JSON: {error}") from None
    if _deeper(data, JSON_DEPTH):
        raise _unreadable(path, f"is nested deeper than {JSON_DEPTH} levels")
    return data


def _integer(digits: str) -> int | float:
    if len(digits) > _INTEGER_DIGITS:
        return -math.inf if digits.startswith("-") else math.inf
    return int(digits)


def _deeper(data: Any, most: int) -> bool:
    """Tell whether lists and mappings lie in each other more than ``most`` deep; level by level, never recursive."""
    level = [data]
    for _ in range(most + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object (``{...}``).

    Raises
    ------
    UnreadableError
        As `read_json`, or it holds something else.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise _unreadable(path, f"holds {_WORDS.get(type(data), 'a value')}, not a JSON object")
    return data


_WORDS = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}


def read_rows(path: Path) -> list[list[str]]:
    """Read a tab-separated table, header first; cells as they stand, lines without any cell left out.

    Raises
    ------
    UnreadableError
        As `read_text`, or it is no table (a cell of over 128 KiB, a null character).
    """
    return [row for _, row in read_lines(path)]


def read_lines(path: Path, *, strict: bool = False) -> list[tuple[int, list[str]]]:
    """Read a table as `read_rows` does, each row with its line in the file, counted from 1, for messages.

    ``strict`` refuses quotes that are out of place or never closed, which would swallow the lines after them.
    """
    text = read_text(path, TABLE_BYTES)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=strict)
    try:
        return [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        raise _unreadable(path, f"is not a readable table: {error}", "Check the quotes in it." * strict) from None
