import pytest

from bids_fmmtc.report.kit.values import estimate_in, mapping, mappings, number_of, read_rows, real, texts
from bids_fmmtc.results.estimate import Estimate


def test_cells_and_json_of_the_wrong_kind_are_nothing(tmp_path):
    assert [real(x) for x in ("1.5", "n/a", "", None, "nan", "inf", "x")] == [1.5, *[None] * 6]
    assert [number_of(x) for x in (1, 1.5, True, "1", None, float("nan"))] == [1.0, 1.5, None, None, None, None]
    assert mapping([1]) == {}
    assert mappings("ab") == mappings({"a": {}}) == []
    assert texts("ab") == texts([1, None]) == []
    assert texts(["a", 1]) == ["a"]
    assert estimate_in({"a": {"value": 0.5, "low": "x", "high": None}}, "a") == Estimate(0.5)
    assert estimate_in({"a": 1}, "a") is estimate_in(None, "a") is None


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\tb\n" + b"x" * 200_000 + b"\t1\n"])
def test_a_table_that_is_none_is_none(tmp_path, content):
    (tmp_path / "t.tsv").write_bytes(content)
    assert read_rows(tmp_path / "t.tsv") is None
    assert read_rows(tmp_path / "no.tsv") is None


def test_rows_of_odd_lengths_hold_only_text(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n1\n1\t2\t3\n")
    assert read_rows(tmp_path / "t.tsv") == [{"a": "1"}, {"a": "1", "b": "2"}]
