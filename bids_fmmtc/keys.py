"""Keys: the entities that name a recording, a session or a participant, as they stand in a file's name."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What is made of a recording has its key in front, and one of these behind it.
_OF_FILE = re.compile(r"(.+?)_(?:space|atlas|desc)-.*")
_WORDS = {"ses": "session", "acq": "acquisition", "rec": "reconstruction", "dir": "direction"}


class Key(str):
    """``sub-01_ses-a_task-rest_acq-x_run-1``, without its run (a session's runs are pooled), or ``sub-01`` alone.

    A text like any other, so that tables and JSON hold it as it is. Nothing else takes keys apart or puts them
    together; `label` serves any name that is spelled so, a file's too.
    """

    __slots__ = ()

    @classmethod
    def of(
        cls,
        subject: str,
        session: str | None = None,
        task: str | None = None,
        entities: Iterable[tuple[str, str]] = (),
        run: str | None = None,
    ) -> Key:
        """Put a key together from labels, in the order of BIDS; ``entities`` stand between task and run."""
        pairs = (("sub", subject), ("ses", session), ("task", task), *entities, ("run", run))
        return cls("_".join(f"{name}-{label}" for name, label in pairs if label is not None))

    @classmethod
    def parse(cls, name: str) -> Key:
        """Return the key of the recording that a file of ours is about, by its name; else the whole name."""
        match = _OF_FILE.fullmatch(name)
        return cls(match[1] if match else name)

    @property
    def parts(self) -> list[str]:
        """``sub-01``, ``ses-a``, and so on."""
        return self.split("_")

    def label(self, entity: str) -> str | None:
        """Return the label of an entity, or None."""
        start = f"{entity}-"
        return next((part.removeprefix(start) for part in self.parts if part.startswith(start)), None)

    @property
    def participant(self) -> str:
        """``sub-01``."""
        return self.parts[0]

    @property
    def subject(self) -> str:
        """``01``."""
        return self.participant.removeprefix("sub-")

    @property
    def session(self) -> str | None:
        """Label of the session, or None."""
        return self.label("ses")

    @property
    def task(self) -> str | None:
        """Label of the task; None where a whole participant is meant."""
        return self.label("task")

    @property
    def run(self) -> str | None:
        """Label of the run, or None."""
        return self.label("run")

    @property
    def whole(self) -> bool:
        """Whether it is a participant's, and so about all recordings and none in particular."""
        return len(self.parts) == 1

    @property
    def of_session(self) -> Key:
        """What the runs pooled into one prediction share: the key without its run."""
        return self.without("run")

    def without(self, *entities: str) -> Key:
        """Return the key without these entities."""
        starts = tuple(f"{entity}-" for entity in entities)
        return Key("_".join(part for part in self.parts if not part.startswith(starts)))

    def words(self) -> str:
        """Return what follows the participant in words: ``session a, task rest``; the key where nothing follows."""
        pairs = (part.partition("-") for part in self.parts[1:] if part)
        return ", ".join(f"{_WORDS.get(entity, entity)} {label}" for entity, _, label in pairs) or str(self)
