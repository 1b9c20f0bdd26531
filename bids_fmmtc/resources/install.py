"""Placing fetched files: gathered in a hidden folder inside the cache, checked, and moved there by renaming.

So what `bids_fmmtc.resources` finds is always complete. ``fetched.json`` beside the files tells where they came from
and their sha256.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bids_fmmtc import __version__, resources
from bids_fmmtc.errors import DataError, FmmtcError, MissingInputError, OutputError

PROGRAM: Final = "bids_fmmtc-fetch"
RECORD: Final = "fetched.json"


def install(
    cache: Path,
    name: str,
    fill: Callable[[Path], str],
    checksums: Mapping[str, str],
    mismatch: type[DataError],
    *,
    keep: bool,
) -> Path:
    """Fill a folder, check it, record it, and rename it to ``cache / name``.

    Parameters
    ----------
    cache, name
        Where the folder is to be.
    fill
        Puts the files into an empty folder, with room for scratch beside it, and tells where they came from.
    checksums
        File name to sha256, for those whose checksum is known.
    mismatch
        What to raise when a checksum differs.
    keep
        Leave a folder alone that is there already and still as recorded.
    """
    target = cache / name
    if keep and _is_intact(target, checksums):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache, ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch) / "new"
            folder.mkdir()
            origin = fill(folder)
            digests = _verify(folder, checksums, mismatch)
            record = {"source": origin, "fetched": now(), "by": f"{PROGRAM} {__version__}", "sha256": digests}
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            _publish(folder, target)
    except FmmtcError:
        raise
    except OSError as error:
        raise cannot_write(cache, error) from error
    return target


def copy_files(source: Path, names: Iterable[str], folder: Path) -> str:
    """Copy files of a local folder; returns where they came from."""
    for name in names:
        copy_file(source / name, folder / name)
    return str(source.absolute())


def copy_file(source: Path, target: Path) -> None:
    """Copy one file that must be there and hold something."""
    if not resources.has_content(source):
        raise MissingInputError(f"{source} is not there, is empty or cannot be read.", "Check the path after --from.")
    shutil.copyfile(source, target)


def _verify(folder: Path, checksums: Mapping[str, str], mismatch: type[DataError]) -> dict[str, str]:
    """Compare every file with its known checksum and return all that were found."""
    digests = {}
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)  # downloaders leave files that only their owner can read
        digests[path.name] = _sha256(path)
        if digests[path.name] != checksums.get(path.name, digests[path.name]):
            raise mismatch(
                f"{path.name} has sha256 {digests[path.name]}, expected {checksums[path.name]}.",
                "It was not kept: it is damaged or another version.",
            )
    return digests


def _publish(folder: Path, target: Path) -> None:
    """Rename a finished folder to its place; a former one leaves with the scratch folder."""
    former = folder.with_name("former")
    replaced = target.exists()
    if replaced:
        target.rename(former)
    try:
        folder.rename(target)
    except OSError:
        if replaced:
            former.rename(target)
        raise


def _is_intact(folder: Path, checksums: Mapping[str, str]) -> bool:
    """Tell whether a folder holds just what its record and the known checksums say."""
    try:
        recorded = json.loads((folder / RECORD).read_text(encoding="utf-8"))["sha256"]
        expected = {**recorded, **{name: checksums[name] for name in recorded if name in checksums}}
        return bool(expected) and all(_sha256(folder / name) == digest for name, digest in expected.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(path: Path) -> str:
    """Sha256 of a file as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cannot_write(folder: Path, error: Exception) -> OutputError:
    """Describe a folder that cannot be made or filled."""
    reason = getattr(error, "strerror", None) or one_line(error)
    return OutputError(f"cannot write into {folder}: {reason}.", "Name another folder with --cache.")


def one_line(error: Exception) -> str:
    """Reduce a foreign error to its kind and beginning."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}".rstrip(" .:")


def now() -> str:
    """Time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
