"""Paths, atomic writes and reads of the derivatives; nothing here computes."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import DataError, OutputError, UnreadableError, printable
from bids_fmmtc.plain import Cell, Json
from bids_fmmtc.quality import read_quality
from bids_fmmtc.reading import is_formula, read_object
from bids_fmmtc.types import Features, Recording

# BEP017 (a draft) speaks of ``meas-``, xcp_d of ``stat-``: one constant, so that following the vote is one edit.
MEASURE_ENTITY = "meas"
MISSING = "n/a"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of the files of one output dataset."""

    root: Path
    atlas: str

    def folder(self, subject: str, session: str | None) -> Path:
        """Return ``sub-X[/ses-Y]``."""
        folder = self.root / f"sub-{subject}"
        return folder if session is None else folder / f"ses-{session}"

    def derivative(self, recording: Recording, suffix: str, extension: str, measure: str | None = None) -> Path:
        """Return the path of a recording's own file, ``<source>_space-S_atlas-A[_meas-M]_<suffix><extension>``."""
        more = "" if measure is None else f"_{MEASURE_ENTITY}-{measure}"
        name = f"{recording.key}_space-{recording.space}_atlas-{self.atlas}{more}_{suffix}{extension}"
        return self.folder(recording.subject, recording.session) / "func" / name

    def figure(self, recording: Recording, what: str, extension: str) -> Path:
        """Return the path of a picture of a recording, ``figures/<source>_space-S_atlas-A_<what><extension>``."""
        name = self.derivative(recording, what, extension).name
        return self.folder(recording.subject, recording.session) / "figures" / name

    def prediction(self, subject: str, session: str | None, session_key: str, extension: str) -> Path:
        """Return the path of a session's prediction."""
        return self.folder(subject, session) / "func" / f"{session_key}_desc-fmmtc_prediction{extension}"

    def scans(self, subject: str, session: str | None, extension: str) -> Path:
        """Return the path of ``scans.tsv`` or ``.json``."""
        session_part = "" if session is None else f"_ses-{session}"
        return self.folder(subject, session) / f"sub-{subject}{session_part}_scans{extension}"

    def relative(self, path: Path) -> str:
        """Return a path relative to the dataset's root, with forward slashes."""
        return path.relative_to(self.root).as_posix()


class _Temporary:
    """A file that is being written beside its place; locked as long as somebody works on it, or it is a leftover."""

    def __init__(self, path: Path, data: bytes) -> None:
        # Jobs in several containers or on several nodes may write one shared file at once, with equal process numbers.
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_LEFTOVER}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self._open()
        try:
            self.file.write(data)
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError:
            self.drop()
            raise

    def _open(self) -> IO[bytes]:
        while True:
            f = self.temporary.open("wb")
            with contextlib.suppress(OSError):  # a file system without locks: then nothing is swept there either
                fcntl.flock(f, fcntl.LOCK_EX)
            if os.fstat(f.fileno()).st_nlink > 0:  # not swept between opening and locking
                return f
            f.close()

    def place(self) -> None:
        """Put it in its place, whole."""
        self.temporary.replace(self.path)
        self.file.close()

    def drop(self) -> None:
        """Remove it."""
        # Below a regular file, or on a read-only disk, there is nothing to remove and trying fails as well.
        with contextlib.suppress(OSError):
            self.temporary.unlink()
        with contextlib.suppress(OSError):
            self.file.close()


_LEFTOVER = ".tmp"
_together: ContextVar[list[_Temporary] | None] = ContextVar("_together", default=None)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Let all files written in a block take their places at its end, in their order, or none of them.

    A disk that is full half-way, or a process that is killed, then leaves what was there before.

    Raises
    ------
    OutputError
        A file cannot be put in its place.
    """
    files: list[_Temporary] = []
    token = _together.set(files)
    try:
        yield
        for each in files:
            try:
                each.place()
            except OSError as error:
                raise _cannot_write(each.path, error) from None
    finally:
        _together.reset(token)
        for each in files:
            each.drop()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; readers never see half of it.

    Raises
    ------
    OutputError
        The folder cannot be made or the file not written (no space, read-only, no permission).
    """
    files = _together.get()
    try:
        written = _Temporary(path, data)
        if files is not None:
            files.append(written)
            return
        try:
            written.place()
        finally:
            written.drop()
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror or error}.",
        "Give an output and a work folder with space that you may write to.",
    )


