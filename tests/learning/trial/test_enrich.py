import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, norm
from trial_parts import GOOD, decision, everybody, ladder, options, people

from bids_fmmtc.learning.trial.arm import Arm
from bids_fmmtc.learning.trial.enrich import _saved as saved_of
from bids_fmmtc.learning.trial.enrich import plan_trial, sample_size
from bids_fmmtc.results.trial import Evidence, TrialOptions

# sample size


@pytest.mark.parametrize(
    ("drug", "control", "power", "plain", "corrected"),
    [
        # Fleiss 1981, Statistical Methods for Rates and Proportions, chapter 3; table A3 has the continuity correction.
        (0.5, 0.3, 0.8, 93, 103),
        (0.5, 0.3, 0.9, 124, 134),
        (0.6, 0.4, 0.8, 97, 107),
        (0.25, 0.15, 0.8, 250, 270),
        (0.1, 0.05, 0.8, 435, 474),
    ],
)
def test_textbook_sizes(drug, control, power, plain, corrected):
    o = options(power=power)
    assert sample_size(drug, control, o) == (plain, plain)
    assert sample_size(drug, control, o, corrected=True) == (corrected, corrected)


rates = st.floats(0.02, 0.98)


@given(rates, rates, st.floats(0.5, 0.95), st.floats(0.01, 0.1), st.sampled_from([0.5, 1.0, 2.0]))
@example(0.98, 0.98, 0.8, 0.05, 1.0)
@example(0.02, 0.02, 0.8, 0.05, 1.0)
def test_sizes_follow_the_formula_written_out(a, b, power, alpha, ratio):
    low, high = sorted((a, b))
    if high - low < 0.03:  # apart, and both still rates
        middle = min(max((low + high) / 2, 0.035), 0.965)
        low, high = middle - 0.015, middle + 0.015
    p = (high + ratio * low) / (1 + ratio)
    root = norm.isf(alpha / 2) * math.sqrt((1 + 1 / ratio) * p * (1 - p))
    root += norm.ppf(power) * math.sqrt(high * (1 - high) + low * (1 - low) / ratio)
    n = (root / (high - low)) ** 2
    first, second = sample_size(high, low, options(power=power, alpha=alpha, ratio=ratio))
    assert first == pytest.approx(math.ceil(n), abs=1)
    assert second == pytest.approx(math.ceil(ratio * n), abs=1)


def exact_power(n, drug, control, rejects):
    """Sum the probability of every table that the test rejects."""
    x, y = np.arange(n + 1)[:, None], np.arange(n + 1)[None]
    return float((binom.pmf(x, n, drug) * binom.pmf(y, n, control) * rejects(x, y, n)).sum())


def pearson(x, y, n):
    p = (x + y) / (2 * n)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.abs(x - y) / n / np.sqrt(2 * p * (1 - p) / n)
    return np.nan_to_num(z) > norm.isf(0.025)


def fisher(x, y, n):
    from scipy.stats import fisher_exact

    return np.array([[fisher_exact([[a, n - a], [b, n - b]])[1] <= 0.05 for b in y.ravel()] for a in x.ravel()])


def test_the_sizes_reach_their_power_by_exact_enumeration():
    n = int(sample_size(0.5, 0.3, options())[0])
    assert exact_power(n, 0.5, 0.3, pearson) == pytest.approx(0.8, abs=0.02)
    n, corrected = (int(sample_size(0.8, 0.3, options(), corrected=c)[0]) for c in (False, True))
    assert corrected > n
    assert exact_power(n, 0.8, 0.3, fisher) < 0.78
    assert 0.8 <= exact_power(corrected, 0.8, 0.3, fisher) < 0.88


@given(rates, st.floats(0.01, 0.5), st.floats(0.01, 0.4), st.booleans())
def test_a_wider_gap_or_less_power_needs_fewer(control, gap, more, corrected):
    near, far = min(control + gap, 1.0), min(control + gap + more, 1.0)
    size = sum(sample_size(near, control, options(), corrected=corrected))
    assert sum(sample_size(far, control, options(), corrected=corrected)) <= size
    assert sum(sample_size(near, control, options(power=0.7), corrected=corrected)) <= size
    assert sum(sample_size(near, control, options(alpha=0.1), corrected=corrected)) <= size


