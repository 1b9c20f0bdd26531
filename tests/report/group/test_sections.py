import pytest
from group_parts import evaluation, explanation, holding, write_analysis, write_dataset, write_map

from bids_fmmtc.report.group.facts import read_group
from bids_fmmtc.report.group.sections import analysis_view, forest_rows, p_text, trial_verdict
from bids_fmmtc.report.kit.figure import Figure
from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.verdict import NOISE


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    root = write_dataset(tmp_path_factory.mktemp("one"))
    write_analysis(root, arms=("drug", "placebo"))
    return read_group(root)


def figures(value):
    if isinstance(value, Figure):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [f for each in value for f in figures(each)] if isinstance(value, list) else []


def test_names_of_figures_are_unique_and_begin_with_the_prefix(group):
    view = analysis_view(group, group.analyses[0], "a7")
    names = [f.name for f in figures(view)]
    assert len(names) == len(set(names)) > 14
    assert all(name.startswith("a7-") for name in names)
    assert {"a7-spread-arm", "a7-spread-site", "a7-trial-decision", "a7-map-between"} <= set(names)


def test_a_part_that_cannot_be_shown_is_a_line(group):
    content = evaluation(explanation=explanation(shares=[{"modality": "fc", "share": "x"}], top_parcels=3))
    view = analysis_view(group, holding(group.analyses[0], content), "a1")
    assert [f.name for f in figures(view["attribution"])] == ["a1-map-mean", "a1-map-between"]
    assert isinstance(view["forest"], Figure)
    content = evaluation() | {"comparisons": [{"corrected_resampled_t": {"t": "three"}}]}
    broken = holding(group.analyses[0], content)
    assert analysis_view(group, broken, "a1")["comparisons"]["rows"][0]["t"] == "–"


def test_every_contestant_is_in_the_forest_with_the_reason(group):
    rows = {row.name: row for row in forest_rows(group.analyses[0])}
    assert list(rows) == [m["text"] for m in evaluation()["models"].values()]
    assert rows["motion only"].estimate is None
    assert rows["motion only"].note == "motion is unknown"
    assert rows["site only"].estimate == Estimate(0.44, 0.30, 0.61)


def test_attributions_of_a_model_without_effect_carry_a_warning(group):
    without = evaluation(auroc=(0.55, 0.4, 0.7))
    assert analysis_view(group, holding(group.analyses[0], without), "a1")["attribution"]["warning"] == NOISE
    assert analysis_view(group, group.analyses[0], "a1")["attribution"]["warning"] == ""


def test_maps_of_another_cohort_lie_beside_it(tmp_path):
    root = write_dataset(tmp_path)
    compared = {"far": {"status": "ok", "rows": []}, "../x": {"status": "failed", "reason": "why"}}
    folder = write_analysis(root, content=evaluation(explanation=explanation(compared=compared)))
    write_map(folder / "attribution" / "cohort-far" / "parcels_mean.nii.gz")
    group = read_group(root)
    far, odd = analysis_view(group, group.analyses[0], "a1")["attribution"]["cohorts"]
    assert [f.name for f in far["figures"]] == ["a1-map-1-mean"]
    assert (odd["figures"], odd["why"]) == ([], "failed: why")


def test_the_trial_verdict_is_the_stored_one(group):
    analysis = group.analyses[0]
    assert trial_verdict(analysis) == "Enrichment of a trial by this model: not supported."
    failed = holding(analysis, evaluation(trial={"status": "failed", "reason": "x"}))
    assert trial_verdict(failed) == "Enrichment of a trial by this model was not judged (failed: x)."


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.5, "0.5"), (0.029, "0.029"), (0.00025, "0.0003"), (1e-6, "< 0.0001")]
)
def test_p_values(p, text):
    assert p_text(p) == text
