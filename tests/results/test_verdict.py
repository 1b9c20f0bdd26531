"""Sentences follow from numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.modalities.about import LETTERS
from bids_fmmtc.results import verdict
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.measures import MEASURES, PRIMARY
from bids_fmmtc.results.record import evaluation_of
from bids_fmmtc.results.verdict import UNRELIABLE, shown


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


GOOD, CHANCE, UNDEFINED = estimate(0.8, 0.7, 0.9), estimate(0.55, 0.4, 0.7), estimate(None, None, None)


def model(auroc, role="baseline", text="a text"):
    return {"text": text, "role": role, "status": "ok", "metrics": {"auroc_within": auroc}}


def evaluation(auroc=GOOD, p=0.001, **more):
    given = {
        "kind": "classification",
        "n": 40,
        "models": {"model": model(auroc, "model")},
        "permutation": {"p": p, "n": 999},
        "comparisons": [],
    }
    models = {**given["models"], **more.pop("models", {})}
    return {**given, "models": models, **more}


@pytest.mark.parametrize(
    ("auroc", "p", "says"),
    [
        (
            GOOD,
            0.001,
            "permutation p = 0.001, the least that 999 permutations can give",
        ),
        (GOOD, 0.2, "the interval excludes chance, the test does not"),
        (CHANCE, 0.001, "is not shown to be better than chance"),
        (CHANCE, 0.6, "is not shown to be better than chance"),
        (UNDEFINED, 0.6, "AUROC within folds undefined"),
    ],
)
def test_chance(auroc, p, says):
    assert says in verdicts(evaluation(auroc, p))[0]


def verdicts(content):
    return [each.text for each in verdict.verdicts(evaluation_of(content), LETTERS)]


def found_effect(content):
    return verdict.found_effect(evaluation_of(content))


def conformal_caution(content):
    return verdict.conformal_caution(evaluation_of(content))


def test_without_a_permutation_test_that_is_said():
    assert "no permutation test was run" in verdicts(evaluation(permutation=None))[0]
    assert found_effect(evaluation(permutation=None))
    assert not found_effect(evaluation(CHANCE, permutation=None))


def test_a_confound_that_predicts_is_named():
    said = " ".join(verdicts(evaluation(models={"site": model(GOOD), "motion": model(CHANCE)})))
    assert "The site alone predicts the outcome (AUROC within folds 0.80" in said
    assert "motion" not in said


def test_what_is_beaten_and_what_is_not():
    models = {n: model(CHANCE, text=n.upper()) for n in ("majority", "motion", "site")}
    against = {"majority": estimate(0.3, 0.1, 0.5), "motion": estimate(0.1, -0.1, 0.3), "site": estimate(-1, -2, -0.5)}
    compared = [{"against": name, "difference": d} for name, d in against.items()]
    said = verdicts(evaluation(models=models, comparisons=compared))
    assert "On the same folds it beats: MAJORITY." in said
    assert "It is not shown to beat (the interval of the difference holds 0): MOTION." in said
    assert "It is worse than: SITE." in said
    compared = [{"against": "site", "difference": UNDEFINED}]
    assert "It cannot be compared with: SITE." in verdicts(evaluation(models=models, comparisons=compared))


@pytest.mark.parametrize(
    ("t", "c", "says"),
    [
        (GOOD, CHANCE, "Time series predict the outcome on their own; connectivity alone is not shown to"),
        (CHANCE, GOOD, "Connectivity predicts the outcome on its own; time series alone are not shown to"),
        (GOOD, GOOD, "each predict the outcome"),
        (CHANCE, CHANCE, "Neither modality alone"),
    ],
)
def test_the_ablation_names_the_modality(t, c, says):
    models = {"t_only": model(t, "ablation"), "c_only": model(c, "ablation")}
    assert any(says in s for s in verdicts(evaluation(models=models)))


def test_sites():
    left = {"status": "ok", "metrics": {"auroc_within": CHANCE}}
    said = verdicts(evaluation(within_site=CHANCE, leave_one_site_out=left))
    assert any(s.startswith("Among people of one site it is not shown") for s in said)
    assert "What was found with sites mixed is not shown to carry over to a new site." in said
    left = {"status": "not run", "reason": "site a holds one class."}
    said = verdicts(evaluation(within_site=UNDEFINED, leave_one_site_out=left))
    assert any("cannot be told apart" in s for s in said)
    assert "No site could be left out: site a holds one class." in said


def test_other_cohorts():
    cohorts = {
        "south": {"status": "ok", "metrics": {"auroc_within": CHANCE}},
        "west": {"status": "failed", "reason": "nobody has features."},
    }
    said = verdicts(evaluation(external=cohorts))
    assert any(s.startswith("On cohort south, untouched until then: not shown to be better than chance") for s in said)
    assert "Cohort west could not be judged; evaluation.json says why." in said


def test_regression_is_judged_by_correlation():
    r = estimate(0.1, -0.2, 0.4)
    found = {"kind": "regression", "n": 30, "models": {"model": {**model(None), "metrics": {"r_within": r}}}}
    assert verdicts(found)[0].startswith("The model is not shown to be better than chance")
    assert shown(MEASURES["r_within"], Estimate(**r)) == "r within folds 0.10, 95 % interval -0.20 to 0.40"


@pytest.mark.parametrize(("auroc", "p", "relied_on"), [(GOOD, 0.001, True), (GOOD, 0.2, False), (CHANCE, 0.001, False)])
def test_sets_of_a_model_not_better_than_chance_are_not_to_be_relied_on(auroc, p, relied_on):
    found = evaluation(auroc, p)
    assert (UNRELIABLE in verdicts(found)) != relied_on
    assert (conformal_caution(found) == "") == relied_on


def test_a_setting_on_the_edge_of_what_was_tried_is_said():
    inside, edge = {"penalty": 0.1}, {"penalty": 1e-6, "edge": "weakest"}
    found = evaluation()
    found["models"]["model"]["settings"] = [[inside, edge, edge], [edge, inside, inside]]
    said = [s for s in verdicts(found) if "tried" in s]
    assert said == [
        "The setting that was chosen is the weakest penalty tried (1e-06) in 3 of 6 folds: one beyond it was not tried "
        "and might do better."
    ]
    assert "in 3 of 6 folds and in the final model:" in " ".join(verdicts({**found, "final": {"setting": edge}}))
    found["models"]["model"]["settings"] = [[inside]]
    assert not any("tried" in s for s in verdicts(found))
    only = verdicts({**found, "final": {"setting": {"epochs": 60, "edge": "most"}}})
    assert any("the greatest number of epochs tried (60) in the final model:" in s for s in only)


def test_amplitude_that_predicts_is_said_to_need_no_encoder():
    assert any("without an encoder" in s for s in verdicts(evaluation(models={"amplitude": model(GOOD)})))
    assert not any("without an encoder" in s for s in verdicts(evaluation(models={"amplitude": model(CHANCE)})))
    compared = [{"against": "amplitude", "difference": estimate(0.1, -0.1, 0.3)}]
    said = verdicts(evaluation(models={"amplitude": model(GOOD, text="AMPLITUDE")}, comparisons=compared))
    assert "It is not shown to beat (the interval of the difference holds 0): AMPLITUDE." in said


def test_every_sentence_says_what_it_is_about_and_is_found_by_that():
    """By what is stored of it, and in files of before, which hold texts alone, by how it begins."""
    models = {name: model(GOOD) for name in (*verdict.CONFOUNDS, "amplitude", "t_only", "c_only")}
    left = {"status": "ok", "metrics": {"auroc_within": CHANCE}}
    cohorts = {"south": {"status": "ok", "metrics": {"auroc_within": CHANCE}}, "far west": {"status": "failed"}}
    content = evaluation(models=models, within_site=CHANCE, leave_one_site_out=left, external=cohorts)
    said = verdict.verdicts(evaluation_of(content), LETTERS)
    names = (*verdict.CONFOUNDS, verdict.WITHIN_SITE, verdict.SITE_LEFT_OUT, "cohort south", "cohort far west")
    assert {"chance", "modalities", "amplitude", "new site", *names} == {each.about for each in said}
    old = evaluation_of({**content, "verdicts": [each.text for each in said]})
    new = evaluation_of({**content, "verdicts": ["x"] * len(said), "verdicts_about": [each.about for each in said]})
    for name in names:
        assert verdict.said_of(old, name) == next(each.text for each in said if each.about == name)
        assert verdict.said_of(new, name) == "x"
    assert verdict.said_of(old, "cohort north") == verdict.said_of(new, "cohort north") == ""


ends = st.one_of(st.none(), st.floats(0, 1))


@given(value=ends, low=ends, p=ends, kind=st.sampled_from(["classification", "regression"]))
def test_an_effect_needs_the_interval_and_the_test(value, low, p, kind):
    measure = PRIMARY[kind]
    found = {"value": value, "low": low, "high": 1.0}
    content = {"kind": kind, "models": {"model": {"status": "ok", "metrics": {measure.name: found}}}}
    content |= {} if p is None else {"permutation": {"p": p}}
    beyond = low is not None and low > measure.chance
    assert found_effect(content) == (beyond and (p is None or p < 0.05))
