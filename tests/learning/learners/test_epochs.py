import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_parts import BLOCKS, RESNET, H, R, make_cohort

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.folds import rng_of
from bids_fmmtc.learning.learners.epochs import (
    FINAL_RATE,
    Goal,
    RelativeSteps,
    Trainer,
    TrainingOptions,
    batches,
    intercept_of,
    shift_outputs,
)
from bids_fmmtc.learning.learners.inputs import Inputs, score_of, session_scores

SHAPES = {"brainlm": (H,), "fc": (R, R)}
BRANCHES = {"brainlm": {"branch": "identity"}, "fc": {"branch": "resnet18", **RESNET}}
LINEAR = {"kind": "linear", "outputs": 2, "modalities": list(BLOCKS)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fusion(outputs=2, names=BLOCKS, seed=0):
    torch.manual_seed(seed)
    spec = {"kind": "fmmtc", "outputs": outputs, "branches": {n: BRANCHES[n] for n in names}}
    return build_head(spec, {n: SHAPES[n] for n in names})


def linear(seed=0):
    head = build_head(LINEAR, SHAPES)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.tensor(0.1 * rng.standard_normal(tuple(p.shape))))
    return head


def trainer(head, cohort, train, names=BLOCKS, given=False, **options):
    inputs = Inputs(cohort, {n: SHAPES[n] for n in names}, None, "cpu")
    goal = Goal.of(cohort.kind, cohort.y, np.asarray(train))
    return Trainer(head, inputs, goal, TrainingOptions(**options), 3, "work", given=given)


def states(head):
    return {n: t.clone() for n, t in head.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# options


def test_the_rate_is_torchs_cosine():
    options = TrainingOptions(epochs=100)
    steps = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=options.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, 100, FINAL_RATE)
    for epoch in range(100):
        assert options.rate_at(epoch, options.rate) == pytest.approx(steps.param_groups[0]["lr"], rel=1e-9)
        steps.step()
        schedule.step()
    assert options.rate_at(100, options.rate) == FINAL_RATE


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch": 1}, {"patience": 0}])
def test_options_that_cannot_train_are_refused(bad):
    with pytest.raises(ValueError, match="at least"):
        TrainingOptions(**bad)


@given(st.integers(1, 60), st.integers(2, 9))
def test_batches_hold_every_row_once_and_none_alone(n, size):
    order = np.random.default_rng(n).permutation(n)
    parts = batches(order, size)
    assert np.array_equal(np.concatenate(parts), order)
    assert all(2 <= len(p) <= size + 1 for p in parts) or n == 1
    assert all(len(p) == size for p in parts[:-2])


# goal


def test_both_classes_weigh_the_same_and_one_on_average():
    y = np.array([1.0, 0, 0, 0, np.nan, 1])
    goal = Goal.of("classification", y, np.array([0, 1, 2, 3]))
    assert goal.weights == (4 / 6, 2.0)
    assert goal.weights[0] * 3 == pytest.approx(goal.weights[1] * 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_losses_are_weighted_cross_entropy_of_two_logits(seed):
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0.0, 1.0], rng.integers(0, 2, 6)])
    goal, rows = Goal.of("classification", y, np.arange(8)), rng.permutation(8)[:5]
    logits = torch.tensor(4 * rng.standard_normal((5, 2)), dtype=torch.float32)
    each = torch.nn.functional.cross_entropy(logits, torch.tensor(y[rows], dtype=torch.int64), reduction="none")
    expected = float((each * torch.tensor([goal.weights[int(c)] for c in y[rows]])).mean())
    found = goal.training_loss(score_of(logits), rows, standard=True)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert goal.loss(score_of(logits).double().numpy(), rows) == pytest.approx(expected, rel=1e-5)


def test_regression_errors_are_in_standard_deviations_of_the_training_rows():
    y = np.array([10.0, 30, 20, 40, np.nan, 1000])
    goal = Goal.of("regression", y, np.arange(4))
    assert (goal.centre, goal.spread) == (25, np.std(y[:4]))
    rows = np.array([0, 3])
    scores = torch.tensor([12.0, 40.0])
    expected = ((2 / goal.spread) ** 2) / 2
    assert float(goal.training_loss(scores, rows, standard=False)) == pytest.approx(expected, rel=1e-5)
    standard = (scores - 25) / goal.spread
    assert float(goal.training_loss(standard, rows, standard=True)) == pytest.approx(expected, rel=1e-5)
    assert goal.loss(scores.double().numpy(), rows) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "y"), [("classification", [1, 1, 1]), ("regression", [2.5, 2.5]), ("regression", [1])]
)
def test_outcomes_that_do_not_differ_are_refused(kind, y):
    with pytest.raises(DataError, match="must differ"):
        Goal.of(kind, np.array([*y, 0.0]), np.arange(len(y)))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.floats(-30, 30), st.sampled_from(["classification", "regression"]))
