"""The group level as a user meets it: a real cohort, bundles that the participant level applies, kills, hard cases."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from functools import partial

import group.parts
import numpy as np
import pytest
from group.parts import group_words, make_features, person_series, write_inputs
from small import content, run, start, validate
from test_imported_end_to_end import needs_real, write_real

from bids_fmmtc.cli import main
from bids_fmmtc.dataset.store import read_features, read_table, write_json, write_table
from bids_fmmtc.learning.bundle.load import load_bundle
from bids_fmmtc.learning.bundle.predict import Predictor


def evaluation(root, label, output="out"):
    return json.loads((root / output / "group" / label / "evaluation.json").read_text())


def bounded(estimate):
    return estimate["low"] <= estimate["value"] <= estimate["high"]


# -------------------------------------------------------------------------------------------------- the real cohort


@pytest.fixture(scope="module")
def centres(tmp_path_factory):
    """Features of both centres of the real cohort, a dataset each."""
    root = tmp_path_factory.mktemp("centres")
    write_real(root)
    for name in ("bochum", "szeged"):
        own = root / name
        (own / "bids").mkdir(parents=True)
        shutil.move(root / "series" / name, own / "series")
        shutil.copy(root / "series" / "timeseries.json", own / "series")
        shutil.copy(root / "series" / "participants.tsv", own / "bids")
        shutil.copy(root / "recipe.json", own)
        make_features(own, "--atlas", root / "atlas-MIST122_dseg.tsv")
    return root


def train_on_bochum(root, output, *more):
    outcome = "pain_sensitivity"
    there = f"szeged={root / 'szeged' / 'out'}:{root / 'szeged' / 'bids' / 'participants.tsv'}:{outcome}"
    words = [root / "bochum" / "bids", root / output, "group", "--features", root / "bochum" / "out", "-w", root / "w",
             "--outcome", outcome, "--covariates", "age,male", "--omp-nthreads", "1", "--external", there]  # fmt: skip
    return [*map(str, words), *more]


@needs_real
@pytest.mark.slow
def test_pain_sensitivity_is_judged_within_one_centre_and_on_the_other(centres):
    before = content(centres / "bochum" / "out"), content(centres / "szeged" / "out")
    done = run(train_on_bochum(centres, "pain", "--permutations", "20"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = evaluation(centres, "pain-sensitivity_linear", "pain")
    assert found["verdicts"]
    for sentence in found["verdicts"]:
        assert sentence in done.stdout

    assert (found["kind"], found["n"], found["bundle"]["status"]) == ("regression", 39, "not run")
    assert "--responder-if" in found["bundle"]["reason"]
    assert found["people"]["reasons"] == {"no features": 78, "the outcome is missing": 2}
    assert (found["scheme"]["folds"], found["scheme"]["repeats"], found["scheme"]["inner_folds"]) == (5, 5, 5)
    for metrics in (found["models"]["model"]["metrics"], found["external"]["szeged"]["metrics"]):
        for name in ("r", "r2", "mae"):
            assert bounded(metrics[name])
    assert found["external"]["szeged"]["n"] == 29
    assert found["models"]["covariates"]["status"] == "ok"
    assert found["permutation"]["n"] == 20
    assert found["explanation"]["compared"]["szeged"]["status"] == "ok"
    rows = read_table(centres / "pain" / "group" / "pain-sensitivity_linear" / "predictions.tsv")
    assert len(rows) == 39
    means = np.array([[float(row["outcome"]), float(row["value"])] for row in rows])
    mae = np.abs(means[:, 0] - means[:, 1]).mean()  # of each person's mean over repeats: no more than the mean MAE
    assert mae <= found["models"]["model"]["metrics"]["mae"]["value"] + 1e-6
    assert (content(centres / "bochum" / "out"), content(centres / "szeged" / "out")) == before
    code, issues = validate(centres / "pain")
    assert code == 0
    assert set(issues) <= {("warning", "SUBJECT_FOLDERS")}  # group results only, in a folder of their own


@needs_real
@pytest.mark.slow
def test_the_real_cohort_divided_at_the_median_is_classified(centres, capsys):
    more = ("--responder-if", ">=-0.2", "--permutations", "0", "--repeats", "1", "--no-explanation")
    assert main(train_on_bochum(centres, "split", *more)) == 0
    found = evaluation(centres, "pain-sensitivity_linear", "split")
    assert found["kind"] == "classification"
    assert min(found["people"]["responders"], found["people"]["non_responders"]) >= 15
    for metrics in (found["models"]["model"]["metrics"], found["external"]["szeged"]["metrics"]):
        assert bounded(metrics["auroc"])
    assert found["verdicts"][0] in capsys.readouterr().out
    assert load_bundle(centres / "split" / "group" / "pain-sensitivity_linear" / "bundle").digest


# ------------------------------------------------------------------------- a bundle that the participant level applies

TRAINED, COHORTS, HELD_OUT = 44, 3, 60
STRENGTH = 0.26  # of the planted effect: AUROC of about 0.85


def labels(first, n):
    return [f"{i:02d}" for i in range(first, first + n)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Bundles of three disjoint cohorts with a planted effect, and further people whom none of them saw."""
    root = tmp_path_factory.mktemp("bundles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group.parts, "person_series", partial(person_series, strength=STRENGTH))
        write_inputs(root, COHORTS * TRAINED + HELD_OUT)
    make_features(root)
    for i in range(COHORTS):
        who = ("--participant-label", *labels(i * TRAINED, TRAINED), "--analysis-label", f"cohort-{i}")
        assert main(group_words(root, "--permutations", "0", "--no-explanation", *who)) == 0
    return root


def bundle_of(root, i):
    return root / "out" / "group" / f"cohort-{i}" / "bundle"


def record_of(root, label):
    (path,) = (root / "out" / f"sub-{label}").rglob("*_features.json")
    return read_features(path)


def slope(p, y):
    """Return the slope of the outcome's log-odds on those that were predicted; 1 is calibrated."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1e9).fit(np.log(p / (1 - p))[:, None], y).coef_[0, 0]


@pytest.mark.slow
def test_people_held_out_get_calibrated_probabilities_and_sets_that_cover(bundles):
    held_out = labels(COHORTS * TRAINED, HELD_OUT)
    truth = {r["participant_id"]: int(r["responder"]) for r in read_table(bundles / "bids" / "participants.tsv")}
    y = np.array([truth[f"sub-{label}"] for label in held_out])
    p, sets, flagged = [], [], []
    for i in range(COHORTS):
        predictor = Predictor(load_bundle(bundle_of(bundles, i)))
        for label in held_out:
            features = record_of(bundles, label)
            found = predictor.predict(features.key, [features])
            p.append(found.probability)
            sets.append(found.prediction_set)
            flagged.append(any(flag.startswith("outside_reference") for flag in found.flags))
    y, p = np.tile(y, COHORTS), np.array(p)
    above = p[y == 1][:, None] > p[y == 0]
    assert 0.75 < above.mean() < 0.97  # neither nothing nor everything was learnt
    assert 0.5 < slope(p, y) < 2
    names = np.array(["non-responder", "responder"])[y]
    assert np.mean([name in found for name, found in zip(names, sets, strict=True)]) >= 0.85
    assert np.mean([len(found) == 1 for found in sets]) > 0.1
    assert np.mean(flagged) < 0.1


def held_out_series(root, folder):
    """Write series of four people whom no bundle saw: as in training, of another TR, of few frames, of low coverage."""
    folder.mkdir()
    for name in ("dataset_description.json", "timeseries.json"):
        shutil.copy(root / "series" / name, folder)
    kinds = dict(zip(("alike", "tr", "frames", "coverage"), labels(COHORTS * TRAINED, 4), strict=True))
    for kind, label in kinds.items():
        name = f"sub-{label}_task-rest_timeseries.tsv"
        rows = read_table(root / "series" / name)
        columns = list(rows[0])
        if kind == "frames":
            rows = rows[:60]
        if kind == "coverage":
            rows = [row | {columns[1]: "n/a"} for row in rows]
        write_table(folder / name, columns, rows)
    write_json(folder / f"sub-{kinds['tr']}_task-rest_timeseries.json", {"RepetitionTime": 0.8})
    return kinds


@pytest.mark.slow
def test_the_participant_level_applies_a_bundle_and_flags_what_lies_outside(bundles, tmp_path):
    kinds = held_out_series(bundles, tmp_path / "new")
    line = [bundles / "bids", tmp_path / "out", "participant", "--timeseries", tmp_path / "new", "--model",
            bundle_of(bundles, 0), "--atlas", bundles / "atlas-Tiny.tsv", "-w", tmp_path / "w", "--omp-nthreads", "1",
            "--participant-label", *kinds.values()]  # fmt: skip
    done = run(list(map(str, line)))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {}
    for kind, label in kinds.items():
        func = tmp_path / "out" / f"sub-{label}" / "func"
        (rows[kind],) = read_table(func / f"sub-{label}_task-rest_desc-fmmtc_prediction.tsv")
    outside = {
        kind: {f.partition(":")[2] for f in row["fmmtc_qc"].split(",") if f.startswith("outside_reference:")}
        for kind, row in rows.items()
    }
    assert outside["alike"] == set()
    assert "repetition_time" in outside["tr"]
    assert "n_frames_left" in outside["frames"]
    assert "mean_coverage" in outside["coverage"]
    for row in rows.values():
        whole = [name for name in ("non-responder", "responder") if name in row["fmmtc_set"].split(",")]
        assert row["fmmtc_decision"] == (whole[0] if len(whole) == 1 else "undecided")
        assert row["fmmtc_label"] in whole
        assert 0 < float(row["fmmtc_probability"]) < 1
    features = record_of(bundles, kinds["alike"])
    known = Predictor(load_bundle(bundle_of(bundles, 0))).predict(features.key, [features])
    assert float(rows["alike"]["fmmtc_probability"]) == pytest.approx(known.probability, abs=1e-6)
    assert validate(tmp_path / "out") == (0, [])


# --------------------------------------------------------------------------------------------------------------- kills


def pieces(root):
    return {path: path.stat().st_mtime_ns for path in (root / "work").glob("bids_fmmtc-*/group/*/[!.]*.npz")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            ("--head", "fmmtc", "--epochs", "2", "--folds", "2", "--inner-folds", "2", "--repeats", "1",
             "--permutations", "0"),
            id="fmmtc-in-mid-fold",
        ),
        pytest.param(("--permutations", "60"), id="linear-during-permutations"),
    ],
)  # fmt: skip
def test_killed_and_started_again_it_ends_at_the_bytes_of_an_undisturbed_run(tmp_path, words):
    write_inputs(tmp_path, 16)
    make_features(tmp_path)
    line = group_words(tmp_path, *words, "--no-explanation")
    child = start(line)
    while not pieces(tmp_path) and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    _, said = child.communicate()
    assert child.returncode == -signal.SIGKILL, said
    left = pieces(tmp_path)
    assert left
    assert not list((tmp_path / "out" / "group").rglob("evaluation.json"))

    done = run(line)
    assert done.returncode == 0, done.stdout + done.stderr
    again = pieces(tmp_path)
    assert len(again) > len(left)
    assert all(again.get(path, written) == written for path, written in left.items())  # nothing was done twice
    resumed = content(tmp_path / "out")
    assert any(name.endswith("bundle/bundle.json") for name in resumed)

    # The same command, so that the words told in the card are the same; nothing is left of the work folder.
    shutil.rmtree(tmp_path / "work")
    shutil.rmtree(tmp_path / "out" / "group")
    assert main(line) == 0
    assert content(tmp_path / "out") == resumed


# ---------------------------------------------------------------------------------------------------------- hard cases


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = write_inputs(tmp_path_factory.mktemp("kept"), 16)
    make_features(root)
    return root


@pytest.fixture
def root(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "copy")


def small_words(root, *words, **more):
    return group_words(root, "--permutations", "0", "--no-explanation", *words, **more)


def refused(capsys, line, code, *texts):
    """Run in this process: it must end with this code, one line that holds these texts, and nothing learnt."""
    assert main(line) == code
    said = capsys.readouterr().err
    assert "Judging" not in said
    (error,) = [row for row in said.splitlines() if "error:" in row]
    for text in texts:
        assert text in error


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_learnt(root, capsys):
    (root / "file").write_text("")
    line = small_words(root, "--features", root / "out")
    line[1] = str(root / "file" / "out")
    refused(capsys, line, 73, "cannot write", "file")
    (root / "out" / "group").write_text("")
    refused(capsys, small_words(root), 73, "cannot write", "group")
    if os.geteuid() != 0:  # root may write anywhere
        line[1] = str(root / "closed")
        (root / "closed").mkdir(mode=0o555)
        refused(capsys, line, 73, "cannot write", "closed")


def test_one_participant_in_two_folders_of_features_is_refused(root, capsys):
    shutil.copytree(root / "out", root / "more" / "out")
    line = small_words(root, "--features", root / "out", root / "more" / "out")
    line[1] = str(root / "both")
    refused(capsys, line, 65, "sub-00", "one person or two cannot be told", "--external")


def test_two_folders_of_one_name_are_both_named_in_the_description(root):
    shutil.copytree(root / "out", root / "more" / "out")
    for i in range(16):
        shutil.rmtree((root / "out" if i % 2 else root / "more" / "out") / f"sub-{i:02d}")
    line = small_words(root, "--features", root / "out", root / "more" / "out")
    line[1] = str(root / "both")
    assert main(line) == 0
    links = json.loads((root / "both" / "dataset_description.json").read_text())["DatasetLinks"]
    assert len(links) == 2
    assert evaluation(root, "responder_linear", "both")["n"] == 16


def rewrite(root, change):
    """Change the rows of participants.tsv."""
    path = root / "bids" / "participants.tsv"
    rows = read_table(path)
    columns = list(rows[0])
    write_table(path, columns, change(rows))


def test_who_has_no_outcome_stands_in_the_exclusions(root):
    def change(rows):
        for i, missing in ((2, "n/a"), (5, ""), (7, "NaN")):
            rows[i]["responder"] = missing
        return [row for row in rows if row["participant_id"] != "sub-09"]

    rewrite(root, change)
    assert main(small_words(root)) == 0
    out = read_table(root / "out" / "group" / "responder_linear" / "exclusions.tsv")
    reasons = {row["participant_id"]: row["reason"] for row in out}
    assert set(reasons) == {"sub-02", "sub-05", "sub-07", "sub-09"}
    assert {reasons[f"sub-0{i}"] for i in (2, 5, 7)} == {"the outcome is missing"}
    assert "not in the table" in reasons["sub-09"]
    assert evaluation(root, "responder_linear")["people"]["excluded"] == 4


def test_odd_ids_are_matched_or_excluded_and_break_no_table(root):
    odd = ("sub-<b>x</b>", "sub-0 1", "99", "sub-é")

    def change(rows):
        rows[0]["participant_id"] = "00"  # without its prefix
        return [*rows, *(rows[1] | {"participant_id": name} for name in odd)]

    rewrite(root, change)
    assert main(small_words(root)) == 0
    found = evaluation(root, "responder_linear")
    assert found["n"] == 16
    out = read_table(root / "out" / "group" / "responder_linear" / "exclusions.tsv")
    assert {row["participant_id"] for row in out} == {f"sub-{name.removeprefix('sub-')}" for name in odd}
    assert {row["reason"] for row in out} == {"no features"}
    assert validate(root / "out") == (0, [])


def test_site_names_with_tabs_and_markup_break_neither_tables_nor_the_card(root):
    sites = ("<script>a&b</script> | *x*", "north\t| [y](z)\nsouth")

    def change(rows):
        return [row | {"site": f"site{i % 2}"} for i, row in enumerate(rows)]

    rewrite(root, change)
    path = root / "bids" / "participants.tsv"
    path.write_text(path.read_text().replace("site0", sites[0]).replace("site1", f'"{sites[1]}"'))
    assert main(small_words(root, "--site-column", "site", "--leave-one-site-out")) == 0
    found = evaluation(root, "responder_linear")
    assert set(found["people"]["sites"]) == set(sites)
    folder = root / "out" / "group" / "responder_linear"
    for table in folder.glob("*.tsv"):
        lines = table.read_text().rstrip("\n").split("\n")
        assert {line.count("\t") for line in lines} == {lines[0].count("\t")}, table
    assert len(read_table(folder / "predictions.tsv")) == 16
    card = (folder / "bundle" / "README.md").read_text()
    prose = "\n".join(line for line in card.split("\n") if not line.startswith("    "))
    assert "<script>" not in prose
    assert "&lt;script&gt;" in prose
    assert not re.search(r"(?<!\\)\[y(?<!\\)\]", prose)
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    assert validate(root / "out") == (0, [])


def test_several_sessions_need_a_choice_and_the_error_lists_them(tmp_path, capsys):
    root = write_inputs(tmp_path, 12)
    for path in sorted((root / "series").glob("sub-*.tsv")):
        text = path.read_text()
        for session in ("ses-base", "ses-week4"):
            path.with_name(path.name.replace("_task", f"_{session}_task")).write_text(text)
        path.unlink()
    make_features(root)
    refused(capsys, small_words(root), 65, "12 such cases", "--session-label", "base", "week4")
    assert main(small_words(root, "--session-label", "base")) == 0
    found = evaluation(root, "responder_linear")
    assert found["n"] == 12
    assert found["people"]["reasons"] == {"other session: week4": 12}
    rows = read_table(root / "out" / "group" / "responder_linear" / "predictions.tsv")
    assert {row["session_id"] for row in rows} == {"ses-base"}


def test_where_nothing_was_ever_made_it_says_what_to_run(root, capsys):
    line = small_words(root)
    line[1] = str(root / "never")
    refused(capsys, line, 66, "does not exist", "run participant first")
    assert not (root / "never").exists()
    (root / "never").mkdir()
    refused(capsys, line, 16, "holds no features", "Run bids_fmmtc first")
    for path in (root / "out").glob("sub-*/"):
        shutil.rmtree(path)
    refused(capsys, small_words(root), 66, "there are no features", "Run the participant level first")
