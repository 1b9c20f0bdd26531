import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_fmmtc.dataset.find.discover import (
    Query,
    find_derivatives,
    find_recordings,
    list_participants,
    read_filter_file,
)
from bids_fmmtc.errors import InputError, MissingInputError, OutputError, SelectionError, UsageError

SHARED = Path(__file__).parents[3].parent / "shared"
META = SHARED / "data" / "fmriprep_meta"
S6, S9 = "space-MNI152NLin6Asym", "space-MNI152NLin2009cAsym"
BOLD = "desc-preproc_bold.nii.gz"
needs_shared = pytest.mark.skipif(not META.is_dir(), reason=f"{META} is not there: real fMRIPrep file lists")


def put(root: Path, *names: str, content: str = "") -> Path:
    """Write files of which only the names are given; their folder follows from the names."""
    for name in names:
        folder = root
        for token in name.split("_")[:2]:
            if token.startswith(("sub-", "ses-")):
                folder /= token
        path = (folder / "func" if folder != root else root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def describe(root: Path, name="fMRIPrep", **more) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": name}], **more}))
    return root


def snapshot(root: Path) -> dict:
    return {path: path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


def find(root, database=None, **query):
    return find_recordings([root], Query(**query), database)


def keys(selection):
    return [r.key for r in selection.recordings]


def names(selection):
    return [r.bold.name for r in selection.recordings]


def reasons(selection):
    return {s.path.name: s.reason for s in selection.skipped}


@pytest.fixture
def root(tmp_path):
    return describe(tmp_path / "fmriprep", DatasetType="derivative")


# participants, sessions, tasks


def test_participants_are_folders_in_natural_order(root):
    put(root, f"sub-10_task-rest_{S6}_{BOLD}", f"sub-2_task-rest_{S6}_{BOLD}", "sub-2.html")
    (root / "sub-1_old").mkdir()
    (root / "sub-99").touch()
    assert list_participants([root]) == ("2", "10")
    assert keys(find(root)) == ["sub-2_task-rest", "sub-10_task-rest"]


def test_odd_names_are_passed_over_in_one_line_each_and_cost_nobody(root, caplog):
    put(
        root,
        f"sub-01_task-rest_{S6}_{BOLD}",
        f"sub-01_task-rest_acq-\udce9_{S6}_{BOLD}",
        f"sub-01_task-r\udce9_{S6}_{BOLD}",
    )
    put(root, f"sub-01_task-rest_rec-a\nb_{S6}_{BOLD}", "caf\udce9.json", f"sub-01_ses-\udce9_task-rest_{S6}_{BOLD}")
    (root / "sub-\udce9").mkdir()
    (root / "sub-01" / "func" / "\udce9").touch()
    with caplog.at_level(logging.WARNING):
        assert keys(find(root)) == ["sub-01_task-rest"]
    folders, files = [record.getMessage() for record in caplog.records]
    assert folders == r"Passed over 1 folders that are no sub-LABEL (letters and digits): sub-\xe9."
    assert files.startswith("Passed over 4 BOLD files whose names are no BIDS names: ")
    assert r"acq-\xe9_" in files
    assert r"rec-a\nb_" in files
    assert len(files.splitlines()) == 1


@pytest.mark.parametrize("label", ["01", "sub-01"])
def test_a_participant_is_named_with_or_without_prefix(root, label):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}", f"sub-02_task-rest_{S6}_{BOLD}")
    selection = find(root, participants=(label,))
    assert keys(selection) == ["sub-01_task-rest"]
    assert selection.recordings[0].dataset == root


def test_unknown_participants_are_named_with_what_is_there(root):
    put(root, *(f"sub-{i:02d}_task-rest_{S6}_{BOLD}" for i in range(1, 31)))
    with pytest.raises(SelectionError, match=r"No participant 1, 99 in .*found 01, 02.*30 in all") as caught:
        find(root, participants=("01", "1", "sub-99"))
    assert caught.value.exit_code == 18


def test_a_dataset_without_participants_is_refused(root):
    with pytest.raises(SelectionError, match="holds no participant folder"):
        find(root)


@pytest.mark.parametrize("query", [{"tasks": ("rest", "foo")}, {"sessions": ("b", "foo")}, {"tasks": ("foo",)}])
def test_a_label_nobody_has_is_refused_naming_what_is_there(root, query):
    put(root, f"sub-01_ses-a_task-rest_{S6}_{BOLD}", f"sub-02_ses-b_task-nback_{S9}_{BOLD}")
    with pytest.raises(SelectionError, match=r"no (task|session) foo.*tasks nback, rest; sessions a, b; spaces MNI"):
        find(root, **query)


def test_a_session_only_others_have_leaves_a_row_not_an_error(root):
    put(root, f"sub-01_ses-a_task-rest_{S6}_{BOLD}", f"sub-02_ses-b_task-rest_{S6}_{BOLD}")
    (failure,) = find(root, participants=("01",), sessions=("b",)).failures
    assert (failure.key, failure.stage, failure.kind) == ("sub-01", "discover", "selection")
    assert "sessions a" in failure.message
    assert keys(find(root, participants=("01",), sessions=("a", "b"))) == ["sub-01_ses-a_task-rest"]


def test_sessions_and_tasks_restrict(root):
    put(root, *(f"sub-01_ses-{s}_task-{t}_{S6}_{BOLD}" for s in "ab" for t in ("rest", "nback")))
    assert keys(find(root, sessions=("ses-b",))) == ["sub-01_ses-b_task-rest"]
    assert keys(find(root, sessions=("b",), tasks=("task-nback",))) == ["sub-01_ses-b_task-nback"]
    assert len(find(root, tasks=()).recordings) == 4


def test_a_participant_without_any_candidate_keeps_a_row(root):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}", f"sub-02_task-nback_{S6}_{BOLD}")
    (root / "sub-03" / "anat").mkdir(parents=True)
    selection = find(root)
    assert [f.key for f in selection.failures] == ["sub-02", "sub-03"]
    assert "found tasks nback" in selection.failures[0].message
    assert "no BOLD files" in selection.failures[1].message


