"""What stands in output datasets of ours: the record of every recording, and the recipe they were made with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_fmmtc.dataset.derivatives.describe import DESCRIPTION, NAME, Own, own_entry
from bids_fmmtc.dataset.derivatives.standing import attempt_reason, names_in, stale_reason
from bids_fmmtc.dataset.folders import func_files, list_participants
from bids_fmmtc.dataset.naming import natural, some
from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.errors import InputError, MissingInputError, RecipeError
from bids_fmmtc.keys import Key
from bids_fmmtc.plain import Json
from bids_fmmtc.recipe import Recipe, differences
from bids_fmmtc.states import RecordingState

PREPARED_BY = "FMRIPrepVersion"
"""Key of a record: the version of fMRIPrep that made the image."""


@dataclass(frozen=True, slots=True)
class Record:
    """The state of one recording: a ``*_features.json`` and what it holds.

    Parameters
    ----------
    key
        The recording's key by the file's name; ``sub-01`` where nothing of a participant could be found.
    root, path
        The output dataset and the file.
    content
        What the file holds; empty where it cannot be read.
    problem
        Why there are no features to use, or empty.
    """

    key: Key
    root: Path
    path: Path
    content: Mapping[str, Json]
    problem: str

    @property
    def state(self) -> RecordingState:
        """Stale are features made before their input changed."""
        if not self.problem:
            return RecordingState.OK
        stale = self.content.get("Status") == RecordingState.STALE and self.problem == stale_reason(self.content)
        return RecordingState.STALE if stale else RecordingState.FAILED

    @property
    def last_attempt(self) -> str:
        """Why the last attempt failed, where features of an earlier one are there; else empty."""
        return attempt_reason(self.content)

    @property
    def outputs(self) -> list[str]:
        """Files that belong to it, relative to the dataset."""
        return names_in(self.content, "Outputs")

    @property
    def sources(self) -> list[str]:
        """URIs of the files it was made of."""
        return names_in(self.content, "Sources")

    @property
    def spans(self) -> list[tuple[float, float]]:
        """Seconds at which each window begins and ends."""
        found = self.content.get("WindowOnsets")
        pairs = [each for each in found if isinstance(each, list)] if isinstance(found, list) else []
        return [(float(first), float(last)) for first, last in pairs]

    @property
    def modalities(self) -> list[str]:
        """Whose features it holds."""
        found = self.content.get("Modalities")
        return list(found) if isinstance(found, dict) else []

    @property
    def digest(self) -> str | None:
        """Of the recipe it was made with."""
        found = self.content.get("RecipeDigest")
        return found if isinstance(found, str) else None

    @property
    def reason(self) -> str:
        """Why there are no features to use, as its own row says it."""
        return str(self.content.get("Reason") or self.problem)

    @property
    def participant(self) -> str:
        """``sub-01``."""
        return self.key.participant

    @property
    def session(self) -> str | None:
        """Label of the session, or None."""
        return self.key.session

    @property
    def task(self) -> str | None:
        """Label of the task; None for a record of a whole participant."""
        return self.key.task


def mixed_versions(records: Iterable[Record]) -> tuple[str, ...]:
    """Return a sentence each on features of several versions of fMRIPrep or of this program; none where all is one."""
    usable = [record for record in records if not record.problem]
    told = []
    for key, whose, advice in (
        (PREPARED_BY, "the images come from several versions of fMRIPrep", "what differs between people may be that"),
        ("SoftwareVersion", f"features were made by several versions of {NAME}", "run the participant level again"),
    ):
        people: dict[str, set[str]] = {}
        for record in usable:
            if isinstance(version := record.content.get(key), str):
                people.setdefault(version, set()).add(record.participant)
        if len(people) > 1:
            each = ", ".join(f"{version} ({len(people[version])} people)" for version in sorted(people, key=natural))
            told.append(f"{whose}: {each}; {advice}.")
    return tuple(told)


def gather(features_dirs: Sequence[Path]) -> tuple[Record, ...]:
    """Find the record of every recording below output datasets of ours, ``sub-X/[ses-Y/]func``, in natural order."""
    found = [
        record for root in features_dirs for label in list_participants([root]) for record in _records_of(root, label)
    ]
    return tuple(sorted(found, key=lambda record: (natural(record.key), str(record.path))))


def _records_of(root: Path, label: str) -> tuple[Record, ...]:
    """Find a participant's records; one whose folder cannot be read keeps a row that says so."""
    try:
        return gather_participant(root, label)
    except InputError as error:
        return (Record(Key.of(label), root, root / f"sub-{label}", {}, error.message),)


