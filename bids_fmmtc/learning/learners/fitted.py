"""A trained head: put to use, and kept as named arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bids_fmmtc.learning.bundle.predict import filled_head
from bids_fmmtc.learning.learner import HeadParts
from bids_fmmtc.learning.learners.inputs import Inputs, session_scores
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.types import Cohort, Float64, Rows

_STATE, _TANGENT = "state/", "tangent/"


class FittedNetwork:
    """A trained head; fulfils `learner.Fitted`.

    Parameters
    ----------
    parts
        The head.
    cohort
        What it was learnt from.
    device
        torch device to compute on.
    """

    def __init__(self, parts: HeadParts, cohort: Cohort, device: str) -> None:
        self._parts, self._cohort, self._device = parts, cohort, device
        self._head = filled_head(parts.spec, parts.shapes, parts.state).to(device)

    def scores(self, rows: Rows) -> Float64:
        """Return (len(rows),) scores of rows of the cohort it was learnt from."""
        return session_scores(self._head, self._inputs(self._cohort), rows)

    def elsewhere(self, cohort: Cohort) -> Float64:
        """Return (M,) scores of another cohort; DataError where its features are of another shape."""
        return session_scores(self._head, self._inputs(cohort), range(len(cohort)))

    def head(self) -> HeadParts:
        """Return the head to keep."""
        return self._parts

    def _inputs(self, cohort: Cohort) -> Inputs:
        return Inputs(cohort, self._parts.shapes, self._parts.tangent, self._device)


def packed(parts: HeadParts) -> dict[str, NDArray[Any]]:
    """Return weights and tangent reference of a head as named arrays; `unpacked` is the inverse."""
    tangent = {} if parts.tangent is None else parts.tangent.to_arrays()
    return arrays_of(parts.state) | {_TANGENT + name: array for name, array in tangent.items()}


def unpacked(
    spec: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], kept: Mapping[str, NDArray[Any]]
) -> HeadParts:
    """Rebuild a head of this spec from `packed`."""
    tangent = {n.removeprefix(_TANGENT): array for n, array in kept.items() if n.startswith(_TANGENT)}
    return HeadParts(spec, shapes, state_of(kept), TangentReference.from_arrays(tangent) if tangent else None)


def own_state(head: nn.Module) -> dict[str, Tensor]:
    """Return the weights on the CPU, in memory of their own."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in head.state_dict().items()}


def arrays_of(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return weights as named arrays; `state_of` is the inverse."""
    return {_STATE + name: tensor.detach().cpu().contiguous().numpy() for name, tensor in state.items()}


def state_of(kept: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return the weights among named arrays, in memory of their own."""
    return {n.removeprefix(_STATE): torch.tensor(array) for n, array in kept.items() if n.startswith(_STATE)}
