"""The folders of an fMRIPrep dataset: which folder is one, who is in it, which files lie where. Reads only.

Everything here lists folders and reads small JSON files; names are compared as written, links are not resolved, so
that DataLad datasets whose content is not there can be looked at.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shlex
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_fmmtc import reading
from bids_fmmtc.dataset.naming import Image, is_text, natural, printable, some
from bids_fmmtc.errors import DataError, InputError, MissingInputError, RepetitionTimeError, UnreadableError, UsageError
from bids_fmmtc.reading import read_object

Listing = Mapping[Path, frozenset[str]]

_log = logging.getLogger(__name__)
_DESCRIPTION = "dataset_description.json"
_LABEL = re.compile(r"sub-([A-Za-z0-9+]+)")
_PROBED = 20  # participants looked at to tell whether a folder that does not say so is fMRIPrep's
_TR_SECONDS = (0.05, 30.0)  # no scanner is faster or slower; 2000 is milliseconds
_POINTER = b"/annex/objects/"
_RENAME = "Rename it, or give a link with a plain name."


def find_derivatives(bids_dir: Path, derivatives: Sequence[tuple[str | None, Path]] = ()) -> tuple[Path, ...]:
    """Find the fMRIPrep datasets that a BIDS folder is or holds.

    Parameters
    ----------
    bids_dir
        An fMRIPrep output folder, or a raw dataset with one or several below ``derivatives/``.
    derivatives
        ``(name, path)`` of every ``--derivatives``; when given, nothing is looked for below ``bids_dir``.

    Returns
    -------
    Absolute paths, links not resolved; where two hold the same recording, the first one counts.

    Raises
    ------
    MissingInputError
        If a folder that was named does not exist.
    InputError
        If no fMRIPrep dataset is found, a folder cannot be read, or several versions of fMRIPrep lie beside each other
        and nobody said which: participants of one cohort would be prepared in different ways.
    """
    _refuse_no_folder(bids_dir, "Input")
    found = [bids_dir] if _is_fmriprep(bids_dir) else []
    if derivatives:
        found += [root for name, path in derivatives for root in _named(name, path)]
    elif not found:
        found = _below(bids_dir)
    if not found:
        inside = [entry.name for entry in entries(bids_dir / "derivatives") if is_folder(entry)]
        raise InputError(
            f"{bids_dir} holds no fMRIPrep output: neither it nor a folder below its derivatives/ names fMRIPrep in "
            f"{_DESCRIPTION} or holds *_desc-preproc_bold files; found {len(list_participants([bids_dir]))} sub-* "
            f"folders, derivatives: {some(inside)}.",
            "Give fMRIPrep's output folder as bids_dir, or name it with --derivatives PATH.",
        )
    roots = tuple(dict.fromkeys(Path(root).absolute() for root in found))
    for root in roots:
        if not is_text(str(root)):
            raise InputError(f"The name of dataset {printable(str(root))} is not UTF-8 text.", _RENAME)
    _mind_versions(roots, named=bool(derivatives))
    for root in roots:
        if not (root / _DESCRIPTION).exists():
            _log.warning("%s has no %s; taken for fMRIPrep output by its file names.", root, _DESCRIPTION)
    return roots


def _mind_versions(roots: Sequence[Path], *, named: bool) -> None:
    """Refuse several versions of fMRIPrep that were merely found; say so where they were named."""
    versions = {root: fmriprep_version(root) for root in roots}
    if len(set(versions.values())) < 2:
        _tell_shared(roots)
        return
    told = ", ".join(f"{root.name}: {version or 'unknown'}" for root, version in versions.items())
    if named:
        _log.warning("Several versions or settings of fMRIPrep are used together: %s.", told)
        return
    raise InputError(
        f"{roots[0].parent} holds the output of several versions or settings of fMRIPrep: {told}.",
        "Name the one to use with --derivatives PATH (or several of them, where they are meant to be mixed).",
    )


def _tell_shared(roots: Sequence[Path]) -> None:
    """Say that people are in several datasets, which nothing tells apart: of each recording the first one counts."""
    people = [set(list_participants([root])) for root in roots]
    shared = {label for place, one in enumerate(people) for other in people[:place] for label in one & other}
    if shared:
        _log.warning(
            "%s stand in several of %s; of each recording, the first that has it is used.",
            some(f"sub-{label}" for label in shared),
            ", ".join(root.name for root in roots),
        )


def fmriprep_version(root: Path) -> str:
    """Return how a dataset was made, as its description tells: fMRIPrep's version and, if any, a hash of its settings.

    In the multiverse layout (``fmriprep-VERSION-HASH``) one version may have run with several settings:
    ``25.2.3 (a1b2c3d4)``. Empty where the description tells neither.
    """
    entry = _made_by(root)
    version, settings = entry.get("Version") or entry.get("version") or "", entry.get("ConfigurationHash")
    return f"{version} ({settings})".strip() if settings else str(version)


def _refuse_no_folder(path: Path, what: str) -> None:
    if not path.exists():
        raise MissingInputError(f"{what} folder {path} does not exist.", "Check the path, or the container's mounts.")
    if not path.is_dir():
        raise InputError(f"{what} {path} is not a folder.")


def _named(name: str | None, path: Path) -> list[Path]:
    _refuse_no_folder(path, "Derivatives")
    found = [path] if _is_fmriprep(path) else _below(path)
    if not found:
        raise InputError(
            f"--derivatives {name + '=' if name else ''}{path} is no fMRIPrep output: its {_DESCRIPTION} does not name "
            "fMRIPrep and it holds no *_desc-preproc_bold files.",
            "Name the folder that holds fMRIPrep's sub-* folders.",
        )
    return found


def _below(folder: Path) -> list[Path]:
    """List fMRIPrep datasets in derivatives/, and in the folder itself, as fMRIPrep's old output layout has them."""
    found = []
    for parent in (folder / "derivatives", folder):
        there = sorted(entries(parent), key=lambda e: natural(e.name))
        found += [parent / entry.name for entry in there if is_folder(entry) and _is_one_below(parent / entry.name)]
    return found


