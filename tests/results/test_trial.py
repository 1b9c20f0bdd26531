"""What a trial plan holds and how it is written."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trial_parts import GOOD, ladder, options, people

from bids_fmmtc.errors import UsageError
from bids_fmmtc.learning.trial.enrich import plan_trial
from bids_fmmtc.plain import from_json, to_json
from bids_fmmtc.results.trial import COLUMNS, LARGEST_TRIAL, UNKNOWN, WHY, Quantity, Trial, TrialPlan


@pytest.mark.parametrize(
    "changes",
    [
        {"power": 1.0},
        {"power": 0.04},
        {"alpha": 0.0},
        {"alpha": math.nan},
        {"ratio": 0.0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"control_rate": 1.0},
        {"control_rate": -0.1},
        {"cost_scan": 1.0},
        {"cost_patient": 1.0},
        {"cost_scan": -1.0, "cost_patient": 1.0},
        {"cost_scan": math.inf, "cost_patient": 1.0},
        {"cost_screening": math.nan},
        {"n_bootstrap": 10},
    ],
)
def test_options_out_of_range(changes):
    with pytest.raises(UsageError, match=r"expected .*\d|both"):
        options(**changes)


def test_the_interval_holds_the_estimate_and_keeps_infinity():
    values = np.concatenate([[5.0], np.arange(100.0)])
    assert Quantity.of(values) == Quantity(5.0, 2.0, 97.0)
    assert Quantity.of(np.concatenate([[-3.0], np.arange(100.0)])).low == -3
    values[-4:] = np.inf
    assert Quantity.of(values, "size").as_stored() == {
        "value": 5.0,
        "low": 2.0,
        "high": None,
        "reason": "high: not reachable: the drug's rate is not above the control's, or more than 100,000 patients",
    }


def test_json_rows_and_columns_agree():
    o = options(control_rate=0.45, cost_scan=10, cost_patient=100, currency="EUR")
    plan = plan_trial(ladder([0.3, 0.5, 0.7], label_from=1), o, GOOD)
    data = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert data["options"]["control_rate"] == 0.45
    assert data["verdict"] == plan.verdict
    assert len(data["enrichment"]) == len(plan.rows()) == len(plan.enrichment)
    for row, flat in zip(data["enrichment"], plan.rows(), strict=True):
        assert list(flat) == list(COLUMNS)
        json.dumps(flat, allow_nan=False)
        assert flat["threshold"] == row["threshold"]
        assert (flat["rate"], flat["rate_low"]) == (row["rate"]["value"], row["rate"]["low"])
        assert flat["enrolled_high"] == row["trial"]["enrolled"]["high"]
        assert flat["feasible"] == row["trial"]["feasible"]
        if flat["enrolled_high"] is None:
            assert "enrolled high: not reachable" in flat["remarks"]
    assert any(flat["enrolled_high"] is None for flat in plan.rows())
    assert all(set(text) == {"Description"} for text in COLUMNS.values())
    assert f"{LARGEST_TRIAL:,}" in " ".join(plan.notes)


@given(st.integers(0, 2**31), st.integers(5, 40), st.floats(0, 0.9), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_plan_is_written_without_nan(seed, n, control, with_arm):
    rng = np.random.default_rng(seed)
    value = rng.choice([0.0, 0.25, 0.5, 1.0], size=(2, n))
    arm = people(value, rng.random(n) < 0.3, (value > 0.5).astype(float))
    other = people(value[:, ::-1], rng.random(n) < 0.5, (value < 0.3).astype(float), "control") if with_arm else None
    o = options(n_bootstrap=100, control_rate=None if with_arm else control, cost_scan=5, cost_patient=0)
    plan = plan_trial(arm, o, GOOD, other)
    json.dumps([plan.to_json(), plan.rows()], allow_nan=False)
    assert all(
        sentence.endswith(".") and "nan" not in sentence and "inf " not in sentence for sentence in plan.sentences
    )
    for row in plan.enrichment:
        for q in (row.share, row.rate, *([] if row.trial is None else [row.trial.enrolled, row.trial.screened])):
            assert math.isnan(q.value) or q.low <= q.value <= q.high


@pytest.mark.parametrize("kind", WHY)
@given(*[st.one_of(st.floats(-9, 9), st.sampled_from([math.nan, math.inf, -math.inf]))] * 3)
def test_what_is_stored_of_a_quantity_is_read_again(kind, value, low, high):
    one = Quantity(value, low, high, kind)
    again = from_json(Quantity, json.loads(json.dumps(to_json(one))), "a quantity")
    assert to_json(again) == to_json(one)
    if kind != "rate":
        assert [str(getattr(again, e)) for e in ("value", "low", "high")] == list(map(str, (value, low, high)))


def test_a_plan_is_read_as_it_was_written():
    plan = plan_trial(ladder([0.3, 0.5, 0.7], label_from=1), options(control_rate=0.45), GOOD)
    again = from_json(TrialPlan, json.loads(json.dumps(to_json(plan))), "the plan")
    assert to_json(again) == to_json(plan)
    assert again.rows() == plan.rows()
    assert Trial().enrolled is UNKNOWN
    assert again.enrichment[0].quantity("rate") == plan.enrichment[0].rate
    assert again.enrichment[0].quantity("cost") is None
    assert again.enrichment[0].quantity("people") is None