def test_nothing_for_anybody_is_an_error(root):
    put(root, f"sub-01_task-rest_acq-x_{S6}_{BOLD}")
    with pytest.raises(SelectionError, match="passes the filters"):
        find(root, filters={"bold": {"acq": "y"}})


def test_folders_that_cannot_be_read_become_input_errors(root, monkeypatch):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}", f"sub-02_task-rest_{S6}_{BOLD}")
    scandir = os.scandir

    def deny(path):
        if "sub-02" in str(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    selection = find(root)
    assert keys(selection) == ["sub-01_task-rest"]
    assert [(f.key, f.kind) for f in selection.failures] == [("sub-02", "input")]
    # What could not be looked at is not called absent.
    assert [f.kind for f in find(root, participants=("02",), sessions=("a",)).failures] == ["input"]


# one image per recording


def test_the_first_wanted_space_wins_and_the_rest_is_accounted_for(root):
    put(root, *(f"sub-01_task-rest_{space}{BOLD}" for space in (f"{S6}_", f"{S9}_", "space-T1w_", "")))
    selection = find(root)
    assert names(selection) == [f"sub-01_task-rest_{S6}_{BOLD}"]
    assert selection.recordings[0].space == "MNI152NLin6Asym"
    found = reasons(selection)
    assert len(found) == 3
    assert "space MNI152NLin6Asym of the same recording" in found[f"sub-01_task-rest_{S9}_{BOLD}"]
    assert "space T1w is none of" in found[f"sub-01_task-rest_space-T1w_{BOLD}"]
    assert "space native is none of" in found[f"sub-01_task-rest_{BOLD}"]
    other = find(root, spaces=("MNI152NLin2009cAsym", "MNI152NLin6Asym"))
    assert names(other) == [f"sub-01_task-rest_{S9}_{BOLD}"]


@pytest.mark.parametrize(
    ("there", "best"),
    [
        (["res-1", "res-2", ""], "res-2"),
        (["res-02", "", "res-1"], "res-02"),
        (["", "res-1"], ""),
        (["res-10", "res-4"], "res-4"),
    ],
)
def test_resolution_preference(root, there, best):
    put(root, *(f"sub-01_task-rest_{S6}_{res + '_' if res else ''}{BOLD}" for res in there))
    selection = find(root)
    assert [r.resolution for r in selection.recordings] == [best.removeprefix("res-") or None]
    assert len(selection.skipped) == len(there) - 1
    assert all("another resolution" in reason for reason in reasons(selection).values())


def test_what_is_no_volume_of_the_recording_is_skipped_with_a_reason(root):
    put(
        root,
        f"sub-01_task-rest_{S6}_{BOLD}",
        f"sub-01_task-rest_echo-1_{BOLD}",
        f"sub-01_task-rest_{S6}_desc-smoothAROMAnonaggr_bold.nii.gz",
        f"sub-01_task-rest_{S6}_desc-denoised_bold.nii.gz",
        f"sub-01_task-rest_{S6}_bold.nii.gz",
        "sub-01_task-rest_hemi-L_space-fsaverage5_bold.func.gii",
        "sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii",
        f"sub-01_task-rest_{S6}_boldref.nii.gz",
    )
    put(root, f"sub-01_task-rest_{S6}_desc-preproc_bold.json", content="{}")
    selection = find(root)
    assert names(selection) == [f"sub-01_task-rest_{S6}_{BOLD}"]
    found = " | ".join(reasons(selection).values())
    assert len(selection.skipped) == 6
    for text in ("a single echo", "already denoised by fMRIPrep's ICA-AROMA", "desc-denoised;", "no desc-", "surface"):
        assert text in found


def test_the_phase_is_skipped_and_the_magnitude_kept(root):
    put(root, *(f"sub-01_task-rest_part-{part}_{S6}_{BOLD}" for part in ("mag", "phase")))
    put(root, "sub-01_task-rest_part-mag_desc-confounds_timeseries.tsv")
    selection = find(root)
    assert keys(selection) == ["sub-01_task-rest_part-mag"]
    assert selection.recordings[0].confounds is not None
    assert "not the magnitude" in reasons(selection)[f"sub-01_task-rest_part-phase_{S6}_{BOLD}"]
    assert selection.failures == ()


def test_entities_keep_recordings_apart_and_their_spelling(root):
    put(
        root,
        f"sub-01_ses-a_task-rest_acq-x_ce-c_rec-r_dir-AP_run-01_{S6}_{BOLD}",
        f"sub-01_ses-a_task-rest_acq-x_ce-c_rec-r_dir-PA_run-01_{S6}_{BOLD}",
        f"sub-01_ses-a_task-rest_run-2_{S6}_{BOLD}",
        f"sub-01_ses-a_task-rest_run-10_{S6}_{BOLD}",
    )
    recordings = find(root).recordings
    assert [r.key for r in recordings] == [
        "sub-01_ses-a_task-rest_acq-x_ce-c_rec-r_dir-AP_run-01",
        "sub-01_ses-a_task-rest_acq-x_ce-c_rec-r_dir-PA_run-01",
        "sub-01_ses-a_task-rest_run-2",
        "sub-01_ses-a_task-rest_run-10",
    ]
    assert recordings[0].entities == (("acq", "x"), ("ce", "c"), ("rec", "r"), ("dir", "AP"))
    assert (recordings[0].session, recordings[0].run) == ("a", "01")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("run-01_{}_desc-preproc_bold.nii.gz", "run-1_{}_desc-preproc_bold.nii.gz"),
        ("{}_desc-preproc_bold.nii.gz", "{}_desc-preproc_bold.nii"),
    ],
)
def test_two_names_of_one_recording_clash(root, first, second):
    put(root, *(f"sub-01_task-rest_{name.format(S6)}" for name in (first, second)))
    selection = find(root)
    assert names(selection) == [f"sub-01_task-rest_{first.format(S6)}"]
    assert "names the same recording as" in reasons(selection)[f"sub-01_task-rest_{second.format(S6)}"]


