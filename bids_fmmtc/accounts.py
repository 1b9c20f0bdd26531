"""The end of a run: results looked at again before success is told, the table of outcomes printed and then stored."""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bids_fmmtc import __version__
from bids_fmmtc.console import COLUMNS, format_table, outcomes
from bids_fmmtc.dataset.derivatives.describe import DESCRIPTION
from bids_fmmtc.dataset.derivatives.standing import ATTEMPT
from bids_fmmtc.dataset.store import Layout, read_record, write_json, write_table
from bids_fmmtc.keys import Key
from bids_fmmtc.rows import Report, Row
from bids_fmmtc.types import Failure

log = logging.getLogger("bids_fmmtc")


def gone(root: Path, names: Iterable[str]) -> list[str]:
    """Return the results that are not there, or empty."""
    return [name for name in names if not _whole(root / name)]


def _whole(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def unsettled(root: Path, names: Sequence[str]) -> bool:
    """Tell whether results that a run left are not as it left them: gone, or a failed attempt is noted in them."""
    if gone(root, names):
        return True
    told = [name for name in names if name.endswith(("_features.json", "_prediction.json"))]
    return any(ATTEMPT in (read_record(root / name) or {}) for name in told)


def look_again(reports: Sequence[Report], layout: Layout) -> list[Report]:
    """Return the reports with a row of failure for every participant whose results are not there any more.

    Whatever removed them while the run went on (a person, a quota, a cleaning of scratch disks): nobody is told that
    all went well with files that are gone.
    """
    found = []
    for report in reports:
        lost = gone(layout.root, report.outputs)
        if not _whole(layout.root / DESCRIPTION):
            lost.append(DESCRIPTION)
        more = (_lost(Key.of(report.subject), lost),) if lost else ()
        found.append(replace(report, recordings=(*report.recordings, *more)))
    return found


def _lost(key: str, lost: Sequence[str]) -> Row:
    message = f"of its files, {len(lost)} are not in the output folder any more, the first {lost[0]}."
    hint = "Find out what removed them, and run the same command again."
    return Row(key, Failure(key, "write", "output", message, hint))


def tell(reports: Sequence[Report], layout: Layout, facts: Mapping[str, str]) -> int:
    """Print the outcome table, then store it below ``logs``; return how many rows failed.

    Parameters
    ----------
    facts
        What else to store of the run.

    Raises
    ------
    OutputError
        The table cannot be stored; it is printed all the same.
    """
    rows = outcomes(reports)
    failed = [row for report in reports for row in report.rows if not row.ok]
    sys.stdout.write(format_table(rows))
    sys.stdout.flush()
    run = layout.root / "logs" / f"run-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"
    if failed:
        log.error("%d of %d rows failed; the reasons stand above and in %s.", len(failed), len(rows), run)
    write_table(run / "outcomes.tsv", COLUMNS, map(asdict, rows))
    write_json(run / "run.json", {"Version": __version__, **facts})
    return len(failed)
