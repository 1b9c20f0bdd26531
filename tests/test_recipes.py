"""Recipes by name: what each holds, what is a name and what a file, how they are listed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bids_fmmtc import cli
from bids_fmmtc.errors import UsageError
from bids_fmmtc.modalities import check_spec
from bids_fmmtc.recipe import Recipe, differences
from bids_fmmtc.recipes import DEFAULT, TABLE, listing, name_or_file, named

DIGESTS = {
    "fmm_tc": "f10394e05ab3eab674275a8c25a4c3f3f3f026af02e45ff1bcca709c89ff233d",
    "fmm_vc": "55ee9879bd585879f0d3b52c24cc1c6e3e9664a8dedc80e58df82709f9c7ffb0",
    "fmm_tvc": "a91f9399dda17cc54515a60b1dfb2fd9772af7c59461f95a8b6728c808fdc006",
    "fmm_tc_denoised": "c63ab732d1843be7ff204a769e707af2ca469fae50824b4a6350ebaf4c5aaba4",
}
"""Of recipes that are in use: features are comparable, and folders completed, only as long as these stay."""


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_of_a_name_can_be_run(name):
    recipe = named(name)
    for spec in recipe.modalities:
        check_spec(spec, recipe)
    assert recipe.digest == DIGESTS[name]
    assert recipe.connectivity.frames == "all"
    assert (recipe.atlas.sha256, recipe.atlas.n_parcels) == (None, None)


def test_what_the_names_say_is_what_is_computed():
    modalities = {name: [m.name for m in named(name).modalities] for name in TABLE}
    assert modalities == {
        "fmm_tc": ["brainlm", "fc"],
        "fmm_vc": ["neurostorm", "fc"],
        "fmm_tvc": ["brainlm", "neurostorm", "fc"],
        "fmm_tc_denoised": ["brainlm", "fc"],
    }
    assert DEFAULT == next(iter(TABLE)) == "fmm_tc"
    assert differences(named("fmm_tc"), named("fmm_tc_denoised")) == [
        "denoising.high_pass: null there, 0.008 here",
        'denoising.strategy: "none" there, "simple" here',
    ]


def test_a_file_of_the_same_choices_is_the_same_recipe(tmp_path):
    """As `docs/recipes.md` shows them to who wants one of his own."""
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
    shown = dict(part.split("\n```json\n", 1) for part in page.split("\n## `")[1:])
    assert {head.split("`")[0] for head in shown} == set(TABLE)
    for head, rest in shown.items():
        path = tmp_path / "own.json"
        path.write_text(rest.split("\n```")[0])
        assert Recipe.read(path).digest == named(head.split("`")[0]).digest, head


@pytest.mark.parametrize("name", TABLE)
def test_a_name_is_one_even_beside_a_file_of_that_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_or_file(name) == name
    Path(name).write_text("{}")
    assert name_or_file(name) == name
    assert name_or_file(f"./{name}") == Path(name)
    assert name_or_file(str(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize("text", ["mine.json", "./mine", "a/mine", "/dev/fd/63", "fmm_tc.json"])
def test_what_has_a_folder_or_a_suffix_is_a_file_there_or_not(text):
    assert name_or_file(text) == Path(text)


def test_a_bare_word_is_a_file_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="unknown recipe 'mine'"):
        name_or_file("mine")
    Path("mine").write_text("{}")
    assert name_or_file("mine") == Path("mine")


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("fmm_tv", "fmm_tvc"), ("FMM_TC", "fmm_tc"), ("fmm-vc", "fmm_vc"), ("fmm_tc_denoise", "fmm_tc_denoised"),
     ("telepathy", None), ("", None), (".", None)],
)  # fmt: skip
def test_a_wrong_name_is_one_line_with_the_nearest_and_all(text, nearest, capsys, tmp_path):
    assert cli.main([str(tmp_path), str(tmp_path / "out"), "participant", "--recipe", text]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert f"unknown recipe {text!r}" in line
    assert ("the nearest is" in line) is (nearest is not None)
    assert nearest is None or f"the nearest is {nearest};" in line
    assert f"known: {', '.join(TABLE)}." in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [["--recipe", "list"], ["--recipe=list"], ["X", "Y", "participant", "--recipe", "list"],
     ["X", "Y", "group", "--outcome", "y", "--recipe", "list"], ["X", "Y", "--recipe", "list", "--dry-run"]],
)  # fmt: skip
def test_the_list_wants_nothing_beside_it(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    said = capsys.readouterr()
    assert (caught.value.code, said.err, said.out) == (0, "", listing())


def test_a_line_a_recipe_is_listed():
    lines = listing().splitlines()
    assert [line.split()[0] for line in lines] == list(TABLE)
    assert len({line.index(TABLE[line.split()[0]].purpose) for line in lines}) == 1


def test_listing_needs_nothing_heavy():
    code = "import sys, atexit; from bids_fmmtc.cli import main\n"
    code += "atexit.register(lambda: print({'numpy', 'torch', 'nibabel', 'numba'} & set(sys.modules)))\n"
    code += "main(['--recipe', 'list'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{listing()}set()\n"


def test_recipes_are_plain_data():
    for name in TABLE:
        assert Recipe.from_json(json.loads(json.dumps(named(name).to_json()))) == named(name)