@pytest.mark.parametrize(("drug", "control"), [(0.3, 0.3), (0.2, 0.4), (np.nan, 0.3), (0.5, np.nan), (0.501, 0.5)])
def test_what_no_trial_can_show_is_infinite(drug, control):
    assert sample_size(drug, control, options()) == (np.inf, np.inf)


def test_sizes_of_arrays_and_of_certain_rates():
    found = sample_size(np.array([0.5, 0.3, 0.6]), 0.3, options())
    np.testing.assert_array_equal(found[0], [93, np.inf, sample_size(0.6, 0.3, options())[0]])
    # Four against four is the smallest table that Fisher's test calls significant.
    assert sample_size(1.0, 0.0, options(), corrected=True) == (4, 4)
    assert sample_size(1.0, 0.0, options()) == (2, 2)


# quantities


@pytest.mark.parametrize(("responders", "n"), [(0, 12), (12, 12), (5, 12), (1, 30), (20, 40)])
def test_the_rate_of_independent_people_has_nearly_the_jeffreys_interval(responders, n):
    plan = plan_trial(people(np.full(n, 0.5), np.arange(n) < responders), TrialOptions(), GOOD)
    found = everybody(plan).rate
    low, high = beta.ppf([0.025, 0.975], responders + 0.5, n - responders + 0.5)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.045)
    assert found.low <= responders / n <= found.high
    assert found.high - found.low > 0.05


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_rate_and_rise_of_a_blind_model_are_covered(rate):
    rng = np.random.default_rng(1)
    covered, risen, runs = 0, 0, 80
    for seed in range(runs):
        y = rng.random(40) < rate
        label = np.tile([0.0, 1.0], 20)
        row = decision(plan_trial(people(rng.random(40), y, label), options(n_bootstrap=200, seed=seed), GOOD))
        covered += row.rate.low <= rate <= row.rate.high
        risen += row.rise.low > 0
    assert covered >= 0.89 * runs
    assert risen <= 0.09 * runs


# rows


def test_rates_shares_and_sizes_by_hand():
    # 60 people; 40 labelled, of whom 20 respond; of the others 2 do. Control rate 0.2, 10 % drop out, 2:1 allocation.
    arm = ladder([0.1, 0.25, 0.75], label_from=1)
    o = options(control_rate=0.2, dropout=0.1, ratio=0.5, cost_scan=100, cost_patient=1000, cost_screening=7)
    plan = plan_trial(arm, o, GOOD)
    all_, kept = everybody(plan), decision(plan)
    assert (all_.rate.value, kept.rate.value, kept.rise.value) == pytest.approx((22 / 60, 0.5, 0.5 - 22 / 60))
    assert (all_.share.value, kept.share.value, kept.people) == pytest.approx((1, 2 / 3, 40))
    for row in (all_, kept):
        drug, control = sample_size(row.rate.value, 0.2, o)
        enrolled = math.ceil(drug / 0.9) + math.ceil(control / 0.9)
        screened = math.ceil(enrolled / row.share.value - 1e-9)
        scan = 100 if row is kept else 0
        assert row.trial.drug_arm.value == drug
        assert row.trial.control_arm.value == control
        assert row.trial.enrolled.value == enrolled
        assert row.trial.screened.value == screened
        assert row.trial.cost.value == screened * (7 + scan) + enrolled * 1000
        assert row.trial.fewer.value == all_.trial.enrolled.value - enrolled
        assert row.trial.saving.value == all_.trial.cost.value - row.trial.cost.value
    assert kept.trial.fewer.low > 0
    assert plan.verdict == "supported if the rate under control is as given"
    assert everybody(plan).share.low == everybody(plan).share.high == 1


@given(st.integers(0, 10**6), st.floats(0.15, 0.45), st.integers(15, 40))
@settings(max_examples=25, deadline=None)
def test_nothing_saves_more_than_the_whole_trial(seed, control, each):
    rng = np.random.default_rng(seed)
    arm = ladder(rng.uniform(0.2, 0.8, 2), each=each, label_from=1)
    plan = plan_trial(arm, options(control_rate=control, cost_scan=500, cost_patient=20_000), GOOD)
    whole = everybody(plan).trial
    for row in plan.enrichment:
        for saved, of in ((row.trial.fewer, whole.enrolled), (row.trial.saving, whole.cost)):
            if math.isfinite(of.value):  # else there is no whole
                assert saved.low <= saved.value <= saved.high <= of.value


