"""Tables that describe parcels, as atlases bring them: label values, names, networks, centres.

Somebody else wrote them. A cell that is none is refused by name: rounded, cut or taken for another it would move a
parcel; and names head the columns of every table this program writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import AtlasError, UnreadableError
from bids_fmmtc.reading import is_formula, is_missing, read_lines

NAMES = ("name", "label", "labels")
NETWORKS = ("network", "network_label", "modules")
"""Columns of an atlas table that name parcel and network, the first of them that is there."""

LABEL_MOST = 2**53  # above, a float no longer tells neighbours apart


def table_rows(table: Path) -> list[dict[str, str]]:
    """Read a tsv as one mapping a row; cells that a row lacks at its end are empty.

    Raises
    ------
    AtlasError
        It cannot be read, or a row holds more cells than the header.
    """
    try:
        lines = read_lines(table)
    except UnreadableError as error:
        raise AtlasError(f"table of parcels {error.message}", error.hint) from None
    if not lines:
        return []
    header = lines[0][1]
    for number, cells in lines[1:]:
        if any(cell.strip() for cell in cells[len(header) :]):
            raise AtlasError(f"{table}: line {number} holds {len(cells)} cells, its header {len(header)}.")
    return [dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=False)) for _, cells in lines[1:]]


def first_of(names: Sequence[str], rows: Sequence[dict[str, str]]) -> str | None:
    """Return the first of these columns that the rows have, or None."""
    return next((name for name in names if rows and name in rows[0]), None)


def label_values(cells: Sequence[str], source: Path) -> tuple[int, ...]:
    """Return the label values of parcels, whole numbers written in any way (``3``, ``3.0``).

    Raises
    ------
    AtlasError
        A cell is no whole number.
    """
    values = [_number(cell, source) for cell in cells]
    odd = [cell for cell, value in zip(cells, values, strict=True) if not value.is_integer() or value > LABEL_MOST]
    if odd:
        raise AtlasError(f"{source}: {odd[0].strip()[:60]!r} is no label value.", "Label values are whole numbers.")
    return tuple(map(int, values))


def centres(rows: Sequence[dict[str, str]], source: Path, *, unknown: bool = False) -> NDArray[np.float64]:
    """Return parcel centres (R, 3) in millimetres from the columns ``x``, ``y``, ``z``.

    Parameters
    ----------
    unknown
        Whether a centre may be unknown: then NaN stands for a missing cell or column.

    Raises
    ------
    AtlasError
        A cell is no finite number.
    """
    found = np.full((len(rows), 3), np.nan)
    for at, row in enumerate(rows):
        for axis, name in enumerate("xyz"):
            cell = row.get(name, "")
            if unknown and is_missing(cell):
                continue
            found[at, axis] = _number(cell, source)
            if not math.isfinite(found[at, axis]):
                raise AtlasError(f"{source}: {cell.strip()[:60]!r} is no coordinate.", "Give millimetres.")
    return found


def _number(cell: str, source: Path) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise AtlasError(f"{source}: {error}.") from None


def refuse_names(names: Sequence[str], source: str, what: str = "parcel") -> None:
    """Refuse names of parcels or networks that are none: tables this program writes hold them.

    Raises
    ------
    AtlasError
        A name holds control characters, or begins as a spreadsheet formula does.
    """
    for name in names:
        if not name.isprintable() or is_formula(name):
            raise AtlasError(
                f"{source}: {what} name {name[:60]!r} holds control characters or begins like a spreadsheet formula.",
                f"Rename the {what} in that table.",
            )
