"""What a run is made of, decided before any recording is looked at: recipe, atlas, bundle, weights, transform."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_fmmtc.dataset.find.series import SeriesFolder, choose_atlas, find_series
from bids_fmmtc.dataset.naming import is_text
from bids_fmmtc.errors import (
    AtlasError,
    BundleError,
    DataError,
    FmmtcError,
    MissingInputError,
    RecipeError,
    UsageError,
    WeightsError,
)
from bids_fmmtc.modalities import check_spec, of_centres, of_volumes, pretrained
from bids_fmmtc.modalities.weights import weights_sha256
from bids_fmmtc.recipe import AtlasSpec, Recipe
from bids_fmmtc.recipes import DEFAULT, named
from bids_fmmtc.resources import RESOURCES, find_resource
from bids_fmmtc.settings import Settings
from bids_fmmtc.signals.atlas import PUBLISHED_SPACE, is_image, plain, read_atlas
from bids_fmmtc.signals.parcels import match_columns, open_atlas, read_series
from bids_fmmtc.signals.series import IMPORTED_DENOISING
from bids_fmmtc.signals.spaces import place, usable_spaces
from bids_fmmtc.types import Atlas

if TYPE_CHECKING:
    from bids_fmmtc.learning.bundle.load import ModelBundle

PUBLISHED_ATLAS = "A424"
_TRIES = 20  # tables of series whose header may be broken before the run gives up

log = logging.getLogger("bids_fmmtc")


@dataclass(frozen=True, slots=True)
class Imported:
    """Parcel series to import.

    Parameters
    ----------
    found
        All tables below the folder.
    label
        `SeriesFile.atlas` of those to take.
    atlas
        Where their parcels are described (see `open_atlas`).
    name
        What to call the atlas; None leaves it to its file.
    """

    found: SeriesFolder
    label: str | None
    atlas: Path
    name: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided before any recording is looked at; ``atlas_folder`` may be a table where series are imported.

    ``left_out`` names the encoders that the default recipe would have, were their weights here.
    """

    recipe: Recipe
    atlas: Atlas
    atlas_folder: Path
    bundle: ModelBundle | None
    weights: Mapping[str, Path]
    transform: Path | None
    imported: Imported | None = None
    left_out: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------------- resolve


def resolve(settings: Settings) -> Plan:
    """Turn options into a complete recipe and everything it needs; a broken bundle stops the run here.

    Raises
    ------
    FmmtcError
        Contradicting options, a bundle, recipe or atlas that cannot be used, weights that are not there.
    """
    recipe, bundle = _recipe(settings)
    imported = find_imported(settings, recipe)
    transform, without = None, left_out(settings, recipe)
    if imported is None:
        atlas_folder = find_atlas(settings, recipe)
        atlas = read_atlas(atlas_folder, None if recipe.atlas.name == PUBLISHED_ATLAS else recipe.atlas.name)
    else:
        atlas_folder = imported.atlas
        atlas = open_atlas(atlas_folder, imported.name)
        _say_columns(imported, atlas)
        recipe = _with_centres(recipe, atlas, settings)
        without = () if np.isnan(atlas.xyz).any() else without  # weights would not help
    recipe = replace(recipe, atlas=_checked_atlas(recipe.atlas, atlas))
    if imported is None:
        recipe, transform = _resolve_warp(recipe, atlas, settings)
    recipe, weights = _resolve_weights(recipe, bundle, settings)
    for spec in recipe.modalities:  # raises now what every recording would raise later
        check_spec(spec, recipe, weights.get(spec.name))
    return Plan(recipe, atlas, atlas_folder, bundle, weights, transform, imported, without)


def left_out(settings: Settings, recipe: Recipe) -> tuple[str, ...]:
    """Name the encoders that are left out of the default recipe since their weights are not here."""
    if settings.recipe_given:
        return ()
    there = {m.name for m in recipe.modalities}
    return tuple(m.name for m in named(DEFAULT).modalities if m.name not in there)


