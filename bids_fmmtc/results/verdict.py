"""Sentences made from the numbers of an evaluation; none claims more than its interval allows.

They are made once, when the evaluation is written, so that pages and tables say the same. "Not better than chance" is
a verdict like any other. Each sentence says what it is about, so that a page can ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bids_fmmtc.results.estimate import Estimate
from bids_fmmtc.results.evaluation import NOTHING, Comparison, Evaluation, Part, Permutation, Sentence, Setting
from bids_fmmtc.results.measures import Measure

SIGNIFICANT = 0.05
CONFOUNDS = {
    "site": "The site alone predicts the outcome ({0}): whatever else predicts it here may be the site in disguise.",
    "motion": "Motion alone predicts the outcome ({0}): what the model finds may be motion.",
    "covariates": "The covariates alone predict the outcome ({0}), without any scan.",
}
"""Contestant -> what is said where it is better than chance; the sentence is about it."""
WITHIN_SITE, SITE_LEFT_OUT, COHORT = "within site", "site left out", "cohort"
"""What sentences on sites and other cohorts are about; of a cohort its name follows."""
_BEGINNINGS = {
    **{name: (text.partition(" predict")[0],) for name, text in CONFOUNDS.items()},
    WITHIN_SITE: ("Among people of one site", "No two people of one site"),
    SITE_LEFT_OUT: ("Each site judged by", "No site could be left out"),
}
"""What a sentence is about -> how it begins, for files of before 0.2.0, which store texts alone."""
EDGES = {
    "weakest": "the weakest penalty",
    "strongest": "the strongest penalty",
    "most": "the greatest number of epochs",
}
"""Edge of what was tried, as `learner.Learner.describe` names it, in words."""
UNRELIABLE = (
    "As the model is not shown to be better than chance on people held out, its conformal sets are not to be relied on "
    "either: the rate they promise holds only as far as its out-of-fold probabilities carry over to new people."
)

NOISE = "Attributions of a model that is not shown to be better than chance describe noise."
"""Said beside an explanation where no effect was found."""


def verdicts(evaluation: Evaluation, reads: Mapping[str, str]) -> list[Sentence]:
    """Return sentences on: chance, conformal sets, settings, confounds, baselines, modalities, sites, other cohorts.

    Parameters
    ----------
    reads
        Letter -> what a model can read by it, in the order they are named; see `bids_fmmtc.modalities.about.LETTERS`.
    """
    caution = conformal_caution(evaluation)
    return [
        Sentence("chance", _chance(evaluation)),
        *([Sentence("conformal sets", caution)] if caution else []),
        *(Sentence("setting", text) for text in _edges(evaluation)),
        *_confounds(evaluation),
        *(Sentence("baselines", text) for text in _baselines(evaluation)),
        *(Sentence("amplitude", text) for text in _without_encoder(evaluation)),
        *(Sentence("modalities", text) for text in _modalities(evaluation, reads)),
        *_sites(evaluation),
        *_external(evaluation),
    ]


def said_of(evaluation: Evaluation, about: str) -> str:
    """Return the first stored sentence that is about something, or nothing."""
    if evaluation.verdicts_about:
        pairs = zip(evaluation.verdicts_about, evaluation.verdicts, strict=False)
        return next((text for each, text in pairs if each == about), "")
    what, _, cohort = about.partition(" ")
    starts = (f"On cohort {cohort},", f"Cohort {cohort} ") if what == COHORT else _BEGINNINGS.get(about, ())
    return next((text for text in evaluation.verdicts if text.startswith(starts)), "")


def shown(measure: Measure, estimate: Estimate) -> str:
    """Return an estimate in words, ``AUROC 0.71, 95 % interval 0.58 to 0.82``."""
    if estimate.value is None:
        return f"{measure.words} undefined"
    if estimate.low is None or estimate.high is None:
        return f"{measure.words} {estimate.value:.2f}, no interval"
    return f"{measure.words} {estimate.value:.2f}, 95 % interval {estimate.low:.2f} to {estimate.high:.2f}"


def better(evaluation: Evaluation, estimate: Estimate | None) -> bool:
    """Tell whether the whole interval of an estimate of the measure of record lies above chance."""
    return estimate is not None and estimate.above(evaluation.measure.chance)


def found_effect(evaluation: Evaluation) -> bool:
    """Tell whether the model is better than chance by its interval and, where it was run, by the permutation test."""
    test = evaluation.permutation
    return better(evaluation, evaluation.estimate("model")) and (test is None or _significant(test))


def _significant(test: Permutation) -> bool:
    return test.p is not None and test.p < SIGNIFICANT


def conformal_caution(evaluation: Evaluation) -> str:
    """Return why conformal sets of the model are not to be relied on; empty where they are, or where there are none."""
    return "" if evaluation.kind == "regression" or found_effect(evaluation) else UNRELIABLE


def _edges(evaluation: Evaluation) -> Iterator[str]:
    """Say how often a setting of the model lay on the edge of what was tried."""
    folds = [setting for repeat in evaluation.model.settings or () for setting in repeat]
    final = None if evaluation.final is None else evaluation.final.setting
    for edge, words in EDGES.items():
        inside = [setting for setting in folds if setting.edge == edge]
        last = final is not None and final.edge == edge
        if not inside and not last:
            continue
        number = _number((inside or [final or Setting()])[0])
        where = [*([f"in {len(inside)} of {len(folds)} folds"] if inside else []), *(["in the final model"] * last)]
        yield (
            f"The setting that was chosen is {words} tried ({number:g}) {' and '.join(where)}: one beyond it was not "
            "tried and might do better."
        )


def _number(setting: Setting) -> float:
    """Return the penalty or number of epochs."""
    found = setting.penalty if setting.penalty is not None else setting.epochs
    return float("nan") if found is None else found


def permutation_floor(test: Permutation) -> bool:
    """Tell whether p is the least that so many permutations can give."""
    return test.p is not None and bool(test.n) and test.p <= 1.001 / ((test.n or 0) + 1)


def _p(test: Permutation) -> str:
    """Return the p value in words; the least that so many permutations can give is no more than that."""
    if test.p is None:
        return "permutation p undefined"
    floor = f", the least that {test.n} permutations can give" if permutation_floor(test) else ""
    return f"permutation p = {test.p:.3g}{floor}"


def _standing(evaluation: Evaluation, estimate: Estimate | None) -> str:
    """Return where an estimate stands against chance, and the estimate."""
    told = shown(evaluation.measure, estimate or Estimate(None))
    if estimate is None or estimate.value is None:
        return f"cannot be told ({told})"
    return f"{'better' if better(evaluation, estimate) else 'not shown to be better'} than chance ({told})"


def _chance(evaluation: Evaluation) -> str:
    estimate = evaluation.estimate("model")
    if estimate is None:
        return "The model could not be judged."
    test = evaluation.permutation
    p = "no permutation test was run" if test is None else _p(test)
    facts = f"{shown(evaluation.measure, estimate)}, {p}, {evaluation.n} sessions"
    if found_effect(evaluation):
        return f"Judged out of fold the model is better than chance ({facts})."
    if better(evaluation, estimate):
        return f"The model is not shown to beat chance: the interval excludes chance, the test does not ({facts})."
    return f"The model is not shown to be better than chance ({facts})."


def _confounds(evaluation: Evaluation) -> Iterator[Sentence]:
    for name, text in CONFOUNDS.items():
        estimate = evaluation.estimate(name)
        if estimate is not None and better(evaluation, estimate):
            yield Sentence(name, text.format(shown(evaluation.measure, estimate)))


def _baselines(evaluation: Evaluation) -> Iterator[str]:
    """Say which baselines the model beats; a difference whose interval holds 0 beats nothing."""
    models = evaluation.models
    compared = [c for c in evaluation.comparisons if models[c.against].role == "baseline"]
    told = [c for c in compared if c.difference.low is not None]
    ways = {
        "On the same folds it beats": [c for c in told if c.difference.above(0)],
        "It is not shown to beat (the interval of the difference holds 0)": [c for c in told if _open(c)],
        "It is worse than": [c for c in told if c.difference.below(0)],
        "It cannot be compared with": [c for c in compared if c.difference.low is None],
    }
    for words, some in ways.items():
        if some:
            yield f"{words}: {'; '.join(models[c.against].text for c in some)}."


def _open(comparison: Comparison) -> bool:
    return not comparison.difference.above(0) and not comparison.difference.below(0)


def _without_encoder(evaluation: Evaluation) -> Iterator[str]:
    """Say where the amplitude of parcels predicts by itself: an encoder is then not needed to find something."""
    estimate = evaluation.estimate("amplitude")
    if estimate is not None and better(evaluation, estimate):
        yield (
            "Log-variance and autocorrelation of parcels predict the outcome without an encoder "
            f"({shown(evaluation.measure, estimate)})."
        )


def _modalities(evaluation: Evaluation, reads: Mapping[str, str]) -> Iterator[str]:
    """Say which of the things that the model reads predict by themselves, and which are not shown to."""
    alone = {letter: evaluation.estimate(f"{letter.lower()}_only") for letter in reads}
    found = {letter: estimate for letter, estimate in alone.items() if estimate is not None}
    if len(found) < 2:
        return
    facts = "; ".join(f"{letter} alone {shown(evaluation.measure, estimate)}" for letter, estimate in found.items())
    good = [letter for letter, estimate in found.items() if better(evaluation, estimate)]
    rest = [letter for letter in found if letter not in good]
    if not good:
        none = "Neither modality" if len(found) == 2 else "No modality"
        yield f"{none} alone is shown to be better than chance ({facts})."
    elif not rest:
        yield f"{_joined(good, reads).capitalize()} each predict the outcome on their own ({facts})."
    else:
        does = f"{_joined(good, reads).capitalize()} predict{_s(good)} the outcome on {'its' if _s(good) else 'their'}"
        yield f"{does} own; {_joined(rest, reads)} alone {'is' if _s(rest) else 'are'} not shown to ({facts})."


def _joined(letters: Sequence[str], reads: Mapping[str, str]) -> str:
    words = [reads[letter] for letter in letters]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _s(letters: Sequence[str]) -> str:
    """Return the verb's ending: of what a model reads, connectivity alone is one thing."""
    return "s" if list(letters) == ["C"] else ""