def test_no_other_shift_has_a_smaller_loss(seed, level, kind):
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0.0, 1.0], rng.integers(0, 2, 10)])
    goal, scores = Goal.of(kind, y, np.arange(12)), level + 2 * rng.standard_normal(12)
    best = goal.shift(scores)
    losses = [goal.loss(scores + best + away, np.arange(12)) for away in (0, -1e-2, 1e-2, -3, 3)]
    assert min(losses) == losses[0]


# steps of adaptation


def test_steps_have_the_norm_asked_for_whatever_the_scale():
    for scale in (1e-6, 1.0, 1e6):
        weight, bias = (torch.nn.Parameter(torch.tensor(v) * scale) for v in ([3.0, 4.0, 0.0], [0.0]))
        start = weight.detach().clone()
        steps = RelativeSteps([weight, bias], 0.1, {bias: 2.0})
        (1e-3 / scale * (weight[0] - weight[2] + bias[0])).backward()
        steps.step()
        moved = weight.detach() - start
        assert float(moved.norm()) == pytest.approx(0.1 * 5 * scale, rel=1e-5)
        assert float(moved[0]) == pytest.approx(-float(moved[2]), rel=1e-5)
        assert moved[1] == 0
        assert bias.tolist() == pytest.approx([-0.2])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32))
def test_no_weights_get_farther_from_their_start_than_one_unit(seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(4, generator=generator))
    start, towards = weight.detach().clone(), torch.randn(4, generator=generator)
    steps = RelativeSteps([weight], 0.3, {})
    for _ in range(40):
        steps.zero_grad()
        (weight @ towards).backward()
        steps.step()
        assert float((weight.detach() - start).norm()) <= float(start.norm()) * (1 + 1e-5)
    assert float((weight.detach() - start).norm()) > 0.99 * float(start.norm())


def test_without_a_gradient_weights_go_back_to_their_start():
    weight, idle = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    steps = RelativeSteps([weight, idle], 0.5, {})
    with torch.no_grad():
        weight.add_(1)
    weight.grad = torch.zeros(3)
    steps.step()
    assert weight.tolist() == [1.5] * 3
    assert idle.tolist() == [1] * 3


@pytest.mark.parametrize("make", [fusion, linear])
@pytest.mark.parametrize("by", [2.5, -0.5])
def test_scores_of_either_head_are_shifted(make, by):
    head, cohort = make(), make_cohort(4)
    inputs = Inputs(cohort, SHAPES, None, "cpu")
    before = session_scores(head, inputs, np.arange(4))
    shift_outputs(head, by)
    assert np.allclose(session_scores(head, inputs, np.arange(4)), before + by, atol=1e-5)


def test_a_number_is_shifted_once_and_a_head_without_intercept_is_refused():
    head = fusion(outputs=1)
    before = float(intercept_of(head).detach())
    shift_outputs(head, 3)
    assert intercept_of(head).tolist() == pytest.approx([before + 3])
    with pytest.raises(ValueError, match="no intercept"):
        intercept_of(torch.nn.Linear(2, 2, bias=False))


# epochs


