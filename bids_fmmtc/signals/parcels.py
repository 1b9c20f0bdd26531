"""Tables without images: parcel series as other programs write them, and the parcels their columns stand for.

Series of xcp_d and giga_connectome have a header of parcel names or label values, HALFpipe's none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import AtlasError, DataError, UnreadableError
from bids_fmmtc.reading import is_missing, read_rows
from bids_fmmtc.signals.atlas import atlas_digest, entities_of, is_image, plain, read_atlas
from bids_fmmtc.signals.parcel_table import NAMES, NETWORKS, centres, first_of, label_values, refuse_names, table_rows
from bids_fmmtc.signals.quality import BY_POSITION_DESPITE_NAMES
from bids_fmmtc.types import Atlas

SERIES_SUFFIX = "_timeseries.tsv"
UNKNOWN_SPACE = "unknown"
"""Space of a table of parcels whose file name does not tell one."""
# Columns of confound tables and extra regressors, letters and digits only, lower case: never parcels.
_NO_PARCELS = frozenset(
    {"globsig", "globalsignal", "csf", "whitematter", "framewisedisplacement", "transx", "stddvars", "frametimesstart"}
    | {"background", "global", "wm", "gsr"}
)
# Columns that count or time the rows, where their values rise from row to row, letters and digits only, lower case.
_ROW_NAMES = re.compile(
    r"unnamed\d*|index|idx|id|n|t|tr|trs|onset|seconds?|sec"
    r"|(row|time|timepoint|volume|vol|frame|scan|sample)s?(index|idx|id|no|number|s|sec|seconds|ms)?"
)
_LINE_ROWS = 10  # of fewer, a straight line may be a signal; of more, none is
# What xcp_d appends to columns where its output layout is multiverse: a hash of settings, and those it builds on.
_HASH = re.compile(r"_hash-[0-9A-Za-z+]+$")


# ---------------------------------------------------------------------------------------------------------------- read


@dataclass(frozen=True, slots=True)
class Table:
    """A table of numbers.

    ``names`` are the C columns of its header, None without one; ``values`` (N, C) float64, NaN for ``n/a``;
    ``left_out`` names columns that were no data.
    """

    path: Path
    names: tuple[str, ...] | None
    values: NDArray[np.float64]
    left_out: tuple[str, ...] = ()


def read_series(path: Path) -> Table:
    """Read a tab-separated table of numbers, with or without a header.

    The first line is a header when a cell of it is no number, or when all are whole numbers, none twice, and other
    lines hold fractions (giga_connectome names parcels by number). Columns that count the rows, or tell their times,
    are left out, with gaps where frames are: without a name as pandas writes its index, ``Unnamed: 0`` as it reads that
    back, or under a name such as ``index``, ``time`` or ``volume``. xcp_d's ``_hash-...`` is taken off column names.

    Raises
    ------
    DataError
        Not such a table, an infinite value, or fewer than two rows.
    """
    lines = _lines(path)
    first, rest = lines[0], lines[1:]
    names = None
    if not all(map(_is_number, first)) or _numbers_parcels(first, rest):
        names, lines = tuple(cell.strip() for cell in first), rest
    values = _values(path, lines, len(first))
    left_out: tuple[str, ...] = ()
    if names is not None:
        names = _without_hash(names)
        rows = [c for c, name in enumerate(names) if _ROW_NAMES.fullmatch(_plain(name)) and _rises(values[:, c])]
        rows += [0] if names[0] == "" and _rises(values[:, 0]) else []
        left_out = tuple(names[c] or "(row numbers)" for c in rows)
        values = np.delete(values, rows, axis=1)
        names = tuple(name for c, name in enumerate(names) if c not in rows)
    if names is not None and not all(names):
        raise DataError(f"{path.name} has a column without a name.", "Name each column after its parcel.")
    if len(values) < 2 or values.shape[1] == 0:
        raise DataError(f"{path.name} holds {values.shape[0]} rows and {values.shape[1]} columns of numbers.")
    return Table(path, names, values, left_out)


def _lines(path: Path) -> list[list[str]]:
    try:
        lines = read_rows(path)
    except UnreadableError as error:
        raise DataError(f"{path.name} cannot be read as a table: {error.message}", "Copy or write it again.") from None
    if not lines:
        raise DataError(f"{path.name} is empty.", "Copy or write it again.")
    return lines


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return is_missing(cell)
    return True


def _is_whole(cell: str) -> bool:
    return cell.strip().isascii() and cell.strip().isdigit()


def _numbers_parcels(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    labels = first if first[0].strip() else first[1:]
    values = (cell for cells in rest for cell in cells if not is_missing(cell))
    return (
        bool(labels)
        and all(map(_is_whole, labels))
        and len(set(labels)) == len(labels)
        and any(not _is_whole(cell) for cell in values)
    )


def _values(path: Path, lines: Sequence[Sequence[str]], n_columns: int) -> NDArray[np.float64]:
    rows = []
    for cells in lines:
        if len(cells) != n_columns:
            found, hint = f"a row of {len(cells)} cells where {n_columns} are expected", "Copy or write it again."
            raise DataError(f"{path.name} has {found}.", hint)
        try:
            rows.append([np.nan if is_missing(c) else float(c) for c in cells])
        except ValueError as error:
            hint = "Values are separated by tabs, with a decimal point; n/a marks missing ones."
            raise DataError(f"{path.name}: {error}.", hint) from None
    values = np.array(rows, np.float64).reshape(-1, n_columns)
    if np.isinf(values).any():
        raise DataError(f"{path.name} holds infinite values.", "Write n/a where there is no value.")
    return values


def _rises(column: NDArray[np.float64]) -> bool:
    """Tell whether a column rises in every row, as counts and times of frames do and no signal; gaps do not matter."""
    return len(column) > 1 and bool((np.diff(column) > 0).all())


def _is_line(column: NDArray[np.float64]) -> bool:
    """Tell whether a column is a straight line that is not level, up to the rounding of its last digits."""
    line = np.linspace(column[0], column[-1], len(column))
    reach = abs(float(column[-1] - column[0]))
    return len(column) >= _LINE_ROWS and reach > 0 and bool((np.abs(column - line) <= 1e-3 * reach).all())


def _without_hash(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names without xcp_d's hashes: ``LH_Vis_1_hash-a1b2c3d4`` is ``LH_Vis_1``, unless two became one."""
    bare = tuple(_HASH.sub("", name) for name in names)
    return bare if len(set(bare)) == len(set(names)) else names


