"""A folder of results built beside the one it replaces, and put in its place at once when it is whole.

``.<name>.new`` beside the folder is built in; ``.<name>.old`` holds what stood there while two renames replace it;
``.<name>.lock`` is held by the one run that works on it. A run that is killed leaves some of them, and the folder
wholly as it was or wholly new; the next run removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from bids_fmmtc.errors import BusyError, OutputError

Ours = Callable[[PurePosixPath], bool]
"""Tells whether a file, by its path within the folder, is one that this program writes there."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


@contextlib.contextmanager
def building(folder: Path, ours: Ours) -> Iterator[Path]:
    """Give an empty folder to build in, for this process alone; what a killed run left is put right before.

    Whatever is in it at the end is removed: without `put_in_place` nothing has happened.

    Parameters
    ----------
    folder
        What is to be replaced; it need not be there.
    ours
        Files of other names are never removed but stay in ``folder``.

    Raises
    ------
    BusyError
        Another run builds this folder.
    OutputError
        The folder beside it cannot be made.
    """
    new = _beside(folder, "new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _settle(folder, ours)
            new.mkdir()
            try:
                yield new
            finally:
                _clear(new, folder, ours)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        what = f"{error.strerror or error} ({error.filename})"
        raise OutputError(f"cannot write beside {folder}: {what}.", "Check the folder.") from None
    finally:
        with contextlib.suppress(OSError):  # holds other analyses
            folder.parent.rmdir()


def put_in_place(new: Path, folder: Path, ours: Ours) -> None:
    """Put what was built in the place of the folder; a reader, and a kill at any moment, finds one or the other whole.

    Raises
    ------
    OutputError
        It cannot be moved; what was there is there.
    """
    try:
        if not os.path.lexists(folder):
            new.rename(folder)
        elif _exchanged(new, folder):
            _clear(new, folder, ours)
        else:  # a file system that cannot exchange: between two renames nothing stands there, and `_settle` mends that
            old = _beside(folder, "old")
            folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            _clear(old, folder, ours)
    except OSError as error:
        raise OutputError(f"cannot replace {folder}: {error.strerror or error}.", "Check the folder.") from None


def recover(parent: Path, ours: Ours) -> None:
    """Put right what killed runs left beside any folder in ``parent``; one that another run works on is left alone."""
    names = {p.name[1:].rpartition(".")[0] for end in ("new", "old", "lock") for p in parent.glob(f".*.{end}")}
    for name in sorted(names - {""}):
        with contextlib.suppress(OSError, BusyError), _alone(parent / name):
            _settle(parent / name, ours)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system lets go of it when this process ends, however it does."""
    path = _beside(folder, "lock")
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            raise BusyError(
                f"another run works on {folder}.", "Wait for it, or name this analysis with --analysis-label."
            ) from None
        except OSError:
            pass  # a file system without locks: the user starts an analysis once
        # Whoever held it before may have removed it meanwhile; then another file stands there, or none.
        if path.exists() and os.path.samestat(os.fstat(held), path.stat()):
            break
        os.close(held)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(held)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number))


def _settle(folder: Path, ours: Ours) -> None:
    """Put right what a killed run left beside a folder."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if old.is_dir() and not os.path.lexists(folder):
        old.rename(folder)
    _clear(old, folder, ours)
    _clear(new, folder, ours)


def _clear(leftover: Path, folder: Path, ours: Ours) -> None:
    """Remove a folder that was replaced or never finished; files that are not ours move to where they were.

    What can neither be removed nor moved stays, and with it the leftover.
    """
    for parent, folders, names in os.walk(leftover, topdown=False):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in (*names, *links):
            path = Path(parent) / name
            within = path.relative_to(leftover)
            with contextlib.suppress(OSError):  # it stays, and is tried again by the next run
                if ours(PurePosixPath(within.as_posix())):
                    path.unlink(missing_ok=True)
                elif not os.path.lexists(folder / within):
                    (folder / within).parent.mkdir(parents=True, exist_ok=True)
                    path.rename(folder / within)
        with contextlib.suppress(OSError):  # not empty
            Path(parent).rmdir()
