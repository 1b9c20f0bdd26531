"""The group page: right, whole and safe whatever is in the files."""

import json

import pytest
from dataset.outputs import ATLAS, Output
from group.parts import group_words, make_features, write_inputs
from group_parts import (
    HOSTILE,
    TRUNCATED,
    estimate,
    evaluation,
    explanation,
    metrics,
    regression,
    sound,
    write_analysis,
    write_dataset,
)

from bids_fmmtc.cli import main
from bids_fmmtc.dataset.derivatives.collate import collate
from bids_fmmtc.dataset.derivatives.describe import NOT_A_DEVICE, prepare_dataset
from bids_fmmtc.dataset.store import write_json, write_table
from bids_fmmtc.report.group.page import PARTS, TRAIN, group_page

CHANCE = (0.55, 0.38, 0.71)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_dataset(tmp_path_factory.mktemp("one"))
    write_analysis(root)
    (root / "group" / "main" / "bundle").mkdir()
    return root


@pytest.fixture(scope="module")
def one(root):
    return sound(group_page(root))


def test_what_matters_comes_first_in_the_stored_words(one):
    stored = evaluation()["verdicts"]
    top = one.text.index("Who is in this dataset")
    places = [one.text.index(said) for said in stored]
    assert places == sorted(places)
    assert places[-1] < one.text.index("Enrichment of a trial by this model: not supported.") < top
    assert one.text.index(NOT_A_DEVICE) < top
    assert "DEMO" not in one.text


def test_everybody_is_counted_and_named(one):
    assert one.row_with("sub-900")[1:] == ["sub-900_task-rest", TRUNCATED]
    assert "Run the participant level for this participant" in one.row_with("sub-901")[2]
    flow = next(s for s in one.said if s.startswith("18 participants known"))
    for part in ("1 participant without any output", "17 recordings processed", "1 recording failed", "16 sessions"):
        assert part in flow
    assert "8 responders" in flow
    assert "1 × failed (image)" in flow
    assert one.row_with("the outcome is missing") == ["the outcome is missing", "1"]


def test_numbers_shown_are_numbers_stored(one):
    assert one.row_with("site only") == ["site only", "0.27 (0.04 to 0.49)", "2.36", "0.029", "20"]
    assert "AUROC within folds 0.71 (0.58 to 0.82)" in one.text
    assert "Calibration slope 0.83 (0.21 to 1.47)" in one.text
    assert "Sensitivity 0.62 (0.31 to 0.87)" in one.text
    assert one.row_with("AUROC within folds")[1] == "0.710 (0.580 to 0.820)"
    assert one.row_with("The model, within sites")[1] == "0.69 (0.55 to 0.80)"
    assert "p = 0.004 from 200 permutations" in one.text
    assert one.row_with("0.520, the model's own")[1:] == [
        *("12", "38 % (10 to 95 %)", "70 % (50 to 90 %)", "36 (12 to 1,080)", "72", "180,000")
    ]
    assert one.row_with("P01 – P05") == ["P01 – P05", "visual – motor", "1", "0.1230", "0.0100", "0.0200"]
    assert "motion only: not run, motion is unknown" in one.text


def test_the_table_of_everybody_links_to_pages_and_holds_quality(root, one):
    links = [link for link in one.links if link.startswith("sub-")]
    assert links == [f"sub-{i:02d}.html" for i in range(1, 17)] + ["sub-900.html"]  # sub-901 has no output, so no page
    value = float((root / "group" / "main" / "predictions.tsv").read_text().split("\n")[3].split("\t")[6])
    row = next(r for r in one.rows if r and r[0] == "sub-03" and len(r) > 3)
    assert row == [
        "sub-03",
        "task-rest",
        "features only",
        "–",
        "–",
        f"{value:.2f}",
        "0.130",
        "203",
        "0.97",
        "high_motion",
    ]
    assert any(r[:3] == ["sub-901", "–", "missing"] for r in one.rows if r)
    assert "participants" in one.ids


def test_sections_come_in_order_and_each_is_linked(one):
    places = [one.ids.index(f"a1-s-{key}") for key in PARTS if key != "elsewhere"]
    assert places == sorted(places)
    assert "a1-s-elsewhere" not in one.ids
    assert "group/main/bundle.html" in one.links


