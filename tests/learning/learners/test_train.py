import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import patience
from train_parts import BLOCKS, RESNET, H, R, make_cohort, make_setup

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.learners import train as module
from bids_fmmtc.learning.learners.epochs import Trainer, TrainingOptions
from bids_fmmtc.learning.learners.inputs import Inputs
from bids_fmmtc.learning.learners.linear import LinearLearner
from bids_fmmtc.learning.learners.train import AdaptedLearner, NetworkLearner, checkpoint_of, fresh_head
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.results.evaluation import Setting

TRAIN, ROWS = np.arange(14), np.arange(14, 20)
OPTIONS = TrainingOptions(epochs=5, resnet=RESNET)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learner(cohort, blocks=BLOCKS, folder=None, **options):
    return NetworkLearner(cohort, blocks, replace(OPTIONS, **options), make_setup(folder))


def auroc(y, scores):
    yes, no = scores[y == 1], scores[y == 0]
    return float(np.mean(yes[:, None] > no))


def same_weights(one, other):
    a, b = one.head().state, other.head().state
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def pieces(folder):
    return sorted(p.name for p in folder.rglob("*.npz"))


# what is learnt


@pytest.mark.parametrize(
    ("blocks", "effect", "kind"),
    [
        (("brainlm",), (2.5, 0), "classification"),
        (("fc",), (0, 4), "classification"),
        (("brainlm",), (2.5, 0), "regression"),
    ],
)
def test_a_planted_effect_is_learnt_and_carries_over(blocks, effect, kind):
    cohort, other = (make_cohort(n, seed, effect, kind) for n, seed in ((28, 0), (30, 1)))
    found = learner(cohort, blocks, epochs=20, rate=0.02).fit(cohort.y, np.arange(28), 19, "a").elsewhere(other)
    if kind == "regression":
        assert np.corrcoef(found, other.y)[0, 1] > 0.7
        assert np.mean((found - other.y) ** 2) < 0.7 * np.var(other.y)
    else:
        assert auroc(other.y, found) > 0.85


@pytest.mark.parametrize(("blocks", "effect"), [(("fc",), (2.5, 0)), (("brainlm",), (0, 3))])
def test_a_modality_without_the_effect_finds_none(blocks, effect):
    cohort, other = (make_cohort(n, seed, effect) for n, seed in ((28, 0), (40, 1)))
    found = learner(cohort, blocks, epochs=10, rate=0.02).fit(cohort.y, np.arange(28), 9, "a").elsewhere(other)
    assert 0.25 < auroc(other.y, found) < 0.75


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_line_of_the_path_is_what_a_fit_at_that_setting_says(kind):
    cohort = make_cohort(kind=kind)
    work = learner(cohort)
    path = work.path(cohort.y, TRAIN, ROWS, "a")
    assert path.shape == (5, 6)
    assert path.dtype == np.float64
    assert work.choices == 5
    assert [work.describe(c) for c in (0, 4)] == [Setting(epochs=1), Setting(epochs=5, edge="most")]
    for choice in (0, 3):
        found = work.fit(cohort.y, TRAIN, choice, "a").scores(ROWS)
        if kind == "classification":
            assert np.array_equal(found, path[choice])
        else:  # there the linear layer takes on the units of the outcome, and rounds once more
            assert np.allclose(found, path[choice], rtol=1e-5)


def test_the_head_to_keep_is_the_fmmtc_head_and_carries_no_standardisation():
    cohort = make_cohort(kind="regression")
    head = learner(cohort, ("fc", "brainlm")).fit(cohort.y, TRAIN, 0, "a").head()
    assert head.shapes == {"fc": (R, R), "brainlm": (H,)}
    assert head.spec == {
        "kind": "fmmtc",
        "outputs": 1,
        "branches": {"fc": {"branch": "resnet18", **RESNET}, "brainlm": {"branch": "identity"}},
    }
    assert head.tangent is None
    assert all(t.device.type == "cpu" and t.is_contiguous() for t in head.state.values())
    assert float(head.state["classifier.bias"]) == pytest.approx(cohort.y[TRAIN].mean(), abs=5)
    plain = learner(make_cohort(), ("brainlm",)).fit(make_cohort().y, TRAIN, 0, "a").head()
    assert plain.spec == {"kind": "fmmtc", "outputs": 2, "branches": {"brainlm": {"branch": "identity"}}}


