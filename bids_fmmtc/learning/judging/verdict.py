"""Sentences made from the numbers of an evaluation; none claims more than its interval allows.

Input is the content of ``evaluation.json``, so that pages and tables say the same. "Not better than chance" is a
verdict like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bids_fmmtc.modalities.about import LETTERS

PRIMARY = {"classification": "auroc_within", "regression": "r_within"}
"""The measure that verdicts rest on, of people judged by the same model.

Pooled over folds, scores of different models are compared, and on noise the AUROC of 40 people is 0.47 on average
instead of 0.50 (600 simulated cohorts, five folds).
"""
CHANCE = {"auroc_within": 0.5, "r_within": 0.0}
NAMES = {"auroc_within": "AUROC within folds", "r_within": "r within folds"}
SIGNIFICANT = 0.05
CONFOUNDS = {
    "site": "The site alone predicts the outcome ({0}): whatever else predicts it here may be the site in disguise.",
    "motion": "Motion alone predicts the outcome ({0}): what the model finds may be motion.",
    "covariates": "The covariates alone predict the outcome ({0}), without any scan.",
}


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


def verdicts(evaluation: Mapping[str, Any]) -> list[str]:
    """Return sentences on: chance, conformal sets, settings, confounds, baselines, modalities, sites, other cohorts.

    Parameters
    ----------
    evaluation
        ``kind``, ``n``, ``models`` (name -> ``text``, ``role``, ``status``, ``metrics``), and where they were run
        ``comparisons``, ``permutation``, ``leave_one_site_out``, ``within_site``, ``external``, ``final``.
    """
    metric = PRIMARY[evaluation["kind"]]
    caution = conformal_caution(evaluation)
    said = [_chance(evaluation, metric), *([caution] if caution else []), *_edges(evaluation)]
    said += _confounds(evaluation, metric)
    said += _baselines(evaluation)
    said += _without_encoder(evaluation, metric)
    said += _modalities(evaluation, metric)
    said += _sites(evaluation, metric)
    said += _external(evaluation, metric)
    return said


def better(estimate: Mapping[str, Any] | None, chance: float) -> bool:
    """Tell whether the whole interval lies above chance; an interval that is not there does not."""
    return estimate is not None and estimate["low"] is not None and estimate["low"] > chance


def shown(metric: str, estimate: Mapping[str, Any]) -> str:
    """Return an estimate in words, ``AUROC 0.71, 95 % interval 0.58 to 0.82``."""
    name = NAMES.get(metric, metric)
    if estimate["value"] is None:
        return f"{name} undefined"
    if estimate["low"] is None:
        return f"{name} {estimate['value']:.2f}, no interval"
    return f"{name} {estimate['value']:.2f}, 95 % interval {estimate['low']:.2f} to {estimate['high']:.2f}"


def found_effect(evaluation: Mapping[str, Any]) -> bool:
    """Tell whether the model is better than chance by its interval and, where it was run, by the permutation test."""
    metric = PRIMARY[evaluation["kind"]]
    estimate = _metric(evaluation, "model", metric)
    permutation = evaluation.get("permutation")
    return better(estimate, CHANCE[metric]) and (permutation is None or permutation["p"] < SIGNIFICANT)


def conformal_caution(evaluation: Mapping[str, Any]) -> str:
    """Return why conformal sets of the model are not to be relied on; empty where they are, or where there are none."""
    return "" if evaluation["kind"] == "regression" or found_effect(evaluation) else UNRELIABLE


def _edges(evaluation: Mapping[str, Any]) -> list[str]:
    """Say how often a setting of the model lay on the edge of what was tried."""
    folds = [setting for repeat in evaluation["models"]["model"].get("settings", ()) for setting in repeat]
    final = (evaluation.get("final") or {}).get("setting", {})
    said = []
    for edge, words in EDGES.items():
        there = [setting for setting in (*folds, final) if setting.get("edge") == edge]
        if not there:
            continue
        number = there[0].get("penalty", there[0].get("epochs"))
        n = sum(setting.get("edge") == edge for setting in folds)
        where = [
            *([f"in {n} of {len(folds)} folds"] if n else []),
            *(["in the final model"] if there[-1] is final else []),
        ]
        said.append(
            f"The setting that was chosen is {words} tried ({number:g}) {' and '.join(where)}: one beyond it was not "
            "tried and might do better."
        )
    return said


def _p(permutation: Mapping[str, Any]) -> str:
    """Return the p value in words; the least that so many permutations can give is no more than that."""
    least = 1 / (permutation["n"] + 1)
    floor = f", the least that {permutation['n']} permutations can give" if permutation["p"] <= least * 1.001 else ""
    return f"permutation p = {permutation['p']:.3g}{floor}"


def _standing(metric: str, estimate: Mapping[str, Any]) -> str:
    """Return where an estimate stands against chance, and the estimate."""
    if estimate["value"] is None:
        return f"cannot be told ({shown(metric, estimate)})"
    ok = better(estimate, CHANCE[metric])
    return f"{'better' if ok else 'not shown to be better'} than chance ({shown(metric, estimate)})"


def _metric(evaluation: Mapping[str, Any], name: str, metric: str) -> Mapping[str, Any] | None:
    model = evaluation["models"].get(name)
    if model is None or model["status"] != "ok":
        return None
    found: Mapping[str, Any] | None = model["metrics"].get(metric)
    return found


def _chance(evaluation: Mapping[str, Any], metric: str) -> str:
    estimate = _metric(evaluation, "model", metric)
    if estimate is None:
        return "The model could not be judged."
    permutation = evaluation.get("permutation")
    p = "no permutation test was run" if permutation is None else _p(permutation)
    facts = f"{shown(metric, estimate)}, {p}, {evaluation['n']} sessions"
    if found_effect(evaluation):
        return f"Judged out of fold the model is better than chance ({facts})."
    if better(estimate, CHANCE[metric]):
        return f"The model is not shown to beat chance: the interval excludes chance, the test does not ({facts})."
    return f"The model is not shown to be better than chance ({facts})."


def _confounds(evaluation: Mapping[str, Any], metric: str) -> list[str]:
    said = []
    for name, text in CONFOUNDS.items():
        estimate = _metric(evaluation, name, metric)
        if estimate is not None and better(estimate, CHANCE[metric]):
            said.append(text.format(shown(metric, estimate)))
    return said


def _baselines(evaluation: Mapping[str, Any]) -> list[str]:
    """Say which baselines the model beats; a difference whose interval holds 0 beats nothing."""
    models = evaluation["models"]
    compared = [c for c in evaluation.get("comparisons", []) if models[c["against"]]["role"] == "baseline"]
    if not compared:
        return []
    beaten = [c for c in compared if better(c["difference"], 0)]
    lost = [c for c in compared if c["difference"]["high"] is not None and c["difference"]["high"] < 0]
    told = [c for c in compared if c["difference"]["low"] is not None]
    open_ = [c for c in told if c not in beaten and c not in lost]
    untold = [c for c in compared if c not in told]

    def names(some: list[Mapping[str, Any]]) -> str:
        return "; ".join(str(models[c["against"]]["text"]) for c in some)

    said = []
    if beaten:
        said.append(f"On the same folds it beats: {names(beaten)}.")
    if open_:
        said.append(f"It is not shown to beat (the interval of the difference holds 0): {names(open_)}.")
    if lost:
        said.append(f"It is worse than: {names(lost)}.")
    if untold:
        said.append(f"It cannot be compared with: {names(untold)}.")
    return said


def _without_encoder(evaluation: Mapping[str, Any], metric: str) -> list[str]:
    """Say where the amplitude of parcels predicts by itself: an encoder is then not needed to find something."""
    estimate = _metric(evaluation, "amplitude", metric)
    if not better(estimate, CHANCE[metric]) or estimate is None:
        return []
    return [
        "Log-variance and autocorrelation of parcels predict the outcome without an encoder "
        f"({shown(metric, estimate)})."
    ]


def _modalities(evaluation: Mapping[str, Any], metric: str) -> list[str]:
    """Say which of the things that the model reads predict by themselves, and which are not shown to."""
    alone = {letter: _metric(evaluation, f"{letter.lower()}_only", metric) for letter in LETTERS}
    found = {letter: estimate for letter, estimate in alone.items() if estimate is not None}
    if len(found) < 2:
        return []
    facts = "; ".join(f"{letter} alone {shown(metric, estimate)}" for letter, estimate in found.items())
    good = [LETTERS[letter] for letter, estimate in found.items() if better(estimate, CHANCE[metric])]
    rest = [LETTERS[letter] for letter in found if LETTERS[letter] not in good]
    if not good:
        none = "Neither modality" if len(found) == 2 else "No modality"
        return [f"{none} alone is shown to be better than chance ({facts})."]
    if not rest:
        return [f"{_joined(good).capitalize()} each predict the outcome on their own ({facts})."]
    does = f"{_joined(good).capitalize()} predict{_s(good)} the outcome on {'its' if _s(good) else 'their'} own"
    return [f"{does}; {_joined(rest)} alone {'is' if _s(rest) else 'are'} not shown to ({facts})."]


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _s(words: Sequence[str]) -> str:
    """Return the verb's ending: of what a model reads, connectivity alone is one thing."""
    return "s" if list(words) == [LETTERS["C"]] else ""


