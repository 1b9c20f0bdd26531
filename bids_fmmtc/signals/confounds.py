"""The confounds table beside a recording: its columns, frames that are not steady, framewise displacement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ConfoundsError, UnreadableError
from bids_fmmtc.reading import is_missing, read_lines

HEAD_RADIUS_MM = 50.0  # Power et al. 2012: rotations become millimetres on a sphere of this radius


@dataclass(frozen=True, slots=True)
class Confounds:
    """The table beside a recording: column names and (T, C) float64, NaN for ``n/a``."""

    path: Path
    names: tuple[str, ...]
    values: NDArray[np.float64]

    def column(self, name: str) -> NDArray[np.float64] | None:
        """Return one column (T,), or None when the table lacks it."""
        return self.values[:, self.names.index(name)] if name in self.names else None

    @property
    def non_steady(self) -> int:
        """Leading frames marked as non-steady-state."""
        marked = [c for c, n in enumerate(self.names) if n.startswith("non_steady_state_outlier")]
        if not marked:
            return 0
        hit = np.flatnonzero((self.values[:, marked] > 0).any(axis=1))
        return int(hit.max()) + 1 if hit.size else 0

    @property
    def framewise_displacement(self) -> NDArray[np.float64] | None:
        """(T,) in mm as Power et al. 2012 define it, from the table or from its six motion parameters."""
        fd = self.column("framewise_displacement")
        if fd is None:
            fd = self.column("FramewiseDisplacement")
        if fd is not None:
            return fd
        parameters = [self.column(f"{kind}_{axis}") for kind in ("trans", "rot") for axis in "xyz"]
        known = [p for p in parameters if p is not None]
        if len(known) < 6:
            return None
        steps = np.abs(np.diff(np.stack(known, 1), axis=0))
        moved: NDArray[np.float64] = steps[:, :3].sum(1) + HEAD_RADIUS_MM * steps[:, 3:].sum(1)
        return np.concatenate([[np.nan], moved])


def read_confounds(path: Path, n_frames: int) -> Confounds:
    """Read a fMRIPrep confounds table, old or new.

    Raises
    ------
    ConfoundsError
        Not a table of numbers, or not one row per frame; names the line.
    """
    try:
        lines = read_lines(path)
    except UnreadableError as error:
        raise ConfoundsError(error.message, error.hint or _RESTORE) from None
    if not lines:
        raise ConfoundsError(f"{path.name} is empty.", _RESTORE)
    names = tuple(name.strip() for name in lines[0][1])
    if len(names) == 1 and "," in names[0]:
        raise ConfoundsError(f"{path.name} is separated by commas, not by tabs.", _RESTORE)
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ConfoundsError(f"{path.name} has two columns {twice[0]!r}.", _RESTORE)
    rows = [_numbers(path, line, names, cells) for line, cells in lines[1:]]
    if len(rows) != n_frames:
        raise ConfoundsError(
            f"{path.name} holds {len(rows)} rows, the recording {n_frames} frames.",
            "Check that both come from the same fMRIPrep run.",
        )
    return Confounds(path, names, np.array(rows, np.float64))


def _numbers(path: Path, line: int, names: tuple[str, ...], cells: list[str]) -> list[float]:
    """Turn one line into numbers, NaN where its cell says that a value is missing."""
    if len(cells) != len(names):
        raise ConfoundsError(
            f"line {line} of {path.name} holds {len(cells)} cells, its header {len(names)}.",
            "Every line needs as many cells, separated by tabs, as the header: look for tabs too many at its end.",
        )
    row = []
    for name, cell in zip(names, cells, strict=True):
        try:
            row.append(np.nan if is_missing(cell) else float(cell))
        except ValueError:
            raise ConfoundsError(
                f"line {line} of {path.name}: {name} is {cell[:40]!r}, not a number.", _RESTORE
            ) from None
    return row


_RESTORE = "Restore the table, or re-run fMRIPrep for this recording."
