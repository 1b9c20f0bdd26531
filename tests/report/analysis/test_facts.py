import json

from group_parts import evaluation, regression, write_analysis

from bids_fmmtc.report.analysis.facts import Analysis, read_analyses, read_analysis, told
from bids_fmmtc.results.card import ModelCard
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.record import evaluation_of, origin_of


def analysis(tmp_path, content):
    return Analysis("x", tmp_path, origin_of(content), evaluation_of(content), True, (), (), ModelCard(), ())


def test_an_analysis_is_read_whole(tmp_path):
    folder = write_analysis(tmp_path)
    found = read_analysis(folder)
    assert found.problems == ()
    assert list(found.evaluation.verdicts) == evaluation()["verdicts"]
    assert len(found.judged) == 16
    first = found.judged[0]
    assert (first.key, first.outcome, first.site, first.arm) == ("sub-01_task-rest", 1.0, "south", None)
    assert [row["participant_id"] for row in found.exclusions] == ["sub-900", "sub-902"]
    assert found.estimate("auroc") == Estimate(0.71, 0.58, 0.82)
    assert found.estimate("nothing") is None
    assert found.explained == ["sub-01_task-rest"]
    assert not found.regression


def test_parts_say_why_they_are_not_there(tmp_path):
    content = {"trial": {"status": "failed", "reason": "no memory"}, "explanation": {"people": 3}}
    found = analysis(tmp_path, content)
    assert told(found.trial) == (None, "failed: no memory")
    explained, why = told(found.evaluation.explanation)
    assert (explained.people, why) == (3, "")
    assert told(found.evaluation.bundle) == (None, "not run")
    assert told(analysis(tmp_path, regression()).trial)[1].startswith("not run: a trial is planned for responders")


def test_the_plan_is_read_from_its_own_file_where_the_evaluation_lacks_it(tmp_path):
    (tmp_path / "trial_plan.json").write_text(json.dumps({"verdict": "supported"}))
    plan, why = told(analysis(tmp_path, {}).trial)
    assert (plan.verdict, why) == ("supported", "")


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
