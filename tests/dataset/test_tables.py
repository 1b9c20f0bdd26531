"""Tables of people as people write them: ids, encodings, odd names; and which file a name stands for."""

import os

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from outputs import write_people

from bids_fmmtc.dataset.tables import (
    dataset_roots,
    find_table,
    known,
    number,
    quoted,
    read_people,
    split_source,
)
from bids_fmmtc.errors import DataError, MissingInputError, UsageError

# cells


@pytest.mark.parametrize("text", ["", " ", "n/a", "N/A", "NaN", "nan", "\u00a0n/a ", "NA", "na", "#N/A", "NULL"])
def test_what_is_missing(text):
    assert known(text) is None


@pytest.mark.parametrize("text", ["none", "-", "0", "missing"])
def test_what_is_a_word(text):
    assert known(f" {text}\t") == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-30", -30), ("+.5", 0.5), ("2.", 2), ("1e2", 100), ("1E-2", 0.01), ("007", 7),
        ("1,5", None), ("20%", None), ("inf", None), ("nan", None), ("1_0", None), ("", None), ("1e999", None),
        ("0x10", None), ("\u0661", None), ("\u221230", None), ("1 2", None), (".", None), ("1\n", None),
    ],
)  # fmt: skip
def test_numbers(text, value):
    assert number(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read(value):
    assert number(repr(value)) == value


def test_long_lists_are_cut_and_counted():
    assert quoted(["a", "b'"]) == """'a', "b'\""""
    assert quoted(map(str, range(100)), 2) == "'0', '1', … (100 in all)"


# reading


@pytest.fixture
def path(tmp_path):
    return tmp_path / "participants.tsv"


@pytest.mark.parametrize(
    "data",
    [
        b"participant_id\tx\nsub-01\t1\nsub-02\t2\n",
        b"participant_id\tx\n01\t1\n02\t2",
        b"\xef\xbb\xbfparticipant_id\tx\r\nsub-01\t1\r\nsub-02\t2\r\n",
        b"participant_id\tx\rsub-01\t1\rsub-02\t2\r",
        b" participant_id \tx\n sub-01 \t1 \n\n\t\nsub-02\t 2\n",
        b"participant_id\tx\nsub-01\t1\nparticipant_id\tx\nsub-02\t2\n",  # two tables written one after the other
        b"participant_id\tx\nsub-01\t1\n participant_id\tx \nsub-02\t2\n",
        b"participant_id\tx\nsub-01\t1\nsub-01\t1\nsub-02\t2\t\t\n",
        b'x\tparticipant_id\n"1"\tsub-01\n2\tsub-02\n',
    ],
)
def test_the_same_table_in_many_spellings(path, data):
    path.write_bytes(data)
    table = read_people(path)
    assert table.participants == ("sub-01", "sub-02")
    column = table.column("x")
    assert (column.of("sub-01", None), column.of("sub-02", None), column.of("sub-03", None)) == ("1", "2", None)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "no column participant_id; the columns are none"),
        (b"subject\tx\n01\t1\n", r"no column participant_id; the columns are 'subject', 'x'"),
        (b"participant_id,x\nsub-01,1\n", "Save it with tabs"),
        (b"participant_id\tx\nsub-01\n", "line 2 has 1 cells, the header has 2"),
        (b"participant_id\tx\nsub-01\t1\t9\n", "line 2 has 3 cells"),
        (b"participant_id\tx\nn/a\t1\n", "line 2 has no participant_id"),
        (b"participant_id\tx\nsub-\t1\n", "line 2 has no participant_id"),
        (b"participant_id\tx\nNA\t1\n", "line 2 has no participant_id"),
        (b"participant_id\tx\nsub-n/a\t1\n", "line 2 has no participant_id"),
        (b"participant_id\tparticipant_id\nsub-01\tsub-01\n", "two columns called 'participant_id'"),
        (b"participant_id\tsession_id\tsession_id\nsub-01\ta\tb\n", "two columns called 'session_id'"),
        ("participant_id\tx\nsub-01\tä\n".encode("latin-1"), "not UTF-8"),
        ("participant_id\tx\nsub-01\t1\n".encode("utf-16"), "not UTF-8"),
        (
            b'participant_id\tx\nsub-01\t"1\nsub-02\t2\n',
            "readable table: unexpected end of data. Check the",
        ),
        (b'participant_id\tx\nsub-01\t"a" b\nsub-02\t2\n', "not a readable table"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused_by_line(path, data, expected):
    path.write_bytes(data)
    with pytest.raises(DataError, match=expected):
        read_people(path)


def test_a_table_that_is_not_fetched_or_not_readable(tmp_path):
    link = tmp_path / "participants.tsv"
    link.symlink_to(tmp_path / ".git" / "annex" / "objects" / "x")
    with pytest.raises(MissingInputError, match="datalad get"):
        find_table("participants.tsv", "x", [tmp_path])
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(DataError, match=r"folder\.tsv is no regular file"):
        read_people(tmp_path / "folder.tsv")
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(DataError, match="no regular file"):  # at once, though nobody will ever write to it
        read_people(tmp_path / "pipe.tsv")


def test_initials_that_read_like_a_missing_value_are_somebody(path):
    write_people(path, ("participant_id", "x"), ("sub-NA", 1), ("sub-null", 2))
    assert read_people(path).participants == ("sub-NA", "sub-null")


def test_what_else_than_bids_says_is_taken_as_missing_is_told(path):
    write_people(path, ("participant_id", "x", "y"), ("1", "NA", "n/a"), ("2", " #N/A", "NaN"), ("3", "NA", ""))
    table = read_people(path)
    assert table.column("x").notes == (f"column 'x' of {path}: '#N/A', 'NA' taken as missing.",)
    assert table.column("x").texts() == []
    assert table.column("y").notes == ()


def test_lines_that_contradict_each_other_name_both(path):
    write_people(path, ("participant_id", "x", "y"), ("sub-01", 1, 5), ("01", "n/a", 5))
    table = read_people(path)
    assert table.column("y").of("sub-01", None) == "5"
    with pytest.raises(DataError, match=r"sub-01: column 'x' is 1 in .* line 2 and n/a in .* line 3"):
        table.column("x")


def test_a_session_column_tells_rows_apart(path):
    people = (("1", "ses-a", "low"), ("1", "b", "high"), ("2", "a", "n/a"), ("3", "n/a", "low"))
    write_people(path, ("participant_id", "session_id", "x"), *people)
    column = read_people(path).column("x")
    assert [column.of("sub-1", s) for s in ("a", "b", "c")] == ["low", "high", None]
    assert column.of("sub-2", "a") is None
    assert column.of("sub-3", "a") == "low"  # a row without session holds for all
    assert column.of("sub-3", None) == "low"
    assert column.words() == ("high", "low")
    with pytest.raises(DataError, match=r"'high', 'low' for sessions of sub-1"):
        column.of("sub-1", None)


ODD = ["Scanlog: Scanner", "Réponse %", "a\u00a0b", "x ", ".tsv", "sessions:y", "sub:b.tsv", "=1", "疼痛"]


@pytest.mark.parametrize("name", ODD)
def test_odd_column_names_are_found_exactly(path, name):
    write_people(path, ("participant_id", name, "other"), ("sub-01", "1", "2"))
    source, column = split_source(f"participants.tsv:{name}")
    assert (source, column) == ("participants.tsv", name)
    table, notes = find_table(source, column, [path.parent])
    assert table.column(column).of("sub-01", None) == "1"
    assert not notes


def test_a_name_that_is_not_there_gets_near_ones(path):
    write_people(path, ("participant_id", "Response", "respons ", "age", "age"), ("sub-01", 1, 2, 3, 4))
    table = read_people(path)
    with pytest.raises(DataError, match=r"no column 'Respons'.*'participant_id', .*mean 'respons ', 'Response'"):
        table.column("Respons")
    with pytest.raises(DataError, match=r"Did you mean 'Response', 'respons '\? Case, white space"):
        table.column("RESPONSE")
    with pytest.raises(DataError, match=r"columns are .*'age'\.$"):
        table.column("zzzzzz")
    with pytest.raises(DataError, match="two columns called 'age'"):
        table.column("age")
    path.write_text("participant_id\tRe\u0301ponse\nsub-01\t1\n", encoding="utf-8")
    with pytest.raises(DataError, match="encoding of accents"):
        read_people(path).column("R\u00e9ponse")


LABEL = st.text("abcXYZ019", min_size=1, max_size=4).filter(lambda text: known(text) is not None)
NAME = st.text(st.characters(blacklist_characters='\t\r\n"', blacklist_categories=("Cs", "Cc")), min_size=1).filter(
    lambda text: (
        text.strip() not in ("", "participant_id", "session_id")
        and text == text.removeprefix("\ufeff")
        and ".tsv:" not in text  # after which the column of PATH.tsv:COLUMN begins
    )
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.dictionaries(LABEL, st.sampled_from(["1", "2.5", "n/a", "word"]), min_size=1), NAME, st.data())
def test_any_labels_and_any_column_name_come_back(tmp_path_factory, people, name, data):
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    spelt = {label: data.draw(st.sampled_from(["", "sub-", " sub-"])) + label for label in people}
    write_people(path, ("participant_id", name), *((spelt[label], value) for label, value in people.items()))
    source, asked = split_source(f"{path}:{name}")
    table, _ = find_table(source, asked, [])
    column = table.column(asked)
    assert set(table.participants) == {f"sub-{label}" for label in people}
    assert {label: column.of(f"sub-{label}", None) or "n/a" for label in people} == people


# which file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Response", ("participants.tsv", "Response")),
        ("Scanlog: Coil", ("participants.tsv", "Scanlog: Coil")),
        ("sessions:VAS", ("sessions", "VAS")),
        ("participants.tsv:sessions:x", ("participants.tsv", "sessions:x")),
        ("phenotype/pain.tsv:A: b", ("phenotype/pain.tsv", "A: b")),
        ("/a/b.tsv:c", ("/a/b.tsv", "c")),
        ("odd.tsv:name/x.tsv:y", ("odd.tsv:name/x.tsv", "y")),
    ],
)
def test_sources(text, expected):
    assert split_source(text) == expected


