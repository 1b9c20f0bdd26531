"""Codes for missing values: what looks like one is refused until it is settled, and what is a value is let be."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs import write_people

from bids_fmmtc.dataset.people.codes import odd_numbers, says_missing, settle, unused
from bids_fmmtc.dataset.people.outcomes import OutcomeSpec, read_outcomes
from bids_fmmtc.dataset.tables import Column, read_people
from bids_fmmtc.errors import DataError, MissingInputError, UnreadableError


def column(*texts, **described):
    return Column("x", "t.tsv", {f"sub-{i}": {None: text} for i, text in enumerate(texts)}, described)


def of(numbers, *more):
    return column(*map(str, numbers), *map(str, more))


CHANGE = [(i * 37) % 60 - 10 for i in range(24)]  # -10 to 49
RELIEF = [(i * 37) % 61 for i in range(24)]  # 0 to 60
AGES = [18 + (i * 29) % 48 for i in range(24)]  # 18 to 65
OLD = [60 + (i * 17) % 36 for i in range(24)]  # 60 to 95
YEARS = [0.5, 0.7, 1, 1.2, 1.5, 2, 2.5, 3, 3, 4, 5, 7, 9, 14, 22, 30]  # since onset
SCALE = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]

# the rule


@pytest.mark.parametrize(
    ("numbers", "codes"),
    [
        (CHANGE, (-99,)), (CHANGE, (999,)), (CHANGE, (-99, 999)), (CHANGE, (9999,)), (CHANGE, (-999.9,)),
        (AGES, (-99,)), (AGES, (-9,)), (AGES, (-1,)), (AGES, (99,)), (AGES, (-9, 999)), (AGES, (-2147483648,)),
        (OLD, (999,)), (OLD, (-9,)), (YEARS, (-9,)), (YEARS, (99,)), (YEARS, (-1,)),
        ([0, 1] * 9, (9,)), ([0, 1] * 9, (-9,)), ([1, 2] * 9, (9,)), ([1, 2, 3] * 6, (8, 9)), ([0, 1] * 9, (99,)),
        (SCALE, (99,)), (SCALE, (88, 99)), (SCALE, (-9,)), (RELIEF, (999, 998)), ([1.0] * 12, (99,)),
    ],
)  # fmt: skip
def test_what_lies_far_outside_looks_like_a_code(numbers, codes):
    assert odd_numbers([*numbers, *codes]).far == tuple(sorted(codes))
    assert odd_numbers([*numbers, *codes * 3]).far == tuple(sorted(codes))  # nor does its number hide it
    with pytest.raises(DataError, match=r"holds .*, which may stand for a missing value: the others lie between"):
        settle(of(numbers, *codes), ())


@pytest.mark.parametrize(
    "numbers",
    [
        CHANGE, RELIEF, AGES, OLD, YEARS, SCALE, [0, 1] * 9, [1, 2] * 9, [-1, 1] * 9, [-1, 0, 1] * 6,
        [*CHANGE, -9], [*CHANGE, -9, -9, -9], [*RELIEF, -9], [*RELIEF, -1], [*OLD, 99], [*OLD, 97, 98, 99],
        [5, 6, 7, 8, 9] * 4, [7, 8, 9] * 6, [5, 5, 6, 9, 8, 7], [9] * 5, [99, 98, 97, 88], [*SCALE, *SCALE[7:]],
        [*range(70, 100)],
        [*range(900, 1000, 3)], [*range(-99, 0, 9)], [95.1, 96.4, 97.2, 98.5, 98.8, 99.9], [1, 2, 3, 4, 5, 7],
        [*RELIEF, 77, 88], [35.5, 36.9, 37.7, 38.8, 39.9], [],
    ],
)  # fmt: skip
def test_real_values_of_that_shape_are_let_be(numbers):
    assert odd_numbers(numbers).far == ()
    assert settle(of(numbers), ()).words() == of(numbers).words()


def test_the_lowest_and_the_highest_of_that_shape_are_told():
    middle = [40 + i % 41 for i in range(0, 82, 3)]  # 40 to 80
    assert odd_numbers([*middle, 99]).near == (99,)
    (note,) = settle(of(middle, 99), ()).notes
    assert note == "column 'x' of t.tsv: '99' taken as a value; if it is a code, give --missing-code."
    assert odd_numbers([*middle, 99, 99]).far == (99,)  # of several people, and farther than any two neighbours
    assert settle(of([*RELIEF, -9]), ()).notes
    assert not settle(of(CHANGE), ()).notes


@given(st.lists(st.integers(-60, 60), min_size=1, max_size=30), st.sampled_from([-999, 999, 9999, -9999, 99999]))
def test_a_code_of_another_size_is_always_found_and_its_others_never(numbers, code):
    found = odd_numbers([float(n) for n in (*numbers, code)])
    assert code in found.far or not [n for n in numbers if n not in found.far and not _shaped(n)]
    assert all(_shaped(n) for n in found.far)


def _shaped(n):
    digits = str(abs(int(n)))
    return set(digits) in ({"7"}, {"8"}, {"9"}) or n == -1 or (digits[:-1] == "9" and digits[-1] in "678")


@given(st.lists(st.integers(-200, 200).map(float), max_size=30), st.randoms(use_true_random=False), st.integers(1, 4))
def test_order_does_not_matter_and_every_number_is_in_one_place(numbers, random, times):
    found = odd_numbers(numbers)
    shuffled = list(numbers)
    random.shuffle(shuffled)
    assert odd_numbers(shuffled) == found or not numbers or all(map(_shaped, numbers))
    assert not set(found.far) & set(found.near)
    assert all(not found.low <= n <= found.high for n in found.far)


# words


@pytest.mark.parametrize(
    "text",
    ["missing", "Missing data", "data missing", "UNKNOWN", "unk.", "not available", "not_assessed", "Not applicable",
     "?", "-", "--", "*", "no answer", "score not recorded", "values are missing", "NA", " ", "not done"],
)  # fmt: skip
def test_words_that_say_it(text):
    assert says_missing(text)


@pytest.mark.parametrize(
    "text",
    ["no", "none", "nonresponder", "no response", "no missing teeth", "not improved", "placebo", "疼痛", "-99", "O",
     "dropout", "north", "lost"],
)  # fmt: skip
def test_words_that_do_not(text):
    assert not says_missing(text)


@pytest.mark.parametrize(
    ("texts", "odd"),
    [
        (("north", "south", "missing", "north"), "'missing'"),
        (("north", "south", "-99", "north"), "'-99'"),
        (("F", "M", "9", "F", "M"), "'9'"),
        (("F", "M", "9", "?", "F", "M"), r"'9', '\?'"),
    ],
)
def test_words_and_numbers_among_words_that_look_like_codes(texts, odd):
    with pytest.raises(DataError, match=f"holds {odd}, which may stand for a missing value. Give --missing-code"):
        settle(column(*texts), ())


def test_numbers_among_words_that_are_no_codes_are_let_be():
    for texts in (("a", "b", "3"), ("7", "8", "9", "10", "12a"), ("1", "2", "x")):
        assert settle(column(*texts), ()).words() == column(*texts).words()


# settling


def test_the_option_settles_numbers_however_they_are_written_and_words_in_any_case():
    found = settle(column("-99", "-99.0", "5", "6", "Unknown", None, "7.5"), ("-99", "unknown"))
    assert found.texts() == ["5", "6", "7.5"]
    (note,) = found.notes
    assert note.startswith("column 'x' of t.tsv: ")
    assert "'-99', '-99.0', 'Unknown' taken as missing, by --missing-code." in note


def test_the_option_settles_what_it_names_and_nothing_else():
    with pytest.raises(DataError, match=r"holds '999', which may"):
        settle(of(CHANGE, -99, 999), ("-99",))
    assert "999" in settle(of(CHANGE, -99, 999), ("-99", "n/a")).texts()
    assert settle(of(CHANGE, -99), ("n/a",)).notes == ()


def test_a_code_that_nobody_has_is_told():
    columns = [of([1, 2, -99]), column("a", "b")]
    assert unused(("-99", "B", "n/a"), columns) == ()
    assert unused(("-999", "c", "-99"), columns) == ("--missing-code: '-999', 'c' stands in none of the columns that "
                                                     "are read.",)  # fmt: skip


@pytest.mark.parametrize("listed", [[-99, 999], ["-99", "999"], {"-99": "skipped", "999": "late"}, [-99.0, "999", "x"]])
def test_missing_values_of_the_dictionary(listed):
    found = settle(Column("x", "t", of(CHANGE, -99, 999).values, {"MissingValues": listed}), ())
    assert found.texts() == list(map(str, CHANGE))
    assert "'999', '-99' taken as missing, by its data dictionary" in found.notes[0]


def test_one_missing_value_and_none_other():
    numbers = of(CHANGE, -99, 999).values
    assert "999" in settle(Column("x", "t", numbers, {"MissingValues": [-99, "n/a"]}), ()).texts()
    assert "-99" not in settle(Column("x", "t", numbers, {"MissingValues": -99}), ("999",)).texts()
    for wrong in ([[1]], [True], [None]):
        with pytest.raises(DataError, match="MissingValues of column 'x' of t in its data dictionary is no list"):
            settle(Column("x", "t", numbers, {"MissingValues": wrong}), ())


@pytest.mark.parametrize(
    ("about", "taken"),
    [
        ("not assessed", "missing"), ("Missing", "missing"), ({"Description": "unknown"}, "missing"),
        ("much worse", "value"), ({"Description": "the worst", "TermURL": "http://x"}, "value"),
        ("dropped out", "refused"), ("did not answer", "refused"), ("", "refused"), (3, "refused"),
    ],
)  # fmt: skip
def test_levels_of_the_dictionary(about, taken):
    levels = {"Levels": {"0": "no", "1": "yes", "9": about}}
    nine = Column("x", "t", of([0, 1] * 6, 9).values, levels)
    if taken == "refused":
        with pytest.raises(DataError, match="holds '9', which may"):
            settle(nine, ())
        return
    assert ("9" in settle(nine, ()).texts()) == (taken == "value")


# from a table to an outcome


def people(root, name="x", cells=(), described=None):
    cells = [*cells] or [*CHANGE, -99]
    write_people(root / "participants.tsv", ("participant_id", name), *((f"{i:02d}", c) for i, c in enumerate(cells)))
    if described is not None:
        (root / "participants.json").write_text(json.dumps({name: described}), encoding="utf-8-sig")
    return root


def read(root, outcome="x", **more):
    return read_outcomes(OutcomeSpec(outcome, **more), [root])


def test_the_dictionary_beside_participants(tmp_path):
    with pytest.raises(DataError, match="'-99', which may"):
        read(people(tmp_path))
    found = read(people(tmp_path, described={"Description": "VAS", "MissingValues": [-99]}))
    assert [row.reason for row in found.rows][-1] == "the outcome is missing"
    assert "by its data dictionary" in found.notes[0]
    (tmp_path / "participants.json").unlink()
    assert read(people(tmp_path), missing_codes=("-99",)).rows[-1].reason == "the outcome is missing"
    assert read(people(tmp_path), missing_codes=("n/a",)).rows[-1].y == -99
    assert "'-98' stands in none" in read(people(tmp_path), missing_codes=("-98", "n/a")).notes[-1]


def test_the_dictionary_beside_any_table(tmp_path):
    people(tmp_path / "phenotype")
    (tmp_path / "phenotype" / "participants.tsv").rename(tmp_path / "phenotype" / "pain.tsv")
    with pytest.raises(DataError, match="'-99', which may"):
        read(tmp_path, "phenotype/pain.tsv:x")
    (tmp_path / "phenotype" / "pain.json").write_text('{"x": {"MissingValues": [-99]}}')
    assert read(tmp_path, "phenotype/pain.tsv:x").rows[-1].reason == "the outcome is missing"


def test_the_dictionaries_beside_sessions(tmp_path):
    for i in range(1, 9):
        write_people(tmp_path / f"sub-{i}" / f"sub-{i}_sessions.tsv", ("session_id", "x"), ("a", i), ("b", -99))
    with pytest.raises(DataError, match="'-99', which may"):
        read(tmp_path, "sessions:x")
    (tmp_path / "sub-3" / "sub-3_sessions.json").write_text('{"x": {"MissingValues": [-99]}}')
    assert len([r for r in read(tmp_path, "sessions:x").rows if r.reason]) == 8
    (tmp_path / "sub-3" / "sub-3_sessions.json").rename(tmp_path / "sessions.json")
    assert len([r for r in read(tmp_path, "sessions:x").rows if r.reason]) == 8


def test_a_dictionary_that_cannot_be_read_is_named(tmp_path):
    people(tmp_path)
    path = tmp_path / "participants.json"
    path.write_text("{")
    with pytest.raises(UnreadableError, match=r"participants\.json is not valid JSON"):
        read_people(tmp_path / "participants.tsv").column("x")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="datalad get"):
        read(tmp_path)


def test_a_dictionary_that_says_nothing_of_the_column_does_no_harm(tmp_path):
    people(tmp_path, cells=CHANGE)
    for text in ('{"x": "VAS"}', '{"y": {"MissingValues": [1]}}', '{"x": {"Levels": "a, b"}}', '{"x": null}'):
        (tmp_path / "participants.json").write_text(text)
        assert all(not row.reason for row in read(tmp_path).rows)


@pytest.mark.parametrize("role", ["arm_column", "site_column", "group_column", "covariates"])
@pytest.mark.parametrize("cells", [("-99", 1, 2), ("missing", "a", "b"), ("-9", "a", "b")])
def test_arms_sites_families_and_covariates_are_looked_at_too(tmp_path, role, cells):
    lines = [(f"{i:02d}", i % 2, cells[0] if i == 3 else cells[1 + i // 6 % 2]) for i in range(12)]
    write_people(tmp_path / "participants.tsv", ("participant_id", "y", "z"), *lines)
    named = {role: ("z",) if role == "covariates" else "z"}
    with pytest.raises(DataError, match=f"column 'z' of .* holds '{cells[0]}', which may stand for a missing value"):
        read(tmp_path, "y", **named)
    found = read(tmp_path, "y", missing_codes=(cells[0],), **named)
    assert f"'{cells[0]}' taken as missing" in found.notes[0]
    row = found.rows[3]
    if role == "site_column":
        assert row.reason == "the site is missing in column 'z'"
    else:
        assert (row.arm, row.group) in {("n/a", "sub-03"), (None, "sub-03")}


@pytest.mark.parametrize("word", ["NA", "N/A", "#N/A", "NULL", " na ", "<NA>", "", "   ", "n.a.", "NaN"])
def test_words_of_other_programs_are_missing_in_every_column(tmp_path, word):
    header = ("participant_id", "y", "arm", "site", "family", "age", "sex")
    lines = [[f"{i:02d}", "yn"[i % 2], "ab"[i // 2 % 2], "ns"[i % 2], f"F{i}", 30 + i, "FM"[i % 2]] for i in range(14)]
    for place in range(1, len(header)):
        lines[place][place] = word
    write_people(tmp_path / "participants.tsv", header, *lines)
    spec = {"arm_column": "arm", "site_column": "site", "group_column": "family", "covariates": ("age", "sex")}
    found = read(tmp_path, "y", responder_if="==y", **spec)
    rows = found.rows
    assert rows[1].reason == "the outcome is missing"
    assert rows[2].arm == "n/a"
    assert rows[3].reason.startswith("the site is missing")
    assert rows[4].group == "sub-04"
    assert math.isnan(rows[5].covariates["age"][0])
    assert math.isnan(rows[6].covariates["sex"][0])
    assert sum(bool(row.reason) for row in rows) == 2
    told = word.strip().casefold() not in ("", "n/a", "nan")
    assert sum("taken as missing" in note for note in found.notes) == 6 * told
    assert not any(word.strip() in levels for levels in found.levels.values() if word.strip())
