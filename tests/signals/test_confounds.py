"""The confounds table: read as it stands, or refused by line; framewise displacement."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_fmmtc.errors import ConfoundsError
from bids_fmmtc.signals.confounds import Confounds, read_confounds

MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


def meta_table(meta, name):
    path = next(meta.rglob(name))
    n = len(path.read_text(encoding="utf-8").splitlines()) - 1
    return read_confounds(path, n), n


# the table


@pytest.mark.parametrize("n", [39, 41, 1])
def test_rows_must_be_frames(table, n):
    with pytest.raises(ConfoundsError, match=f"holds 40 rows, the recording {n} frames"):
        read_confounds(table(), n)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a\tb\n",
        b"a\tb\n1\tx\n2\t3\n",
        b"a\tb\n1\n2\t3\n",
        b"\x1f\x8b\x08\x00\xff\xfe\n1\n2\n",
        b'a\n"' + b"1" * 200_000,
    ],
    ids=["empty", "header", "text", "ragged", "gzip", "quote"],
)
def test_what_is_no_table(tmp_path, content):
    path = tmp_path / "x_confounds.tsv"
    path.write_bytes(content)
    with pytest.raises(ConfoundsError, match=path.name):
        read_confounds(path, 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a\tb\n1\t2\t\n3\t4\t\n", r"line 2 of x_confounds\.tsv holds 3 cells, its header 2\."),
        ("a\tb\n\n1\t2\n3\n", r"line 4 of x_confounds\.tsv holds 1 cells, its header 2\."),
        ("a\tb\n1\t2\n3\t4 mm\n", r"line 3 of x_confounds\.tsv: b is '4 mm', not a number\."),
        ("a\tb\n1\t0,5\n3\t4\n", r"line 2 of x_confounds\.tsv: b is '0,5', not a number\."),
        ("a,b\n1,2\n3,4\n", r"x_confounds\.tsv is separated by commas, not by tabs\."),
        ("a\ta\n1\t2\n3\t4\n", r"x_confounds\.tsv has two columns 'a'\."),
        ("", r"x_confounds\.tsv is empty\."),
        ("\n\n", r"x_confounds\.tsv is empty\."),
    ],
)
def test_what_is_wrong_is_told_by_line_and_cell(tmp_path, content, told):
    path = tmp_path / "x_confounds.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfoundsError, match=told) as caught:
        read_confounds(path, 2)
    assert "fewer confounds" not in str(caught.value)  # no recipe would help


@pytest.mark.parametrize("word", ["n/a", "N/A", "n/a ", " ", "", "NaN", "NA", "#N/A", "NULL", "nan"])
def test_words_for_a_missing_value(tmp_path, word):
    path = tmp_path / "x_confounds.tsv"
    path.write_text(f"\ufefftrans_x\tcsf \n{word}\t1\n2\t{word}\n", encoding="utf-8")
    confounds = read_confounds(path, 2)
    assert confounds.names == ("trans_x", "csf")
    np.testing.assert_array_equal(confounds.values, [[np.nan, 1], [2, np.nan]])


def test_an_absent_table(tmp_path):
    with pytest.raises(ConfoundsError, match=r"x\.tsv does not exist"):
        read_confounds(tmp_path / "x.tsv", 2)


def test_table_is_read_as_it_stands(table):
    path = table(3, columns={"a": ["n/a", "1.5", "-2e-3"], "b": ["", "NaN", "4"]})
    confounds = read_confounds(path, 3)
    np.testing.assert_array_equal(confounds.column("a"), [np.nan, 1.5, -0.002])
    np.testing.assert_array_equal(confounds.column("b"), [np.nan, np.nan, 4])
    assert confounds.column("c") is None


# framewise displacement


@given(arrays(np.float64, st.tuples(st.integers(2, 20), st.just(6)), elements=st.floats(-3, 3)))
@settings(deadline=None)
def test_framewise_displacement_of_motion_is_powers(motion):
    got = Confounds(Path("x"), tuple(MOTION), motion).framewise_displacement
    assert np.isnan(got[0])
    for t in range(1, len(motion)):
        move = [abs(motion[t, i] - motion[t - 1, i]) for i in range(6)]
        assert got[t] == pytest.approx(sum(move[:3]) + 50 * sum(move[3:]), abs=1e-9)


def test_framewise_displacement_agrees_with_fmripreps(meta):
    confounds, _ = meta_table(meta, "sub-pixar123_task-pixar_desc-confounds_regressors.tsv")
    table_fd = confounds.framewise_displacement
    np.testing.assert_array_equal(table_fd, confounds.column("framewise_displacement"))
    motion = np.stack([confounds.column(c) for c in MOTION], 1)
    ours = Confounds(Path("x"), tuple(MOTION), motion).framewise_displacement
    np.testing.assert_allclose(ours[1:], table_fd[1:], atol=1e-4)


def test_where_framewise_displacement_comes_from():
    values = np.arange(14.0).reshape(2, 7)
    assert Confounds(Path("x"), (*MOTION[:5], "a", "b"), values).framewise_displacement is None
    old = Confounds(Path("x"), (*MOTION, "FramewiseDisplacement"), values).framewise_displacement
    np.testing.assert_array_equal(old, [6, 13])
