"""What the group level promises, on cohorts whose answer is known; ``benchmarks/honesty.py`` is the same at length."""

from dataclasses import fields, replace
from functools import partial

import numpy as np
import planted
import pytest
from linear_parts import changed, make_cohort

from bids_fmmtc.group.judging import evaluation, judge_all
from bids_fmmtc.group.study import Study
from bids_fmmtc.learning.bundle.calibrate import prediction_set, reference_flags
from bids_fmmtc.learning.folds import stratified_folds
from bids_fmmtc.learning.judging.contestants import Setup
from bids_fmmtc.learning.judging.decide import fit_conformal, fit_reference
from bids_fmmtc.learning.judging.evaluate import Scheme, cross_validate, final_model, permutation_null
from bids_fmmtc.learning.judging.intervals import permutation_p
from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, calibration_slope
from bids_fmmtc.learning.judging.nested import Inner, judge, probabilities
from bids_fmmtc.learning.learners.blocks import STATISTICS
from bids_fmmtc.learning.learners.linear import LinearLearner
from bids_fmmtc.learning.learners.train import NetworkLearner, TrainingOptions
from bids_fmmtc.learning.ledger import Ledger
from bids_fmmtc.modalities.about import LETTERS
from bids_fmmtc.modalities.connectivity import connectivity
from bids_fmmtc.plain import to_json
from bids_fmmtc.results.measures import PRIMARY
from bids_fmmtc.results.verdict import verdicts

BOTH = ("brainlm", "fc")
AREA = PRIMARY["classification"].name
ONCE = Scheme(repeats=1)
FEW = Scheme(repeats=1, folds=3, inner=Inner(folds=3))  # for what is done again and again


def measured(cohort, judgements, name=AREA):
    return float(CLASSIFICATION[name](cohort.y, judgements, np.ones((1, len(cohort))))[0])


def linear(cohort):
    return LinearLearner(cohort, BOTH, tangent=False)


def evaluated(cohort, scheme=ONCE, *, left_out=False):
    """What ``evaluation.json`` holds of a cohort, with its verdicts, as the group level makes them."""
    given = {field.name: None for field in fields(Study)}
    given |= {"cohort": cohort, "exclusions": (), "scheme": scheme, "setup": Setup(), "ledger": Ledger(None, "")}
    study = Study(**given)
    found = evaluation(study, judge_all(study), permutations=0, sites_apart=left_out, threads=1)
    return to_json(found), " ".join(each.text for each in verdicts(found, LETTERS))


# noise


@pytest.fixture(scope="module")
def noise():
    """Twenty times 40 of 120 people without any effect, outcomes dealt anew."""
    pool, cohorts = planted.cohort(120, "none", seed=1), []
    for seed in range(20):
        rng = np.random.default_rng([5, seed])
        some = pool.take(rng.choice(len(pool), 40, replace=False))
        cohorts.append(replace(some, y=rng.permutation(np.arange(40) % 2).astype(np.float64)))
    return cohorts


def judged_once(cohort, scheme=ONCE):
    return cross_validate(linear(cohort), cohort, scheme.divisions(cohort), scheme.inner, "model")


def test_on_noise_it_reports_chance(noise):
    """Standard errors of the means are 0.025 (AUROC), 0.03 (within folds) and 0.04 (Matthews correlation)."""
    judged = [judged_once(cohort) for cohort in noise]
    for name, chance, most in (("auroc", 0.5, 0.08), ("auroc_within", 0.5, 0.09), ("mcc", 0, 0.12)):
        values = [measured(cohort, found, name) for cohort, found in zip(noise, judged, strict=True)]
        assert abs(np.mean(values) - chance) < most, name


@pytest.mark.slow
def test_on_noise_permuted_outcomes_do_as_well(noise):
    def statistic(cohort, y, judged):
        return measured(replace(cohort, y=y), judged)

    p = []
    for cohort in noise[:4]:
        null = permutation_null(
            linear(cohort), cohort, FEW, partial(statistic, cohort), 19, Ledger(None, ""), lambda _: None
        )
        p.append(permutation_p(measured(cohort, judged_once(cohort, FEW)), null))
    assert 0.2 < np.mean(p) < 0.8
    assert sum(value <= 0.05 for value in p) <= 1


