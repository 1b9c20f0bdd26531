import pytest
from group_parts import estimate, evaluation, holding, metrics, verdicts, write_analysis

from bids_fmmtc.report.analysis.checks import confound_rows, elsewhere, protocol
from bids_fmmtc.report.analysis.facts import read_analysis


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    return read_analysis(write_analysis(tmp_path_factory.mktemp("one")))


def with_site(analysis, auroc):
    content = evaluation()
    content["models"]["site"]["metrics"] = metrics(auroc)
    return holding(analysis, content | {"verdicts": verdicts(content)})


def said(analysis, check):
    return next(row for row in confound_rows(analysis) if row["check"] == check)


def test_every_check_is_listed_with_a_sentence(analysis):
    rows = confound_rows(analysis)
    assert len(rows) == 5
    assert all(row["said"].endswith(".") for row in rows)
    assert said(analysis, "Motion alone")["said"] == "Not checked: motion is unknown."
    assert said(analysis, "Covariates alone")["said"] == "Not checked: not in the evaluation."
    assert said(analysis, "The model on a site left out")["said"] == "Not checked: --leave-one-site-out was not given."


def test_a_confound_that_predicts_is_told_in_the_stored_words(analysis):
    row = said(with_site(analysis, (0.8, 0.66, 0.9)), "Site alone")
    assert row["estimate"] == "0.80 (0.66 to 0.90)"
    assert row["said"].startswith("The site alone predicts the outcome (AUROC within folds 0.80")
    row = said(with_site(analysis, (0.6, 0.45, 0.7)), "Site alone")
    assert row["said"] == "Not shown to be better than chance. That does not show that it plays no part."
    assert said(with_site(analysis, (0.6, None, None)), "Site alone")["said"] == "Cannot be told: there is no interval."


def test_within_sites_it_says_no_more_than_the_verdict(analysis):
    content = evaluation(auroc=(0.6, 0.4, 0.8), within_site=estimate(0.55, 0.4, 0.7))
    row = said(holding(analysis, content), "The model, within sites")
    assert row["said"].startswith("Not shown to be better than chance.")
    content = evaluation(within_site=estimate(None))
    row = said(holding(analysis, content), "The model, within sites")
    assert row["said"].startswith("No two people of one site")
    assert row["estimate"] == "undefined"


def test_a_site_that_could_not_be_left_out_says_why(analysis):
    content = evaluation(leave_one_site_out={"status": "not run", "reason": "without site north there are few."})
    row = said(holding(analysis, content), "The model on a site left out")
    assert row["said"] == "No site could be left out: without site north there are few."


def test_other_cohorts_are_nothing_where_there_are_none(analysis):
    assert elsewhere(analysis, "x") == {}
    assert protocol(analysis) == {}


def test_a_cohort_on_which_the_model_failed_is_said_to(analysis):
    far = {"status": "ok", "n": 9, "excluded": [], "notes": [], "metrics": metrics((0.5, 0.3, 0.7))}
    far["adapted"] = {"status": "failed", "reason": "too few"}
    found = elsewhere(holding(analysis, evaluation(external={"far": far})), "x")
    assert "On cohort far, untouched until then: not shown to be better than chance" in found["rows"][0]["said"]
    assert "far, fine-tuned there: not run, too few" in found["figure"].markup
    assert "own cohort, out of fold: 0.71 (0.58 to 0.82)" in found["figure"].markup


def test_the_published_protocol_is_marked_as_inflated(analysis):
    failed = {"status": "failed", "reason": "5 sessions needed"}
    found = protocol(holding(analysis, evaluation(reference_protocol=failed)))
    assert found["heading"] == "Published protocol, inflated"
    assert "failed: 5 sessions needed" in found["text"]


def test_what_another_version_worded_otherwise_is_told_by_its_values(analysis):
    left = {"status": "ok", "metrics": metrics((0.71, 0.58, 0.82))}
    elsewhere_ = {"c": {"status": "ok", "n": 9, "metrics": metrics((0.55, 0.31, 0.72))}}
    content = evaluation(leave_one_site_out=left, external=elsewhere_) | {"verdicts": ["In other words: all is well."]}
    other = holding(analysis, content)
    row = said(other, "The model on a site left out")
    assert row["said"] == "The interval lies above chance."
    assert "0.71" in row["estimate"]
    assert said(other, "The model, within sites")["said"] == "The interval lies above chance."
    assert elsewhere(other, "x")["rows"][0]["said"].startswith("Not shown to be better than chance.")
    # Checked or not is a matter of what is there.
    for check, name in (
        ("The model, within sites", "within_site"),
        ("The model on a site left out", "leave_one_site_out"),
    ):
        bare = holding(other, {k: v for k, v in content.items() if k != name})
        assert said(bare, check)["said"].startswith("Not checked: ")
