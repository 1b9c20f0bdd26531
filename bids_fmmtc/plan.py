"""What a run is made of, decided before any recording is looked at: recipe, atlas, bundle, weights, transform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_fmmtc.errors import AtlasError, MissingInputError, UsageError, WeightsError
from bids_fmmtc.modalities import check_spec, pretrained
from bids_fmmtc.modalities.weights import weights_sha256
from bids_fmmtc.recipe import AtlasSpec, ModalitySpec, Recipe
from bids_fmmtc.resources import RESOURCES, find_resource
from bids_fmmtc.settings import Settings
from bids_fmmtc.signals.atlas import PUBLISHED_SPACE, read_atlas
from bids_fmmtc.signals.spaces import place, usable_spaces
from bids_fmmtc.types import Atlas

if TYPE_CHECKING:
    from bids_fmmtc.learning.bundle import ModelBundle

PUBLISHED_ATLAS = "A424"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided before any recording is looked at."""

    recipe: Recipe
    atlas: Atlas
    atlas_folder: Path
    bundle: ModelBundle | None
    weights: Mapping[str, Path]
    transform: Path | None


# ------------------------------------------------------------------------------------------------------------- resolve


def resolve(settings: Settings) -> Plan:
    """Turn options into a complete recipe and everything it needs; a broken bundle stops the run here.

    Raises
    ------
    FmmtcError
        Contradicting options, a bundle, recipe or atlas that cannot be used, weights that are not there.
    """
    recipe, bundle = _recipe(settings)
    atlas_folder = find_atlas(settings, recipe)
    atlas = read_atlas(atlas_folder, None if recipe.atlas.name == PUBLISHED_ATLAS else recipe.atlas.name)
    recipe = replace(recipe, atlas=_checked_atlas(recipe.atlas, atlas))
    recipe, transform = _resolve_warp(recipe, atlas, settings)
    recipe, weights = _resolve_weights(recipe, bundle, settings)
    for spec in recipe.modalities:  # raises now what every recording would raise later
        check_spec(spec, recipe, weights.get(spec.name))
    return Plan(recipe, atlas, atlas_folder, bundle, weights, transform)


def outline(settings: Settings) -> tuple[Recipe, str]:
    """Return the recipe and the atlas's space as far as discovery needs them: no weights, A424 even if not fetched."""
    recipe, _ = _recipe(settings)
    try:
        return recipe, read_atlas(find_atlas(settings, recipe)).space
    except MissingInputError:
        if recipe.atlas.name != PUBLISHED_ATLAS:
            raise
        return recipe, PUBLISHED_SPACE


def _recipe(settings: Settings) -> tuple[Recipe, ModelBundle | None]:
    """Return the recipe: the bundle's, the file's, or connectivity and the encoders whose weights are here."""
    if settings.model is not None and settings.recipe_file is not None:
        raise UsageError(
            "--model (or $FMMTC_MODEL) and --recipe exclude each other: a bundle brings its recipe.",
            "Give one of them.",
        )
    bundle = None
    if settings.model is not None:
        from bids_fmmtc.learning.bundle import load_bundle  # noqa: PLC0415

        bundle = load_bundle(settings.model)
        recipe = bundle.recipe
    elif settings.recipe_file is not None:
        recipe = Recipe.read(settings.recipe_file)
    else:
        folder = Path(settings.atlas)
        # A folder of the default atlas's name that happens to be here was not asked for.
        name = read_atlas(folder).name if settings.atlas_given and folder.is_dir() else settings.atlas
        found = [n for n in pretrained() if settings.encoder_weights or _fetched(n, settings)]
        recipe = Recipe(atlas=AtlasSpec(name))
        recipe = replace(recipe, modalities=(*(ModalitySpec(n) for n in found), *recipe.modalities))
    if settings.on_space_mismatch is not None:
        rule: Any = settings.on_space_mismatch
        recipe = replace(recipe, space=replace(recipe.space, on_mismatch=rule))
    for spec in recipe.modalities:
        check_spec(spec, recipe)
    return recipe, bundle


