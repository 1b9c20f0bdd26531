"""Where resources are looked for, and what does not count as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bids_fmmtc import resources as r


def fill(folder, *names, content=b"x"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)
    return folder


def test_dirs_put_the_named_folders_first_then_the_cache_then_templateflow(tmp_path):
    environ = {
        "FMMTC_RESOURCES": os.pathsep.join([str(tmp_path / "b"), "", str(tmp_path / "a"), str(tmp_path / "b")]),
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
        "HOME": str(tmp_path / "home"),
        "TEMPLATEFLOW_HOME": str(tmp_path / "tf"),
    }
    expected = [tmp_path / "b", tmp_path / "a", tmp_path / "xdg" / "bids_fmmtc", tmp_path / "tf"]
    assert r.resource_dirs(environ) == tuple(expected)


def test_dirs_fall_back_to_home(tmp_path):
    cache = tmp_path / ".cache"
    assert r.resource_dirs({"HOME": str(tmp_path)}) == (cache / "bids_fmmtc", cache / "templateflow")
    assert r.fetch_dir({"HOME": str(tmp_path)}) == cache / "bids_fmmtc"


def test_what_is_fetched_goes_to_the_first_folder_looked_in(tmp_path):
    environ = {"FMMTC_RESOURCES": f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}", "HOME": str(tmp_path)}
    assert r.fetch_dir(environ) == tmp_path / "a" == r.resource_dirs(environ)[0]


@pytest.mark.parametrize(
    "environ",
    [{}, {"HOME": ""}, {"HOME": "relative"}, {"XDG_CACHE_HOME": "relative"}, {"FMMTC_RESOURCES": os.pathsep}],
)
def test_no_home_is_no_error(environ):
    assert r.resource_dirs(environ) == ()
    assert r.fetch_dir(environ) is None


def test_home_below_a_regular_file_is_no_error(tmp_path):
    fill(tmp_path, "file")
    dirs = r.resource_dirs({"HOME": str(tmp_path / "file")})
    assert len(dirs) == 2
    assert all(r.find_resource(name, dirs) is None for name in r.RESOURCES)


def test_relative_named_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert r.resource_dirs({"FMMTC_RESOURCES": "here"}) == (tmp_path / "here",)


def test_atlas_in_its_folder_or_directly(tmp_path):
    direct = fill(tmp_path / "direct", r.ATLAS_IMAGE, r.ATLAS_TABLE)
    nested = fill(tmp_path / "nested" / "atlas-A424", r.ATLAS_IMAGE, r.ATLAS_TABLE)
    absent = tmp_path / "absent"
    assert r.find_resource("atlas", [absent, direct]) == direct
    assert r.find_resource("atlas", [absent, tmp_path / "nested", direct]) == nested
    assert r.find_resource("atlas", []) is None


@pytest.mark.parametrize("missing", [r.ATLAS_IMAGE, r.ATLAS_TABLE])
def test_incomplete_atlas_does_not_count(tmp_path, missing):
    fill(tmp_path, r.ATLAS_IMAGE, r.ATLAS_TABLE)
    (tmp_path / missing).unlink()
    assert r.find_resource("atlas", [tmp_path]) is None
    (tmp_path / missing).touch()
    assert r.find_resource("atlas", [tmp_path]) is None


@pytest.mark.parametrize("part", ["", "transform", "tpl-MNI152NLin2009cAsym"])
def test_transform_places(tmp_path, part):
    folder = fill(tmp_path / part, r.TRANSFORM_FILE)
    assert r.find_resource("transform", [tmp_path]) == folder / r.TRANSFORM_FILE


def test_transform_skeleton_of_templateflow_is_passed_over(tmp_path):
    fill(tmp_path / "tf" / "tpl-MNI152NLin2009cAsym", r.TRANSFORM_FILE, content=b"")
    dirs = r.resource_dirs({"TEMPLATEFLOW_HOME": str(tmp_path / "tf"), "FMMTC_RESOURCES": str(tmp_path / "r")})
    assert r.find_resource("transform", dirs) is None
    real = fill(tmp_path / "tf2" / "tpl-MNI152NLin2009cAsym", r.TRANSFORM_FILE) / r.TRANSFORM_FILE
    assert r.find_resource("transform", [*dirs, tmp_path / "tf2"]) == real


def test_folder_with_the_name_of_the_file_does_not_count(tmp_path):
    (tmp_path / r.TRANSFORM_FILE).mkdir()
    assert r.find_resource("transform", [tmp_path]) is None


@pytest.mark.parametrize("weights", r.BRAINLM_WEIGHTS)
@pytest.mark.parametrize("checkpoint", r.CHECKPOINTS)
def test_brainlm_needs_config_and_weights_of_the_checkpoint(tmp_path, weights, checkpoint):
    folder = fill(tmp_path / f"brainlm-{checkpoint}", "config.json")
    assert r.find_resource("brainlm", [tmp_path], checkpoint=checkpoint) is None
    fill(folder, weights)
    assert r.find_resource("brainlm", [tmp_path], checkpoint=checkpoint) == folder
    other = next(name for name in r.CHECKPOINTS if name != checkpoint)
    assert r.find_resource("brainlm", [tmp_path], checkpoint=other) is None


def test_brainlm_default_is_checkpoint_1400(tmp_path):
    folder = fill(tmp_path / "brainlm-checkpoint-1400", "config.json", "pytorch_model.bin")
    assert r.find_resource("brainlm", [tmp_path]) == folder


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="atlas, transform, brainlm"):
        r.find_resource("weights", [])


def test_too_long_a_path_does_not_raise():
    assert r.find_resource("atlas", [Path("/" + "x" * 5000)]) is None


def test_import_is_light():
    code = "import sys, bids_fmmtc.resources; print([m for m in ('numpy', 'requests', 'pooch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