def test_cohorts_of_paediatric_templates_are_known(root):
    put(root, *(f"sub-01_task-rest_space-MNIPediatricAsym_cohort-{c}_{BOLD}" for c in (1, 2)))
    selection = find(root, spaces=("MNIPediatricAsym",))
    assert keys(selection) == ["sub-01_task-rest"]
    assert len(selection.skipped) == 1


@pytest.mark.parametrize(
    "name",
    [
        f"sub-01_task-rest_foo-1_{S6}_{BOLD}",
        f"sub-01_task-rest_task-rest_{S6}_{BOLD}",
        f"sub-01_{S6}_{BOLD}",
        f"sub-01_task-rest_acq-_{S6}_{BOLD}",
        f"sub-01_task-rest_run-x_{S6}_{BOLD}",
        f"sub-01_task-rest__{S6}_{BOLD}",
        f"task-rest_{S6}_{BOLD}",
        f"._sub-01_task-rest_{S6}_{BOLD}",
    ],
)
def test_names_that_are_not_bids_are_ignored(root, name):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    (root / "sub-01" / "func" / name).touch()
    selection = find(root)
    assert keys(selection) == ["sub-01_task-rest"]
    assert selection.skipped == selection.failures == ()


def test_a_file_in_anothers_folder_is_ignored(root):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}", f"sub-02_ses-a_task-rest_{S6}_{BOLD}")
    (root / "sub-01" / "func" / f"sub-02_task-rest_{S6}_{BOLD}").touch()
    (root / "sub-02" / "ses-a" / "func" / f"sub-02_task-rest_{S6}_{BOLD}").touch()
    (root / "sub-02" / "ses-a" / "func" / f"sub-02_ses-b_task-rest_{S6}_{BOLD}").touch()
    assert keys(find(root)) == ["sub-01_task-rest", "sub-02_ses-a_task-rest"]


