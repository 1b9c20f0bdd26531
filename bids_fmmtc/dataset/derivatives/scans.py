"""``scans.tsv``: the one table in which every recording of a session has a row, failed ones too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bids_fmmtc.dataset.derivatives.sidecars import SCANS_COLUMNS, failed_record
from bids_fmmtc.dataset.derivatives.standing import Standing, attempt_reason, find_standing, names_in, stale_reason
from bids_fmmtc.dataset.store import Layout, read_record, read_table, remove, write_json, write_table
from bids_fmmtc.keys import Key
from bids_fmmtc.plain import Cell, Cells, Json
from bids_fmmtc.quality import COLUMNS, Quality, quality_in
from bids_fmmtc.rows import Row
from bids_fmmtc.settings import Task
from bids_fmmtc.states import RecordingState
from bids_fmmtc.types import Failure, Recording


class Written(NamedTuple):
    """What `write_scans` wrote, and the state in which a failure left the results of each key that has some."""

    tables: tuple[Path, ...]
    states: Mapping[str, RecordingState]


def write_scans(task: Task, rows: Sequence[Row], layout: Layout) -> Written:
    """Write ``scans.tsv`` of each session of a participant; rows of other recordings in it are kept.

    A recording that failed keeps what earlier attempts made of it, and the failure is noted beside that
    (`dataset.standing`); only where there is nothing does it get a record of its own.

    Parameters
    ----------
    rows
        One per recording.

    Raises
    ------
    OutputError
        A record or table cannot be written; results of before are there all the same.
    """
    by_key: dict[str, Recording] = {r.key: r for r in task.recordings}
    # Keys that have no recording and fail now, too: their records are of this run.
    current = {row.key for row in rows} - set(by_key)
    tables: dict[Path, dict[str, Cells]] = {}
    states: dict[str, RecordingState] = {}
    for row in rows:
        key = row.key
        recording = by_key.get(key)
        session = recording.session if recording is not None else Key(key).session
        record = _record_file(key, recording, session, layout, task.subject)
        if row.failure is None:
            _forget_others(key, record, layout, of_failures_only=False)
            about = {"fmmtc_status": "ok", **shown(row.quality)}
            _add(tables, record, layout, task.subject, about)
        else:
            standing = find_standing(key, recording, layout, layout.folder(task.subject, session), task.recipe)
            if standing:
                states[key] = standing[0].state
            _note(row.failure, key, standing, record, layout, task.subject, tables)
        if recording is not None:
            for forgotten in _forget_failures(key, current, layout, task.subject):
                tables.setdefault(layout.scans(task.subject, forgotten, ".tsv"), {})
    written = [path for table, new in tables.items() for path in _write_table(table, new)]
    return Written(tuple(written), states)


def _note(
    failure: Failure,
    key: str,
    standing: Sequence[Standing],
    record: Path,
    layout: Layout,
    subject: str,
    tables: dict[Path, dict[str, Cells]],
) -> None:
    """Write that an attempt failed: into the records of what stands, or into one of its own where nothing does."""
    if not standing:
        write_json(record, failed_record(key, failure.kind, failure.reason))
        _add(tables, record, layout, subject, {"fmmtc_status": "failed", "fmmtc_reason": failure.reason})
    for each in standing:
        noted = each.noted(failure)
        write_json(each.record, noted)
        _add(tables, each.record, layout, subject, standing_row(noted))
    if standing and standing[0].record != record:
        remove(record)  # of a failure before; what stands tells of this one
    _forget_others(key, standing[0].record if standing else record, layout, of_failures_only=True)


def standing_row(content: Mapping[str, Json]) -> Cells:
    """Return the row of a recording by its record alone: state, reasons, quality."""
    row: Cells = {"fmmtc_status": str(content.get("Status")), **shown(quality_in(content))}
    row["fmmtc_last_attempt"] = attempt_reason(content) or None
    if content.get("Status") == RecordingState.STALE:
        row["fmmtc_reason"] = stale_reason(content)
    return row


def shown(quality: Quality | None) -> Cells:
    """Return the cells of a recording's quality and flags; empty ones where it is not known."""
    numbers = {f"fmmtc_{name}": None if quality is None else quality.value(name) for name in COLUMNS}
    return {"fmmtc_flags": None if quality is None else quality.flags, **numbers}


def _add(
    tables: dict[Path, dict[str, Cells]], record: Path, layout: Layout, subject: str, row: Mapping[str, Cell]
) -> None:
    session = Key(record.name).session
    name = record.relative_to(layout.folder(subject, session)).as_posix()
    tables.setdefault(layout.scans(subject, session, ".tsv"), {})[name] = {"filename": name, **row}


def _write_table(table: Path, new: Mapping[str, Cells]) -> tuple[Path, ...]:
    """Write the rows of this call and those of earlier ones whose record is still there; return what was written."""
    old = read_table(table) if table.is_file() else []
    kept: dict[str, Mapping[str, Cell]] = {r["filename"]: r for r in old if (table.parent / r["filename"]).is_file()}
    rows = {**kept, **new}
    if not rows:
        remove(table)
        remove(table.with_suffix(".json"))
        return ()
    write_table(table, list(SCANS_COLUMNS), [row for _, row in sorted(rows.items())])
    described = {k: v for k, v in SCANS_COLUMNS.items() if k != "filename"}
    write_json(table.with_suffix(".json"), {"Description": "State and quality of each recording", **described})
    return (table, table.with_suffix(".json"))


def _record_file(key: str, recording: Recording | None, session: str | None, layout: Layout, subject: str) -> Path:
    """Return the file that tells a recording's state; one that discovery turned down has no space to name."""
    if recording is not None:
        return layout.derivative(recording, "features", ".json")
    return layout.folder(subject, session) / "func" / f"{key}_desc-fmmtc_features.json"


def _forget_failures(key: str, current: set[str], layout: Layout, subject: str) -> set[str | None]:
    """Remove records of earlier discovery failures, now that the recording is found; tell whose tables listed them."""
    touched = set()
    whole = f"sub-{subject}"
    for stale in {key, Key(key).of_session, whole} - current:
        record = _record_file(stale, None, Key(stale).session, layout, subject)
        if record.is_file():
            remove(record)
            touched.add(Key(stale).session)
    if whole not in current:
        for extension in (".tsv", ".json"):
            remove(layout.prediction(subject, None, whole, extension))
    return touched


def _forget_others(key: str, but: Path, layout: Layout, *, of_failures_only: bool) -> None:
    """Remove other records of a recording: of failures, and where it has succeeded now, results in other spaces."""
    ours = (but.parent, but.parent.parent / "figures")
    for record in but.parent.glob(f"{key}_space-*_features.json"):
        content = read_record(record) or {}
        if record == but or (of_failures_only and content.get("Status") != "failed"):
            continue
        for name in names_in(content, "Outputs"):
            output = layout.root / name
            if output.parent in ours:  # never anything but its own neighbours and pictures
                remove(output)
        if not of_failures_only:
            remove(record.with_suffix(".safetensors"))
        remove(record)