def test_training_stops_when_the_validation_part_no_longer_improves():
    cohort = make_cohort(effect=(0, 0))
    options = {"blocks": ("brainlm",), "epochs": 100, "rate": 0.05}
    whole = learner(cohort, **options, patience=100).path(cohort.y, TRAIN, ROWS, "a")
    path = learner(cohort, **options, patience=7).path(cohort.y, TRAIN, ROWS, "a")
    assert len(whole) == 100
    assert 8 <= len(path) < 100
    assert np.array_equal(path, whole[: len(path)])
    y, seen = cohort.y[ROWS], cohort.y[TRAIN]
    weights = np.where(y == 1, 0.5 / seen.mean(), 0.5 / (1 - seen.mean()))
    losses = (weights * np.logaddexp(0, np.where(y == 1, -path, path))).mean(axis=1)
    assert int(np.argmin(losses)) == len(path) - 1 - 7


def test_a_cohort_without_the_modality_or_without_both_classes_is_refused():
    cohort = make_cohort()
    with pytest.raises(DataError, match="no features other; it holds brainlm, fc"):
        learner(cohort, ("brainlm", "other"))
    with pytest.raises(DataError, match="must differ"):
        learner(cohort).fit(np.ones(20), TRAIN, 0, "a")


# nothing leaks


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_outcomes_and_features_of_other_rows_change_nothing(kind):
    cohort = make_cohort(kind=kind)
    outcomes = np.where(np.isin(np.arange(20), TRAIN), cohort.y, np.nan)
    arrays = {
        name: tuple(a if i in TRAIN else 1e3 * np.ones_like(a) for i, a in enumerate(column))
        for name, column in cohort.arrays.items()
    }
    blank = replace(cohort, arrays=arrays)
    fitted = learner(cohort).fit(cohort.y, TRAIN, 2, "a")
    assert same_weights(learner(cohort).fit(outcomes, TRAIN, 2, "a"), fitted)
    assert same_weights(learner(blank).fit(outcomes, TRAIN, 2, "a"), fitted)
    # Outcomes of the validation part decide only where a path ends.
    straight = learner(cohort, epochs=5, patience=8).path(cohort.y, TRAIN, ROWS, "a")
    turned = cohort.y.copy()
    turned[ROWS] = cohort.y[ROWS[::-1]] if kind == "regression" else 1 - cohort.y[ROWS]
    other = learner(cohort, epochs=5, patience=1).path(turned, TRAIN, ROWS, "a")
    assert np.array_equal(other, straight[: len(other)])
    alone = learner(cohort, epochs=5, patience=8).path(cohort.y, TRAIN, ROWS[2:3], "a")
    assert np.array_equal(alone[:, 0], straight[: len(alone), 2])


def test_the_tangent_reference_is_that_of_the_training_windows():
    cohort = make_cohort(covariance=True)
    work = NetworkLearner(cohort, BLOCKS, OPTIONS, make_setup(tangent=True))
    fitted = work.fit(cohort.y, TRAIN, 1, "a")
    expected = TangentReference.fit(np.concatenate([cohort.arrays["fc"][i] for i in TRAIN]))
    assert np.array_equal(fitted.head().tangent.mean, expected.mean)
    assert np.array_equal(fitted.scores(ROWS), work.path(cohort.y, TRAIN, ROWS, "a")[1])
    assert np.array_equal(fitted.elsewhere(cohort)[ROWS], fitted.scores(ROWS))
    only = NetworkLearner(cohort, ("brainlm",), OPTIONS, make_setup(tangent=True)).fit(cohort.y, TRAIN, 0, "a")
    assert only.head().tangent is None


# the same bits


def test_neither_history_nor_the_state_of_torch_matters_and_it_is_left_alone():
    cohort = make_cohort()
    first = learner(cohort).fit(cohort.y, TRAIN, 1, "a")
    torch.manual_seed(77)
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    work = learner(cohort)
    work.path(cohort.y, TRAIN[3:], ROWS, "b")
    again = work.fit(cohort.y, TRAIN, 1, "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002
    assert same_weights(first, again)


def test_name_and_seed_decide():
    cohort = make_cohort()
    fits = [
        NetworkLearner(cohort, ("brainlm",), OPTIONS, make_setup(seed=seed)).fit(cohort.y, TRAIN, 0, name)
        for seed, name in ((3, "a"), (3, "b"), (4, "a"))
    ]
    weights = [f.head().state["classifier.weight"] for f in fits]
    assert not any(torch.equal(a, b) for a, b in zip(weights, [*weights[1:], weights[0]], strict=True))


def test_fresh_weights_follow_from_the_generator_alone():
    spec, shapes = {"kind": "fmmtc", "branches": {"fc": {"branch": "resnet18", **RESNET}}}, {"fc": (R, R)}
    one, two = (fresh_head(spec, shapes, np.random.default_rng(5)) for _ in range(2))
    other = fresh_head(spec, shapes, np.random.default_rng(6))
    first = "branches.fc.body.embedder.embedder.convolution.weight"
    assert torch.equal(one.state_dict()[first], two.state_dict()[first])
    assert not torch.equal(one.state_dict()[first], other.state_dict()[first])


# resuming


def test_what_is_finished_is_not_done_again(tmp_path, monkeypatch):
    cohort = make_cohort()
    path = learner(cohort, folder=tmp_path).path(cohort.y, TRAIN, ROWS, "a")
    fitted = learner(cohort, folder=tmp_path).fit(cohort.y, TRAIN, 2, "a")
    kept = pieces(tmp_path)
    assert len(kept) == 2

    def never(self):
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "epoch", never)
    again = learner(cohort, folder=tmp_path)
    assert np.array_equal(again.path(cohort.y, TRAIN, ROWS, "a"), path)
    assert same_weights(again.fit(cohort.y, TRAIN, 2, "a"), fitted)
    assert pieces(tmp_path) == kept


