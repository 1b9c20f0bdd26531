"""The page of a participant: right, whole and safe whatever is in the files."""

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from participant_parts import (
    CLASSES,
    HOSTILE,
    write_attribution,
    write_dataset,
    write_failed,
    write_prediction,
    write_recording,
)

from bids_fmmtc.dataset.derivatives.describe import NOT_A_DEVICE
from bids_fmmtc.report.participant.page import participant_page


class Reader(HTMLParser):
    """Collect ids, links, scripts and text."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.links, self.scripts, self.parts, self.silent = [], [], 0, [], 0
        self.feed(page)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[k] for k in ("href", "src") if k in attributes]
        self.scripts += tag == "script"
        self.silent += tag in ("script", "style", "nav")

    def handle_endtag(self, tag):
        self.silent -= tag in ("script", "style", "nav")

    def handle_data(self, data):
        if not self.silent:
            self.parts.append(data)


@pytest.fixture
def page(tmp_path):
    return lambda: participant_page(tmp_path, "01")


@pytest.fixture
def whole(tmp_path, page):
    write_dataset(tmp_path)
    write_recording(tmp_path, "sub-01_task-rest_run-1")
    write_recording(tmp_path, "sub-01_task-rest_run-2", seed=1)
    write_prediction(tmp_path, windows=(0.5, 0.6, 0.7, 0.4, 0.6, 0.8))
    write_attribution(tmp_path)
    return page()


def test_the_page_asks_nothing_of_anybody_and_no_id_stands_twice(whole):
    found = Reader(whole)
    assert len(found.ids) == len(set(found.ids))
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert not re.search(r"url\((?!\"?#|\"?data:)", whole)
    assert found.scripts == 1
    assert len(whole) < 3_000_000
    assert "cannot be shown" not in whole


def test_what_matters_comes_first(whole):
    text = Reader(whole).text
    order = [NOT_A_DEVICE, "Outside what the model saw in training: temporal signal-to-noise ratio",
             "Calibrated probability of being a responder: 0.62.", "Undecided: at an error rate of 10 %",
             "above the model's threshold of 0.50: responder", "The head moved a great deal", "Minutes left",
             "Attribution", "Ready to paste", "Provenance"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("conformal", "words"),
    [
        (CLASSES[1:], "Conformal set: responder only. At an error rate of 10 %, the other class is excluded."),
        (CLASSES, "Conformal set: non-responder or responder. Undecided"),
        ((), "does not say how sure this is"),
    ],
)
def test_the_conformal_set_in_words(tmp_path, page, conformal, words):
    write_dataset(tmp_path)
    write_recording(tmp_path)
    write_prediction(tmp_path, conformal=conformal)
    assert words in Reader(page()).text


def test_what_training_saw_stands_beside_what_is_here(whole):
    text = Reader(whole).text
    assert "temporal signal-to-noise ratio 51.2 from 60 no" in text
    assert "how the atlas came to the image same same yes" in text
    assert "connectivity 0.31 up to 1 (distance; 1 is the limit) yes" in text


def test_a_failed_recording_shows_reason_and_remedy_beside_a_good_one(tmp_path, page):
    write_dataset(tmp_path)
    write_recording(tmp_path, "sub-01_task-rest_run-1")
    write_failed(tmp_path, "sub-01_task-rest_run-2")
    write_prediction(tmp_path, Flags=["run_failed:sub-01_task-rest_run-2"])
    text = Reader(page()).text
    assert "sub-01_task-rest_run-2 failed. image: the file is truncated. Fetch it again." in text
    assert "A run of this session failed and is not in the number: sub-01_task-rest_run-2." in text
    assert "Calibrated probability" in text


def test_a_participant_with_nothing_but_failures(tmp_path, page):
    write_dataset(tmp_path)
    write_failed(tmp_path, "sub-01_task-rest")
    write_prediction(tmp_path, p=None)
    text = Reader(page()).text
    assert "No prediction: image: nothing could be read." in text
    assert "No recording of this session has features." in text
    assert "No model was applied" not in text
    assert "Calibrated probability" not in text


def test_no_output_at_all(tmp_path):
    assert "Nothing was found of this participant." in participant_page(tmp_path, "77")


def test_features_without_a_model(tmp_path, page):
    write_dataset(tmp_path)
    write_recording(tmp_path)
    text = Reader(page()).text
    assert "No model was applied: there are features, and no prediction." in text
    assert "Less than five minutes" in text


@pytest.mark.parametrize("demo", [True, False])
def test_a_demonstration_is_called_one(tmp_path, page, demo):
    write_dataset(tmp_path)
    write_recording(tmp_path)
    write_prediction(tmp_path, DemoModel=demo)
    assert ("DEMO MODEL" in Reader(page()).text) is demo


def test_text_from_files_is_text(tmp_path, page):
    write_dataset(tmp_path)
    write_recording(tmp_path, quality={"flags": [HOSTILE]})
    write_failed(tmp_path, "sub-01_task-rest_acq-b", reason=f"image: {HOSTILE} Fetch it again.")
    write_prediction(tmp_path, ModelName=HOSTILE, Flags=[HOSTILE], Classes=[HOSTILE, "</svg>" + HOSTILE])
    write_attribution(tmp_path, analysis="a")
    write_attribution(tmp_path, analysis="<b>bold")
    html = page()
    assert HOSTILE not in html
    assert "<b>" not in html
    assert html.count("<script") == 1
    assert HOSTILE in unescape(html)
    assert "cannot be shown" not in html


def test_a_broken_table_costs_one_figure(tmp_path, page):
    write_dataset(tmp_path)
    record = write_recording(tmp_path)
    for name in record["Outputs"]:
        if name.endswith(("_carpet.png", "_relmat.tsv")):
            (tmp_path / name).write_bytes(b"\x89PNG no picture\tat all")
    html = page()
    assert "The time course cannot be shown" in html
    assert "Coverage of parcels on axial slices" in html


def test_sessions_have_sections_of_their_own(tmp_path, page):
    write_dataset(tmp_path)
    write_recording(tmp_path, "sub-01_task-rest")
    write_recording(tmp_path, "sub-01_task-rest_acq-b")
    found = Reader(page())
    assert {"s0", "s1"} <= set(found.ids)
    assert "task rest, acquisition b" in found.text


def test_many_recordings_stay_under_three_megabytes(tmp_path, page):
    write_dataset(tmp_path)
    for i in range(12):
        write_recording(tmp_path, f"sub-01_task-rest_run-{i}", seed=i)
    assert len(page()) < 3_000_000


def test_the_same_files_give_the_same_page(whole, page):
    assert page() == whole