def left_out_line(names: Sequence[str]) -> str:
    """Say that encoders are left out, and that the same folder can be completed."""
    fetch = " or ".join(f"bids_fmmtc-fetch {name}" for name in names if name in RESOURCES)
    return (
        f"No weights of {', '.join(names)} were found: connectivity only. Once they are there ({fetch}, or "
        "--encoder-weights DIR), the same command adds their features to the same folder and computes nothing again."
    )


def outline(settings: Settings) -> tuple[Recipe, str]:
    """Return the recipe and the atlas's space as far as discovery needs them: no weights, A424 even if not fetched.

    Series that are imported need no space: it is empty.
    """
    recipe, _ = _recipe(settings)
    if settings.timeseries is not None:
        return recipe, ""
    try:
        return recipe, read_atlas(find_atlas(settings, recipe)).space
    except MissingInputError:
        if recipe.atlas.name != PUBLISHED_ATLAS:
            raise
        return recipe, PUBLISHED_SPACE


def _recipe(settings: Settings) -> tuple[Recipe, ModelBundle | None]:
    """Return the recipe: the bundle's, the file's, the one of that name, or what is here of the default one."""
    if settings.model is not None and replace(settings, model=None).recipe_given:
        raise UsageError(
            "--model (or $FMMTC_MODEL) and --recipe exclude each other: a bundle brings its recipe.",
            "Give one of them.",
        )
    bundle = None
    if settings.model is not None:
        from bids_fmmtc.learning.bundle.load import load_bundle  # noqa: PLC0415
        from bids_fmmtc.learning.bundle.tensors import check_tensors  # noqa: PLC0415

        bundle = load_bundle(settings.model)
        check_tensors(bundle)
        recipe = bundle.recipe
    elif settings.recipe_file is not None:
        recipe = Recipe.read(settings.recipe_file)
    else:
        recipe = _by_name(settings)
    if settings.on_space_mismatch is not None:
        rule: Any = settings.on_space_mismatch
        recipe = replace(recipe, space=replace(recipe.space, on_mismatch=rule))
    for spec in recipe.modalities:
        check_spec(spec, recipe)
    return _recipe_of_import(recipe, bundle, settings), bundle


def _by_name(settings: Settings) -> Recipe:
    """Return the recipe of the name that was given whole; of the default one no encoder whose weights are not here."""
    folder = Path(settings.atlas)
    # A folder of the default atlas's name that happens to be here was not asked for.
    own = settings.atlas_given and (folder.is_dir() or is_image(folder))
    recipe = replace(
        named(settings.recipe_name or DEFAULT), atlas=AtlasSpec(read_atlas(folder).name if own else settings.atlas)
    )
    if settings.recipe_name is not None:
        return recipe
    absent = {n for n in pretrained() if settings.encoder_weights is None and _fetched(n, settings) is None}
    return replace(recipe, modalities=tuple(m for m in recipe.modalities if m.name not in absent))


def find_atlas(settings: Settings, recipe: Recipe) -> Path:
    """Return the folder of the atlas: the one that was given, else the recipe's by name among the resources."""
    given = Path(settings.atlas)
    if settings.atlas_given and (given.is_dir() or is_image(given)):
        return given.absolute()
    if settings.atlas_given and given.is_file():
        raise UsageError(
            f"--atlas {settings.atlas} is a table; images need the folder of an atlas with its label image.",
            "A table alone serves --timeseries.",
        )
    name = settings.atlas if settings.atlas_given else recipe.atlas.name
    if name != recipe.atlas.name:
        raise AtlasError(f"--atlas {name} is no folder and not the recipe's atlas {recipe.atlas.name}.")
    found = _among_resources(name, settings)
    if found is None:
        looked = ", ".join(str(d) for d in settings.resources)
        fetch = "Run bids_fmmtc-fetch atlas once where there is internet, or g" if name == PUBLISHED_ATLAS else "G"
        raise MissingInputError(
            f"atlas {name} is not on this machine (looked in {looked}).", f"{fetch}ive its folder with --atlas DIR."
        )
    return found.absolute()


