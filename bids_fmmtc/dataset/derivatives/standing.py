"""What stands of finished results when a new attempt fails: all of it, unless its input or recipe is proven to differ.

An image that DataLad has dropped, a process that was killed or a full disk says nothing about results that are there.
They stay, and the attempt that failed is noted in their record (``LastAttempt``) until one succeeds. Results whose
input has changed for certain are kept on disk, too, but stale (``Status``, and ``Changed`` with what differs): nobody
learns or predicts from them, and they are taken up again should the input be what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bids_fmmtc import __version__
from bids_fmmtc.dataset.find.fingerprint import changed, known_marks
from bids_fmmtc.dataset.store import Layout, read_record
from bids_fmmtc.keys import Key
from bids_fmmtc.plain import Json, Object
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.states import RecordingState
from bids_fmmtc.types import Failure, Recording

ATTEMPT, CHANGED = "LastAttempt", "Changed"
RECIPE, OUTPUTS = "recipe", "outputs"


@dataclass(frozen=True, slots=True)
class Standing:
    """Finished results of a recording, as a failed attempt leaves them.

    Parameters
    ----------
    record
        Their ``*_features.json``.
    content
        What it holds.
    changed
        What is proven to differ from what they were made of: parts of the fingerprint, ``recipe``, or ``outputs``
        where files of theirs are gone. Empty where they stand.
    """

    record: Path
    content: Mapping[str, Json]
    changed: tuple[str, ...] = ()

    @property
    def state(self) -> RecordingState:
        """``ok`` or ``stale``."""
        return RecordingState.STALE if self.changed else RecordingState.OK

    def noted(self, failure: Failure) -> Object:
        """Return the record with a failed attempt noted in it."""
        plain = settled(self.content) | {"Status": self.state}
        return plain | ({CHANGED: list(self.changed)} if self.changed else {}) | {ATTEMPT: attempt(failure)}


def attempt(failure: Failure) -> dict[str, str]:
    """Return what is noted of a failed attempt."""
    about = {"Status": "failed", "Stage": failure.stage, "Kind": failure.kind, "Reason": failure.reason}
    return about | {"SoftwareVersion": __version__}


def attempt_reason(content: Mapping[str, object]) -> str:
    """Return why the last attempt failed, from a record or the sidecar of a prediction; empty where it did not."""
    noted = content.get(ATTEMPT)
    return str(noted.get("Reason", "")) if isinstance(noted, dict) else ""


def names_in(content: Mapping[str, object], field: str) -> list[str]:
    """Return the names that a field of a record lists; none where it lists nothing."""
    listed = content.get(field)
    return list(map(str, listed)) if isinstance(listed, list | tuple) else []


def stale_reason(content: Mapping[str, object]) -> str:
    """Return why the results of a record are stale, on one line."""
    words = {"bold": "image or series", "repetition_time": "repetition time", "confounds_sidecar": "confounds' sidecar"}
    names = [words.get(name, name) for name in names_in(content, CHANGED)]
    return f"stale: made before a change of {', '.join(names) or 'the input'}, and not made again yet."


def settled(content: Mapping[str, Json]) -> Object:
    """Return a record as the attempt that succeeded wrote it, to the byte."""
    plain = {name: value for name, value in content.items() if name not in (ATTEMPT, CHANGED)}
    return plain | ({"Status": RecordingState.OK} if plain.get("Status") == RecordingState.STALE else {})


def holds_results(content: Mapping[str, object] | None) -> bool:
    """Tell whether a record is of a recording that succeeded once."""
    return content is not None and content.get("Status") in (RecordingState.OK, RecordingState.STALE)


def find_standing(
    key: str, recording: Recording | None, layout: Layout, folder: Path, recipe: Recipe
) -> tuple[Standing, ...]:
    """Find what earlier attempts made of a recording that failed now.

    Parameters
    ----------
    key
        Of the recording; ``sub-01`` where nothing of a participant could be found, which is about all that it has.
    recording
        None where discovery turned it down: nothing is known of its input then.
    folder
        The participant's or session's.
    recipe
        Of the attempt.

    Returns
    -------
    The results in the recording's own space where there are some, else those in another.
    """
    own = None if recording is None else layout.derivative(recording, "features", ".json")
    whole = Key(key).whole
    pattern = f"**/func/{key}_*_space-*_features.json" if whole else f"func/{key}_space-*_features.json"
    found = {path: content for path in sorted(folder.glob(pattern)) if holds_results(content := read_record(path))}
    if own in found:
        found = {own: found[own]}
    marks = known_marks(recording) if recording is not None and own in found else {}
    standing = [Standing(p, c or {}, _changed(c or {}, marks, layout.root, recipe)) for p, c in found.items()]
    return tuple(standing if whole else standing[:1])


def _changed(content: Mapping[str, object], marks: Mapping[str, str], root: Path, recipe: Recipe) -> tuple[str, ...]:
    before = content.get("InputFingerprint")
    before = before if isinstance(before, dict) else {}
    found = list(changed(before, marks)) if before else []
    if content.get("Status") == RecordingState.STALE and dict(marks) != before:
        # Once proven, it holds until the input is seen to be what it was.
        found += [name for name in names_in(content, CHANGED) if name not in (RECIPE, OUTPUTS, *found)]
    if not made_by(content, recipe):
        found.append(RECIPE)
    if not all((root / name).is_file() for name in names_in(content, "Outputs")):
        found.append(OUTPUTS)
    return tuple(found)


def made_by(content: Mapping[str, object], recipe: Recipe) -> bool:
    """Tell whether a record is of a recipe, or of a part of it that further modalities complete."""
    digest = content.get("RecipeDigest")
    if digest == recipe.digest:
        return True
    names = content.get("Modalities")
    part = recipe.only(names) if isinstance(names, dict) else None
    return part is not None and digest == part.digest
