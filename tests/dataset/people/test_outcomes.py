"""Outcomes with what goes with them: arms, sites, families, covariates, sessions; and the tables of real cohorts."""

import math

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from outputs import write_people
from small import SHARED

from bids_fmmtc.dataset.people.outcomes import OutcomeSpec, count_reasons, read_outcomes
from bids_fmmtc.dataset.tables import dataset_roots
from bids_fmmtc.errors import DataError, MissingInputError, SelectionError, UsageError

HEADER = ("participant_id", "Response", "VAS change", "arm", "site", "family", "age", "sex", "Scanlog: Coil")
PEOPLE = [
    ("sub-01", 1, 35, "drug", "north", "F1", 40, "F", "8 ch"),
    ("sub-02", 0, 5, "placebo", "south", "F1", 50, "M", "32 ch"),
    ("03", 1, 20, "drug", "south", "n/a", "n/a", "M", "16 ch"),
    ("sub-04", 0, 19.9, "drug", "north", "F2", 61.5, "n/a", "8 ch"),
    ("sub-05", "n/a", "NaN", "drug", "north", "", 33, "F", "8 ch"),
    ("sub-06", 0, -3, "n/a", "n/a", "F3", 29, "F", "8 ch"),
    ("sub-07", 1, 60, "sham drug", "north", "F4", 70, "M", "8 ch"),
    ("sub-08", 0, 0, "drug", "south", "F5", 45, "F", "8 ch"),
]


@pytest.fixture
def root(tmp_path):
    write_people(tmp_path / "participants.tsv", HEADER, *PEOPLE)
    return tmp_path


def read(root, outcome, **more):
    return read_outcomes(OutcomeSpec(outcome, **more), [root])


def values(outcomes):
    return {row.participant: row.y for row in outcomes.rows if not row.reason}


def test_a_binary_column(root):
    found = read(root, "Response")
    assert values(found) == {"sub-01": 1, "sub-02": 0, "sub-03": 1, "sub-04": 0, "sub-06": 0, "sub-07": 1, "sub-08": 0}
    assert {row.participant: row.reason for row in found.rows if row.reason} == {"sub-05": "the outcome is missing"}
    assert (found.kind, found.per_session, found.notes) == ("classification", False, ())
    assert found.sources == {"Response": str(root / "participants.tsv")}
    assert all((row.session, row.site, row.arm, row.group) == (None, None, None, row.participant) for row in found.rows)


def test_a_number_with_a_threshold_is_classified_and_without_it_predicted(root):
    found = read(root, "VAS change", responder_if=">=20")
    assert values(found) == {"sub-01": 1, "sub-02": 0, "sub-03": 1, "sub-04": 0, "sub-06": 0, "sub-07": 1, "sub-08": 0}
    assert found.definition == "responder where VAS change >= 20"
    found = read(root, "VAS change")
    assert found.kind == "regression"
    assert values(found)["sub-04"] == 19.9
    assert [row.participant for row in found.rows if math.isnan(row.y)] == ["sub-05"]


def test_one_arm(root):
    found = read(root, "VAS change", responder_if=">=20", arm_column="arm", arms=("drug",))
    assert values(found) == {"sub-01": 1, "sub-03": 1, "sub-04": 0, "sub-08": 0}
    reasons = {row.participant: row.reason for row in found.rows if row.reason}
    assert reasons == {
        "sub-02": "other arm: placebo",
        "sub-05": "the outcome is missing",
        "sub-06": "the arm is missing in column 'arm'",
        "sub-07": "other arm: sham drug",
    }


def test_all_arms(root):
    found = read(root, "Response", arm_column="arm")
    assert {row.participant: row.arm for row in found.rows if not row.reason}["sub-06"] == "n/a"
    assert len(values(found)) == 7
    two = read(root, "Response", arm_column="arm", arms=("drug", "sham drug"))
    assert "sub-07" in values(two)


def test_an_arm_that_nobody_has_lists_the_arms(root):
    with pytest.raises(SelectionError, match=r"arm 'Drug'; column 'arm' of .* 'drug', 'placebo', 'sham drug'"):
        read(root, "Response", arm_column="arm", arms=("Drug", "placebo"))
    with pytest.raises(UsageError, match="without --arm-column"):
        read(root, "Response", arms=("drug",))


def test_arms_that_leave_one_class_or_nobody(root):
    with pytest.raises(DataError, match="one class only: 0 responders and 1 non-responders"):
        read(root, "Response", arm_column="arm", arms=("placebo",))
    write_people(root / "phenotype" / "x.tsv", ("participant_id", "y", "arm"), ("1", "n/a", "a"), ("2", 1, "b"))
    with pytest.raises(DataError, match=r"nobody has an outcome in column 'y' .*1 x .*1 x other arm: b"):
        read(root, "phenotype/x.tsv:y", arm_column="arm", arms=("a",))