def _among_resources(name: str, settings: Settings) -> Path | None:
    found = find_resource("atlas", settings.resources) if name == PUBLISHED_ATLAS else None
    for folder in settings.resources:
        if found is None and (folder / f"atlas-{name}").is_dir():
            found = folder / f"atlas-{name}"
    return found


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


# -------------------------------------------------------------------------------------------------------------- import


def find_imported(settings: Settings, recipe: Recipe) -> Imported | None:
    """Find the series to import and what describes their parcels; None where images are asked for.

    That is what ``--atlas`` names: a folder, a table, or an atlas among the resources; without it the atlas that the
    recipe or the names of the tables tell, where it is among the resources. Else the header of the first table that
    can be read gives the parcels' names, and their centres stay unknown.

    Raises
    ------
    FmmtcError
        No series, series of several atlases and none chosen, or no table that names parcels.
    """
    folder = settings.timeseries
    if folder is None:
        return None
    found = find_series(folder)
    files = found.files
    given = Path(settings.atlas) if settings.atlas_given else None
    if given is not None and given.exists():
        label = choose_atlas(files, open_atlas(given).name, folder)
        return Imported(found, label, given.absolute(), None)
    if given is not None and (len(given.parts) > 1 or given.suffix):
        raise MissingInputError(f"--atlas {given} does not exist.", "Give a table, a folder, or the name of an atlas.")
    named = recipe.atlas.sha256 is not None or recipe.atlas.name != PUBLISHED_ATLAS
    wanted = settings.atlas if settings.atlas_given else recipe.atlas.name if named else None
    label = choose_atlas(files, wanted, folder, strict=settings.atlas_given)
    name = plain(wanted or label or "") or "Parcels"
    tables = [f.path for f in files if f.atlas == label and is_text(str(f.path))]
    place = _among_resources(name, settings) or _first_with_header(tables)
    return Imported(found, label, place.absolute(), name)


def _first_with_header(tables: list[Path]) -> Path:
    """Return the first table of series whose columns can be taken for parcels; one broken file stops nobody."""
    first: FmmtcError | None = None
    for path in tables[:_TRIES]:
        try:
            open_atlas(path)
        except DataError as error:
            first = first or error
        else:
            return path
    raise first or DataError("there is no table of series.")


def _say_columns(imported: Imported, atlas: Atlas) -> None:
    """Tell how the columns of the first table are taken for parcels; every recording's sidecar says it, too."""
    first = next(file.path for file in imported.found.files if file.atlas == imported.label)
    try:
        table = read_series(first)
        columns = match_columns(table, atlas)
    except DataError as error:
        log.warning("The first table does not fit: %s", error)
        return
    out = ", ".join((*table.left_out, *columns.left_out))
    log.info(
        "Columns of %s are matched to parcels by %s%s.", first.name, columns.matched, f"; left out: {out}" * bool(out)
    )


def _recipe_of_import(recipe: Recipe, bundle: ModelBundle | None, settings: Settings) -> Recipe:
    """Return the recipe for what is given, images or series; refuse one that is for the other.

    Imported series come as they are: nothing can be regressed out of them here, so a recipe that asks for it is
    refused, a bundle's too. A bundle that was made without any denoising is applied (its predictions are flagged
    ``imported_series``). A bundle that was made from imported series cannot judge images, which nobody has denoised.
    """
    if settings.timeseries is None:
        if bundle is not None and recipe.denoising == IMPORTED_DENOISING:
            raise BundleError(
                f"bundle {bundle.root} was made from imported series, denoised before; images are not.",
                "Give series made as those it was trained on with --timeseries.",
            )
        return recipe
    for option, value in (
        ("--on-space-mismatch", settings.on_space_mismatch),
        ("--derivatives", settings.derivatives),
        ("--bids-database-dir", settings.database_dir),
    ):
        if value:
            raise UsageError(f"{option} is for images; --timeseries reads none.", "Leave one of them out.")
    whose = "the recipe" if bundle is None else f"the recipe of bundle {bundle.root}"
    if volumes := of_volumes(recipe):
        raise RecipeError(
            f"{whose} asks for {', '.join(volumes)}, which reads volumes; imported series hold none.",
            "Give images, or a recipe without it.",
        )
    if recipe.denoising.cleans:
        raise RecipeError(
            f"{whose} asks for denoising (strategy {recipe.denoising.strategy}), which imported series cannot have.",
            "Denoise where the series are made, or give images.",
        )
    return recipe if bundle is not None else replace(recipe, denoising=IMPORTED_DENOISING)


