"""Find parcel series that other programs made: tables below a folder, at any depth, told by their names.

Names of xcp_d, giga_connectome (its tsv; the h5 files of its early versions are not read), HALFpipe, this program, and
plain ``sub-01_timeseries.tsv``. No table of series is read here, only names and small JSON files.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bids_fmmtc.dataset.find.beside import IDENTITY, Neighbours, SeriesFile, identity_of, labels_of
from bids_fmmtc.dataset.folders import entries, filter_json, refuse_absent
from bids_fmmtc.dataset.naming import Filters, natural, parse_filters, some
from bids_fmmtc.errors import (
    FmmtcError,
    InputError,
    MissingInputError,
    SelectionError,
)
from bids_fmmtc.types import Failure, Recording, Selection, Skipped

_SUBJECT = re.compile(r"sub-([A-Za-z0-9+]+)")
_OWN_FIELD = frozenset({"sub", "ses", "task", "run"})
# desc- of tables with the same suffix that hold no parcels (fMRIPrep's confounds, and what splits them up).
_NO_SERIES = frozenset({"confounds", "motion", "metrics"})
_SPELLINGS = {
    "subject": "sub", "session": "ses", "acquisition": "acq", "reconstruction": "rec", "direction": "dir",
    "ceagent": "ce", "resolution": "res", "density": "den", "description": "desc", "segmentation": "seg",
    "measure": "meas", "statistic": "stat", "suffix": "suffix", "datatype": "datatype", "extension": "extension",
}  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """Which series are wanted; labels without their ``sub-`` and so on, none of a kind meaning all.

    Parameters
    ----------
    participants, sessions, spaces
        Labels. With ``spaces``, of each recording the first space that it has is taken.
    tasks
        Labels; a table without ``task-`` belongs to the first one.
    filters
        From `read_series_filters`.
    atlas
        `SeriesFile.atlas` of the tables to take.
    repetition_time
        Seconds, for tables whose sidecars tell none.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("rest",)
    spaces: tuple[str, ...] = ()
    filters: Filters = field(default_factory=dict)
    atlas: str | None = None
    repetition_time: float | None = None

    def selects(self, file: SeriesFile) -> bool:
        """Tell whether a table is one of those wanted."""
        labels = file.labels
        return (
            (not self.sessions or labels.get("ses") in self.sessions)
            and ("task" not in labels or not self.tasks or labels["task"] in self.tasks)
            and (not self.spaces or file.space in self.spaces)
            and file.matches(self.filters)
        )

    def __str__(self) -> str:
        parts = (("task", self.tasks), ("session", self.sessions), ("space", self.spaces))
        text = "".join(f" of {name} {some(labels)}" for name, labels in parts if labels)
        return f"series{text}{' that pass the filters' if self.filters.get('bold') else ''}"


# ---------------------------------------------------------------------------------------------------------------- find


@dataclass(frozen=True, slots=True)
class SeriesFolder:
    """What lies below a folder of series: its tables in natural order, and folders of participants that are closed.

    Parameters
    ----------
    path
        The folder.
    files
        Tables of all atlases.
    closed
        ``(label, what is wrong)`` of each folder below a ``sub-LABEL`` that cannot be read.
    """

    path: Path
    files: tuple[SeriesFile, ...]
    closed: tuple[tuple[str, str], ...] = ()


def find_series(folder: Path) -> SeriesFolder:
    """Find all tables of parcel series below a folder; links to folders are followed.

    A folder in it that cannot be read costs the participant that its path names; one that names none is told of.

    Raises
    ------
    MissingInputError
        The folder does not exist.
    InputError
        It is no folder, cannot be read, or holds no such table.
    """
    if not folder.exists():
        raise MissingInputError(f"--timeseries {folder} does not exist.", "Check the path, or the container's mounts.")
    if not folder.is_dir():
        raise InputError(f"--timeseries {folder} is not a folder.")
    entries(folder)  # raises where the folder itself is closed
    found: list[SeriesFile] = []
    odd: list[str] = []
    refused: list[OSError] = []
    for path in _walk(folder, refused.append):
        if not path.name.endswith("timeseries.tsv"):
            continue
        labels = labels_of(path.name)
        if labels is None or "sub" not in labels:
            odd.append(path.name)
        elif labels.get("desc") not in _NO_SERIES:
            found.append(SeriesFile(path, labels))
    if odd:
        _log.warning("Passed over %d tables whose names are not sub-LABEL_..._timeseries.tsv: %s.", len(odd), some(odd))
    if not found:
        raise InputError(
            f"{folder} holds no table of parcel series, sub-LABEL[_...]_timeseries.tsv (confounds do not count).",
            "Give the output folder of xcp_d, giga_connectome or HALFpipe, or tables of that name.",
        )
    return SeriesFolder(folder, tuple(sorted(found, key=lambda file: natural(str(file.path)))), _closed(refused))