def find_atlas(settings: Settings, recipe: Recipe) -> Path:
    """Return the folder of the atlas: the one that was given, else the recipe's by name among the resources."""
    if settings.atlas_given and Path(settings.atlas).is_dir():
        return Path(settings.atlas).absolute()
    name = settings.atlas if settings.atlas_given else recipe.atlas.name
    if name != recipe.atlas.name:
        raise AtlasError(f"--atlas {name} is no folder and not the recipe's atlas {recipe.atlas.name}.")
    found = find_resource("atlas", settings.resources) if name == PUBLISHED_ATLAS else None
    for folder in settings.resources:
        if found is None and (folder / f"atlas-{name}").is_dir():
            found = folder / f"atlas-{name}"
    if found is None:
        looked = ", ".join(str(d) for d in settings.resources)
        fetch = "Run bids_fmmtc-fetch atlas once where there is internet, or g" if name == PUBLISHED_ATLAS else "G"
        raise MissingInputError(
            f"atlas {name} is not on this machine (looked in {looked}).", f"{fetch}ive its folder with --atlas DIR."
        )
    return found.absolute()


def _checked_atlas(spec: AtlasSpec, atlas: Atlas) -> AtlasSpec:
    """Fill in what the atlas is; refuse another one than a bundle or recipe was made with."""
    if spec.sha256 not in (None, atlas.sha256):
        raise AtlasError(
            f"the atlas has sha256 {atlas.sha256[:12]} and {atlas.n_parcels} parcels, the recipe was made with "
            f"{str(spec.sha256)[:12]} and {spec.n_parcels}.",
            "Give the atlas the recipe names with --atlas.",
        )
    if spec.n_parcels not in (None, atlas.n_parcels):
        raise AtlasError(f"the atlas has {atlas.n_parcels} parcels, the recipe names {spec.n_parcels}.")
    return AtlasSpec(atlas.name, atlas.sha256, atlas.n_parcels)


def _resolve_warp(recipe: Recipe, atlas: Atlas, settings: Settings) -> tuple[Recipe, Path | None]:
    """Decide whose displacement is used, so that the recipe says it whichever machine it was run on."""
    space = recipe.space
    if space.on_mismatch != "warp":
        return recipe, None
    transform = None if space.warp == "packaged" else find_resource("transform", settings.resources)
    if space.warp == "auto":
        chosen: Any = "packaged" if transform is None else "templateflow"
        space = replace(space, warp=chosen)
    for other in usable_spaces(atlas.space)[1:]:
        place(other, atlas.space, space, transform)  # raises now what every recording would raise later
    return replace(recipe, space=space), transform


def _resolve_weights(recipe: Recipe, bundle: ModelBundle | None, settings: Settings) -> tuple[Recipe, dict[str, Path]]:
    """Find the pretrained encoders and write their checksums into the recipe."""
    weights: dict[str, Path] = {}
    modalities = []
    for spec in recipe.modalities:
        if spec.name not in pretrained():
            modalities.append(spec)
            continue
        folder = _weights_folder(spec.name, bundle, settings)
        found = weights_sha256(folder)
        if spec.weights_sha256 not in (None, found):
            raise WeightsError(
                f"{spec.name} in {folder} has sha256 {found[:12]}, not the recipe's {str(spec.weights_sha256)[:12]}.",
                "Give the right weights with --encoder-weights.",
            )
        weights[spec.name] = folder
        modalities.append(replace(spec, weights_sha256=found))
    return replace(recipe, modalities=tuple(modalities)), weights


def _weights_folder(name: str, bundle: ModelBundle | None, settings: Settings) -> Path:
    given = settings.encoder_weights or _fetched(name, settings)
    if bundle is not None:
        from bids_fmmtc.learning.bundle import encoder_folder  # noqa: PLC0415

        return encoder_folder(bundle, name, given).absolute()
    if given is None:
        raise MissingInputError(
            f"the recipe asks for {name}, whose weights are not on this machine.",
            (f"Run bids_fmmtc-fetch {name}, or g" if name in RESOURCES else "G")
            + "ive their folder with --encoder-weights DIR.",
        )
    return (given / name if (given / name).is_dir() else given).absolute()


def _fetched(name: str, settings: Settings) -> Path | None:
    """Return the folder of an encoder that bids_fmmtc-fetch knows and has fetched."""
    return find_resource(name, settings.resources) if name in RESOURCES else None
