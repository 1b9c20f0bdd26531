"""Features joined with outcomes: the right rows, and nobody who vanishes."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from outputs import RECIPE, H, Output, R, other_recipe, write_people

from bids_fmmtc.dataset.people.cohort import load_cohort
from bids_fmmtc.dataset.people.outcomes import OutcomeSpec, read_outcomes
from bids_fmmtc.dataset.store import write_json
from bids_fmmtc.errors import DataError, InputError, MissingInputError, RecipeError, SelectionError
from bids_fmmtc.recipe import SpaceSpec, Windows


@pytest.fixture
def out(tmp_path):
    """Six people with one scan each."""
    output = Output(tmp_path / "out")
    for i in range(1, 7):
        output.add(f"sub-{i}_task-rest", mean_fd=i / 10)
    return output


def outcomes(root, people=None, **spec):
    """Outcomes of six people, every other one a responder, or of the people given."""
    people = people or {f"sub-{i}": i % 2 for i in range(1, 7)}
    header = ("participant_id", "y", "arm", "site", "age", "fam")
    lines = [(p, y, "ab"[i % 3 == 2], "ns"[i % 2], 30 + i, f"F{i // 2}") for i, (p, y) in enumerate(people.items())]
    write_people(root.parent / "participants.tsv", header, *lines)
    return read_outcomes(OutcomeSpec("y", **spec), [root.parent])


def by_session(root, rows, **spec):
    """Outcomes of (participant, session, y)."""
    write_people(root.parent / "phenotype" / "s.tsv", ("participant_id", "session_id", "y"), *rows)
    return read_outcomes(OutcomeSpec("phenotype/s.tsv:y", **spec), [root.parent])


def reasons(loaded):
    return {e.key: e.reason for e in loaded.exclusions}


# labels


def test_labels_that_differ_by_leading_zeros_only_are_told_once_and_in_the_exclusions(out):
    people = {f"sub-{i}": i % 2 for i in range(1, 5)} | {"sub-05": 1, "sub-006": 0, "sub-07": 1}
    loaded = load_cohort([out.root], outcomes(out.root, people))
    (note,) = loaded.notes
    assert note == (
        "2 labels differ from those of the features by leading zeros only (sub-05 / sub-5, sub-006 / sub-6) and so "
        "stand for other people: write them alike in the table."
    )
    assert reasons(loaded) == {
        "sub-5_task-rest": "no outcome: not in the table; sub-05 of the table differs by leading zeros only",
        "sub-6_task-rest": "no outcome: not in the table; sub-006 of the table differs by leading zeros only",
        "sub-05": "no features; sub-5 of the features differs by leading zeros only",
        "sub-006": "no features; sub-6 of the features differs by leading zeros only",
        "sub-07": "no features",
    }
    with pytest.raises(DataError, match=r"nobody in the outcome's table .* 6 labels differ .*\(sub-01 / sub-1, .*…\)"):
        load_cohort([out.root], outcomes(out.root, {f"sub-0{i}": i % 2 for i in range(1, 7)}))


# the join


def test_everything_stands_in_its_row(out):
    found = outcomes(out.root, arm_column="arm", site_column="site", covariates=("age", "arm"), group_column="fam")
    cohort, exclusions, notes = load_cohort([out.root], found)
    assert cohort.keys == tuple(f"sub-{i}_task-rest" for i in range(1, 7))
    assert cohort.subjects == tuple(f"sub-{i}" for i in range(1, 7))
    assert cohort.y.tolist() == [1, 0, 1, 0, 1, 0]
    assert (cohort.kind, cohort.digest) == ("classification", RECIPE.digest)
    assert cohort.groups == ("F0", "F0", "F1", "F1", "F2", "F2")
    assert (cohort.sites, cohort.arms) == (tuple("nsnsns"), tuple("aabaab"))
    assert cohort.covariates["age"].tolist() == [[30 + i] for i in range(6)]
    assert cohort.covariates["arm"].tolist() == [[0], [0], [1], [0], [0], [1]]
    assert np.allclose(cohort.motion, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    for name, shape in (("brainlm", (2, H)), ("fc", (2, R, R))):
        for key, array in zip(cohort.keys, cohort.arrays[name], strict=True):
            assert (array.dtype, array.shape) == (np.float32, shape)
            assert (array == out.features[key].arrays[name]).all()
    assert [runs[0].mean_fd for runs in cohort.quality] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert (exclusions, notes) == ((), ())


def test_only_the_arrays_asked_for_are_kept(out):
    cohort = load_cohort([out.root], outcomes(out.root), modalities=("fc",)).cohort
    assert list(cohort.arrays) == ["fc"]
    with pytest.raises(SelectionError, match="features hold brainlm, fc, not vitmae"):
        load_cohort([out.root], outcomes(out.root), modalities=("vitmae", "fc"))


def test_natural_order_whatever_the_order_of_the_table(out):
    out.add("sub-10_task-rest")
    found = outcomes(out.root, {f"sub-{i}": i % 2 for i in (10, 3, 1, 2, 6, 5, 4)})
    assert load_cohort([out.root], found).cohort.subjects == tuple(f"sub-{i}" for i in (1, 2, 3, 4, 5, 6, 10))


def test_without_columns_there_are_no_sites_and_arms(out):
    cohort = load_cohort([out.root], outcomes(out.root)).cohort
    assert (cohort.sites, cohort.arms, cohort.covariates) == (None, None, {})
    assert cohort.groups == cohort.subjects


def test_runs_are_pooled_in_natural_order(out):
    for run, fd in (("10", 0.3), ("2", None), ("1", 0.1)):
        out.add(f"sub-7_task-rest_run-{run}", windows=int(run) % 3 + 1, mean_fd=fd)
    out.add("sub-8_task-rest", mean_fd=None)
    found = outcomes(out.root, {f"sub-{i}": i % 2 for i in range(1, 9)})
    cohort = load_cohort([out.root], found).cohort
    assert cohort.keys[6:] == ("sub-7_task-rest", "sub-8_task-rest")
    expected = [out.features[f"sub-7_task-rest_run-{run}"].arrays["fc"] for run in ("1", "2", "10")]
    assert (cohort.arrays["fc"][6] == np.concatenate(expected)).all()
    assert cohort.motion[6] == pytest.approx(0.2)
    assert math.isnan(cohort.motion[7])
    assert [len(runs) for runs in cohort.quality] == [1] * 6 + [3, 1]


# who is not in it


def test_everybody_is_in_the_cohort_or_in_the_exclusions(out):
    out.fail("sub-7_task-rest")
    out.fail("sub-8", "selection", "no recording.")
    out.add("sub-9_task-rest")
    out.add("sub-20_task-rest")
    people = {f"sub-{i}": i % 2 for i in range(1, 9)} | {"sub-9": "n/a", "sub-11": 1, "sub-12": "n/a"}
    loaded = load_cohort([out.root], outcomes(out.root, people))
    assert reasons(loaded) == {
        "sub-7_task-rest": "failed: image: it is cut off. Mend it.",
        "sub-8": "failed: selection: no recording. Mend it.",
        "sub-9_task-rest": "the outcome is missing",
        "sub-11": "no features",
        "sub-12": "no features",
        "sub-20_task-rest": "no outcome: not in the table",
    }
    assert all(e.participant == e.key.split("_")[0] for e in loaded.exclusions)
    assert len(loaded.cohort) == 6


def test_other_arms(out):
    loaded = load_cohort([out.root], outcomes(out.root, arm_column="arm", arms=("a",)))
    assert loaded.cohort.subjects == ("sub-1", "sub-2", "sub-4", "sub-5")
    assert reasons(loaded) == {"sub-3_task-rest": "other arm: b", "sub-6_task-rest": "other arm: b"}


def test_features_that_cannot_be_read(out):
    paths = sorted((out.root).rglob("*_features.json"))
    data = bytearray(paths[0].with_suffix(".safetensors").read_bytes())
    data[-1] ^= 1
    paths[0].with_suffix(".safetensors").write_bytes(data)
    write_json(paths[1], json.loads(paths[1].read_text()) | {"RecipeDigest": "x"})
    found = reasons(load_cohort([out.root], outcomes(out.root)))
    assert "is not the file its record describes" in found["sub-1_task-rest"]
    assert "another recipe than its dataset's" in found["sub-2_task-rest"]


def test_a_failed_run_leaves_its_session_to_the_others(out):
    out.add("sub-7_task-rest_run-1")
    out.fail("sub-7_task-rest_run-2")
    loaded = load_cohort([out.root], outcomes(out.root, {f"sub-{i}": i % 2 for i in range(1, 8)}))
    assert loaded.cohort.subjects[-1] == "sub-7"
    assert len(loaded.cohort.quality[-1]) == 1
    assert list(reasons(loaded)) == ["sub-7_task-rest_run-2"]


@pytest.mark.parametrize(("other", "pooled"), [(2.019, True), (2.03, False), (1.0, False)])
def test_runs_of_different_repetition_times_are_not_pooled(out, other, pooled):
    out.add("sub-7_task-rest_run-1")
    out.add("sub-7_task-rest_run-2", window_repetition_time=other)
    loaded = load_cohort([out.root], outcomes(out.root, {f"sub-{i}": i % 2 for i in range(1, 8)}))
    assert ("sub-7" in loaded.cohort.subjects) == pooled
    if not pooled:
        assert (
            f"differ in repetition time: sub-7_task-rest_run-1 2 s, sub-7_task-rest_run-2 {other:g} s"
            in (reasons(loaded)["sub-7_task-rest"])
        )


def test_two_sets_of_features_of_one_recording_are_not_counted_twice(out):
    out.add("sub-1_task-rest", space="T")
    loaded = load_cohort([out.root], outcomes(out.root))
    assert "several sets of features" in reasons(loaded)["sub-1_task-rest"]
    assert "sub-1" not in loaded.cohort.subjects


# several scans


def test_several_sessions_for_one_outcome_ask_for_the_baseline(out):
    for session in ("pre", "post"):
        out.add(f"sub-7_ses-{session}_task-rest")
    people = {f"sub-{i}": i % 2 for i in range(1, 8)}
    with pytest.raises(DataError, match=r"which scan predicts\? Choose .* --session-label: post, pre\."):
        load_cohort([out.root], outcomes(out.root, people))
    out.add("sub-8_ses-pre_task-rest")
    people |= {"sub-8": 0, "sub-9": 1, "sub-10": 0}
    out.add("sub-9_ses-pre_task-rest")
    out.add("sub-10_ses-pre_task-rest")
    loaded = load_cohort([out.root], outcomes(out.root, people, sessions=("ses-pre",)))
    assert loaded.cohort.keys == tuple(f"sub-{i}_ses-pre_task-rest" for i in (7, 8, 9, 10))
    assert reasons(loaded)["sub-7_ses-post_task-rest"] == "other session: post"
    assert reasons(loaded)["sub-1_task-rest"] == "other session: none"


def test_a_follow_up_scan_does_not_stand_in_for_a_failed_baseline(out):
    out.fail("sub-7_ses-pre_task-rest")
    out.add("sub-7_ses-post_task-rest")
    with pytest.raises(DataError, match="--session-label: post, pre"):
        load_cohort([out.root], outcomes(out.root, {f"sub-{i}": i % 2 for i in range(1, 8)}))


def test_several_scans_of_a_person_without_outcome_do_no_harm(out):
    out.add("sub-7_ses-pre_task-rest")
    out.add("sub-7_ses-post_task-rest")
    people = {f"sub-{i}": i % 2 for i in range(1, 7)} | {"sub-7": "n/a"}
    assert len(load_cohort([out.root], outcomes(out.root, people)).cohort) == 6


def test_several_tasks_or_acquisitions(out):
    out.add("sub-1_task-pain")
    with pytest.raises(DataError, match=r"--task-id: pain, rest"):
        load_cohort([out.root], outcomes(out.root))
    loaded = load_cohort([out.root], outcomes(out.root), tasks=("task-rest",))
    assert reasons(loaded) == {"sub-1_task-pain": "other task: pain"}
    with pytest.raises(SelectionError, match="no features of task motor; there are pain, rest"):
        load_cohort([out.root], outcomes(out.root), tasks=("motor",))
    out.add("sub-1_task-rest_acq-x")
    with pytest.raises(DataError, match="--bids-filter-file"):
        load_cohort([out.root], outcomes(out.root), tasks=("rest",))


def test_one_scan_each_of_different_sessions_is_told(out):
    out.add("sub-7_ses-post_task-rest")
    (note,) = load_cohort([out.root], outcomes(out.root, {f"sub-{i}": i % 2 for i in range(1, 8)})).notes
    assert "6 of session none, 1 of session post" in note


@pytest.fixture
def visits(tmp_path):
    """Three people with two sessions each."""
    output = Output(tmp_path / "visits")
    for i in range(1, 4):
        for session in "ab":
            output.add(f"sub-{i}_ses-{session}_task-rest")
    return output


def test_outcomes_by_session_give_several_rows_of_a_person(visits):
    rows = [(f"sub-{i}", f"ses-{s}", y) for i in range(1, 4) for s, y in (("a", 1), ("b", 0))]
    cohort = load_cohort([visits.root], by_session(visits.root, rows)).cohort
    assert cohort.subjects == ("sub-1", "sub-1", "sub-2", "sub-2", "sub-3", "sub-3")
    assert cohort.groups == cohort.subjects
    assert cohort.y.tolist() == [1, 0] * 3
    assert cohort.keys[1] == "sub-1_ses-b_task-rest"


def test_sessions_that_match_nothing_are_told(visits):
    rows = [("1", "a", 1), ("1", "b", 0), ("2", "a", 1), ("2", "b", 0), ("3", "c", 1), ("4", "a", 1)]
    loaded = load_cohort([visits.root], by_session(visits.root, rows))
    assert len(loaded.cohort) == 4
    assert reasons(loaded) == {
        "sub-3_ses-a_task-rest": "no outcome for ses-a; it has ses-c",
        "sub-3_ses-b_task-rest": "no outcome for ses-b; it has ses-c",
        "sub-3_ses-c": "no features",
        "sub-4_ses-a": "no features",
    }


def test_one_session_of_outcomes_by_session(visits):
    visits.add("sub-4_ses-a_task-rest")
    rows = [(f"sub-{i}", f"ses-{s}", i % 2) for i in range(1, 5) for s in "ab"]
    loaded = load_cohort([visits.root], by_session(visits.root, rows, sessions=("a",)))
    assert loaded.cohort.keys == tuple(f"sub-{i}_ses-a_task-rest" for i in range(1, 5))
    assert reasons(loaded)["sub-1_ses-b_task-rest"] == "other session: b"
    assert reasons(loaded)["sub-4_ses-b"] == "no features"


# people and datasets


def test_participants_asked_for(out):
    loaded = load_cohort([out.root], outcomes(out.root), participants=("sub-1", "2", "3", "4"))
    assert loaded.cohort.subjects == ("sub-1", "sub-2", "sub-3", "sub-4")
    assert reasons(loaded) == {f"sub-{i}_task-rest": f"other participant: {i}" for i in (5, 6)}
    with pytest.raises(SelectionError, match="no features of participant 99; there are 1, 2"):
        load_cohort([out.root], outcomes(out.root), participants=("1", "99"))


def test_ids_that_never_match_show_both_kinds(out):
    found = outcomes(out.root, {f"sub-0{i}": i % 2 for i in range(1, 7)})
    with pytest.raises(
        DataError, match=r"has sub-01, sub-02, sub-03, .*are of sub-1, sub-2, sub-3.* by leading zeros only"
    ):
        load_cohort([out.root], found)


def test_what_is_left_must_teach_something(out):
    for i in (1, 3):
        out.stale(f"sub-{i}_task-rest")
    with pytest.raises(DataError, match=r"those with features .* gives 1 responders and 3 non-responders"):
        load_cohort([out.root], outcomes(out.root))
    people = {f"sub-{i}": "n/a" for i in range(1, 7)} | {"sub-7": 1, "sub-8": 0, "sub-9": 1, "sub-10": 0}
    with pytest.raises(DataError, match=r"nobody has both .*: 6 x the outcome is missing; 4 x no features"):
        load_cohort([out.root], outcomes(out.root, people))


def test_features_are_used_though_the_last_attempt_at_them_failed_and_stale_ones_are_not(out):
    out.fail("sub-2_task-rest")
    out.stale("sub-3_task-rest")
    loaded = load_cohort([out.root], outcomes(out.root))
    assert "sub-2" in loaded.cohort.subjects
    assert "sub-3" not in loaded.cohort.subjects
    assert reasons(loaded)["sub-3_task-rest"].startswith("stale: made before a change of image or series")
    (note,) = [line for line in loaded.notes if "last attempt" in line]
    assert "sub-2_task-rest" in note
    assert "it is cut off" in note


def test_two_datasets_are_joined_and_one_given_twice_counts_once(out, tmp_path):
    other = Output(tmp_path / "other", other_recipe(space=SpaceSpec("affine")))
    for i in range(7, 10):
        other.add(f"sub-{i}_task-rest")
    (tmp_path / "link").symlink_to(out.root)
    found = outcomes(out.root, {f"sub-{i}": i % 2 for i in range(1, 10)})
    loaded = load_cohort([out.root, other.root, tmp_path / "link"], found)
    assert len(loaded.cohort) == 9
    assert loaded.cohort.digest == RECIPE.digest
    assert "space.on_mismatch" in loaded.notes[0]


def test_labels_that_clash_are_never_merged(out, tmp_path):
    other = Output(tmp_path / "other")
    other.add("sub-7_task-rest")
    other.fail("sub-3_task-rest")
    with pytest.raises(DataError, match=r"sub-3 is in .*out and in .*other: one person or two cannot be told"):
        load_cohort([out.root, other.root], outcomes(out.root))


def test_datasets_of_other_recipes_or_of_others_are_refused(out, tmp_path):
    other = Output(tmp_path / "other", other_recipe(windows=Windows(100, 100)))
    with pytest.raises(RecipeError, match=r"windows\.length: 200 there, 100 here"):
        load_cohort([out.root, other.root], outcomes(out.root))
    with pytest.raises(InputError, match="does not name bids_fmmtc"):
        load_cohort([tmp_path / "in"], outcomes(out.root))
    with pytest.raises(MissingInputError, match=r"no features .* in .*other"):
        load_cohort([other.root], outcomes(out.root))


def test_the_same_files_give_the_same_cohort(out):
    one, two = (load_cohort([out.root], outcomes(out.root, covariates=("age", "arm"))) for _ in range(2))
    assert one.cohort.keys == two.cohort.keys
    assert (one.cohort.y.tobytes(), one.exclusions) == (two.cohort.y.tobytes(), two.exclusions)
    assert list(one.cohort.covariates) == list(two.cohort.covariates)


# any mixture

STATE = st.sampled_from(["ok", "failed", "two runs", "bad run", "whole", "none"])
VALUE = st.sampled_from(["0", "1", "n/a", "absent"])


@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(STATE, VALUE), max_size=8))
def test_nobody_vanishes(tmp_path_factory, people):
    root = tmp_path_factory.mktemp("any")
    output = Output(root / "out")
    people = [*people, *[("ok", "0"), ("ok", "1")] * 2]  # so that there is something to learn from
    table = {}
    for i, (state, value) in enumerate(people):
        key = f"sub-{i}_task-rest"
        if value != "absent":
            table[f"sub-{i}"] = value
        if state == "ok":
            output.add(key)
        elif state == "failed":
            output.fail(key)
        elif state in ("two runs", "bad run"):
            output.add(f"{key}_run-1")
            output.add(f"{key}_run-2") if state == "two runs" else output.fail(f"{key}_run-2")
        elif state == "whole":
            output.fail(f"sub-{i}", "selection", "nothing there.")
    cohort, exclusions, _ = load_cohort([output.root], outcomes(output.root, table))
    expected = {
        f"sub-{i}"
        for i, (state, value) in enumerate(people)
        if value in ("0", "1") and state in ("ok", "two runs", "bad run")
    }
    assert set(cohort.subjects) == expected
    assert all(cohort.y[i] == float(table[subject]) for i, subject in enumerate(cohort.subjects))
    for i, (state, value) in enumerate(people):
        listed = [e for e in exclusions if e.participant == f"sub-{i}"]
        out = state != "none" or value != "absent"
        assert bool(listed) == ((out and f"sub-{i}" not in expected) or (state == "bad run" and out))
        assert all(e.reason for e in listed)
