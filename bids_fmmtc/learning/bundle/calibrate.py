"""From a head's logits to a calibrated probability, a conformal set and reasons for care; applied, not fitted.

A calibration is plain data in the bundle: ``{"kind": "none"}`` or ``{"kind": "platt", "slope": a, "intercept": b}``.
The logits enter as their difference, logit of responder minus logit of non-responder, which alone decides the
probability (logit 1 by itself, which FMM_TC's published code ranks by, does not).

A calibration holds for what it was fitted on. Here that is the session: the logit difference is averaged over all
windows of a session (`pooled`) and calibrated once. The mean of calibrated window probabilities would be something
else, usually nearer to one half, and no threshold or conformal quantiles of sessions would fit it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

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
"""What calibration, decision threshold and conformal quantiles of a bundle are fitted on."""

EMBEDDING = "embedding_"
"""Reference entries of this prefix and a modality's name limit the distance of a session's embedding."""


def pooled(logits: NDArray[Any]) -> Float64:
    """Return the mean logits of a session, (1, 2) float64, for those of its windows (W, 2); each counts the same.

    The difference of mean logits is the mean of the differences. Fit calibration, threshold and conformal quantiles
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


def prediction_set(p: float, classes: Sequence[str], conformal: Mapping[str, Any], threshold: float) -> tuple[str, ...]:
    """Return the classes that class-conditional conformal prediction cannot exclude, in the order of ``classes``.

    A class is kept when 1 minus its probability is at most the quantile of that class. Where that keeps none, or not
    the class on this side of the threshold, both are returned: a set only grows, so coverage 1 - alpha still holds,
    and no reader is told that a patient belongs to no class, or for certain to the one that the label is not.

    Parameters
    ----------
    p
        Calibrated probability of the second class.
    classes
        Two names.
    conformal
        ``{"alpha": 0.1, "quantiles": [q, r]}``, a quantile for either class.
    threshold
        The label is the second class from this probability on.
    """
    check_conformal(conformal)
    nonconformity = (p, 1 - p)
    kept = tuple(
        name
        for name, value, quantile in zip(classes, nonconformity, conformal["quantiles"], strict=True)
        if value <= float(quantile)
    )
    return kept if classes[int(p >= threshold)] in kept else tuple(classes)


def reference_flags(value: Callable[[str], object], reference: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Compare a recording's quality with what training saw.

    Parameters
    ----------
    value
        Returns a number or word of one recording by its name, as `Quality.value` does; None where there is none.
    reference
        Name -> ``{"low": x, "high": y}``, both ends inside the range, or only one of them where the other side is no
        reason for care; or ``{"values": [...]}``, the words seen.

    Returns
    -------
    Sorted flags: ``outside_reference:name``, or ``unknown:name`` where the recording has no finite number or word.
    """
    flags = []
    for name, limits in reference.items():
        found = value(name)
        known = isinstance(found, str) if "values" in limits else is_number(found)
        if not known:
            flags.append(f"unknown:{name}")
        elif not _within(found, limits):
            flags.append(f"outside_reference:{name}")
    return tuple(sorted(flags))


def _within(value: Any, limits: Mapping[str, Any]) -> bool:
    if "values" in limits:
        return value in limits["values"]
    return bool(limits.get("low", -math.inf) <= value <= limits.get("high", math.inf))


def embedded(reference: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the modalities whose embedding the reference limits, sorted; see `bids_fmmtc.learning.bundle.novelty`."""
    return tuple(sorted(name.removeprefix(EMBEDDING) for name in reference or {} if name.startswith(EMBEDDING)))


def check_calibration(calibration: Any) -> None:
    """Raise BundleError unless `calibrated` can apply this calibration."""
    kind = calibration.get("kind") if isinstance(calibration, Mapping) else None
    if not isinstance(kind, str) or kind not in CALIBRATIONS:
        raise BundleError(f"calibration: no kind {kind!r}; known are {', '.join(CALIBRATIONS)}.")
    names = CALIBRATIONS[kind][0]
    _check_numbers({k: v for k, v in calibration.items() if k != "kind"}, names, f"calibration {kind}")


def check_conformal(conformal: Any) -> None:
    """Raise BundleError unless there are alpha and two quantiles, all in 0..1."""
    names = ("alpha", "quantiles")
    if not isinstance(conformal, Mapping) or set(conformal) != set(names):
        raise BundleError(f"conformal: expected exactly {', '.join(names)}, found {_named(conformal)}.")
    alpha, quantiles = conformal["alpha"], conformal["quantiles"]
    if not isinstance(quantiles, list | tuple) or len(quantiles) != 2:
        raise BundleError(f"conformal: expected two quantiles, one a class, found {quantiles!r}.")
    for name, value in (("alpha", alpha), *(("a quantile", q) for q in quantiles)):
        if not is_number(value) or not 0 <= value <= 1:
            raise BundleError(f"conformal: {name} must lie in 0..1, found {value!r}.")


def check_reference(reference: Any) -> None:
    """Raise BundleError unless every entry holds low, high or both in order, or the words seen."""
    if not isinstance(reference, Mapping):
        raise BundleError(f"reference: expected an object, found {type(reference).__name__}.")
    for name, limits in reference.items():
        if not isinstance(limits, Mapping):
            raise BundleError(f"reference {name}: expected an object, found {type(limits).__name__}.")
        if "values" in limits:
            _check_words(limits, f"reference {name}")
            continue
        _check_numbers(limits, [k for k in ("low", "high") if k in limits] or ("low", "high"), f"reference {name}")
        if limits.get("low", -math.inf) > limits.get("high", math.inf):
            raise BundleError(f"reference {name}: low {limits['low']} exceeds high {limits['high']}.")


def _check_words(limits: Mapping[str, Any], where: str) -> None:
    words = limits["values"]
    listed = isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)
    if set(limits) != {"values"} or not listed or not words:
        raise BundleError(f"{where}: expected a list of words as values and nothing else, found {dict(limits)!r}.")


def _check_numbers(data: Any, names: Sequence[str], where: str) -> None:
    if not isinstance(data, Mapping) or set(data) != set(names):
        raise BundleError(f"{where}: expected exactly {', '.join(names) or 'no numbers'}, found {_named(data)}.")
    for name in names:
        if not is_number(data[name]):
            raise BundleError(f"{where}: {name} must be a finite number, found {data[name]!r}.")


def _named(data: Any) -> str:
    return ", ".join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
