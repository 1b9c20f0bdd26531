"""Progress of a run: a bar on a terminal, a line per participant elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

from bids_fmmtc.dataset.store import read_record

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
