"""``scans.tsv``: the one table in which every recording of a session has a row, failed ones too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_fmmtc.dataset.sidecars import QUALITY_COLUMNS, SCANS_COLUMNS, failed_record
from bids_fmmtc.dataset.store import Layout, read_record, read_table, remove, write_json, write_table
from bids_fmmtc.settings import Task
from bids_fmmtc.types import Failure, Recording


def session_key(key: str) -> str:
    """Return a recording's key without its run."""
    return "_".join(part for part in key.split("_") if not part.startswith("run-"))


def session_of(key: str) -> str | None:
    """Return the session label in a key, or None."""
    return next((part[4:] for part in key.split("_") if part.startswith("ses-")), None)


def write_scans(task: Task, rows: Sequence[Mapping[str, Any]], layout: Layout) -> None:
    """Write ``scans.tsv`` of each session of a participant; rows of other recordings in it are kept.

    Parameters
    ----------
    rows
        One per recording: ``key``, ``status``, and ``flags`` and ``quality`` or the fields of a `Failure`.
    """
    by_key = {r.key: r for r in task.recordings}
    # Keys that have no recording and fail now, too: their records are of this run.
    current = {row["key"] for row in rows} - set(by_key)
    tables: dict[str | None, dict[str, dict[str, Any]]] = {}
    for row in rows:
        key = row["key"]
        recording = by_key.get(key)
        session = recording.session if recording is not None else session_of(key)
        record = _record_file(key, recording, session, layout, task.subject)
        _forget_results(key, None if row["status"] != "ok" else record, record.parent, layout)
        if row["status"] != "ok":
            write_json(record, failed_record(key, row["kind"], _failure(row).reason))
        if recording is not None:
            for forgotten in _forget_failures(key, current, layout, task.subject):
                tables.setdefault(forgotten, {})
        name = record.relative_to(layout.folder(task.subject, session)).as_posix()
        tables.setdefault(session, {})[name] = _scan_row(name, row)
    for session, new in tables.items():
        _write_table(layout.scans(task.subject, session, ".tsv"), new)


def _write_table(table: Path, new: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the rows of this call and those of earlier ones whose record is still there."""
    old = read_table(table) if table.is_file() else []
    kept: dict[str, Mapping[str, Any]] = {r["filename"]: r for r in old if (table.parent / r["filename"]).is_file()}
    rows = {**kept, **new}
    if not rows:
        remove(table)
        remove(table.with_suffix(".json"))
        return
    write_table(table, list(SCANS_COLUMNS), [row for _, row in sorted(rows.items())])
    described = {k: v for k, v in SCANS_COLUMNS.items() if k != "filename"}
    write_json(table.with_suffix(".json"), {"Description": "State and quality of each recording", **described})


def _record_file(key: str, recording: Recording | None, session: str | None, layout: Layout, subject: str) -> Path:
    """Return the file that tells a recording's state; one that discovery turned down has no space to name."""
    if recording is not None:
        return layout.derivative(recording, "features", ".json")
    return layout.folder(subject, session) / "func" / f"{key}_desc-fmmtc_features.json"


def _forget_failures(key: str, current: set[str], layout: Layout, subject: str) -> set[str | None]:
    """Remove records of earlier discovery failures, now that the recording is found; tell whose tables listed them."""
    touched = set()
    whole = f"sub-{subject}"
    for stale in {key, session_key(key), whole} - current:
        record = _record_file(stale, None, session_of(stale), layout, subject)
        if record.is_file():
            remove(record)
            touched.add(session_of(stale))
    if whole not in current:
        for extension in (".tsv", ".json"):
            remove(layout.prediction(subject, None, whole, extension))
    return touched


def _forget_results(key: str, but: Path | None, folder: Path, layout: Layout) -> None:
    """Remove what earlier calls made of a recording: in another space, or at all if it fails now (``but`` is None)."""
    ours = (folder, folder.parent / "figures")
    for record in folder.glob(f"{key}_space-*_features.json"):
        if record == but:
            continue
        for name in (read_record(record) or {}).get("Outputs", []):
            output = layout.root / name
            if output.parent in ours:  # never anything but its own neighbours and pictures
                remove(output)
        remove(record.with_suffix(".safetensors"))
        remove(record)


def _failure(row: Mapping[str, Any]) -> Failure:
    return Failure(**{name: row[name] for name in Failure.__slots__})


def _scan_row(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    if row["status"] != "ok":
        return {"filename": name, "fmmtc_status": "failed", "fmmtc_reason": _failure(row).reason}
    quality = {f"fmmtc_{k}": row["quality"][k] for k in QUALITY_COLUMNS}
    return {"filename": name, "fmmtc_status": "ok", "fmmtc_flags": row["flags"], **quality}