def test_sites_and_families(root):
    found = read(root, "Response", site_column="site", group_column="family")
    rows = {row.participant: row for row in found.rows}
    assert rows["sub-01"].group == rows["sub-02"].group == "F1"
    assert rows["sub-03"].group == "sub-03"
    assert rows["sub-05"].group == "sub-05"
    assert rows["sub-08"].site == "south"
    assert rows["sub-06"].reason == "the site is missing in column 'site'"


def test_covariates(root):
    found = read(root, "Response", covariates=("age", "sex", "Scanlog: Coil", "age", "VAS change"))
    assert found.levels == {"age": (), "sex": ("F", "M"), "Scanlog: Coil": ("16 ch", "32 ch", "8 ch"), "VAS change": ()}
    rows = {row.participant: row.covariates for row in found.rows}
    assert rows["sub-04"]["age"] == (61.5,)
    assert math.isnan(rows["sub-03"]["age"][0])
    assert (rows["sub-01"]["sex"], rows["sub-02"]["sex"]) == ((0,), (1,))
    assert math.isnan(rows["sub-04"]["sex"][0])
    assert [rows[f"sub-0{i}"]["Scanlog: Coil"] for i in (1, 2, 3)] == [(0, 1), (1, 0), (0, 0)]


def test_covariates_mean_the_same_in_another_cohort(root, tmp_path):
    levels = read(root, "Response", covariates=("age", "sex", "Scanlog: Coil")).levels
    people = [(i, i % 2, 30 + i, "M", coil) for i, coil in enumerate(["8 ch", "32 ch", "64 ch", "8 ch"])]
    header = ("participant_id", "y", "age", "sex", "Scanlog: Coil")
    write_people(tmp_path / "other" / "participants.tsv", header, *people)
    spec = OutcomeSpec("y", covariates=("age", "sex", "Scanlog: Coil"))
    found = read_outcomes(spec, [tmp_path / "other"], levels)
    assert found.levels == levels
    assert [row.covariates["sex"] for row in found.rows] == [(1,)] * 4
    assert found.rows[0].covariates["Scanlog: Coil"] == (0, 1)
    assert all(map(math.isnan, found.rows[2].covariates["Scanlog: Coil"]))
    assert "'64 ch', unknown to the cohort" in found.notes[0]
    with pytest.raises(DataError, match="holds 'M' where numbers are expected"):
        read_outcomes(spec, [tmp_path / "other"], levels | {"sex": ()})


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2", "x", "4"], "holds 'x' where numbers are expected"),
        (["n/a"] * 4, "is empty"),
        (["x"] * 4, "is 'x' for everybody"),
        (["x", "X", "y", "y"], "may mean the same"),
    ],
)
def test_covariates_that_cannot_be_used(tmp_path, cells, expected):
    lines = [(i, i % 2, cell) for i, cell in enumerate(cells)]
    write_people(tmp_path / "participants.tsv", ("participant_id", "y", "c"), *lines)
    with pytest.raises(DataError, match=expected):
        read(tmp_path, "y", covariates=("c",))


def test_a_covariate_of_names_is_refused(tmp_path):
    lines = [(i, i % 2, f"name{i}") for i in range(20)]
    write_people(tmp_path / "participants.tsv", ("participant_id", "y", "c"), *lines)
    with pytest.raises(DataError, match="20 different words in 20 rows"):
        read(tmp_path, "y", covariates=("c",))


@pytest.mark.parametrize("role", ["arm_column", "site_column", "group_column"])
def test_the_outcome_plays_no_second_part(root, role):
    with pytest.raises(UsageError, match="is the outcome and cannot be"):
        read(root, "Response", **{role: "Response"})
    with pytest.raises(UsageError, match="is the outcome and cannot be"):
        read(root, "Response", covariates=("age", "Response"))


@pytest.mark.parametrize("role", ["arm_column", "site_column", "group_column"])
def test_a_column_that_is_not_there_is_named_with_near_ones(root, role):
    with pytest.raises(DataError, match=r"no column 'Site ' .*Did you mean 'site'"):
        read(root, "Response", **{role: "Site "})


def test_other_columns_come_from_the_same_table_else_from_participants(root):
    write_people(
        root / "phenotype" / "pain.tsv", ("participant_id", "y", "arm"), *((f"0{i}", i % 2, "x") for i in range(1, 6))
    )
    found = read(root, "phenotype/pain.tsv:y", arm_column="arm", site_column="site")
    rows = {row.participant: row for row in found.rows}
    assert [(rows[p].arm, rows[p].site) for p in ("sub-01", "sub-02")] == [("x", "north"), ("x", "south")]
    assert found.sources["arm"].endswith("pain.tsv")
    assert found.sources["site"].endswith("participants.tsv")
    (root / "participants.tsv").unlink()
    with pytest.raises(DataError, match=r"no column 'site' in .*pain\.tsv; the columns are .*'y', 'arm'"):
        read(root, "phenotype/pain.tsv:y", site_column="site")


