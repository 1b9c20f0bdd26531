"""Names, and files that are there whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from patience import patience
from PIL import Image
from qualities import FAULTLESS

from bids_fmmtc.dataset import store
from bids_fmmtc.dataset.store import (
    Layout,
    cell,
    read_features,
    read_record,
    read_table,
    sweep,
    together,
    write_array,
    write_bytes,
    write_features,
    write_grey,
    write_json,
    write_table,
)
from bids_fmmtc.errors import DataError, OutputError
from bids_fmmtc.plain import to_json
from bids_fmmtc.types import Features, Recording

RECORDING = Recording("01", "a", "rest", "1", (("acq", "x"),), "S", "2", Path("/b"), None, None, 2.0, Path("/d"))

# names


def test_names_are_those_of_the_tree_we_promise():
    layout = Layout(Path("/out"), "A424")
    source = "sub-01_ses-a_task-rest_acq-x_run-1"
    func = Path("/out/sub-01/ses-a/func")
    assert layout.derivative(RECORDING, "timeseries", ".tsv") == func / f"{source}_space-S_atlas-A424_timeseries.tsv"
    matrix = layout.derivative(RECORDING, "relmat", ".tsv", "pearsoncorrelation")
    assert matrix == func / f"{source}_space-S_atlas-A424_meas-pearsoncorrelation_relmat.tsv"
    key = RECORDING.session_key
    assert layout.prediction("01", "a", key, ".json") == func / f"{key}_desc-fmmtc_prediction.json"
    assert layout.scans("01", "a", ".tsv") == Path("/out/sub-01/ses-a/sub-01_ses-a_scans.tsv")
    assert layout.scans("01", None, ".tsv") == Path("/out/sub-01/sub-01_scans.tsv")
    assert layout.relative(matrix) == f"sub-01/ses-a/func/{matrix.name}"


# whole or not at all

WRITER = """
import os, sys
from pathlib import Path
from bids_fmmtc.dataset import store
real = os.fsync
def slow(f):
    # The new bytes are on their way, the old file still stands: say so, and wait for the end.
    sys.stdout.write("writing\\n"); sys.stdout.flush()
    import time; time.sleep(600)
