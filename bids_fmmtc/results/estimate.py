"""Figures that are not certain: an estimate with its interval, and the test of a difference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval.

    Parameters
    ----------
    value
        None where it is undefined.
    low, high
        None where no interval can be given: too few draws in which the measure is defined, or nobody to resample.
    undefined_draws
        Number of draws in which the measure is undefined.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined_draws: int = 0

    def above(self, level: float | None) -> bool:
        """Tell whether the whole interval lies above a level; without an interval or a level it does not."""
        return self.low is not None and level is not None and self.low > level

    def below(self, level: float) -> bool:
        """Tell whether the whole interval lies below a level; an interval that is not there does not."""
        return self.high is not None and self.high < level


UNDEFINED = Estimate(None)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Corrected resampled t-test: mean difference with its 95 % interval, t, two-sided p, number of folds used.

    ``low``, ``high``, ``t`` and ``p`` are None where fewer than two folds have a difference, or all have the same.
    """

    difference: float | None = None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p: float | None = None
    folds: int | None = None


UNTESTED = PairedTest()