def _closed(refused: Sequence[OSError]) -> tuple[tuple[str, str], ...]:
    """Return the participants whose folders cannot be read, and why; tell of folders that are no participant's."""
    closed = []
    for error in refused:
        text = f"Folder {error.filename} cannot be read: {error.strerror}."
        named = [match[1] for part in Path(error.filename).parts if (match := _SUBJECT.fullmatch(part)) is not None]
        if named:
            closed.append((named[-1], text))
        else:
            _log.warning("%s Passed over.", text)
    return tuple(sorted(closed))


def _walk(folder: Path, note: Callable[[OSError], None]) -> Iterable[Path]:
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(here)
        # A link to a folder above would be followed for ever.
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            _note_circles(Path(here), names, note)
            yield from (Path(here) / name for name in names if not name.startswith("."))
        seen.add(real)


def _note_circles(folder: Path, names: Iterable[str], note: Callable[[OSError], None]) -> None:
    """Note participants whose folder is a circle of links, which walking takes for a file."""
    for name in names:
        if _SUBJECT.fullmatch(name) is not None:
            try:
                (folder / name).stat()
            except OSError as error:
                if error.errno == errno.ELOOP:
                    note(error)


def choose_atlas(files: Sequence[SeriesFile], wanted: str | None, folder: Path, *, strict: bool = False) -> str | None:
    """Return the atlas (see `SeriesFile.atlas`) of the tables to take.

    Parameters
    ----------
    wanted
        Name of an atlas, compared by letters and digits; None takes the only one there is.
    strict
        Do not take the only one there is where it has another name.

    Raises
    ------
    SelectionError
        There are several and none, or not the wanted one, is named.
    """
    there = sorted({file.atlas or "" for file in files}, key=natural)
    for name in there:
        if wanted is not None and _plain(name) == _plain(wanted):
            return name or None
    if len(there) == 1 and not (strict and wanted is not None and there[0]):
        return there[0] or None
    names = ", ".join(name or "(none in the name)" for name in there)
    asked = "" if wanted is None else f", not of {wanted}"
    raise SelectionError(
        f"{folder} holds series of atlas {names}{asked}.",
        "Choose one with --atlas NAME, or name the atlas's table atlas-NAME_dseg.tsv.",
    )


def _plain(label: str) -> str:
    return "".join(c for c in label.casefold() if c.isalnum())


def read_series_filters(path: Path | None) -> Filters:
    """Read a ``--bids-filter-file``; its query ``bold`` chooses series by any entity of their names.

    Raises
    ------
    MissingInputError, UsageError
        As `discover.read_filter_file`, but entities need not be known to BIDS (HALFpipe's ``feature``).
    """
    if path is None:
        return {}
    data = filter_json(path)
    bold = data.get("bold") if isinstance(data, dict) else None
    own = {str(k): str(k) for k in bold} if isinstance(bold, dict) else {}
    return parse_filters(data, own | _SPELLINGS, f"filter file {path}")


# -------------------------------------------------------------------------------------------------------------- select


def select_series(found: SeriesFolder, query: SeriesQuery) -> Selection:
    """Turn tables into recordings; every participant has a recording or a failure.

    One table is taken for each recording, and all must be of one variant (space, denoising, feature): what a model
    learns from must have been made alike. A table without ``run-`` or ``dir-`` beside tables that have it is these laid
    end to end (as xcp_d writes them) and is passed over.

    Raises
    ------
    SelectionError
        An unknown participant, nothing selected, or tables of several variants.
    """
    folder, files = found.path, found.files
    everyone = {file.labels["sub"] for file in files} | {label for label, _ in found.closed}
    unknown = set(query.participants) - everyone
    if unknown:
        raise SelectionError(
            f"No participant {some(unknown)} in {folder}; found {some(everyone)}.",
            "Labels are compared as written: 1 is not 01.",
        )
    labels = sorted(set(query.participants) or everyone, key=natural)
    ours = [file for file in files if file.atlas == query.atlas and file.labels["sub"] in set(labels)]
    chosen = _first_space([file for file in ours if query.selects(file)], query.spaces)
    absent = _absent(ours, query)
    if absent or not chosen:
        missing = f" ({absent})" if absent and chosen else ""
        raise SelectionError(
            f"No {query} in {folder}{missing}; found {_found(ours)}.", "Check the labels, and the filter file if any."
        )
    _refuse_variants(chosen, folder, query)
    chosen, skipped = _without_concatenations(chosen)
    recordings, failures = _recordings(folder, chosen, query)
    closed = {label: InputError(text, "Check its permissions.") for label, text in found.closed if label in labels}
    failures += [_failure(f"sub-{label}", error) for label, error in closed.items()]
    for label in labels:
        if label not in closed and not any(file.labels["sub"] == label for file in chosen):
            there = _found([file for file in ours if file.labels["sub"] == label])
            error = SelectionError(f"sub-{label} has no {query}; found {there}.")
            failures.append(_failure(f"sub-{label}", error))
    return Selection(
        tuple(sorted(recordings, key=lambda r: natural(r.key))),
        skipped,
        tuple(sorted(failures, key=lambda f: natural(f.key))),
    )


