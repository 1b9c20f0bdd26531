"""What there is of a recording and of a session: their states, what each means, and the rule that finds it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RecordingState(StrEnum):
    """Of one recording's record."""

    OK = "ok"
    STALE = "stale"
    FAILED = "failed"

    @property
    def usable(self) -> bool:
        """Whether there are features that somebody may use."""
        return self is RecordingState.OK


RECORDING_MEANINGS: Mapping[RecordingState, str] = {
    RecordingState.OK: "Features are there",
    RecordingState.STALE: "Features are there, of an input or recipe that has changed since; not used",
    RecordingState.FAILED: "See fmmtc_reason",
}


class State(StrEnum):
    """Of one session, or of a participant of whom there is none; stored as the column ``fmmtc_state``."""

    PREDICTED = "predicted"
    FEATURES_ONLY = "features only"
    NO_PREDICTION = "no prediction"
    FAILED = "failed"
    ABSENT = "missing"
    UNGATHERED = "not gathered"  # in no table: where there is none yet

    @classmethod
    def of(cls, *, found: bool, predicted: bool, judged: bool, failed: bool) -> State:
        """Return the state of a session.

        Parameters
        ----------
        found
            Whether this program has any output of it.
        predicted, judged
            Whether there is a probability, and whether a model was applied at all.
        failed
            Whether there are recordings and none of them has features to use.
        """
        if predicted:
            return cls.PREDICTED
        if not found:
            return cls.ABSENT
        if failed:
            return cls.FAILED
        return cls.NO_PREDICTION if judged else cls.FEATURES_ONLY


MEANINGS: Mapping[State, str] = {
    State.PREDICTED: "a prediction",
    State.FEATURES_ONLY: "features of at least one recording, to which no model was applied",
    State.NO_PREDICTION: "a model was applied and could not predict",
    State.FAILED: "every recording failed",
    State.ABSENT: "no output of this program",
}