def test_outcomes_by_session(root):
    for i in range(1, 5):
        lines = (("ses-a", i % 2, 1), ("b", 1 - i % 2, 2), ("c", "n/a", 3))
        write_people(root / f"sub-0{i}" / f"sub-0{i}_sessions.tsv", ("session_id", "y", "weeks"), *lines)
    found = read(root, "sessions:y", covariates=("weeks", "age"), site_column="site")
    assert found.per_session
    assert len(found.rows) == 12
    assert [(r.session, r.y, r.covariates["weeks"], r.site) for r in found.rows[:2]] == [
        ("a", 1, (1,), "north"),
        ("b", 0, (2,), "north"),
    ]
    assert found.rows[2].reason == "the outcome is missing"
    only = read(root, "sessions:y", sessions=("ses-b",))
    assert only.sessions == ("b",)
    assert {row.reason for row in only.rows if row.session != "b"} == {"other session: ses-a", "other session: ses-c"}
    with pytest.raises(SelectionError, match="no row of session baseline; it has a, b, c"):
        read(root, "sessions:y", sessions=("baseline",))


def test_a_person_of_two_families_is_refused(root):
    lines = [(f"0{i}", s, i % 2, f"F{i}{s if i == 2 else ''}") for i in range(1, 5) for s in "ab"]
    write_people(root / "phenotype" / "x.tsv", ("participant_id", "session_id", "y", "fam"), *lines)
    with pytest.raises(DataError, match="sub-02 is in two groups of column 'fam': F2a and F2b"):
        read(root, "phenotype/x.tsv:y", group_column="fam")


def test_a_missing_table(root):
    with pytest.raises(MissingInputError, match="looked in"):
        read(root / "nowhere", "Response")


def test_reasons_are_counted():
    assert count_reasons(["b", "a", "b"]) == "2 x b; 1 x a"


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.text("abc123", min_size=1, max_size=3), st.sampled_from(["0", "1", "n/a"]), min_size=4).filter(
        lambda people: min(list(people.values()).count(c) for c in "01") >= 2
    ),
    st.sampled_from(["x", "Outcome (30 %): improved", "sessions", "Ünicode"]),
)
def test_everybody_in_the_table_has_a_row(tmp_path_factory, people, name):
    root = tmp_path_factory.getbasetemp() / "everybody"
    write_people(root / "participants.tsv", ("participant_id", name), *people.items())
    found = read(root, name)
    assert {row.participant: "n/a" if row.reason else f"{row.y:g}" for row in found.rows} == {
        f"sub-{label}": value for label, value in people.items()
    }


# real cohorts

DEVELOPMENT = SHARED / "data" / "fmriprep_meta" / "development_fmri_fmriprep1.3"
PAIN = SHARED / "data" / "rpn_pain122"


@pytest.mark.skipif(not DEVELOPMENT.is_dir(), reason="the tables of development_fmri are not part of the project")
def test_development_fmri():
    roots = dataset_roots(DEVELOPMENT)
    spec = OutcomeSpec(
        "Child_Adult", "==adult", site_column="Scanlog: Scanner", covariates=("Gender", "Scanlog: Coil", "DCCS Summary")
    )
    found = read_outcomes(spec, roots)
    usable = [row for row in found.rows if not row.reason]
    assert (len(found.rows), len(usable), sum(row.y for row in usable)) == (155, 155, 33)
    assert {row.site for row in usable} == {"3T1", "3T2"}
    assert len(found.levels["Scanlog: Coil"]) == 3
    with pytest.raises(DataError, match=r"'adult', 'child': which word is the responder"):
        read_outcomes(OutcomeSpec("Child_Adult"), roots)
    assert read_outcomes(OutcomeSpec("Age"), roots).kind == "regression"
    with pytest.raises(DataError, match=r"holds 'None' where numbers are expected"):
        read_outcomes(OutcomeSpec("Scanlog: Slice Gap"), roots)
    with pytest.raises(DataError, match=r"'fail', 'inc', 'pass': 3 words"):
        read_outcomes(OutcomeSpec("FB_Group"), roots)
    with pytest.raises(DataError, match=r"Did you mean 'Scanlog: Scanner'"):
        read_outcomes(OutcomeSpec("Scanlog:Scanner"), roots)


@pytest.mark.skipif(not PAIN.is_dir(), reason="the pain cohort of two centres is not part of the project")
def test_the_pain_cohort_of_two_centres():
    spec = OutcomeSpec(f"{PAIN}/participants.tsv:pain_sensitivity", site_column="center", covariates=("age", "male"))
    found = read_outcomes(spec, [])
    usable = [row for row in found.rows if not row.reason]
    assert found.kind == "regression"
    assert {row.site for row in usable} == {"bochum", "essen", "szeged"}
    assert 0 < len(usable) < len(found.rows)
    assert {row.reason for row in found.rows} == {"", "the outcome is missing"}
