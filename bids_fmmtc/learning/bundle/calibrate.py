"""From a head's logits to a calibrated probability, a conformal set and reasons for care; applied, not fitted.

A bundle stores a `Calibration` (a line on the log-odds, or none), `Conformal` quantiles and `Limits` of what it saw.
The logits enter as their difference, logit of responder minus logit of non-responder, which alone decides the
probability (logit 1 by itself, which FMM_TC's published code ranks by, does not).

A calibration holds for what it was fitted on. Here that is the session: the logit difference is averaged over all
windows of a session (`pooled`) and calibrated once. The mean of calibrated window probabilities would be something
else, usually nearer to one half, and no threshold or conformal quantiles of sessions would fit it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import BundleError
from bids_fmmtc.plain import Strictness, from_json, unwritten
from bids_fmmtc.types import Float64

CALIBRATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Float64]]] = {
    "none": ((), lambda difference: difference),
    "platt": (("slope", "intercept"), lambda difference, slope, intercept: slope * difference + intercept),
}
"""Kind -> the numbers it needs, and the function of logit difference and numbers that gives the new difference."""

UNIT = "session"
"""What calibration, decision threshold and conformal quantiles of a bundle are fitted on."""

EMBEDDING = "embedding_"
"""Reference entries of this prefix and a modality's name limit the distance of a session's embedding."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a logit difference becomes the log-odds of the second class.

    Parameters
    ----------
    kind
        One of `CALIBRATIONS`.
    slope, intercept
        Its numbers; None where it needs none.

    Raises
    ------
    BundleError
        Unknown kind, or a number that is missing, not finite or not needed.
    """

    kind: str = "none"
    slope: float | None = unwritten(None)
    intercept: float | None = unwritten(None)

    def __post_init__(self) -> None:
        if self.kind not in CALIBRATIONS:
            raise BundleError(f"calibration: no kind {self.kind!r}; known are {', '.join(CALIBRATIONS)}.")
        given = {"slope": self.slope, "intercept": self.intercept}
        needed = CALIBRATIONS[self.kind][0]
        wrong = [name for name, value in given.items() if not (is_number(value) if name in needed else value is None)]
        if wrong:
            raise BundleError(
                f"calibration {self.kind}: expected {' and '.join(needed) or 'no'} numbers, found "
                f"{', '.join(f'{name} {given[name]!r}' for name in wrong)}."
            )

    def applied(self, difference: Float64) -> Float64:
        """Return the log-odds (W,) for logit differences (W,)."""
        names, function = CALIBRATIONS[self.kind]
        return function(difference, *(float(getattr(self, name)) for name in names))


@dataclass(frozen=True, slots=True)
class Conformal:
    """Class-conditional conformal prediction, fitted.

    Parameters
    ----------
    alpha
        Error rate, 0..1.
    quantiles
        Of either class, 0..1: it is kept where 1 minus its probability is at most that.

    Raises
    ------
    BundleError
        A number outside 0..1.
    """

    alpha: float
    quantiles: tuple[float, float]

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), *(("a quantile", q) for q in self.quantiles)):
            if not is_number(value) or not 0 <= value <= 1:
                raise BundleError(f"conformal: {name} must lie in 0..1, found {value!r}.")


@dataclass(frozen=True, slots=True)
class Limits:
    """What training saw of one quantity: a range, or words.

    Parameters
    ----------
    high, low
        Ends, both inside the range; None where that side is no reason for care.
    values
        The words seen, of a quantity that is a word.

    Raises
    ------
    BundleError
        No limit at all, ends in the wrong order or not finite, or words beside ends.
    """

    high: float | None = unwritten(None)
    low: float | None = unwritten(None)
    values: tuple[str, ...] | None = unwritten(None)

    def __post_init__(self) -> None:
        ends = [end for end in (self.low, self.high) if end is not None]
        if self.values is not None and (ends or not self.values):
            raise BundleError(f"expected words as values and nothing else, found {list(self.values)!r} and {ends}.")
        if self.values is None and not (ends and all(map(is_number, ends))):
            raise BundleError(f"expected finite numbers as low, high or both, found {ends}.")
        if len(ends) == 2 and ends[0] > ends[1]:
            raise BundleError(f"low {ends[0]} exceeds high {ends[1]}.")

    def known(self, found: object) -> bool:
        """Tell whether a value is of the kind that is limited: a word, or a finite number."""
        return isinstance(found, str) if self.values is not None else is_number(found)

    def hold(self, found: Any) -> bool:
        """Tell whether a known value lies inside."""
        if self.values is not None:
            return found in self.values
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        return bool(low <= found <= high)


Reference = Mapping[str, Limits]
"""Quantity -> what training saw of it."""

_HOW = Strictness(BundleError)


def read_calibration(data: object) -> Calibration:
    """Return a calibration as a bundle stores it; BundleError for what is none."""
    if not isinstance(data, Mapping) or "kind" not in data:
        raise BundleError(f"calibration: expected an object with its kind, found {_named(data)}.")
    return from_json(Calibration, data, "calibration", _HOW)


def read_conformal(data: object) -> Conformal:
    """Return conformal quantiles as a bundle stores them; BundleError for what is none."""
    return from_json(Conformal, data, "conformal", _HOW)


def read_reference(data: object) -> dict[str, Limits]:
    """Return a reference as a bundle stores it; BundleError for what is none, naming the entry."""
    if not isinstance(data, Mapping):
        raise BundleError(f"reference: expected an object, found {type(data).__name__}.")
    found = {}
    for name, entry in data.items():
        try:
            found[str(name)] = from_json(Limits, entry, "limits", _HOW)
        except BundleError as error:
            raise BundleError(f"reference {name}: {error.message}", error.hint) from None
    return found


def pooled(logits: NDArray[Any]) -> Float64:
    """Return the mean logits of a session, (1, 2) float64, for those of its windows (W, 2); each counts the same.

    The difference of mean logits is the mean of the differences. Fit calibration, threshold and conformal quantiles
    on what this returns.
    """
    data = np.asarray(logits, dtype=np.float64)
    mean: Float64 = data.mean(axis=0, keepdims=True)
    return mean


def calibrated(logits: NDArray[Any], calibration: Calibration) -> Float64:
    """Return P(second class) in 0..1, (W,) float64, for logits (W, 2)."""
    data = np.asarray(logits, dtype=np.float64)
    if data.ndim != 2 or data.shape[1] != 2:
        raise ValueError(f"logits are (W, 2), found {data.shape}")
    difference = calibration.applied(data[:, 1] - data[:, 0])
    small = np.exp(-np.abs(difference))
    probability: Float64 = np.where(difference >= 0, 1, small) / (1 + small)
    return probability


def prediction_set(p: float, classes: Sequence[str], conformal: Conformal, threshold: float) -> tuple[str, ...]:
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
        A quantile for either class.
    threshold
        The label is the second class from this probability on.
    """
    nonconformity = (p, 1 - p)
    kept = tuple(
        name
        for name, value, quantile in zip(classes, nonconformity, conformal.quantiles, strict=True)
        if value <= quantile
    )
    return kept if classes[int(p >= threshold)] in kept else tuple(classes)


def reference_flags(value: Callable[[str], object], reference: Reference) -> tuple[str, ...]:
    """Compare a recording's quality with what training saw.

    Parameters
    ----------
    value
        Returns a number or word of one recording by its name, as `Quality.value` does; None where there is none.
    reference
        What training saw.

    Returns
    -------
    Sorted flags: ``outside_reference:name``, or ``unknown:name`` where the recording has no finite number or word.
    """
    flags = []
    for name, limits in reference.items():
        found = value(name)
        if not limits.known(found):
            flags.append(f"unknown:{name}")
        elif not limits.hold(found):
            flags.append(f"outside_reference:{name}")
    return tuple(sorted(flags))


def embedded(reference: Reference | None) -> tuple[str, ...]:
    """Return the modalities whose embedding the reference limits, sorted; see `bids_fmmtc.learning.bundle.novelty`."""
    return tuple(sorted(name.removeprefix(EMBEDDING) for name in reference or {} if name.startswith(EMBEDDING)))


def _named(data: Any) -> str:
    return ", ".join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
