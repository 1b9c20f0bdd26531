"""Tables of people: which file a name stands for, its rows under clean ids, its columns by exact name. Reads only."""

from __future__ import annotations

import difflib
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bids_fmmtc.dataset.folders import list_participants, refuse_absent
from bids_fmmtc.dataset.naming import natural
from bids_fmmtc.errors import DataError, MissingInputError, UnreadableError, UsageError
from bids_fmmtc.reading import is_missing, is_there, read_lines, read_object

PARTICIPANTS = "participants.tsv"
SESSIONS = "sessions"
_PLAINLY_MISSING = frozenset({"", "n/a", "nan"})  # casefolded; other words for it are told to the user
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SHOWN = 40


def known(text: str) -> str | None:
    """Return a cell without the white space around it; None where it says that its value is missing (``n/a``, NA)."""
    return None if is_missing(text) else text.strip()


def number(text: str) -> float | None:
    """Return a finite decimal number; None for anything else, a decimal comma or a per cent sign too."""
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def quoted(words: Iterable[str], most: int = _SHOWN) -> str:
    """Join words in their order for a message, each in quotes; long lists are cut and counted."""
    names = [repr(word) for word in words]
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, … ({len(names)} in all)"


@dataclass(frozen=True, slots=True)
class Column:
    """One column by participant and session.

    Parameters
    ----------
    name
        As in the header.
    table
        The table it stands in, for messages and reports.
    values
        Participant (``sub-01``) -> session label or None -> text, or None where missing.
    described
        What the data dictionary beside the table says of the column.
    notes
        What the user should know of it, one line each.
    """

    name: str
    table: str
    values: Mapping[str, Mapping[str | None, str | None]]
    described: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"column {self.name!r} of {self.table}"

    def texts(self) -> list[str]:
        """Return the texts that are not missing, one a row."""
        return [text for row in self.values.values() for text in row.values() if text is not None]

    def words(self) -> tuple[str, ...]:
        """Return the distinct texts that are not missing, in natural order."""
        return tuple(sorted(set(self.texts()), key=natural))

    def of(self, participant: str, session: str | None) -> str | None:
        """Return the text for a participant's session, or for the participant where the table has no such session.

        Raises
        ------
        DataError
            No session is asked for and the table holds different values for several.
        """
        rows = self.values.get(participant, {})
        if session in rows:
            return rows[session]
        if session is not None:
            return rows.get(None)
        found = sorted({text for text in rows.values() if text is not None})
        if len(found) > 1:
            raise DataError(
                f"{self} holds {quoted(found)} for sessions of {participant}, where one value is needed.",
                "Put one value a participant into participants.tsv.",
            )
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class _Row:
    participant: str
    session: str | None
    where: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of people: one file, or all ``sessions.tsv`` of a dataset.

    Parameters
    ----------
    name
        What to call it in messages: its path.
    columns
        Names as in the header, in order.
    repeated
        Names that the header holds more than once.
    rows
        One a line, under a participant id that starts with ``sub-``.
    dictionaries
        JSON files that may describe its columns, the more particular ones last; they need not be there.
    """

    name: str
    columns: tuple[str, ...]
    repeated: frozenset[str]
    rows: tuple[_Row, ...]
    dictionaries: tuple[Path, ...] = ()

    @property
    def participants(self) -> tuple[str, ...]:
        """Ids in the table, ``sub-01``, each once and in natural order."""
        return tuple(sorted({row.participant for row in self.rows}, key=natural))

    def column(self, name: str) -> Column:
        """Return a column; lines that say the same of one participant and session count as one.

        Raises
        ------
        DataError
            The header does not hold the name or holds it twice, two lines contradict each other, or the data
            dictionary cannot be read.
        """
        if name not in self.columns:
            raise no_column(name, [self])
        if name in self.repeated:
            raise DataError(f"{self.name} has two columns called {name!r}.", "Rename or remove one of them.")
        values: dict[str, dict[str | None, str | None]] = {}
        lines: dict[tuple[str, str | None], str] = {}
        for row in self.rows:
            text, seen = known(row.values.get(name, "")), values.setdefault(row.participant, {})
            if row.session in seen and seen[row.session] != text:
                session = "" if row.session is None else f" ses-{row.session}"
                raise DataError(
                    f"{self.name} contradicts itself on {row.participant}{session}: column {name!r} is "
                    f"{seen[row.session] or 'n/a'} in {lines[row.participant, row.session]} and "
                    f"{text or 'n/a'} in {row.where}.",
                    "Keep one line a participant, or add a session_id column.",
                )
            seen[row.session] = text
            lines.setdefault((row.participant, row.session), row.where)
        cells = {row.values.get(name, "").strip() for row in self.rows}
        taken = sorted(cell for cell in cells if is_missing(cell) and cell.casefold() not in _PLAINLY_MISSING)
        note = (f"column {name!r} of {self.name}: {quoted(taken)} taken as missing.",) if taken else ()
        return Column(name, self.name, values, self._described(name), note)

    def _described(self, name: str) -> dict[str, object]:
        """Return what the data dictionaries say of a column, the later ones over the earlier."""
        found: dict[str, object] = {}
        for path in filter(is_there, self.dictionaries):
            refuse_absent(path)
            about = read_object(path).get(name)
            found |= about if isinstance(about, dict) else {}
        return found


# ---------------------------------------------------------------------------------------------------------------- find


def dataset_roots(bids_dir: Path, more: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Return the folders in which tables of people are looked for, nearest first.

    fMRIPrep does not copy ``participants.tsv``. So each folder is followed by the raw dataset it lies in (it is
    ``<raw>/derivatives/...``) and by its own ``sourcedata/raw``, where these exist.
    """
    found: list[Path] = []
    for folder in (Path(each).absolute() for each in (bids_dir, *more)):
        raw = [path.parent for path in (folder, *folder.parents) if path.name == "derivatives"]
        found += [folder, *raw, folder / "sourcedata" / "raw"]
    return tuple(dict.fromkeys(path for path in found if path.is_dir()))


