"""The sanity check must tell maps of a model from maps of anything, and data sets must be comparable."""

from __future__ import annotations

import numpy as np
import pytest
from attribution_parts import people, person, symmetric

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.explaining.attribution import TOP, group_attribution
from bids_fmmtc.learning.explaining.checks import COMPARISON_COLUMNS, SANITY_COLUMNS, compare, sanity_check


def test_maps_unlike_those_of_random_models_pass():
    trained = group_attribution(people(20, 40, planted=(1, 2, 3), effect=2.0))
    found = sanity_check(trained, [group_attribution(people(20, 40, seed=s)) for s in (1, 2)])
    assert found.passes
    assert "passed" in found.text
    assert {(row["map"], row["summary"]) for row in found.rows} == {
        (name, by) for name in ("series", "edges", "edge_parcels", "combined") for by in ("absolute", "between")
    }
    assert all(list(row) == list(SANITY_COLUMNS) for row in found.rows)


def test_maps_that_random_models_give_too_fail_by_name():
    rng = np.random.default_rng(0)
    size = rng.gamma(1, 1, 40)  # of the input; the weights hardly matter

    def group(seed):
        draw = np.random.default_rng(seed)
        return group_attribution(
            [person(f"s{i}", series=size * draw.normal(1, 0.1, 40), edges=symmetric(draw, 40)) for i in range(12)]
        )

    found = sanity_check(group(1), [group(2), group(3)])
    assert not found.passes
    assert "series by absolute" in found.text
    assert "edges by absolute" not in found.text
    row = next(row for row in found.rows if (row["map"], row["summary"]) == ("series", "absolute"))
    assert row["random_model"] > 0.95
    assert row["input_size"] > 0.95  # and it needs no model to see why
    assert row["passes"] is False
    combined = next(row for row in found.rows if row["map"] == "combined")
    assert combined["input_size"] is None


def test_the_same_map_fails_and_a_map_of_zeros_is_left_out():
    one = group_attribution([person(f"s{i}", np.zeros(9), symmetric(np.random.default_rng(i), 9)) for i in range(5)])
    found = sanity_check(one, [one])
    assert not found.passes
    assert {row["map"] for row in found.rows} == {"edges", "edge_parcels", "combined"}
    assert all(row["random_model"] == pytest.approx(1) for row in found.rows)


def test_random_models_with_constant_maps_are_unlike_anything():
    trained = group_attribution(people(5, 9))
    flat = group_attribution([person(f"s{i}", np.ones(9), np.ones((9, 9))) for i in range(5)])
    assert all(row["random_model"] == 0 for row in sanity_check(trained, [flat]).rows)


def test_the_check_needs_a_random_model_and_a_map():
    group = group_attribution([person("s", vector=1.0)])
    with pytest.raises(ValueError, match="at least one random model"):
        sanity_check(group, [])
    found = sanity_check(group, [group])
    assert not found.passes
    assert "no map" in found.text


def test_a_data_set_is_like_itself():
    group = group_attribution(people(9, 40))
    rows = compare(group, group)
    assert all(list(row) == list(COMPARISON_COLUMNS) for row in rows)
    shares = [row for row in rows if row["one"] is not None]
    assert len(shares) == 6
    assert all(row["one"] == row["other"] for row in shares)
    maps = [row for row in rows if row["one"] is None]
    assert len(maps) == 8
    assert all(row["pearson"] == pytest.approx(1) and row["spearman"] == pytest.approx(1) for row in maps)
    assert all(row["top_shared"] == TOP for row in maps)


def test_two_data_sets_share_what_was_planted_in_both():
    both = [group_attribution(people(60, 60, seed, planted=range(12), effect=1.5)) for seed in (0, 1)]
    alike = {(row["what"], row["name"]): row for row in compare(*both)}
    other = group_attribution(people(60, 60, seed=2, planted=range(30, 42), effect=1.5))
    unlike = {(row["what"], row["name"]): row for row in compare(both[0], other)}
    key = ("map by between", "combined")
    assert alike[key]["pearson"] > 0.9
    assert unlike[key]["pearson"] < 0.2
    assert unlike[key]["top_shared"] < 12
    assert alike[key]["top_shared"] >= 12
    assert alike[key]["top_by_chance"] == TOP * TOP / 60


def test_few_people_have_no_between_to_compare():
    rows = compare(group_attribution(people(2, 6)), group_attribution(people(9, 6)))
    row = next(row for row in rows if row["what"] == "map by between")
    assert row["pearson"] is row["spearman"] is row["top_shared"] is None


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match=r"brainlm, fc cannot be compared with those of fc"):
        compare(group_attribution(people(3, 5)), group_attribution(people(3, 5, series=False)))
    with pytest.raises(DataError, match="maps series of 5 and 6 values"):
        compare(group_attribution(people(3, 5)), group_attribution(people(3, 6)))