def _sites(evaluation: Mapping[str, Any], metric: str) -> list[str]:
    said = []
    inside = evaluation.get("within_site")
    if inside is not None:
        if inside["value"] is None:
            said.append(
                "No two people of one site who were judged by one model differ in outcome: site and outcome cannot be "
                "told apart in this cohort."
            )
        elif found_effect(evaluation) and not better(inside, CHANCE[metric]):
            said.append(f"Among people of one site it is not shown to be better than chance ({shown(metric, inside)}).")
        elif better(inside, CHANCE[metric]):
            said.append(f"Among people of one site it is better than chance too ({shown(metric, inside)}).")
    left = evaluation.get("leave_one_site_out")
    if left is None:
        return said
    if left["status"] != "ok":
        return [*said, f"No site could be left out: {left['reason']}"]
    estimate = left["metrics"][metric]
    said.append(f"Each site judged by models of the other sites: {_standing(metric, estimate)}.")
    if not better(estimate, CHANCE[metric]) and found_effect(evaluation):
        said.append("What was found with sites mixed is not shown to carry over to a new site.")
    return said


def _external(evaluation: Mapping[str, Any], metric: str) -> list[str]:
    said = []
    for name, cohort in evaluation.get("external", {}).items():
        if cohort["status"] != "ok":
            said.append(f"Cohort {name} could not be judged; evaluation.json says why.")
            continue
        estimate = cohort["metrics"][metric]
        sets = evaluation["kind"] == "classification" and not better(estimate, CHANCE[metric])
        also = "; conformal sets are not to be relied on there" if sets else ""
        said.append(f"On cohort {name}, untouched until then: {_standing(metric, estimate)}{also}.")
    return said