def split_source(text: str) -> tuple[str, str]:
    """Split ``COLUMN``, ``sessions:COLUMN`` or ``PATH.tsv:COLUMN`` into table and column.

    The column starts after the last ``.tsv:``, so it may hold colons and spaces.

    Raises
    ------
    UsageError
        There is no column or no path.
    """
    path, mark, column = text.rpartition(".tsv:")
    source = f"{path}.tsv" if mark else PARTICIPANTS
    if not mark:
        is_session, column = text.startswith(f"{SESSIONS}:"), text.removeprefix(f"{SESSIONS}:")
        source = SESSIONS if is_session else PARTICIPANTS
    if not column.strip() or (mark and not path.strip()):
        raise UsageError(
            f"{text!r} names no column.", "Write COLUMN (of participants.tsv), sessions:COLUMN, or PATH.tsv:COLUMN."
        )
    return source, column


def find_table(source: str, column: str, roots: Sequence[Path]) -> tuple[Table, tuple[str, ...]]:
    """Find the table that a source stands for: the first one that has the column.

    Parameters
    ----------
    source
        As `split_source` gives it. A relative path is looked for below each root, then in the current folder.
    column
        Name, matched exactly.
    roots
        From `dataset_roots`.

    Returns
    -------
    The table, and what the user should know of the choice, one line each.

    Raises
    ------
    MissingInputError
        There is no such table, or its content is not fetched.
    DataError
        No such table has the column, or one cannot be read.
    """
    places = _places(source, roots)
    if not places:
        raise _no_table(source, roots)
    passed: list[Table] = []
    for i, place in enumerate(places):
        table = _read_sessions(place) if source == SESSIONS else read_people(place)
        if column in table.columns:
            notes = [f"{other.name} has no column {column!r}; {table.name} is used." for other in passed]
            others = ", ".join(map(str, places[i + 1 :]))
            return table, tuple(notes + ([f"{table.name} is used; there is {others} too."] if others else []))
        passed.append(table)
    raise no_column(column, passed)


def _places(source: str, roots: Sequence[Path]) -> list[Path]:
    """Return the files (for sessions: the datasets) that a source may mean and that exist; each file once."""
    if source == SESSIONS:
        return [root for root in roots if _session_files(root)]
    # Joined to a root, an absolute path stays itself.
    named = [Path(root).absolute() / source for root in (*roots, *([] if source == PARTICIPANTS else [Path.cwd()]))]
    found: dict[Path, Path] = {}
    for path in named:
        if path.is_file() or path.is_symlink():
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _no_table(source: str, roots: Sequence[Path]) -> MissingInputError:
    looked = ", ".join(map(str, roots)) or "no dataset"
    measures = sorted(f"phenotype/{path.name}" for root in roots for path in (root / "phenotype").glob("*.tsv"))
    there = f"; phenotype tables there: {', '.join(dict.fromkeys(measures))}" if measures else ""
    name = "sub-*/sub-*_sessions.tsv" if source == SESSIONS else source
    return MissingInputError(
        f"{name} is not there (looked in {looked}{'' if source in (PARTICIPANTS, SESSIONS) else ' and here'}){there}.",
        "Name a table as PATH.tsv:COLUMN, or sessions:COLUMN for the sessions.tsv of every participant.",
    )