def test_a_draw_saves_the_share_that_it_saves_of_its_own_trial():
    inf = math.inf
    both = np.array([[100, 60], [90_000, 9_000], [50, 100], [inf, 80], [80, inf], [inf, inf], [0, 0]], float)
    np.testing.assert_allclose(saved_of(both), [40, 90, -50, 100, -inf, 0, 0])
    np.testing.assert_array_equal(saved_of(np.array([[inf, 60], [300, 200], [inf, 1]], float)), [inf, 100, inf])


def test_without_costs_there_are_none():
    trial = everybody(plan_trial(ladder([0.2, 0.8]), options(control_rate=0.1), GOOD)).trial
    assert trial.cost is None
    assert trial.saving is None


def test_costs_stay_free_of_nan_where_a_draw_reaches_no_trial():
    o = options(control_rate=0.4, cost_scan=0, cost_patient=10)
    for row in plan_trial(ladder([0.3, 0.6]), o, GOOD).enrichment:
        assert math.isfinite(row.trial.cost.value)
        assert row.trial.cost.high == np.inf
        assert not math.isnan(row.trial.cost.low)
        assert not math.isnan(row.trial.saving.low)


@given(st.integers(1, 4), st.lists(st.sampled_from([0.1, 0.3, 0.30000001, 0.5, 0.9]), min_size=3, max_size=30))
@settings(max_examples=25, deadline=None)
def test_thresholds_are_judgements_and_keep_fewer_and_fewer(repeats, values):
    y = np.arange(len(values)) % 2
    plan = plan_trial(people(np.tile(values, (repeats, 1)), y), options(n_bootstrap=100), GOOD)
    rows = plan.enrichment
    assert (rows[0].threshold, rows[0].rule, rows[0].share.value) == (0, "everybody", 1)
    assert all(row.threshold in values and row.threshold > min(values) for row in rows[1:])
    shares = [row.share.value for row in rows]
    assert all(a > b > 0 for a, b in pairwise(shares))
    for row in rows:
        # People with equal judgements are kept or left together.
        assert row.share.value == pytest.approx(np.mean(np.array(values) >= row.threshold))
        assert row.rate.value == pytest.approx(y[np.array(values) >= row.threshold].mean())


def test_a_model_that_judges_all_alike_has_one_row_and_no_claim():
    plan = plan_trial(people(np.full(30, 0.4), np.arange(30) < 12), options(control_rate=0.2), GOOD)
    assert [row.rule for row in plan.enrichment] == ["everybody"]
    assert plan.verdict == "not supported"
    assert "nothing to enrich" in plan.sentences[0]


def test_repeats_are_averaged_and_unjudged_rows_are_left_out():
    y = np.array([1, 0, 1, 0, 1, 0])
    one, other = np.array([0.9, 0.8, 0.2, 0.1, 0.7, 0.3]), np.array([0.9, 0.1, 0.8, 0.2, np.nan, np.nan])
    label = np.stack([one >= 0.5, other >= 0.5]).astype(float)
    label[1, 4:] = np.nan
    kept = decision(plan_trial(people([one, other], y, label), options(), GOOD))
    assert kept.share.value == pytest.approx((1 + 0.5 + 0.5 + 0 + 1 + 0) / 6)
    assert kept.rate.value == pytest.approx(2.5 / 3)
    assert kept.people == pytest.approx(3)
    gap = np.append(one, np.nan)
    plans = [
        plan_trial(people(value, outcome), options(control_rate=0.3), GOOD)
        for value, outcome in ((one, y), (np.stack([one, one]), y), (gap, np.append(y, 1)))
    ]
    assert plans[0].to_json() == plans[1].to_json() == plans[2].to_json()


def test_labels_and_not_the_shown_threshold_decide():
    arm = ladder([0.2, 0.5, 0.8], label_from=2)
    for threshold in (0.5, 0.01, None):
        row = decision(plan_trial(arm, options(), Evidence(GOOD.auroc, effect=True, threshold=threshold)))
        assert row.threshold == threshold
        assert row.rate.value == pytest.approx(0.8)


def test_people_with_two_sessions_count_once():
    single = ladder([0.3, 0.7], each=10, label_from=1)
    double = Arm(
        np.tile(single.value, 2), np.tile(single.y, 2), single.groups * 2, None, np.tile(np.atleast_2d(single.label), 2)
    )
    alone = Arm(double.value, double.y, [f"{i}" for i in range(40)], None, double.label)
    one, two, wrong = (decision(plan_trial(arm, TrialOptions(), GOOD)) for arm in (single, double, alone))
    assert (one.people, two.people, wrong.people) == (10, 10, 20)
    width = [row.rate.high - row.rate.low for row in (one, two, wrong)]
    assert width[1] == pytest.approx(width[0], rel=0.15)
    assert width[2] < 0.85 * width[0]


