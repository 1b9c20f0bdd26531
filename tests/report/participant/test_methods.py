"""Methods in words say what the recipe says."""

import pytest
from participant_parts import write_dataset, write_failed, write_prediction, write_recording

from bids_fmmtc.dataset.store import read_record, write_json
from bids_fmmtc.report.participant.facts import participant_facts
from bids_fmmtc.report.participant.methods import methods


@pytest.fixture
def said(tmp_path):
    def said(change=None, quality=None, **prediction):
        write_dataset(tmp_path)
        write_recording(tmp_path, quality=quality)
        if prediction:
            write_prediction(tmp_path, **prediction)
        path = tmp_path / "dataset_description.json"
        description = read_record(path)
        recipe = description["GeneratedBy"][0]["Recipe"]
        for name, value in (change or {}).items():
            recipe[name] = {**recipe[name], **value} if isinstance(value, dict) else value
        write_json(path, description)
        return methods(participant_facts(tmp_path, "01"))

    return said


def test_everything_that_was_done_is_named_and_cited(said):
    text = said(p=0.6)
    for part in (
        "preprocessed with fMRIPrep 23.2.1", "bids_fmmtc 9.9", "12 parcels (atlas Own)", "strategy scrubbing",
        "high-pass filter at 0.008 Hz", "above 0.5 mm", "windows of 20 frames, one every 10", "BrainLM",
        "Pearson correlation between parcels, Fisher-transformed", "A model, digest bbbbbbbbbbbb",
        "error rate of 0.1", "not in a steady state", "numpy 2.4",
    ):  # fmt: skip
        assert part in text
    references = text.partition("References\n")[2]
    for work in ("arXiv:2503.00210", "fMRIPrep", "nilearn", "Power et al.", "ICLR 2024", "Vovk"):
        assert work in references


def test_what_was_not_done_is_not_claimed(said):
    plain = {"strategy": "none", "high_pass": None, "drop_non_steady_state": False}
    text = said({"denoising": plain, "modalities": [{"name": "fc"}]})
    assert "No confounds were regressed out and no filter was applied." in text
    for part in ("scrubbing", "BrainLM", "steady state", "conformal", "trained model", "nilearn"):
        assert part not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target_repetition_time": 0.72}, "resampled to a repetition time of 0.72 s"),
        ({"connectivity": {"kind": "tangent", "fisher_z": False}}, "projected to tangent space (Varoquaux"),
        ({"connectivity": {"kind": "gram"}}, "Gram matrix of standardised series between parcels"),
    ],
)
def test_choices_change_the_text(said, change, words):
    assert words in said(change)


def test_of_a_recipe_that_this_version_does_not_know_nothing_is_said(said):
    assert said({"connectivity": {"kind": "unheard"}}) == ""
    assert "BrainLM" in said({"of_another_version": 1, "connectivity": {"kind": "pearson"}})


def test_imported_series_claim_no_image(said):
    text = said(quality={"placement": "imported"})
    assert "were imported" in text
    assert "averaged over the voxels" not in text


def test_nothing_good_needs_no_methods(tmp_path):
    write_dataset(tmp_path)
    write_failed(tmp_path, "sub-01_task-rest")
    assert methods(participant_facts(tmp_path, "01")) == ""
    assert methods(participant_facts(tmp_path / "none", "01")) == ""