def _with_centres(recipe: Recipe, atlas: Atlas, settings: Settings) -> Recipe:
    """Refuse encoders where parcel centres are unknown; leave them out where nobody asked for them by name."""
    unknown = int(np.isnan(atlas.xyz).any(axis=1).sum())
    encoders = of_centres(recipe)
    if unknown == 0:
        return recipe
    text = f"the centres of {unknown} of {atlas.n_parcels} parcels are unknown"
    if encoders and settings.recipe_given:
        raise AtlasError(f"{text}, which {encoders[0]} needs.", "Give a table with x, y, z with --atlas.")
    log.info("%s (--atlas FILE with x, y, z gives them): connectivity only.", text.capitalize())
    return replace(recipe, modalities=tuple(m for m in recipe.modalities if m.name not in encoders))


# ----------------------------------------------------------------------------------------------------- warp and weights


def _resolve_warp(recipe: Recipe, atlas: Atlas, settings: Settings) -> tuple[Recipe, Path | None]:
    """Decide whose displacement is used, so that the recipe says it whichever machine it was run on."""
    space = recipe.space
    if space.on_mismatch != "warp":
        return recipe, None
    transform = transform_of(recipe, settings)
    if space.warp == "auto":
        chosen: Any = "packaged" if transform is None else "templateflow"
        space = replace(space, warp=chosen)
    for other in usable_spaces(atlas.space)[1:]:
        place(other, atlas.space, space, transform)  # raises now what every recording would raise later
    return replace(recipe, space=space), transform


def transform_of(recipe: Recipe, settings: Settings) -> Path | None:
    """Return TemplateFlow's transform where a recipe may use it and it is on this machine."""
    if recipe.space.on_mismatch != "warp" or recipe.space.warp == "packaged":
        return None
    return find_resource("transform", settings.resources)


def _resolve_weights(recipe: Recipe, bundle: ModelBundle | None, settings: Settings) -> tuple[Recipe, dict[str, Path]]:
    """Find the pretrained encoders and write their checksums into the recipe."""
    weights: dict[str, Path] = {}
    modalities = []
    for spec in recipe.modalities:
        if spec.name not in pretrained():
            modalities.append(spec)
            continue
        folder = weights_folder(spec.name, bundle, settings)
        found = weights_sha256(folder)
        if spec.weights_sha256 not in (None, found):
            raise WeightsError(
                f"{spec.name} in {folder} has sha256 {found[:12]}, not the recipe's {str(spec.weights_sha256)[:12]}.",
                "Give the right weights with --encoder-weights.",
            )
        weights[spec.name] = folder
        modalities.append(replace(spec, weights_sha256=found))
    return replace(recipe, modalities=tuple(modalities)), weights


def weights_folder(name: str, bundle: ModelBundle | None, settings: Settings) -> Path:
    """Return the folder of a pretrained encoder: given, fetched, or in the bundle; raise where it is not here."""
    given = settings.encoder_weights or _fetched(name, settings)
    if bundle is not None:
        from bids_fmmtc.learning.bundle.load import encoder_folder  # noqa: PLC0415

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
