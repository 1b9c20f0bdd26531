from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bids_fmmtc import run
from bids_fmmtc.errors import MissingInputError, UsageError, WeightsError
from bids_fmmtc.recipe import AtlasSpec, ModalitySpec, Recipe, SpaceSpec, Windows
from bids_fmmtc.run import (
    import_series,
    memory_gb,
    name_datasets,
    plugin_arguments,
)
from bids_fmmtc.settings import Settings
from bids_fmmtc.types import Recording, Selection


def recording(tmp_path, subject="01", name="bold.nii.gz"):
    return Recording(
        subject, None, "rest", None, (), "MNI152NLin6Asym", "2", tmp_path / name, None, None, 2.0, tmp_path
    )


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path, tmp_path / "out", "participant")


def test_input_datasets_get_unique_plain_names():
    roots = [Path("/data/fmriprep"), Path("/other/fmriprep"), Path("/a b/é!")]
    names = name_datasets(roots, [(None, roots[0]), ("second", roots[1])])
    assert list(names) == ["fmriprep", "second", "é"] or list(names)[:2] == ["fmriprep", "second"]
    assert list(name_datasets(roots[:2], [])) == ["fmriprep", "fmriprep2"]


def test_memory_grows_with_the_image_and_with_torch(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((60, 60, 60, 3), np.float32), np.eye(4)), tmp_path / "bold.nii.gz")
    recipe = Recipe()
    small = memory_gb([recording(tmp_path, name="absent.nii.gz")], recipe, torch=False)
    some = memory_gb([recording(tmp_path)], recipe, torch=False)
    assert small < some < memory_gb([recording(tmp_path)], recipe, torch=True)
    dense = replace(recipe, windows=Windows(length=2, stride=1, short_least=2))
    assert memory_gb([recording(tmp_path)], dense, torch=False) > some


def test_memory_grows_with_a_table_of_series(tmp_path):
    few, many = (tmp_path / f"sub-{i}_timeseries.tsv" for i in "12")
    few.write_text("1.5\t2.5\n" * 10)
    many.write_text("1.5\t2.5\n" * 1_000_000)
    absent, one, other = (
        memory_gb([recording(tmp_path, name=name)], Recipe(), torch=False)
        for name in ("sub-3_timeseries.tsv", few.name, many.name)
    )
    assert absent <= one < other < 10


@pytest.fixture
def series(tmp_path):
    """Settings that import two plain tables, the second of which is broken."""
    folder = tmp_path / "series"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in (1, 2):
        rows = ["a\tb\tc\td", *("\t".join(f"{v:.4f}" for v in row) for row in rng.normal(size=(30, 4)))]
        (folder / f"sub-{i}_timeseries.tsv").write_text("\n".join(rows) if i == 1 else "a\tb\tc\td\nx")
    recipe = Recipe(windows=Windows(10, 10, short_least=5))
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    return Settings(
        tmp_path, tmp_path.with_name(f"{tmp_path.name}-out"), "group", timeseries=folder, repetition_time=2.0,
        recipe_file=tmp_path / "recipe.json", work_dir=tmp_path.with_name(f"{tmp_path.name}-work"),
    )  # fmt: skip


def test_importing_series_makes_features_and_counts_what_failed(series, capsys):
    for _ in range(2):
        assert import_series(series) == 1
        shown = capsys.readouterr().out
        assert "sub-1_task-rest  recording  ok" in shown
        assert "sub-2_task-rest  recording  failed" in shown
        assert "data: sub-2_timeseries.tsv has a row of 1 cells where 4 are expected." in shown
    record = series.output_dir / "sub-1" / "func" / "sub-1_task-rest_space-unknown_atlas-Parcels_features.json"
    assert json.loads(record.read_text())["Modalities"] == {"fc": {"Shape": [4, 4]}}


def test_a_model_in_the_environment_does_not_change_what_group_learns_from(series, tmp_path):
    assert import_series(replace(series, model=tmp_path / "no bundle")) == 1


def test_series_are_left_alone(series, tmp_path):
    with pytest.raises(MissingInputError, match=r"input folder .* does not exist"):
        import_series(replace(series, bids_dir=tmp_path / "no"))
    with pytest.raises(UsageError, match=r"output folder .* lies in the input dataset"):
        import_series(replace(series, output_dir=series.timeseries / "out"))