def _is_one_below(folder: Path) -> bool:
    """Tell whether a folder beside others is an fMRIPrep dataset; one that cannot be read is told of, and is none."""
    likely = folder.name.lower().startswith("fmriprep")
    try:
        # Other pipelines are told by name only: some of them keep desc-preproc files of their own.
        return _names_fmriprep(folder) or (likely and _holds_preproc(folder))
    except InputError as error:
        _log.warning("%s Passed over.", error.message)
        return False


def _is_fmriprep(folder: Path) -> bool:
    return _names_fmriprep(folder) or _holds_preproc(folder)


def _names_fmriprep(folder: Path) -> bool:
    return str(_made_by(folder).get("Name", "")).lower().startswith("fmriprep")


def _made_by(folder: Path) -> Mapping[str, object]:
    """Return what a dataset's description says of the program that made it."""
    description = read_json(folder / _DESCRIPTION)
    # The first entry made the dataset; apps that run on fMRIPrep's output list it after themselves.
    made_by = description.get("GeneratedBy") or [description.get("PipelineDescription")]
    first = made_by[0] if isinstance(made_by, list) and made_by else made_by
    return first if isinstance(first, dict) else {}


def _holds_preproc(folder: Path) -> bool:
    for label in list_participants([folder])[:_PROBED]:
        with contextlib.suppress(InputError):  # one folder that cannot be read says nothing of the others
            if any("_desc-preproc_bold.nii" in name for names in func_files(folder, label).values() for name in names):
                return True
    return False


def list_participants(roots: Iterable[Path]) -> tuple[str, ...]:
    """List the labels of all ``sub-*`` folders of all roots, in natural order; files such as reports do not count.

    Raises
    ------
    InputError
        If a root cannot be read.
    """
    labels = {
        match[1]
        for root in roots
        for entry in entries(root)
        if (match := _LABEL.fullmatch(entry.name)) is not None and is_folder(entry)
    }
    return tuple(sorted(labels, key=natural))


