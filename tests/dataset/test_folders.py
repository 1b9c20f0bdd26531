import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from nobody import closed, open_folder

from bids_fmmtc.dataset.folders import Sidecars, entries, find_derivatives, odd_folders, refuse_absent
from bids_fmmtc.dataset.naming import Image
from bids_fmmtc.errors import DataError, FmmtcError, InputError, MissingInputError, RepetitionTimeError

BOLD = "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"


def preproc(root: Path, name: str = BOLD) -> Path:
    folder = root / "sub-01" / "func"
    folder.mkdir(parents=True)
    (folder / name).touch()
    return root


def describe(root: Path, **description) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def by(*names):
    return {"DatasetType": "derivative", "GeneratedBy": [{"Name": name} for name in names]}


@pytest.fixture
def raw(tmp_path):
    root = describe(tmp_path / "raw", Name="raw", BIDSVersion="1.8.0", DatasetType="raw")
    return preproc(root, "sub-01_task-rest_bold.nii.gz")


@pytest.mark.parametrize(
    "description",
    [
        by("fMRIPrep"),
        by("fMRIPrep", "other"),
        {"PipelineDescription": {"Name": "fMRIPrep", "Version": "1.3.0"}},
        {"GeneratedBy": {"Name": "fmriprep"}},
    ],
)
def test_the_folder_itself_by_its_description(tmp_path, description):
    assert find_derivatives(describe(tmp_path, **description)) == (tmp_path,)


@pytest.mark.parametrize("description", [None, "broken {", "[]", '{"GeneratedBy": ["x"]}', '{"GeneratedBy": []}'])
def test_the_folder_itself_by_its_files_and_with_a_note(tmp_path, description, caplog):
    preproc(tmp_path)
    if description is not None:
        (tmp_path / "dataset_description.json").write_text(description)
    with caplog.at_level(logging.WARNING):
        assert find_derivatives(tmp_path) == (tmp_path,)
    assert ("has no dataset_description.json" in caplog.text) == (description is None)


def test_below_derivatives_among_others(raw):
    found = raw / "derivatives"
    describe(found / "fmriprep-20.2", **by("fMRIPrep"))
    describe(found / "prep", **by("fMRIPrep"))
    preproc(found / "fmriprep")
    describe(found / "bids_fmmtc", **by("bids_fmmtc", "fMRIPrep"))
    preproc(describe(found / "xcp_d", **by("xcp_d", "fMRIPrep")))
    preproc(found / "halfpipe")
    (found / "freesurfer").mkdir()
    (found / "fmriprep.zip").touch()
    (found / "fmriprep_work").mkdir()
    assert [root.name for root in find_derivatives(raw)] == ["fmriprep", "fmriprep-20.2", "prep"]


def test_the_old_layout_with_fmriprep_below_the_output_folder(tmp_path):
    preproc(tmp_path / "fmriprep")
    (tmp_path / "freesurfer").mkdir()
    assert find_derivatives(tmp_path) == (tmp_path / "fmriprep",)


def test_named_derivatives_replace_the_search(raw, tmp_path):
    describe(raw / "derivatives" / "fmriprep", **by("fMRIPrep"))
    one = describe(tmp_path / "one", **by("fMRIPrep"))
    two = preproc(tmp_path / "two")
    (tmp_path / "link").symlink_to(one)
    assert find_derivatives(raw, [(None, one), ("prep", two), (None, one)]) == (one, two)
    assert find_derivatives(raw, [(None, tmp_path / "link")]) == (tmp_path / "link",)
    assert find_derivatives(raw, [(None, raw / "derivatives")]) == (raw / "derivatives" / "fmriprep",)
    assert find_derivatives(one, [(None, two)]) == (one, two)


def test_paths_become_absolute(tmp_path, monkeypatch):
    describe(tmp_path / "prep", **by("fMRIPrep"))
    monkeypatch.chdir(tmp_path)
    assert find_derivatives(Path("prep")) == (tmp_path / "prep",)