# planted effects


@pytest.fixture(scope="module")
def found():
    """Effect -> evaluation and verdicts."""
    return {effect: evaluated(planted.cohort(60, effect, seed=1)) for effect in ("T", "C", "both")}


@pytest.mark.parametrize("effect", ["T", "C", "both"])
def test_a_planted_effect_is_found(found, effect):
    numbers, said = found[effect]
    assert numbers["models"]["model"]["metrics"][AREA]["value"] >= 0.85
    assert said.startswith("Judged out of fold the model is better than chance")


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        ("T", "Time series predict the outcome on their own; connectivity alone is not shown to"),
        ("C", "Connectivity predicts the outcome on its own; time series alone are not shown to"),
        ("both", "Time series and connectivity each predict the outcome on their own"),
    ],
)
def test_the_ablation_names_the_modality(found, effect, verdict):
    numbers, said = found[effect]
    assert verdict in said
    for name, present in (("t_only", effect != "C"), ("c_only", effect != "T")):
        estimate = numbers["models"][name]["metrics"][AREA]
        assert (estimate["value"] >= 0.85) if present else (estimate["low"] < 0.5)


@pytest.mark.parametrize("effect", ["T", "C", "both"])
def test_the_model_beats_what_sees_no_brain(found, effect):
    against = {c["against"]: c["difference"]["low"] for c in found[effect][0]["comparisons"]}
    for name in ("majority", "motion", "site"):
        assert against[name] > 0


def test_connectivity_cannot_see_an_effect_in_series_alone():
    """Products of planted parcels are the same; all edges are as strong in either class but for chance."""
    products, strength = [], []
    others = np.setdiff1d(np.arange(planted.R), planted.PLANTED)
    for responder in (False, True):
        all_ = [planted.series(np.random.default_rng([3, i]), "T", responder=responder, windows=1) for i in range(60)]
        products.append([x[:, planted.PLANTED].T @ x[:, planted.PLANTED] for x in all_])
        squared = np.array([connectivity(x, "pearson", fisher_z=True) for x in all_]) ** 2
        strength.append([squared[:, planted.PLANTED][:, :, rest].mean((1, 2)) for rest in (planted.PLANTED, others)])
    np.testing.assert_allclose(products[0], products[1], atol=1e-2)  # of numbers near 100, in float32
    gap = np.abs(np.mean(strength[1], axis=1) - np.mean(strength[0], axis=1))
    assert (gap < 3 * np.std(strength, axis=(0, 2)) * np.sqrt(2 / 60)).all()


def test_series_of_single_parcels_cannot_see_an_effect_in_connectivity_alone():
    """Over many recordings every parcel has the same variance and autocorrelation in either class."""
    moments = {}
    for responder in (False, True):
        all_ = [
            planted.series(np.random.default_rng([4, i]), "C", responder=responder)[:, planted.PLANTED]
            for i in range(200)
        ]
        moments[responder] = [[(x[lag:] * x[: len(x) - lag]).mean() for lag in (0, 1, 2)] for x in all_]
    gap = np.mean(moments[True], axis=0) - np.mean(moments[False], axis=0)
    error = np.std(moments[True], axis=0) * np.sqrt(2 / 200)
    assert (np.abs(gap) < 4 * error).all()


