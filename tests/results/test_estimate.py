"""Estimates against a level."""

import pytest

from bids_fmmtc.results.estimate import Estimate


@pytest.mark.parametrize(
    ("estimate", "above", "below"),
    [
        (Estimate(0.8, 0.7, 0.9), True, False),
        (Estimate(0.55, 0.4, 0.7), False, False),
        (Estimate(0.3, 0.2, 0.4), False, True),
        (Estimate(0.6, 0.5, 0.7), False, False),
        (Estimate(0.9), False, False),
        (Estimate(None), False, False),
    ],
)
def test_the_whole_interval_counts(estimate, above, below):
    assert (estimate.above(0.5), estimate.below(0.5)) == (above, below)
    assert not estimate.above(None)
