"""Values from stored tables and records, read for a page: what is missing or of another kind is nothing, no error."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_fmmtc.dataset.store import MISSING, read_table
from bids_fmmtc.results.estimate import Estimate


def read_rows(path: Path) -> list[dict[str, str]] | None:
    """Read a table as one mapping a row, only text in it; None where it is absent or no table."""
    try:
        found = read_table(path)
    except (OSError, ValueError, csv.Error):
        return None
    return [{k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)} for row in found]


def real(text: str | None) -> float | None:
    """Return a cell as a number; None for ``n/a`` and whatever is none."""
    try:
        value = float(text or MISSING)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def word(text: str | None) -> str | None:
    """Return a cell, None for ``n/a`` and nothing."""
    return None if text in (None, "", MISSING) else text


def mapping(value: Any) -> Mapping[str, object]:
    """Return a JSON object, an empty one where something else stands."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, object]]:
    """Return the objects of a JSON list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, Sequence) else []


def texts(value: Any) -> list[str]:
    """Return the texts of a JSON list."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return [each for each in value if isinstance(each, str)] if listed else []


def number_of(value: Any) -> float | None:
    """Return a JSON number that is finite, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def estimate_in(metrics: Any, name: str) -> Estimate | None:
    """Return an estimate, None where there is none."""
    found = mapping(metrics).get(name)
    if not isinstance(found, Mapping) or "value" not in found:
        return None
    value, low, high = (number_of(found.get(key)) for key in ("value", "low", "high"))
    return Estimate(value, low, high)
