"""Recipes by name: what ``--recipe NAME`` takes, and what a run without a recipe does.

A new one is an entry of `TABLE`: its name, what it is for in one line, and the recipe. The atlas is left to the run.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from bids_fmmtc.errors import UsageError
from bids_fmmtc.recipe import Connectivity, Denoising, ModalitySpec, Recipe

LIST = "list"
"""The word that asks for the names; a file of that name is ``./list``."""

DEFAULT = "fmm_tc"
"""What a run without a recipe takes, as far as weights are here; see `bids_fmmtc.plan`."""


@dataclass(frozen=True, slots=True)
class Named:
    """A recipe, and what it is for in one line."""

    purpose: str
    recipe: Recipe


def _of(*modalities: str, denoising: Denoising | None = None) -> Recipe:
    specs = tuple(map(ModalitySpec, modalities))
    return Recipe(denoising=denoising or Denoising(), connectivity=Connectivity(frames="all"), modalities=specs)


TABLE: dict[str, Named] = {
    "fmm_tc": Named(
        "BrainLM on parcel series (T) and connectivity (C), the pair of FMM_TC; what a run without --recipe takes",
        _of("brainlm", "fc"),
    ),
    "fmm_vc": Named(
        "NeuroSTORM on whole volumes (V) and connectivity (C): what lies inside parcels counts, too; images only",
        _of("neurostorm", "fc"),
    ),
    "fmm_tvc": Named(
        "both encoders and connectivity: to ask whether volumes add to parcel series; images only, the slowest",
        _of("brainlm", "neurostorm", "fc"),
    ),
    # Cut off where fMRIPrep's cosines end (128 s); a filter also serves runs too short to have any.
    "fmm_tc_denoised": Named(
        "fmm_tc on cleaned parcel series (motion, white matter and CSF regressed out, 0.008 Hz high-pass): where "
        "motion or drift may tell groups apart",
        _of("brainlm", "fc", denoising=Denoising(strategy="simple", high_pass=0.008)),
    ),
}


def named(name: str) -> Recipe:
    """Return the recipe of a name in `TABLE`.

    Raises
    ------
    UsageError
        There is none; tells the nearest, and all.
    """
    if name in TABLE:
        return TABLE[name].recipe
    near = difflib.get_close_matches(name.lower(), list(TABLE), 1)
    raise UsageError(
        f"unknown recipe {name!r}" + (f"; the nearest is {near[0]}" if near else "") + f"; known: {', '.join(TABLE)}.",
        f"--recipe {LIST} tells what each is for; a file is given with its folder or suffix (./FILE, FILE.json).",
    )


def name_or_file(text: str) -> str | Path:
    """Tell what ``--recipe`` was given: the name of a recipe, or the path of a file.

    Words with a folder or a suffix are files. Others are names; a file is taken where no recipe is called so.

    Raises
    ------
    UsageError
        Neither; as `named`.
    """
    path = Path(text)
    if "/" in text or path.suffix or (text not in TABLE and path.is_file()):
        return path
    named(text)
    return text


def listing() -> str:
    """Return a line a recipe: its name and what it is for."""
    width = max(map(len, TABLE))
    return "".join(f"{name:<{width}}  {each.purpose}\n" for name, each in TABLE.items())
