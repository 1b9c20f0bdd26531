import math

import numpy as np
import pytest
from group_parts import trial

from bids_fmmtc.group.results import plain
from bids_fmmtc.learning.trial.arm import Arm
from bids_fmmtc.learning.trial.enrich import plan_trial
from bids_fmmtc.report.analysis.trial import (
    decision_figure,
    plan_rows,
    plan_table,
    quantity_text,
    trial_figures,
)
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.record import plan_of
from bids_fmmtc.results.trial import Evidence, Quantity, TrialOptions, TrialPlan


@pytest.fixture(scope="module")
def real():
    """A plan as it is stored, of 60 people."""
    rng = np.random.default_rng(0)
    y = (np.arange(60) % 2).astype(float)
    value = np.clip(0.3 + 0.4 * y + rng.normal(0, 0.15, 60), 0, 1)
    options = TrialOptions(control_rate=0.3, cost_scan=500, cost_patient=5000, currency="EUR", n_bootstrap=200)
    arm = Arm(value, y, [f"s{i}" for i in range(60)], 48.0, (value > 0.5).astype(float))
    plan = plan_trial(arm, options, Evidence(Estimate(0.9, 0.8, 0.95), effect=True, threshold=0.5))
    return plan_of(plain(plan.to_json()))


def test_figures_of_a_real_plan_show_its_numbers(real):
    found = {f.name: f for f in trial_figures(real, "t")}
    assert list(found) == ["t-rate", "t-share", "t-size", "t-cost", "t-decision"]
    everybody, own = real.enrichment[:2]
    assert quantity_text(everybody.rate, share=True) in found["t-rate"].caption
    assert quantity_text(own.trial.enrolled) in found["t-size"].caption
    assert "cost in EUR" in found["t-cost"].markup


def test_the_table_shows_reliable_rows_and_marks_cautions(real):
    table = plan_table(real)
    kept = [row for row in real.enrichment if row.reliable or row.rule == "decision"]
    assert len(table["rows"]) == len(kept)
    assert table["hidden"] == len(real.enrichment) - len(kept)
    for shown, row in zip(table["rows"], kept, strict=True):
        assert shown["threshold"].startswith(f"{row.threshold:.3f}")
        assert shown["enrolled"] == quantity_text(row.trial.enrolled)
        assert ("[" in shown["threshold"]) == bool(row.cautions or not row.reliable)


def test_an_unreliable_row_is_left_to_the_file_and_a_caution_is_a_letter():
    plan = trial()
    plan["enrichment"][1] |= {"cautions": ["few people are kept"], "reliable": False}
    table = plan_table(plan_of(plan))
    assert [row["threshold"] for row in table["rows"]] == ["0.000, everybody", "0.520, the model's own [a, b]", "0.400"]
    assert table["cautions"] == ["[a] This row is not reliable.", "[b] Few people are kept."]
    assert table["hidden"] == 1


def test_what_is_not_reachable_is_said():
    assert quantity_text(Quantity(math.inf, 90.0, math.inf)) == "not reachable"
    assert quantity_text(Quantity(40.0, 12.0, math.inf)) == "40 (12 to not reachable)"
    assert quantity_text(Quantity(0.5, 0.25, 0.75), share=True) == "50 % (25 to 75 %)"
    assert quantity_text(Quantity(1.0, 1.0, 1.0), share=True) == "100 %"
    assert quantity_text(None) == "–"
    plan = trial()
    for row in plan["enrichment"][2:]:
        row["trial"]["enrolled"] = {"value": None, "low": None, "high": None}
    sizes = next(f for f in trial_figures(plan_of(plan), "t") if f.name == "t-size")
    assert "At 2 of 4 thresholds no trial is reachable" in sizes.caption


def test_without_a_control_rate_there_are_rates_only():
    plan = trial(control="none")
    for row in plan["enrichment"]:
        row |= {"trial": None, "control": None}
    assert [f.name for f in trial_figures(plan_of(plan), "t")] == ["t-rate", "t-share", "t-decision"]
    assert [key for key, *_ in plan_table(plan_of(plan))["columns"]] == ["threshold", "people", "share", "rate"]


def test_a_wide_range_of_sizes_is_drawn_on_a_logarithmic_axis():
    found = {f.name: f for f in trial_figures(plan_of(trial()), "t")}
    assert "The axis is logarithmic." in found["t-size"].caption
    assert "logarithmic" not in found["t-rate"].caption


def test_the_decision_curve_counts_where_its_advantage_excludes_0():
    drawn = decision_figure(plan_of(trial()), "d")
    assert "at 2 of 4 preferences (0.10 to 0.30)" in drawn.caption
    assert decision_figure(TrialPlan(), "d") is None


def test_rows_come_by_threshold_and_broken_ones_are_left_out():
    plan = trial(enrichment=[*trial()["enrichment"], {"threshold": None}, 3, {"threshold": "x"}])
    assert [row.threshold for row in plan_rows(plan_of(plan))] == [0.0, 0.4, 0.52, 0.8]
    assert plan_of({"enrichment": [{"threshold": 0.5, "trial": None}]}).enrichment[0].quantity("rate") is None
    assert trial_figures(TrialPlan(), "t") == []
