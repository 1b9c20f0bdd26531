"""People of one treatment, as a trial plan takes them."""

import numpy as np
import pytest
from trial_parts import people


@pytest.mark.parametrize(
    ("value", "y", "label"),
    [
        ([0.1, 0.2], [0, 1, 1], None),
        ([0.1, 0.2], [0, 2], None),
        ([0.1, 1.2], [0, 1], None),
        ([0.1, 0.2], [0, 1], [[1, 0], [1, 0]]),
        ([np.nan, np.nan], [0, 1], None),
    ],
)
def test_arms_that_cannot_be(value, y, label):
    with pytest.raises(ValueError, match=r"expected|0 or 1|nobody"):
        people(value, y, label)


def test_rows_that_no_repeat_judged_are_left_out_and_shares_are_of_the_repeats_that_did():
    arm = people([[0.2, np.nan, 0.9], [0.6, np.nan, np.nan]], [0, 1, 1])
    assert arm.groups == ("sub-0", "sub-2")
    assert arm.kept(np.array([0.5])).tolist() == [[0.5], [1.0]]
    assert arm.factor == 1