os.fsync = slow
store.write_bytes(Path(sys.argv[1]), b"new" * 1000000)
"""


def test_a_killed_writer_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "x.tsv"
    write_bytes(path, b"old")
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "writing\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=patience(10))
        child.stdout.close()
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_readers_never_see_half_a_file(tmp_path):
    path, stop = tmp_path / "folder" / "x", tmp_path / "stop"
    code = "import sys\nfrom pathlib import Path\nfrom bids_fmmtc.dataset.store import write_bytes\ni = 0\n"
    code += "while not Path(sys.argv[2]).exists():\n"
    code += "    write_bytes(Path(sys.argv[1]), bytes([65 + i % 26]) * 300_000)\n    i += 1"
    child = subprocess.Popen([sys.executable, "-c", code, str(path), str(stop)])
    seen = set()
    while child.poll() is None and len(seen) < 15:
        if path.exists():
            data = path.read_bytes()
            assert data == data[:1] * 300_000
            seen.add(data[:1])
        else:
            time.sleep(0.01)
    stop.touch()
    assert child.wait() == 0
    assert len(seen) == 15  # different contents, so it was written meanwhile
    assert [p.name for p in path.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("below", ["file/x.tsv", "file/a/b/x.tsv", "folder"])
def test_what_cannot_be_written_is_an_output_error(tmp_path, below):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OutputError, match=f"cannot write {tmp_path / below}: .*(directory|exists)") as caught:
        write_bytes(tmp_path / below, b"x")
    assert caught.value.exit_code == 73
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_json(path, {"a": 2})
    assert read_record(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
def test_a_device_that_is_really_full(tmp_path, monkeypatch):
    monkeypatch.setattr(store.secrets, "token_hex", lambda _: "token")
    (tmp_path / ".x.token.tmp").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        write_bytes(tmp_path / "x", b"x")
    assert not list(tmp_path.iterdir())


def test_files_written_together_take_their_places_together_or_not_at_all(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    (tmp_path / "file").touch()

    def write():
        with together():
            write_bytes(tmp_path / "a", b"new")
            assert (tmp_path / "a").read_bytes() == b"old"
            write_bytes(tmp_path / "file" / "b", b"new")

    with pytest.raises(OutputError):
        write()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "file"]
    with together():
        write_bytes(tmp_path / "a", b"new")
        write_bytes(tmp_path / "b", b"new")
        assert not (tmp_path / "b").exists()
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"new", b"new"]
    write_bytes(tmp_path / "a", b"newer")  # a write of its own is placed at once again
    assert (tmp_path / "a").read_bytes() == b"newer"


def test_what_a_killed_write_left_is_swept_and_what_is_being_written_is_not(tmp_path):
    path = tmp_path / "sub-01" / "x.tsv"
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "writing\n"
        assert sweep(tmp_path) == 0
        assert len(list(path.parent.iterdir())) == 1
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=patience(10))
        child.stdout.close()
    strange = [path.parent / name for name in (".hidden.tmp", "x.0123456789abcdef.tmp", ".x.0123456789abcdeg.tmp")]
    for other in strange:
        other.touch()
    assert sweep(tmp_path, below=False) == 0
    assert sweep(tmp_path) == 1
    assert set(path.parent.iterdir()) == set(strange)
    assert sweep(tmp_path / "absent") == 0


# tables


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(width=32)).filter(
        lambda a: not np.isinf(a).any()
    )
)
def test_arrays_come_back_to_the_bit(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "array.tsv"
    columns = [f"c{i}" for i in range(values.shape[1])]
    write_array(path, columns, values)
    rows = read_table(path)
    assert list(rows[0]) == columns
    cells = np.array([[row[c] for c in columns] for row in rows])
    assert ((cells == "n/a") == np.isnan(values)).all()
    again = np.where(cells == "n/a", "nan", cells).astype(np.float64).astype(np.float32)
    whole = ~np.isnan(values)
    assert (again[whole].view(np.int32) == values[whole].view(np.int32)).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"), (float("nan"), "n/a"), (float("inf"), "n/a"), ("", "n/a"), ([], "n/a"), (True, "true"),
        (False, "false"), (0, "0"), (0.1, "0.1"), (1 / 3, "0.333333333"), (["a", "b"], "a,b"), ("a\tb\nc", "a b c"),
    ],
)  # fmt: skip
def test_cells(value, text):
    assert cell(value) == text


def test_a_table_has_one_line_a_row_whatever_is_in_it(tmp_path):
    rows = [{"a": 'quo"te', "b": "two\nlines"}, {"b": "é"}]
    write_table(tmp_path / "t.tsv", ("a", "b"), rows)
    text = (tmp_path / "t.tsv").read_text(encoding="utf-8")
    assert text == 'a\tb\nquo"te\ttwo lines\nn/a\té\n'
    assert [r["b"] for r in read_table(tmp_path / "t.tsv")] == ["two lines", "é"]


def test_grey_levels_come_back_and_are_the_same_bytes_each_time(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (40, 70)).astype(np.uint8)
    for name in ("a.png", "b.png"):
        write_grey(tmp_path / name, levels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as found:
        assert (found.format, found.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(found), levels)


def test_json_keeps_order_and_refuses_nan(tmp_path):
    write_json(tmp_path / "x.json", {"b": "é", "a": 1})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "b": "é",\n  "a": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", None])
def test_a_broken_record_counts_as_none(tmp_path, content):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    assert read_record(tmp_path / "x.json") is None


# features


@pytest.fixture
def stored(tmp_path):
    """Features on disk with the record beside them."""
    rng = np.random.default_rng(0)
    arrays = {"fc": rng.standard_normal((2, 3, 3)).astype(np.float32), "brainlm": np.zeros((2, 5), np.float32)}
    features = Features("k", np.array([[0, 5], [5, 10]], np.int32), arrays, FAULTLESS, "digest")
    sha256 = write_features(tmp_path / "x_features.safetensors", features)
    path = tmp_path / "x_features.json"
    record = {
        "Key": "k",
        "Status": "ok",
        "FeaturesSHA256": sha256,
        "Quality": to_json(FAULTLESS),
        "RecipeDigest": "digest",
    }
    write_json(path, record)
    return features, path


def test_features_come_back(stored):
    features, path = stored
    again = read_features(path)
    assert (again.key, again.digest, again.quality) == (features.key, features.digest, features.quality)
    assert again.windows.dtype == np.int32
    assert (again.windows == features.windows).all()
    assert set(again.arrays) == set(features.arrays)
    for name, array in features.arrays.items():
        assert again.arrays[name].dtype == np.float32
        assert (again.arrays[name].view(np.int32) == array.view(np.int32)).all()


def test_the_same_features_are_the_same_bytes(stored, tmp_path):
    features, path = stored
    write_features(tmp_path / "again.safetensors", features)
    assert (tmp_path / "again.safetensors").read_bytes() == path.with_suffix(".safetensors").read_bytes()


def test_an_array_that_is_not_contiguous_is_stored_right(stored, tmp_path):
    features, path = stored
    turned = Features("k", features.windows, {"fc": features.arrays["fc"].transpose(0, 2, 1)}, FAULTLESS, "d")
    record = json.loads(path.read_text())
    record["FeaturesSHA256"] = write_features(path.with_suffix(".safetensors"), turned)
    write_json(path, record)
    assert (read_features(path).arrays["fc"] == turned.arrays["fc"]).all()


@pytest.mark.parametrize("at", [0, 8, 200, -1])
def test_a_changed_byte_is_found(stored, at):
    arrays = stored[1].with_suffix(".safetensors")
    data = bytearray(arrays.read_bytes())
    data[at] ^= 1
    arrays.write_bytes(data)
    with pytest.raises(DataError, match=r"x_features\.safetensors is not the file its record describes"):
        read_features(stored[1])


@pytest.mark.parametrize(
    "change", [{"Status": "failed"}, {"Key": None}, {"FeaturesSHA256": None}, {"Quality": None}, {"RecipeDigest": None}]
)
def test_a_record_that_lacks_something_is_refused(stored, change):
    path = stored[1]
    record = {k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not None}
    write_json(path, record)
    with pytest.raises(DataError, match="x_features"):
        read_features(path)


def test_absent_arrays_or_records_are_refused(stored):
    path = stored[1]
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(DataError, match="No such file"):
        read_features(path)
    path.unlink()
    with pytest.raises(DataError, match="holds no features"):
        read_features(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"not safetensors at all"])
def test_a_file_of_another_kind_is_refused_even_with_its_own_checksum(stored, content):
    path = stored[1]
    path.with_suffix(".safetensors").write_bytes(content)
    record = json.loads(path.read_text()) | {"FeaturesSHA256": store.hashlib.sha256(content).hexdigest()}
    write_json(path, record)
    with pytest.raises(DataError):
        read_features(path)


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+cmd(x)", "-cmd|' /C calc'!A0"])
def test_a_cell_is_never_a_formula(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-3", "+1e-5", "-inf", "-", "+", "sub-01", "a=b", "n/a"])
def test_what_is_no_formula_stays(text):
    assert cell(text) == text


def test_a_cell_holds_no_control_character():
    assert cell("a\x1b[2J\tb") == "a\\x1b[2J b"
