"""One participant: every recording, every session, every row; what a child process (`participant_process`) does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from bids_fmmtc.dataset.derivatives.scans import write_scans
from bids_fmmtc.dataset.store import sweep, write_json
from bids_fmmtc.keys import Key
from bids_fmmtc.pages import draw_participant
from bids_fmmtc.plain import to_json
from bids_fmmtc.recording import Workplace, guarded, process_recording
from bids_fmmtc.rows import Report, Row
from bids_fmmtc.session import process_session, write_prediction
from bids_fmmtc.settings import Task, read_task
from bids_fmmtc.types import Failure, Features, Recording


def process_subject(task: Task, save: Callable[[Report], None]) -> Report:
    """Process every recording and session of a participant; return the report of all of it.

    Parameters
    ----------
    task
        What to do.
    save
        Called with the report so far after every recording, so that a killed process loses only the one in hand.
    """
    place = Workplace(task)
    _sweep(place)
    rows: dict[str, Row] = {f.key: Row(f.key, f) for f in task.failures}
    judged: dict[str, Row] = {}
    for key, runs in _sessions(task).items():
        # One session at a time: its features are let go before the next one's are made.
        results: dict[str, Features | Failure] = {f.key: f for f in task.failures if Key(f.key).of_session == key}
        for recording in runs:
            results[recording.key] = process_recording(recording, place)
            rows[recording.key] = Row.of(recording.key, results[recording.key])
            if task.bundle is None:
                del results[recording.key]
            save(_report(place, rows, judged))
        if task.bundle is not None:
            judged[key] = Row.of(key, process_session(key, runs, results, place))
            save(_report(place, rows, judged))
    _write_rows(place, rows)
    _draw_page(place, rows)
    report = replace(_report(place, rows, judged), complete=True)
    save(report)
    return report


def record_lost(task: Task, report: Report, failure: Failure) -> Report:
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
    done = {row.key: row for row in report.recordings}
    for key in [*(r.key for r in task.recordings), *(f.key for f in task.failures)]:
        done.setdefault(key, Row(key, replace(failure, key=key)))
    sessions = {row.key: row for row in report.sessions}
    if task.bundle is not None:
        for key, runs in _sessions(task).items():
            if key in sessions:
                continue
            lost = replace(failure, key=key)
            guarded(key, "write", place, lambda k=key, r=runs, f=lost: write_prediction(k, r, f, [], place))  # type: ignore[misc]
            sessions[key] = Row(key, lost)
    _write_rows(place, done)
    _draw_page(place, done)
    place.outputs += report.outputs
    return _report(place, done, sessions)


def _sweep(place: Workplace) -> None:
    """Remove what killed writes have left among the participant's files; a folder that cannot be read keeps it."""
    key = f"sub-{place.task.subject}"
    guarded(key, "write", place, lambda: sweep(place.layout.folder(place.task.subject, None)))


def _write_rows(place: Workplace, rows: dict[str, Row]) -> None:
    """Write the scans tables; note in the rows of failures whether results of before stand."""
    key = f"sub-{place.task.subject}"
    written = guarded(key, "write", place, lambda: write_scans(place.task, tuple(rows.values()), place.layout))
    if isinstance(written, Failure):
        rows[key] = Row(key, written)
        return
    place.wrote(*written.tables)
    for each, state in written.states.items():
        rows[each] = replace(rows[each], before=state)


def _draw_page(place: Workplace, rows: dict[str, Row]) -> None:
    """Draw the participant's page from what is written by now; a page that cannot be drawn costs nothing but itself."""
    key = f"sub-{place.task.subject}"
    page = guarded(key, "report", place, lambda: draw_participant(place.layout.root, place.task.subject))
    if isinstance(page, Failure):
        rows.setdefault(key, Row(key, page))
    else:
        place.wrote(page)


def _sessions(task: Task) -> dict[str, list[Recording]]:
    """Group recordings, failed ones too, by what one prediction is made from."""
    sessions: dict[str, list[Recording]] = {}
    for recording in task.recordings:
        sessions.setdefault(recording.session_key, []).append(recording)
    for failure in task.failures:
        sessions.setdefault(Key(failure.key).of_session, [])
    return sessions


def _report(place: Workplace, rows: Mapping[str, Row], judged: Mapping[str, Row]) -> Report:
    outputs = tuple(sorted(set(place.outputs)))
    return Report(place.task.subject, tuple(rows.values()), tuple(judged.values()), outputs)


def main(arguments: Iterable[str]) -> int:
    """Run the task file given as first argument; the report goes to the second."""
    task_file, report_file = (Path(a) for a in arguments)
    task = read_task(task_file)
    if task.weights or task.bundle is not None:
        task = replace(task, device=steady_torch(task.device, task.threads, task.seed))
    elif task.device == "auto":
        task = replace(task, device="cpu")
    process_subject(task, lambda report: write_json(report_file, to_json(report)))
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
