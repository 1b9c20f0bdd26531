"""Find preprocessed recordings: fMRIPrep datasets in, one image per recording out. Writes nothing into the input.

Folders are listed and names parsed with pybids' entities: a pybids layout of a whole dataset takes about 0.1 s and
1.7 MB a participant, this about 2 ms and nothing. A layout is made or reused only where the user names a folder
for its database; it then replaces the listing of ``func`` folders, and all else stays the same.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from bids_fmmtc.dataset.folders import (
    Listing,
    Sidecars,
    filter_json,
    find_derivatives,
    func_files,
    list_participants,
    odd_folders,
    refuse_absent,
)
from bids_fmmtc.dataset.naming import (
    Filters,
    Image,
    echo_will_do,
    is_old_name,
    matches,
    natural,
    nothing_usable,
    parse_filters,
    passed_over,
    preference,
    some,
    unusable,
)
from bids_fmmtc.errors import (
    FmmtcError,
    InputError,
    OutputError,
    SelectionError,
    UsageError,
)
from bids_fmmtc.types import Failure, Recording, Selection, Skipped

__all__ = ["Query", "find_derivatives", "find_recordings", "list_participants", "read_filter_file"]

_log = logging.getLogger(__name__)
_DATABASE = "layout_index.sqlite"
_NOT_FUNC = r"^/(code|derivatives|logs|sourcedata)(/|$)|^/sub-[^/]+/(ses-[^/]+/)?(anat|dwi|figures|fmap|log|perf)(/|$)"


@dataclass(frozen=True, slots=True)
class Query:
    """Which recordings are wanted; labels with or without their ``sub-``, ``ses-`` and so on.

    Parameters
    ----------
    participants, sessions, tasks
        Labels; empty means all that are there.
    spaces
        Template spaces, the most wanted first. Of each recording one image is used: in the first space it has.
    bold_desc
        ``desc-`` of the image to start from: ``preproc`` or ``smoothAROMAnonaggr``.
    filters
        As in fMRIPrep's ``--bids-filter-file``; see `read_filter_file`.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("rest",)
    spaces: tuple[str, ...] = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
    bold_desc: str = "preproc"
    filters: Filters = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, prefix in (("participants", "sub-"), ("sessions", "ses-"), ("tasks", "task-"), ("spaces", "space-")):
            labels = dict.fromkeys(label.removeprefix(prefix) for label in getattr(self, name))
            object.__setattr__(self, name, tuple(labels))
        if not self.spaces:
            raise UsageError("At least one template space must be named.")

    def selects(self, image: Image) -> bool:
        """Tell whether an image is of a wanted task and session and passes the filters."""
        return (
            (not self.tasks or image.labels["task"] in self.tasks)
            and (not self.sessions or image.labels.get("ses") in self.sessions)
            and matches(image, self.filters.get("bold", {}))
        )

    def __str__(self) -> str:
        tasks = f" of task {some(self.tasks)}" if self.tasks else ""
        sessions = f" in session {some(self.sessions)}" if self.sessions else ""
        return f"BOLD recording{tasks}{sessions}{' that passes the filters' if self.filters.get('bold') else ''}"


def read_filter_file(path: Path) -> Filters:
    """Read a ``--bids-filter-file`` with fMRIPrep's meaning.

    A JSON object whose query ``bold`` maps entities (``acq`` or ``acquisition``) to a label, a list of labels, null
    (the entity must be absent) or ``"*"`` (any label). fMRIPrep's other queries (``t1w``, ...) have no effect.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    UsageError
        If it is not such an object, or names an unknown query or entity.
    """
    return parse_filters(filter_json(path), _spellings(), f"filter file {path}")


def find_recordings(roots: Sequence[Path], query: Query, database_dir: Path | None = None) -> Selection:
    """Find the recordings that a query selects; every participant has a recording or a failure.

    Parameters
    ----------
    roots
        fMRIPrep datasets, from `find_derivatives`.
    query
        What is wanted.
    database_dir
        Folder of a pybids database: reused as it is when there, else made; with several roots, one folder below it
        for each. A database that lacks a participant who is there is refused: it may serve other jobs.

    Raises
    ------
    SelectionError
        If a participant is unknown, nobody has a named session or task, or nobody has what the query selects.
    InputError
        If a root or the database cannot be read, or the database is another dataset's or out of date.
    UsageError
        If a filter is invalid or the database would have to be made inside the input.
    OutputError
        If the database cannot be made.
    """
    roots = [Path(root).absolute() for root in roots]
    query = replace(query, filters=parse_filters(query.filters, _spellings(), "filters"))
    everyone = list_participants(roots)
    labels = _asked(roots, everyone, query)
    if (odd := odd_folders(roots)) and not query.participants:
        _log.warning("Passed over %d folders that are no sub-LABEL (letters and digits): %s.", len(odd), some(odd))
    finder = _Finder(roots, [_lister(root, roots, labels, database_dir) for root in roots], query)
    for label in labels:
        finder.add(label)
    finder.tell_unread()
    _refuse_empty(finder, set(everyone).difference(labels))
    return finder.selection()


