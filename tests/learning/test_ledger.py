import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from bids_fmmtc.errors import OutputError
from bids_fmmtc.learning.ledger import Ledger

PIECE = {"scores": np.arange(6.0).reshape(2, 3), "state/a.b": np.array([1, 2], np.float32)}


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "work", "d" * 64)


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def files(ledger):
    return [p.name for p in ledger.folder.iterdir()]


ARRAYS = st.sampled_from([np.float32, np.float64, np.int64, np.bool_, "U3"]).flatmap(
    lambda dtype: hn.arrays(dtype, hn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text("abcXYZ/._- 09", min_size=3, max_size=12), ARRAYS, max_size=4), st.text(max_size=300))
def test_a_piece_comes_back_as_it_was_under_any_name(tmp_path, piece, name):
    ledger = Ledger(tmp_path, "x" * 64)
    ledger.put(name, piece)
    assert same(ledger.get(name), piece)
    ledger.forget(name)
    assert ledger.get(name) is None
    ledger.forget(name)


def test_pieces_are_told_apart_by_name_and_by_run(tmp_path, ledger):
    ledger.put("a", PIECE)
    assert ledger.get("b") is None
    assert Ledger(tmp_path / "work", "e" * 64).get("a") is None
    assert same(Ledger(tmp_path / "work", "d" * 64).get("a"), PIECE)


def test_a_new_piece_takes_the_place_of_the_old(ledger):
    ledger.put("a", PIECE)
    ledger.put("a", {"n": np.array(1)})
    assert same(ledger.get("a"), {"n": np.array(1)})
    assert len(files(ledger)) == 1


def test_without_a_folder_nothing_is_remembered():
    ledger = Ledger(None, "d" * 64)
    ledger.put("a", PIECE)
    assert ledger.get("a") is None
    assert ledger.path("a") is None
    ledger.forget("a")


def test_once_computes_once(ledger):
    calls = []

    def compute():
        calls.append(1)
        return {"n": [1.5, 2]}

    first = ledger.once("a", compute)
    assert same(first, {"n": np.array([1.5, 2])})
    assert same(ledger.once("a", compute), first)
    assert calls == [1]
    ledger.forget("a")
    ledger.once("a", compute)
    assert calls == [1, 1]


def test_no_damage_of_a_bit_is_taken_for_a_piece(ledger):
    ledger.put("a", PIECE)
    path = ledger.path("a")
    whole = path.read_bytes()
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << (i % 8)
        path.write_bytes(damaged)
        found = ledger.get("a")
        assert found is None or same(found, PIECE), i
    for n in range(0, len(whole), 7):
        path.write_bytes(whole[:n])
        assert ledger.get("a") is None
    path.write_bytes(b"something else")
    assert ledger.get("a") is None
    path.unlink()
    path.mkdir()
    assert ledger.get("a") is None


def test_objects_are_neither_written_nor_left_half_written(ledger):
    with pytest.raises(ValueError, match="Object arrays"):
        ledger.put("a", {"n": np.array([{}])})
    assert files(ledger) == []


def test_a_failed_write_leaves_the_old_piece_and_nothing_else(ledger):
    ledger.put("a", PIECE)

    def fail(temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        ledger.write(ledger.path("a"), fail)

    def interrupt(temporary):
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.write(ledger.path("a"), interrupt)
    assert same(ledger.get("a"), PIECE)
    assert len(files(ledger)) == 1


def test_a_work_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "work").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        Ledger(tmp_path / "work", "d" * 64).put("a", PIECE)


def test_processes_may_write_the_same_piece_at_once(tmp_path, ledger):
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom bids_fmmtc.learning.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]), 'd' * 64)\n"
        "for i in range(100): ledger.put('a', {'n': np.full(1000, int(sys.argv[2]))})"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "work")]
    writers = [subprocess.Popen([*arguments, str(n)]) for n in (1, 2)]
    seen = set()
    while any(w.poll() is None for w in writers):
        found = ledger.get("a")
        if found is not None:
            assert found["n"].shape == (1000,)
            seen |= set(found["n"].tolist())
    assert [w.returncode for w in writers] == [0, 0]
    assert seen <= {1, 2}
    assert len(files(ledger)) == 1
