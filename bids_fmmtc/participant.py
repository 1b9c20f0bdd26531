"""One participant: every recording, every session, every row; what a child process (`participant_process`) does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bids_fmmtc.dataset.derivatives.scans import session_key, write_scans
from bids_fmmtc.dataset.store import sweep, write_json
from bids_fmmtc.pages import draw_participant
from bids_fmmtc.recording import Workplace, guarded, process_recording
from bids_fmmtc.session import process_session, write_prediction
from bids_fmmtc.settings import Task, failure_to_json
from bids_fmmtc.types import Failure, Features, Prediction, Recording


def process_subject(task: Task, save: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Process every recording and session of a participant.

    Parameters
    ----------
    task
        What to do.
    save
        Called with the report so far after every recording, so that a killed process loses only the one in hand.

    Returns
    -------
    dict
        ``subject``, ``recordings`` and ``sessions`` (one row each: key, status, reason, flags, quality or
        prediction), ``outputs``, ``complete``.
    """
    place = Workplace(task)
    _sweep(place)
    rows: dict[str, dict[str, Any]] = {f.key: _row(f.key, f) for f in task.failures}
    judged: dict[str, dict[str, Any]] = {}
    for key, runs in _sessions(task).items():
        # One session at a time: its features are let go before the next one's are made.
        results: dict[str, Features | Failure] = {f.key: f for f in task.failures if session_key(f.key) == key}
        for recording in runs:
            results[recording.key] = process_recording(recording, place)
            rows[recording.key] = _row(recording.key, results[recording.key])
            if task.bundle is None:
                del results[recording.key]
            save(_report(place, rows, judged, complete=False))
        if task.bundle is not None:
            judged[key] = _row(key, process_session(key, runs, results, place))
            save(_report(place, rows, judged, complete=False))
    _write_rows(place, rows)
    _draw_page(place, rows)
    report = _report(place, rows, judged, complete=True)
    save(report)
    return report


def record_lost(task: Task, report: Mapping[str, Any], failure: Failure) -> dict[str, Any]:
    """Complete the report of a child process that ended before its time, and write the rows it owes.

    Parameters
    ----------
    report
        What the child had saved; may be empty.
    failure
        How it ended; every recording and session without a row gets one with this reason.
    """
    place = Workplace(task)
    _sweep(place)
    done = {row["key"]: row for row in report.get("recordings", [])}
    for key in [*(r.key for r in task.recordings), *(f.key for f in task.failures)]:
        done.setdefault(key, _row(key, replace(failure, key=key)))
    sessions = {row["key"]: row for row in report.get("sessions", [])}
    if task.bundle is not None:
        for key, runs in _sessions(task).items():
            if key in sessions:
                continue
            lost = replace(failure, key=key)
            guarded(key, "write", place, lambda k=key, r=runs, f=lost: write_prediction(k, r, f, [], place))  # type: ignore[misc]
            sessions[key] = _row(key, lost)
    _write_rows(place, done)
    _draw_page(place, done)
    return {
        "subject": task.subject,
        "recordings": list(done.values()),
        "sessions": list(sessions.values()),
        "outputs": sorted({*report.get("outputs", []), *place.outputs}),
        "complete": False,
    }


def _sweep(place: Workplace) -> None:
    """Remove what killed writes have left among the participant's files; a folder that cannot be read keeps it."""
    key = f"sub-{place.task.subject}"
    guarded(key, "write", place, lambda: sweep(place.layout.folder(place.task.subject, None)))


def _write_rows(place: Workplace, rows: dict[str, dict[str, Any]]) -> None:
    """Write the scans tables; note in the rows of failures whether results of before stand."""
    key = f"sub-{place.task.subject}"
    written = guarded(key, "write", place, lambda: write_scans(place.task, list(rows.values()), place.layout))
    if isinstance(written, Failure):
        rows[key] = _row(key, written)
        return
    place.wrote(*written.tables)
    for each, state in written.states.items():
        rows[each] = {**rows[each], "before": state}


def _draw_page(place: Workplace, rows: dict[str, dict[str, Any]]) -> None:
    """Draw the participant's page from what is written by now; a page that cannot be drawn costs nothing but itself."""
    key = f"sub-{place.task.subject}"
    page = guarded(key, "report", place, lambda: draw_participant(place.layout.root, place.task.subject))
    if isinstance(page, Failure):
        rows.setdefault(key, _row(key, page))
    else:
        place.wrote(page)


def _sessions(task: Task) -> dict[str, list[Recording]]:
    """Group recordings, failed ones too, by what one prediction is made from."""
    sessions: dict[str, list[Recording]] = {}
    for recording in task.recordings:
        sessions.setdefault(recording.session_key, []).append(recording)
    for failure in task.failures:
        sessions.setdefault(session_key(failure.key), [])
    return sessions


def _report(place: Workplace, rows: Mapping[str, Any], judged: Mapping[str, Any], *, complete: bool) -> dict[str, Any]:
    return {
        "subject": place.task.subject,
        "recordings": list(rows.values()),
        "sessions": list(judged.values()),
        "outputs": sorted(set(place.outputs)),
        "complete": complete,
    }


def _row(key: str, result: Features | Prediction | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"key": key, "status": "failed", **failure_to_json(result)}
    if isinstance(result, Features):
        flags = result.quality["flags"]
        return {"key": key, "status": "ok", "flags": flags, "windows": len(result.windows), "quality": result.quality}
    return {
        "key": key,
        "status": "ok",
        "flags": list(result.flags),
        "probability": result.probability,
        "label": result.label,
        "windows": len(result.per_window),
    }


def main(arguments: Iterable[str]) -> int:
    """Run the task file given as first argument; the report goes to the second."""
    task_file, report_file = (Path(a) for a in arguments)
    task = Task.from_json(json.loads(task_file.read_text(encoding="utf-8")))
    if task.weights or task.bundle is not None:
        task = replace(task, device=steady_torch(task.device, task.threads, task.seed))
    elif task.device == "auto":
        task = replace(task, device="cpu")
    process_subject(task, lambda report: write_json(report_file, report))
    return 0


def steady_torch(device: str, threads: int, seed: int) -> str:
    """Make the same input give the same bits (fixed threads, deterministic kernels); return the device to use."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    # As use_deterministic_algorithms does, but for the compiler that it imports: 1.5 s a participant.
    torch.set_deterministic_debug_mode("error")
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
