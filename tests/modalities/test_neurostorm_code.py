"""Machine code: compiled by a child, kept, loaded without numba; what is damaged, missing or wrong."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from neurostorm_parts import random_clip, random_model
from patience import patience

from bids_fmmtc.modalities import neurostorm, neurostorm_code
from bids_fmmtc.modalities.numerics import one_thread

pytest.importorskip("llvmlite", reason="numba is not installed")

X = np.linspace(-9, 9, 24, dtype=np.float32).reshape(6, 4)
BIAS = np.array([0, 0.5, -2, 3], np.float32)


def gelu(kernels):
    x = X.copy()
    kernels.gelu(x, BIAS)
    return x


@pytest.fixture(scope="module")
def compiled():
    """Return the kernels, and the file that they are kept in, which the session's first use of them wrote."""
    kernels = neurostorm.kernels()
    assert kernels is not None
    (file,) = Path(os.environ["NUMBA_CACHE_DIR"]).glob("*.o")  # another worker's may be on its way there
    return kernels, file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "code"))
    return tmp_path / "code"


@pytest.fixture
def calls(monkeypatch, tmp_path, compiled):
    """Return the lines that a compiler writes when it is called; it is real but for its work, done already."""
    told = tmp_path / "calls"
    told.touch()
    code = "import sys, pathlib as p; p.Path(sys.argv[2]).open('a').write('x\\n'); "
    code += "sys.stdout.buffer.write(p.Path(sys.argv[1]).read_bytes())"
    monkeypatch.setattr(neurostorm_code, "_COMPILER", (sys.executable, "-c", code, str(compiled[1]), str(told)))
    return lambda: len(told.read_text().split())


# ----------------------------------------------------------------------------------------------------- keep and load


def test_a_process_that_scans_imports_llvm_alone_and_gives_the_same_bytes(compiled):
    code = (
        "import sys, torch; from neurostorm_parts import *; torch.set_num_threads(1)\n"
        "with torch.inference_mode(): v = random_model().vector(random_clip())\n"
        "print(v.numpy().tobytes().hex(), sorted({'numba', 'llvmlite'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=patience(60)).stdout
    with torch.inference_mode(), one_thread():
        own = random_model().vector(random_clip()).numpy()
    assert said.decode().strip() == f"{own.tobytes().hex()} ['llvmlite']"


def test_code_is_compiled_once_and_kept(folder, calls, compiled):
    assert np.array_equal(gelu(neurostorm_code.load()), gelu(compiled[0]))
    assert np.array_equal(gelu(neurostorm_code.load()), gelu(compiled[0]))
    assert calls() == 1
    (file,) = folder.iterdir()
    assert file.name == compiled[1].name
    assert file.read_bytes() == compiled[1].read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_loaded_computes_numba_s_own_bits(compiled):
    pytest.importorskip("numba", reason="numba is not installed")
    from bids_fmmtc.modalities import neurostorm_kernels

    assert np.array_equal(gelu(neurostorm_kernels), gelu(compiled[0]))
    x = np.random.default_rng(0).standard_normal((40, 72), np.float32)
    outs = np.empty((2, 9, 72), np.float32)
    for kernels, out in zip((neurostorm_kernels, compiled[0]), outs, strict=True):
        kernels.gather_norm(x, np.array([3, -1, 4, 39, 0, 9, 2, 6, 5]), x[0].copy(), x[1].copy(), 1e-5, out)
    assert np.array_equal(outs[0], outs[1])


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "longer"])
def test_a_damaged_file_is_compiled_again_and_never_run(harm, folder, calls, compiled, monkeypatch):
    neurostorm_code.load()
    (file,) = folder.iterdir()
    good = file.read_bytes()
    flipped = good[:9000] + bytes([good[9000] ^ 1]) + good[9001:]
    file.write_bytes({"cut": good[:-1], "flipped": flipped, "empty": b"", "longer": good + b"\0"}[harm])
    run, kernels = [], neurostorm_code.Kernels
    monkeypatch.setattr(neurostorm_code, "Kernels", lambda code: run.append(code) or kernels(code))
    assert np.array_equal(gelu(neurostorm_code.load()), gelu(compiled[0]))
    assert calls() == 2
    assert run == [good[32:]]
    assert file.read_bytes() == good