def _sites(evaluation: Evaluation) -> Iterator[Sentence]:
    inside = evaluation.within_site
    if inside is not None and inside.value is None:
        yield Sentence(
            WITHIN_SITE,
            "No two people of one site who were judged by one model differ in outcome: site and outcome cannot be "
            "told apart in this cohort.",
        )
    elif inside is not None:
        told = shown(evaluation.measure, inside)
        if better(evaluation, inside):
            yield Sentence(WITHIN_SITE, f"Among people of one site it is better than chance too ({told}).")
        elif found_effect(evaluation):
            yield Sentence(WITHIN_SITE, f"Among people of one site it is not shown to be better than chance ({told}).")
    left = evaluation.leave_one_site_out
    if isinstance(left, Part):
        yield Sentence(SITE_LEFT_OUT, f"No site could be left out: {left.reason}")
    elif left is not None:
        estimate = left.metrics.get(evaluation.measure.name)
        standing = _standing(evaluation, estimate)
        yield Sentence(SITE_LEFT_OUT, f"Each site judged by models of the other sites: {standing}.")
        if not better(evaluation, estimate) and found_effect(evaluation):
            carried = "What was found with sites mixed is not shown to carry over to a new site."
            yield Sentence("new site", carried)


def _external(evaluation: Evaluation) -> Iterator[Sentence]:
    for name, cohort in (evaluation.external or NOTHING).items():
        about = f"{COHORT} {name}"
        if isinstance(cohort, Part):
            yield Sentence(about, f"Cohort {name} could not be judged; evaluation.json says why.")
            continue
        estimate = cohort.metrics.get(evaluation.measure.name)
        sets = evaluation.kind == "classification" and not better(evaluation, estimate)
        also = "; conformal sets are not to be relied on there" if sets else ""
        yield Sentence(about, f"On cohort {name}, untouched until then: {_standing(evaluation, estimate)}{also}.")
