"""What is explained of one participant."""

import re

import pytest
from participant_parts import NAMES, write_attribution, write_dataset, write_recording

from bids_fmmtc.report.participant.attribution import attribution_sections, brain_figure
from bids_fmmtc.report.participant.facts import participant_facts


@pytest.fixture
def facts(tmp_path):
    write_dataset(tmp_path)
    write_recording(tmp_path)
    return lambda: participant_facts(tmp_path, "01")


def test_nobody_asked_nothing_shown(facts):
    assert attribution_sections(facts()) == []


def test_sentences_and_tables_hold_the_numbers(facts, tmp_path):
    write_attribution(tmp_path, image=False)
    (section,) = attribution_sections(facts())
    assert section["brain"] is None
    text = " ".join(section["sentences"])
    for part in ("Score 1.50", "against −0.25", "time series (brainlm) 1.00 and connectivity (fc) 0.75", "by 0.2 %"):
        assert part in text
    parcels, edges = section["tables"]
    assert parcels["rows"][0] == {"rank": "1", "name": NAMES[-1], "network": "visual", "mean": "1"}
    assert edges["rows"] == [{"rank": "1", "pair": "P01 and P02", "network": "visual and motor", "mean": "0.25"}]


def test_the_glass_brain_names_the_greatest(facts, tmp_path):
    folder = write_attribution(tmp_path)
    figure = brain_figure(folder, "b")
    told = re.search(r"<desc[^>]*>(.*?)</desc>", figure.markup, re.DOTALL)[1]
    assert told.startswith("Greatest: P12 (1.00), P11")
    assert len(figure.markup) < 1_000_000


def test_a_broken_folder_costs_only_what_is_broken(facts, tmp_path):
    folder = write_attribution(tmp_path)
    (folder / "parcels_mean.nii.gz").write_bytes(b"no image")
    (folder / "attribution.json").write_text("{")
    (folder / "edges.tsv").unlink()
    (section,) = attribution_sections(facts())
    assert "cannot be shown" in section["brain"]
    assert section["sentences"] == []
    assert [t["caption"] for t in section["tables"]] == ["Parcels that count most"]