def test_people_who_taught_the_models_widen_what_the_model_changes():
    fixed = ladder([0.2, 0.4, 0.7], label_from=1)
    taught = Arm(fixed.value, fixed.y, fixed.groups, 48, fixed.label)
    assert taught.factor == pytest.approx(1.5)
    one, other = (plan_trial(arm, TrialOptions(control_rate=0.2), GOOD) for arm in (fixed, taught))
    assert everybody(one) == everybody(other)
    for name, most in (("share", 1.55), ("rate", 1.55), ("rise", 1.6)):
        narrow, wide = (getattr(decision(plan), name) for plan in (one, other))
        assert narrow.value == wide.value
        assert 1.1 < (wide.high - wide.low) / (narrow.high - narrow.low) < most
    assert decision(other).trial.enrolled.high > decision(one).trial.enrolled.high
    assert decision(other).trial.enrolled.value == decision(one).trial.enrolled.value
    points = [next(p for p in plan.decision_curve if p.threshold == 0.5) for plan in (one, other)]
    assert points[0].everybody == points[1].everybody
    assert points[1].model.high - points[1].model.low > 1.4 * (points[0].model.high - points[0].model.low)


# control


def test_a_perfect_predictor_of_the_drug_helps():
    arm = ladder([0.0, 0.0, 1.0], label_from=2)
    plan = plan_trial(arm, options(), GOOD, ladder([0.2, 0.2, 0.2], label_from=2, name="control"))
    row = decision(plan)
    assert plan.verdict == "supported"
    assert row.rate.value == 1
    assert row.rate.low > 0.8
    assert row.trial.smaller > 0.99
    assert row.trial.enrolled.high < everybody(plan).trial.enrolled.value
    # So small a trial is not one for the normal approximation.
    assert row.reliable
    assert "continuity correction" in row.cautions[0]
    assert row.trial.enrolled_corrected.value > row.trial.enrolled.value


def test_a_prognostic_marker_raises_both_arms_and_helps_no_drug_trial():
    drug = ladder([0.2, 0.4, 0.6, 0.8], label_from=2)
    control = ladder([0.1, 0.3, 0.5, 0.7], label_from=2, name="control")
    plan = plan_trial(drug, TrialOptions(), GOOD, control)
    row = decision(plan)
    assert row.rise.low > 0.05
    assert row.control.value == pytest.approx(0.6)
    assert row.trial.enrolled.value > 0.9 * everybody(plan).trial.enrolled.value
    assert plan.verdict == "not supported"
    assert "60 % (" in " ".join(plan.sentences)
    # The same model with the rate taken for constant would promise a gain; the plan says what it hangs on.
    hopeful = plan_trial(drug, TrialOptions(control_rate=0.4), GOOD, control)
    assert decision(hopeful).trial.fewer.low > 0
    assert hopeful.verdict == "supported if the rate under control is as given"
    text = " ".join(hopeful.sentences)
    assert "is an assumption" in text
    needed = decision(hopeful).trial.enrolled_if_prognostic.value
    assert needed >= 0.9 * everybody(hopeful).trial.enrolled.value
    assert f"{needed:,.0f} patients are needed" in text
    assert any("was not used" in note for note in hopeful.notes)


def test_the_prognostic_size_keeps_the_odds_ratio():
    plan = plan_trial(ladder([0.2, 0.6], each=40, label_from=1), options(control_rate=0.2), GOOD)
    ratio = (0.4 / 0.6) / (0.2 / 0.8)
    odds = (0.6 / 0.4) / ratio
    assert decision(plan).trial.enrolled_if_prognostic.value == sum(sample_size(0.6, odds / (1 + odds), options()))
    assert everybody(plan).trial.enrolled_if_prognostic == everybody(plan).trial.enrolled
    certain = plan_trial(ladder([0.0, 1.0], label_from=1), options(control_rate=0.2), GOOD)
    assert decision(certain).trial.enrolled_if_prognostic.value == np.inf
    assert "no trial is reachable" in " ".join(certain.sentences)


