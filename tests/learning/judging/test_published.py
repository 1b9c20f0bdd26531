import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.model_selection import StratifiedKFold
from train_parts import BLOCKS, RESNET, H, R, make_cohort, make_setup

from bids_fmmtc.errors import DataError, UsageError
from bids_fmmtc.learning.folds import rng_of
from bids_fmmtc.learning.judging import published as module
from bids_fmmtc.learning.judging.published import published_protocol, report
from bids_fmmtc.learning.learners.epochs import TrainingOptions
from bids_fmmtc.learning.learners.train import fresh_head

OPTIONS = TrainingOptions(epochs=4, rate=0.05, resnet=RESNET)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logits_of(differences, level=0.0):
    """(E, n, 2) logits of (E, n) differences."""
    d = np.asarray(differences, float)
    return np.stack([level - d / 2, level + d / 2], axis=-1)


# the report


def test_the_best_epoch_is_the_first_of_the_highest_correlation_on_the_reported_fold():
    y = np.array([0.0, 0, 1, 1])
    right, half, wrong = [-1, -1, 1, 1], [-1, 1, 1, 1], [1, 1, -1, -1]
    found = report([(y, logits_of([half, right, right, wrong]))])
    fold = found["folds"][0]
    assert fold["n"] == 4
    assert fold["best"]["epoch"] == 2
    assert fold["best"]["metrics"]["mcc"] == pytest.approx(1)
    assert fold["last"] == {"epoch": 4, "metrics": fold["last"]["metrics"]}
    assert fold["last"]["metrics"]["mcc"] == pytest.approx(-1)
    assert fold["mcc_by_epoch"] == [pytest.approx(0.57735, abs=1e-5), 1, 1, -1]
    assert found["best_epoch"]["mean"]["mcc"] == pytest.approx(1)
    assert found["last_epoch"]["mean"]["mcc"] == pytest.approx(-1)
    assert "correlation 1.00 at the best epoch of each fold (1 of 1 folds saved), -1.00 at the last" in found["text"]


def test_folds_that_never_exceed_0_drop_out_of_the_mean():
    y = np.array([0.0, 0, 1, 1])
    good, bad = logits_of([[-1, -1, 1, 1]] * 2), logits_of([[1, 1, -1, -1], [1, 1, 1, 1]])
    found = report([(y, good), (y, bad)])
    assert found["folds"][1]["best"] is None
    assert found["best_epoch"]["folds"] == 1
    assert found["best_epoch"]["mean"]["mcc"] == pytest.approx(1)
    assert found["last_epoch"]["folds"] == 2
    assert found["last_epoch"]["mean"]["mcc"] == pytest.approx(0.5)
    assert found["last_epoch"]["sd"]["mcc"] == pytest.approx(0.5)
    none = report([(y, bad)])
    assert none["best_epoch"] is None
    assert "correlation none at the best epoch of each fold (0 of 1 folds saved)" in none["text"]


def test_equal_logits_are_called_0_as_argmax_does():
    found = report([(np.array([0.0, 1]), np.zeros((1, 2, 2)))])
    assert found["folds"][0]["last"]["metrics"]["sensitivity"] == 0
    assert found["folds"][0]["last"]["metrics"]["specificity"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0.0, 1.0], rng.integers(0, 2, 7)])
    logits = rng.standard_normal((1, 9, 2))
    logits[..., 1] += 3 * (seed - 2)  # the outer seeds call all one class
    found = report([(y, logits)])["folds"][0]["last"]["metrics"]
    label = logits[0].argmax(axis=1)
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(y, label),
            "balanced_accuracy": sk.balanced_accuracy_score(y, label),
            "macro_f1": sk.f1_score(y, label, average="macro", zero_division=0),
            "auroc_of_logit_1": sk.roc_auc_score(y, logits[0, :, 1]),
            "mcc": sk.matthews_corrcoef(y, label),
            "sensitivity": sk.recall_score(y, label, zero_division=0),
            "specificity": sk.recall_score(1 - y, 1 - label, zero_division=0),
            "precision": sk.precision_score(y, label, zero_division=0),
        }
    )


def test_auroc_is_that_of_logit_1_which_the_level_of_a_row_may_turn_round():
    y, d = np.array([0.0, 0, 1, 1]), np.array([[-1, -1, 1, 1]])
    level = np.array([10.0, 10, 0, 0])
    found = report([(y, logits_of(d, level))])["folds"][0]["last"]["metrics"]
    assert found["mcc"] == pytest.approx(1)
    assert found["auroc_of_logit_1"] == 0


# the loop


def test_gradients_add_up_within_an_epoch_and_the_loop_is_the_published_one(monkeypatch):
    """Against the loop written out: one zero_grad an epoch, unweighted loss, unshuffled folds, test rows each epoch."""
    cohort, setup = make_cohort(23, windows=1), make_setup()
    seen = []
    monkeypatch.setattr(module, "report", lambda folds: seen.extend(folds) or {})
    published_protocol(cohort, ("brainlm",), OPTIONS, setup, "fmmtc")
    spec = {"kind": "fmmtc", "outputs": 2, "branches": {"brainlm": {"branch": "identity"}}}
    x = torch.tensor(np.concatenate(cohort.arrays["brainlm"]))
    y = torch.tensor(cohort.y, dtype=torch.int64)
    folds = list(StratifiedKFold(5, shuffle=False).split(cohort.y, cohort.y))
    assert len(seen) == len(folds) == 5
    for k, (train, test) in enumerate(folds):
        name = f"published/fold-{k}"
        head = fresh_head(spec, {"brainlm": (H,)}, rng_of(3, name, "start"))
        steps = torch.optim.AdamW(head.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, 4, 1e-7)
        for epoch in range(4):
            order = rng_of(3, name, epoch).permutation(train)
            steps.zero_grad()
            for rows in [order[:8], order[8:16], order[16:]]:
                torch.nn.functional.cross_entropy(head({"brainlm": x[rows]}), y[rows]).backward()
                steps.step()
            schedule.step()
            with torch.no_grad():
                expected = head({"brainlm": x[test]}).numpy()
            assert np.allclose(seen[k][1][epoch], expected, rtol=1e-4, atol=1e-5)
        assert np.array_equal(seen[k][0], cohort.y[test])


