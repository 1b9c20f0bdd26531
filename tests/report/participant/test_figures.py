"""Figures of a prediction show what the files hold."""

import re

import pytest
from participant_parts import write_dataset, write_failed, write_prediction, write_recording

from bids_fmmtc.report.participant.facts import participant_facts
from bids_fmmtc.report.participant.figures import position_figure, scale_figure, windows_figure


@pytest.fixture
def session(tmp_path):
    def make(**prediction):
        write_dataset(tmp_path)
        write_recording(tmp_path, "sub-01_task-rest_run-1")
        write_prediction(tmp_path, **prediction)
        return participant_facts(tmp_path, "01").sessions[0]

    return make


def told(figure):
    return re.search(r"<desc[^>]*>(.*?)</desc>", figure.markup, re.DOTALL)[1]


def test_the_scale_tells_the_number_its_windows_and_the_threshold(session):
    figure = scale_figure(session(), "s")
    assert told(figure) == "Probability 0.62; windows from 0.50 to 0.70; decision threshold 0.50."
    assert "no confidence interval" in figure.caption
    for text in ("0.62", "threshold 0.50", "non-responder", "responder"):
        assert f">{text}</text>" in figure.markup


def test_one_window_has_no_spread(session):
    one = session(windows=(0.62,))
    assert "windows" not in told(scale_figure(one, "s"))
    assert windows_figure(one, "w") is None


def test_no_probability_no_figures(session):
    failed = session(p=None)
    assert scale_figure(failed, "s") is position_figure(failed, "p") is windows_figure(failed, "w") is None


def test_windows_stand_at_their_time(session):
    figure = windows_figure(session(), "w")
    assert told(figure) == "3 windows: 0.50, 0.60, 0.70."
    assert "Time (min)" in figure.markup


def test_windows_of_two_runs_have_a_panel_each(tmp_path, session):
    session()
    write_recording(tmp_path, "sub-01_task-rest_run-2")
    write_failed(tmp_path, "sub-01_task-rest_run-3")
    write_prediction(tmp_path, windows=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    (one,) = participant_facts(tmp_path, "01").sessions
    figure = windows_figure(one, "w")
    assert ">run 1<" in figure.markup
    assert ">run 2<" in figure.markup
    assert "run 3" not in figure.markup


def test_windows_that_do_not_fit_the_records_are_drawn_in_order(session):
    assert "5 windows" in told(windows_figure(session(windows=(0.1, 0.2, 0.3, 0.4, 0.5)), "w"))


def test_the_place_among_training_counts_people_alike(session):
    figure = position_figure(session(), "p")
    assert told(figure) == "Probability 0.62. In its range of training: 3 non-responder, 6 responder."
    assert "responder (45)" in figure.markup


@pytest.mark.parametrize("counts", ["n/a", {}, None])
def test_a_model_that_keeps_no_counts_has_no_place(session, counts):
    assert position_figure(session(OutOfFold=counts), "p") is None


def test_a_certain_probability_lies_in_the_last_range(session):
    assert "0 non-responder, 9 responder" in told(position_figure(session(p=1.0), "p"))
