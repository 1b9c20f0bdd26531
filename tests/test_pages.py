"""Pages drawn again from derivatives: which ones, at what cost of others, and nothing else is touched."""

import json
import shutil

import pytest
from participant_parts import write_attribution, write_dataset, write_failed, write_prediction, write_recording
from small import content

from bids_fmmtc.cli import main
from bids_fmmtc.pages import draw_results


@pytest.fixture
def root(tmp_path):
    out = tmp_path / "out"
    write_dataset(out)
    write_recording(out)
    write_prediction(out)
    write_failed(out, "sub-02_task-rest")
    write_recording(out, "sub-10_task-rest")
    return out


def redraw(root, level="participant", *more):
    return main([str(root.parent / "no-input"), str(root), level, "--reports-only", *more])


def pages(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.html"))


def test_everybody_has_a_page_and_nothing_else_changes(root):
    before = content(root)
    assert redraw(root) == 0
    assert pages(root) == ["sub-01.html", "sub-02.html", "sub-10.html"]
    for name in pages(root):
        (root / name).unlink()
    assert content(root) == before


def test_only_those_asked_for(root):
    assert redraw(root, "participant", "--participant-label", "sub-10", "02") == 0
    assert pages(root) == ["sub-02.html", "sub-10.html"]


def test_the_group_level_draws_the_group_and_its_bundles(root):
    assert redraw(root, "group") == 0
    assert pages(root) == ["group_fmmtc.html"]


def test_one_page_costs_no_other(root, caplog):
    (root / "sub-02.html").mkdir()
    assert redraw(root) == 1
    assert pages(root) == ["sub-01.html", "sub-02.html", "sub-10.html"]
    assert (root / "sub-10.html").is_file()


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (shutil.rmtree, 66, "does not exist"),
        (lambda root: (root / "dataset_description.json").write_text("{}"), 16, "no output of bids_fmmtc"),
        (lambda root: None, 18, "nothing of participant 77; found 01, 02, 10"),
    ],
)
def test_what_there_is_nothing_to_draw_from_is_said(root, capsys, spoil, code, words):
    spoil(root)
    assert redraw(root, "participant", "--participant-label", "77") == code
    assert words in capsys.readouterr().err


def test_whoever_an_analysis_explains_gets_a_new_page(root):
    folder = write_attribution(root).parents[1]
    write_attribution(root, "sub-99_task-rest")  # of another dataset: there is no page to draw
    assert draw_results(root, folder) == 0
    assert pages(root) == ["group_fmmtc.html", "sub-01.html"]
    assert "Integrated gradients" in (root / "sub-01.html").read_text()


def test_a_page_of_a_broken_record_says_so(root):
    record = next((root / "sub-10" / "func").glob("*_features.json"))
    record.write_text(json.dumps({"Key": "sub-11_task-rest", "Status": "ok"}))
    assert redraw(root) == 0
    assert "was renamed or moved" in (root / "sub-10.html").read_text()