def test_other_sources_versions_or_processors_have_files_of_their_own(folder, calls, monkeypatch, tmp_path):
    import llvmlite.binding as llvm

    neurostorm_code.load()
    changed = []
    for source in neurostorm_code._SOURCES:
        changed.append(tmp_path / source.name)
        changed[-1].write_text(source.read_text().replace("five", "six") + "\n")
    kernels, code = neurostorm_code._SOURCES
    for name, value in (("_SOURCES", (kernels, changed[1])), ("_SOURCES", (changed[0], code))):
        with monkeypatch.context() as context:
            context.setattr(neurostorm_code, name, value)
            neurostorm_code.load()
    for package in ("numba", "llvmlite", "numpy"):
        with monkeypatch.context() as context:
            context.setattr(neurostorm_code, "version", lambda p, o=package: "0.0" if p == o else version(p))
            neurostorm_code.load()
    with monkeypatch.context() as context:
        context.setattr(llvm, "get_host_cpu_name", lambda: "another")
        neurostorm_code.load()
    with monkeypatch.context() as context:
        context.setattr(sys, "version", "4.0")
        neurostorm_code.load()
    assert calls() == len(list(folder.iterdir())) == 8


@pytest.mark.parametrize("place", ["nowhere", "in the way"])
def test_where_nothing_can_be_kept_the_code_runs_all_the_same(place, folder, calls, compiled, monkeypatch):
    if place == "nowhere":
        monkeypatch.delenv("NUMBA_CACHE_DIR")
    else:
        folder.write_text("a file where the folder should be")
    for n in (1, 2):
        assert np.array_equal(gelu(neurostorm_code.load()), gelu(compiled[0]))
        assert calls() == n


def test_several_writers_at_once_never_show_a_reader_half_a_file(tmp_path):
    place = tmp_path / "code" / "file.o"
    sealed = [neurostorm_code._seal(bytes([i]) * 200_000) for i in range(2)]
    neurostorm_code._keep(place, sealed[0])
    done = threading.Event()

    def write(one):
        for _ in range(150):
            neurostorm_code._keep(place, one)
        done.set()

    writers = [threading.Thread(target=write, args=(one,)) for one in sealed]
    for writer in writers:
        writer.start()
    found = [neurostorm_code._kept(place)]
    while not done.is_set():
        found.append(neurostorm_code._kept(place))
    for writer in writers:
        writer.join()
    assert {hashlib.sha256(code or b"").digest() for code in found} <= {one[:32] for one in sealed}
    assert list(place.parent.iterdir()) == [place]


# ---------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("child", "said"),
    [
        ("import a_package_that_is_not_there", "No module named 'a_package_that_is_not_there'"),
        ("import os; print('half', flush=True); os.kill(os.getpid(), 9)", "SIGKILL"),
        ("print('half')", "5 bytes that do not match"),
    ],
    ids=["failed", "killed", "half"],
)
def test_a_compiler_that_fails_is_said_and_torch_computes_the_same(child, said, folder, compiled, monkeypatch):
    monkeypatch.setattr(neurostorm_code, "_COMPILER", (sys.executable, "-c", child))
    model, clip = random_model(), random_clip()
    with torch.inference_mode():
        with monkeypatch.context() as context:
            context.setattr(neurostorm, "kernels", lambda: compiled[0])
            expected = model.vector(clip)
        neurostorm.kernels.cache_clear()
        try:
            with pytest.warns(RuntimeWarning, match=f"runs without its compiled kernels.*{said}") as told:
                found = model.vector(clip)
        finally:
            neurostorm.kernels.cache_clear()
    assert len(told) == 1  # a process says it once, and tries once
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)
    assert not folder.exists()


def test_a_compiler_without_the_process_that_waits_for_it_ends():
    orphan = [*neurostorm_code._COMPILER, str(os.getppid())]
    done = subprocess.run(orphan, capture_output=True, timeout=patience(60), check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGKILL, b"")


# --------------------------------------------------------------------------------------------------------- arguments