def _absent(files: Sequence[SeriesFile], query: SeriesQuery) -> str:
    """Name the sessions and tasks asked for that nobody has: typing errors, mostly."""
    sessions = {f.labels["ses"] for f in files if "ses" in f.labels}
    tasks = {f.labels.get("task", *query.tasks[:1]) for f in files}
    missing = {"session": set(query.sessions) - sessions, "task": set(query.tasks) - tasks}
    return "; ".join(f"no {name} {some(labels)}" for name, labels in missing.items() if labels)


def _first_space(files: Sequence[SeriesFile], spaces: Sequence[str]) -> list[SeriesFile]:
    """Keep, of each recording, the tables in the most wanted space it has."""
    if not spaces:
        return list(files)
    best: dict[Any, int] = {}
    for file in files:
        rank = spaces.index(file.space)
        best[file.identity] = min(rank, best.get(file.identity, rank))
    return [file for file in files if spaces.index(file.space) == best[file.identity]]


def _found(files: Sequence[SeriesFile]) -> str:
    if not files:
        return "no series of this atlas"
    names = {k: {f.labels[k] for f in files if k in f.labels} for k in ("task", "ses", "space", "desc", "feature")}
    return "; ".join(f"{name}- {some(labels)}" for name, labels in names.items() if labels) or "tables without labels"


def _refuse_variants(files: Sequence[SeriesFile], folder: Path, query: SeriesQuery) -> None:
    variants = {tuple(pair for pair in f.variant if not (query.spaces and pair[0] == "space")) for f in files}
    if len(variants) == 1:
        return
    keys = sorted({key for variant in variants for key, _ in variant})
    values = {k: sorted({dict(v).get(k, "") for v in variants}) for k in keys}
    differ = {k: v for k, v in values.items() if len(v) > 1}
    told = "; ".join(f"{k}-: {', '.join(label or '(none)' for label in v)}" for k, v in differ.items())
    name, labels = next(iter(differ.items()))
    raise SelectionError(
        f"{folder} holds several kinds of series, which must not be mixed: {told}.",
        "Choose one with --space."
        if set(differ) == {"space"}
        else f'Choose one with --bids-filter-file, a JSON file such as {{"bold": {{"{name}": "{labels[-1]}"}}}}.',
    )


def _without_concatenations(files: Sequence[SeriesFile]) -> tuple[list[SeriesFile], tuple[Skipped, ...]]:
    """Pass over tables of several scans laid end to end: xcp_d names them after the scans, without run- and dir-."""
    parts = {
        frozenset(p for p in f.identity if p[0] not in dropped): "- and ".join(sorted(dropped)) + "-"
        for dropped in ({"run", "dir"}, {"dir"}, {"run"})
        for f in files
        if all(key in f.labels for key in dropped)
    }
    kept, skipped = [], []
    for file in files:
        found = parts.get(frozenset(file.identity))
        if found is not None:
            reason = f"no {found} beside tables that have it: taken for these laid end to end"
            skipped.append(Skipped(file.labels["sub"], file.path, reason))
        else:
            kept.append(file)
    return kept, tuple(skipped)


def _recordings(folder: Path, files: Sequence[SeriesFile], query: SeriesQuery) -> tuple[list[Recording], list[Failure]]:
    beside = Neighbours(folder)
    task = (query.tasks or ("rest",))[0]
    groups: dict[Any, list[SeriesFile]] = {}
    for file in files:
        groups.setdefault(identity_of({"task": task, **file.labels}), []).append(file)
    recordings, failures = [], []
    for group in groups.values():
        first = group[0]
        bare = _recording(folder, first, task)
        try:
            if len(group) > 1:
                names = ", ".join(str(f.path.relative_to(folder)) for f in group)
                raise SelectionError(f"{bare.key} has several series: {names}.", "Keep one of them in the folder.")
            refuse_absent(first.path)
            time = beside.repetition_time(first, query.repetition_time)
            motion = beside.motion(first)
            if motion is not None:
                refuse_absent(motion)
            recordings.append(_recording(folder, first, task, motion, time))
        except FmmtcError as error:
            failures.append(_failure(bare.key, error))
    return recordings, failures


def _recording(
    folder: Path, file: SeriesFile, task: str, motion: Path | None = None, repetition_time: float | None = None
) -> Recording:
    labels = file.labels
    return Recording(
        subject=labels["sub"],
        session=labels.get("ses"),
        task=labels.get("task", task),
        run=labels.get("run"),
        entities=tuple((k, v) for k, v in labels.items() if k in IDENTITY and k not in _OWN_FIELD),
        space=file.space,
        resolution=labels.get("res"),
        bold=file.path,
        mask=None,
        confounds=motion,
        repetition_time=repetition_time,
        dataset=folder,
    )


def _failure(key: str, error: FmmtcError) -> Failure:
    return Failure(key, "discover", error.kind, error.message, error.hint)
