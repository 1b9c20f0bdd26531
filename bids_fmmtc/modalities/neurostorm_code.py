"""Machine code of NeuroSTORM's kernels: compiled by a child process, kept as a file, loaded without numba.

numba is needed to compile only. To import it, and to load what it keeps, takes 137 MB and a second in every process;
LLVM alone, which llvmlite brings, loads an object file for 40 MB. So `neurostorm_kernels` is run as a child once, and
what it writes is kept in the folder of ``NUMBA_CACHE_DIR`` (the command line says one below its work folder; without
it, or where it cannot be written, every process compiles for itself).

A file's name is a digest of the kernels' sources, the versions and the processor; its content begins with its own, so
that what is damaged is compiled anew. Neither keeps out whoever can write into the folder: it is trusted as numba's own
cache was there, being the user's. Files are the owner's to read alone, and put in place in one step.
"""

# ruff: noqa: N803, PLR0913, PLR0917  (A, B, C, D are the scan's own names; a kernel takes every array it touches)

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from ctypes import CFUNCTYPE, c_double, c_int64, c_void_p
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bids_fmmtc.interrupts import end_with

SIGNATURES = {
    "gather_norm": "fiffdfnnn",
    "convolve": "fnfffnn",
    "scan": "ffffnfffffnnnn",
    "add_norm": "fifffdfnnn",
    "gelu": "ffnn",
    "add_rows": "fiffnnn",
}
"""Kernel -> its arguments in C: f float32*, i int64*, n int64, d double."""

_DTYPES = {"f": np.dtype(np.float32), "i": np.dtype(np.int64)}
_C_TYPES = {"f": c_void_p, "i": c_void_p, "n": c_int64, "d": c_double}
_SOURCES = tuple(Path(__file__).with_name(name) for name in ("neurostorm_kernels.py", "neurostorm_code.py"))
_COMPILER = (sys.executable, "-m", "bids_fmmtc.modalities.neurostorm_code")
_SECONDS = 900
"""Compiling takes six, and many times that where a hundred processes start at once."""
_WITHOUT = "NeuroSTORM runs without its compiled kernels, at twice the time and the same numbers within 5e-6:"


class Kernels:
    """The kernels of `neurostorm_kernels`, under their names and with their arguments, from machine code.

    Each checks its arrays first, and raises ValueError for one of another type, shape or order, or an index outside.
    """

    def __init__(self, code: bytes) -> None:
        import llvmlite.binding as llvm  # noqa: PLC0415

        with suppress(RuntimeError):  # wanted by llvmlite below 0.45, refused since
            llvm.initialize()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)  # the code lives as long as it
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self._functions = {
            name: CFUNCTYPE(None, *map(_C_TYPES.__getitem__, kinds))(self._engine.get_function_address(name))
            for name, kinds in SIGNATURES.items()
        }

    def gather_norm(self, x: Any, index: Any, weight: Any, bias: Any, eps: float, out: Any) -> None:
        """See `neurostorm_kernels.gather_norm`."""
        (n, c), m = x.shape, len(index)
        self._run("gather_norm", (x, n, c), (index, m), (weight, c), (bias, c), eps, (out, m, c), n, m, c)

    def convolve(self, xz: Any, length: int, weight: Any, bias: Any, out: Any) -> None:
        """See `neurostorm_kernels.convolve`."""
        m, e = out.shape
        _whole_windows(m, length)
        self._run("convolve", (xz, m, 2 * e), length, (weight, 4, e), (bias, e), (out, m, e), m, e)

    def scan(
        self, u: Any, xz: Any, dt: Any, bc: Any, length: int, bias: Any, A2: Any, D: Any, h: Any, out: Any
    ) -> None:
        """See `neurostorm_kernels.scan`."""
        (m, e), s = u.shape, len(A2)
        r = bc.shape[1] - 2 * s
        _whole_windows(m, length)
        if s % 4 or r < 0:
            raise ValueError(f"scan: expected states by fours and {2 * s} columns or more, found {s}, {bc.shape[1]}.")
        given = (u, m, e), (xz, m, 2 * e), (dt, m, e), (bc, m, r + 2 * s), length
        self._run("scan", *given, (bias, e), (A2, s, e), (D, e), (h, s + 2, e), (out, m, e), m, e, r, s)

    def add_norm(self, x: Any, index: Any, mixed: Any, weight: Any, bias: Any, eps: float, out: Any) -> None:
        """See `neurostorm_kernels.add_norm`."""
        (n, c), m = x.shape, len(index)
        given = (x, n, c), (index, m), (mixed, m, c), (weight, c), (bias, c)
        self._run("add_norm", *given, eps, (out, m, c), n, m, c)

    def gelu(self, x: Any, bias: Any) -> None:
        """See `neurostorm_kernels.gelu`."""
        m, c = x.shape
        self._run("gelu", (x, m, c), (bias, c), m, c)

    def add_rows(self, x: Any, index: Any, rows: Any, bias: Any) -> None:
        """See `neurostorm_kernels.add_rows`."""
        (n, c), m = x.shape, len(index)
        self._run("add_rows", (x, n, c), (index, m), (rows, m, c), (bias, c), n, m, c)

    def _run(self, name: str, *given: Any) -> None:
        """Call a kernel with its arguments, an array as (array, *shape that it must have)."""
        values = list(given)
        for i, kind in enumerate(SIGNATURES[name]):
            if kind in _DTYPES:
                array, *shape = given[i]
                _check(name, array, _DTYPES[kind], tuple(shape))
                if kind == "i" and array.max(initial=-1) >= len(given[0][0]):
                    raise ValueError(f"{name}: index {array.max()} of {len(given[0][0])} rows.")
                values[i] = array.ctypes.data
        self._functions[name](*values)


