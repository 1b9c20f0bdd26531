"""States: the rule that finds a session's, and what each means."""

import itertools
import json

import pytest

from bids_fmmtc.states import MEANINGS, RECORDING_MEANINGS, RecordingState, State


@pytest.mark.parametrize(
    ("found", "predicted", "judged", "failed", "state"),
    [
        (True, True, True, True, State.PREDICTED),  # features could not be made again since
        (True, True, True, False, State.PREDICTED),
        (True, False, True, False, State.NO_PREDICTION),
        (True, False, True, True, State.FAILED),
        (True, False, False, True, State.FAILED),
        (True, False, False, False, State.FEATURES_ONLY),
        (False, False, False, False, State.ABSENT),
        (False, False, True, False, State.ABSENT),
    ],
)
def test_the_state_of_a_session(found, predicted, judged, failed, state):
    assert State.of(found=found, predicted=predicted, judged=judged, failed=failed) is state


def test_the_rule_gives_every_state_that_a_table_holds():
    names = ("found", "predicted", "judged", "failed")
    given = [dict(zip(names, each, strict=True)) for each in itertools.product([True, False], repeat=4)]
    assert {State.of(**each) for each in given} == set(MEANINGS) == set(State) - {State.UNGATHERED}


def test_states_are_stored_as_the_words_they_are():
    assert (
        json.dumps([*State]) == '["predicted", "features only", "no prediction", "failed", "missing", "not gathered"]'
    )
    assert [str(state) for state in RECORDING_MEANINGS] == ["ok", "stale", "failed"]
    assert [state for state in RecordingState if state.usable] == [RecordingState.OK]