@pytest.mark.parametrize("text", ["", " ", "sessions:", "phenotype/x.tsv:", ".tsv:x"])
def test_sources_without_a_column(text):
    with pytest.raises(UsageError, match="names no column"):
        split_source(text)


def test_roots_reach_the_raw_dataset_that_fmriprep_did_not_copy_from(tmp_path):
    derivative = tmp_path / "raw" / "derivatives" / "fmriprep-24"
    (derivative / "sourcedata" / "raw").mkdir(parents=True)
    assert dataset_roots(derivative) == (derivative, tmp_path / "raw", derivative / "sourcedata" / "raw")
    assert dataset_roots(tmp_path / "raw", [derivative])[:2] == (tmp_path / "raw", derivative)
    assert dataset_roots(tmp_path / "raw" / "derivatives")[1] == tmp_path / "raw"
    assert dataset_roots(tmp_path / "nowhere") == ()


def test_the_first_root_with_the_column_is_used_and_said(tmp_path):
    roots = [tmp_path / name for name in "abc"]
    for root, column in zip(roots, ("age", "Response", "Response"), strict=True):
        write_people(root / "participants.tsv", ("participant_id", column), ("sub-01", "1"))
    table, notes = find_table("participants.tsv", "Response", roots)
    assert table.name == str(roots[1] / "participants.tsv")
    assert len(notes) == 2
    assert "has no column 'Response'" in notes[0]
    assert str(roots[2]) in notes[1]
    with pytest.raises(DataError, match=r"no column 'response' in .*/a/participants\.tsv or .*/b/"):
        find_table("participants.tsv", "response", roots)


