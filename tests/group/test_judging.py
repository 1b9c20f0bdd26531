"""The evaluation as JSON: every contestant, every test, every reason."""

import json
from dataclasses import replace

import numpy as np
import pytest
from group.parts import evaluated, group_words, study

from bids_fmmtc.cli import parse
from bids_fmmtc.group import judging
from bids_fmmtc.group.results import plain
from bids_fmmtc.group.study import others_of
from bids_fmmtc.learning.judging.contestants import AMPLITUDE
from bids_fmmtc.modalities.about import LETTERS
from bids_fmmtc.plain import to_json
from bids_fmmtc.results.verdict import verdicts

WORDS = ("--site-column", "site", "--leave-one-site-out", "--permutations", "0")


def judged(root, change=lambda s: s, words=WORDS):
    found = change(study(root, *words))
    settings = parse(group_words(root, *words), {})
    everyone = judging.judge_all(found)
    return found, everyone, evaluated(found, everyone, settings)


def test_every_contestant_has_figures_or_a_reason(made):
    found, everyone, whole = judged(made)
    evaluation = to_json(whole)
    assert everyone[0].contestant.name == "model"
    for model in evaluation["models"].values():
        assert (model["status"] == "ok") != ("reason" in model)
    against = {c["against"] for c in evaluation["comparisons"]}
    assert against == {n for n, m in evaluation["models"].items() if m["status"] == "ok"} - {"model"}
    assert "permutation" not in evaluation
    json.dumps(plain(evaluation), allow_nan=False)
    assert judging.made(everyone[0]).value.shape == (2, len(found.cohort))


def test_an_outcome_tied_to_the_site_is_exposed(made):
    """Outcome is the site but for one person; connectivity carries the site, nothing else."""

    def tied(s):
        y = np.array([float(site == "a") for site in s.cohort.sites])
        rng = np.random.default_rng(0)
        arrays = tuple(
            (rng.standard_normal(a.shape) * 0.2 + np.where(v, 1.0, 0.0)).astype(np.float32)
            for a, v in zip(s.cohort.arrays["fc"], y, strict=True)
        )
        y[0] = 1 - y[0]
        return s.with_cohort(replace(s.cohort, y=y, arrays={"fc": arrays}))

    _, _, found = judged(made, tied)
    said = " ".join(each.text for each in verdicts(found, LETTERS))
    evaluation = to_json(found)
    assert "The site alone predicts the outcome" in said
    assert "Among people of one site it is not shown to be better than chance" in said
    assert "cannot be told apart" not in said  # one person breaks the tie
    assert evaluation["leave_one_site_out"]["status"] == "not run"
    assert "fewer than two of a class" in evaluation["leave_one_site_out"]["reason"]


def test_a_contestant_that_fails_costs_no_other(made):
    """The amplitude of one person is no number: that baseline is not run and says why, all else is as it was."""

    def with_amplitude(level):
        def change(s):
            rng = np.random.default_rng(0)
            more = {
                name: [rng.standard_normal((1, 12)).astype(np.float32) for _ in s.cohort.keys] for name in AMPLITUDE
            }
            more[AMPLITUDE[0]][3][0, 5] = level
            return s.with_cohort(
                replace(s.cohort, arrays={**s.cohort.arrays, **{k: tuple(v) for k, v in more.items()}})
            )

        return change

    well, broken = (to_json(judged(made, with_amplitude(level))[2])["models"] for level in (1.0, np.nan))
    assert well["amplitude"]["status"] == "ok"
    assert broken["amplitude"]["status"] == "not run"
    assert "log_variance holds values that are not finite" in broken["amplitude"]["reason"]
    assert {k: v for k, v in broken.items() if k != "amplitude"} == {k: v for k, v in well.items() if k != "amplitude"}


def test_covariates_that_nobody_has_tell_nothing(made):
    def unknown(s):
        return s.with_cohort(replace(s.cohort, covariates={"age": np.full((len(s.cohort), 1), np.inf)}))

    models = to_json(judged(made, unknown)[2])["models"]
    told, base = models["covariates"]["metrics"], models["majority"]["metrics"]
    assert told["auroc_within"]["value"] == base["auroc_within"]["value"] == 0.5
    assert told["log_loss"]["value"] == pytest.approx(base["log_loss"]["value"], rel=1e-3)


def test_another_cohort_that_cannot_be_read_says_why(made, other, tmp_path):
    from bids_fmmtc.learning.judging.evaluate import final_model

    found = study(made, "--permutations", "0")
    learner = judging.contestants(found.cohort, found.setup)[0].learner
    final = final_model(learner, found.cohort, found.scheme.inner, "m")
    table = other / "bids" / "participants.tsv"
    words = ("--external", f"gone={tmp_path / 'no'}:responder", f"other={other / 'out'}:{table}:responder")
    words += (f"same={made / 'out'}:{made / 'bids' / 'participants.tsv'}:responder",)
    others = to_json(judging.judge_others(found, final, others_of(parse(group_words(made, *words), {}))))
    assert others["gone"]["status"] == "failed"
    assert "not there" in others["gone"]["reason"]
    assert others["other"]["n"] == 16
    assert others["other"]["metrics"]["auroc"]["value"] > 0.9
    assert "23 of its 23 scans were learnt from" in others["same"]["reason"]


@pytest.mark.slow
def test_a_model_is_adapted_on_folds_of_the_other_cohort(made, other):
    from bids_fmmtc.learning.judging.evaluate import final_model

    found = study(made, "--permutations", "0", "--repeats", "1")
    found = replace(found, setup=replace(found.setup, options={"epochs": 3}))
    learner = judging.contestants(found.cohort, found.setup)[0].learner
    final = final_model(learner, found.cohort, found.scheme.inner, "m")
    table = other / "bids" / "participants.tsv"
    words = ("--adapt", "--external", f"other={other / 'out'}:{table}:luck")
    others = to_json(judging.judge_others(found, final, others_of(parse(group_words(made, *words), {}))))
    adapted = others["other"]["adapted"]
    assert set(adapted) == {"adapted", "from_scratch"}
    assert all(0 <= m["auroc"]["value"] <= 1 for m in adapted.values())


def test_the_published_protocol_is_marked(made):
    found = study(made)
    found = replace(found, setup=replace(found.setup, options={"epochs": 2}))
    said = to_json(judging.published(found))
    assert said["inflated"]
    assert "inflated" in said["text"]
    number = study(made, outcome="pain")
    assert judging.published(number).status == "not run"
