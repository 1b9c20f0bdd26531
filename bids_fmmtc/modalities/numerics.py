"""How torch computes while features and predictions are made, the same for encoders and heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one processor; how many there were before comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def strict() -> Iterator[None]:
    """Compute in true float32 with repeatable kernels; what was set before comes back.

    On a GPU, TF32 would keep 10 of 23 bits of the mantissa in matrix products and convolutions, and cuDNN's benchmark
    would choose kernels by their speed at the moment. Usable as a decorator, too.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