def no_column(name: str, tables: Sequence[Table]) -> DataError:
    """Return the error of a column that no table has: near names, and what there is."""
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    where = " or ".join(table.name for table in tables)
    plain = {column: _plain(column) for column in columns}
    same = [column for column in columns if plain[column] == _plain(name)]
    close = difflib.get_close_matches(_plain(name), plain.values(), 3)
    near = [*same, *(column for column in columns if plain[column] in close and column not in same)][:3]
    hint = f"Did you mean {quoted(near)}? " if near else ""
    if same:
        hint += "Case, white space and the encoding of accents count. "
    return DataError(f"there is no column {name!r} in {where}; the columns are {quoted(columns)}.", hint.strip())


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


# ---------------------------------------------------------------------------------------------------------------- read


def read_people(path: Path) -> Table:
    """Read a table with a ``participant_id`` column, and perhaps a ``session_id`` one.

    Ids may come with or without ``sub-`` (``ses-``); a byte order mark, CRLF, white space around cells, empty lines
    and headers repeated between lines do no harm.

    Raises
    ------
    MissingInputError
        The file is not there or not fetched.
    DataError
        It is no table in UTF-8 with tabs, has no such column, or a line does not fit the header or has no id.
    """
    return _table(path, str(path), None)


def _session_files(root: Path) -> list[Path]:
    paths = [root / f"sub-{label}" / f"sub-{label}_sessions.tsv" for label in list_participants([root])]
    return [path for path in paths if os.path.lexists(path)]


def _read_sessions(root: Path) -> Table:
    """Read every participant's ``sessions.tsv`` as one table; a column that a file lacks is missing there."""
    tables = [_table(path, str(path), path.parent.name) for path in _session_files(root)]
    return Table(
        f"{root}/sub-*/sub-*_sessions.tsv",
        tuple(dict.fromkeys(column for table in tables for column in table.columns)),
        frozenset().union(*(table.repeated for table in tables)),
        tuple(row for table in tables for row in table.rows),
        (root / f"{SESSIONS}.json", *(path for table in tables for path in table.dictionaries)),
    )


def _table(path: Path, name: str, participant: str | None) -> Table:
    """Read one file; ``participant`` is whose ``sessions.tsv`` it is."""
    lines = _lines(path, name)
    header = lines[0][1] if lines else []
    stripped = [cell.strip() for cell in header]
    needed = "participant_id" if participant is None else "session_id"
    if needed not in stripped:
        tabs = len(header) == 1 and any(mark in header[0] for mark in ",; ")
        raise DataError(
            f"{name} has no column {needed}; the columns are {quoted(header) or 'none'}.",
            "Save it with tabs between the columns." if tabs else "",
        )
    for label in ("participant_id", "session_id"):
        if stripped.count(label) > 1:
            raise DataError(f"{name} has two columns called {label!r}.", "Rename or remove one of them.")
    rows = []
    for number_, cells in lines[1:]:
        if [cell.strip() for cell in cells] == stripped:
            continue
        where = f"{path.name} line {number_}"
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            raise DataError(f"{name}: line {number_} has {len(cells)} cells, the header has {len(header)}.")
        labelled = dict(zip(stripped, cells, strict=False))
        whom = participant or _label(labelled["participant_id"], "sub-")
        session = _label(labelled.get("session_id", ""), "ses-")
        if whom is None or (participant is not None and session is None):
            raise DataError(f"{name}: line {number_} has no {needed}.", "Give it one, or remove the line.")
        values = dict(zip(header, cells, strict=False))
        rows.append(_Row(f"sub-{whom.removeprefix('sub-')}", session, where, values))
    repeated = frozenset(column for column in header if header.count(column) > 1)
    return Table(name, tuple(dict.fromkeys(header)), repeated, tuple(rows), (path.with_suffix(".json"),))


def _lines(path: Path, name: str) -> list[tuple[int, list[str]]]:
    """Return line number and cells of every line that holds something."""
    refuse_absent(path)
    try:
        # Strict, since a quote that is never closed would silently swallow the lines after it.
        lines = read_lines(path, strict=True)
    except UnreadableError as error:
        what = f"{name}{error.message.removeprefix(path.name)}"
        raise DataError(what, error.hint or "Save it as UTF-8 with tabs between the columns.") from None
    return [(i, cells) for i, cells in lines if any(cell.strip() for cell in cells)]


def _label(text: str, prefix: str) -> str | None:
    """Return a cell's label without its prefix. NA alone is missing, ``sub-NA`` somebody with these initials."""
    label = (known(text) or "").removeprefix(prefix).strip()
    return None if label.casefold() in _PLAINLY_MISSING else label
