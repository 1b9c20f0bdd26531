import re

from bids_fmmtc.report.analysis.forest import ForestRow, forest, interval_text
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.measures import MEASURES


def test_estimates_in_words():
    assert interval_text(Estimate(0.712, 0.584, 0.821)) == "0.71 (0.58 to 0.82)"
    assert interval_text(Estimate(-0.5, None, None)) == "−0.50 (no interval)"
    assert interval_text(Estimate(None, None, None)) == interval_text(None) == "undefined"


def test_a_forest_holds_everybody_and_says_who_was_not_run():
    rows = [
        ForestRow("FMM_TC " + "with a very long name " * 6, "model", Estimate(0.7, 0.6, 0.8)),
        ForestRow("part", "ablation", Estimate(0.6, None, None)),
        ForestRow("constant", "baseline", Estimate(None, None, None)),
        ForestRow("motion", "baseline", None, "motion is unknown"),
        ForestRow("$x_{", "a role of tomorrow", Estimate(0.5, 0.4, 0.6)),
    ]
    drawn = forest(rows, MEASURES["auroc_within"], "f", "Models", "caption")
    for said in ("0.70 (0.60 to 0.80)", "part: 0.60 (no interval)", "motion: not run, motion is unknown", "$x_{"):
        assert said in drawn.markup
    assert "dashed: chance, 0.5" in drawn.markup
    assert drawn.caption == "caption"


def test_a_measure_without_chance_has_no_line():
    drawn = forest([ForestRow("a", "model", Estimate(3.0, 1.0, 9.0))], MEASURES["mae"], "f", "t", "")
    assert "chance" not in drawn.markup
    assert "mean absolute error" in drawn.markup
    assert forest([], MEASURES["auroc"], "f", "t", "") is None


def test_roles_are_told_apart_by_marker_too():
    rows = [ForestRow(r, r, Estimate(0.6, 0.5, 0.7)) for r in ("model", "ablation", "baseline", "elsewhere")]
    drawn = forest(rows, MEASURES["auroc"], "f", "t", "")
    shapes = set(re.findall(r'<path id="(f-[^"]+)"', drawn.markup))
    assert len(shapes) >= 5  # four markers and the ends of intervals
    for words in ("the model", "a part of it", "baseline", "other people or sites"):
        assert words in drawn.markup
