"""``evaluation.json``: what an evaluation is of and what it found, to the file and back, as far as a file is whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bids_fmmtc.errors import FmmtcError
from bids_fmmtc.plain import Strictness, from_json, to_json
from bids_fmmtc.results.evaluation import Evaluation
from bids_fmmtc.results.trial import TrialPlan

log = logging.getLogger("bids_fmmtc")

STORED = Strictness(drop=log.debug, forgive=True)
"""How what an analysis stored is read: what is unknown or broken is left out and told."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What an evaluation is of, as it is stored before its figures, in the style of a BIDS sidecar.

    Parameters
    ----------
    analysis
        Its label.
    outcome
        The definition in words.
    sources
        What was read -> path.
    notes
        What the run noted of the cohort.
    design
        What makes it another analysis than its neighbours; None where a file does not tell.
    cohort_digest, recipe_digest
        Of everything in the cohort that can move a number, and of the recipe of its features.
    recipe
        As it was stored: one of another version need not be a `Recipe` here.
    """

    description: str = ""
    intended_use: str = ""
    software_version: str | None = None
    command: str = ""
    analysis: str = ""
    outcome: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    design: Mapping[str, Any] | None = None
    cohort_digest: str = ""
    recipe_digest: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


_KEYS = {"".join(part.capitalize() for part in name.split("_")): name for name in Origin.__dataclass_fields__}
"""Key in the file -> field: ``RecipeDigest``, ``recipe_digest``."""


def stored(origin: Origin, evaluation: Evaluation) -> dict[str, object]:
    """Return the content of ``evaluation.json``."""
    fields = to_json(origin)
    return {**{key: fields[name] for key, name in _KEYS.items()}, **to_json(evaluation)}


def origin_of(content: Mapping[str, object] | None) -> Origin:
    """Return what the content of an ``evaluation.json`` is of."""
    known = {_KEYS[key]: value for key, value in (content or {}).items() if key in _KEYS}
    return from_json(Origin, known, "evaluation.json", STORED)


def evaluation_of(content: Mapping[str, object] | None) -> Evaluation:
    """Return what the content of an ``evaluation.json`` holds; nothing at all where there is no content."""
    found = {key: value for key, value in (content or {}).items() if key not in _KEYS}
    return from_json(Evaluation, found, "evaluation.json", STORED)


def plan_of(content: Mapping[str, object] | None) -> TrialPlan | None:
    """Return the plan that a ``trial_plan.json`` holds, which has no status of its own."""
    if not content:
        return None
    try:
        return from_json(TrialPlan, content, "trial_plan.json", STORED)
    except FmmtcError as error:
        log.debug("%s", error)
        return None
