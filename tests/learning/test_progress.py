import pytest

from bids_fmmtc.learning.progress import Progress, duration


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def lines():
    return []


@pytest.fixture
def clock():
    return Clock()


def epochs(progress, clock, n, seconds):
    for _ in range(n):
        clock.now += seconds
        progress.epoch()


def test_after_the_first_epoch_it_says_how_long_all_that_is_planned_takes(lines, clock):
    progress = Progress(lines.append, clock)
    progress.plan(1000)
    progress.plan(501)
    clock.now += 999  # reading features is no part of an epoch
    progress.start(100)
    epochs(progress, clock, 1, 1.4)
    assert lines == ["about 35 min left at most (1,500 epochs of 1.4 s)"]


def test_one_line_a_minute_at_most_by_the_mean_so_far(lines, clock):
    progress = Progress(lines.append, clock)
    progress.plan(100)
    progress.start(100)
    epochs(progress, clock, 1, 20)
    epochs(progress, clock, 3, 19)
    assert len(lines) == 1
    epochs(progress, clock, 1, 3)
    assert lines[1:] == ["about 25 min left at most (95 epochs of 16 s)"]


def test_what_stops_early_or_was_done_before_is_taken_off(lines, clock):
    progress = Progress(lines.append, clock)
    progress.plan(300)
    progress.skip(100)
    progress.start(100)
    epochs(progress, clock, 1, 1)
    progress.skip(99)
    progress.start(100)
    epochs(progress, clock, 1, 61)
    assert lines == ["about 3 min left at most (199 epochs of 1 s)", "about 51 min left at most (99 epochs of 31 s)"]


def test_without_a_plan_it_speaks_of_the_fit_at_hand_only(lines, clock):
    progress = Progress(lines.append, clock)
    progress.start(100)
    epochs(progress, clock, 1, 0.5)
    assert lines == ["about 50 s of this fit left at most (99 epochs of 0.5 s)"]


def test_nothing_is_said_when_nothing_is_left(lines, clock):
    progress = Progress(lines.append, clock)
    progress.plan(1)
    progress.start(1)
    epochs(progress, clock, 1, 5)
    assert lines == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (1e6, "277.8 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