def _asked(roots: Sequence[Path], everyone: tuple[str, ...], query: Query) -> tuple[str, ...]:
    where = " or ".join(map(str, roots))
    if not everyone:
        raise SelectionError(f"{where} holds no participant folder (sub-*).")
    unknown = set(query.participants) - set(everyone)
    if unknown:
        raise SelectionError(
            f"No participant {some(unknown)} in {where}; found {some(everyone)}.",
            "Labels are compared as written: 1 is not 01.",
        )
    return tuple(sorted(query.participants, key=natural)) or everyone


def _refuse_empty(finder: _Finder, others: set[str]) -> None:
    """Refuse a query that nobody meets. Others are looked at only to tell a typing error from an absent session."""
    nothing = not finder.recordings and not finder.failures
    unreadable = any(failure.kind == InputError.kind for failure in finder.failures)
    if unreadable or (not nothing and not finder.absent()):
        return
    finder.listers = [partial(func_files, root) for root in finder.roots]
    for label in others:
        with contextlib.suppress(InputError):
            finder.look(label)
    absent = finder.absent()
    if finder.old and not finder.there["task"]:
        raise _old_names(" or ".join(map(str, finder.roots)), finder.old)
    if absent or not finder.selected:
        missing = "; ".join(f"no {name} {some(labels)}" for name, labels in absent.items())
        raise SelectionError(
            f"No {finder.query} in {' or '.join(map(str, finder.roots))}"
            f"{f' ({missing})' if missing else ''}; found {_found(finder.there)}.",
            "Check the labels, and the filter file if there is one.",
        )