def changed_features(cohort):
    arrays = dict(cohort.arrays)
    arrays["fc"] = (arrays["fc"][0] + np.float32(1e-3), *arrays["fc"][1:])
    return replace(cohort, arrays=arrays)


@pytest.mark.parametrize(
    "change",
    [
        lambda c, y, s: (c, 1 - y, TRAIN, OPTIONS, s, "a"),
        lambda c, y, s: (c, y, TRAIN[1:], OPTIONS, s, "a"),
        lambda c, y, s: (c, y, TRAIN, replace(OPTIONS, rate=1e-3), s, "a"),
        lambda c, y, s: (c, y, TRAIN, OPTIONS, replace(s, seed=9), "a"),
        lambda c, y, s: (c, y, TRAIN, OPTIONS, s, "b"),
        lambda c, y, s: (changed_features(c), y, TRAIN, OPTIONS, s, "a"),
    ],
    ids=["outcomes", "rows", "options", "seed", "name", "features"],
)
def test_a_piece_of_other_work_is_never_taken_for_it(tmp_path, change):
    cohort, setup = make_cohort(), make_setup(tmp_path)
    first = NetworkLearner(cohort, BLOCKS, OPTIONS, setup).path(cohort.y, TRAIN, ROWS, "a")
    other, y, train, options, surroundings, name = change(cohort, cohort.y, setup)
    second = NetworkLearner(other, BLOCKS, options, surroundings).path(y, train, ROWS, name)
    assert len(pieces(tmp_path)) == 2
    assert not np.array_equal(first, second[: len(first)])


