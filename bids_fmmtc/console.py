"""What a run shows: its plan (dry run), its progress, and the table of its outcomes."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

from bids_fmmtc.errors import printable
from bids_fmmtc.keys import Key
from bids_fmmtc.rows import Report, Row, read_report
from bids_fmmtc.states import RecordingState
from bids_fmmtc.types import Selection

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
                report = read_report(job.report_file)
                rows = () if report is None else report.rows
                bad = sum(not row.ok for row in rows)
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
        lines += [f"  fail  {f.key}  {f.reason}" for f in selection.failures if Key(f.key).subject == subject]
        lines += [f"  skip  {s.path.name}  {s.reason}" for s in selection.skipped if s.subject == subject]
    n, m = len(selection.recordings), len(selection.failures)
    lines.append(f"{len(labels)} participants: {n} recordings would run, {m} cannot; nothing was written.")
    return "\n".join(map(printable, lines)) + "\n"


def subjects(selection: Selection) -> list[str]:
    """Return the labels of all participants of a selection, sorted."""
    found = [r.subject for r in selection.recordings] + [Key(f.key).subject for f in selection.failures]
    return sorted(set(found))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A line of the table of outcomes; ``level`` is ``recording`` or ``session``, ``notes`` are flags or the reason."""

    key: str
    level: str
    status: str
    windows: int | None
    probability: float | None
    label: str | None
    notes: str


COLUMNS = tuple(f.name for f in fields(Outcome))


def outcomes(reports: Sequence[Report]) -> list[Outcome]:
    """Return the outcome table: a line for every recording and session of every participant."""
    return [
        Outcome(row.key, level, row.status, row.windows, row.probability, row.label, _notes(row))
        for report in reports
        for level, rows in (("recording", report.recordings), ("session", report.sessions))
        for row in rows
    ]


def _notes(row: Row) -> str:
    if row.failure is None:
        return ",".join(row.flags)
    return " ".join(filter(None, [row.failure.reason, "" if row.before is None else _BEFORE[row.before]]))


_BEFORE = {
    RecordingState.OK: "Results of an earlier attempt stand.",
    RecordingState.STALE: "Results of an earlier attempt are kept, but stale: their input has changed.",
}


def format_table(rows: Sequence[Outcome]) -> str:
    """Return the outcome table as aligned text."""
    body = [[_shown(value) for value in astuple(row)] for row in rows]
    lines = [list(COLUMNS), *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS) - 1)]
    text = [
        "  ".join([*(c.ljust(w) for c, w in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip() for line in lines
    ]
    return "\n".join(text) + "\n"


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else printable(str(value))
