import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import RecipeError
from bids_fmmtc.modalities.token_order import TokenOrder


def test_shuffles_are_the_same_on_every_machine():
    first, second = TokenOrder("shuffles", count=2, seed=0).orders(8)
    assert first.tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert second.tolist() == [3, 5, 7, 0, 6, 2, 4, 1]


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 300), count=st.integers(1, 4), seed=st.integers(0, 2**64))
def test_shuffles_are_permutations(tokens, count, seed):
    orders = list(TokenOrder("shuffles", count=count, seed=seed).orders(tokens))
    assert len(orders) == count
    for order in orders:
        assert sorted(order.tolist()) == list(range(tokens))


def test_a_permutation_fits_one_number_of_tokens():
    order = TokenOrder.from_json({"kind": "permutation", "permutation": [2, 0, 1]})
    assert [found.tolist() for found in order.orders(3)] == [[2, 0, 1]]
    with pytest.raises(RecipeError, match="has 3 entries, expected 4"):
        list(order.orders(4))


def test_identity_is_parcel_by_parcel():
    assert [found.tolist() for found in TokenOrder().orders(3)] == [[0, 1, 2]]
