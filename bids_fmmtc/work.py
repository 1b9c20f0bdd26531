"""The work folder: task files, logs and caches of one user's runs into one output folder; and the locks in it.

Its name can be guessed and often lies where everybody may write, so that what is found there is not trusted: it is a
folder of ours that nobody else can enter, or it is refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bids_fmmtc.errors import OutputError
from bids_fmmtc.settings import Settings

log = logging.getLogger("bids_fmmtc")

_PRIVATE = 0o700
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_REMEDY = "Remove it, or give another place with --work-dir."


def work_folder(settings: Settings) -> Path:
    """Return the folder for task files and logs: one per user and output folder, so that runs do not mix."""
    mark = hashlib.sha256(f"{os.getuid()}:{settings.output_dir.resolve()}".encode()).hexdigest()[:12]
    return (settings.work_dir or Path(tempfile.gettempdir())) / f"bids_fmmtc-{mark}"


def open_work(settings: Settings) -> Path:
    """Make the work folder if it is not there, and make sure that it is ours alone (mode 0700).

    Returns
    -------
    Path
        As `work_folder`.

    Raises
    ------
    OutputError
        It cannot be made; or what lies there is no folder, a link, somebody else's, or open to others.
    """
    folder = work_folder(settings)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(_PRIVATE)
        except FileExistsError:
            _make_private(folder)
        _refuse_foreign(folder)
        with lock(folder / "lock", wait=False):
            pass
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"work folder {folder} cannot be made: {error.strerror or error}.", "Give another place with --work-dir."
        ) from None
    return folder


def _make_private(folder: Path) -> None:
    """Close a folder of ours that others could look into but not write to, as one made under another umask is."""
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        folder.chmod(_PRIVATE)


def _refuse_foreign(folder: Path) -> None:
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise OutputError(f"work folder {folder} is a link, which is not followed.", _REMEDY)
    if not stat.S_ISDIR(found.st_mode):
        raise OutputError(f"work folder {folder} is not a folder.", _REMEDY)
    if found.st_uid != os.geteuid():
        raise OutputError(f"work folder {folder} belongs to another user (number {found.st_uid}).", _REMEDY)
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise OutputError(
            f"work folder {folder} is open to others (mode {mode:04o}, expected 0700).",
            "Remove it, or give --work-dir on a disk that keeps permissions.",
        )


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a lock while a block runs.

    Whoever inherits the descriptor holds it, too, so that a process started in the block keeps it for as long as it
    lives. A file system without locks is taken to have one user, and `open_work` says so once: two runs of the same
    participant at once then do the work twice, and write the same bytes.

    Parameters
    ----------
    path
        Made if absent, opened without being followed, cut off or written.
    wait
        For somebody else to let go of it; if not, the block runs all the same.

    Yields
    ------
    int
        The open descriptor.

    Raises
    ------
    OutputError
        The file cannot be opened or is not ours, or locking failed.
    """
    descriptor = open_own(path, os.O_RDWR)  # for writing: NFS locks nothing else
    try:
        try:
            _take(descriptor, path.parent.name, wait=wait)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise OutputError(f"cannot lock {path}: {error.strerror or error}.", _REMEDY) from None
            if not wait:
                log.warning(
                    "The work folder's disk has no file locks (%s): runs of one participant at once will not wait for "
                    "each other. Give --work-dir on a local disk.",
                    errno.errorcode[error.errno],
                )
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, what: str, *, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if wait:
            log.info("%s: another run works on it; waiting for that.", what)
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def open_own(path: Path, how: int) -> int:
    """Open a regular file of ours, made if absent, without following a link; returns the descriptor.

    Raises
    ------
    OutputError
        It cannot be opened, or is a link, no regular file, or somebody else's.
    """
    try:
        descriptor = os.open(path, how | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        told = "it is a link" if error.errno == errno.ELOOP else error.strerror or error
        raise OutputError(f"cannot open {path}: {told}.", _REMEDY) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(descriptor)
        raise OutputError(f"{path} is not a file of ours.", _REMEDY)
    return descriptor
