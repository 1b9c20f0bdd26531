"""How long training will take: estimated while it runs, and part of no result."""

from __future__ import annotations

import time
from collections.abc import Callable

REPORT_SECONDS = 60.0
"""Least time between two estimates."""


class Progress:
    """Counts epochs that lie ahead and those done, and says how long the rest will take.

    The first estimate comes after the first epoch, then one a minute at most. It is an upper bound where training may
    stop early, since each piece of work is planned at its full length.

    Parameters
    ----------
    say
        Takes a line.
    clock
        Seconds, monotonic.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._planned = self._run = self._done = 0
        self._whole = False
        self._seconds = 0.0
        self._started: float | None = None
        self._said: float | None = None

    def plan(self, epochs: int) -> None:
        """Add epochs that lie ahead at most; without a plan estimates cover the piece of work at hand, and say so."""
        self._planned += epochs
        self._whole = True

    def start(self, epochs: int) -> None:
        """Begin a piece of work of so many epochs at most."""
        self._run, self._started = epochs, self._clock()

    def epoch(self) -> None:
        """Count one epoch of the piece at hand as done just now."""
        now = self._clock()
        if self._started is not None:
            self._seconds += now - self._started
        self._started = now
        self._run -= 1
        self._planned -= 1
        self._done += 1
        left = max(self._run, self._planned)
        if left > 0 and (self._said is None or now - self._said >= REPORT_SECONDS):
            self._said = now
            each = self._seconds / self._done
            of = "" if self._whole else "of this fit "
            self._say(f"about {duration(left * each)} {of}left at most ({left:,} epochs of {each:.2g} s)")

    def skip(self, epochs: int) -> None:
        """Take off epochs that need not be trained: done before, or stopped early."""
        self._planned -= epochs


def duration(seconds: float) -> str:
    """Return a time in words of one unit: ``50 s``, ``34 min``, ``3.2 h``."""
    for limit, unit, name, digits in ((90, 1, "s", 0), (90 * 60, 60, "min", 0)):
        if seconds < limit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 3600:.1f} h"
