from dataclasses import replace

import pytest
from group_parts import estimate, evaluation, holding, regression, write_analysis

from bids_fmmtc.report.analysis.facts import Judged, read_analysis
from bids_fmmtc.report.analysis.figures import (
    amount,
    calibration_figure,
    confusion_figure,
    known,
    permutation_figure,
    permutation_note,
    pr_figure,
    roc_figure,
    scatter_figure,
)
from bids_fmmtc.results.evaluation import Permutation


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    return read_analysis(write_analysis(tmp_path_factory.mktemp("one")))


def judged(values, outcomes, called=None):
    called = called or [None] * len(values)
    return tuple(
        Judged(f"s{i}", f"s{i}", y, v, called=c)
        for i, (v, y, c) in enumerate(zip(values, outcomes, called, strict=True))
    )


@pytest.mark.parametrize("draw", [roc_figure, pr_figure, calibration_figure, confusion_figure])
def test_figures_without_judgements_are_not_drawn(analysis, draw):
    assert draw(replace(analysis, judged=()), "x") is None


def test_the_roc_says_which_number_counts(analysis):
    drawn = roc_figure(analysis, "x")
    assert "The headline figure is AUROC within folds 0.71 (0.58 to 0.82)" in drawn.caption
    assert "Drawn from the mean of each session's out-of-fold values" in drawn.caption
    assert "95 % of 1,000 draws of people" in drawn.caption
    assert "16 sessions" in drawn.markup


def test_precision_is_set_beside_the_share_of_responders(analysis):
    given = replace(analysis, judged=judged([0.9, 0.8, 0.3, 0.1], [1.0, 0, 0, 0]))
    assert "Chance is the share of responders, 0.25." in pr_figure(given, "x").caption


def test_calibration_shows_the_stored_slope_and_counts(analysis):
    given = replace(analysis, judged=judged([0.1] * 10 + [0.9] * 10, [0.0] * 9 + [1.0] * 11))
    drawn = calibration_figure(given, "x")
    assert "1 of 10 responded where 0.10 was predicted; 10 of 10 responded where 0.90" in drawn.markup
    assert "Calibration slope 0.83 (0.21 to 1.47), best is 1" in drawn.caption


def test_the_confusion_matrix_counts_means_over_repeats(analysis):
    given = replace(analysis, judged=judged([0.5] * 4, [1.0, 1.0, 0.0, 0.0], [1.0, 0.25, 0.5, 0.0]))
    text = confusion_figure(given, "x").markup
    assert "of 2 responders 1.2 are called so, of 2 non-responders 0.5 are called responders" in text
    assert [amount(x) for x in (3.0, 2.999, 1.25, 0.5)] == ["3", "3", "1.2", "0.5"]


def test_the_permutation_test_shows_observed_and_p(analysis):
    drawn = permutation_figure(analysis, "x")
    assert "observed 0.71, p = 0.004 from 200 permutations" in drawn.caption
    assert permutation_figure(holding(analysis, {}), "x") is None
    assert "the least that 19 permutations" in permutation_note(Permutation(n=19, p=0.05))
    assert "least" not in permutation_note(Permutation(n=19, p=0.1))


def test_a_null_of_one_value_is_drawn(analysis):
    content = evaluation()
    content["permutation"] |= {"null": [0.5] * 19, "observed": 0.5, "metric": "auroc_within"}
    assert permutation_figure(holding(analysis, content), "x") is not None


def test_a_number_as_outcome_is_set_against_its_prediction(tmp_path):
    analysis = read_analysis(write_analysis(tmp_path, content=regression(), sites=()))
    drawn = scatter_figure(analysis, "x")
    assert "r within folds 0.42 (0.11 to 0.66); mean absolute error 0.45" in drawn.caption
    assert scatter_figure(replace(analysis, judged=judged([2.0], [2.0])), "x") is not None


def test_rows_without_value_or_outcome_are_left_out():
    value, y, people = known(judged([0.5, None, 0.2], [1.0, 1.0, None]))
    assert (value.tolist(), y.tolist(), people) == ([0.5], [1.0], ["s0"])


def test_an_estimate_that_is_undefined_says_so(analysis):
    content = evaluation()
    content["models"]["model"]["metrics"]["calibration_slope"] = estimate(None)
    drawn = calibration_figure(holding(analysis, content), "x")
    assert "Calibration slope undefined" in drawn.caption
