"""The tensors of a bundle against ``bundle.json``, before any participant is looked at. No torch but for a network.

Checksums say that files are those that were saved together; whether they are a model is another question. A bundle
that somebody put together, sums and all, may hold weights of another shape, or none that are numbers: that is found
out here, and not as a fault of the program after a night.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from bids_fmmtc.errors import BundleError
from bids_fmmtc.learning.bundle.calibrate import embedded
from bids_fmmtc.learning.bundle.load import HEAD, NOVELTY, TANGENT, TANGENT_MODALITY, ModelBundle
from bids_fmmtc.learning.bundle.novelty import from_arrays
from bids_fmmtc.modalities.connectivity import TangentReference

Arrays = Mapping[str, NDArray[Any]]


def check_tensors(bundle: ModelBundle) -> None:
    """Read every tensor of a bundle and compare names, shapes, types and values with what ``bundle.json`` promises.

    Raises
    ------
    BundleError
        A file that is no safetensors, or tensors that are missing, unknown, of another shape or type, or not finite.
    """
    head = _read(bundle, HEAD)
    if bundle.head.get("kind") == "linear":
        _check_linear(bundle, head)
    else:
        from bids_fmmtc.learning.bundle.predict import check_head  # noqa: PLC0415  (torch knows the shapes of a network)

        check_head(bundle)
    if TANGENT in bundle.files:
        arrays = _read(bundle, TANGENT)
        _tangent(bundle, arrays)
    if NOVELTY in bundle.files:
        from_arrays(_read(bundle, NOVELTY), {name: bundle.shapes[name] for name in embedded(bundle.reference)})


def _read(bundle: ModelBundle, name: str) -> Arrays:
    try:
        arrays: Arrays = load(bundle.read(name))
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        text = " ".join(str(error).split())
        raise BundleError(f"bundle {bundle.root}: {name} cannot be read: {text}.") from None
    broken = [key for key, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if broken:
        raise BundleError(f"bundle {bundle.root}: {name} holds values that are not finite: {', '.join(broken[:5])}.")
    return arrays


def _check_linear(bundle: ModelBundle, head: Arrays) -> None:
    expected: dict[str, Any] = {f"weights.{name}": (shape, "float32") for name, shape in bundle.shapes.items()}
    expected["bias"] = ((1,), "float32")
    found = {name: (array.shape, str(array.dtype)) for name, array in head.items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        told = "; ".join(f"{n} expected {expected.get(n)}, found {found.get(n)}" for n in wrong[:3])
        raise BundleError(f"bundle {bundle.root}: {HEAD} is not the head of {len(expected)} tensors it names: {told}.")


def _tangent(bundle: ModelBundle, arrays: Arrays) -> None:
    shape = bundle.shapes[TANGENT_MODALITY]
    try:
        TangentReference.from_arrays(dict(arrays)).project(
            np.zeros((1, *shape), np.float32) + np.eye(shape[0], dtype=np.float32)
        )
    except (BundleError, KeyError, ValueError, IndexError, ArithmeticError, TypeError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise BundleError(f"bundle {bundle.root}: {TANGENT} does not fit matrices of shape {shape}: {text}.") from None