# failures


@pytest.mark.parametrize(
    ("name", "space"),
    [
        (f"sub-01_task-rest_{BOLD}", "native"),
        (f"sub-01_task-rest_space-T1w_{BOLD}", "T1w"),
        (f"sub-01_task-rest_space-MNI152NLin6Sym_{BOLD}", "MNI152NLin6Sym"),
        ("sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii", "fsLR"),
    ],
)
def test_a_recording_in_no_wanted_space_fails_with_the_option_to_use(root, name, space):
    selection = find(put(root, name))
    assert selection.recordings == ()
    (failure,) = selection.failures
    assert (failure.key, failure.stage, failure.kind) == ("sub-01_task-rest", "discover", "space")
    assert f"found space {space}" in failure.message
    assert "--output-spaces MNI152NLin6Asym:res-2" in failure.hint


@pytest.mark.parametrize(
    ("name", "desc", "message", "hint"),
    [
        ("desc-other_bold.nii.gz", "preproc", "desc-other; the recipe starts from desc-preproc", "--output-spaces"),
        ("desc-preproc_bold.nii.gz", "smoothAROMAnonaggr", "desc-preproc; the recipe", "--use-aroma"),
        ("echo-1_desc-preproc_bold.nii.gz", "preproc", "a single echo", "--output-spaces"),
        ("bold.nii.gz", "preproc", "no desc-;", "--output-spaces"),
    ],
)
def test_a_recording_without_an_image_to_start_from_fails(root, name, desc, message, hint):
    (failure,) = find(put(root, f"sub-01_task-rest_{name}"), bold_desc=desc).failures
    assert (failure.key, failure.kind) == ("sub-01_task-rest", "selection")
    assert message in failure.message
    assert hint in failure.hint


MASK, CONFOUNDS = f"sub-01_task-rest_{S6}_desc-brain_mask.nii.gz", "sub-01_task-rest_desc-confounds_timeseries.tsv"


@pytest.mark.parametrize("name", [f"sub-01_task-rest_{S6}_{BOLD}", MASK, CONFOUNDS])
@pytest.mark.parametrize("how", ["link", "pointer"])
def test_what_datalad_has_not_fetched_fails_with_the_command(root, name, how):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}", MASK, CONFOUNDS)
    path = root / "sub-01" / "func" / name
    if how == "link":
        path.unlink()
        path.symlink_to("../../.git/annex/objects/XX/YY/MD5E-s1--0.nii.gz")
    else:
        path.write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    selection = find(root)
    assert selection.recordings == ()
    (failure,) = selection.failures
    assert (failure.key, failure.kind) == ("sub-01_task-rest", "missing")
    assert failure.hint == f"datalad get {path}"


def test_links_to_real_files_and_folders_work(root, tmp_path):
    put(tmp_path / "store", f"sub-01_task-rest_{S6}_{BOLD}", MASK)
    (root / "sub-01").symlink_to(tmp_path / "store" / "sub-01")
    (root / "sub-02" / "func").mkdir(parents=True)
    link = root / "sub-02" / "func" / f"sub-02_task-rest_{S6}_{BOLD}"
    link.symlink_to(tmp_path / "store" / "sub-01" / "func" / f"sub-01_task-rest_{S6}_{BOLD}")
    one, two = find(root).recordings
    assert one.bold == root / "sub-01" / "func" / f"sub-01_task-rest_{S6}_{BOLD}"
    assert two.bold == link


# mask, confounds, repetition time


def test_the_mask_is_of_the_same_space_and_resolution(root):
    put(root, f"sub-01_task-rest_{S6}_res-2_{BOLD}", f"sub-01_task-rest_{S9}_desc-brain_mask.nii.gz", MASK)
    assert find(root).recordings[0].mask is None
    put(root, f"sub-01_task-rest_{S6}_res-2_desc-brain_mask.nii")
    assert find(root).recordings[0].mask.name == f"sub-01_task-rest_{S6}_res-2_desc-brain_mask.nii"