def test_an_epoch_is_one_of_adamw_with_gradients_zeroed_at_each_step():
    """Against a loop written as torch's manual has it, on the windows and batches that the generator deals."""
    cohort, train = make_cohort(20, seed=1), np.arange(17)
    head, reference = fusion(), fusion()
    trained = trainer(head, cohort, train, epochs=6)
    steps = torch.optim.AdamW(reference.parameters(), lr=5e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, 6, 1e-7)
    goal = trained.goal
    for epoch in range(3):
        trained.epoch()
        rng = rng_of(3, "work", epoch)
        share, order = rng.random(17), rng.permutation(17)
        reference.train()
        for part in (order[:8], order[8:]):  # 9: the last one of two batches takes the single row in
            rows = train[part]
            which = (share[part] * 2).astype(int)
            x = {
                n: torch.tensor(np.stack([cohort.arrays[n][r][w] for r, w in zip(rows, which, strict=True)]))
                for n in BLOCKS
            }
            y = torch.tensor(cohort.y[rows], dtype=torch.int64)
            each = torch.nn.functional.cross_entropy(reference(x), y, reduction="none")
            steps.zero_grad()
            (each * torch.tensor(goal.weights)[y]).mean().backward()
            steps.step()
        schedule.step()
    for (name, found), expected in zip(head.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_every_training_row_gives_one_window_an_epoch_and_all_windows_have_their_turn(monkeypatch):
    cohort, train, seen = make_cohort(12, windows=3), np.array([1, 2, 3, 5, 8, 10, 11]), []
    take = Inputs.take
    monkeypatch.setattr(
        Inputs, "take", lambda self, rows, windows: seen.append((rows, windows)) or take(self, rows, windows)
    )
    work = trainer(fusion(names=("brainlm",)), cohort, train, names=("brainlm",), batch=3)
    shuffled, drawn = set(), {}
    for _ in range(30):
        seen.clear()
        work.epoch()
        order = [int(r) for rows, _ in seen for r in rows]
        assert sorted(order) == train.tolist()
        assert [len(rows) for rows, _ in seen] == [3, 4]
        shuffled.add(tuple(order))
        for rows, windows in seen:
            for row, window in zip(rows, windows, strict=True):
                drawn.setdefault(int(row), set()).add(window)
    assert len(shuffled) == 30
    assert drawn == {row: {0, 1, 2} for row in train.tolist()}


def test_an_epoch_depends_on_its_number_and_not_on_what_was_drawn_before():
    cohort, train = make_cohort(10), np.arange(8)
    one, other = trainer(fusion(), cohort, train), trainer(fusion(), cohort, train)
    one.epoch()
    torch.rand(5)
    np.random.default_rng().random(3)
    other.epoch()
    one.epoch()
    trainer(fusion(), cohort, train).epoch()
    other.epoch()
    assert equal(states(one.head), states(other.head))


def test_rates_follow_the_number_of_the_epoch():
    work = trainer(fusion(names=("brainlm",)), make_cohort(6), np.arange(6), names=("brainlm",), epochs=4, rate=0.1)
    seen = []
    for _ in range(4):
        work.epoch()
        seen.append(work.steps.param_groups[0]["lr"])
    assert seen == pytest.approx([0.1, 0.1 * (2 + math.sqrt(2)) / 4, 0.05, 0.1 * (2 - math.sqrt(2)) / 4], rel=1e-4)


@pytest.mark.parametrize("given", [False, True])
def test_put_back_it_goes_on_to_the_same_bits(given):
    cohort, train = make_cohort(12), np.arange(10)
    straight, before, after = (trainer(fusion(), cohort, train, given=given) for _ in range(3))
    for _ in range(4):
        straight.epoch()
    for _ in range(2):
        before.epoch()
    kept = {name: array.copy() for name, array in before.arrays().items()}
    before.epoch()  # what was taken does not change with it
    after.restore(kept)
    assert after.epochs == 2
    for _ in range(2):
        after.epoch()
    assert equal(states(straight.head), states(after.head))
    assert np.array_equal(straight.scores(np.array([10, 11])), after.scores(np.array([10, 11])))


def test_what_does_not_belong_is_not_put_back():
    cohort = make_cohort(6)
    small = trainer(fusion(names=("brainlm",)), cohort, np.arange(6), names=("brainlm",))
    small.epoch()
    whole = trainer(fusion(), cohort, np.arange(6))
    for kept in ({}, small.arrays(), {"epochs": np.array(3)}):
        with pytest.raises((KeyError, ValueError, RuntimeError)):
            whole.restore(kept)


@pytest.mark.parametrize(("given", "same"), [(True, True), (False, False)])
def test_adapting_keeps_the_statistics_of_batch_normalisation(given, same):
    work = trainer(fusion(), make_cohort(8), np.arange(8), given=given)
    before = states(work.head)
    work.epoch()
    after = states(work.head)
    running = [n for n in after if "running" in n]
    assert running
    assert all(torch.equal(before[n], after[n]) == same for n in running)
    assert not any(torch.equal(before[n], after[n]) for n in after if n.endswith("weight"))


def test_scores_of_regression_are_in_units_of_the_outcome():
    cohort = make_cohort(12, kind="regression")
    work = trainer(fusion(outputs=1), cohort, np.arange(12))
    raw = session_scores(work.head, work.inputs, np.arange(3))
    assert np.allclose(work.scores(np.arange(3)), raw * work.goal.spread + work.goal.centre)
    given = trainer(fusion(outputs=1), cohort, np.arange(12), given=True)
    assert np.array_equal(given.scores(np.arange(3)), raw)


@pytest.mark.parametrize(("name", "value"), [("fc", 1e30), ("brainlm", np.inf)])
def test_numbers_that_overflow_stop_the_work(name, value):
    cohort = make_cohort(6)
    cohort.arrays[name][2][:] = value
    work = trainer(fusion(), cohort, np.arange(6))
    with pytest.raises(DataError, match="training work: loss or weights are not finite after epoch 1"):
        work.epoch()
