"""The file of an evaluation, written and read."""

import json
from dataclasses import fields, replace

import pytest
from group_parts import evaluation, regression
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.group.results import plain
from bids_fmmtc.results.evaluation import Estimate, Evaluation, Part, Scored
from bids_fmmtc.results.record import Origin, evaluation_of, origin_of, plan_of, stored

ODD = (None, 5, "text", True, [1, "a", None], {"x": 1}, {"status": "failed", "reason": "because"}, float("inf"))


@pytest.mark.parametrize("content", [evaluation(), regression()], ids=["classification", "regression"])
def test_what_is_stored_is_read_again(content):
    origin, found = origin_of(content), evaluation_of(content)
    written = plain(stored(origin, found))
    again = json.loads(json.dumps(written, allow_nan=False))
    assert plain(stored(origin_of(again), evaluation_of(again))) == written
    assert written["SoftwareVersion"] == origin.software_version == "0.1.0"
    assert written["models"]["model"]["metrics"] == plain(content["models"]["model"]["metrics"])
    assert written["verdicts"] == content["verdicts"]
    assert list(written)[: len(fields(Origin))][-2:] == ["RecipeDigest", "Recipe"]


def test_parts_that_were_not_begun_are_not_written():
    written = stored(Origin(), Evaluation())
    assert not {"permutation", "within_site", "external", "trial", "verdicts"} & written.keys()
    failed = stored(Origin(), replace(Evaluation(), trial=Part("failed", "why")))
    assert failed["trial"] == {"status": "failed", "reason": "why"}
    assert evaluation_of(failed).trial == Part("failed", "why")


@given(st.sampled_from(sorted(evaluation())), st.sampled_from(ODD))
def test_one_broken_field_costs_no_other(name, odd):
    content = evaluation()
    broken, whole = evaluation_of({**content, name: odd}), evaluation_of(content)
    assert origin_of({**content, name: odd})
    for field in fields(Evaluation):
        if field.name != name:
            assert getattr(broken, field.name) == getattr(whole, field.name)


def test_one_broken_contestant_or_figure_costs_no_other():
    content = evaluation()
    models = {**content["models"], "site": 4, "c_only": {"role": "king", "status": "ok", "metrics": {"mcc": 1}}}
    models["new"] = {"text": "t", "status": "ok", "metrics": {"mcc": {"value": "x", "low": 0.1}, "r": {"low": 1}}}
    found = evaluation_of({**content, "models": models, "unknown": 1})
    assert list(found.models) == ["model", "c_only", "majority", "motion", "new"]
    assert found.models["c_only"] == Scored(status="ok", metrics={})
    assert found.models["new"].metrics == {"mcc": Estimate(None, 0.1)}


def test_nothing_is_read_of_nothing():
    assert evaluation_of(None) == Evaluation()
    assert origin_of({}) == Origin()
    assert plan_of(None) is None
    assert plan_of({"verdict": "not supported"}).verdict == "not supported"