def _plain(name: str) -> str:
    """Return a column's name as letters and digits, lower case."""
    return "".join(c for c in name.casefold() if c.isalnum())


# ------------------------------------------------------------------------------------------------------------- parcels


def open_atlas(path: Path, name: str | None = None) -> Atlas:
    """Read an atlas: a folder with an image (see `read_atlas`), or for imported series a table of parcels or of series.

    Parameters
    ----------
    path
        The folder. Or a tab-separated table of parcels with a column ``name`` (or ``label``) and perhaps ``index``,
        ``x``, ``y``, ``z`` (MNI millimetres, ``n/a`` where unknown) and ``network``. Or a ``*_timeseries.tsv``,
        whose header gives names only: the parcels' centres stay unknown (NaN). Without a header they are numbered.
    name
        Name to give it; by default the ``atlas-`` or ``seg-`` label of the table, else the name of its file.

    Raises
    ------
    MissingInputError, AtlasError, DataError
        It cannot be read, or a column is none of a parcel (a global signal, a confound).
    """
    if not path.name.endswith(SERIES_SUFFIX):
        return _read_parcels(path, name) if path.is_file() and not is_image(path) else read_atlas(path, name)
    table, label = read_series(path), plain(name or "") or "Parcels"
    if table.names is None:
        width = len(str(table.values.shape[1]))
        return parcel_atlas(label, [f"{label}_{i + 1:0{width}d}" for i in range(table.values.shape[1])])
    _refuse_no_parcels(table)
    return parcel_atlas(label, table.names)