def test_what_is_missing_is_named(raw, tmp_path):
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        find_derivatives(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        find_derivatives(raw, [(None, tmp_path / "nowhere")])
    with pytest.raises(InputError, match="is not a folder"):
        find_derivatives(raw / "dataset_description.json")


def test_raw_data_alone_is_refused_naming_what_was_found(raw):
    describe(raw / "derivatives" / "xcp_d", **by("xcp_d"))
    with pytest.raises(InputError, match=r"holds no fMRIPrep output.*1 sub-\* folders, derivatives: xcp_d") as caught:
        find_derivatives(raw)
    assert "--derivatives" in caught.value.hint
    with pytest.raises(InputError, match=r"--derivatives qc=.*xcp_d is no fMRIPrep output"):
        find_derivatives(raw, [("qc", raw / "derivatives" / "xcp_d")])


def test_listing_what_is_not_there_and_what_is_forbidden(tmp_path, monkeypatch):
    assert entries(tmp_path / "nowhere") == []
    monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        entries(tmp_path)


def test_a_path_with_blanks_is_quoted_for_the_shell(tmp_path):
    path = tmp_path / "a b.nii"
    path.symlink_to("nowhere")
    with pytest.raises(MissingInputError) as caught:
        refuse_absent(path)
    assert caught.value.hint == f"datalad get '{path}'"


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "loop"
    path.symlink_to(path)
    with pytest.raises(MissingInputError, match="cannot be read"):
        refuse_absent(path)


@pytest.mark.parametrize("value", [2000, 720.0, 0.049, 30.1, 0, -2])
def test_a_repetition_time_no_scanner_has_is_refused(tmp_path, value):
    image = Image(tmp_path, 0, tmp_path / "sub-1_bold.nii.gz", {"sub": "1"}, ".nii.gz")
    (tmp_path / "sub-1_bold.json").write_text(json.dumps({"RepetitionTime": value}))
    with pytest.raises(
        RepetitionTimeError, match=rf"time of {value:g}, expected a number from 0\.05 to 30, in seconds"
    ):
        Sidecars().repetition_time(image, ["sub-1_bold.json"])


@pytest.mark.parametrize("value", [0.05, 0.72, 30])
def test_a_repetition_time_that_may_be(tmp_path, value):
    image = Image(tmp_path, 0, tmp_path / "sub-1_bold.nii.gz", {"sub": "1"}, ".nii.gz")
    (tmp_path / "sub-1_bold.json").write_text(json.dumps({"RepetitionTime": value}))
    assert Sidecars().repetition_time(image, ["sub-1_bold.json"]) == value


def random_text(rng, sound):
    """Change some characters of a sound JSON text, or a value for an odd one."""
    text = list(sound)
    for at in rng.integers(0, len(text), rng.integers(1, 4)):
        text[at] = str(rng.choice(list('{}[]":,0123456789.eE-+ntfaN\\ \n\u00e4\x00')))
    return "".join(text)


def test_five_hundred_sidecars_at_random(tmp_path):
    """Whatever a sidecar holds: the number that stands there, nothing told, or one line; never another number."""
    image = Image(tmp_path, 0, tmp_path / "sub-1_bold.nii.gz", {"sub": "1"}, ".nii.gz")
    rng, told = np.random.default_rng(5), 0
    for _ in range(500):
        text = random_text(rng, '{"RepetitionTime": 2.25, "EchoTime": [0.03, {"a": null}], "TaskName": "rest"}')
        (tmp_path / "sub-1_bold.json").write_text(text)
        said, found = "", None
        try:
            found = Sidecars().repetition_time(image, ["sub-1_bold.json"])
        except RepetitionTimeError as error:
            said = str(error)
        assert "\n" not in said
        if not said:
            assert found == json.loads(text).get("RepetitionTime")
            told += found is not None
    assert told > 50


def test_five_hundred_descriptions_at_random(tmp_path):
    """A description makes a folder fMRIPrep's or does not; it never ends the run otherwise."""
    rng = np.random.default_rng(6)
    (tmp_path / "sub-1").mkdir()
    found = 0
    for _ in range(500):
        text = random_text(rng, '{"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.1.0"}]}')
        (tmp_path / "dataset_description.json").write_text(text)
        said = ""
        try:
            found += find_derivatives(tmp_path) == (tmp_path,)
        except InputError as error:
            said = str(error)
        assert "\n" not in said
    assert 50 < found < 500


def version(root, number, name="fMRIPrep", **more):
    return describe(root, DatasetType="derivative", GeneratedBy=[{"Name": name, "Version": number, **more}])


def test_one_version_with_several_settings_is_asked_about(raw):
    for settings in ("a1b2c3d4", "0f9e8d7c"):
        version(raw / "derivatives" / f"fmriprep-25.2.3-{settings}", "25.2.3", ConfigurationHash=settings)
    with pytest.raises(
        InputError, match=r"several versions or settings of fMRIPrep: .*0f9e8d7c.*25\.2\.3 \(a1b2c3d4\)"
    ):
        find_derivatives(raw)


@pytest.mark.parametrize("shared", [True, False])
def test_people_in_two_datasets_that_nothing_tells_apart_are_told(raw, shared, caplog):
    for name, label in (("fmriprep-a", "01"), ("fmriprep-b", "01" if shared else "02")):
        folder = version(raw / "derivatives" / name, "25.2.3")
        (folder / f"sub-{label}").mkdir()
    with caplog.at_level(logging.WARNING):
        assert len(find_derivatives(raw)) == 2
    assert ("sub-01 stand in several of fmriprep-a, fmriprep-b" in caplog.text) == shared


def test_several_versions_are_asked_about_and_named_ones_are_told(raw, caplog):
    first = version(raw / "derivatives" / "fmriprep-20.2.7", "20.2.7")
    second = version(raw / "derivatives" / "fMRIPrep-25.2.3-a1b2c3d4", "25.2.3")
    with pytest.raises(
        InputError, match=r"several versions or settings of fMRIPrep: .*25\.2\.3.*20\.2\.7.* --derivatives"
    ):
        find_derivatives(raw)
    with caplog.at_level(logging.WARNING):
        assert find_derivatives(raw, [(None, second)]) == (second,)
        assert not caplog.text
        assert find_derivatives(raw, [(None, first), (None, second)]) == (first, second)
    assert "20.2.7" in caplog.text
    assert "25.2.3" in caplog.text


def test_several_folders_of_one_version_are_taken_together(raw):
    roots = [version(raw / "derivatives" / f"fmriprep-ses{i}", "25.2.3") for i in (1, 2)]
    assert find_derivatives(raw) == tuple(roots)


def test_a_closed_dataset_beside_others_is_told_of_and_passed_over(caplog):
    with open_folder() as raw:
        for name in ("fmriprep", "fmriprep-old"):
            (raw / "derivatives" / name / "sub-01").mkdir(parents=True)
            text = json.dumps({"Name": name, "GeneratedBy": [{"Name": "fMRIPrep", "Version": name}]})
            (raw / "derivatives" / name / "dataset_description.json").write_text(text)
        old = raw / "derivatives" / "fmriprep-old"
        with closed(old), caplog.at_level(logging.WARNING):
            assert find_derivatives(raw) == (raw / "derivatives" / "fmriprep",)
            assert f"Folder {old} cannot be read: Permission denied. Passed over." in caplog.text
        with closed(raw), pytest.raises(FmmtcError, match="cannot be read"):
            find_derivatives(raw)


def test_a_circle_of_links_is_no_dataset(raw):
    (raw / "derivatives").mkdir()
    (raw / "derivatives" / "fmriprep-loop").symlink_to("fmriprep-loop")
    with pytest.raises(InputError, match="derivatives: fmriprep-loop"):
        find_derivatives(raw)


def test_a_path_that_is_no_utf8_is_refused_by_name(tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    (odd / "x.tsv").touch()
    with pytest.raises(DataError, match=r"caf\\xe9/x\.tsv is not UTF-8 text") as caught:
        refuse_absent(odd / "x.tsv")
    assert "Rename it" in caught.value.hint
    describe(odd, **by("fMRIPrep"))
    with pytest.raises(InputError, match=r"caf\\xe9 is not UTF-8 text"):
        find_derivatives(odd)


def test_folders_that_begin_as_a_participants_and_hold_no_label_are_listed(tmp_path):
    for name in ("sub-01", "sub-a_b", "sub-", "submarine", "sub-02"):
        (tmp_path / name).mkdir()
    (tmp_path / "sub-x.y").touch()
    assert sorted(odd_folders([tmp_path, tmp_path / "absent"])) == ["sub-", "sub-a_b"]
