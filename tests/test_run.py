from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_fmmtc.errors import MissingInputError, UsageError
from bids_fmmtc.run import (
    describe_selection,
    format_table,
    memory_gb,
    name_datasets,
    outcome_rows,
    plugin_arguments,
    work_folder,
)
from bids_fmmtc.settings import Settings
from bids_fmmtc.types import Failure, Recording, Selection, Skipped


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


def test_the_dry_run_lists_run_fail_and_skip(tmp_path):
    selection = Selection(
        (recording(tmp_path), replace(recording(tmp_path, "02"), repetition_time=None)),
        (Skipped("01", tmp_path / "x_bold.nii.gz", "another space"),),
        (Failure("sub-03", "discover", "selection", "no rest.", "Look."),),
    )
    text = describe_selection(selection)
    assert "sub-01\n  run   sub-01_task-rest  space-MNI152NLin6Asym res-2  2 s  bold.nii.gz" in text
    assert "repetition time from header" in text
    assert "  skip  x_bold.nii.gz  another space" in text
    assert "  fail  sub-03  selection: no rest. Look." in text
    assert "3 participants: 2 recordings would run, 1 cannot" in text


def test_memory_grows_with_the_image_and_with_torch(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((60, 60, 60, 3), np.float32), np.eye(4)), tmp_path / "bold.nii.gz")
    small = memory_gb([recording(tmp_path, name="absent.nii.gz")], torch=False)
    some = memory_gb([recording(tmp_path)], torch=False)
    assert small < some < memory_gb([recording(tmp_path)], torch=True)


def test_plugin_arguments(settings, tmp_path):
    assert plugin_arguments(settings, 5) == {"plugin": "Linear"}
    assert plugin_arguments(replace(settings, nprocs=4), 1) == {"plugin": "Linear"}
    several = plugin_arguments(replace(settings, nprocs=4, omp_nthreads=2, memory_gb=8.0), 9)
    assert several["plugin"] == "MultiProc"
    assert several["plugin_args"]["n_procs"] == 8
    assert several["plugin_args"]["memory_gb"] == 8.0
    with pytest.raises(MissingInputError, match="does not exist"):
        plugin_arguments(replace(settings, plugin_file=tmp_path / "no.yml"), 1)
    (tmp_path / "p.yml").write_text("plugin: SLURM\nplugin_args: {sbatch_args: --mem=4G}\nmore: 1\n")
    found = plugin_arguments(replace(settings, plugin_file=tmp_path / "p.yml"), 1)
    assert found == {"plugin": "SLURM", "plugin_args": {"sbatch_args": "--mem=4G"}}
    for text in ("[1, 2", "plugin_args: {}"):
        (tmp_path / "p.yml").write_text(text)
        with pytest.raises(UsageError):
            plugin_arguments(replace(settings, plugin_file=tmp_path / "p.yml"), 1)


def test_the_work_folder_is_one_per_output(settings, tmp_path):
    assert work_folder(replace(settings, work_dir=tmp_path / "w")) == tmp_path / "w"
    one, other = work_folder(settings), work_folder(replace(settings, output_dir=tmp_path / "other"))
    assert one == work_folder(settings)
    assert one != other


def test_the_outcome_table_has_every_row():
    failed = {"key": "sub-02", "status": "failed", "stage": "process", "kind": "killed", "message": "gone."}
    failed |= {"hint": "Try.", "traceback_file": None}
    reports = [
        {
            "recordings": [{"key": "sub-01_task-rest", "status": "ok", "flags": ["high_motion"], "windows": 2}],
            "sessions": [
                {"key": "sub-01_task-rest", "status": "ok", "flags": [], "probability": 0.25, "label": "non-responder"}
            ],
        },
        {"recordings": [failed], "sessions": []},
    ]
    rows = outcome_rows(reports)
    assert [r["level"] for r in rows] == ["recording", "session", "recording"]
    assert rows[2]["notes"] == "killed: gone. Try."
    lines = format_table(rows).splitlines()
    assert len(lines) == 4
    assert "0.250" in lines[2]
    assert lines[1].endswith("high_motion")
    assert lines[0].index("level") == lines[3].index("recording")
