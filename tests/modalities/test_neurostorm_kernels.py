"""The compiled kernels against float64, over the range that activations can have."""

import numpy as np
import pytest
from scipy.special import erf, expit

from bids_fmmtc.modalities import neurostorm

pytest.importorskip("numba", reason="numba is not installed")


@pytest.fixture(scope="module")
def kernels():
    """Return the kernels as the encoder runs them."""
    loaded = neurostorm.kernels()
    assert loaded is not None
    return loaded


def rows(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_gelu_is_exact_to_float32(kernels):
    x, bias = np.linspace(-40, 40, 60_000, dtype=np.float32).reshape(-1, 4), np.array([0, 0.5, -2, 30], np.float32)
    v = x.astype(np.float64) + bias
    kernels.gelu(x, bias)
    assert np.isfinite(x).all()
    np.testing.assert_allclose(x, v * 0.5 * (1 + erf(v / np.sqrt(2))), atol=1e-6, rtol=3e-7)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_the_convolution_is_causal_and_starts_anew_in_every_window(length, kernels):
    xz, weight, bias = rows(3 * length, 10), rows(4, 5, seed=1), rows(5, seed=2)
    out = np.empty((3 * length, 5), np.float32)
    kernels.convolve(xz, length, weight, bias, out)
    for window in range(3):
        part = xz[window * length :][:length, :5].astype(np.float64)
        padded = np.concatenate([np.zeros((3, 5)), part])
        v = bias + sum(weight[k] * padded[k : k + length] for k in range(4))
        np.testing.assert_allclose(out[window * length :][:length], v * expit(v), atol=2e-6)


def test_the_scan_is_the_recurrence_also_for_large_steps(kernels):
    n, length, width = 2, 6, 7
    u, xz = rows(n * length, width), rows(n * length, 2 * width, seed=1, scale=5)
    dt, bc = rows(n * length, width, seed=2, scale=20), rows(n * length, 3 + 32, seed=3)
    a, d, bias = -np.exp(rows(16, width, seed=4)), rows(width, seed=5), rows(width, seed=6)
    out = np.empty((n * length, width), np.float32)
    scratch = np.empty((18, width), np.float32)
    log2e = np.float32(np.log2(np.e))
    kernels.scan(u, xz, dt, bc, length, bias, a * log2e, d, scratch, out)
    for first in range(0, n * length, length):
        h = np.zeros((16, width))
        for m in range(first, first + length):
            step = np.logaddexp(0, dt[m].astype(np.float64) + bias)
            h = np.exp(step * a) * h + step * u[m] * bc[m, 3:19, None]
            z = xz[m, width:].astype(np.float64)
            expected = (bc[m, 19:] @ h + d * u[m]) * z * expit(z)
            np.testing.assert_allclose(out[m], expected, rtol=2e-5, atol=2e-4)


def test_norms_leave_padding_zero_and_write_only_where_they_should(kernels):
    x, index = rows(6, 8), np.array([2, -1, 5, 0], np.int64)
    weight, bias, mixed = rows(8, seed=1), rows(8, seed=2), rows(4, 8, seed=3)
    out, before = np.full((4, 8), np.nan, np.float32), x.copy()
    kernels.gather_norm(x, index, weight, bias, 1e-5, out)
    real = index >= 0
    v = before[index[real]].astype(np.float64)
    normed = (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(out[real], normed, atol=2e-6)
    assert not out[~real].any()
    assert np.array_equal(x, before)
    kernels.add_norm(x, index, mixed, weight, bias, 1e-5, out)
    expected = before.copy()
    expected[index[real]] += mixed[real]
    assert np.array_equal(x, expected)
    kernels.add_rows(x, index, mixed, bias)
    expected[index[real]] += mixed[real] + bias
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_a_call_that_another_process_cannot_resolve_is_no_machine_code():
    import llvmlite.binding as llvm

    from bids_fmmtc.modalities.neurostorm_kernels import _without_python

    harmless = "declare void @PyErr_Clear()\ndeclare float @sqrtf(float)\n@PyExc_RuntimeError = external global i8\n"
    module = llvm.parse_assembly(harmless)
    module.link_in(llvm.parse_assembly(_without_python(module)))
    assert [f.name for f in module.functions if f.is_declaration] == ["sqrtf", "llvm.trap"]
    with pytest.raises(RuntimeError, match="found powf"):
        _without_python(llvm.parse_assembly(harmless + "declare float @powf(float, float)"))