def odd_folders(roots: Iterable[Path]) -> list[str]:
    """List the names of folders that begin as a participant's and hold no label, in any root."""
    names = [entry.name for root in roots for entry in entries(root) if is_folder(entry)]
    return [name for name in names if name.startswith("sub-") and _LABEL.fullmatch(name) is None]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder; one that cannot be looked at, as links in a circle, counts: it is named so."""
    try:
        return entry.is_dir()
    except OSError:
        return True


def func_files(root: Path, label: str) -> Listing:
    """List the names in a participant's ``func`` folders, of all sessions or of none."""
    subject = root / f"sub-{label}"
    names = sorted(entry.name for entry in entries(subject))
    folders = [subject / "func"] if "func" in names else []
    folders += [subject / name / "func" for name in names if name.startswith("ses-")]
    return {folder: frozenset(entry.name for entry in entries(folder)) for folder in folders}


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder; one that is not there, or is a file, holds nothing.

    Raises
    ------
    InputError
        If the folder is there and cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"Folder {folder} cannot be read: {error.strerror}.", "Check its permissions.") from None


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object on which no number rests; one that is absent, not fetched or malformed counts as empty."""
    try:
        return read_object(path)
    except UnreadableError:
        return {}


def filter_json(path: Path) -> Any:
    """Return the content of a filter file.

    Raises
    ------
    MissingInputError, UsageError
        It does not exist; it cannot be read as JSON.
    """
    if not path.exists():
        raise MissingInputError(f"Filter file {path} does not exist.")
    try:
        return reading.read_json(path)
    except UnreadableError as error:
        raise UsageError(f"Filter file {error.message}", error.hint) from None


def refuse_absent(path: Path) -> None:
    """Refuse a file whose content a DataLad or git-annex dataset has not fetched; empty files pass.

    Raises
    ------
    MissingInputError
        If the file is a dangling link or a git-annex pointer, or is not there any more.
    DataError
        If it is no regular file: reading a pipe or a device may never end. If its path is not UTF-8: it could not be
        written into JSON and tables.
    """
    if not is_text(str(path)):
        raise DataError(f"{printable(str(path))} is not UTF-8 text.", _RENAME)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is no regular file.", "Restore the file.")
        # An unlocked annexed file that is not fetched is a small text file with its key.
        small = 0 < found.st_size < 1024
        fetched = not small or not path.read_bytes().startswith(_POINTER)
    except FileNotFoundError:
        if not path.is_symlink():
            raise MissingInputError(
                f"{path} is not there any more.", "If --bids-database-dir is older than the dataset, delete it."
            ) from None
        fetched = False
    except OSError as error:
        raise MissingInputError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from None
    if not fetched:
        raise MissingInputError(
            f"{path} is not fetched: its link leads nowhere or it is a git-annex pointer.",
            f"datalad get {shlex.quote(str(path))}",
        )


def _repetition_time(value: Any, path: Path) -> float:
    low, high = _TR_SECONDS
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and low <= value <= high:
        return float(value)
    shown = f"{value:g}" if number else repr(value)
    raise RepetitionTimeError(
        f"{path} gives a repetition time of {shown[:60]}, expected a number from {low:g} to {high:g}, in seconds.",
        "Correct RepetitionTime in the sidecar.",
    )


class Sidecars:
    """Repetition times by BIDS inheritance; remembers what the dataset's upper folders hold."""

    def __init__(self) -> None:
        self._upper: dict[Path, list[str]] = {}

    def repetition_time(self, image: Image, names: Iterable[str]) -> float | None:
        """Return the repetition time of the nearest sidecar that tells one; None: no sidecar does, the header must.

        Parameters
        ----------
        image
            The BOLD image.
        names
            Files in its folder.

        Raises
        ------
        RepetitionTimeError
            If a sidecar is there and cannot be read, or its value is no number within 0.05 to 30 s, as when it is
            written in milliseconds. What stands in a file is never passed over for a guess.
        """
        for path in self._applying(image, names):
            try:
                data = read_object(path)
            except UnreadableError as error:
                raise RepetitionTimeError(
                    f"sidecar {error.message} Its repetition time would have to be guessed.",
                    error.hint or "Correct or fetch the sidecar, or remove it: the image's header counts then.",
                ) from None
            if data.get("RepetitionTime") is not None:
                return _repetition_time(data["RepetitionTime"], path)
        return None

    def _applying(self, image: Image, names: Iterable[str]) -> Iterable[Path]:
        """Yield sidecars whose labels are all the image's: nearest folder first, then most specific name."""
        labels = {f"{name}-{label}" for name, label in image.labels.items()}
        folder = image.path.parent
        while True:
            here = names if folder == image.path.parent else self._list(folder)
            apply = [(name.split("_")[:-1], name) for name in here if name.rpartition("_")[2] == "bold.json"]
            for _, name in sorted(((-len(own), name) for own, name in apply if labels.issuperset(own))):
                yield folder / name
            if folder == image.root:
                return
            folder = folder.parent

    def _list(self, folder: Path) -> list[str]:
        if folder not in self._upper:
            self._upper[folder] = [entry.name for entry in entries(folder) if entry.name.endswith("bold.json")]
        return self._upper[folder]
