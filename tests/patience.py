"""How long a test may wait for a process: seconds of a quiet machine, stretched by what a first step takes on this one.

A deadline by the clock says nothing of the program on a login node with a hundred users. It is there so that a test
that hangs ends; it must never end one that is only slow.
"""

from __future__ import annotations

import subprocess
import sys
import time

QUIET = 0.25  # seconds that the first step takes on a quiet core, generously
FRESH = 60.0  # seconds after which it is taken again: a machine gets busy while a suite runs


class _Pace:
    """How many times slower than a quiet machine this one was when it was last asked, at least 1."""

    def __init__(self) -> None:
        self.factor, self.taken = 1.0, float("-inf")

    def now(self) -> float:
        if time.monotonic() - self.taken > FRESH:
            start = time.monotonic()
            # What every process of a test begins with: an interpreter, and a library of many files.
            subprocess.run([sys.executable, "-c", "import numpy"], check=True)
            self.taken = time.monotonic()
            self.factor = max(1.0, (self.taken - start) / QUIET)
        return self.factor


_PACE = _Pace()


def patience(seconds: float) -> float:
    """Return the seconds to wait here for what is sure to take less than ``seconds`` on a quiet machine."""
    return seconds * _PACE.now()
