"""Works cited."""

from bids_fmmtc.report.kit.references import REFERENCES, references


def test_each_work_is_listed_once_in_the_order_it_was_cited():
    text = references(["vovk", "fmmtc", "vovk"])
    assert text == f"References\n- {REFERENCES['vovk']}\n- {REFERENCES['fmmtc']}"


def test_every_work_ends_as_a_sentence_and_stands_once():
    assert all(work.endswith(".") for work in REFERENCES.values())
    assert len(set(REFERENCES.values())) == len(REFERENCES)