def test_windows_are_drawn_anew_at_every_epoch_in_validation_too(monkeypatch):
    apart = tuple(10.0 * np.arange(4, dtype=np.float32)[:, None] * np.ones((4, H), np.float32) for _ in range(20))
    cohort, seen = replace(make_cohort(20), arrays={"brainlm": apart}), []
    monkeypatch.setattr(module, "report", lambda folds: seen.extend(folds) or {})
    options = replace(OPTIONS, epochs=30, rate=1e-9)  # the head stands still
    published_protocol(cohort, ("brainlm",), options, make_setup(), "fmmtc")
    logits = seen[0][1]
    assert [len(np.unique(logits[:, i, 0].round(2))) for i in range(4)] == [4] * 4


def test_the_linear_layer_takes_the_mean_upper_triangle(monkeypatch):
    cohort, shapes, taken = make_cohort(20), [], []
    fresh = module.fresh_head
    monkeypatch.setattr(module, "fresh_head", lambda spec, s, rng: shapes.append((spec, s)) or fresh(spec, s, rng))
    drawn = module._Run._drawn

    def watched(self, rows, rng):
        taken.append((rows, drawn(self, rows, rng)))
        return taken[-1][1]

    monkeypatch.setattr(module._Run, "_drawn", watched)
    published_protocol(cohort, BLOCKS, replace(OPTIONS, epochs=1), make_setup(), "linear")
    spec, found = shapes[0]
    assert found == {"brainlm": (H,), "fc": (R * (R - 1) // 2,)}
    assert {b["branch"] for b in spec["branches"].values()} == {"identity"}
    rows, batch = taken[0]
    upper = np.triu_indices(R, 1)
    expected = [cohort.arrays["fc"][i].astype(float).mean(axis=0)[upper] for i in rows]
    assert np.allclose(batch["fc"], expected, atol=1e-6)


def test_the_published_head_runs_and_says_what_it_is():
    cohort, lines = make_cohort(21), []
    found = published_protocol(cohort, BLOCKS, OPTIONS, make_setup(say=lines.append), "fmmtc")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["protocol"], found["head"], found["inflated"]) == ("published", "fmmtc", True)
    assert "its figures are inflated" in found["text"]
    assert len(found["reproduced"]) == 7
    assert len(found["not_reproduced"]) == 5
    assert [f["n"] for f in found["folds"]] == [5, 4, 4, 4, 4]
    assert found["settings"]["epochs"] == 4
    assert len(lines) == 1
    assert "(19 epochs of" in lines[0]
    again = published_protocol(cohort, BLOCKS, OPTIONS, make_setup(), "fmmtc")
    assert again == found


def test_the_published_network_reads_three_equal_channels():
    run = module._Run(make_cohort(21), OPTIONS, make_setup())
    first = next(w for w in fresh_head(run._spec, run._shapes, np.random.default_rng(0)).parameters() if w.ndim == 4)
    assert first.shape[1] == 3


def test_folds_that_are_done_are_kept(tmp_path, monkeypatch):
    cohort = make_cohort(20)
    found = published_protocol(cohort, BLOCKS, OPTIONS, make_setup(tmp_path), "linear")
    with monkeypatch.context() as patch:
        patch.delattr(module._Run, "_trained")
        assert published_protocol(cohort, BLOCKS, OPTIONS, make_setup(tmp_path), "linear") == found
    turned = replace(cohort, y=1 - cohort.y)
    assert published_protocol(turned, BLOCKS, OPTIONS, make_setup(tmp_path), "linear") != found


def test_a_number_as_outcome_or_too_few_people_are_refused():
    with pytest.raises(UsageError, match="classifies"):
        published_protocol(make_cohort(20, kind="regression"), BLOCKS, OPTIONS, make_setup(), "linear")
    few = make_cohort(20).take(np.flatnonzero(np.cumsum(make_cohort(20).y) < 5))
    with pytest.raises(DataError, match="5 sessions of each class, found 4"):
        published_protocol(few, BLOCKS, OPTIONS, make_setup(), "linear")


# what it does to the figures


@pytest.mark.slow
def test_on_noise_it_reports_an_effect_that_the_last_epoch_does_not_show():
    """40 balanced people, 512 random features; over 20 cohorts 0.43 at the best epoch and -0.08 at the last."""
    best, last = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        noise = tuple(rng.standard_normal((40, 1, 512)).astype(np.float32))
        y = rng.permutation(np.repeat([0.0, 1.0], 20))
        cohort = replace(make_cohort(40), arrays={"brainlm": noise}, y=y)
        found = published_protocol(cohort, ("brainlm",), TrainingOptions(), make_setup(seed=seed), "linear")
        best.append(found["best_epoch"]["mean"]["mcc"])
        last.append(found["last_epoch"]["mean"]["mcc"])
    assert np.mean(best) > 0.3
    assert np.mean(last) < 0.2
    assert np.mean(best) > np.mean(last) + 0.3