class _Finder:
    """Collects what there is, participant by participant."""

    def __init__(self, roots: Sequence[Path], listers: Sequence[Callable[[str], Listing]], query: Query) -> None:
        self.roots, self.listers, self.query = roots, listers, query
        self.recordings: list[Recording] = []
        self.skipped: list[Skipped] = []
        self.failures: list[Failure] = []
        self.without: list[Failure] = []
        self.there = _labels([])
        self.old: list[str] = []
        self.unread: list[str] = []
        self.selected = False
        self._sidecars = Sidecars()

    def absent(self) -> dict[str, set[str]]:
        """Return the named sessions and tasks that nobody looked at so far has."""
        asked = {"session": self.query.sessions, "task": self.query.tasks}
        missing = {name: set(labels) - self.there[name] for name, labels in asked.items()}
        return {name: labels for name, labels in missing.items() if labels}

    def tell_unread(self) -> None:
        """Say which BOLD files have names that cannot be read, so that none is lost unseen."""
        if self.unread:
            _log.warning(
                "Passed over %d BOLD files whose names are no BIDS names: %s.", len(self.unread), some(self.unread)
            )

    def look(self, label: str) -> tuple[list[Image], list[Listing]]:
        """Parse the names of all BOLD files of a participant and remember which labels there are."""
        listings = [lister(label) for lister in self.listers]
        images = [
            image
            for order, (root, listing) in enumerate(zip(self.roots, listings, strict=True))
            for image in _images(root, order, listing, self.unread)
        ]
        self.there = {name: labels | self.there[name] for name, labels in _labels(images).items()}
        self.selected = self.selected or any(map(self.query.selects, images))
        self.old += [name for listing in listings for names in listing.values() for name in names if is_old_name(name)]
        return images, listings

    def add(self, label: str) -> None:
        """Choose one participant's recordings; what cannot be used becomes a failure."""
        key = f"sub-{label}"
        try:
            images, listings = self.look(label)
        except FmmtcError as error:
            self.failures.append(_failure(key, error))
            return
        groups: dict[Any, list[Image]] = {}
        for image in filter(self.query.selects, images):
            groups.setdefault(image.identity, []).append(image)
        if not groups:
            nothing = SelectionError(f"{key} has no {self.query}; found {_found(_labels(images))}.")
            old = [] if images else [name for name in self.old if name.startswith(f"{key}_")]
            self.without.append(_failure(key, _old_names(key, old) if old else nothing))
        for group in groups.values():
            self._choose(group, listings)

    def _choose(self, group: list[Image], listings: list[Listing]) -> None:
        query = self.query
        one_echo = echo_will_do(group, query.bold_desc)
        reasons = {image.path: unusable(image, query.bold_desc, query.spaces, one_echo=one_echo) for image in group}
        usable = [image for image in group if reasons[image.path] is None]
        if not usable:
            self.failures.append(
                _failure(group[0].recording().key, nothing_usable(group, query.bold_desc, query.spaces))
            )
            return
        chosen = min(usable, key=lambda image: preference(image, query.spaces))
        try:
            self.recordings.append(self._complete(chosen, listings[chosen.order][chosen.path.parent]))
        except FmmtcError as error:
            self.failures.append(_failure(chosen.recording().key, error))
        self.skipped += [
            Skipped(image.labels["sub"], image.path, reasons[image.path] or passed_over(image, chosen))
            for image in group
            if image is not chosen
        ]

    def _complete(self, image: Image, names: frozenset[str]) -> Recording:
        mask = next((image.path.with_name(name) for name in image.masks if name in names), None)
        confounds = next((image.path.with_name(name) for name in image.confounds if name in names), None)
        for path in (image.path, mask, confounds):
            if path is not None:
                refuse_absent(path)
        return image.recording(mask, confounds, self._sidecars.repetition_time(image, names))

    def selection(self) -> Selection:
        """Return everything in natural order."""
        return Selection(
            tuple(sorted(self.recordings, key=lambda recording: natural(recording.key))),
            tuple(sorted(self.skipped, key=lambda skipped: natural(str(skipped.path)))),
            tuple(sorted((*self.failures, *self.without), key=lambda failure: natural(failure.key))),
        )


def _old_names(what: str, names: Sequence[str]) -> SelectionError:
    """Return the error of names that fMRIPrep gave before 1.2."""
    return SelectionError(
        f"{what} holds names of fMRIPrep before 1.2, such as {min(names)} (preproc without desc-), which are not read.",
        "Rename the files as fMRIPrep names them since (..._space-S_desc-preproc_bold.nii.gz, "
        "..._desc-brain_mask.nii.gz, ..._desc-confounds_regressors.tsv), or rerun fMRIPrep.",
    )


def _labels(images: Sequence[Image]) -> dict[str, set[str]]:
    return {
        "task": {image.labels["task"] for image in images},
        "session": {image.labels["ses"] for image in images if "ses" in image.labels},
        "space": {image.space for image in images},
    }


def _found(labels: Mapping[str, set[str]]) -> str:
    if not labels["task"]:
        return "no BOLD files in func folders"
    return "; ".join(f"{name}s {some(values)}" for name, values in labels.items())


def _failure(key: str, error: FmmtcError) -> Failure:
    return Failure(key, "discover", error.kind, error.message, error.hint)


def _images(root: Path, order: int, listing: Listing, unread: list[str]) -> Iterator[Image]:
    """Yield the BOLD files of a participant; add the names that cannot be parsed to ``unread``."""
    for folder, names in listing.items():
        for name in sorted(names):
            if "_bold." in name and name.endswith((".nii.gz", ".nii", ".gii")):
                image = _parse(root, order, folder, name)
                if image is not None:
                    yield image
                elif not is_old_name(name):
                    unread.append(name)


def _parse(root: Path, order: int, folder: Path, name: str) -> Image | None:
    """Parse a file name with pybids; None when it is no BIDS name or lies in another's folder."""
    from bids.layout import parse_file_entities  # noqa: PLC0415 - takes 0.6 s

    stem, _, extension = name.partition(".")
    tokens = stem.split("_")[:-1]
    entities = _entities_of(tuple(token.partition("-")[0] for token in tokens))
    found = parse_file_entities(f"/{(folder / name).relative_to(root)}", entities=list(entities.values()))
    labels = {short: str(found[entity.name]) for short, entity in entities.items() if entity.name in found}
    # pybids searches the whole path, takes the first match and passes over what it does not know.
    if not {"sub", "task"} <= labels.keys() or sorted(tokens) != sorted(f"{k}-{v}" for k, v in labels.items()):
        return None
    return Image(root, order, folder / name, labels, f".{extension}")