def _check(name: str, array: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape or not array.flags.carray:
        raise ValueError(
            f"{name}: expected {dtype} {shape}, writable, aligned and in C's order, found {array.dtype} {array.shape}."
        )


def _whole_windows(m: int, length: int) -> None:
    if length < 1 or m % length:
        raise ValueError(f"expected whole windows, found {m} tokens in windows of {length}.")


def load() -> Kernels | None:
    """Return the kernels, from kept code or newly compiled; None, with a warning, where they cannot be compiled."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    place = Path(folder) / f"neurostorm-{_key()}.o" if folder else None
    code = None if place is None else _kept(place)
    if code is None:
        try:
            sealed = _compiled()
            code = _opened(sealed)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
            warnings.warn(f"{_WITHOUT} {said[-1] if said else error}", RuntimeWarning, stacklevel=2)
            return None
        if place is not None:
            with suppress(OSError):  # then it is used and not kept
                _keep(place, sealed)
    return Kernels(code)


def _compiled() -> bytes:
    """Return what the child compiles; it writes to us and to no file, so nothing is left of one that is killed."""
    command = [*_COMPILER, str(os.getpid())]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_SECONDS).stdout


def _key() -> str:
    """Return a digest of everything that the machine code follows from."""
    import llvmlite.binding as llvm  # noqa: PLC0415

    known = [sha256(source.read_bytes()).hexdigest() for source in _SOURCES]
    known += [version("numba"), version("llvmlite"), version("numpy"), sys.version, platform.machine()]
    known += [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    return sha256(json.dumps(known).encode()).hexdigest()


def _seal(code: bytes) -> bytes:
    """Return machine code with its digest before it, as it is handed over and kept."""
    return sha256(code).digest() + code


def _opened(sealed: bytes) -> bytes:
    """Return sealed machine code; ValueError where it is not what was sealed."""
    digest, code = sealed[:32], sealed[32:]
    if sha256(code).digest() != digest:
        raise ValueError(f"machine code: {len(sealed)} bytes that do not match their digest.")
    return code


def _kept(place: Path) -> bytes | None:
    """Return the code that a file holds; None where there is none, or where it is not what was written."""
    try:
        return _opened(place.read_bytes())
    except (OSError, ValueError):
        return None


def _keep(place: Path, sealed: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=place.parent)  # readable by its owner only
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, not a path)
            file.write(sealed)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    """Compile the kernels for the process whose number is given, and write them to it, sealed."""
    end_with(int(sys.argv[1]))
    from bids_fmmtc.modalities.neurostorm_kernels import object_code  # noqa: PLC0415

    sys.stdout.buffer.write(_seal(object_code(SIGNATURES)))


if __name__ == "__main__":
    main()
