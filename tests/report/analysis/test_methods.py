from dataclasses import replace

import pytest
from group_parts import evaluation, holding, regression, write_analysis

from bids_fmmtc.report.analysis.facts import read_analysis
from bids_fmmtc.report.analysis.methods import methods, provenance
from bids_fmmtc.results.card import ModelCard


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    return read_analysis(write_analysis(tmp_path_factory.mktemp("one")))


def test_methods_say_what_was_done_with_the_numbers_of_this_run(analysis):
    text = methods(replace(analysis, card=ModelCard(software={"numpy": "2.4.6", "torch": "2.13"})))
    for said in (
        *(
            "recipe abc123abc123",
            "12 parcels (atlas Tiny)",
            "40 frames, one every 20 frames",
            "5-fold cross-validation",
        ),
        *(
            "4 times, with 3 inner folds (seed 7",
            "200 permutations",
            "8 responders and 8 non-responders",
            "2 were left out",
        ),
        *("integrated gradients", "16 steps", "responder rate under control of 0.3", "numpy 2.4.6, torch 2.13"),
    ):
        assert said in text
    for cited in ("arXiv:2503.00210", "BrainLM", "Nadeau", "Vovk", "Captum", "statsmodels", "Scikit-learn"):
        assert cited in text.split("References")[1]


def test_only_what_was_done_is_cited(analysis):
    content = regression(explanation={"status": "failed", "reason": "x"})
    text = methods(holding(analysis, content))
    assert "No permutation test was run." in text
    for absent in ("Vovk", "Captum", "statsmodels", "conformal"):
        assert absent not in text
    assert methods(holding(analysis, {})) == ""


def test_other_cohorts_and_sites_are_told(analysis):
    content = evaluation() | {"external": {"far": {"status": "ok", "n": 30}}, "leave_one_site_out": {"status": "ok"}}
    text = methods(holding(analysis, content))
    assert "on cohort far (30 sessions)" in text
    assert "Each site was also judged by models of the other sites." in text


def test_provenance_names_sources_and_digests(analysis):
    pairs = dict(provenance(analysis))
    assert pairs["Folder"] == "group/main"
    assert pairs["Recipe digest"] == "abc123" * 8
    assert pairs["Bundle digest"] == "d" * 64
    assert pairs["Source of responder"] == "/data/participants.tsv"
    assert list(analysis.origin.notes) == ["one scan each, but not of one session"]