def test_methods_and_provenance_can_be_pasted(one):
    for said in ("5-fold cross-validation, 4 times, with 3 inner folds (seed 7", "arXiv:2503.00210", "Sundararajan"):
        assert said in one.text
    assert "bids_fmmtc in out group --outcome responder" in one.text
    assert "/data/participants.tsv" in one.text


def test_a_model_that_found_nothing_is_said_to_have_found_nothing(tmp_path):
    content = evaluation(auroc=CHANCE, p=0.31, within_site=estimate(0.52, 0.4, 0.66))
    write_analysis(write_dataset(tmp_path), content=content)
    page = sound(group_page(tmp_path))
    first = page.text.index("The model is not shown to be better than chance (AUROC within folds 0.55")
    assert first < page.text.index("Who is in this dataset")
    assert "Attributions of a model that is not shown to be better than chance describe noise." in page.text
    assert "is better than chance" not in page.text


def test_a_cohort_without_outcomes(tmp_path):
    page = sound(group_page(write_dataset(tmp_path, predicted=range(1, 9), demo=True)))
    assert "No model was trained here" in page.text
    assert TRAIN in page.text
    assert "DEMO MODEL." in page.text
    assert {"applied-figure", "quality-figure", "flow-figure"} <= set(page.ids)
    assert "8 sessions, probabilities from 0.05 to 0.40, median 0.23." in page.text
    row = next(r for r in page.rows if r and r[0] == "sub-02" and len(r) > 3)
    assert row[2:5] == ["predicted", "0.10", "responder"]
    assert row[-1] == "outside_reference:mean_fd"
    assert "The probability is not to be relied on." in page.row_with("outside_reference:mean_fd")[2]


def test_several_analyses_are_all_listed_before_any_of_them(tmp_path):
    write_dataset(tmp_path)
    write_analysis(tmp_path, "a", evaluation(auroc=CHANCE, p=0.31))
    write_analysis(tmp_path, "b")
    write_analysis(tmp_path, "pain", regression(), sites=())
    page = sound(group_page(tmp_path))
    start = page.text.index("Who is in this dataset")
    for content in (evaluation(auroc=CHANCE, p=0.31), evaluation(), regression()):
        assert page.text.index(content["verdicts"][0]) < start
    assert {f"{each}-figure" for each in ("a1-roc", "a2-roc", "a3-scatter", "a1-map-mean", "a2-map-mean")} <= set(
        page.ids
    )
    assert "a3-roc-figure" not in page.ids
    assert "No permutation test was run." in page.text
    assert "No trial was planned (not run: a trial is planned for responders; give --responder-if)." in page.text
    header = next(row for row in page.rows if row and row[0] == "participant" and "status" in row)
    assert [cell for cell in header if cell.startswith("out of fold")] == [
        f"out of fold, {x}" for x in ("a", "b", "pain")
    ]


def test_other_cohorts_sites_and_the_published_protocol(tmp_path):
    far = {"status": "ok", "n": 30, "excluded": [{"key": "x", "reason": "y"}], "metrics": metrics((0.63, 0.51, 0.74))}
    far |= {
        "notes": ["a note"],
        "adapted": {"adapted": metrics((0.7, 0.6, 0.8)), "from_scratch": metrics((0.6, 0.4, 0.7))},
    }
    mean = {"mean": {"mcc": 0.43, "accuracy": 0.7}, "sd": {"mcc": 0.1, "accuracy": 0.05}, "folds": 4}
    compared = {"status": "ok", "rows": [{"what": "share", "name": "fc", "one": 0.6, "other": 0.4, "top_shared": 3}]}
    content = evaluation(
        external={"far": far, "lost": {"status": "failed", "reason": "no features there"}},
        leave_one_site_out={"status": "ok", "sites": {"north": 8}, "metrics": metrics((0.6, 0.4, 0.78))},
        reference_protocol={"status": "ok", "text": "Do not quote it.", "best_epoch": mean, "last_epoch": None,
                            "reproduced": ["a flaw"], "not_reproduced": []},
        explanation=explanation(compared={"far": compared}),
    )  # fmt: skip
    folder = write_analysis(write_dataset(tmp_path), content=content)
    (folder / "attribution" / "parcels_mean.nii.gz").rename(folder / "attribution" / "kept.nii.gz")
    page = sound(group_page(tmp_path))
    assert "Published protocol, inflated. Do not quote it." in page.text
    assert page.row_with("best epoch of each fold (inflated)")[1:3] == ["4", "0.43 ± 0.10"]
    assert page.row_with("far")[1:4] == ["30", "1", "0.63 (0.51 to 0.74)"]
    assert "On cohort far, untouched until then: better than chance" in page.row_with("far")[4]
    assert "no features there" in page.row_with("lost")[4]
    assert "far, fine-tuned there: 0.70 (0.60 to 0.80)" in page.text
    assert (
        "Each site judged by models of the other sites: not shown to be better"
        in page.row_with("The model on a site left out")[2]
    )
    assert page.row_with("share")[:4] == ["share", "fc", "0.6000", "0.4000"]


