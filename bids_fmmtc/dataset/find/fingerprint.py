"""What a recording is made of, told apart by content; and what of it is proven to have changed since."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from bids_fmmtc.dataset.find.beside import beside_series, is_series
from bids_fmmtc.dataset.folders import refuse_absent
from bids_fmmtc.errors import DataError, FmmtcError
from bids_fmmtc.types import Recording

SIDECARS = "sidecars"


def fingerprint(recording: Recording) -> dict[str, str]:
    """Tell what a recording is made of apart by content, without reading a compressed image.

    A gzip file ends in the checksum and length of what it holds; other files are summed (CRC-32). What sidecars say
    counts too: the repetition time, and how the confounds were made.

    Raises
    ------
    DataError, MissingInputError
        A file cannot be read, or its content is not fetched.
    """
    files, told = _parts(recording)
    marks = {name: _content(path) for name, path in files.items()}
    return marks | told | {"repetition_time": str(recording.repetition_time)}


def known_marks(recording: Recording) -> dict[str, str]:
    """Return as much of the `fingerprint` as can be told now; what cannot be read is left out, never an error."""
    try:
        files, told = _parts(recording)
    except (FmmtcError, OSError, ValueError):
        files, told = {"bold": recording.bold}, {}
    marks = dict(told)
    for name, path in files.items():
        try:
            marks[name] = _content(path)
        except FmmtcError:
            continue
    if recording.repetition_time is not None:
        marks["repetition_time"] = str(recording.repetition_time)
    return marks


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Name what is proven to differ: known now, and not what it was. What cannot be told now proves nothing.

    Parameters
    ----------
    before
        The whole fingerprint that results were made from.
    now
        From `known_marks`.
    """
    return tuple(name for name, mark in now.items() if _differs(name, before.get(name), mark))


def _differs(name: str, before: str | None, now: str) -> bool:
    if name != SIDECARS or before is None:
        return before != now
    old, new = (json.loads(text) for text in (before, now))
    return any(old.get(key) != value for key, value in new.items() if value is not None)


def _parts(recording: Recording) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files whose content counts, and what sidecars of imported series tell."""
    files = {"bold": recording.bold, "mask": recording.mask, "confounds": recording.confounds}
    if recording.confounds is not None and recording.confounds.with_suffix(".json").is_file():
        files["confounds_sidecar"] = recording.confounds.with_suffix(".json")
    told = {}
    if is_series(recording):
        beside = beside_series(recording)
        files["outliers"], told = beside.outliers, {SIDECARS: json.dumps(dict(beside.told))}
    return {name: path for name, path in files.items() if path is not None}, told


def _content(path: Path) -> str:
    refuse_absent(path)
    if not path.is_file():
        raise DataError(f"{path.name} is no regular file.", "Check the input.")  # a pipe would never end
    try:
        with path.open("rb") as f:
            size = f.seek(0, 2)
            if path.suffix == ".gz":
                f.seek(max(size - 8, 0))
                return f"{size}-{f.read(8).hex()}"
            f.seek(0)
            total = 0
            while block := f.read(1 << 22):
                total = zlib.crc32(block, total)
            return f"{size}-{total:08x}"
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be read: {error.strerror or error}.", "Check the file and its disk."
        ) from None
