"""The files of the dataset as a whole, and what an output folder must not be."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from patience import patience
from qualities import quality

from bids_fmmtc.dataset.derivatives import describe
from bids_fmmtc.dataset.derivatives.describe import (
    IGNORED,
    Own,
    atlas_image,
    atlas_table,
    check_output,
    input_folders,
    is_demo,
    link,
    own_entry,
    prepare_dataset,
    prepare_group,
)
from bids_fmmtc.dataset.derivatives.scans import write_scans
from bids_fmmtc.dataset.store import Layout, write_array, write_json
from bids_fmmtc.errors import OutputError, RecipeError, UsageError
from bids_fmmtc.recipe import AtlasSpec, Recipe, Windows
from bids_fmmtc.rows import Row
from bids_fmmtc.settings import Task
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.parcels import open_atlas, parcel_atlas
from bids_fmmtc.types import Recording

VALIDATOR = Path(sys.executable).parent / "bids-validator-deno"


@pytest.fixture
def place(tmp_path, demo_atlas):
    """Layout, recipe, atlas and inputs of an output that is yet to be made."""
    source = tmp_path / "in"
    write_json(source / "dataset_description.json", {"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep"}]})
    atlas = read_atlas(demo_atlas)
    recipe = Recipe(atlas=AtlasSpec(atlas.name, atlas.sha256, atlas.n_parcels))
    return Layout(tmp_path / "out", atlas.name), recipe, atlas, {"fmriprep": source}


def description(layout):
    return json.loads((layout.root / "dataset_description.json").read_text())


def snapshot(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_same_bytes_whoever_writes_first(place):
    prepare_dataset(*place)
    before = snapshot(place[0].root)
    prepare_dataset(*place)
    assert snapshot(place[0].root) == before
    other = Layout(place[0].root.with_name("other"), place[0].atlas)
    prepare_dataset(other, *place[1:])
    assert snapshot(other.root) == before


def test_the_recipe_is_stored_whole(place):
    prepare_dataset(*place)
    assert description(place[0])["GeneratedBy"][0]["ConfigurationHash"] == place[1].digest


def test_another_recipe_is_refused_by_its_fields(place):
    layout, recipe, *rest = place
    prepare_dataset(*place)
    before = snapshot(layout.root)
    with pytest.raises(RecipeError, match=r"windows\.length: 200 there, 150 here; windows\.short_least"):
        prepare_dataset(layout, replace(recipe, windows=Windows(150, short_least=50)), *rest)
    assert snapshot(layout.root) == before


def test_output_and_input_are_two_folders(place, tmp_path):
    _, recipe, _, inputs = place
    (tmp_path / "link").symlink_to(inputs["fmriprep"])
    for root in (inputs["fmriprep"], tmp_path / "link", inputs["fmriprep"] / "sub-01" / "out"):
        with pytest.raises(UsageError, match="lies in the input dataset"):
            check_output(root, recipe, inputs)


@pytest.mark.parametrize(
    "found",
    [{}, {"GeneratedBy": []}, {"GeneratedBy": [{"Name": "xcp_d"}]}, {"GeneratedBy": "x"}, {"GeneratedBy": ["x"]},
     {"GeneratedBy": [{"Name": "other"}, {"Name": "bids_fmmtc"}]}],
)  # fmt: skip
def test_a_foreign_dataset_is_left_alone(place, found):
    layout, recipe, _, inputs = place
    write_json(layout.root / "dataset_description.json", found)
    with pytest.raises(OutputError, match="bids_fmmtc did not make"):
        check_output(layout.root, recipe, inputs)


def test_a_broken_description_counts_as_foreign_and_one_without_recipe_is_refused(place):
    layout, recipe, _, inputs = place
    layout.root.mkdir()
    path = layout.root / "dataset_description.json"
    path.write_text("{")
    with pytest.raises(OutputError):
        check_output(layout.root, recipe, inputs)
    write_json(path, {"GeneratedBy": [{"Name": "bids_fmmtc"}]})
    with pytest.raises(RecipeError, match="expected an object"):
        check_output(layout.root, recipe, inputs)


@pytest.mark.parametrize(
    ("upstream", "names"),
    [
        ({"GeneratedBy": [{"Name": "fMRIPrep", "Version": "24"}, {"Name": "dcm2niix"}]}, ["fMRIPrep", "dcm2niix"]),
        ({"PipelineDescription": {"Name": "fMRIPrep", "Version": "1.5"}}, ["fMRIPrep"]),
        ({}, []),
    ],
)
def test_generated_by_continues_the_inputs(place, upstream, names):
    write_json(place[3]["fmriprep"] / "dataset_description.json", upstream)
    prepare_dataset(*place)
    assert [g["Name"] for g in description(place[0])["GeneratedBy"]] == ["bids_fmmtc", *names]


def test_authors_and_license_are_the_inputs(place):
    write_json(place[3]["fmriprep"] / "dataset_description.json", {"Authors": ["A", "B"], "License": "CC0"})
    prepare_dataset(*place)
    assert (description(place[0])["Authors"], description(place[0])["License"]) == (["A", "B"], "CC0")


def test_links_are_relative_where_folders_share_more_than_the_root(place):
    assert link(Path("/data/fmriprep"), Path("/data/out")) == "../fmriprep"
    assert link(Path("/data/in put"), Path("/out")) == "file:///data/in%20put"
    prepare_dataset(*place)
    assert description(place[0])["DatasetLinks"] == {"fmriprep": "../in"}


def test_the_stored_atlas_is_the_atlas(place):
    prepare_dataset(*place)
    assert (place[0].root / atlas_image(place[2])).is_file()
    again = read_atlas(place[0].root, "Demo")
    assert np.array_equal(again.labels, place[2].labels)
    assert again.names == place[2].names
    assert again.space == place[2].space


def test_both_members_of_a_pair_are_ignored():
    # Folders stand without their slash where the validator does not match it.
    assert all(pattern.endswith((".*", "/", "figures", ".html", "group")) for pattern in IGNORED)


def test_a_group_run_keeps_the_description_and_renews_what_older_versions_lack(place):
    layout, recipe, inputs = place[0], place[1], place[3]
    prepare_dataset(*place)
    before = (layout.root / "dataset_description.json").read_bytes()
    (layout.root / ".bidsignore").write_text("*.html\n")
    prepare_group(layout.root, recipe, {"out": layout.root})
    assert (layout.root / "dataset_description.json").read_bytes() == before
    assert "group" in (layout.root / ".bidsignore").read_text().splitlines()
    assert input_folders(layout.root) == tuple(folder.resolve() for folder in inputs.values())
    assert not is_demo(layout.root)


def test_group_tables_may_have_a_folder_of_their_own(place, tmp_path):
    layout, recipe = place[0], place[1]
    prepare_dataset(*place)
    prepare_group(tmp_path / "group-only", recipe, {"features": layout.root})
    assert input_folders(tmp_path / "group-only") == (layout.root.resolve(),)
    (tmp_path / "foreign").mkdir()
    write_json(tmp_path / "foreign" / "dataset_description.json", {"Name": "x"})
    with pytest.raises(OutputError, match="did not make"):
        prepare_group(tmp_path / "foreign", recipe, {"features": layout.root})


@pytest.mark.skipif(not VALIDATOR.is_file(), reason="bids-validator-deno is not installed beside this Python")
@pytest.mark.parametrize("session", [None, "a"])
def test_the_validator_accepts_the_tree(place, session):
    layout = place[0]
    prepare_dataset(*place)
    r = Recording("01", session, "rest", None, (), "S", None, Path("/b"), None, None, 2.0, Path("/d"))
    for suffix in ("timeseries", "features"):
        write_array(layout.derivative(r, suffix, ".tsv"), ["a"], np.zeros((1, 1), np.float32))
        write_json(layout.derivative(r, suffix, ".json"), {"Description": "x"})
    rows = [Row(r.key, flags=("x",), quality=quality(flags=("x",)))]
    write_scans(Task("01", (r,), (), place[1], layout.root, layout.root), rows, layout)
    done = subprocess.run(
        [VALIDATOR, layout.root, "--format", "json"], capture_output=True, text=True, timeout=patience(60), check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert done.returncode == 0, issues
    assert not [i for i in issues if i.get("severity") == "error"]


def test_files_of_names_we_write_are_left_alone(place):
    layout, recipe, _, inputs = place
    layout.root.mkdir()
    (layout.root / "README.md").write_text("mine")
    with pytest.raises(OutputError, match="did not make and would overwrite"):
        check_output(layout.root, recipe, inputs)


def test_another_job_may_write_the_dataset_while_this_one_looks(place, monkeypatch):
    """Jobs of an array start at once on one new folder: whatever is written in between, neither is refused."""
    layout, recipe, _, inputs = place
    look = describe._occupied

    def interrupted(root):
        found = look(root)
        monkeypatch.setattr(describe, "_occupied", look)
        prepare_dataset(*place)
        return found

    monkeypatch.setattr(describe, "_occupied", interrupted)
    assert check_output(layout.root, recipe, inputs).digest == recipe.digest


# imported series


def test_imported_series_and_images_are_not_mixed(place):
    layout, recipe, _, inputs = place
    prepare_dataset(*place, imported=True)
    assert description(layout)["GeneratedBy"][0]["ImportedSeries"] is True
    check_output(layout.root, recipe, inputs)
    check_output(layout.root, recipe, inputs, imported=True)
    with pytest.raises(OutputError, match="holds features of imported series, now images are given"):
        prepare_dataset(*place)
    other = Layout(layout.root.with_name("other"), layout.atlas)
    prepare_dataset(other, *place[1:])
    assert "ImportedSeries" not in description(other)["GeneratedBy"][0]
    with pytest.raises(OutputError, match="features of images, now imported series"):
        check_output(other.root, recipe, inputs, imported=True)


@pytest.fixture
def parcels():
    """A table of parcels without an image, some of them with unknown centres."""
    xyz = np.array([[1.5, -2, 3], [np.nan] * 3, [0.1, 7, 8]])
    return parcel_atlas("Own", ["a", "b", "c d"], index=[3, 9, 4], networks=("n", "m", "n"), xyz=xyz)


def test_an_atlas_without_image_is_its_table(place, parcels):
    layout, recipe, _, inputs = place
    prepare_dataset(layout, recipe, parcels, inputs, imported=True)
    assert atlas_table(parcels) == "tpl-unknown/tpl-unknown_atlas-Own_dseg.tsv"
    again = open_atlas(layout.root / atlas_table(parcels))
    assert (again.name, again.space, again.names, again.networks) == ("Own", "unknown", parcels.names, parcels.networks)
    np.testing.assert_array_equal(again.xyz, parcels.xyz)
    assert not list(layout.root.rglob("*.nii.gz"))
    sidecar = json.loads((layout.root / atlas_table(parcels)).with_suffix(".json").read_text())
    assert "Resolution" not in sidecar
    assert atlas_table(place[2]) == atlas_image(place[2]).replace(".nii.gz", ".tsv")


@pytest.mark.skipif(not VALIDATOR.is_file(), reason="bids-validator-deno is not installed beside this Python")
@pytest.mark.parametrize("known", [True, False])
def test_the_validator_accepts_an_atlas_without_image(place, parcels, known):
    layout, recipe, _, inputs = place
    atlas = parcels if known else parcel_atlas("Parcels", ["a", "b"])
    prepare_dataset(layout, recipe, atlas, inputs, imported=True)
    write_json(layout.folder("01", None) / "func" / "sub-01_task-rest_timeseries.json", {"Description": "x"})
    done = subprocess.run(
        [VALIDATOR, layout.root, "--format", "json"], capture_output=True, text=True, timeout=patience(60), check=False
    )
    assert (done.returncode, json.loads(done.stdout)["issues"]["issues"]) == (0, [])


def test_only_the_first_entry_is_our_own(tmp_path):
    """Entries after it are of the datasets that this one was made from, ours among them perhaps."""
    ours = {"Name": "bids_fmmtc", "Version": "1", "ConfigurationHash": "h", "ModelDigest": "m", "Recipe": {"x": 1}}
    theirs = {"Name": "fMRIPrep", "Version": "23"}
    write_json(tmp_path / "dataset_description.json", {"GeneratedBy": [ours, theirs]})
    assert own_entry(tmp_path) == Own({"x": 1}, "h", "1", "m", imported=False, left_out=())
    for made in ([theirs, ours], [], "x", None, ["x"]):
        write_json(tmp_path / "dataset_description.json", {"GeneratedBy": made})
        assert own_entry(tmp_path) is None
    (tmp_path / "dataset_description.json").unlink()
    assert own_entry(tmp_path) is None
