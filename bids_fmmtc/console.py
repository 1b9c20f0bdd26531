"""What a run shows: its plan (dry run), its progress, and the table of its outcomes."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.errors import printable
from bids_fmmtc.types import Failure, Selection

if TYPE_CHECKING:
    from bids_fmmtc.workflow import Job

log = logging.getLogger("bids_fmmtc")

LOOK_SECONDS = 0.25


class Progress:
    """Watches report files appear while a block runs; knows nothing of how the jobs are scheduled."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = list(jobs)
        self._n = len(jobs)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._bar = tqdm(total=self._n, unit="participant", disable=not sys.stderr.isatty())

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        self._bar.close()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        for job in [j for j in self._waiting if j.report_file.exists()]:
            self._waiting.remove(job)
            self._bar.update()
            if self._bar.disable:
                report = read_record(job.report_file) or {}
                rows = [*report.get("recordings", []), *report.get("sessions", [])]
                bad = sum(row["status"] != "ok" for row in rows)
                state = "ok" if not bad else f"{bad} of {len(rows)} rows failed"
                log.info("sub-%s: %s (%d of %d)", job.subject, state, self._n - len(self._waiting), self._n)


def describe_selection(selection: Selection) -> str:
    """Return, per participant, which recordings would run, which not, and why."""
    lines: list[str] = []
    labels = subjects(selection)
    for subject in labels:
        lines.append(f"sub-{subject}")
        for r in selection.recordings:
            if r.subject == subject:
                res = "" if r.resolution is None else f" res-{r.resolution}"
                tr = "repetition time from header" if r.repetition_time is None else f"{r.repetition_time:g} s"
                lines.append(f"  run   {r.key}  space-{r.space}{res}  {tr}  {r.bold.name}")
        lines += [f"  fail  {f.key}  {f.reason}" for f in selection.failures if subject_of(f.key) == subject]
        lines += [f"  skip  {s.path.name}  {s.reason}" for s in selection.skipped if s.subject == subject]
    n, m = len(selection.recordings), len(selection.failures)
    lines.append(f"{len(labels)} participants: {n} recordings would run, {m} cannot; nothing was written.")
    return "\n".join(map(printable, lines)) + "\n"


def subjects(selection: Selection) -> list[str]:
    """Return the labels of all participants of a selection, sorted."""
    found = [r.subject for r in selection.recordings] + [subject_of(f.key) for f in selection.failures]
    return sorted(set(found))


def subject_of(key: str) -> str:
    """Return the participant's label in a key."""
    return key.split("_", 1)[0].removeprefix("sub-")


def outcome_rows(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the outcome table: a row per recording and session of every participant."""
    rows = []
    for report in reports:
        for level in ("recordings", "sessions"):
            for row in report[level]:
                ok = row["status"] == "ok"
                reason = ",".join(row["flags"]) if ok else _reason(row)
                rows.append(
                    {
                        "key": row["key"],
                        "level": level[:-1],
                        "status": row["status"],
                        "windows": row.get("windows"),
                        "probability": row.get("probability"),
                        "label": row.get("label"),
                        "notes": reason,
                    }
                )
    return rows


def _reason(row: Mapping[str, Any]) -> str:
    reason = Failure(**{name: row[name] for name in Failure.__slots__}).reason
    return f"{reason} {_BEFORE[row['before']]}" if row.get("before") in _BEFORE else reason


_BEFORE = {
    "ok": "Results of an earlier attempt stand.",
    "stale": "Results of an earlier attempt are kept, but stale: their input has changed.",
}


COLUMNS = ("key", "level", "status", "windows", "probability", "label", "notes")


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the outcome table as aligned text."""
    body = [[_shown(row[c]) for c in COLUMNS] for row in rows]
    lines = [list(COLUMNS), *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS) - 1)]
    text = [
        "  ".join([*(c.ljust(w) for c, w in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip() for line in lines
    ]
    return "\n".join(text) + "\n"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else printable(str(value))