def sweep(folder: Path, *, below: bool = True) -> int:
    """Remove what killed writes have left in a folder, and below it; files that somebody writes now are locked.

    Returns
    -------
    int
        How many there were.
    """
    swept = 0
    for path in folder.glob(f"{'**/' if below else ''}.*{_LEFTOVER}"):
        if not _TEMPORARY.fullmatch(path.name) or path.is_symlink():
            continue
        with contextlib.suppress(OSError), path.open("r+b") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            swept += 1
    return swept


_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(_LEFTOVER)}")


def remove(path: Path) -> None:
    """Remove a file of ours if it is there.

    Raises
    ------
    OutputError
        It is there and stays.
    """
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}.", "Check the output folder.") from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Mapping[str, Json]) -> None:
    """Write JSON atomically: two spaces, keys in the order given, no NaN."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    """Write a BIDS tsv; None, NaN and absent values become ``n/a``."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(cell(row.get(c)) for c in columns) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def cell(value: Cell) -> str:
    """Return one tsv cell: ``n/a`` for what is missing, no tab or newline inside."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, list | tuple):
        return _plain(",".join(str(v) for v in value)) or MISSING
    return _plain(str(value)) or MISSING


def _plain(text: str) -> str:
    """Return text as one cell that no terminal obeys and no spreadsheet computes (``=1+1`` becomes ``'=1+1``)."""
    text = printable(" ".join(text.split()))
    return f"'{text}" if is_formula(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_array(path: Path, columns: Sequence[str], values: NDArray[np.floating[Any]]) -> None:
    """Write a float array (N, C) as tsv with nine digits, enough to read float32 back to the bit; NaN as ``n/a``."""
    row = "\t".join(["%.9g"] * values.shape[1])
    lines = [row % tuple(v) for v in values.tolist()]
    if np.isnan(values).any():
        lines = ["\t".join(MISSING if v == "nan" else v for v in line.split("\t")) for line in lines]
    write_text(path, "\t".join(columns) + "\n" + "\n".join(lines) + "\n")


def write_grey(path: Path, levels: NDArray[np.uint8]) -> None:
    """Write grey levels (H, W) as PNG, lossless; no time or program is named in it."""
    from io import BytesIO  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    data = BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(data, "png")
    write_bytes(path, data.getvalue())


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a tsv as one mapping per row."""
    with path.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f, delimiter="\t"))


def write_features(path: Path, features: Features) -> str:
    """Write the arrays as safetensors (never pickle) and return the file's sha256."""
    from safetensors.numpy import save  # noqa: PLC0415

    arrays = {"windows": features.windows, **{k: np.ascontiguousarray(v) for k, v in features.arrays.items()}}
    # One entry only: safetensors writes several in an order that changes from run to run.
    data = save(arrays, metadata={"digest": features.digest})
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def read_features(path: Path, record: Mapping[str, Json] | None = None) -> Features:
    """Read features and the JSON record beside them.

    Parameters
    ----------
    path
        The ``*_features.json``.
    record
        What it holds, where it was read before.

    Raises
    ------
    DataError
        The record tells of a failure or of stale features, or the arrays are absent or not those the record describes.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    record = read_record(path) if record is None else record
    if record is None or record.get("Status") != "ok":
        raise DataError(f"{path.name} holds no features.", "Run the participant level again for this recording.")
    try:
        data = path.with_suffix(".safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != record["FeaturesSHA256"]:
            raise DataError(
                f"{path.stem}.safetensors is not the file its record describes.", "Run this recording again."
            )
        arrays = load(data)
        windows = arrays.pop("windows")
        return Features(
            str(record["Key"]), windows, arrays, read_quality(record, path.name), str(record["RecipeDigest"])
        )
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"features of {path.name} cannot be read: {error}.", "Run this recording again.") from None


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None when it is absent or broken (it is then written anew)."""
    try:
        return read_object(path)
    except UnreadableError:
        return None
