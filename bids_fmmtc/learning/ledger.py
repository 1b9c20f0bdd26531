"""Finished pieces of a long computation, kept on disk so that a killed run goes on where it was.

A piece is named arrays under a name; the run it belongs to is a digest of everything that decides its numbers, so a
piece of another run is never taken for one of this. A piece is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import OutputError

Arrays = Mapping[str, NDArray[np.generic]]
_NAMES = "names of this piece"


class Ledger:
    """Remembers pieces below ``folder/digest``; without a folder it remembers nothing.

    Parameters
    ----------
    folder
        Work folder, made when first written to; None for none.
    digest
        What the pieces depend on.
    """

    def __init__(self, folder: Path | None, digest: str) -> None:
        self.folder = None if folder is None else folder / digest[:24]

    def path(self, name: str, extension: str = ".npz") -> Path | None:
        """Return where a piece of this name lies; None without a folder."""
        if self.folder is None:
            return None
        # A name may be long or hold any character: it is only looked up, never listed.
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}{extension}"

    def get(self, name: str) -> dict[str, NDArray[np.generic]] | None:
        """Return a piece, or None where it is absent or damaged."""
        path = self.path(name)
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                piece = {key: file[key] for key in file.files}  # every member has a checksum
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
            return None
        # A damaged table of contents may leave members out.
        names = piece.pop(_NAMES, None)
        return piece if names is not None and sorted(piece) == names.tolist() else None

    def put(self, name: str, piece: Arrays) -> None:
        """Keep a piece.

        Raises
        ------
        OutputError
            The work folder cannot be written.
        """
        path = self.path(name)
        if path is None:
            return
        named: dict[str, NDArray[np.generic]] = {**piece, _NAMES: np.array(sorted(piece), dtype=np.str_)}
        self.write(path, lambda temporary: np.savez(temporary, allow_pickle=False, **named))

    def once(self, name: str, compute: Callable[[], Arrays]) -> dict[str, NDArray[np.generic]]:
        """Return the piece of this name, computing and keeping it if it is not there."""
        found = self.get(name)
        if found is None:
            found = {key: np.asarray(value) for key, value in compute().items()}
            self.put(name, found)
        return found

    @staticmethod
    def write(path: Path, save: Callable[[Path], object]) -> None:
        """Have ``save`` write a temporary file, then move it into place.

        Raises
        ------
        OutputError
            The folder or the file cannot be written.
        """
        temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(temporary)
            temporary.replace(path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if not isinstance(error, OSError):
                raise
            raise OutputError(f"cannot write {path}: {error.strerror or error}.", "Check the work folder.") from None

    def forget(self, name: str, extension: str = ".npz") -> None:
        """Remove a piece if it is there."""
        path = self.path(name, extension)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()
