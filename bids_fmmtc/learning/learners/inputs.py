"""What a head reads of a cohort: windows as tensors, and the scores of sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.load import TANGENT_MODALITY
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.modalities.numerics import strict
from bids_fmmtc.types import Cohort, Float32, Float64


class Inputs:
    """Windows of a cohort's rows as a head reads them; those of tangent space are projected once a row.

    Parameters
    ----------
    cohort
        The features.
    shapes
        Modality -> shape of one window's array, in the order of the head.
    tangent
        Reference to project ``fc`` by; None leaves it as it is.
    device
        torch device of the tensors.

    Raises
    ------
    DataError
        The cohort lacks a modality, or holds it in another shape.
    """

    def __init__(
        self, cohort: Cohort, shapes: Mapping[str, tuple[int, ...]], tangent: TangentReference | None, device: str
    ) -> None:
        for name, shape in shapes.items():
            found = {tuple(a.shape[1:]) for a in cohort.arrays.get(name, ())}
            if found - {tuple(shape)} or name not in cohort.arrays:
                seen = ", ".join(map(str, sorted(found))) or "none"
                raise DataError(
                    f"the head reads {name} of shape {tuple(shape)}, the cohort holds {seen}.",
                    "Make the features with the head's own recipe.",
                )
        self._arrays = {name: cohort.arrays[name] for name in shapes}
        self._tangent, self._device = tangent, device
        self._projected: dict[int, Float32] = {}

    @property
    def tangent(self) -> TangentReference | None:
        """The reference given."""
        return self._tangent

    def digest(self) -> str:
        """Return the sha256 of all arrays as they are before any projection."""
        found = hashlib.sha256()
        for name, column in self._arrays.items():
            for array in column:
                found.update(f"{name} {array.shape} {array.dtype}".encode())
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def windows(self, row: int) -> int:
        """Return the number of windows of a row."""
        return len(next(iter(self._arrays.values()))[row])

    def take(self, rows: Iterable[int], windows: Iterable[int]) -> dict[str, Tensor]:
        """Return modality -> (B, *shape) float32: one window of each row.

        Copied into memory that torch aligns, as the rounding of some kernels depends on alignment.
        """
        pairs = [(int(row), int(window)) for row, window in zip(rows, windows, strict=True)]
        return {
            name: torch.tensor(np.stack([self._row(name, row)[window] for row, window in pairs])).to(self._device)
            for name in self._arrays
        }

    def _row(self, name: str, row: int) -> Float32:
        if self._tangent is None or name != TANGENT_MODALITY:
            return self._arrays[name][row]
        if row not in self._projected:
            self._projected[row] = self._tangent.project(self._arrays[name][row])
        return self._projected[row]


def score_of(outputs: Tensor) -> Tensor:
    """Return (B,) scores of a head's outputs: logit 1 - logit 0 of (B, 2), or the only number of (B, 1)."""
    return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs[:, 0]


@strict()
def session_scores(head: nn.Module, inputs: Inputs, rows: Iterable[int]) -> Float64:
    """Return the mean score of each row over its windows, (n,) float64; batch normalisation by its running statistics.

    Windows go through the head one at a time, and logits are subtracted in float64, as in `predict.Predictor`: a score
    depends on nobody else, and is what a bundle says.
    """
    head.eval()
    with torch.inference_mode():
        means = [
            np.mean([float(score_of(head(inputs.take([row], [w])).double())) for w in range(inputs.windows(row))])
            for row in map(int, rows)
        ]
    return np.array(means, dtype=np.float64)
