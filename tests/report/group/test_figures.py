from dataclasses import replace

import pytest
from group_parts import evaluation, holding, regression, write_analysis, write_dataset

from bids_fmmtc.report.group.facts import Pooled, read_group
from bids_fmmtc.report.group.figures import applied_figure, distributions, flow_figure, quality_figure, steps


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    root = write_dataset(tmp_path_factory.mktemp("one"), predicted=range(1, 9))
    write_analysis(root, arms=("drug", "placebo"))
    return read_group(root)


def test_the_flow_goes_from_people_to_classes(group):
    found = steps(group, group.analyses[0])
    assert [s.kept for s in found] == [
        *("18 participants known", "17 recordings processed", "16 sessions of 16 participants analysed"),
        "8 responders\n8 non-responders",
    ]
    assert found[0].lost == ("1 participant without any output",)
    assert found[1].lost == ("1 recording failed",)
    assert set(found[2].lost) == {"2 left out of the analysis:", "1 × failed (image)", "1 × the outcome is missing"}
    assert len(steps(group, None)) == 2
    assert "(1 recording failed)" in flow_figure(group, group.analyses[0], "x").markup


def test_many_reasons_are_cut_in_the_figure(group):
    people = evaluation()["people"] | {"excluded": 9, "reasons": {f"reason {i}": 1 for i in range(9)}}
    analysis = holding(group.analyses[0], evaluation(people=people))
    assert steps(group, analysis)[2].lost[-1] == "and 4 other reasons"
    assert flow_figure(group, analysis, "x") is not None


def test_an_empty_dataset_has_no_flow(tmp_path):
    assert flow_figure(read_group(tmp_path), None, "x") is None


def test_predictions_are_spread_by_arm_and_site(group):
    arm, site = distributions(group.analyses[0], "x")
    assert (arm.name, site.name) == ("x-arm", "x-site")
    values = [j.value for j in group.analyses[0].judged if j.arm == "drug" and j.outcome == 1]
    assert f"{len(values)} responders" in arm.markup
    assert "north" in site.markup
    assert "placebo" in arm.markup


def test_without_arm_and_site_there_is_one_strip(tmp_path):
    write_analysis(write_dataset(tmp_path), sites=())
    (figure,) = distributions(read_group(tmp_path).analyses[0], "x")
    assert figure.name == "x-all"
    assert "8 responders, median" in figure.markup


def test_many_sites_are_put_together(tmp_path):
    write_analysis(write_dataset(tmp_path, n=60), n=60, sites=[f"s{i}" for i in range(30)])
    (figure,) = distributions(read_group(tmp_path).analyses[0], "x")
    assert "19 others" in figure.markup


def test_a_number_as_outcome_is_not_spread(tmp_path):
    write_analysis(write_dataset(tmp_path), content=regression())
    assert distributions(read_group(tmp_path).analyses[0], "x") == []


def test_applied_predictions_are_sorted_with_their_decisions(group):
    figure = applied_figure(group.sessions, "x")
    assert "8 sessions, probabilities from 0.05 to 0.40, median 0.23." in figure.markup
    for said in ("undecided (4)", "responder (4)", "sub-08_task-rest"):
        assert said in figure.markup
    assert applied_figure([s for s in group.sessions if s.state == "missing"], "x") is None


def test_many_predictions_lose_their_names_not_their_marks(group):
    many = [replace(s, key=f"k{i}{s.key}") for s in group.predicted for i in range(20)]
    figure = applied_figure(many, "x")
    assert "160 sessions, sorted" in figure.markup
    assert "sub-08_task-rest" not in figure.markup


def test_quality_shows_what_is_known(group):
    figure = quality_figure(group.sessions, "x")
    assert "mean framewise displacement (mm): 0.11 to 0.26, median 0.185" in figure.markup
    without = [replace(s, quality=Pooled(minutes=5.0)) for s in group.sessions]
    assert "framewise" not in quality_figure(without, "x").markup
    assert quality_figure([replace(s, quality=Pooled()) for s in group.sessions], "x") is None
