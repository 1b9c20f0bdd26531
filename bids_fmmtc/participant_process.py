"""Entry of a participant's process: bound to the process that waits for it before anything else is imported.

Importing what a participant needs takes a second, and five on a busy node; a parent that dies meanwhile is noticed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bids_fmmtc.interrupts import end_with


def main(arguments: Sequence[str]) -> int:
    """Run the task file given first; the report goes to the second argument, the third is the parent's number."""
    task, report, parent = arguments
    end_with(int(parent))
    from bids_fmmtc.participant import main as work  # noqa: PLC0415

    return work((task, report))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