def arguments():
    """Return good arguments of each kernel by its name and theirs: 2 windows of 3 tokens, 8 rows of 4 channels."""
    rng = np.random.default_rng(0)
    rows = {n: rng.standard_normal(n, np.float32) for n in ((8, 4), (6, 4), (6, 8), (6, 11), (4, 4), (4,))}

    def new(*shape):
        return rows[shape].copy()

    norm = {"index": np.array([7, -1, 0, 3, 4, 2]), "weight": new(4), "bias": new(4), "eps": 1e-5, "out": new(6, 4)}
    index = norm["index"].copy()
    scan = {"u": new(6, 4), "xz": new(6, 8), "dt": new(6, 4), "bc": new(6, 11), "length": 3, "bias": new(4)}
    scan |= {"A2": -abs(new(4, 4)), "D": new(4), "h": new(6, 4), "out": new(6, 4)}
    return {
        "gather_norm": {"x": new(8, 4), **norm},
        "convolve": {"xz": new(6, 8), "length": 3, "weight": new(4, 4), "bias": new(4), "out": new(6, 4)},
        "scan": scan,
        "add_norm": {"x": new(8, 4), "index": index, "mixed": new(6, 4), **{k: norm[k] for k in list(norm)[1:]}},
        "gelu": {"x": new(6, 4), "bias": new(4)},
        "add_rows": {"x": new(8, 4), "index": index, "rows": new(6, 4), "bias": new(4)},
    }


def read_only(array):
    array.flags.writeable = False
    return array


HARMS = {
    "type": lambda a: a.astype(np.float64) if a.dtype == np.float32 else a.astype(np.int32),
    "shape": lambda a: np.concatenate([a, a[:1]]),
    "columns": lambda a: np.ascontiguousarray(a[..., :-1]),
    "order": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "rows apart": lambda a: np.repeat(a, 2, 0)[::2],
    "axis more": lambda a: a[None],
    "misaligned": lambda a: np.frombuffer(bytearray(b"\0" + a.tobytes()), a.dtype, a.size, 1).reshape(a.shape),
    "read-only": read_only,
}
POSSIBLE = {"shape": {"x"}, "columns": {"bc"}}  # more rows to choose from, or a scan of a smaller rank
ARRAYS = [(k, n) for k, given in arguments().items() for n, v in given.items() if isinstance(v, np.ndarray)]


@pytest.mark.parametrize("kernel", arguments())
def test_good_arguments_are_taken(kernel, compiled):
    getattr(compiled[0], kernel)(**arguments()[kernel])


@pytest.mark.parametrize("harm", HARMS)
def test_no_array_of_another_type_shape_or_order_reaches_machine_code(harm, compiled, monkeypatch):
    def reached(*_values):
        raise AssertionError("machine code was called")

    monkeypatch.setattr(compiled[0], "_functions", dict.fromkeys(neurostorm_code.SIGNATURES, reached))
    for kernel, name in ARRAYS:
        if name in POSSIBLE.get(harm, ()):
            continue
        given = arguments()[kernel]
        given[name] = HARMS[harm](given[name])
        with pytest.raises(ValueError, match=r"expected|unpack"):
            getattr(compiled[0], kernel)(**given)


INDEXED = ("gather_norm", "add_norm", "add_rows")


@pytest.mark.parametrize(
    ("kernel", "wrong", "said"),
    [
        *((k, {"index": np.array([8, -1, 0, 3, 4, 2])}, "index 8 of 8 rows") for k in INDEXED),
        *((k, {"length": n}, "whole windows") for k, n in itertools.product(("convolve", "scan"), (0, -3, 4, 7))),
        ("scan", {"A2": np.zeros((5, 4), np.float32), "h": np.zeros((7, 4), np.float32)}, "states by fours"),
        ("scan", {"A2": np.zeros((8, 4), np.float32), "h": np.zeros((10, 4), np.float32)}, "16 columns or more"),
    ],
)
def test_an_index_or_a_length_that_leads_outside_is_refused(kernel, wrong, said, compiled):
    with pytest.raises(ValueError, match=said):
        getattr(compiled[0], kernel)(**arguments()[kernel] | wrong)
