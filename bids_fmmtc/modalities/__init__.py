"""Modalities: what is computed from each window of a recording.

A new encoder is one file with a class that fulfils `Modality`, one line in `TABLE`, and one test file. Modules
are imported only when a recipe names them, so that a run pays for the encoders it uses and no others.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

from bids_fmmtc.errors import RecipeError
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.types import Float32, Int32, Windowed

TABLE: dict[str, str] = {
    "brainlm": "bids_fmmtc.modalities.brainlm:BrainLMModality",
    "fc": "bids_fmmtc.modalities.connectivity:ConnectivityModality",
}

PRETRAINED = ("brainlm",)
"""Modalities that need a folder of pretrained weights."""


class Modality(Protocol):
    """One way to turn windows of a recording into arrays of fixed shape."""

    name: str

    @classmethod
    def from_spec(cls, spec: ModalitySpec, recipe: Recipe, weights: Path | None, device: str) -> Modality:
        """Build the modality a recipe asks for.

        Parameters
        ----------
        spec
            The modality's entry in the recipe: options, and the checksum its weights must have.
        recipe
            The whole recipe.
        weights
            Folder of the pretrained encoder; None for a modality without weights.
        device
            torch device name, ``cpu`` or ``cuda``.

        Raises
        ------
        RecipeError
            An unknown option.
        WeightsError
            Weights that are absent, do not fit, or differ from ``spec.weights_sha256``.
        """
        ...

    def compute(self, source: Windowed, windows: Int32) -> Float32:
        """Return (W, ...) float32 for windows (W, 2) of start and stop frames in ``source.frames``."""
        ...


def load_modality(spec: ModalitySpec, recipe: Recipe, weights: Path | None, device: str = "cpu") -> Modality:
    """Import and build the modality that ``spec`` names.

    Raises
    ------
    RecipeError
        No modality of that name.
    """
    try:
        module, _, name = TABLE[spec.name].partition(":")
    except KeyError:
        raise RecipeError(f"recipe: no modality {spec.name!r}; known are {', '.join(sorted(TABLE))}.") from None
    modality: type[Modality] = getattr(import_module(module), name)
    return modality.from_spec(spec, recipe, weights, device)