def test_confounds_new_name_before_old_and_run_spelled_alike(root):
    put(root, f"sub-01_task-rest_run-01_{S6}_{BOLD}", "sub-01_task-rest_run-1_desc-confounds_timeseries.tsv")
    assert find(root).recordings[0].confounds is None
    stem = "sub-01_task-rest_run-01"
    put(root, f"{stem}_desc-reducedConfounds_regressors.tsv", f"{stem}_desc-confounds_regressors.tsv")
    assert find(root).recordings[0].confounds.name == f"{stem}_desc-confounds_regressors.tsv"
    put(root, f"{stem}_desc-confounds_timeseries.tsv")
    assert find(root).recordings[0].confounds.name == f"{stem}_desc-confounds_timeseries.tsv"


def test_repetition_time_by_inheritance(root):
    put(root, f"sub-01_ses-a_task-rest_{S6}_{BOLD}")
    assert find(root).recordings[0].repetition_time is None
    for path, tr in [
        ("bold.json", 1),
        ("task-nback_bold.json", 9),
        ("task-rest_bold.json", 2.0),
        ("sub-01/sub-01_task-rest_bold.json", 3.0),
        ("sub-01/ses-a/sub-01_ses-a_task-rest_bold.json", 4.0),
        ("sub-01/ses-a/func/sub-01_ses-a_task-rest_desc-preproc_bold.json", 5.0),
        (f"sub-01/ses-a/func/sub-01_ses-a_task-rest_{S6}_desc-preproc_bold.json", 6.0),
    ]:
        (root / path).write_text(json.dumps({"RepetitionTime": tr}))
        assert find(root).recordings[0].repetition_time == (tr if tr != 9 else 1)


@pytest.mark.parametrize("value", ['"2.5"', "true", "NaN", "[2]", "9" * 400, "2.5, oops", "[" * 9000])
def test_a_repetition_time_that_is_there_and_unusable_is_never_guessed(root, value):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    sidecar = f"sub-01_task-rest_{S6}_desc-preproc_bold.json"
    put(root, sidecar, content=f'{{"RepetitionTime": {value}}}')
    (failure,) = find(root).failures
    assert (failure.key, failure.kind) == ("sub-01_task-rest", "repetition-time")
    assert sidecar in failure.message
    assert "\n" not in failure.reason


@pytest.mark.parametrize("content", ['{"RepetitionTime": null}', '{"SkullStripped": false}'])
def test_a_repetition_time_that_is_not_told_is_left_to_the_header(root, content):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    put(root, f"sub-01_task-rest_{S6}_desc-preproc_bold.json", content=content)
    assert find(root).recordings[0].repetition_time is None


def test_a_sidecar_with_a_byte_order_mark_is_read(root):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    put(root, f"sub-01_task-rest_{S6}_desc-preproc_bold.json", content='\ufeff{"RepetitionTime": 2.5}')
    assert find(root).recordings[0].repetition_time == 2.5


def test_what_cannot_be_read_costs_its_participant_alone(root):
    """A circle of links, a pipe for a sidecar, one that is not fetched: three rows, and the fourth participant runs."""
    for label in ("01", "02", "04"):
        put(root, f"sub-{label}_task-rest_{S6}_{BOLD}")
    func = root / "sub-01" / "func"
    os.mkfifo(func / f"sub-01_task-rest_{S6}_desc-preproc_bold.json")
    (root / "sub-02" / "func" / f"sub-02_task-rest_{S6}_desc-preproc_bold.json").symlink_to(".git/annex/objects/gone")
    (root / "sub-03").symlink_to("sub-03")
    found = find(root)
    assert [r.subject for r in found.recordings] == ["04"]
    assert [f.key for f in found.failures] == ["sub-01_task-rest", "sub-02_task-rest", "sub-03"]
    assert "pipe" in found.failures[0].message
    assert "Fetch" in found.failures[1].hint
    assert list_participants([root]) == ("01", "02", "03", "04")


def test_a_pipe_for_an_image_is_refused_at_once(root):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    image = root / "sub-01" / "func" / f"sub-01_task-rest_{S6}_{BOLD}"
    image.unlink()
    os.mkfifo(image)
    (failure,) = find(root).failures
    assert "no regular file" in failure.message


@pytest.mark.parametrize("value", [0, -2.0])
def test_a_repetition_time_that_is_not_positive_fails(root, value):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    put(root, f"sub-01_task-rest_{S6}_desc-preproc_bold.json", content=json.dumps({"RepetitionTime": value}))
    (failure,) = find(root).failures
    assert (failure.key, failure.kind) == ("sub-01_task-rest", "repetition-time")


# filters


def filter_tree(root):
    return put(
        root,
        f"sub-01_task-rest_acq-a_run-01_{S6}_{BOLD}",
        f"sub-01_task-rest_acq-b_run-02_{S6}_{BOLD}",
        f"sub-01_task-rest_{S6}_{BOLD}",
    )