def hostile(value):
    """Put a script into every text of a JSON document, keys of the evaluation's own apart."""
    if isinstance(value, dict):
        return {
            k: v if k in ("kind", "status", "role", "metric", "against", "rule") else hostile(v)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [hostile(v) for v in value]
    return f"{HOSTILE}{value}" if isinstance(value, str) else value


def test_hostile_texts_come_out_as_text(tmp_path):
    write_dataset(tmp_path, predicted=range(1, 5))
    write_analysis(tmp_path, content=hostile(evaluation(external={HOSTILE: {"status": "failed", "reason": HOSTILE}})),
                   sites=(HOSTILE, "$\\frac{", "x\0y"), arms=("--><b>", "]]>"))  # fmt: skip
    for name in ("desc-fmmtc_predictions.tsv", "desc-fmmtc_qc.tsv", "group/main/exclusions.tsv"):
        table = tmp_path / name
        table.write_text(
            table.read_text().replace("sub-900\t", "javascript:alert(1)\t").replace("high_motion", HOSTILE)
        )
    models = [{"BundleDigest": HOSTILE, "title": HOSTILE, "demo": False, "predictions": 4}]
    write_json(tmp_path / "desc-fmmtc_predictions.json", {"Models": models})
    html = group_page(tmp_path)
    page = sound(html)
    assert "<script>alert" not in html
    assert HOSTILE in page.text
    assert "<b>" not in html
    assert "javascript:alert(1)" in page.text
    assert not [link for link in page.links if "javascript" in link]
    assert "cannot be shown" not in page.text


def test_missing_and_broken_files_are_named(tmp_path):
    page = sound(group_page(tmp_path / "nothing"))
    assert "desc-fmmtc_predictions.tsv is missing" in page.text
    folder = write_analysis(write_dataset(tmp_path))
    for name in ("predictions.tsv", "exclusions.tsv"):
        (folder / name).write_bytes(b"\xff\xfe\0")
    (folder / "attribution" / "parcels_mean.nii.gz").write_bytes(b"no image")
    (tmp_path / "group" / "empty").mkdir()
    (tmp_path / "desc-fmmtc_qc.tsv").unlink()
    page = sound(group_page(tmp_path))
    assert "evaluation.json is missing or cannot be read" in page.text
    assert "predictions.tsv is missing or cannot be read" in page.text
    assert "exclusions.tsv is missing or cannot be read" in page.text
    assert "desc-fmmtc_qc.tsv is missing or cannot be read" in page.text
    assert "The map of means cannot be shown" in page.text
    assert evaluation()["verdicts"][0] in page.text


ODD = (None, "text", [1, "a", None], {"value": "x", "status": "ok"}, {"metrics": 4, "null": 3, "status": "ok"})


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_odd_json_costs_a_part_at_most(tmp_path, odd):
    write_dataset(tmp_path)
    names = (
        "people",
        "models",
        "comparisons",
        "permutation",
        "external",
        "trial",
        "explanation",
        "within_site",
        "Recipe",
    )
    content = {**evaluation(), **dict.fromkeys((*names, "reference_protocol", "leave_one_site_out", "scheme"), odd)}
    write_analysis(tmp_path, content=content, maps=False)
    page = sound(group_page(tmp_path))
    assert evaluation()["verdicts"][0] in page.text


def test_before_anybody_gathered_the_people_are_listed(tmp_path):
    write_dataset(tmp_path)
    for name in ("desc-fmmtc_predictions.tsv", "desc-fmmtc_qc.tsv"):
        (tmp_path / name).unlink()
    page = sound(group_page(tmp_path))
    assert next(r for r in page.rows if r and r[0] == "sub-05")[2] == "not gathered"
    assert "sub-05.html" in page.links


def test_results_of_an_earlier_attempt_stand_in_a_table_with_what_failed_last(tmp_path):
    """As the participant level leaves them and gathering finds them."""
    out = Output(tmp_path / "out")
    for label in "12":
        out.add(f"sub-{label}_task-rest")
    collate(out.root, [])
    assert "Results of an earlier attempt" not in sound(group_page(out.root)).text
    out.fail("sub-2_task-rest", message="it is cut off.")
    collate(out.root, [])
    page = sound(group_page(out.root))
    assert "Results of an earlier attempt: the last one failed, what is shown was made before it" in page.text
    assert ["sub-2", "sub-2_task-rest", "image: it is cut off. Mend it."] in page.rows
    assert "No recording failed and nobody is missing." in page.text  # what was made stands


@pytest.mark.parametrize("names", [(), ("brainlm",), ("brainlm", "neurostorm")])
def test_encoders_without_weights_are_told_with_the_way_to_add_them(tmp_path, names):
    out = Output(tmp_path / "out")
    out.add("sub-1_task-rest")
    prepare_dataset(out.layout, out.recipe, ATLAS, {"fmriprep": tmp_path / "in"}, left_out=names)
    collate(out.root, [])
    text = sound(group_page(out.root)).text
    assert ("were on the machine" in text) == bool(names)
    if names:
        assert f"No weights of {' and '.join(names)} were on the machine: the features hold connectivity only" in text
        assert "(--encoder-weights DIR) adds the others to this folder" in text


def test_the_same_files_give_the_same_page(root):
    assert group_page(root) == group_page(root)


@pytest.mark.slow
def test_a_real_output_of_the_group_level(tmp_path):
    root = write_inputs(tmp_path / "own", broken=(23,))
    make_features(root)
    other = write_inputs(tmp_path / "other", n=16, start=60)
    make_features(other)
    words = [
        "--site-column",
        "site",
        "--arm-column",
        "arm",
        "--arm",
        "drug",
        "--control-arm",
        "placebo",
        "--explain",
        "01",
    ]
    words += ["--cost-scan", "500", "--cost-patient", "20000", "--leave-one-site-out", "--reference-protocol"]
    words += ["--epochs", "2", "--external", f"other={other / 'out'}:{other / 'bids' / 'participants.tsv'}:responder"]
    assert main(group_words(root, *words)) == 0
    assert main(group_words(root, outcome="pain")) == 0
    page = sound(group_page(root / "out"))
    assert "cannot be shown" not in page.text
    for label in ("pain_linear", "responder_linear"):
        found = json.loads((root / "out" / "group" / label / "evaluation.json").read_text())
        assert all(said in page.text for said in found["verdicts"])
    assert found["reference_protocol"]["text"] in page.text
    assert all(said in page.text for said in found["trial"]["sentences"])
    assert "group/responder_linear/attribution/sub-01_task-rest" in page.text


def test_a_table_with_thousands_of_rows_is_drawn(tmp_path):
    write_dataset(tmp_path, n=300, predicted=range(1, 20))
    rows = [{"participant_id": f"sub-{i}", "key": f"sub-{i}", "reason": f"no features {i}"} for i in range(2000)]
    write_analysis(tmp_path, n=300, sites=[f"site {i}" for i in range(40)])
    write_table(tmp_path / "group" / "main" / "exclusions.tsv", ["participant_id", "session_id", "key", "reason"], rows)
    page = sound(group_page(tmp_path))
    assert "29 others" in page.text
