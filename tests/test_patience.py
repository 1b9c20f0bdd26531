"""Deadlines follow the machine: never shorter than asked for, longer where a first step takes longer."""

import patience


def test_a_deadline_is_never_shorter_than_on_a_quiet_machine():
    assert patience.patience(60) >= 60


def test_a_slow_first_step_stretches_it_and_is_taken_again_when_it_is_old(monkeypatch):
    taken = []

    def run(words, check):
        assert check
        taken.append(words)
        clock[0] += 10 * patience.QUIET

    clock = [1000.0]
    monkeypatch.setattr(patience.subprocess, "run", run)
    monkeypatch.setattr(patience.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(patience, "_PACE", patience._Pace())
    assert patience.patience(6) == 60
    assert patience.patience(1) == 10
    assert len(taken) == 1
    clock[0] += patience.FRESH + 1
    patience.patience(1)
    assert len(taken) == 2