@pytest.mark.parametrize(
    ("bold", "expected"),
    [
        ({"acquisition": None}, [""]),
        ({"acq": "*"}, ["_acq-a_run-01", "_acq-b_run-02"]),
        ({"acq": ["a", None]}, ["", "_acq-a_run-01"]),
        ({"acquisition": "b"}, ["_acq-b_run-02"]),
        ({"run": 1}, ["_acq-a_run-01"]),
        ({"run": "1"}, ["_acq-a_run-01"]),
        ({"run": ["2", "01"]}, ["_acq-a_run-01", "_acq-b_run-02"]),
        ({"acq": "Query.NONE", "run": "Query.OPTIONAL"}, [""]),
        ({"acq": ["b", "Query.OPTIONAL"], "run": "*"}, ["_acq-a_run-01", "_acq-b_run-02"]),
        ({"subject": "01", "suffix": "bold", "datatype": "func", "extension": "nii.gz", "run": 2}, ["_acq-b_run-02"]),
        ({}, ["", "_acq-a_run-01", "_acq-b_run-02"]),
    ],
)
def test_filters_have_fmripreps_meaning(root, tmp_path, bold, expected):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"bold": bold, "t1w": {"session": "x"}}))
    selection = find(filter_tree(root), filters=read_filter_file(path))
    assert keys(selection) == [f"sub-01_task-rest{more}" for more in expected]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"func": {}}', "unknown query func; known are bold"),
        ('{"bold": {"colour": "x"}}', "unknown entity colour"),
        ('{"bold": {"acq": true}}', "bold.acq"),
        ('{"bold": {"acq": {"a": 1}}}', "bold.acq"),
        ('{"bold": []}', "must be an object"),
        ("[]", "expected a JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_wrong_filter_files_are_refused(tmp_path, text, match):
    path = tmp_path / "filter.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=match):
        read_filter_file(path)


def test_a_missing_filter_file_is_named(tmp_path):
    with pytest.raises(MissingInputError, match=r"filter\.json does not exist"):
        read_filter_file(tmp_path / "filter.json")


def test_a_query_needs_a_space():
    with pytest.raises(UsageError, match="space"):
        Query(spaces=())


# several datasets


def test_the_first_dataset_that_can_serve_a_recording_wins(tmp_path):
    a, b = describe(tmp_path / "a"), describe(tmp_path / "b")
    put(a, f"sub-01_task-rest_{S9}_{BOLD}", f"sub-02_task-rest_space-T1w_{BOLD}")
    put(b, f"sub-01_task-rest_{S6}_{BOLD}", f"sub-02_task-rest_{S6}_{BOLD}", f"sub-03_task-rest_{S6}_{BOLD}")
    selection = find_recordings([a, b], Query())
    assert [r.dataset.name for r in selection.recordings] == ["a", "b", "b"]
    assert [s.reason for s in selection.skipped if s.subject == "01"] == [f"the same recording is taken from {a}"]
    assert selection.failures == ()


# pybids database


def test_a_database_gives_what_the_folders_give_and_is_reused(root, tmp_path):
    filter_tree(root)
    put(root, "sub-01_task-rest_desc-confounds_timeseries.tsv", MASK)
    put(root, f"sub-02_ses-a_task-rest_{S6}_{BOLD}")
    (root / "sub-02" / "ses-a" / "func" / f"sub-02_ses-a_task-rest_{S9}_{BOLD}").symlink_to("nowhere")
    (root / "sub-03").mkdir()
    before = snapshot(root)
    plain, database = find(root), tmp_path / "db"
    assert find(root, database) == plain
    made = (database / "layout_index.sqlite").stat().st_mtime_ns
    assert find(root, database) == plain
    assert find(root, database, participants=("02",)).recordings == plain.recordings[-1:]
    assert [path.name for path in database.iterdir()] == ["layout_index.sqlite"]
    assert (database / "layout_index.sqlite").stat().st_mtime_ns == made
    assert snapshot(root) == before


def test_several_datasets_have_a_database_each(tmp_path):
    roots = [put(describe(tmp_path / x), f"sub-{x}_task-rest_{S6}_{BOLD}") for x in "ab"]
    database = tmp_path / "db"
    assert find_recordings(roots, Query(), database) == find_recordings(roots, Query())
    assert sorted(path.name for path in database.iterdir()) == ["1-a", "2-b"]


def test_a_database_without_the_participant_is_refused(root, tmp_path):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    find(root, tmp_path / "db")
    put(root, f"sub-02_task-rest_{S6}_{BOLD}")
    with pytest.raises(InputError, match="does not know participant 02"):
        find(root, tmp_path / "db")
    assert keys(find(root, tmp_path / "db", participants=("01",))) == ["sub-01_task-rest"]


def test_a_file_gone_since_the_database_was_made(root, tmp_path):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    find(root, tmp_path / "db")
    (root / "sub-01" / "func" / f"sub-01_task-rest_{S6}_{BOLD}").unlink()
    (failure,) = find(root, tmp_path / "db").failures
    assert "not there any more" in failure.message
    assert "--bids-database-dir" in failure.hint


def test_a_database_of_another_dataset_is_refused(root, tmp_path):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    other = put(describe(tmp_path / "other"), f"sub-01_task-rest_{S6}_{BOLD}")
    find(other, tmp_path / "db")
    with pytest.raises(InputError, match=r"is of .*other, not of"):
        find(root, tmp_path / "db")


def test_a_broken_database_is_refused(root, tmp_path):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    (tmp_path / "layout_index.sqlite").write_text("no database")
    with pytest.raises(InputError, match="cannot be read"):
        find(root, tmp_path)


def test_no_database_is_made_in_the_input_or_where_none_can_be(root, tmp_path):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    before = snapshot(root)
    with pytest.raises(UsageError, match="never written"):
        find(root, root / "db")
    assert snapshot(root) == before
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        find(root, tmp_path / "file" / "db")


# real file lists


@pytest.fixture(scope="module")
def ds000208(tmp_path_factory):
    root, source = tmp_path_factory.mktemp("ds000208") / "fmriprep", META / "ds000208-fmriprep"
    with (source / "TREE.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            path, known = root / row["path"], source / row["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            # The listing holds names; a sidecar that is there and empty would be refused.
            empty = b"{}" if path.suffix == ".json" else b""
            path.write_bytes(known.read_bytes() if known.is_file() and known.suffix == ".json" else empty)
    return root


@needs_shared
def test_ds000208_has_one_recording_per_participant(ds000208):
    before = snapshot(ds000208)
    selection = find_recordings(find_derivatives(ds000208), Query())
    assert len(selection.recordings) == len({r.subject for r in selection.recordings}) == 76
    assert {(r.space, r.resolution) for r in selection.recordings} == {("MNI152NLin2009cAsym", "2")}
    assert all("_desc-preproc_bold" in r.bold.name and r.mask and r.confounds for r in selection.recordings)
    assert selection.failures == ()
    with_sidecar = {r.subject: r.repetition_time for r in selection.recordings if r.repetition_time}
    assert with_sidecar["01"] == 2.5
    assert snapshot(ds000208) == before


@needs_shared
def test_ds000208_aroma(ds000208):
    selection = find(ds000208, bold_desc="smoothAROMAnonaggr")
    assert len(selection.recordings) == 76
    assert {r.space for r in selection.recordings} == {"MNI152NLin6Asym"}
    assert all(r.bold.name.endswith(f"{S6}_desc-smoothAROMAnonaggr_bold.nii.gz") for r in selection.recordings)


@needs_shared
def test_ds000208_has_no_preproc_in_6asym(ds000208):
    selection = find(ds000208, spaces=("MNI152NLin6Asym",))
    assert selection.recordings == ()
    assert [f.kind for f in selection.failures] == ["space"] * 76


@needs_shared
@pytest.mark.slow
def test_ds000208_database_agrees(ds000208, tmp_path):
    assert find(ds000208, tmp_path / "db") == find(ds000208)


@needs_shared
@pytest.mark.parametrize(
    ("listing", "task", "spaces", "failures"),
    [
        # This run of fMRIPrep asked for surfaces only.
        ("ds005_outputs.txt", "mixedgamblestask", [], ["space", "space"]),
        ("ds210_outputs.txt", "cuedSGT", ["MNI152NLin2009cAsym"], []),
    ],
)
def test_names_that_fmriprep_25_writes(tmp_path, listing, task, spaces, failures):
    root = describe(tmp_path / "fmriprep", DatasetType="derivative")
    paths = (META / "fmriprep25_expected" / listing).read_text().split()
    for path in (root / line for line in paths if Path(line).suffix and "/" in line):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if path.suffix == ".json" else "")
    selection = find_recordings(find_derivatives(root), Query(tasks=(task,)))
    assert [r.space for r in selection.recordings] == spaces
    assert all(r.mask and r.confounds for r in selection.recordings)
    assert [f.kind for f in selection.failures] == failures


@needs_shared
def test_names_that_fmriprep_1_wrote(tmp_path):
    root = tmp_path / "fmriprep"
    for path in (META / "development_fmri_fmriprep1.3").glob("*.tsv"):
        if path.name.startswith("sub-"):
            put(root, path.name, f"sub-pixar123_task-pixar_{S9}_{BOLD}")
    (recording,) = find_recordings(find_derivatives(root), Query(tasks=("pixar",))).recordings
    assert recording.confounds.name == "sub-pixar123_task-pixar_desc-confounds_regressors.tsv"


# properties

labels = st.sampled_from(["a", "B", "01"])
spaces = st.sampled_from(["", "space-T1w_", f"{S6}_", f"{S9}_", f"{S6}_res-2_", f"{S9}_res-1_", f"{S6}_res-02_"])


@st.composite
def bold_names(draw):
    name = f"sub-{draw(labels)}_task-rest_"
    for entity in ("acq", "dir"):
        if draw(st.booleans()):
            name += f"{entity}-{draw(labels)}_"
    name += draw(st.sampled_from(["", "run-1_", "run-01_", "run-2_"]))
    name += draw(st.sampled_from(["", "", "echo-1_"])) + draw(spaces)
    desc = draw(st.sampled_from(["preproc", "preproc", "smoothAROMAnonaggr"]))
    return f"{name}desc-{desc}_bold{draw(st.sampled_from(['.nii.gz', '.nii']))}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(bold_names(), min_size=1, max_size=25, unique=True))
def test_never_two_images_of_one_recording(tmp_path_factory, files):
    root = put(tmp_path_factory.mktemp("tree"), *files)
    before = snapshot(root)
    try:
        selection = find(root)
    finally:
        assert snapshot(root) == before
    same = [r.key.replace("run-01", "run-1") for r in selection.recordings]
    assert len(same) == len(set(same))
    assert all(r.space in Query().spaces for r in selection.recordings)
    used, aside = {r.bold for r in selection.recordings}, {s.path for s in selection.skipped}
    assert used.isdisjoint(aside)
    assert len(aside) == len(selection.skipped)
    failed = {f.key for f in selection.failures}
    assert {r.subject for r in selection.recordings} | {key.split("_")[0][4:] for key in failed} == set(
        list_participants([root])
    )
    assert find(root) == selection


def test_pybids_is_imported_only_when_a_name_is_parsed():
    code = "import sys, bids_fmmtc.dataset.find.discover; sys.exit('bids' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_single_echo_is_taken_where_there_is_no_other_or_the_filter_names_it(root):
    put(root, f"sub-01_task-rest_echo-1_{S6}_{BOLD}", f"sub-01_task-rest_echo-1_{S6}_desc-brain_mask.nii.gz")
    put(root, "sub-01_task-rest_echo-1_desc-confounds_timeseries.tsv")
    (recording,) = find(root).recordings
    assert recording.bold.name == f"sub-01_task-rest_echo-1_{S6}_{BOLD}"
    assert recording.key == "sub-01_task-rest"
    assert recording.mask
    assert recording.confounds
    put(root, f"sub-01_task-rest_echo-2_{S6}_{BOLD}")
    (failure,) = find(root).failures
    assert "single echoes only (1, 2)" in failure.message
    assert "--bids-filter-file" in failure.hint
    (recording,) = find(root, filters={"bold": {"echo": "2"}}).recordings
    assert recording.bold.name.startswith("sub-01_task-rest_echo-2_")
    put(root, f"sub-01_task-rest_{S6}_{BOLD}")
    (recording,) = find(root).recordings
    assert "echo" not in recording.bold.name


def test_names_before_fmriprep_1_2_are_named(root):
    put(root, "sub-01_task-rest_bold_space-MNI152NLin2009cAsym_preproc.nii.gz", "sub-01_task-rest_bold_confounds.tsv")
    with pytest.raises(SelectionError, match=r"fMRIPrep before 1\.2, such as sub-01_task-rest_bold_confounds\.tsv"):
        find(root)


def test_one_person_with_names_before_1_2_is_told_so_beside_others(root):
    put(root, f"sub-01_task-rest_{S6}_{BOLD}", "sub-02_task-rest_bold_space-MNI152NLin2009cAsym_preproc.nii.gz")
    selection = find(root)
    assert keys(selection) == ["sub-01_task-rest"]
    (failure,) = selection.failures
    assert failure.key == "sub-02"
    assert "names of fMRIPrep before 1.2, such as sub-02_task-rest_bold_space" in failure.message
