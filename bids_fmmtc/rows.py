"""What a participant's process reports: a row for every recording and session, whatever became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bids_fmmtc.errors import DataError
from bids_fmmtc.plain import from_json
from bids_fmmtc.quality import Quality
from bids_fmmtc.reading import read_object
from bids_fmmtc.states import RecordingState
from bids_fmmtc.types import Failure, Features, Prediction


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a recording or a session.

    Parameters
    ----------
    key
        Of either; ``sub-01`` for what is about all of a participant.
    failure
        Why there is no result; None where there is one.
    flags
        Reasons for care.
    windows
        How many.
    quality
        Of a recording.
    probability, label
        Of a session.
    before
        Of a failure: the state in which results of an earlier attempt are kept; None where there are none.
    """

    key: str
    failure: Failure | None = None
    flags: tuple[str, ...] = ()
    windows: int | None = None
    quality: Quality | None = None
    probability: float | None = None
    label: str | None = None
    before: RecordingState | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return self.failure is None

    @property
    def status(self) -> str:
        """``ok`` or ``failed``."""
        return RecordingState.OK if self.ok else RecordingState.FAILED

    @classmethod
    def of(cls, key: str, result: Features | Prediction | Failure) -> Row:
        """Return the row of what was made, or was not."""
        if isinstance(result, Failure):
            return cls(key, result)
        if isinstance(result, Features):
            return cls(key, flags=result.quality.flags, windows=len(result.windows), quality=result.quality)
        windows = len(result.per_window)
        return cls(key, None, result.flags, windows, None, result.probability, result.label)


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of a participant so far, and the files that belong to the result, relative to the output folder."""

    subject: str
    recordings: tuple[Row, ...] = ()
    sessions: tuple[Row, ...] = ()
    outputs: tuple[str, ...] = ()
    complete: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of recordings, then of sessions."""
        return (*self.recordings, *self.sessions)

    @property
    def succeeded(self) -> bool:
        """Whether every recording and session has its result."""
        return self.complete and all(row.ok for row in self.rows)


def read_report(path: Path) -> Report | None:
    """Read the report that a process stored; None where it is absent, broken, or of another version's form."""
    try:
        return from_json(Report, read_object(path), path.name)
    except DataError:
        return None