def test_one_file_under_two_names_is_no_choice(tmp_path):
    write_people(tmp_path / "a" / "participants.tsv", ("participant_id", "x"), ("sub-01", "1"))
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert find_table("participants.tsv", "x", [tmp_path / "a", tmp_path / "b"])[1] == ()


def test_phenotype_and_other_tables(tmp_path, monkeypatch):
    write_people(tmp_path / "raw" / "phenotype" / "pain.tsv", ("participant_id", "x"), ("sub-01", "1"))
    write_people(tmp_path / "here" / "mine.tsv", ("participant_id", "x"), ("sub-01", "2"))
    monkeypatch.chdir(tmp_path / "here")
    roots = [tmp_path / "raw"]
    assert find_table("phenotype/pain.tsv", "x", roots)[0].column("x").of("sub-01", None) == "1"
    assert find_table("mine.tsv", "x", roots)[0].column("x").of("sub-01", None) == "2"
    assert find_table(str(tmp_path / "here" / "mine.tsv"), "x", [])[0].column("x").of("sub-01", None) == "2"
    with pytest.raises(MissingInputError, match=r"phenotype/pian\.tsv is not there .*there: phenotype/pain\.tsv"):
        find_table("phenotype/pian.tsv", "x", roots)
    # A participants.tsv that happens to lie here was not asked for.
    write_people(tmp_path / "here" / "participants.tsv", ("participant_id", "x"), ("sub-01", "3"))
    with pytest.raises(MissingInputError, match="looked in"):
        find_table("participants.tsv", "x", roots)


def test_sessions_of_every_participant_are_one_table(tmp_path):
    write_people(tmp_path / "sub-1" / "sub-1_sessions.tsv", ("session_id", "VAS"), ("ses-a", 3), ("b", 4))
    write_people(tmp_path / "sub-2" / "sub-2_sessions.tsv", ("session_id", "other"), ("ses-a", 9))
    (tmp_path / "sub-3").mkdir()
    table, _ = find_table("sessions", "VAS", [tmp_path / "nowhere", tmp_path])
    column = table.column("VAS")
    assert [column.of("sub-1", s) for s in "ab"] == ["3", "4"]
    assert column.of("sub-2", "a") is None
    with pytest.raises(DataError, match=r"sub-\*_sessions\.tsv; the columns are 'session_id', 'VAS', 'other'"):
        find_table("sessions", "vas score", [tmp_path])
    with pytest.raises(MissingInputError, match=r"sub-\*_sessions\.tsv is not there"):
        find_table("sessions", "VAS", [tmp_path / "sub-1"])
    write_people(tmp_path / "sub-3" / "sub-3_sessions.tsv", ("VAS", "session_id"), ("1", "n/a"))
    with pytest.raises(DataError, match="line 2 has no session_id"):
        find_table("sessions", "VAS", [tmp_path])


def test_nothing_is_written_where_tables_are_read(tmp_path):
    path = write_people(tmp_path / "participants.tsv", ("participant_id", "x"), ("sub-01", "1"))
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        find_table("participants.tsv", "x", dataset_roots(tmp_path))
        assert os.listdir(tmp_path) == ["participants.tsv"]  # noqa: PTH208
    finally:
        tmp_path.chmod(0o755)