def gather_participant(root: Path, label: str) -> tuple[Record, ...]:
    """Find the records of one participant, in natural order; none where it has no folder."""
    found = [
        _record(root, folder / name, f"sub-{label}")
        for folder, names in func_files(root, label).items()
        for name in names
        if name.endswith("_features.json")
    ]
    return tuple(sorted(found, key=lambda record: (natural(record.key), str(record.path))))


def _record(root: Path, path: Path, participant: str) -> Record:
    key = Key.parse(path.name.removesuffix("_features.json"))
    content = read_record(path)
    problem = ""
    if content is None:
        problem = f"{path.name} cannot be read."
    elif content.get("Key") != key or path.parent != root / participant / _session_folder(key) / "func":
        problem = f"{path.name} in {participant} is the record of {content.get('Key')}: it was renamed or moved."
        # Whose it is by its place: that is where the row is looked for.
        key = key if key.participant == participant else Key(participant)
    elif content.get("Status") == RecordingState.STALE:
        problem = stale_reason(content)
    elif content.get("Status") != RecordingState.OK:
        problem = f"failed: {content.get('Reason', 'no reason is given')}"
    return Record(key, root, path, content or {}, problem)


def attempts_note(records: Sequence[Record]) -> tuple[str, ...]:
    """Say in one line that features are used whose last attempt failed; nothing where there are none."""
    tried = [record for record in records if record.state.usable and record.last_attempt]
    if not tried:
        return ()
    return (
        f"the last attempt at {some([record.key for record in tried], 3)} failed; features of an earlier one are "
        f"used ({len(tried)} recordings; the first: {tried[0].last_attempt})",
    )


def _session_folder(key: Key) -> str:
    return "" if key.session is None else f"ses-{key.session}"


def common_recipe(roots: Sequence[Path]) -> tuple[dict[Path, Recipe], tuple[str, ...]]:
    """Read the recipe of every dataset; they may differ in how recordings were brought to the atlas, no more.

    Returns
    -------
    Recipe of each dataset, and one line for each that differs from the first in ``space``, or in whether its series
    were imported.

    Raises
    ------
    MissingInputError, InputError
        A folder is not there, or this program did not make it.
    RecipeError
        Another difference; the fields are named.
    """
    entries = {root: _own_entry(root) for root in roots}
    recipes = {root: Recipe.from_json(entry.recipe, str(root / DESCRIPTION)) for root, entry in entries.items()}
    notes = []
    for root in roots[1:]:
        found = differences(recipes[roots[0]], recipes[root])
        serious = [line for line in found if not line.startswith("space.")]
        if serious:
            raise RecipeError(
                f"features in {root} (here) come from another recipe than those in {roots[0]} (there): "
                f"{'; '.join(serious)}.",
                "Features are comparable only if made by one recipe; run the participant level again.",
            )
        if found:
            notes.append(f"{root} (here) and {roots[0]} (there) differ in the recipe's space: {'; '.join(found)}.")
        if entries[root].imported != entries[roots[0]].imported:
            notes.append(f"of {roots[0]} and {root}, one was imported as series and one extracted from images.")
    return recipes, tuple(notes)


def _own_entry(root: Path) -> Own:
    """Return what a dataset's description says of this program's run."""
    if not root.is_dir():
        raise MissingInputError(f"features folder {root} does not exist.", "Check the path, or run participant first.")
    found = own_entry(root)
    if found is None:
        raise InputError(f"{root} holds no features: its {DESCRIPTION} does not name {NAME}.", f"Run {NAME} first.")
    return found
