"""The bundle of an analysis."""

import json
from html import unescape

import numpy as np
import pytest
from group.parts import evaluated, group_words, study

from bids_fmmtc.cli import main, parse
from bids_fmmtc.dataset.derivatives.records import gather
from bids_fmmtc.dataset.store import read_features
from bids_fmmtc.group import judging
from bids_fmmtc.group.study import Study
from bids_fmmtc.group.training import public_command, write_bundle
from bids_fmmtc.learning.bundle.load import CARD
from bids_fmmtc.learning.bundle.predict import Predictor
from bids_fmmtc.learning.judging.evaluate import final_model
from bids_fmmtc.modalities.about import LETTERS
from bids_fmmtc.results.verdict import UNRELIABLE, verdicts


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    from dataclasses import replace

    words = ("--site-column", "site", "--covariates", "age", "--permutations", "0", "--error-rate", "0.2")
    found: Study = replace(study(made, *words), folder=tmp_path_factory.mktemp("analysis"))
    settings = parse(group_words(made, *words), {})
    everyone = judging.judge_all(found)
    evaluation = evaluated(found, everyone, settings)
    evaluation = replace(evaluation, verdicts=tuple(each.text for each in verdicts(evaluation, LETTERS)))
    final = final_model(judging.learner_of(everyone[0]), found.cohort, found.scheme.inner, "m")
    return (
        found,
        final,
        write_bundle(found, final, evaluation, error_rate=settings.group.error_rate, command=settings.command),
    )


def test_the_bundle_judges_as_the_final_model_does(made, trained):
    found, final, bundle = trained
    value, _ = final.judge(found.cohort)
    predictor = Predictor(bundle)
    for record in gather([made / "out"])[:5]:
        features = read_features(record.path)
        p = predictor.predict(record.key, [features]).probability
        assert p == pytest.approx(value[found.cohort.keys.index(record.key)], abs=1e-5)


def test_people_of_training_lie_inside_what_training_saw(made, trained):
    _, _, bundle = trained
    predictor = Predictor(bundle)
    flags = [predictor.predict(r.key, [read_features(r.path)]).flags for r in gather([made / "out"]) if not r.problem]
    outside = sum(any(f.startswith("outside_reference") for f in each) for each in flags)
    assert outside <= 0.2 * len(flags)


def test_the_card_tells_who_what_and_how_well(trained):
    _, _, bundle = trained
    card = (bundle.root / "README.md").read_text()
    for text in ("23 people", "Sites: ", "Age 4", "auroc", "Not validated elsewhere", "base rate"):
        assert text in card
    assert bundle.card["demo"] is False
    counts = bundle.card["out_of_fold"]
    assert len(counts) == 10
    assert sum(sum(of.values()) for of in counts.values()) == 23
    assert bundle.conformal.alpha == 0.2
    assert np.isfinite(bundle.threshold)


def test_a_command_is_passed_on_without_folders_or_people():
    command = "bids_fmmtc /home/ann/in out group --explain 01 02 --outcome '/x/p.tsv:VAS 4' -w /tmp/w"
    public = public_command(f"{command} --external s=/data/s:pain")
    assert public == "bids_fmmtc in out group --outcome 'p.tsv:VAS 4' --external s=s:pain"


@pytest.mark.parametrize(
    "hidden",
    [
        "--participant_label 01 02",
        "--participant-label=01",
        "--explain=01",
        "--work_dir /home/me/w",
        "-w/home/me/w",
        "-w=/home/me/w",
        "--missing-code -99",
    ],
)
def test_however_it_is_spelt_nothing_private_is_passed_on(hidden):
    public = public_command(f"bids_fmmtc {hidden} --folds 3 --outcome=/data/p.tsv:pain --external=s=/data/s:pain")
    shown = " --missing-code -99" if hidden.startswith("--missing") else ""
    assert public == f"bids_fmmtc{shown} --folds 3 --outcome=p.tsv:pain --external=s=s:pain"


@pytest.mark.parametrize(("outcome", "relied_on"), [("responder", True), ("luck", False)])
def test_where_the_model_is_not_better_than_chance_its_card_and_pages_of_new_people_say_so(root, outcome, relied_on):
    few = ("--permutations", "0", "--repeats", "1", "--no-explanation")
    assert main(group_words(root, *few, outcome=outcome)) == 0
    bundle = root / "out" / "group" / f"{outcome}_linear" / "bundle"
    content = json.loads((bundle / "bundle.json").read_text())
    assert (content["card"].get("caution") == UNRELIABLE) != relied_on
    card = " ".join((bundle / CARD).read_text().split())
    assert (UNRELIABLE in card) != relied_on
    assert ("holds the true class at the stated rate" in card) == relied_on

    words = [root / "bids", root / "new", "participant", "--timeseries", root / "series", "--model", bundle]
    words += ["--participant-label", "01", "--atlas", root / "atlas-Tiny.tsv", "--device", "cpu", "-w", root / "w"]
    assert main([*map(str, words)]) == 0
    page = " ".join(unescape((root / "new" / "sub-01.html").read_text()).split())
    assert "Conformal set: " in page
    assert (UNRELIABLE in page) != relied_on