def _read_parcels(table: Path, name: str | None) -> Atlas:
    """Read a table of parcels that has no image."""
    rows = table_rows(table)
    called = first_of(NAMES, rows)
    if called is None:
        found = ", ".join(repr(c) for c in rows[0]) if rows else "nothing"
        raise AtlasError(
            f"{table} needs a column name (or label), found {found}.", "Save it with tabs between the columns."
        )
    if "index" in rows[0]:
        rows = [r for r in rows if r["index"].strip() not in {"0", ""}]
        if not rows:
            raise AtlasError(f"the table of atlas {table.name} needs label values of 1 and above.")
    index = label_values([r["index"] for r in rows], table) if "index" in rows[0] else tuple(range(1, len(rows) + 1))
    xyz = centres(rows, table, unknown=True)
    network = first_of(NETWORKS, rows)
    networks = None if network is None else tuple(r[network] or "n/a" for r in rows)
    stem = table.name.removesuffix(".tsv")
    entities = entities_of(stem)
    label = plain(name or entities.get("atlas") or entities.get("seg") or stem.removesuffix("_dseg"))
    space = entities.get("tpl") or entities.get("space") or UNKNOWN_SPACE
    names = _numbered([r[called].strip() for r in rows])
    return parcel_atlas(label, names, index=index, networks=networks, xyz=xyz, space=space)


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Tell equal names apart as pandas does on reading a table: the second ``a`` is ``a.1``."""
    seen: dict[str, int] = {}
    numbered = []
    for name in names:
        n = seen.get(name, 0)
        seen[name] = n + 1
        numbered.append(name if n == 0 else f"{name}.{n}")
    return tuple(numbered)


def parcel_atlas(
    name: str,
    names: Sequence[str],
    *,
    index: Sequence[int] | None = None,
    networks: tuple[str, ...] | None = None,
    xyz: NDArray[np.float64] | None = None,
    space: str = UNKNOWN_SPACE,
) -> Atlas:
    """Make a parcellation that has no image: its labels are an empty (0, 0, 0) array.

    Parameters
    ----------
    names
        R parcel names, none twice.
    index
        R label values; by default 1 to R.
    networks
        R names, or None.
    xyz
        (R, 3) parcel centres in MNI millimetres; NaN where unknown, by default everywhere.
    space
        Template the centres are given in.

    Raises
    ------
    AtlasError
        No parcel, one without a name, two of one name or label value, a label value below 1, or a name of control
        characters or that begins a formula.
    """
    index = tuple(range(1, len(names) + 1)) if index is None else tuple(index)
    if not names or not all(names) or len(set(names)) != len(names):
        raise AtlasError(f"the table of atlas {name} needs a name for each parcel, and no name twice.")
    if min(index) < 1 or len(set(index)) != len(index):
        raise AtlasError(f"the table of atlas {name} needs label values of 1 and above, none of them twice.")
    refuse_names(names, f"atlas {name}")
    refuse_names(networks or (), f"atlas {name}", "network")
    middles = np.full((len(names), 3), np.nan, np.float32) if xyz is None else np.ascontiguousarray(xyz, np.float32)
    labels, affine = np.zeros((0, 0, 0), np.int32), np.eye(4)
    sha256 = atlas_digest(labels, affine, index, middles, (space, *names, *(networks or ())))
    return Atlas(name, space, labels, affine, index, tuple(names), networks, middles, sha256)


# --------------------------------------------------------------------------------------------------------------- match


def _refuse_no_parcels(table: Table) -> None:
    odd = [n for n in table.names or () if _plain(n) in _NO_PARCELS]
    if odd:
        raise DataError(
            f"{table.path.name} has the column {', '.join(map(repr, odd))}, which is no parcel.",
            "Name the columns to take with --atlas FILE.tsv (column name), or remove this one.",
        )
    lines = [n for n, column in zip(table.names or (), table.values.T, strict=True) if _is_line(column)]
    if lines:
        raise DataError(
            f"{table.path.name}: column {', '.join(map(repr, lines))} is a straight line, which is no signal.",
            "Name the columns to take with --atlas FILE.tsv (column name), or remove this one.",
        )


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the parcels stand in a table: ``places`` (R,), how they were ``matched``, and what was ``left_out``."""

    places: NDArray[np.intp]
    matched: str
    left_out: tuple[str, ...] = ()


def match_columns(table: Table, atlas: Atlas) -> Columns:
    """Find the column of each parcel; the order of the atlas table rules.

    By name when the header has all names of the atlas, by label value when it has all of these; other columns are
    then left out. Else by position, if there is one column a parcel: without a header, with one that only counts the
    columns, or with one that shares no name with the atlas (`quality` then raises the flag ``names_differ``).

    Raises
    ------
    DataError
        Some names are there and others not, a name is there twice, or the number of columns does not fit.
    """
    n = atlas.n_parcels
    if table.names is None:
        return Columns(_positions(table, n), "position")
    for words, matched in ((atlas.names, "name"), (tuple(map(str, atlas.index)), "label value")):
        if set(words) <= set(table.names):
            twice = sorted(w for w in words if table.names.count(w) > 1)
            if twice:
                raise DataError(f"{table.path.name} has several columns called {twice[0]!r}.", "Keep one of them.")
            places = np.array([table.names.index(w) for w in words], np.intp)
            return Columns(places, matched, tuple(c for c in table.names if c not in set(words)))
    absent = [w for w in atlas.names if w not in table.names]
    if len(absent) < n:
        raise DataError(
            f"{table.path.name} lacks {len(absent)} of the {n} parcels of atlas {atlas.name}, the first {absent[0]!r}.",
            "Give the atlas table of these series with --atlas.",
        )
    _refuse_no_parcels(table)
    if all(map(_is_whole, table.names)):
        numbers = [int(name) for name in table.names]
        if numbers not in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
            raise DataError(
                f"the label values in the header of {table.path.name} are not those of atlas {atlas.name}.",
                "Give the atlas table of these series with --atlas.",
            )
        return Columns(_positions(table, n), "position")
    return Columns(_positions(table, n), BY_POSITION_DESPITE_NAMES)


def _positions(table: Table, n: int) -> NDArray[np.intp]:
    found = table.values.shape[1]
    if found != n:
        named = "no header" if table.names is None else f"no name of the atlas in its header ({table.names[0]!r}, ...)"
        raise DataError(
            f"{table.path.name} has {found} columns and {named}, the atlas {n} parcels.",
            "Give a table with the names of these columns with --atlas.",
        )
    return np.arange(n)
