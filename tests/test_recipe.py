"""The recipe: its digest sees every field, its JSON is complete, and what is wrong in it is named."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_digests import DIGESTS, RECIPES

from bids_fmmtc.errors import MissingInputError, RecipeError
from bids_fmmtc.recipe import (
    AtlasSpec,
    Connectivity,
    Denoising,
    ModalitySpec,
    Recipe,
    SpaceSpec,
    Windows,
    differences,
)
from bids_fmmtc.recipes import TABLE

SHA = "0" * 64
FULL = Recipe(
    atlas=AtlasSpec("A424", SHA, 424),
    space=SpaceSpec("warp", "packaged"),
    denoising=Denoising("scrubbing", "basic", 0.01, 0.1, detrend=True, drop_non_steady_state=True),
    windows=Windows(200, 100, "reflect", 150),
    connectivity=Connectivity("partial", fisher_z=False),
    target_repetition_time=0.72,
    scaling="median_iqr",
    least_coverage=0.5,
    most_lost=0.1,
    modalities=(ModalitySpec("brainlm", SHA, {"token_order": "published", "deep": {"a": [1, 2]}}), ModalitySpec("fc")),
)
FULL_DIGEST = "947d06b3971dbe1879b04282c097df53a19aa002662860c01a7456b9d42e2863"


def leaves(data, where=()):
    """Yield the path of every field that holds no further one."""
    if isinstance(data, dict) and data:
        for name, value in data.items():
            yield from leaves(value, (*where, name))
    elif isinstance(data, list) and data:
        for i, value in enumerate(data):
            yield from leaves(value, (*where, i))
    else:
        yield where


def get(data, where):
    for step in where:
        data = data[step]
    return data


def put(data, where, value):
    """Return a copy with one leaf replaced."""
    new = copy.deepcopy(data)
    get(new, where[:-1])[where[-1]] = value
    return new


def spelled(where):
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in where).lstrip(".")


# Other accepted values of each leaf that is not free text or number; the schema of `Recipe` has no list of them.
OTHERS = {
    "space.on_mismatch": ["affine", "fail"],
    "space.warp": ["auto", "templateflow"],
    "denoising.strategy": ["none", "simple", "compcor", "ica_aroma"],
    "denoising.global_signal": [None, "power2", "derivatives", "full"],
    "denoising.high_pass": [None, 0.02, 0.099],
    "denoising.low_pass": [None, 0.08, 1.0],
    "denoising.fd_threshold": [0.2, 0.51],
    "denoising.std_dvars_threshold": [1.0, 3.0],
    "denoising.least_segment": [1, 6],
    "windows.length": [150, 199, 201, 10_000],
    "windows.stride": [1, 99, 200],
    "windows.short": ["refuse"],
    "windows.short_least": [2, 149, 200],
    "connectivity.kind": ["pearson", "gram", "tangent"],
    "target_repetition_time": [None, 0.7200001, 3.0],
    "scaling": ["global_sd", "none"],
    "least_coverage": [0.0, 0.25, 1.0],
    "most_lost": [0.0, 0.25, 1.0],
    "atlas.sha256": [None, "1" * 64],
    "atlas.n_parcels": [None, 423],
    "atlas.name": ["A425", "a424"],
    "modalities[0].name": ["other"],
    "modalities[0].weights_sha256": [None, "f" * 64],
    "modalities[0].options.token_order": ["other", None, 1],
    "modalities[0].options.deep.a[0]": [2, "1", None],
    "modalities[0].options.deep.a[1]": [1, [2]],
    "modalities[1].name": ["other"],
    "modalities[1].weights_sha256": [SHA],
    "modalities[1].options": [{"x": 1}],
}
LEAVES = list(leaves(FULL.to_json()))


def others(where):
    value = get(FULL.to_json(), where)
    return [not value] if isinstance(value, bool) else OTHERS[spelled(where)]


def test_every_field_of_the_types_is_a_leaf_of_the_json():
    def fields(value):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            yield from fields(inner) if dataclasses.is_dataclass(inner) else [field.name]

    names = {name for where in LEAVES for name in where if isinstance(name, str)}
    names.add("frames")  # written only where it is not what stored recipes mean
    assert set(fields(FULL)) | {f.name for f in dataclasses.fields(ModalitySpec)} <= names


@pytest.mark.parametrize("where", LEAVES, ids=spelled)
def test_every_field_changes_the_digest_and_is_named_as_the_difference(where):
    digests = {FULL.digest}
    for value in others(where):
        other = Recipe.from_json(put(FULL.to_json(), where, value))
        assert other.digest not in digests
        digests.add(other.digest)
        assert differences(FULL, FULL) == []
        (line,) = differences(FULL, other)
        assert line.startswith(spelled(where))


def test_digest_does_not_depend_on_the_order_of_keys():
    def turned(data):
        if isinstance(data, dict):
            return {k: turned(v) for k, v in reversed(data.items())}
        return list(map(turned, data)) if isinstance(data, list) else data

    assert Recipe.from_json(turned(FULL.to_json())).digest == FULL.digest


def test_digest_is_pinned():
    """Stored features and bundles name recipes by digest: a new field or default must not pass unnoticed."""
    assert FULL.digest == FULL_DIGEST


def test_frames_of_connectivity_leave_stored_recipes_what_they_were():
    """JSON without the field means windows, and its digest is what it was; ``all`` is another recipe, and named."""
    stored = FULL.to_json()
    assert "frames" not in stored["connectivity"]
    assert Recipe.from_json(stored).connectivity.frames == "windows"
    assert Recipe.from_json(put(stored, ("connectivity", "frames"), "windows")).digest == FULL_DIGEST
    chosen = Recipe.from_json(put(stored, ("connectivity", "frames"), "all"))
    assert chosen.digest != FULL_DIGEST
    assert chosen.to_json()["connectivity"]["frames"] == "all"
    assert Recipe.from_json(chosen.to_json()) == chosen
    assert differences(FULL, chosen) == ['connectivity.frames: "windows" there, "all" here']
    with pytest.raises(RecipeError, match=r"connectivity\.frames"):
        Recipe.from_json(put(stored, ("connectivity", "frames"), "some"))


@pytest.mark.parametrize(
    ("written", "frames"),
    [
        ({}, "all"),
        ({"windows": {"stride": 100}}, "all"),
        ({"connectivity": {"kind": "partial"}}, "all"),
        ({"connectivity": {"kind": "gram", "frames": "windows"}}, "windows"),
        ({"connectivity": {"kind": "pearson", "fisher_z": True}}, "windows"),  # spelled out, as stored recipes are
        ({"connectivity": {"kind": "pearson", "fisher_z": True, "frames": "all"}}, "all"),
    ],
)
def test_a_file_that_leaves_frames_open_takes_all(tmp_path, written, frames):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(written))
    assert Recipe.read(path).connectivity.frames == frames
    path.write_text(json.dumps(Recipe.read(path).to_json()))
    assert Recipe.read(path).connectivity.frames == frames


def test_order_of_modalities_matters():
    assert dataclasses.replace(FULL, modalities=FULL.modalities[::-1]).digest != FULL.digest


# any recipe

positive = st.floats(min_value=1e-6, max_value=1e6) | st.integers(1, 1000)
share = st.floats(0, 1) | st.sampled_from([0, 1, -0.0])
sha = st.none() | st.text("0123456789abcdef", min_size=64, max_size=64)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def recipes(draw):
    high, low = draw(st.none() | positive), draw(st.none() | positive)
    if high is not None and low is not None and low <= high:
        low = high + 1
    length = draw(st.integers(2, 1000))
    names = draw(st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True))
    return Recipe(
        atlas=AtlasSpec(draw(st.text()), draw(sha), draw(st.none() | st.integers(1, 1000))),
        space=SpaceSpec(*draw(st.tuples(st.sampled_from(["warp", "fail"]), st.sampled_from(["auto", "packaged"])))),
        denoising=Denoising(
            high_pass=high,
            low_pass=low,
            detrend=draw(st.booleans()),
            fd_threshold=draw(positive),
            least_segment=draw(st.integers(1, 9)),
        ),
        windows=Windows(length, draw(st.integers(1, 500)), short_least=draw(st.integers(2, length))),
        target_repetition_time=draw(st.none() | positive),
        least_coverage=draw(share),
        most_lost=draw(share),
        modalities=tuple(
            ModalitySpec(n, draw(sha), draw(st.dictionaries(st.text(), plain, max_size=2))) for n in names
        ),
    )


@settings(max_examples=60)
@given(recipes())
def test_json_round_trip_keeps_recipe_and_digest(recipe):
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json(), allow_nan=False)))
    assert again == recipe
    assert again.digest == recipe.digest
    assert differences(recipe, again) == []


@settings(max_examples=40)
@given(recipes(), recipes())
def test_digests_are_equal_only_where_there_is_no_difference(one, other):
    assert (one.digest == other.digest) == (differences(one, other) == [])


def test_equal_numbers_of_different_type_have_one_digest():
    whole = Recipe(target_repetition_time=2, least_coverage=0, denoising=Denoising(high_pass=1))
    floats = Recipe(target_repetition_time=2.0, least_coverage=-0.0, denoising=Denoising(high_pass=1.0))
    assert whole == floats
    assert whole.digest == floats.digest


# what is refused


def test_what_is_left_out_has_its_default():
    assert Recipe.from_json({}) == Recipe()
    assert Recipe.from_json({"windows": {"length": 150}}).windows == Windows(length=150)


CONTAINERS = [w for w in dict.fromkeys(x[:i] for x in LEAVES for i in range(len(x))) if "options" not in w]


@pytest.mark.parametrize(
    "where", [w for w in CONTAINERS if isinstance(get(FULL.to_json(), w), dict)], ids=lambda w: spelled(w) or "top"
)
def test_unknown_fields_are_named(where):
    data = put(FULL.to_json(), (*where, "lenght"), 1)
    with pytest.raises(RecipeError, match="unknown field lenght") as caught:
        Recipe.from_json(data, "file.json")
    place = "file.json" + (f".{spelled(where)}" if where else "")
    assert str(caught.value).startswith(f"{place}: ")


WRONG = {"list": [1], "object": {"a": 1}, "text": "maybe", "number": 1.5, "boolean": True}
TEXTS = {"atlas.name", "atlas.sha256"} | {f"modalities[{i}].{n}" for i in (0, 1) for n in ("name", "weights_sha256")}
FLOATS = {f"denoising.{n}" for n in ("high_pass", "low_pass", "fd_threshold", "std_dvars_threshold")}
FLOATS |= {"target_repetition_time", "least_coverage", "most_lost"}


def own_kind(where):
    name = spelled(where)
    if isinstance(get(FULL.to_json(), where), bool):
        return "boolean"
    return "text" if name in TEXTS else "number" if name in FLOATS else "object" if name.endswith("options") else ""


@pytest.mark.parametrize(
    ("where", "kind"),
    [(w, k) for w in LEAVES if "options" not in w[:-1] for k in WRONG if k != own_kind(w)],
    ids=lambda x: x if isinstance(x, str) else spelled(x),
)
def test_a_value_of_another_type_is_refused_by_name(where, kind):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(put(FULL.to_json(), where, WRONG[kind]), "file.json")
    assert f"file.json.{spelled(where)}: " in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_a_recipe_is_an_object(data):
    with pytest.raises(RecipeError, match="recipe: expected an object"):
        Recipe.from_json(data)


def test_a_modality_needs_its_name():
    with pytest.raises(RecipeError, match=r"recipe\.modalities\[1\]: field name is missing"):
        Recipe.from_json({"modalities": [{"name": "fc"}, {}]})


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"windows": {"length": 1}}, "windows.length"),
        ({"windows": {"stride": 0}}, "windows.stride"),
        ({"windows": {"short_least": 201, "short": "reflect"}}, "windows.short_least"),
        ({"windows": {"short_least": 1}}, "windows.short_least"),
        ({"least_coverage": 1.01}, "least_coverage"),
        ({"least_coverage": -0.1}, "least_coverage"),
        ({"most_lost": 2}, "most_lost"),
        ({"target_repetition_time": 0}, "target_repetition_time"),
        ({"target_repetition_time": -2.0}, "target_repetition_time"),
        ({"denoising": {"high_pass": 0}}, "denoising.high_pass"),
        ({"denoising": {"low_pass": 0.01, "high_pass": 0.1}}, "denoising.low_pass"),
        ({"denoising": {"low_pass": -1}}, "denoising.low_pass"),
        ({"denoising": {"fd_threshold": 0}}, "denoising.fd_threshold"),
        ({"denoising": {"std_dvars_threshold": -0.1}}, "denoising.std_dvars_threshold"),
        ({"denoising": {"least_segment": 0}}, "denoising.least_segment"),
        ({"modalities": []}, "modalities"),
        ({"modalities": [{"name": "fc"}, {"name": "fc"}]}, "named twice"),
    ],
)
def test_a_value_out_of_range_is_named(data, named):
    with pytest.raises(RecipeError, match=named):
        Recipe.from_json(data)


@pytest.mark.parametrize("length", [2, 50, 99])
def test_a_recipe_that_refuses_short_windows_does_not_mind_short_least(length):
    recipe = Recipe.from_json({"windows": {"length": length, "stride": length}})
    assert (recipe.windows.short, recipe.windows.short_least) == ("refuse", 100)
    with pytest.raises(RecipeError, match=r"windows\.short_least must not exceed"):
        Recipe.from_json({"windows": {"length": length, "stride": length, "short": "reflect"}})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("where", [w for w in LEAVES if isinstance(get(FULL.to_json(), w), float)], ids=spelled)
def test_numbers_are_finite(where, value):
    with pytest.raises(RecipeError, match=spelled(where).replace("[", r"\[")):
        Recipe.from_json(put(FULL.to_json(), where, value))


def test_options_hold_finite_numbers_only():
    with pytest.raises(RecipeError, match=r"modalities\[0\]\.options: holds a number that is not finite"):
        Recipe.from_json({"modalities": [{"name": "fc", "options": {"a": [1.0, {"b": math.nan}]}}]})


@pytest.mark.parametrize("name", ["target_repetition_time", "least_coverage", "most_lost"])
def test_numbers_are_finite_without_json_too(name):
    with pytest.raises(RecipeError, match=name):
        Recipe(**{name: math.inf})


# values


def test_options_cannot_be_changed_afterwards():
    mine = {"a": 1}
    spec = ModalitySpec("fc", options=mine)
    mine["a"] = 2
    assert spec.options["a"] == 1
    with pytest.raises(TypeError):
        spec.options["a"] = 3


@pytest.mark.parametrize(
    ("denoising", "desc", "cleans"),
    [
        (Denoising(), "preproc", False),
        (Denoising("simple"), "preproc", True),
        (Denoising("ica_aroma"), "smoothAROMAnonaggr", True),
        (Denoising(high_pass=0.01), "preproc", True),
        (Denoising(low_pass=0.1), "preproc", True),
        (Denoising(global_signal="basic"), "preproc", True),
    ],
)
def test_denoising_says_what_it_starts_from_and_whether_it_cleans(denoising, desc, cleans):
    assert (denoising.bold_desc, denoising.cleans) == (desc, cleans)


# files


def test_a_recipe_is_read_from_a_file(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(FULL.to_json()))
    assert Recipe.read(path) == FULL


def test_a_file_that_is_not_there_or_not_json_is_named(tmp_path):
    with pytest.raises(MissingInputError, match=r"none\.json does not exist"):
        Recipe.read(tmp_path / "none.json")
    for content in (b"{", b"\xff\xfe", b"", b"[1]"):
        path = tmp_path / "recipe.json"
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=r"recipe\.json"):
            Recipe.read(path)
    with pytest.raises(RecipeError, match=Path(tmp_path).name):
        Recipe.read(tmp_path)


def test_differences_name_both_sides_and_lists_of_other_length():
    one, other = Recipe(), Recipe(windows=Windows(length=150), modalities=FULL.modalities)
    lines = differences(one, other)
    assert "windows.length: 200 there, 150 here" in lines
    assert [line.split(":")[0] for line in lines] == ["modalities", "windows.length"]


@pytest.mark.parametrize("pair", [({}, {"a": None}), ({"a": 1}, {"a": True}), ({"a": 1}, {"a": 1.0}), ({"a": {}}, {})])
def test_options_that_python_takes_for_equal_still_differ(pair):
    one, other = (Recipe(modalities=(ModalitySpec("fc", options=o),)) for o in pair)
    assert one.digest != other.digest
    (line,) = differences(one, other)
    assert line.startswith("modalities[0].options.a: ")


def test_a_recipe_completes_one_that_it_only_adds_modalities_to():
    less, more = Recipe(), Recipe(modalities=(ModalitySpec("brainlm", "0" * 64), ModalitySpec("fc")))
    assert more.completes(less)
    assert not less.completes(more)
    assert not less.completes(less)
    assert not dataclasses.replace(more, scaling="none").completes(less)
    other = Recipe(modalities=(ModalitySpec("fc", options={"a": 1}), ModalitySpec("brainlm", "0" * 64)))
    assert not other.completes(less)
    assert more.only(["fc"]).digest == less.digest
    assert more.only(["fc", "none"]) is None
    assert more.only([]) is None


@pytest.mark.parametrize("name", RECIPES)
def test_stored_digests_are_what_they_were(name):
    assert RECIPES[name].digest == DIGESTS[name]
    assert Recipe.from_json(json.loads(json.dumps(RECIPES[name].to_json()))).digest == DIGESTS[name]


def test_every_named_recipe_has_a_stored_digest():
    assert DIGESTS.keys() == RECIPES.keys() >= TABLE.keys()