@pytest.mark.slow
def test_the_published_head_learns_a_planted_effect():
    cohort = planted.cohort(48, "both", size=3, windows=(1, 1))
    options = TrainingOptions(
        epochs=12, rate=2e-3, resnet={"width": 16, "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    )
    scheme = Scheme(folds=3, repeats=1, inner=Inner(folds=2))
    learner = NetworkLearner(cohort, BOTH, options, Setup(head="fmmtc"))
    judged = cross_validate(learner, cohort, scheme.divisions(cohort), scheme.inner, "network")
    assert measured(cohort, judged) >= 0.85


# a site in disguise


def test_a_site_confound_is_exposed():
    numbers, said = evaluated(planted.cohort(60, "site", seed=1), left_out=True)
    auroc = {name: numbers["models"][name]["metrics"][AREA] for name in ("model", "site")}
    assert auroc["model"]["low"] > 0.5
    assert auroc["site"]["low"] > 0.5
    assert numbers["within_site"]["low"] < 0.5
    assert numbers["leave_one_site_out"]["metrics"][AREA]["low"] < 0.5
    for sentence in (
        "The site alone predicts the outcome",
        "Among people of one site it is not shown to be better than chance",
        "Each site judged by models of the other sites: not shown to be better than chance",
        "What was found with sites mixed is not shown to carry over to a new site.",
    ):
        assert sentence in said


def test_an_effect_at_every_site_is_not_taken_for_the_site():
    numbers, said = evaluated(planted.cohort(60, "both", seed=1), left_out=True)
    assert numbers["within_site"]["low"] > 0.5
    assert numbers["leave_one_site_out"]["metrics"][AREA]["low"] > 0.5
    assert "The site alone predicts" not in said
    assert "carry over" not in said


# what a bundle says of new people


def test_new_people_get_calibrated_probabilities_and_sets_that_cover():
    cohort, new = planted.cohort(60, "both", seed=2), planted.cohort(120, "both", seed=1000)
    final = final_model(linear(cohort), cohort, Inner(), "model")
    p, label = final.judge(new)
    assert 0.5 < calibration_slope(new.y, p, np.ones((1, len(new))))[0] < 2
    out_of_fold = np.mean([probabilities(s, final.settled.calibration) for s in final.settled.scores], axis=0)
    quantiles = fit_conformal(out_of_fold, cohort.y, 0.1)
    sets = [prediction_set(float(v), ("no", "yes"), quantiles, final.settled.threshold) for v in p]
    covered = [("no", "yes")[int(y)] in kept for y, kept in zip(new.y, sets, strict=True)]
    assert np.mean(covered) >= 0.85
    assert np.mean([len(kept) == 1 for kept in sets]) > 0.5  # sets that say nothing cover, too
    assert np.mean(label == new.y) > 0.85


def test_recordings_unlike_those_of_training_are_flagged():
    cohort = planted.cohort(20, seed=3)
    reference = fit_reference([q for runs in cohort.quality for q in runs])
    like = planted.cohort(1, seed=4).quality[0][0]
    assert reference_flags(like.value, reference) == ()
    for name, value in (("repetition_time", 0.8), ("n_frames_left", 60), ("mean_coverage", 0.6)):
        assert reference_flags(replace(like, **{name: value}).value, reference) == (f"outside_reference:{name}",)


# nothing that is decided has seen the test part


class Watched:
    """A learner that keeps what it is told and the last model it made."""

    def __init__(self, learner):
        self.learner, self.choices = learner, learner.choices
        self.told, self.fitted = [], None

    def path(self, y, train, rows, name):
        self.told.append((y.copy(), {*train, *rows}))
        return self.learner.path(y, train, rows, name)

    def fit(self, y, train, choice, name):
        self.told.append((y.copy(), {*train}))
        self.fitted = self.learner.fit(y, train, choice, name)
        return self.fitted

    def describe(self, choice):
        return self.learner.describe(choice)


def network(cohort, blocks, *, tangent):
    small = {"width": 4, "embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
    options = TrainingOptions(epochs=4, rate=0.02, patience=4, resnet=small)
    return NetworkLearner(cohort, blocks, options, Setup(head="fmmtc", tangent=tangent))


LEARNERS = {
    "linear": lambda c: LinearLearner(c, BOTH, tangent=False),
    "linear, tangent space": lambda c: LinearLearner(c, BOTH, tangent=True),
    "linear, baselines": lambda c: LinearLearner(c, tuple(STATISTICS), tangent=False),
    "network": lambda c: network(c, BOTH, tangent=False),
    "network, tangent space": lambda c: network(c, BOTH, tangent=True),
}


def decided(cohort, fold, build):
    """Everything that the training part of a fold decides, by name."""
    learner = Watched(build(cohort))
    found = judge(learner, cohort.y, cohort.groups, cohort.kind, fold, Inner(folds=3), "proof")
    settled = found.settled
    facts = {
        "choice": settled.choice,
        "losses": settled.losses,
        "inner scores": settled.scores,
        "slope": settled.calibration.slope,
        "intercept": settled.calibration.intercept,
        "threshold": settled.threshold,
        "scores of training rows": learner.fitted.scores(fold.train),
    }
    try:
        parts = learner.fitted.head()
    except ValueError:  # baselines are no heads
        return facts, found, learner
    facts |= {f"weights {name}": tensor.numpy() for name, tensor in parts.state.items()}
    if parts.tangent is not None:
        facts |= {f"tangent {name}": array for name, array in parts.tangent.to_arrays().items()}
    return facts, found, learner


@pytest.fixture(scope="module")
def divided():
    """A cohort with every kind of feature, and a fold of it."""
    cohort = make_cohort(30, seed=2, effect=0.4)
    return cohort, stratified_folds(cohort.y, cohort.groups, cohort.kind, 3, np.random.default_rng(0))[0]


def otherwise(cohort, rows):
    """The cohort with other features and the opposite outcome in some rows."""
    y = cohort.y.copy()
    y[rows] = 1 - y[rows]
    return replace(changed(cohort, rows), y=y)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_that_is_decided_depends_on_the_test_part(divided, name):
    cohort, fold = divided
    expected, _, learner = decided(cohort, fold, LEARNERS[name])
    found, _, _ = decided(otherwise(cohort, fold.test), fold, LEARNERS[name])
    assert_same(expected, found)
    if "tangent" in name:
        assert any(fact.startswith("tangent") for fact in expected)
    # Nobody was told an outcome of the test part, nor asked to learn from it.
    assert len(learner.told) == 4
    for y, used in learner.told:
        assert np.isnan(y[fold.test]).all()
        assert not used & {*fold.test}


@pytest.mark.parametrize("name", LEARNERS)
def test_everything_that_is_decided_depends_on_the_training_part(divided, name):
    """Otherwise the proof above would prove nothing."""
    cohort, fold = divided
    expected, _, _ = decided(cohort, fold, LEARNERS[name])
    moved = set()
    for rows in np.array_split(fold.train, 4):
        found, _, _ = decided(otherwise(cohort, rows), fold, LEARNERS[name])
        moved |= {fact for fact in expected if not np.array_equal(found[fact], expected[fact])}
    assert moved == expected.keys()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_judgement_depends_on_nobody_else_of_the_test_part(divided, name):
    cohort, fold = divided
    _, expected, _ = decided(cohort, fold, LEARNERS[name])
    _, found, _ = decided(otherwise(cohort, fold.test[1:]), fold, LEARNERS[name])
    assert found.value[0] == pytest.approx(expected.value[0], rel=1e-9)
    assert found.label[0] == expected.label[0]
    assert not np.allclose(found.value[1:], expected.value[1:])


def test_the_proof_catches_a_scaler_fitted_on_everybody(divided):
    """The classic mistake: features standardised over the whole cohort before it is divided."""
    cohort, fold = divided

    def leaking(given):
        vectors = np.stack([windows.mean(axis=0) for windows in given.arrays["brainlm"]])
        scaled = ((vectors - vectors.mean(axis=0)) / vectors.std(axis=0)).astype(np.float32)
        arrays = {**given.arrays, "brainlm": tuple(row[None] for row in scaled)}
        return LinearLearner(replace(given, arrays=arrays), BOTH, tangent=False)

    expected, _, _ = decided(cohort, fold, leaking)
    found, _, _ = decided(otherwise(cohort, fold.test), fold, leaking)
    with pytest.raises(AssertionError):
        assert_same(expected, found)


def test_the_proof_catches_a_learner_that_reads_outcomes_of_the_test_part(divided):
    cohort, fold = divided

    class Reads(LinearLearner):
        def path(self, y, train, rows, name):
            return super().path(y, np.arange(len(y)), rows, name)

    with pytest.raises((AssertionError, ValueError)):
        assert_same(*(decided(c, fold, lambda c: Reads(c, BOTH, tangent=False))[0] for c in (cohort, cohort)))