class Stop(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def interrupted(monkeypatch, work, after, call):
    """Run ``call`` with a checkpoint after each epoch, and stop it in the epoch after so many."""
    done, epoch = [], Trainer.epoch

    def counted(self):
        if len(done) == after:
            raise Stop
        epoch(self)
        done.append(self.epochs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(Trainer, "epoch", counted)
        with pytest.raises(Stop):
            call(work)
    return done


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("what", ["path", "fit"])
def test_a_checkpoint_is_gone_on_from_and_removed(tmp_path, monkeypatch, what, kind):
    cohort = make_cohort(kind=kind)

    def call(work):
        if what == "path":
            return work.path(cohort.y, TRAIN, ROWS, "a")
        return work.fit(cohort.y, TRAIN, 4, "a").elsewhere(cohort)

    expected = call(learner(cohort))
    assert interrupted(monkeypatch, learner(cohort, folder=tmp_path), 2, call) == [1, 2]
    assert len(pieces(tmp_path)) == 1
    assert interrupted(monkeypatch, learner(cohort, folder=tmp_path), 1, call) == [3]
    assert np.array_equal(call(learner(cohort, folder=tmp_path)), expected)
    assert len(pieces(tmp_path)) == 1  # the finished piece in the place of the checkpoint


@pytest.mark.parametrize(
    "spoil",
    [
        lambda piece: {},
        lambda piece: {"epochs": np.array(2), "scores": piece["scores"]},
        lambda piece: {**piece, "scores": piece["scores"][:, :2]},
        lambda piece: {**piece, "epochs": np.array(4)},
        lambda piece: {k: v for k, v in piece.items() if not k.endswith("exp_avg")},
        lambda piece: {k: v[:1] if k == "state/classifier.weight" else v for k, v in piece.items()},
    ],
    ids=["empty", "no weights", "fewer rows", "other epoch", "no steps", "other shape"],
)
def test_a_checkpoint_that_does_not_fit_is_begun_anew(tmp_path, monkeypatch, spoil):
    cohort = make_cohort()

    def call(work):
        return work.path(cohort.y, TRAIN, ROWS, "a")

    expected = call(learner(cohort))
    work = learner(cohort, folder=tmp_path)
    interrupted(monkeypatch, work, 2, call)
    name = checkpoint_of(work._piece("path", "a", cohort.y, TRAIN, ROWS))
    ledger = work.setup.ledger
    ledger.put(name, spoil(ledger.get(name)))
    assert np.array_equal(call(work), expected)


CHILD = """
import os, sys, time
PARENT = os.getppid()
from pathlib import Path
sys.path[:0] = [sys.argv[1], *map(str, Path(sys.argv[1]).parents[:2])]
import torch
torch.set_num_threads(1)
from test_train import OPTIONS, ROWS, TRAIN
from train_parts import BLOCKS, make_cohort, make_setup
from bids_fmmtc.learning.learners import train
from bids_fmmtc.learning.ledger import Ledger

class Slow(Ledger):
    def put(self, name, piece):
        super().put(name, piece)
        # Wait to be killed in mid fold, whenever the other process gets to it; but not for ever, if that one has died.
        while piece.get("epochs", 0) >= 2 and os.getppid() == PARENT:
            time.sleep(0.05)

train.CHECKPOINT_SECONDS = 0.0
setup = make_setup()
object.__setattr__(setup, "ledger", Slow(Path(sys.argv[2]), "d" * 64))
cohort = make_cohort()
train.NetworkLearner(cohort, BLOCKS, OPTIONS, setup).path(cohort.y, TRAIN, ROWS, "a")
"""


@pytest.mark.slow
def test_killed_in_mid_fold_and_started_again_it_ends_at_the_same_numbers(tmp_path):
    cohort = make_cohort()
    expected = learner(cohort).path(cohort.y, TRAIN, ROWS, "a")
    work = learner(cohort, folder=tmp_path)
    name = checkpoint_of(work._piece("path", "a", cohort.y, TRAIN, ROWS))
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path)])
    try:
        while (kept := work.setup.ledger.get(name)) is None or kept["epochs"] < 2:
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=patience(30)) == -signal.SIGKILL
    kept = work.setup.ledger.get(name)
    assert 2 <= kept["epochs"] < 5
    assert np.array_equal(kept["scores"], expected[: int(kept["epochs"])])
    # A file that the kill caught in writing is no piece.
    (work.setup.ledger.folder / ".half.npz").write_bytes(b"half")
    assert np.array_equal(work.path(cohort.y, TRAIN, ROWS, "a"), expected)
    assert work.setup.ledger.get(name) is None


# progress


def test_it_says_how_long_the_rest_will_take(tmp_path):
    cohort, lines = make_cohort(), []
    work = NetworkLearner(cohort, ("brainlm",), OPTIONS, make_setup(tmp_path, say=lines.append))
    work.plan(3)
    work.path(cohort.y, TRAIN, ROWS, "a")
    assert len(lines) == 1
    assert "left at most (14 epochs of" in lines[0]
    again = NetworkLearner(cohort, ("brainlm",), OPTIONS, make_setup(tmp_path, say=lines.append))
    again.plan(3)
    again.path(cohort.y, TRAIN, ROWS, "a")  # kept
    again.fit(cohort.y, TRAIN, 2, "a")  # three epochs of five
    assert len(lines) == 2
    assert "left at most (9 epochs of" in lines[1]


# adapting


def source_head(kind, blocks=BLOCKS, direction=0, seed=5, outcome="classification"):
    cohort = make_cohort(24, seed, (1.5, 0), outcome, direction=direction)
    rows = np.arange(24)
    if kind == "linear":
        return LinearLearner(cohort, blocks, tangent=False).fit(cohort.y, rows, 3, "source").head()
    epochs = 6 if "fc" in blocks else 40
    return learner(cohort, blocks, epochs=epochs, rate=0.02).fit(cohort.y, rows, epochs - 1, "source").head()


def adapting(parts, cohort, folder=None, **options):
    return AdaptedLearner(parts, cohort, replace(OPTIONS, **options), make_setup(folder))


