"""Modalities: what is computed from each window of a recording.

A new encoder is one file with a class that fulfils `Modality`, one line in `TABLE`, and one test file. Modules
are imported only when a recipe names them, so that a run pays for the encoders it uses and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from bids_fmmtc.errors import RecipeError
from bids_fmmtc.modalities.about import LETTERS, About
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.types import ClipForm, Float32, Int32, Windowed


class Entry(NamedTuple):
    """Where a modality is, and what is known of it without importing it.

    Parameters
    ----------
    path
        ``module:Class``.
    pretrained
        Whether it needs a folder of pretrained weights.
    check
        ``module:function`` that checks its options, with the arguments of `check_spec`; it runs in the parent
        process, so its module must not import torch. None: the modality has no options.
    form
        ``module:function`` that tells the clips an encoder of volumes reads, from its folder of weights (None for one
        without); None: it reads parcel series. Its module must not import torch either.
    centres
        Whether it needs to know where parcels lie.
    about
        ``module:NAME`` of its `About`, in a module that must not import torch; None: only what it reads is said.
    """

    path: str
    pretrained: bool = False
    check: str | None = None
    form: str | None = None
    centres: bool = False
    about: str | None = None


TABLE: dict[str, Entry] = {
    "brainlm": Entry(
        "bids_fmmtc.modalities.brainlm:BrainLMModality",
        pretrained=True,
        check="bids_fmmtc.modalities.brainlm_config:check_spec",
        centres=True,
        about="bids_fmmtc.modalities.brainlm_config:ABOUT",
    ),
    "neurostorm": Entry(
        "bids_fmmtc.modalities.neurostorm_modality:NeuroStormModality",
        pretrained=True,
        check="bids_fmmtc.modalities.neurostorm_config:check_spec",
        form="bids_fmmtc.modalities.neurostorm_config:form_of",
        about="bids_fmmtc.modalities.neurostorm_config:ABOUT",
    ),
    "fc": Entry(
        "bids_fmmtc.modalities.connectivity:ConnectivityModality", about="bids_fmmtc.modalities.connectivity:ABOUT"
    ),
}


class Modality(Protocol):
    """One way to turn windows of a recording into arrays of fixed shape."""

    name: str

    @classmethod
    def from_spec(cls, spec: ModalitySpec, recipe: Recipe, weights: Path | None, device: str) -> Modality:
        """Build the modality a recipe asks for; `check_spec` has passed.

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
        MissingInputError, WeightsError
            Weights that are absent, do not fit, or differ from ``spec.weights_sha256``.
        """
        ...

    def compute(self, source: Windowed, windows: Int32) -> Float32:
        """Return (W, ...) float32 for windows (W, 2) of start and stop frames in ``source.frames``."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A modality that is a frozen network: what a baseline and a sanity check need of it beside `Modality`."""

    name: str

    @property
    def weights_sha256(self) -> str | None:
        """Checksum of its weights file; None for one that was never trained."""
        ...

    def untrained(self, seed: int) -> Self:
        """Return an encoder of the same shape with the weights it has before any training."""
        ...

    def compute(self, source: Any, windows: Int32) -> Float32:
        """As `Modality.compute`."""
        ...


@runtime_checkable
class Differentiable(Encoder, Protocol):
    """An encoder whose vectors can be attributed to what it reads.

    ``vectors`` takes torch tensors with a first axis of windows, and gradients reach them where they are on: of an
    encoder of parcel series scaled frames [B,R,L] and the parcels' centres [B,R,3], of one of volumes clips
    [B,T,X,Y,Z]; it returns [B,H].
    """

    def vectors(self, *inputs: Any) -> Any:
        """Return the vectors [B,H]."""
        ...


@runtime_checkable
class OfVolumes(Protocol):
    """An encoder of volumes: ``form`` tells the clips that it reads."""

    @property
    def form(self) -> ClipForm:
        """The clips it reads."""
        ...


def pretrained() -> tuple[str, ...]:
    """Return the names of the modalities that need a folder of pretrained weights."""
    return tuple(name for name, entry in TABLE.items() if entry.pretrained)


def of_centres(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of a recipe's modalities that need the parcels' centres."""
    return tuple(spec.name for spec in recipe.modalities if _entry(spec.name).centres)


def of_volumes(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of a recipe's modalities that read volumes, which imported series do not have."""
    return tuple(spec.name for spec in recipe.modalities if _entry(spec.name).form is not None)


def clip_forms(recipe: Recipe, weights: Mapping[str, Path]) -> tuple[ClipForm, ...]:
    """Return the clips that a recipe's modalities read, each form once, without importing the modalities.

    Raises
    ------
    MissingInputError, WeightsError
        An encoder's folder that is incomplete, or a config of another architecture.
    """
    forms = []
    for name in of_volumes(recipe):
        found = _found(str(_entry(name).form))(weights.get(name))
        forms += [] if found in forms else [found]
    return tuple(forms)


def about(name: str) -> About:
    """Return what is said of a modality; one that this version does not know is taken to read parcel series."""
    entry = TABLE.get(name)
    if entry is not None and entry.about is not None:
        found: About = _found(entry.about)
        return found
    return About("T" if entry is None or entry.form is None else "V")


def by_letter(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return modalities by what they read, letter -> names, in the order of `LETTERS`; letters of nobody are absent."""
    letters = {name: about(name).letter for name in names}
    found = {letter: tuple(name for name in names if letters[name] == letter) for letter in LETTERS}
    return {letter: those for letter, those in found.items() if those}


def encoder_references(recipe: Recipe) -> tuple[str, ...]:
    """Return the works that describe a recipe's pretrained encoders, in its order."""
    return tuple(text for spec in recipe.modalities if (text := about(spec.name).reference))


def check_spec(spec: ModalitySpec, recipe: Recipe, weights: Path | None = None) -> None:
    """Check a recipe's entry without importing the modality, before anything is written.

    Parameters
    ----------
    spec
        The entry.
    recipe
        The whole recipe.
    weights
        Folder of the pretrained encoder; None leaves out what only its config can tell.

    Raises
    ------
    RecipeError
        No modality of that name, an unknown or invalid option, or options that do not fit the encoder.
    MissingInputError, WeightsError
        An encoder's folder that is incomplete, or a config of another architecture.
    """
    entry = _entry(spec.name)
    if spec.weights_sha256 is not None and not entry.pretrained:
        raise RecipeError(f"recipe: modality {spec.name} has no weights, but is given a weights_sha256.")
    if entry.check is not None:
        _found(entry.check)(spec, recipe, weights)
    elif spec.options:
        raise RecipeError(
            f"recipe: modality {spec.name} has no option {', '.join(sorted(spec.options))}; it takes none.",
            "Such choices are fields of the recipe itself: connectivity, windows, scaling.",
        )


def load_modality(spec: ModalitySpec, recipe: Recipe, weights: Path | None, device: str = "cpu") -> Modality:
    """Import and build the modality that ``spec`` names.

    Raises
    ------
    RecipeError, MissingInputError, WeightsError
        As `check_spec` and `Modality.from_spec`.
    """
    check_spec(spec, recipe, weights)
    modality: type[Modality] = _found(_entry(spec.name).path)
    return modality.from_spec(spec, recipe, weights, device)


def _entry(name: str) -> Entry:
    try:
        return TABLE[name]
    except KeyError:
        raise RecipeError(f"recipe: no modality {name!r}; known are {', '.join(sorted(TABLE))}.") from None


def _found(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
