"""Tables of series: found by name at any depth, one a recording, all of one kind."""

import json
import logging
from dataclasses import replace

import pytest
from nobody import closed, open_folder

from bids_fmmtc.dataset.find.series import SeriesQuery, choose_atlas, find_series, read_series_filters, select_series
from bids_fmmtc.errors import InputError, MissingInputError, SelectionError, UsageError

XCP = "space-MNI152NLin6Asym_seg-{}_stat-mean_timeseries.tsv"


@pytest.fixture
def tree(tmp_path):
    """Make empty files below the folder, with a repetition time at its root; returns the folder."""

    def make(*names, root="in"):
        for name in names:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0.5\n0.7\n")
        (tmp_path / root / "timeseries.json").write_text(json.dumps({"RepetitionTime": 2.0}))
        return tmp_path / root

    return make


def select(folder, **query):
    return select_series(find_series(folder), SeriesQuery(**query))


def keys(selection):
    return [r.key for r in selection.recordings]


# find


def test_tables_are_found_at_any_depth_and_confounds_are_none(tree, caplog):
    folder = tree(
        "sub-01_timeseries.tsv",
        "xcp_d/sub-2/ses-a/func/sub-2_ses-a_task-rest_" + XCP.format("A"),
        "xcp_d/sub-2/ses-a/func/sub-2_ses-a_task-rest_motion.tsv",
        "xcp_d/sub-10/func/sub-10_task-rest_" + XCP.format("A"),
        "fmriprep/sub-2/func/sub-2_task-rest_desc-confounds_timeseries.tsv",
        "fmriprep/sub-2/func/sub-2_task-rest_desc-motion_timeseries.tsv",
        ".git/sub-9_timeseries.tsv",
        "sub-01_task-rest_relmat.tsv",
        "bochum-004_timeseries.tsv",
    )
    with caplog.at_level(logging.WARNING):
        found = find_series(folder).files
    assert [f.path.name.split("_")[0] for f in found] == ["sub-01", "sub-2", "sub-10"]
    assert "Passed over 1 tables whose names" in caplog.text


def test_links_are_followed_and_circles_end(tree, tmp_path):
    folder = tree("sub-01_timeseries.tsv")
    other = tree("sub-02/func/sub-02_timeseries.tsv", root="other")
    (folder / "link").symlink_to(other)
    (folder / "loop").symlink_to(folder)
    assert [f.labels["sub"] for f in find_series(folder).files] == ["02", "01"]


def test_a_folder_without_series_says_what_is_looked_for(tree, tmp_path):
    with pytest.raises(InputError, match="holds no table of parcel series"):
        find_series(tree("sub-01/func/sub-01_task-rest_desc-confounds_timeseries.tsv"))
    with pytest.raises(MissingInputError, match="does not exist"):
        find_series(tmp_path / "no")
    with pytest.raises(InputError, match="is not a folder"):
        find_series(tmp_path / "in" / "timeseries.json")


# atlas


def test_one_atlas_is_taken_and_several_are_listed(tree):
    folder = tree("sub-1_seg-A_timeseries.tsv")
    files = find_series(folder).files
    assert choose_atlas(files, None, folder) == choose_atlas(files, "a", folder) == "A"
    assert choose_atlas(files, "Other", folder) == "A"
    with pytest.raises(SelectionError, match="series of atlas A, not of Other"):
        choose_atlas(files, "Other", folder, strict=True)
    folder = tree("sub-1_seg-A_timeseries.tsv", "sub-1_seg-B400_timeseries.tsv", "sub-1_timeseries.tsv")
    files = find_series(folder).files
    with pytest.raises(
        SelectionError, match=r"series of atlas \(none in the name\), A, B400\. Choose one with --atlas"
    ):
        choose_atlas(files, None, folder)
    assert choose_atlas(files, "b-400", folder) == "B400"
    assert choose_atlas(files, "", folder) is None
    with pytest.raises(SelectionError, match="not of C"):
        choose_atlas(files, "C", folder)


def test_a_plain_table_is_of_any_atlas(tree):
    folder = tree("sub-1_timeseries.tsv")
    assert choose_atlas(find_series(folder).files, "X", folder, strict=True) is None


# select


def test_a_recording_is_told_by_its_name(tree):
    folder = tree(
        "sub-01_ses-b_task-rest_acq-x_run-2_" + XCP.format("A"), "sub-01_ses-b_task-rest_acq-x_run-2_motion.tsv"
    )
    (r,) = select(folder, atlas="A").recordings
    assert (r.subject, r.session, r.task, r.run, r.entities) == ("01", "b", "rest", "2", (("acq", "x"),))
    assert (r.space, r.repetition_time, r.dataset, r.mask) == ("MNI152NLin6Asym", 2.0, folder, None)
    assert r.key == "sub-01_ses-b_task-rest_acq-x_run-2"
    assert r.confounds.name == "sub-01_ses-b_task-rest_acq-x_run-2_motion.tsv"


