"""Tables and images of attributions: sums that must be kept, columns that must be described."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attribution_parts import names_of, people, person, symmetric

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.explaining import tables
from bids_fmmtc.learning.explaining.attribution import group_attribution
from bids_fmmtc.types import Atlas

R = 7
CLASSES = ["yes", "no"] * 5


@pytest.fixture(scope="module")
def group():
    return group_attribution(people(10, R, planted=(2, 3), effect=2.0), CLASSES)


def test_an_atlas_names_parcels():
    labels, affine = np.zeros((2, 2, 2), np.int32), np.eye(4)
    atlas = Atlas("x", "y", labels, affine, (4, 5), ("a", "b"), ("n", "n"), np.zeros((2, 3), np.float32), "0")
    rows = tables.parcel_rows(group_attribution(people(4, 2)), atlas)
    assert [(row["index"], row["name"], row["network"]) for row in rows] == [(4, "a", "n"), (5, "b", "n")]


def test_volumes_have_columns_only_where_something_goes_through_them(group):
    assert "volumes_mean" not in tables.parcel_columns(group)
    both = [replace(p, volumes=2 * p.parcels) for p in people(6, R)]
    found = group_attribution(both)
    names = replace(names_of(R), networks=("a",) * 3 + ("b",) * (R - 3))
    rows = tables.parcel_rows(found, names)
    assert list(rows[0]) == list(tables.parcel_columns(found)) == list(tables.PARCEL_COLUMNS)
    for row in rows:
        assert row["volumes_mean"] == pytest.approx(2 * row["series_mean"])
        assert row["mean"] == pytest.approx(row["series_mean"] + row["volumes_mean"] + row["edges_mean"])
    sums = {row["network_1"]: row["mean"] for row in tables.network_rows(found, names) if row["input"] == "volumes"}
    assert sum(sums.values()) == pytest.approx(sum(row["volumes_mean"] for row in rows))
    assert set(sums) == {"a", "b"}


def test_every_column_is_described_and_in_order(group):
    by_class = ["mean_no", "mean_yes"]
    names = names_of(R)
    for rows, columns, more in (
        (tables.share_rows(group), tables.SHARE_COLUMNS, []),
        (tables.parcel_rows(group, names), tables.parcel_columns(group), by_class),
        (tables.edge_rows(group, names), tables.EDGE_COLUMNS, by_class),
        (tables.network_rows(group, names), tables.NETWORK_COLUMNS, []),
    ):
        assert rows
        assert all(list(row) == [*columns, *more] for row in rows)
        values = [value for row in rows for value in row.values()]
        assert {type(value) for value in values} <= {int, float, str, type(None)}
        assert not any(isinstance(value, float) and np.isnan(value) for value in values)
        assert all(text.endswith(".") for text in columns.values())


def test_parcel_rows_stand_in_the_order_of_the_atlas_and_add_up(group):
    rows = tables.parcel_rows(group, names_of(R))
    assert [row["index"] for row in rows] == list(range(10, 10 + R))
    assert sorted(row["rank"] for row in rows) == list(range(1, R + 1))
    assert {row["name"] for row in rows if row["rank"] <= 2} == {"p2", "p3"}
    assert sum(row["between"] for row in rows) == pytest.approx(1)
    for row in rows:
        assert row["mean"] == pytest.approx(row["series_mean"] + row["edges_mean"])
        assert row["between"] == pytest.approx(row["series_between"] + row["edges_between"])
        assert row["mean"] == pytest.approx((row["mean_yes"] + row["mean_no"]) / 2)


def test_edge_rows_name_both_ends_best_first(group):
    rows = tables.edge_rows(group, names_of(R))
    assert (rows[0]["name_1"], rows[0]["name_2"], rows[0]["rank"]) == ("p2", "p3", 1)
    assert [row["rank"] for row in rows] == list(range(1, R * (R - 1) // 2 + 1))  # the empty diagonal is left out
    assert len(tables.edge_rows(group, names_of(R), most=4)) == 4
    size = [abs(row["between"]) for row in rows]
    assert size == sorted(size, reverse=True)


def test_networks_share_everything_out(group):
    rows = tables.network_rows(group, names_of(R))
    series = [row for row in rows if row["input"] == "series"]
    edges = [row for row in rows if row["input"] == "edges"]
    assert [(row["network_1"], row["network_2"], row["count"]) for row in series] == [("a", None, 4), ("b", None, 3)]
    pairs = [(row["network_1"], row["network_2"], row["count"]) for row in edges]
    assert pairs == [("a", "a", 6), ("a", "b", 12), ("b", "b", 3)]
    found = {share.modality: share for share in group.shares}
    assert sum(row["mean"] for row in series) == pytest.approx(found["brainlm"].part)
    assert sum(row["mean"] for row in edges) == pytest.approx(found["fc"].part)
    assert sum(row["between"] for row in rows) == pytest.approx(1)
    assert tables.network_rows(group, names_of(R, networks=False)) == []


def test_a_diagonal_is_summed_but_not_counted():
    rng = np.random.default_rng(0)
    group = group_attribution([person(f"s{i}", edges=symmetric(rng, 4) + np.eye(4)) for i in range(3)])
    rows = tables.network_rows(group, names_of(4))
    assert [row["count"] for row in rows] == [1, 4, 1]
    assert sum(row["mean"] for row in rows) == pytest.approx(group.shares[0].part)


def test_one_person_has_a_table_too():
    group = group_attribution(people(1, R))
    rows = tables.parcel_rows(group, names_of(R))
    assert all(row["between"] is None and row["consistency"] is None and row["mean"] is not None for row in rows)
    assert tables.share_rows(group)[0]["between_low"] is None
    assert tables.edge_rows(group, names_of(R))[0]["between"] is None


def test_what_was_not_attributed_to_has_no_rows_or_no_values():
    vector = group_attribution([person(f"s{i}", vector=float(i)) for i in range(3)])
    names = names_of(R)
    for rows in (tables.parcel_rows, tables.edge_rows, tables.network_rows):
        assert rows(vector, names) == []
    for row in tables.parcel_rows(group_attribution(people(4, R, series=False)), names):
        assert row["series_mean"] is row["series_between"] is None
        assert row["mean"] == row["edges_mean"]


def test_another_atlas_is_refused(group):
    for rows in (tables.parcel_rows, tables.edge_rows, tables.network_rows):
        with pytest.raises(DataError, match="of 7 parcels, the atlas holds 8"):
            rows(group, names_of(8))


def test_volumes_hold_each_parcels_value_and_zero_outside():
    labels = np.array([[[0, 1], [2, 3]], [[3, 0], [1, 1]]], np.int32)
    found = tables.to_volume(np.array([0.5, -1.0, 2.0]), labels)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[[0, 0.5], [-1, 2]], [[2, 0], [0.5, 0.5]]])
    with pytest.raises(DataError, match="of 2 parcels, the atlas image has label 3"):
        tables.to_volume(np.zeros(2), labels)
