"""From a head's logits to a calibrated probability, a conformal set and reasons for care; applied, not fitted.

A calibration is plain data in the bundle: ``{"kind": "none"}`` or ``{"kind": "platt", "slope": a, "intercept": b}``.
The logits enter as their difference, logit of responder minus logit of non-responder, which alone decides the
probability (logit 1 by itself, which FMM_TC's published code ranks by, does not).

A calibration holds for what it was fitted on. Here that is the session: the logit difference is averaged over all
windows of a session (`pooled`) and calibrated once. The mean of calibrated window probabilities would be something
else, usually nearer to one half, and no threshold or conformal quantile of sessions would fit it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import BundleError

Float64 = NDArray[np.float64]

CALIBRATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Float64]]] = {
    "none": ((), lambda difference: difference),
    "platt": (("slope", "intercept"), lambda difference, slope, intercept: slope * difference + intercept),
}
"""Kind -> the numbers it needs, and the function of logit difference and numbers that gives the new difference."""


UNIT = "session"
"""What calibration, decision threshold and conformal quantile of a bundle are fitted on."""


def pooled(logits: NDArray[Any]) -> Float64:
    """Return the mean logits of a session, (1, 2) float64, for those of its windows (W, 2); each counts the same.

    The difference of mean logits is the mean of the differences. Fit calibration, threshold and conformal quantile
    on what this returns.
    """
    data = np.asarray(logits, dtype=np.float64)
    mean: Float64 = data.mean(axis=0, keepdims=True)
    return mean


def calibrated(logits: NDArray[Any], calibration: Mapping[str, Any]) -> Float64:
    """Return P(second class) in 0..1, (W,) float64, for logits (W, 2).

    Raises
    ------
    BundleError
        Unknown kind of calibration, or a number that is missing or not finite.
    """
    data = np.asarray(logits, dtype=np.float64)
    if data.ndim != 2 or data.shape[1] != 2:
        raise ValueError(f"logits are (W, 2), found {data.shape}")
    check_calibration(calibration)
    names, function = CALIBRATIONS[calibration["kind"]]
    difference = function(data[:, 1] - data[:, 0], *(float(calibration[name]) for name in names))
    small = np.exp(-np.abs(difference))
    probability: Float64 = np.where(difference >= 0, 1, small) / (1 + small)
    return probability


def prediction_set(p: float, classes: Sequence[str], conformal: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes that split-conformal prediction cannot exclude, in the order of ``classes``.

    A class is kept when 1 minus its probability is at most the calibrated quantile. Where that keeps none (quantile
    below 0.5 and a probability near it), all classes are returned: the set only grows, so coverage 1 - alpha still
    holds, and no reader is told that a patient belongs to no class.

    Parameters
    ----------
    p
        Calibrated probability of the second class.
    classes
        Two names.
    conformal
        ``{"alpha": 0.1, "quantile": q}``.
    """
    check_conformal(conformal)
    nonconformity = (p, 1 - p)
    kept = tuple(
        name for name, value in zip(classes, nonconformity, strict=True) if value <= float(conformal["quantile"])
    )
    return kept or tuple(classes)


def reference_flags(quality: Mapping[str, Any], reference: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Compare a recording's quality with the training data's range.

    Parameters
    ----------
    quality
        Numbers of one recording by name.
    reference
        Name -> ``{"low": x, "high": y}``, both ends inside the range.

    Returns
    -------
    Sorted flags: ``outside_reference:name``, or ``unknown:name`` where the recording has no finite number.
    """
    flags = []
    for name, limits in reference.items():
        value = quality.get(name)
        if not is_number(value):
            flags.append(f"unknown:{name}")
        elif not limits["low"] <= value <= limits["high"]:
            flags.append(f"outside_reference:{name}")
    return tuple(sorted(flags))


def check_calibration(calibration: Any) -> None:
    """Raise BundleError unless `calibrated` can apply this calibration."""
    kind = calibration.get("kind") if isinstance(calibration, Mapping) else None
    if not isinstance(kind, str) or kind not in CALIBRATIONS:
        raise BundleError(f"calibration: no kind {kind!r}; known are {', '.join(CALIBRATIONS)}.")
    names = CALIBRATIONS[kind][0]
    _check_numbers({k: v for k, v in calibration.items() if k != "kind"}, names, f"calibration {kind}")


def check_conformal(conformal: Any) -> None:
    """Raise BundleError unless alpha and quantile are there and lie in 0..1."""
    _check_numbers(conformal, ("alpha", "quantile"), "conformal")
    for name in ("alpha", "quantile"):
        if not 0 <= conformal[name] <= 1:
            raise BundleError(f"conformal: {name} must lie in 0..1, found {conformal[name]}.")


def check_reference(reference: Any) -> None:
    """Raise BundleError unless every entry holds low and high in order."""
    if not isinstance(reference, Mapping):
        raise BundleError(f"reference: expected an object, found {type(reference).__name__}.")
    for name, limits in reference.items():
        _check_numbers(limits, ("low", "high"), f"reference {name}")
        if limits["low"] > limits["high"]:
            raise BundleError(f"reference {name}: low {limits['low']} exceeds high {limits['high']}.")


def _check_numbers(data: Any, names: Sequence[str], where: str) -> None:
    if not isinstance(data, Mapping) or set(data) != set(names):
        found = ", ".join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise BundleError(f"{where}: expected exactly {', '.join(names) or 'no numbers'}, found {found}.")
    for name in names:
        if not is_number(data[name]):
            raise BundleError(f"{where}: {name} must be a finite number, found {data[name]!r}.")


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
