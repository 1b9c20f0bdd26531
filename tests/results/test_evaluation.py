"""What an evaluation holds, whole and in part."""

import pytest

from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.evaluation import (
    Compared,
    Elsewhere,
    Evaluation,
    Explanation,
    Part,
    Saved,
    Scored,
    parts_of,
    states,
)


def test_nothing_was_judged_of_what_was_not_run():
    metrics = {"auroc_within": Estimate(0.7, 0.6, 0.8), "mcc": Estimate(0.3)}
    found = Evaluation(models={"model": Scored(status="ok", metrics=metrics), "site": Scored(metrics=metrics)})
    assert found.estimate("model") == metrics["auroc_within"]
    assert found.estimate("model", "mcc") == Estimate(0.3)
    assert found.estimate("model", "auprc") is found.estimate("site") is found.estimate("motion") is None
    assert Evaluation().model.estimate("mcc") is None


@pytest.mark.parametrize(("kind", "name"), [("classification", "auroc_within"), ("regression", "r_within")])
def test_the_measure_of_record(kind, name):
    assert Evaluation(kind=kind).measure.name == name


def test_states_are_told_by_where_they_stand():
    compared = {"west": Part("failed", "x"), "south": Compared("ok")}
    cohorts = {"south": Elsewhere("ok", adapted=Part("failed", "y"))}
    found = Evaluation(external=cohorts, bundle=Saved("ok"), explanation=Explanation("ok", compared=compared))
    assert dict(states(parts_of(found))) == {
        "external south": "ok",
        "external south adapted": "failed",
        "bundle": "ok",
        "explanation": "ok",
        "explanation compared west": "failed",
        "explanation compared south": "ok",
    }
    assert not dict(states(parts_of(Evaluation())))