def test_a_plain_table_is_of_the_first_task(tree):
    folder = tree("sub-01_timeseries.tsv", "sub-02_task-nback_timeseries.tsv")
    assert keys(select(folder)) == ["sub-01_task-rest"]
    found = select(folder, tasks=("nback",))
    assert keys(found) == ["sub-01_task-nback", "sub-02_task-nback"]
    (r, _) = found.recordings
    assert (r.task, r.space) == ("nback", "unknown")


def test_everybody_has_a_recording_or_a_failure(tree):
    folder = tree("sub-01_task-rest_timeseries.tsv", "sub-02_task-nback_timeseries.tsv")
    found = select(folder)
    assert keys(found) == ["sub-01_task-rest"]
    (failure,) = found.failures
    assert (failure.key, failure.kind) == ("sub-02", "selection")
    assert "no series of task rest; found task- nback" in failure.message


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"participants": ("3",)}, "No participant 3 in .*; found 01, 02"),
        ({"sessions": ("z",)}, "No series of task rest of session z in .*; found task- rest; ses- a"),
        ({"sessions": ("a", "z")}, r"of session a, z in .* \(no session z\)"),
        ({"tasks": ("x",)}, "No series of task x"),
        ({"tasks": ("rest", "rset")}, r"\(no task rset\); found task- rest"),
        ({"atlas": "Q"}, "found no series of this atlas"),
        ({"spaces": ("S",)}, "of space S"),
    ],
)
def test_a_query_that_nobody_meets(tree, query, words):
    folder = tree("sub-01_ses-a_task-rest_timeseries.tsv", "sub-02_ses-a_task-rest_timeseries.tsv")
    with pytest.raises(SelectionError, match=words):
        select(folder, **query)


def test_participants_and_sessions_are_chosen(tree):
    folder = tree(*(f"sub-{s}_ses-{v}_task-rest_timeseries.tsv" for s in ("01", "02") for v in "ab"))
    found = select(folder, participants=("02",), sessions=("b",))
    assert keys(found) == ["sub-02_ses-b_task-rest"]
    assert not found.failures


# one series a recording


@pytest.mark.parametrize(
    ("variants", "words", "filters"),
    [
        (("desc-simple", "desc-scrubbing"), "desc-: scrubbing, simple", {"desc": "simple"}),
        (("feature-a", "feature-b"), "feature-: a, b", {"feature": "a"}),
        (("desc-x_stat-mean", "stat-mean"), r"desc-: \(none\), x", {"desc": None}),
    ],
)
def test_series_of_several_kinds_are_not_mixed(tree, variants, words, filters):
    # One kind each is a mixture as well: nobody would see that two people were denoised differently.
    for people in ("11", "12"):
        names = [f"sub-{who}_task-rest_{v}_timeseries.tsv" for who, v in zip(people, variants, strict=True)]
        folder = tree(*names, root=f"in{people}")
        with pytest.raises(SelectionError, match=f"several kinds of series.*: {words}.*--bids-filter-file"):
            select(folder)
        path = folder / "filters.json"
        path.write_text(json.dumps({"bold": filters}))
        found = select(folder, filters=read_series_filters(path))
        assert len(found.recordings) == 1


def test_spaces_are_chosen_in_order(tree):
    names = ["sub-1_task-rest_space-A_timeseries.tsv", "sub-1_task-rest_space-B_timeseries.tsv"]
    folder = tree(*names, "sub-2_task-rest_space-A_timeseries.tsv")
    with pytest.raises(SelectionError, match=r"space-: A, B\. Choose one with --space"):
        select(folder)
    assert [r.space for r in select(folder, spaces=("B", "A")).recordings] == ["B", "A"]
    found = select(folder, spaces=("B",))
    assert [r.space for r in found.recordings] == ["B"]
    assert "sub-2 has no series of task rest of space B" in found.failures[0].message


@pytest.mark.parametrize(
    "names",
    [
        ("a/sub-1_task-rest_timeseries.tsv", "b/sub-1_task-rest_timeseries.tsv"),
        ("sub-1_task-rest_run-1_timeseries.tsv", "sub-1_task-rest_run-01_timeseries.tsv"),
        ("sub-1_task-rest_timeseries.tsv", "sub-1_timeseries.tsv"),
    ],
)
def test_two_tables_of_one_recording_are_a_failure_that_names_both(tree, names):
    found = select(tree(*names, "sub-2_timeseries.tsv"))
    assert keys(found) == ["sub-2_task-rest"]
    (failure,) = found.failures
    assert all(name in failure.message for name in names)


def test_runs_laid_end_to_end_are_passed_over(tree):
    names = [f"sub-1_task-rest_{run}seg-A_timeseries.tsv" for run in ("", "run-1_", "run-2_")]
    found = select(tree(*names, "sub-2_task-rest_seg-A_timeseries.tsv"), atlas="A")
    assert keys(found) == ["sub-1_task-rest_run-1", "sub-1_task-rest_run-2", "sub-2_task-rest"]
    (skipped,) = found.skipped
    assert (skipped.subject, skipped.path.name) == ("1", names[0])
    assert "end to end" in skipped.reason


