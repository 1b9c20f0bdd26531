"""Text files from outside: whatever lies at the path, one line about one file, and no waiting."""

import json
import math
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc import reading
from bids_fmmtc.errors import UnreadableError
from bids_fmmtc.reading import (
    is_formula,
    is_missing,
    is_there,
    read_json,
    read_lines,
    read_object,
    read_rows,
    read_text,
)


def refusal(read, path):
    with pytest.raises(UnreadableError) as caught:
        read(path)
    assert caught.value.message.startswith(path.name)
    assert "\n" not in caught.value.message
    return caught.value


def test_plain_files_are_read_with_and_without_a_byte_order_mark(tmp_path):
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "x.json").write_bytes(mark + b'{"RepetitionTime": 2.0}')
        (tmp_path / "x.tsv").write_bytes(mark + b"a\tb\r\n1\tn/a\r\n\r\n2\t3\r\n")
        assert read_object(tmp_path / "x.json") == {"RepetitionTime": 2.0}
        assert read_rows(tmp_path / "x.tsv") == [["a", "b"], ["1", "n/a"], ["2", "3"]]


def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "x.tsv").write_bytes(b'a\tb\n\n1\t"two\nlines"\n\r\n3\t4')
    assert read_lines(tmp_path / "x.tsv") == [(1, ["a", "b"]), (4, ["1", "two\nlines"]), (6, ["3", "4"])]
    assert read_rows(tmp_path / "x.tsv") == [row for _, row in read_lines(tmp_path / "x.tsv")]


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    pipe, sock = tmp_path / "pipe.json", tmp_path / "s.json"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)  # socket names are short
        server.bind(sock.name)
        assert "pipe" in refusal(read_json, pipe).message
        assert "pipe, socket or device" in refusal(read_rows, sock).message
    assert "folder" in refusal(read_text, tmp_path).message
    (tmp_path / "null.json").symlink_to(os.devnull)
    assert "device" in refusal(read_text, tmp_path / "null.json").message


def test_absent_and_not_fetched_are_told_apart(tmp_path):
    assert refusal(read_json, tmp_path / "no.json").message == "no.json does not exist."
    link = tmp_path / "annexed.json"
    link.symlink_to(".git/annex/objects/xx")
    assert refusal(read_json, link).hint
    assert is_there(link)
    assert not is_there(tmp_path / "no.json")
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    assert "cannot be read" in refusal(read_json, loop).message


def test_size_is_bounded_before_anything_is_read(tmp_path, monkeypatch):
    big = tmp_path / "big.json"
    with big.open("wb") as f:
        f.truncate(reading.JSON_BYTES + 1)
    assert "larger than 64 MiB" in refusal(read_json, big).message
    monkeypatch.setattr(reading, "TABLE_BYTES", 3)
    (tmp_path / "t.tsv").write_text("a\tb\n")
    assert "larger" in refusal(read_rows, tmp_path / "t.tsv").message


@pytest.mark.parametrize("depth", [reading.JSON_DEPTH + 2, 900, 100_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_depth_is_bounded(tmp_path, depth, brackets):
    half = len(brackets) - 1
    (tmp_path / "deep.json").write_text(brackets[:half] * depth + "1" + brackets[half:] * depth)
    assert "nested deeper" in refusal(read_json, tmp_path / "deep.json").message


def test_the_depth_that_is_allowed_is_read(tmp_path):
    (tmp_path / "d.json").write_text("[" * reading.JSON_DEPTH + "1" + "]" * reading.JSON_DEPTH)
    assert read_json(tmp_path / "d.json")


def test_numbers_out_of_range_are_infinite_never_an_overflow_later(tmp_path):
    (tmp_path / "n.json").write_text(f"[{'9' * 400}, -{'9' * 5000}, 1e999, NaN, 12]")
    a, b, c, d, e = read_json(tmp_path / "n.json")
    assert (a, b, c, e) == (math.inf, -math.inf, math.inf, 12)
    assert math.isnan(d)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'{"a": 1,}', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe{", "UTF-8"),
        (b"[1]", "a list"),
        (b"3", "number"),
    ],
)
def test_broken_content_is_named(tmp_path, content, word):
    (tmp_path / "x.json").write_bytes(content)
    assert word in refusal(read_object, tmp_path / "x.json").message


def test_a_table_with_an_endless_cell_is_refused(tmp_path):
    (tmp_path / "x.tsv").write_text("a\n" + "9" * 200_000 + "\n")
    assert "table" in refusal(read_rows, tmp_path / "x.tsv").message


def test_lines_keep_their_numbers_and_strict_quotes_swallow_none(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"\xef\xbb\xbfa\tb\r\n\r\n1\t2\n")
    assert read_lines(path) == [(1, ["a", "b"]), (3, ["1", "2"])]
    assert read_rows(path) == [["a", "b"], ["1", "2"]]
    path.write_text('a\tb\n"1\t2\n3\t4\n')
    assert len(read_lines(path)) == 2
    with pytest.raises(UnreadableError, match=r"not a readable table: unexpected end of data\. Check the quotes"):
        read_lines(path, strict=True)


def test_a_null_character_in_a_path_is_one_line(tmp_path):
    with pytest.raises(UnreadableError):
        read_text(tmp_path / "a\0b")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=20,
    )
)
def test_every_shallow_value_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "v.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value


@pytest.mark.parametrize("word", ["", " ", "n/a", "N/A", "NA", " na ", "#N/A", "NULL", "NaN", "nan", ".", "<NA>"])
def test_what_means_missing(word):
    assert is_missing(word)


@pytest.mark.parametrize("word", ["0", "none", "no", "-99", "nap", "n", "null hypothesis", "x"])
def test_what_does_not(word):
    assert not is_missing(word)


def test_a_refusal_is_said_once(tmp_path):
    os.mkfifo(tmp_path / "p.json")
    with pytest.raises(UnreadableError) as caught:
        read_json(tmp_path / "p.json")
    assert str(caught.value) == "p.json is no regular file, but a pipe, socket or device."


@pytest.mark.parametrize(
    ("cells", "may_compute"), [(("=1+1", "@SUM(A1)", "+cmd|x", "-A1"), True), (("-99", "+1.5", "a=b", ""), False)]
)
def test_what_a_spreadsheet_may_compute(cells, may_compute):
    assert [is_formula(cell) for cell in cells] == [may_compute] * 4