def test_without_a_control_rate_there_are_no_sizes():
    plan = plan_trial(ladder([0.2, 0.8], label_from=1), options(), GOOD)
    assert plan.control == "none"
    assert plan.verdict == "not supported"
    assert all(row.trial is None and row.control is None for row in plan.enrichment)
    assert decision(plan).rise.low > 0
    assert "cannot be told" in plan.sentences[-1]
    assert len(plan.decision_curve) > 0


def test_people_of_both_arms_are_drawn_together():
    drug = people(np.full(40, 0.5), np.arange(40) < 20)
    same, others = (people(np.full(40, 0.5), np.arange(40) < 16, name=name) for name in ("sub", "other"))
    crossed, parallel = (everybody(plan_trial(drug, TrialOptions(), GOOD, arm)).trial for arm in (same, others))
    assert crossed.enrolled.value == parallel.enrolled.value
    assert crossed.feasible > parallel.feasible + 0.05


# what is not known


def test_too_few_people_make_a_row_unreliable():
    # N = 20: the model keeps 5.
    small = ladder([0.2, 0.4, 0.4, 1.0], each=5, label_from=3)
    plan = plan_trial(small, options(control_rate=0.2), GOOD)
    assert not decision(plan).reliable
    assert everybody(plan).reliable
    assert plan.sentences == (
        "At the model's own decision threshold 0.50, 5 people are kept under the drug, fewer than 10: nothing is "
        "claimed of enrichment.",
    )
    rare = plan_trial(people(np.linspace(0, 1, 30), np.arange(30) >= 27), options(), GOOD)
    assert not any(row.reliable for row in rare.enrichment)
    control = plan_trial(ladder([0.2, 0.8]), options(), GOOD, people([0.2] * 15 + [0.9] * 5, np.arange(20) % 2))
    kept = control.enrichment[-1]
    assert kept.people == 20
    assert not kept.reliable
    assert "under control" in kept.cautions[0]


def test_nobody_kept():
    arm = people(np.linspace(0.1, 0.4, 30), np.arange(30) % 3 == 0, np.zeros(30))
    plan = plan_trial(arm, options(control_rate=0.1, cost_scan=1, cost_patient=1), GOOD)
    row = decision(plan)
    assert (row.people, row.share.value, row.trial) == (0, 0, None)
    assert row.share.high > 0.02
    assert row.rate.as_stored() == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "value: nobody is kept; low: nobody is kept; high: nobody is kept",
    }
    assert plan.verdict == "not supported"
    json.dumps(plan.to_json(), allow_nan=False)


# decision curve


def test_the_decision_curve_by_hand():
    y = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0])
    p = np.array([0.9, 0.8, 0.7, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1])
    curve = plan_trial(people(p, y), options(), GOOD).decision_curve
    at = {round(point.threshold, 2): point for point in curve}
    assert (min(at), max(at)) == (0.05, 0.95)
    assert at[0.25].model.value == pytest.approx((3 - 1 / 3) / 10)
    assert at[0.25].everybody.value == pytest.approx((3 - 7 / 3) / 10)
    assert at[0.25].advantage.value == pytest.approx(0.2)
    assert at[0.5].everybody.value == pytest.approx(-0.4)
    assert at[0.5].advantage.value == pytest.approx(0.1)
    assert (at[0.95].model.value, at[0.95].advantage.value) == (0, 0)
    assert at[0.05].advantage.value == pytest.approx(0, abs=1e-12)


@given(st.lists(st.booleans(), min_size=4, max_size=30))
@settings(max_examples=20, deadline=None)
def test_perfect_judgements_gain_the_share_of_responders(outcomes):
    y = np.array(outcomes, float)
    for point in plan_trial(people(y, y), options(n_bootstrap=100), GOOD).decision_curve:
        assert point.model.value == pytest.approx(y.mean())
        assert point.advantage.value >= -1e-12


# output


def test_the_same_seed_gives_the_same_plan():
    arm = ladder([0.3, 0.6], label_from=1)
    one, again, other = (plan_trial(arm, options(control_rate=0.2, seed=s), GOOD).to_json() for s in (1, 1, 2))
    assert one == again
    assert one["enrichment"][1]["rate"] != other["enrichment"][1]["rate"]
    # The number of rows of the table does not move the draws of a row.
    relabelled = Arm(arm.value, arm.y, arm.groups, None)
    first = plan_trial(relabelled, options(control_rate=0.2, seed=1), GOOD).to_json()["enrichment"][0]
    assert first == one["enrichment"][0]
