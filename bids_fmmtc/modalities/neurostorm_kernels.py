"""Elementwise work of NeuroSTORM's blocks on a CPU, compiled by numba where that is installed.

Between the matrix products of a block lie a gather, two LayerNorms, a short convolution, the selective scan and
activations. As torch operations each of them walks over memory by itself and the scan keeps every state; here each is
one loop with channels in the vector lanes. `neurostorm` computes the same without numba, within 5e-6.

Only a process that compiles imports this: `neurostorm_code` asks it for the object file of all kernels, and loads that
where the model runs, without numba.

Shapes: m tokens of whole windows, window after window, L tokens each; C channels, E = 2 C inner channels, S states.
Of the fast-math flags `contract` is allowed (fused multiply-add), and `reassoc` for the two sums of a LayerNorm: the
same input gives the same bits on the same machine.
"""

# ruff: noqa: N803, PLR0913, PLR0917  (A, B, C, D are the scan's own names; a kernel takes every array it touches)
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numba as nb
import numpy as np
from numba import carray, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[np.float32]

_C: dict[str, object] = {"nopython": True, "boundscheck": False, "error_model": "numpy"}
_JIT: dict[str, object] = {**_C, "fastmath": {"contract"}}
_f = np.float32

# 2**f on [-0.5, 0.5] and log1p(y)/y on [0, 1]: Chebyshev interpolation, largest relative error 3e-9 and 5e-8.
_EXP2 = tuple(
    _f(c)
    for c in np.polynomial.chebyshev.Chebyshev.interpolate(np.exp2, 5, [-0.5, 0.5])
    .convert(kind=np.polynomial.Polynomial)
    .coef
)
_LOG1P = tuple(
    _f(c)
    for c in np.polynomial.chebyshev.Chebyshev.interpolate(lambda y: np.log1p(y + 1e-12) / (y + 1e-12), 10, [0, 1])
    .convert(kind=np.polynomial.Polynomial)
    .coef
)
_E0, _E1, _E2, _E3, _E4, _E5 = _EXP2
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8, _L9, _L10 = _LOG1P
_LOG2E = _f(np.log2(np.e))
_MAGIC = _f(12582912.0 + 127)  # 1.5 * 2**23: adding it rounds to an integer, which then stands in the low bits, biased
_LEAST = _f(-125.0)  # 2**-125 is the smallest that the exponent's bits hold safely; below, 0 for all purposes
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
# Abramowitz and Stegun 7.1.26: erf within 1.5e-7.
_P, _Q1, _Q2, _Q3, _Q4, _Q5 = (
    _f(v) for v in (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
_ROOT_HALF = _f(np.sqrt(0.5))


@intrinsic
def _power(_context: Any, _value: Any) -> Any:
    """2**k for the float `_MAGIC` + k: bits << 23, as float32."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        from llvmlite import ir  # noqa: PLC0415

        word = ir.IntType(32)
        bits = builder.bitcast(args[0], word)
        return builder.bitcast(builder.shl(bits, word(23)), ir.FloatType())

    return types.float32(types.float32), codegen


@nb.jit(inline="always", **_JIT)
def _exp2(x: Any) -> Any:
    """2**x for x <= 127."""
    x = max(x, _LEAST)
    k = x + _MAGIC
    f = x - (k - _MAGIC)
    p = _E0 + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * _E5))))
    return p * _power(k)


@nb.jit(inline="always", **_JIT)
def _sigmoid(x: Any) -> Any:
    e = _exp2(-abs(x) * _LOG2E)
    return (_ONE if x >= _ZERO else e) / (_ONE + e)


@nb.jit(inline="always", **_JIT)
def _softplus(x: Any) -> Any:
    y = _exp2(-abs(x) * _LOG2E)
    p = _L6 + y * (_L7 + y * (_L8 + y * (_L9 + y * _L10)))
    p = _L0 + y * (_L1 + y * (_L2 + y * (_L3 + y * (_L4 + y * (_L5 + y * p)))))
    return max(x, _ZERO) + y * p


@nb.jit(**{**_JIT, "fastmath": {"contract", "reassoc"}})
def _norm(row: Array, weight: Array, bias: Array, eps: float, out: Array) -> None:
    """LayerNorm of one token (C,); its two sums may be taken in vectors, in an order that a machine keeps."""
    width = row.shape[0]
    scale = _ONE / _f(width)
    total = _ZERO
    for c in range(width):
        total += row[c]
    mean = total * scale
    square = _ZERO
    for c in range(width):
        d = row[c] - mean
        square += d * d
    inverse = _ONE / np.sqrt(square * scale + _f(eps))
    for c in range(width):
        out[c] = (row[c] - mean) * inverse * weight[c] + bias[c]


@nb.jit(**_JIT)
def gather_norm(x: Array, index: Any, weight: Array, bias: Array, eps: float, out: Array) -> None:
    """LayerNorm of rows ``x[index]``; rows of padding (index < 0) become zero, as the reference pads after the norm."""
    for m in range(index.shape[0]):
        if index[m] < 0:
            out[m, :] = _ZERO
        else:
            _norm(x[index[m]], weight, bias, eps, out[m])


@nb.jit(**_JIT)
def convolve(xz: Array, length: int, weight: Array, bias: Array, out: Array) -> None:
    """SiLU of the causal depth-wise convolution, four taps, of the first half of ``xz`` (m, 2 E); weight is (4, E)."""
    width = out.shape[1]
    for first in range(0, out.shape[0], length):
        for t in range(length):
            m = first + t
            for c in range(width):
                out[m, c] = bias[c] + weight[3, c] * xz[m, c]
            for back in range(1, min(t, 3) + 1):
                for c in range(width):
                    out[m, c] += weight[3 - back, c] * xz[m - back, c]
            for c in range(width):
                v = out[m, c]
                out[m, c] = v * _sigmoid(v)


@nb.jit(**_JIT)
def scan(
    u: Array, xz: Array, dt: Array, bc: Array, length: int, bias: Array, A2: Array, D: Array, h: Array, out: Array
) -> None:
    """Scan each window and gate it: ``out = (scan(u) + D u) * SiLU(z)``.

    Parameters
    ----------
    u
        (m, E) after the convolution.
    xz
        (m, 2 E); its second half is the gate z.
    dt
        (m, E) before its bias and softplus.
    bc
        (m, R + 2 S); its last 2 S columns are B and C.
    A2
        (S, E): -exp(A_log), transposed, times log2(e).
    h
        (S + 2, E) scratch: the states, a step's dt and its dt u.
    out
        (m, E).
    """
    width, states = u.shape[1], A2.shape[0]
    b0 = bc.shape[1] - 2 * states
    c0 = b0 + states
    dt_row, du = h[states], h[states + 1]
    for first in range(0, u.shape[0], length):
        for s in range(states):
            for c in range(width):
                h[s, c] = _ZERO
        for m in range(first, first + length):
            for c in range(width):
                step = _softplus(dt[m, c] + bias[c])
                dt_row[c] = step
                du[c] = step * u[m, c]
                out[m, c] = D[c] * u[m, c]
            for s in range(
                0, states, 4
            ):  # four states at a time: a step and its sum are then read once, not four times
                b_0, b_1, b_2, b_3 = bc[m, b0 + s], bc[m, b0 + s + 1], bc[m, b0 + s + 2], bc[m, b0 + s + 3]
                c_0, c_1, c_2, c_3 = bc[m, c0 + s], bc[m, c0 + s + 1], bc[m, c0 + s + 2], bc[m, c0 + s + 3]
                for c in range(width):
                    step, add = dt_row[c], du[c]
                    h_0 = _exp2(step * A2[s, c]) * h[s, c] + add * b_0
                    h_1 = _exp2(step * A2[s + 1, c]) * h[s + 1, c] + add * b_1
                    h_2 = _exp2(step * A2[s + 2, c]) * h[s + 2, c] + add * b_2
                    h_3 = _exp2(step * A2[s + 3, c]) * h[s + 3, c] + add * b_3
                    h[s, c], h[s + 1, c], h[s + 2, c], h[s + 3, c] = h_0, h_1, h_2, h_3
                    out[m, c] += h_0 * c_0 + h_1 * c_1 + h_2 * c_2 + h_3 * c_3
            for c in range(width):
                z = xz[m, width + c]
                out[m, c] *= z * _sigmoid(z)


@nb.jit(**_JIT)
def add_norm(x: Array, index: Any, mixed: Array, weight: Array, bias: Array, eps: float, out: Array) -> None:
    """Add the mixer's result to its tokens in place, ``x[index] += mixed``, and give their LayerNorm (m, C)."""
    for m in range(index.shape[0]):
        if index[m] < 0:
            out[m, :] = _ZERO
        else:
            row = x[index[m]]
            for c in range(row.shape[0]):
                row[c] += mixed[m, c]
            _norm(row, weight, bias, eps, out[m])


@nb.jit(**_JIT)
def gelu(x: Array, bias: Array) -> None:
    """Exact GELU of ``x + bias`` in place, by erf within 1.5e-7."""
    for m in range(x.shape[0]):
        for c in range(x.shape[1]):
            v = x[m, c] + bias[c]
            a = abs(v) * _ROOT_HALF
            t = _ONE / (_ONE + _P * a)
            tail = t * (_Q1 + t * (_Q2 + t * (_Q3 + t * (_Q4 + t * _Q5)))) * _exp2(-a * a * _LOG2E)
            half = _HALF * tail
            x[m, c] = v * (_ONE - half if v >= _ZERO else half)


@nb.jit(**_JIT)
def add_rows(x: Array, index: Any, rows: Array, bias: Array) -> None:
    """``x[index] += rows + bias``, padding left out."""
    for m in range(index.shape[0]):
        at = index[m]
        if at >= 0:
            for c in range(x.shape[1]):
                x[at, c] += rows[m, c] + bias[c]


# ---------------------------------------------------------------------------------------------------- as C sees them
# Pointers to C-contiguous arrays, then sizes: N rows, m tokens, C or E channels, rank R, S states.


def _gather_norm(x: Any, index: Any, weight: Any, bias: Any, eps: Any, out: Any, N: Any, m: Any, C: Any) -> None:
    gather_norm(carray(x, (N, C)), carray(index, m), carray(weight, C), carray(bias, C), eps, carray(out, (m, C)))


def _convolve(xz: Any, length: Any, weight: Any, bias: Any, out: Any, m: Any, E: Any) -> None:
    convolve(carray(xz, (m, 2 * E)), length, carray(weight, (4, E)), carray(bias, E), carray(out, (m, E)))


def _scan(
    u: Any, xz: Any, dt: Any, bc: Any, length: Any, bias: Any, A2: Any, D: Any, h: Any, out: Any,
    m: Any, E: Any, R: Any, S: Any,
) -> None:  # fmt: skip
    given = carray(u, (m, E)), carray(xz, (m, 2 * E)), carray(dt, (m, E)), carray(bc, (m, R + 2 * S))
    scan(*given, length, carray(bias, E), carray(A2, (S, E)), carray(D, E), carray(h, (S + 2, E)), carray(out, (m, E)))


def _add_norm(
    x: Any, index: Any, mixed: Any, weight: Any, bias: Any, eps: Any, out: Any, N: Any, m: Any, C: Any
) -> None:
    rows, to = (carray(x, (N, C)), carray(index, m), carray(mixed, (m, C))), carray(out, (m, C))
    add_norm(*rows, carray(weight, C), carray(bias, C), eps, to)


def _gelu(x: Any, bias: Any, m: Any, C: Any) -> None:
    gelu(carray(x, (m, C)), carray(bias, C))


def _add_rows(x: Any, index: Any, rows: Any, bias: Any, N: Any, m: Any, C: Any) -> None:
    add_rows(carray(x, (N, C)), carray(index, m), carray(rows, (m, C)), carray(bias, C))


_KINDS = {"f": types.CPointer(nb.float32), "i": types.CPointer(nb.int64), "n": nb.int64, "d": nb.float64}


def object_code(signatures: Mapping[str, str]) -> bytes:
    """Return an object file with the kernels under their names, for this machine; it needs the C library only.

    Parameters
    ----------
    signatures
        Kernel -> its arguments in C: f float32*, i int64*, n int64, d double.

    Raises
    ------
    RuntimeError
        numba has put in a call that another process cannot resolve.
    """
    import llvmlite.binding as llvm  # noqa: PLC0415

    whole = llvm.parse_assembly("")
    for function in (_gather_norm, _convolve, _scan, _add_norm, _gelu, _add_rows):
        name = function.__name__[1:]
        compiled = nb.cfunc(types.void(*map(_KINDS.__getitem__, signatures[name])), **_C)(function)
        module = llvm.parse_assembly(compiled.inspect_llvm())
        module.get_function(compiled.native_name).name = name
        whole.link_in(module)
    whole.link_in(llvm.parse_assembly(_without_python(whole)))
    # No pass runs again: the vectors are those that numba's own optimisation has chosen.
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="static", codemodel="jitdefault", jit=True
    )
    code: bytes = machine.emit_object(whole)
    return code


_TO_RAISE = ("Py", "NRT_", "numba_gil_", "numba_unpickle", "numba_do_raise", "numba_runtime_build_excinfo")
_TRAP = "call void @llvm.trap() unreachable"


def _without_python(module: Any) -> str:
    """Return definitions for what numba's wrappers would call to raise an error: no kernel raises, so they trap."""
    lines = ["declare void @llvm.trap()"]
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration or value.name.startswith("llvm.") or value.name == "sqrtf":
            continue
        if not value.name.startswith(_TO_RAISE):
            raise RuntimeError(f"machine code: expected nothing but the C library, found {value.name}.")
        head = re.search(r"declare (.*?@\w+\(.*\))", str(value))
        lines.append(f"define {head[1]} {{ {_TRAP} }}" if head else f"@{value.name} = global i8 0")
    return "\n".join(lines)
