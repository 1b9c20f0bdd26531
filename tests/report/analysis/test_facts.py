import json

from group_parts import evaluation, regression, write_analysis
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.learning.judging import metrics, verdict
from bids_fmmtc.report.analysis.facts import CHANCE, METRIC_WORDS, PRIMARY, Analysis, read_analyses, read_analysis


def analysis(tmp_path, content):
    return Analysis("x", tmp_path, content, (), (), {}, ())


def test_names_and_chance_are_those_of_the_verdicts():
    assert dict(PRIMARY) == verdict.PRIMARY
    tables = {**metrics.CLASSIFICATION, **metrics.REGRESSION}
    for name, chance in CHANCE.items():
        assert tables[name].chance == chance
    assert {k: CHANCE[k] for k in verdict.CHANCE} == verdict.CHANCE
    assert set(METRIC_WORDS) <= set(tables)


ends = st.one_of(st.none(), st.floats(0, 1))


@given(
    value=ends,
    low=ends,
    p=st.one_of(st.none(), st.floats(0, 1)),
    kind=st.sampled_from(["classification", "regression"]),
)
def test_an_effect_is_found_where_the_verdicts_find_one(value, low, p, kind):
    found = {"value": value, "low": low, "high": 1.0}
    content = {"kind": kind, "models": {"model": {"status": "ok", "metrics": {verdict.PRIMARY[kind]: found}}}}
    content |= {} if p is None else {"permutation": {"p": p}}
    assert Analysis("x", None, content, (), (), {}, ()).better_than_chance == verdict.found_effect(content)


def test_an_analysis_is_read_whole(tmp_path):
    folder = write_analysis(tmp_path)
    found = read_analysis(folder)
    assert found.problems == ()
    assert found.verdicts == evaluation()["verdicts"]
    assert len(found.judged) == 16
    first = found.judged[0]
    assert (first.key, first.outcome, first.site, first.arm) == ("sub-01_task-rest", 1.0, "south", None)
    assert [row["participant_id"] for row in found.exclusions] == ["sub-900", "sub-902"]
    assert found.estimate("model", "auroc") == {"value": 0.71, "low": 0.58, "high": 0.82}
    assert found.estimate("nobody", "auroc") is None
    assert found.explained == ["sub-01_task-rest"]
    assert not found.regression


def test_parts_say_why_they_are_not_there(tmp_path):
    content = {"trial": {"status": "failed", "reason": "no memory"}, "explanation": {"people": 3}}
    found = analysis(tmp_path, content)
    assert found.part("trial") == ({}, "failed: no memory")
    assert found.part("explanation") == ({"people": 3}, "")
    assert found.part("external") == ({}, "not run")
    assert analysis(tmp_path, regression()).part("trial")[1].startswith("not run: a trial is planned for responders")


def test_the_plan_is_read_from_its_own_file_where_the_evaluation_lacks_it(tmp_path):
    (tmp_path / "trial_plan.json").write_text(json.dumps({"verdict": "supported"}))
    assert analysis(tmp_path, {}).part("trial") == ({"verdict": "supported"}, "")


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "group" / "b10").mkdir(parents=True)
    (tmp_path / "group" / "b9").mkdir()
    (tmp_path / "group" / "a file").touch()
    (tmp_path / "group" / ".hidden").mkdir()
    found = read_analyses(tmp_path)
    assert [each.label for each in found] == ["b9", "b10"]
    assert [p.split(" ")[0] for p in found[0].problems] == ["evaluation.json", "predictions.tsv", "exclusions.tsv"]
    assert read_analyses(tmp_path / "nowhere") == ()


def test_an_unfinished_run_is_named(tmp_path):
    folder = write_analysis(tmp_path, content={k: v for k, v in evaluation().items() if k != "verdicts"})
    assert read_analysis(folder).problems[0].startswith("evaluation.json holds no verdicts")
