"""What a run is made of: recipe, atlas, bundle, weights, transform, from options and what is on disk."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bids_fmmtc.errors import (
    AtlasError,
    BundleError,
    DataError,
    MissingInputError,
    RecipeError,
    SelectionError,
    UsageError,
    WeightsError,
)
from bids_fmmtc.modalities import TABLE, Entry
from bids_fmmtc.modalities.neurostorm_config import PUBLISHED
from bids_fmmtc.plan import _with_centres, find_imported, outline, resolve
from bids_fmmtc.recipe import AtlasSpec, Denoising, ModalitySpec, Recipe, SpaceSpec, Windows
from bids_fmmtc.recipes import DEFAULT, named
from bids_fmmtc.recipes import TABLE as TABLE_OF_RECIPES
from bids_fmmtc.resources import TRANSFORM_FILE, neurostorm_folder
from bids_fmmtc.settings import Settings
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.series import IMPORTED_DENOISING
from bids_fmmtc.synthetic import ENCODER

BASE = Settings(Path("/in"), Path("/out"), "participant")


@pytest.fixture
def given_atlas(demo_atlas):
    return replace(BASE, atlas=str(demo_atlas), atlas_given=True)


@pytest.fixture
def atlas_in_6asym(demo_atlas, tmp_path):
    folder = tmp_path / "atlas-Demo"
    folder.mkdir()
    for path in demo_atlas.iterdir():
        shutil.copy(path, folder / path.name.replace("2009aSym", "6Asym"))
    return folder


def store(tmp_path, recipe):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.to_json()))
    return path


def encoder(folder, content=b"weights"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(ENCODER))
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_without_anything_it_is_connectivity_alone(given_atlas, demo_atlas):
    plan = resolve(given_atlas)
    found = read_atlas(demo_atlas)
    assert plan.recipe.atlas == AtlasSpec("Demo", found.sha256, 48)
    assert [m.name for m in plan.recipe.modalities] == ["fc"]
    assert plan.recipe.connectivity.frames == "all"
    assert (plan.bundle, plan.weights, plan.transform) == (None, {}, None)
    assert plan.atlas_folder == demo_atlas
    assert Recipe.from_json(plan.recipe.to_json()).digest == plan.recipe.digest


@pytest.mark.parametrize("how", ["option", "resources"])
def test_weights_that_are_there_are_used_and_named(given_atlas, tmp_path, how):
    folder = encoder(tmp_path / "brainlm-checkpoint-1400")
    settings = replace(given_atlas, encoder_weights=folder) if how == "option" else None
    plan = resolve(settings or replace(given_atlas, resources=(tmp_path,)))
    spec = plan.recipe.modalities[0]
    assert [m.name for m in plan.recipe.modalities] == ["brainlm", "fc"]
    assert spec.weights_sha256 is not None
    assert plan.weights == {"brainlm": folder}


def test_other_weights_than_the_recipes_are_refused(given_atlas, tmp_path):
    recipe = Recipe(atlas=AtlasSpec("Demo"), modalities=(ModalitySpec("brainlm", "0" * 64),))
    settings = replace(given_atlas, recipe_file=store(tmp_path, recipe))
    with pytest.raises(MissingInputError, match="weights are not on this machine"):
        resolve(settings)
    with pytest.raises(WeightsError, match="not the recipe's 000000000000"):
        resolve(replace(settings, encoder_weights=encoder(tmp_path / "w")))


def test_a_recipe_file_is_completed(given_atlas, tmp_path):
    recipe = Recipe(atlas=AtlasSpec("Demo"), least_coverage=0.25)
    plan = resolve(replace(given_atlas, recipe_file=store(tmp_path, recipe)))
    assert plan.recipe.least_coverage == 0.25
    assert plan.recipe.atlas.n_parcels == 48


def test_model_and_recipe_exclude_each_other(given_atlas, tmp_path, demo_bundle):
    with pytest.raises(UsageError, match=r"\$FMMTC_MODEL\) and --recipe exclude"):
        resolve(replace(given_atlas, model=demo_bundle, recipe_file=store(tmp_path, Recipe())))


def test_a_bundle_brings_recipe_and_encoder(given_atlas, demo_bundle):
    plan = resolve(replace(given_atlas, model=demo_bundle))
    assert plan.bundle.demo
    assert plan.recipe == plan.bundle.recipe
    assert plan.weights["brainlm"].is_relative_to(demo_bundle)


def test_a_broken_bundle_stops_here(given_atlas, demo_bundle, tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(demo_bundle, broken)
    head = next(p for p in broken.glob("*.safetensors"))
    head.write_bytes(head.read_bytes()[:-1])
    with pytest.raises(BundleError, match=head.name):
        resolve(replace(given_atlas, model=broken))


def test_the_rule_for_other_spaces_can_be_overridden(given_atlas, demo_bundle):
    plan = resolve(replace(given_atlas, on_space_mismatch="affine"))
    assert plan.recipe.space.on_mismatch == "affine"
    assert resolve(replace(given_atlas, model=demo_bundle, on_space_mismatch="fail")).recipe.space.on_mismatch == "fail"


# modalities


@pytest.mark.parametrize(
    ("modality", "words"),
    [
        (ModalitySpec("telepathy"), "no modality 'telepathy'"),
        (ModalitySpec("fc", options={"kind": "gram"}), "fc has no option kind"),
        (ModalitySpec("brainlm", options={"mask_ratio": 0.2}), "brainlm has no option mask_ratio"),
        (ModalitySpec("brainlm", options={"token_order": {"kind": "random"}}), "'random' is none of"),
    ],
)
def test_a_modality_that_no_recording_could_have_stops_the_run(given_atlas, tmp_path, modality, words):
    own = store(tmp_path, Recipe(atlas=AtlasSpec("Demo"), modalities=(modality,)))
    for decide in (resolve, outline):
        with pytest.raises(RecipeError, match=words) as caught:
            decide(replace(given_atlas, recipe_file=own))
        assert caught.value.exit_code == 65


def test_windows_and_token_order_that_the_checkpoint_cannot_take_stop_the_run(given_atlas, tmp_path):
    folder = encoder(tmp_path / "w")
    order = {"token_order": {"kind": "permutation", "permutation": [1, 0]}}
    for recipe, words in (
        (Recipe(windows=Windows(210), modalities=(ModalitySpec("brainlm"),)), "windows.length is 210.*multiple of 20"),
        (Recipe(modalities=(ModalitySpec("brainlm", options=order),)), "has 2 entries, expected 480"),
    ):
        own = store(tmp_path, replace(recipe, atlas=AtlasSpec("Demo")))
        with pytest.raises(RecipeError, match=words):
            resolve(replace(given_atlas, recipe_file=own, encoder_weights=folder))
    (folder / "config.json").write_text("{}")
    own = store(tmp_path, Recipe(atlas=AtlasSpec("Demo"), modalities=(ModalitySpec("brainlm"),)))
    with pytest.raises(WeightsError, match="not a BrainLM config"):
        resolve(replace(given_atlas, recipe_file=own, encoder_weights=folder))


def test_a_new_encoder_needs_its_line_in_the_table_only(given_atlas, tmp_path, monkeypatch):
    monkeypatch.setitem(TABLE, "toy", Entry("nowhere:Toy", pretrained=True))
    folder = encoder(tmp_path / "toy")
    assert [m.name for m in resolve(given_atlas).recipe.modalities] == ["fc"]
    own = store(tmp_path, Recipe(atlas=AtlasSpec("Demo"), modalities=(ModalitySpec("toy"),)))
    settings = replace(given_atlas, recipe_file=own)
    with pytest.raises(MissingInputError, match=r"asks for toy, .* Give their folder with --encoder-weights"):
        resolve(settings)
    assert resolve(replace(settings, encoder_weights=tmp_path)).weights == {"toy": folder}


def neurostorm(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED.to_json()))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_what_is_not_taken_by_default_is_asked_for_by_name(given_atlas, tmp_path):
    both = tmp_path / "both"
    folders = {"brainlm": encoder(both / "brainlm"), "neurostorm": neurostorm(both / "neurostorm")}
    given = replace(given_atlas, encoder_weights=both)
    assert [m.name for m in resolve(given).recipe.modalities] == ["brainlm", "fc"]
    fetched = neurostorm(tmp_path / "cache" / neurostorm_folder())
    found = resolve(replace(given_atlas, resources=(tmp_path / "cache",)))
    assert ([m.name for m in found.recipe.modalities], found.left_out) == (["fc"], ("brainlm",))
    names = (ModalitySpec("neurostorm"), ModalitySpec("brainlm"), ModalitySpec("fc"))
    own = store(tmp_path, Recipe(atlas=AtlasSpec("Demo"), modalities=names))
    assert resolve(replace(given, recipe_file=own)).weights == folders
    own = store(tmp_path, Recipe(atlas=AtlasSpec("Demo"), modalities=names[:1]))
    with pytest.raises(MissingInputError, match=r"asks for neurostorm.*bids_fmmtc-fetch neurostorm"):
        resolve(replace(given_atlas, recipe_file=own))
    plan = resolve(replace(given_atlas, recipe_file=own, resources=(tmp_path / "cache",)))
    assert (plan.weights, plan.left_out) == ({"neurostorm": fetched}, ())
    assert plan.recipe.modalities[0].weights_sha256 is not None


@pytest.fixture
def both(tmp_path):
    """A folder with the encoders of all named recipes."""
    encoder(tmp_path / "both" / "brainlm")
    neurostorm(tmp_path / "both" / "neurostorm")
    return tmp_path / "both"


@pytest.mark.parametrize("name", TABLE_OF_RECIPES)
def test_a_recipe_by_name_is_taken_whole(given_atlas, demo_atlas, both, name):
    settings = replace(given_atlas, recipe_name=name)
    with pytest.raises(MissingInputError, match=r"asks for (brainlm|neurostorm), .*Run bids_fmmtc-fetch \1"):
        resolve(settings)
    plan = resolve(replace(settings, encoder_weights=both))
    wanted = named(name)
    assert [m.name for m in plan.recipe.modalities] == [m.name for m in wanted.modalities]
    assert plan.weights == {m.name: both / m.name for m in wanted.modalities if m.name != "fc"}
    assert plan.recipe.atlas == AtlasSpec("Demo", read_atlas(demo_atlas).sha256, 48)
    assert (plan.recipe.denoising, plan.left_out) == (wanted.denoising, ())
    assert outline(replace(BASE, recipe_name=name)) == (wanted, "MNI152NLin6Asym")


def test_without_a_name_it_is_the_default_one_as_far_as_weights_are_here(given_atlas, both):
    asked = replace(given_atlas, recipe_name=DEFAULT, encoder_weights=both)
    assert resolve(replace(given_atlas, encoder_weights=both)).recipe.digest == resolve(asked).recipe.digest
    short = resolve(given_atlas)
    assert (short.left_out, [m.name for m in short.recipe.modalities]) == (("brainlm",), ["fc"])
    assert resolve(asked).recipe.completes(short.recipe)


def test_a_name_excludes_a_bundle(given_atlas, demo_bundle):
    with pytest.raises(UsageError, match="--recipe exclude each other"):
        resolve(replace(given_atlas, model=demo_bundle, recipe_name="fmm_tc"))


def test_series_take_the_recipes_that_ask_nothing_of_images(series, demo_atlas, both):
    settings = series(encoder_weights=both, **given(demo_atlas))
    plain = resolve(settings).recipe
    assert resolve(replace(settings, recipe_name="fmm_tc")).recipe == plain
    for name, words in (("fmm_tvc", "asks for neurostorm, which reads volumes"), ("fmm_tc_denoised", "for denoising")):
        with pytest.raises(RecipeError, match=words):
            resolve(replace(settings, recipe_name=name))
    with pytest.raises(AtlasError, match="48 of 48 parcels are unknown, which brainlm needs"):
        resolve(series(encoder_weights=both, recipe_name="fmm_tc"))


def test_series_have_no_volumes(given_atlas, tmp_path):
    own = store(tmp_path, Recipe(atlas=AtlasSpec("Demo"), modalities=(ModalitySpec("neurostorm"), ModalitySpec("fc"))))
    settings = replace(given_atlas, recipe_file=own, timeseries=tmp_path / "not-even-there")
    for decide in (resolve, outline):
        with pytest.raises(RecipeError, match="asks for neurostorm, which reads volumes; imported series") as caught:
            decide(settings)
        assert "\n" not in str(caught.value)


def test_only_encoders_that_need_centres_want_them(given_atlas, demo_atlas, tmp_path):
    atlas = read_atlas(demo_atlas)
    unknown = replace(atlas, xyz=np.full_like(atlas.xyz, np.nan))
    names = [ModalitySpec(n) for n in ("neurostorm", "brainlm", "fc")]
    recipe = Recipe(modalities=tuple(names))
    assert _with_centres(recipe, atlas, given_atlas) == recipe
    assert _with_centres(recipe, unknown, given_atlas).modalities == (names[0], names[2])
    asked = replace(given_atlas, recipe_file=tmp_path / "x.json")
    with pytest.raises(AtlasError, match="which brainlm needs"):
        _with_centres(recipe, unknown, asked)
    without = replace(recipe, modalities=(names[0], names[2]))
    assert _with_centres(without, unknown, asked) == without


# atlas


def test_an_absent_atlas_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(MissingInputError, match=f"A424 is not on this machine .*{tmp_path}.*bids_fmmtc-fetch atlas"):
        resolve(replace(BASE, resources=(tmp_path,)))
    with pytest.raises(MissingInputError, match=r"Other is not on this machine.*Give its folder with --atlas"):
        resolve(replace(BASE, atlas="Other", atlas_given=True))


def test_an_atlas_is_found_by_name_among_resources(demo_atlas):
    settings = replace(BASE, atlas="Demo", atlas_given=True, resources=(demo_atlas.parent,))
    assert resolve(settings).atlas_folder == demo_atlas


def test_another_atlas_than_the_recipes_is_refused(given_atlas, tmp_path):
    for spec, text in (
        (AtlasSpec("Demo", "0" * 64, 48), "made with 000000000000 and 48"),
        (AtlasSpec("Demo", None, 47), "has 48 parcels, the recipe names 47"),
    ):
        with pytest.raises(AtlasError, match=text):
            resolve(replace(given_atlas, recipe_file=store(tmp_path, Recipe(atlas=spec))))
    named = replace(BASE, atlas="Other", atlas_given=True, recipe_file=store(tmp_path, Recipe()))
    with pytest.raises(AtlasError, match="no folder and not the recipe's atlas A424"):
        resolve(named)


def test_a_folder_here_of_the_default_atlas_name_was_not_asked_for(tmp_path, monkeypatch):
    (tmp_path / "A424").mkdir()
    monkeypatch.chdir(tmp_path)
    assert outline(BASE)[1] == "MNI152NLin6Asym"


# warp


def test_the_recipe_says_whose_transform_was_used(given_atlas, atlas_in_6asym, tmp_path, monkeypatch):
    monkeypatch.setattr("bids_fmmtc.plan.place", lambda *_: None)  # no real transform is here to be read
    settings = replace(given_atlas, atlas=str(atlas_in_6asym))
    plan = resolve(settings)
    assert (plan.recipe.space.warp, plan.transform) == ("packaged", None)
    home = tmp_path / "tf" / "tpl-MNI152NLin2009cAsym"
    home.mkdir(parents=True)
    (home / TRANSFORM_FILE).touch()
    assert resolve(replace(settings, resources=(home.parent,))).recipe.space.warp == "packaged"  # a placeholder
    (home / TRANSFORM_FILE).write_bytes(b"x")
    plan = resolve(replace(settings, resources=(home.parent,)))
    assert (plan.recipe.space.warp, plan.transform) == ("templateflow", home / TRANSFORM_FILE)
    own = store(tmp_path, Recipe(atlas=AtlasSpec("Demo"), space=SpaceSpec(warp="packaged")))
    assert resolve(replace(settings, resources=(home.parent,), recipe_file=own)).transform is None


def test_a_transform_the_recipe_asks_for_must_be_there(given_atlas, atlas_in_6asym, tmp_path):
    own = store(tmp_path, Recipe(atlas=AtlasSpec("Demo"), space=SpaceSpec(warp="templateflow")))
    with pytest.raises(MissingInputError, match="bids_fmmtc-fetch transform"):
        resolve(replace(given_atlas, atlas=str(atlas_in_6asym), recipe_file=own))


# outline


def test_an_outline_needs_no_atlas_and_no_weights(given_atlas, tmp_path):
    recipe, space = outline(BASE)
    assert (recipe.atlas.name, recipe.atlas.sha256, space) == ("A424", None, "MNI152NLin6Asym")
    assert outline(given_atlas)[1] == "MNI152NLin2009aSym"
    own = store(tmp_path, Recipe(modalities=(ModalitySpec("brainlm"),)))
    assert outline(replace(BASE, recipe_file=own))[0].modalities[0].weights_sha256 is None
    with pytest.raises(MissingInputError, match="Other"):
        outline(replace(BASE, atlas="Other", atlas_given=True))


# imported series


@pytest.fixture
def series(tmp_path, demo_atlas):
    """Settings that import one table of the demo atlas's parcels; the table's name may be given."""

    def make(*names, header=None, **more):
        columns = header or read_atlas(demo_atlas).names
        for name in names or ("sub-1_task-rest_atlas-Demo_timeseries.tsv",):
            path = tmp_path / "series" / name
            path.parent.mkdir(exist_ok=True)
            rows = [[f"{r + 0.5 * c}" for c in range(len(columns))] for r in range(3)]
            path.write_text("\n".join("\t".join(row) for row in (columns, *rows)) + "\n")
        return replace(BASE, timeseries=tmp_path / "series", **more)

    return make


def given(path):
    return {"atlas": str(path), "atlas_given": True}


def test_series_have_a_recipe_of_their_own(series, demo_atlas, tmp_path):
    plan = resolve(series(**given(demo_atlas)))
    assert plan.recipe.denoising == IMPORTED_DENOISING
    assert plan.recipe.atlas == AtlasSpec("Demo", read_atlas(demo_atlas).sha256, 48)
    assert (plan.imported.label, plan.atlas_folder, plan.transform) == ("Demo", demo_atlas, None)
    images = resolve(replace(BASE, **given(demo_atlas)))
    assert plan.recipe.digest != images.recipe.digest
    # Nothing about a template transform, whatever lies on this machine.
    assert plan.recipe.space == SpaceSpec()


def test_without_an_atlas_the_header_names_parcels_and_there_is_connectivity_alone(series, tmp_path, caplog):
    folder = encoder(tmp_path / "brainlm-checkpoint-1400")
    with caplog.at_level(logging.INFO):
        plan = resolve(series(encoder_weights=folder))
    assert [m.name for m in plan.recipe.modalities] == ["fc"]
    assert plan.atlas.name == "Demo"
    assert plan.atlas.labels.size == 0
    assert "centres of 48 of 48 parcels are unknown (--atlas FILE with x, y, z gives them): connectivity" in caplog.text
    assert "are matched to parcels by name." in caplog.text
    recipe = Recipe(modalities=(ModalitySpec("brainlm"), ModalitySpec("fc")))
    with pytest.raises(AtlasError, match="48 of 48 parcels are unknown, which brainlm needs"):
        resolve(series(encoder_weights=folder, recipe_file=store(tmp_path, recipe)))


def test_a_table_with_centres_serves_the_encoder(series, demo_atlas, tmp_path):
    table = next(demo_atlas.glob("*.tsv"))
    path = tmp_path / "atlas-Demo_dseg.tsv"
    shutil.copy(table, path)
    plan = resolve(series(encoder_weights=encoder(tmp_path / "w"), **given(path)))
    assert [m.name for m in plan.recipe.modalities] == ["brainlm", "fc"]
    assert (plan.atlas.xyz == read_atlas(demo_atlas).xyz).all()
    assert plan.atlas.labels.size == 0
    with pytest.raises(UsageError, match="is a table; images need the folder"):
        resolve(replace(BASE, **given(path)))


def test_an_atlas_among_the_resources_is_found_by_the_name_in_the_series(series, demo_atlas):
    plan = resolve(series(resources=(demo_atlas.parent,)))
    assert plan.atlas_folder == demo_atlas
    assert plan.atlas.labels.size > 0


def test_one_of_several_atlases_is_chosen_by_name(series):
    names = [f"sub-1_task-rest_seg-{a}_timeseries.tsv" for a in ("A", "B")]
    with pytest.raises(SelectionError, match=r"series of atlas A, B\. Choose one with --atlas NAME"):
        resolve(series(*names))
    plan = resolve(series(*names, atlas="B", atlas_given=True))
    assert (plan.imported.label, plan.atlas.name, plan.atlas_folder.name) == ("B", "B", names[1])
    with pytest.raises(SelectionError, match="not of C"):
        resolve(series(*names, atlas="C", atlas_given=True))
    with pytest.raises(MissingInputError, match=r"--atlas c\.tsv does not exist"):
        resolve(series(*names, atlas="c.tsv", atlas_given=True))


def test_one_broken_table_does_not_keep_the_header_of_another_away(series, tmp_path):
    settings = series("sub-1_timeseries.tsv", "sub-2_timeseries.tsv")
    (tmp_path / "series" / "sub-1_timeseries.tsv").write_text("")
    plan = resolve(settings)
    assert (plan.atlas.name, plan.atlas_folder.name) == ("Parcels", "sub-2_timeseries.tsv")
    (tmp_path / "series" / "sub-1_timeseries.tsv").unlink()
    with pytest.raises(DataError, match="'GlobSig', which is no parcel"):
        resolve(series("sub-2_timeseries.tsv", header=["GlobSig", "a"]))


def test_denoising_cannot_be_asked_of_imported_series(series, tmp_path):
    for denoising in (Denoising("simple"), Denoising(low_pass=0.1)):
        own = store(tmp_path, Recipe(denoising=denoising))
        for decide in (resolve, outline):
            with pytest.raises(RecipeError, match=r"the recipe asks for denoising .* imported series cannot have"):
                decide(series(recipe_file=own))


@pytest.mark.parametrize(
    ("more", "option"),
    [
        ({"on_space_mismatch": "affine"}, "--on-space-mismatch"),
        ({"derivatives": ((None, Path("/d")),)}, "--derivatives"),
        ({"database_dir": Path("/d")}, "--bids-database-dir"),
    ],
)
def test_options_of_images_are_refused_with_series(series, more, option):
    with pytest.raises(UsageError, match=f"{option} is for images"):
        resolve(series(**more))


def rewritten(bundle, folder, denoising):
    """Copy a bundle with another denoising in its recipe."""
    from safetensors.torch import load_file

    from bids_fmmtc.learning.bundle.head import build_head
    from bids_fmmtc.learning.bundle.load import load_bundle
    from bids_fmmtc.learning.bundle.save import save_bundle

    old = load_bundle(bundle)
    head = build_head(old.head, old.shapes)
    head.load_state_dict(load_file(next(bundle.glob("head*.safetensors"))))
    save_bundle(
        folder, recipe=replace(old.recipe, denoising=denoising), shapes=old.shapes, head_spec=old.head, head=head,
        classes=old.classes, threshold=old.threshold, calibration=old.calibration, conformal=None, reference=None,
        card=dict(old.card), encoders={"brainlm": bundle / "encoders" / "brainlm"}, include_encoders=True,
    )  # fmt: skip
    return folder


def test_a_bundle_and_series_must_suit_each_other(series, demo_bundle, demo_atlas, tmp_path):
    settings = series(model=demo_bundle, **given(demo_atlas))
    plan = resolve(settings)
    assert plan.recipe == plan.bundle.recipe  # flagged imported_series, see quality.FLAGS
    cleaned = rewritten(demo_bundle, tmp_path / "cleaned", Denoising("simple"))
    with pytest.raises(RecipeError, match=r"recipe of bundle .*cleaned asks for denoising"):
        resolve(replace(settings, model=cleaned))
    imported = rewritten(demo_bundle, tmp_path / "imported", IMPORTED_DENOISING)
    assert resolve(replace(settings, model=imported)).recipe.denoising == IMPORTED_DENOISING
    with pytest.raises(BundleError, match="made from imported series, denoised before; images are not"):
        resolve(replace(settings, model=imported, timeseries=None))
    with pytest.raises(AtlasError, match="centres of 48 of 48 parcels are unknown"):
        resolve(replace(settings, atlas="Demo"))  # not among the resources: names from the header alone


def test_images_are_no_imported_series(given_atlas):
    assert find_imported(given_atlas, Recipe()) is None