def test_plugin_arguments(settings, tmp_path):
    assert plugin_arguments(settings) == {"plugin": "Linear"}
    several = plugin_arguments(replace(settings, nprocs=4, omp_nthreads=2, memory_gb=8.0))
    assert several["plugin"] == "MultiProc"
    assert several["plugin_args"]["n_procs"] == 8
    assert several["plugin_args"]["memory_gb"] == 8.0
    with pytest.raises(MissingInputError, match="does not exist"):
        plugin_arguments(replace(settings, plugin_file=tmp_path / "no.yml"))
    (tmp_path / "p.yml").write_text("plugin: SLURM\nplugin_args: {sbatch_args: --mem=4G}\nmore: 1\n")
    found = plugin_arguments(replace(settings, plugin_file=tmp_path / "p.yml"))
    assert found == {"plugin": "SLURM", "plugin_args": {"sbatch_args": "--mem=4G"}}
    for text in ("[1, 2", "plugin_args: {}", "plugin: Nonsense", "plugin: [Linear]", "plugin: {a: 1}", "plugin:", "3",
                 "plugin: Linear\nplugin_args: 3", "plugin: Linear\nplugin_args: [1]", "[" * 5000, "a: &a [*a]",
                 "plugin: MultiProc\nplugin_args: {1: 2}", "plugin: MultiProc\nplugin_args: {n_procs: two}",
                 "plugin: MultiProc\nplugin_args: {n_procs: 0}", "plugin: MultiProc\nplugin_args: {n_procs: true}",
                 "plugin: MultiProc\nplugin_args: {memory_gb: .nan}",
                 "plugin: x\xff", "!!python/object:os.x {}"):  # fmt: skip
        (tmp_path / "p.yml").write_bytes(text.encode("latin-1"))
        with pytest.raises(UsageError) as caught:
            plugin_arguments(replace(settings, plugin_file=tmp_path / "p.yml"))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="is a folder"):
        plugin_arguments(replace(settings, plugin_file=tmp_path))


@pytest.mark.parametrize("where", ["sub-01", "derivatives", "out"])
def test_nothing_is_written_among_raw_data(tmp_path, where):
    with pytest.raises(UsageError, match="lies in the input dataset"):
        run._refuse_among_raw_data(tmp_path / where, tmp_path, "output folder")


def test_a_folder_of_its_own_among_the_derivatives_is_fine(tmp_path):
    run._refuse_among_raw_data(tmp_path / "derivatives" / "bids_fmmtc", tmp_path, "output folder")
    run._refuse_among_raw_data(tmp_path.with_name("elsewhere"), tmp_path, "output folder")


def test_a_space_without_a_way_is_turned_down_before_anything_runs(tmp_path):
    there = recording(tmp_path)
    other = replace(recording(tmp_path, "02"), space="MNI152NLin2009cAsym")
    for rule, expected in (("warp", 2), ("affine", 2), ("fail", 1)):
        recipe = Recipe(space=SpaceSpec(rule, "packaged"))
        found = run._placeable(Selection((there, other)), recipe, "MNI152NLin6Asym", None)
        assert len(found.recordings) == expected
        assert len(found.recordings) + len(found.failures) == 2
    assert "--on-space-mismatch warp" in found.failures[0].hint


def spoilt(folder, how):
    """Write an encoder's folder as the demo's, with weights that are none of it."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    name = sorted(state)[0]
    if how == "values":
        state[name].view(-1)[-1] = float("nan")
    elif how == "shape":
        state[name] = torch.zeros(7)
    elif how == "missing":
        del state[name]
    elif how == "type":
        state[name] = state[name].to(torch.int32)
    save_file(state, path)
    if how == "header":
        path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("how", ["values", "shape", "missing", "type", "header", "cut"])
def test_an_encoder_that_is_none_ends_the_run_before_the_first_participant(
    fmriprep, demo_atlas, demo_bundle, tmp_path, how
):
    folder = tmp_path / "encoder"
    shutil.copytree(demo_bundle / "encoders" / "brainlm", folder)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(Recipe(AtlasSpec("Demo"), modalities=(ModalitySpec("brainlm"),)).to_json()))
    settings = Settings(
        fmriprep, tmp_path / "out", "participant", atlas=str(demo_atlas), atlas_given=True, recipe_file=recipe,
        encoder_weights=folder, work_dir=tmp_path / "w",
    )  # fmt: skip
    spoilt(folder, how)
    with pytest.raises(WeightsError) as caught:
        run.run_participant_level(settings)
    assert caught.value.exit_code == 65
    assert "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