# what one recording lacks costs nobody else


def test_a_table_that_is_not_fetched_or_has_no_repetition_time(tree):
    folder = tree("a/sub-1_timeseries.tsv", "b/sub-2_timeseries.tsv", "c/sub-3_timeseries.tsv")
    (folder / "a" / "sub-1_timeseries.tsv").unlink()
    (folder / "a" / "sub-1_timeseries.tsv").symlink_to(folder / "gone")
    (folder / "timeseries.json").unlink()
    (folder / "b" / "sub-2_timeseries.json").write_text(json.dumps({"SamplingFrequency": 0.5}))
    found = select(folder)
    assert [(f.key, f.kind) for f in found.failures] == [
        ("sub-1_task-rest", "missing"),
        ("sub-3_task-rest", "repetition-time"),
    ]
    assert [(r.key, r.repetition_time) for r in found.recordings] == [("sub-2_task-rest", 2.0)]
    assert [r.repetition_time for r in select(folder, repetition_time=2.0).recordings] == [2.0, 2.0]


# filters


def test_filters_may_name_any_entity(tmp_path):
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"bold": {"acquisition": "x", "feature": ["a", "b"]}, "t1w": {}}))
    assert read_series_filters(path) == {"bold": {"acq": "x", "feature": ["a", "b"]}}
    assert read_series_filters(None) == {}
    with pytest.raises(MissingInputError):
        read_series_filters(tmp_path / "no")
    path.write_text("[")
    with pytest.raises(UsageError, match="not valid JSON"):
        read_series_filters(path)
    path.write_text('{"bald": {}}')
    with pytest.raises(UsageError, match="unknown query bald"):
        read_series_filters(path)


@pytest.mark.parametrize("runs", [("run-01", "run-02"), ("dir-AP", "dir-PA"), ("dir-AP_run-01", "dir-PA_run-01")])
def test_what_is_laid_end_to_end_is_passed_over(tmp_path, runs):
    """xcp_d drops run- and dir- from the name of a concatenation; its frames would count twice."""
    for part in (*runs, ""):
        name = "_".join(p for p in ("sub-01_task-rest", part, "seg-A_timeseries.tsv") if p)
        path = tmp_path / "sub-01" / "func" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\tb\n1\t2\n2\t1\n")
    found = select_series(find_series(tmp_path), SeriesQuery(atlas="A", repetition_time=2.0))
    assert len(found.recordings) == len(runs)
    (skipped,) = found.skipped
    assert "laid end to end" in skipped.reason
    assert skipped.path.name == "sub-01_task-rest_seg-A_timeseries.tsv"


@pytest.mark.parametrize("preset", ["Simple+gsr", "Scrubbing.2", "Scrubbing.2+gsr", "Scrubbing.5", "Scrubbing.5+gsr"])
def test_giga_connectome_s_presets_are_found(tmp_path, preset):
    name = f"sub-01_task-rest_atlas-G_desc-10Parcels{preset}_timeseries.tsv"
    (tmp_path / name).write_text("a\tb\n1\t2\n2\t1\n")
    (file,) = find_series(tmp_path).files
    assert file.labels["desc"] == f"10Parcels{preset}"


def test_what_cannot_be_entered_costs_its_participant_alone(caplog):
    """A closed folder, a closed session and a circle of links: three rows; who is whole is imported."""
    with open_folder() as folder:
        for label, below in (("01", "func"), ("02", "func"), ("03", "ses-a"), ("03", "ses-b")):
            session = f"_{below}" if below.startswith("ses-") else ""
            path = folder / f"sub-{label}" / below / f"sub-{label}{session}_task-rest_seg-A_timeseries.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a\tb\n1\t2\n2\t1\n")
        (folder / "sub-04").symlink_to("sub-04")
        (folder / "logs").mkdir()
        query = SeriesQuery(atlas="A", repetition_time=2.0)
        with closed(folder / "sub-02", folder / "sub-03" / "ses-b", folder / "logs"):
            with caplog.at_level(logging.WARNING):
                found = select_series(find_series(folder), query)
            one = select_series(find_series(folder), replace(query, participants=("01",)))
        with closed(folder), pytest.raises(InputError, match="Permission denied"):
            find_series(folder)
        assert keys(found) == ["sub-01_task-rest", "sub-03_ses-a_task-rest"]
        assert [(f.key, f.kind) for f in found.failures] == [
            ("sub-02", "input"),
            ("sub-03", "input"),
            ("sub-04", "input"),
        ]
        assert "Permission denied" in found.failures[0].message
        assert "links" in found.failures[2].message
        assert f"Folder {folder / 'logs'} cannot be read: Permission denied. Passed over." in caplog.text
        assert (keys(one), one.failures) == (["sub-01_task-rest"], ())
