"""The bundle of an analysis: the final model, what its out-of-fold scores decided, what training saw, and a card."""

from __future__ import annotations

import itertools
import shlex
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc import __version__
from bids_fmmtc.group.results import BUNDLE
from bids_fmmtc.group.study import Study
from bids_fmmtc.learning.bundle.load import EncoderReference, ModelBundle
from bids_fmmtc.learning.bundle.novelty import FEWEST, Novelty, embedding
from bids_fmmtc.learning.bundle.save import save_bundle
from bids_fmmtc.learning.judging.contestants import learnt_from
from bids_fmmtc.learning.judging.decide import fit_conformal, fit_reference
from bids_fmmtc.learning.judging.evaluate import Final
from bids_fmmtc.learning.judging.nested import probabilities
from bids_fmmtc.plain import to_json
from bids_fmmtc.results.card import Facts, Figure, trained_card
from bids_fmmtc.results.evaluation import NOTHING, Elsewhere, Evaluation, Metrics
from bids_fmmtc.results.measures import ON_CARD
from bids_fmmtc.results.verdict import conformal_caution
from bids_fmmtc.types import Cohort, Float64

CLASSES = ("non-responder", "responder")
Counts = dict[str, dict[str, int]]
"""Range of probability -> class -> number of sessions."""
PRIVATE = ("--participant-label", "--explain", "-w", "--work-dir")
"""Options that a card leaves out: who was there, and where this was run."""


def write_bundle(study: Study, final: Final, evaluation: Evaluation, *, error_rate: float, command: str) -> ModelBundle:
    """Write the bundle that the participant level applies; an earlier one of this analysis is replaced.

    Parameters
    ----------
    final
        The model learnt from everybody.
    evaluation
        What the card sums up.
    error_rate
        Of conformal sets, in 0..1.
    command
        That of this run; the card tells it without folders and people.

    Raises
    ------
    BundleError, OutputError
        Parts that do not fit, or a folder that holds something else.
    """
    settled, cohort = final.settled, study.cohort
    if settled.calibration is None or settled.threshold is None:
        raise ValueError("a bundle predicts classes")
    parts = final.fitted.head()
    # One quantile set for all repeats: a person's repeats are averaged first, as a person counts once.
    p = np.mean([probabilities(scores, settled.calibration) for scores in settled.scores], axis=0)
    facts = _facts(study, final, evaluation, command, _histogram(p, cohort.y))
    conformal = fit_conformal(p, cohort.y, error_rate)
    return save_bundle(
        study.folder / BUNDLE,
        recipe=study.recipe,
        shapes=parts.shapes,
        head_spec=parts.spec,
        head=parts.state,
        threshold=settled.threshold,
        calibration=settled.calibration,
        conformal=conformal,
        reference=fit_reference([quality for runs in cohort.quality for quality in runs]),
        card=to_json(trained_card(facts)),
        encoders={
            m.name: EncoderReference(m.weights_sha256) for m in study.recipe.modalities if m.weights_sha256 is not None
        },
        tangent=parts.tangent,
        novelty=_novelty(cohort),
        overwrite=True,
    )


def _histogram(p: Float64, y: Float64) -> Counts:
    """Count out-of-fold probabilities (N,) by class in ten ranges: a patient can be placed, and nobody be found."""
    edges = np.linspace(0, 1, 11)
    counts = {name: np.histogram(p[y == i], edges)[0] for i, name in enumerate(CLASSES)}
    return {
        f"{low:.1f} to {high:.1f}": {name: int(of[i]) for name, of in counts.items()}
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    }


def public_command(command: str) -> str:
    """Return a command line fit to be passed on with a model: no folders, no labels of participants."""
    kept: list[str] = []
    private = False
    for word in shlex.split(command):
        name, equals, value = word.partition("=")
        option = name.replace("_", "-")  # both are accepted
        if not option.startswith("-") or option[1:2].isdigit():
            kept += [] if private else [_bare(word)]
            continue
        short = word.startswith("-w")  # -wDIR too
        hidden = short or option in PRIVATE
        private = hidden and not equals and (not short or word == "-w")
        if not hidden:
            kept.append(f"{name}={_bare(value)}" if equals else word)
    return shlex.join(kept)


def _bare(word: str) -> str:
    """Return a word of a command line, a path in it without its folder."""
    name, equals, value = word.partition("=")
    return f"{name}={Path(value).name}" if equals and "/" in value else Path(word).name


def _people(cohort: Cohort, rows: NDArray[np.bool_]) -> int:
    """Return how many people these rows are of."""
    return len({cohort.subjects[i] for i in np.flatnonzero(rows)})


def _novelty(cohort: Cohort) -> dict[str, Novelty] | None:
    """Return where the embeddings of the people learnt from lie; None with too few to tell."""
    if len(set(cohort.groups)) < FEWEST:
        return None
    return {
        name: Novelty.fit(np.stack([embedding(windows) for windows in cohort.arrays[name]]), cohort.groups)
        for name in learnt_from(cohort)
    }


def _facts(study: Study, final: Final, evaluation: Evaluation, command: str, counts: Counts) -> Facts:
    cohort = study.cohort
    beside = [model for name, model in evaluation.models.items() if name != "model" and model.judged]
    others = (evaluation.external or NOTHING).items()
    age = cohort.covariates.get("age")
    where = np.array(cohort.sites or ())
    packages = ("numpy", "scipy", "scikit-learn", "torch", "captum", "statsmodels")
    return Facts(
        title=f"{'DEMO MODEL, ' if study.demo else ''}{study.label}",
        datasets=[folder.name for folder in study.features],
        classes={name: _people(cohort, cohort.y == i) for i, name in enumerate(CLASSES)},
        outcome=study.outcomes.definition,
        findings=evaluation.verdicts,
        metrics=_figures(evaluation.model.metrics),
        baselines={model.text: _figures(model.metrics) for model in beside},
        protocol={**to_json(evaluation.scheme), "setting of the final model": to_json(final.setting)},
        software={"bids_fmmtc": __version__, **{name: version(name) for name in packages}},
        training_command=public_command(command),
        sites={site: _people(cohort, where == site) for site in sorted(set(cohort.sites or ()))},
        ages=age[:, 0].tolist() if age is not None and age.shape[1] == 1 else None,
        arms=sorted(set(cohort.arms or ())),
        external={name: _figures(cohort.metrics) for name, cohort in others if isinstance(cohort, Elsewhere)},
        out_of_fold=counts,
        demo=study.demo,
        caution=conformal_caution(evaluation),
    )


def _figures(metrics: Metrics | None) -> dict[str, Figure]:
    given = metrics or NOTHING
    return {name: Figure(given[name].value, given[name].low, given[name].high) for name in ON_CARD}