@pytest.mark.parametrize("kind", ["linear", "fmmtc"])
def test_either_head_is_adapted_and_setting_0_is_the_head_as_it_was_but_for_its_level(kind):
    parts, cohort = source_head(kind), make_cohort(direction=1)
    work = adapting(parts, cohort)
    assert work.choices == 6
    assert [work.describe(c) for c in (0, 5)] == [Setting(epochs=0), Setting(epochs=5, edge="most")]
    path = work.path(cohort.y, TRAIN, ROWS, "a")
    assert path.shape == (6, 6)
    before = {n: t.clone() for n, t in parts.state.items()}
    start = work.fit(cohort.y, TRAIN, 0, "a")
    moved = {n for n, t in start.head().state.items() if not torch.equal(t, parts.state[n])}
    assert moved <= {"bias", "classifier.bias"}
    for choice in (0, 3):
        assert np.array_equal(work.fit(cohort.y, TRAIN, choice, "a").scores(ROWS), path[choice])
    final = work.fit(cohort.y, TRAIN, 5, "a").head()
    assert (final.spec, final.shapes) == (parts.spec, parts.shapes)
    assert all(torch.equal(t, before[n]) for n, t in parts.state.items())
    assert all(torch.equal(t, parts.state[n]) for n, t in final.state.items() if "running" in n)
    assert not torch.equal(next(iter(final.state.values())), next(iter(parts.state.values())))


@pytest.mark.parametrize("outcome", ["classification", "regression"])
@pytest.mark.parametrize("kind", ["linear", "fmmtc"])
def test_adapting_helps_where_the_effect_lies_elsewhere(kind, outcome):
    parts = source_head(kind, ("brainlm",), direction=0, outcome=outcome)
    cohort, test = (make_cohort(n, seed, (1.5, 0), outcome, direction=1) for n, seed in ((30, 8), (60, 9)))
    if outcome == "regression":
        cohort, test = (replace(c, y=c.y + 100) for c in (cohort, test))
    work, rows = adapting(parts, cohort, epochs=60), np.arange(30)
    before, after = (work.fit(cohort.y, rows, choice, "a").elsewhere(test) for choice in (0, 60))
    if outcome == "regression":  # the level was never the difficulty
        assert abs(np.mean(before - test.y)) < 3
        assert np.mean((after - test.y) ** 2) < 0.9 * np.mean((before - test.y) ** 2)
    else:
        assert auroc(test.y, after) > auroc(test.y, before) + 0.1


def test_adapting_sees_its_training_rows_only():
    parts, cohort = source_head("fmmtc"), make_cohort(direction=1)
    outcomes = np.where(np.isin(np.arange(20), TRAIN), cohort.y, np.nan)
    arrays = {
        name: tuple(a if i in TRAIN else np.zeros_like(a) for i, a in enumerate(column))
        for name, column in cohort.arrays.items()
    }
    one = adapting(parts, cohort).fit(cohort.y, TRAIN, 3, "a")
    assert same_weights(adapting(parts, replace(cohort, arrays=arrays)).fit(outcomes, TRAIN, 3, "a"), one)


def test_adapting_keeps_the_tangent_reference_of_the_source():
    source = make_cohort(seed=5, covariance=True)
    setup = make_setup(tangent=True)
    parts = NetworkLearner(source, BLOCKS, OPTIONS, setup).fit(source.y, np.arange(20), 1, "a").head()
    cohort = make_cohort(covariance=True)
    adapted = AdaptedLearner(parts, cohort, OPTIONS, setup).fit(cohort.y, TRAIN, 2, "a").head()
    assert np.array_equal(adapted.tangent.mean, parts.tangent.mean)


def test_an_adapted_piece_of_another_head_or_cohort_is_never_taken_for_it(tmp_path, monkeypatch):
    cohort, parts = make_cohort(), source_head("linear")
    expected = adapting(parts, cohort).path(cohort.y, TRAIN, ROWS, "a")

    def call(work):
        return work.path(cohort.y, TRAIN, ROWS, "a")

    interrupted(monkeypatch, adapting(parts, cohort, tmp_path), 2, call)
    assert np.array_equal(call(adapting(parts, cohort, tmp_path)), expected)
    other = source_head("linear", seed=6)
    assert np.array_equal(call(adapting(other, cohort, tmp_path)), call(adapting(other, cohort)))
    changed = changed_features(cohort)
    assert np.array_equal(call(adapting(parts, changed, tmp_path)), call(adapting(parts, changed)))


def test_a_cohort_of_other_features_cannot_be_adapted_to():
    parts, cohort = source_head("linear"), make_cohort()
    with pytest.raises(DataError, match=r"reads brainlm of shape .6,., the cohort holds none"):
        adapting(parts, replace(cohort, arrays={"fc": cohort.arrays["fc"]}))
    assert Inputs(cohort, parts.shapes, None, "cpu").windows(0) == 2