@lru_cache(maxsize=1)
def _entities() -> dict[str, Any]:
    """Return pybids' entities of raw and derivative names by short name (``acq``), in their order."""
    from bids.layout.models import Config, Entity  # noqa: PLC0415

    entities = [*Config.load("bids").entities.values(), *Config.load("derivatives").entities.values()]
    # Paediatric templates have cohorts, which pybids 0.22 does not know.
    entities.append(Entity("cohort", r"[_/\\]+cohort-([a-zA-Z0-9+]+)"))
    short = {entity: re.search(r"([a-z]+)-\(", entity.pattern) for entity in entities}
    return {match[1]: entity for entity, match in short.items() if match is not None}


@lru_cache(maxsize=256)
def _entities_of(names: tuple[str, ...]) -> dict[str, Any]:
    """Return the entities of a name, in its order; the folder's subject and session always."""
    known = _entities()
    return {name: known[name] for name in (*names, "sub", "ses") if name in known}


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    """Map the short and the long name of every entity to the short one."""
    spellings = {"suffix": "suffix", "datatype": "datatype", "extension": "extension"}
    for short, entity in _entities().items():
        spellings |= {short: short, entity.name: short}
    return spellings


def _lister(
    root: Path, roots: Sequence[Path], labels: Sequence[str], database_dir: Path | None
) -> Callable[[str], Listing]:
    """Return the function that lists a participant's ``func`` folders: from disk, or from a pybids database."""
    if database_dir is None:
        return partial(func_files, root)
    folder = Path(database_dir).absolute()
    if len(roots) > 1:
        folder /= f"{roots.index(root) + 1}-{root.name}"
    if not (folder / _DATABASE).exists():
        if any(folder.resolve().is_relative_to(each.resolve()) for each in roots):
            raise UsageError(f"--bids-database-dir {folder} lies in the input, which is never written to.")
        _make_database(root, folder)
    listings = _read_database(root, folder, labels)
    missing = [label for label in labels if label not in listings and any(func_files(root, label).values())]
    if missing:
        raise InputError(
            f"The pybids database in {folder} does not know participant {some(missing)}, who is in {root}.",
            "Delete the database, or leave --bids-database-dir out.",
        )
    return lambda label: listings.get(label) or func_files(root, label)


def _make_database(root: Path, folder: Path) -> None:
    """Index all ``func`` folders; the database appears under its name only when it is complete."""
    from bids.layout import BIDSLayout, BIDSLayoutIndexer  # noqa: PLC0415

    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[re.compile(_NOT_FUNC)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".indexing-") as temporary:
            layout = BIDSLayout(
                root, validate=False, config=["bids", "derivatives"], database_path=temporary, indexer=indexer
            )
            layout.session.close()
            shutil.move(Path(temporary) / _DATABASE, folder / _DATABASE)
    except OSError as error:
        raise OutputError(f"The pybids database cannot be made in {folder}: {error}.") from error


def _read_database(root: Path, folder: Path, labels: Sequence[str]) -> dict[str, dict[Path, frozenset[str]]]:
    from bids.layout import BIDSLayout  # noqa: PLC0415

    try:
        layout = BIDSLayout(root, database_path=folder, validate=False)
        found = layout.get(return_type="filename", datatype="func", subject=list(labels))
    except Exception as error:  # pybids lets sqlalchemy's and sqlite's errors through
        raise InputError(
            f"The pybids database in {folder} cannot be read: {type(error).__name__}: {error}".splitlines()[0],
            "Delete it, or leave --bids-database-dir out.",
        ) from error
    indexed = Path(layout.root)
    if indexed.resolve() != root.resolve():
        raise InputError(
            f"The pybids database in {folder} is of {indexed}, not of {root}.",
            "Name another --bids-database-dir, or leave it out.",
        )
    names: dict[str, dict[Path, set[str]]] = {}
    for path in (root / Path(path).relative_to(indexed) for path in found):
        label = path.relative_to(root).parts[0].removeprefix("sub-")
        names.setdefault(label, {}).setdefault(path.parent, set()).add(path.name)
    return {label: {f: frozenset(n) for f, n in folders.items()} for label, folders in names.items()}
