"""Groups of attributions: against written-out sums and covariances, and with planted parcels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attribution_parts import people, person, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.explaining.attribution import TOP, group_attribution, halved


def classes(n):
    return ["yes" if i % 2 else "no" for i in range(n)]


@given(seed=st.integers(0, 1000), r=st.integers(1, 9))
def test_parcels_of_edges_add_up_to_the_edges_counted_once(seed, r):
    rng = np.random.default_rng(seed)
    edges = symmetric(rng, r) + np.diag(rng.normal(size=r))
    found = halved(edges)
    slow = [edges[i, i] + sum(edges[i, j] / 2 for j in range(r) if j != i) for i in range(r)]
    np.testing.assert_allclose(found, slow, atol=1e-12)
    assert found.sum() == pytest.approx(np.triu(edges).sum(), abs=1e-12)


def test_combined_is_what_there_is():
    rng = np.random.default_rng(0)
    series, edges = rng.normal(size=4), symmetric(rng, 4)
    np.testing.assert_array_equal(person(series=series).combined, series)
    np.testing.assert_array_equal(person(edges=edges).combined, halved(edges))
    both = person(series=series, edges=edges)
    np.testing.assert_allclose(both.combined, series + halved(edges))
    assert both.combined.sum() == pytest.approx(sum(both.parts.values()))
    assert person(vector=1.0).combined is None
    assert person(vector=1.0).edge_parcels is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(3, 9), r=st.integers(2, 6))
def test_summaries_equal_written_out_ones(seed, n, r):
    found = people(n, r, seed)
    group = group_attribution(found, classes(n))
    values = np.array([p.parcels for p in found])
    total = np.array([sum(p.parts.values()) for p in found])
    series = group.maps["series"]
    np.testing.assert_allclose(series.mean, values.mean(axis=0))
    np.testing.assert_allclose(series.absolute, np.abs(values).mean(axis=0))
    np.testing.assert_allclose(series.consistency, values.mean(axis=0) / values.std(axis=0, ddof=1))
    between = [np.cov(column, total, ddof=0)[0, 1] / total.var() for column in values.T]
    np.testing.assert_allclose(series.between, between, atol=1e-9)
    np.testing.assert_allclose(series.by_class["yes"], values[1::2].mean(axis=0))
    np.testing.assert_allclose(series.by_class["no"], values[::2].mean(axis=0))
    # Everything that is explained adds up to 1: by parcels, by edges, by modalities.
    assert group.maps["combined"].between.sum() == pytest.approx(1, abs=1e-9)
    assert series.between.sum() + group.maps["edges"].between.sum() == pytest.approx(1, abs=1e-9)
    assert [s.between for s in group.shares] == pytest.approx([series.between.sum(), group.maps["edges"].between.sum()])
    parts = np.array([list(p.parts.values()) for p in found])
    assert [s.share for s in group.shares] == pytest.approx(
        np.abs(parts).mean(axis=0) / np.abs(parts).mean(axis=0).sum()
    )
    sums = np.array([list(p.absolute.values()) for p in found]).mean(axis=0)
    assert [s.absolute for s in group.shares] == pytest.approx(sums / sums.sum())
    assert [s.part for s in group.shares] == pytest.approx(parts.mean(axis=0))


def test_a_constant_offset_takes_a_share_but_tells_nobody_apart():
    """The reason for `between`: a baseline that is unlike everybody."""
    rng = np.random.default_rng(0)
    found = [person(f"sub-{i}", series=np.full(5, 3.0), edges=symmetric(rng, 5)) for i in range(20)]
    series, edges = group_attribution(found).shares
    assert series.share > 0.7
    assert series.between == pytest.approx(0, abs=1e-12)
    assert edges.between == pytest.approx(1)
    assert edges.between_interval == pytest.approx((1, 1))


def test_planted_parcels_and_edges_are_on_top_and_stable():
    planted = (1, 5, 8, 13)
    group = group_attribution(people(40, 60, planted=planted, effect=1.0), classes(40))
    for name in ("series", "edge_parcels", "combined"):
        assert set(group.maps[name].order[:4].tolist()) == set(planted), name
    first, second = np.triu_indices(60)
    assert {(first[i], second[i]) for i in group.maps["edges"].order[:6]} == {
        (a, b) for a in planted for b in planted if a < b
    }
    assert (group.stability[list(planted)] == 1).all()
    assert group.stability.sum() == pytest.approx(TOP)
    assert group.stability[list(planted)].mean() > group.top_stability > TOP / 60
    yes, no = (group.maps["combined"].by_class[c][list(planted)] for c in ("yes", "no"))
    assert (yes > no).all()


def test_intervals_of_shares_hold_what_was_found_and_shrink_with_people():
    widths = []
    for n in (8, 200):
        for share in group_attribution(people(n, 6)).shares:
            assert share.share_interval[0] <= share.share <= share.share_interval[1]
            assert share.between_interval[0] <= share.between <= share.between_interval[1]
        widths.append(np.ptp(share.between_interval))
    assert widths[1] < widths[0] / 2


def test_one_person_is_a_group_without_between():
    group = group_attribution(people(1, 6))
    combined = group.maps["combined"]
    assert np.isnan(combined.between).all()
    assert np.isnan(combined.consistency).all()
    assert combined.ranked_by == "absolute"
    assert combined.order[0] == np.abs(combined.mean).argmax()
    assert group.top_stability == 1
    assert all(np.isnan(s.between) and np.isnan(s.between_interval).all() for s in group.shares)
    assert sum(s.share for s in group.shares) == pytest.approx(1)


def test_people_without_parcels_have_shares_only():
    group = group_attribution([person(f"s{i}", vector=float(i)) for i in range(4)])
    assert not group.maps
    assert group.stability is None
    assert group.top_stability is None
    assert group.shares[0].share == group.shares[0].between == 1


def test_a_vector_beside_edges_keeps_its_share():
    rng = np.random.default_rng(0)
    group = group_attribution([person(f"s{i}", vector=float(i), edges=symmetric(rng, 5)) for i in range(9)])
    assert list(group.maps) == ["edges", "edge_parcels", "combined"]
    vector, edges = group.shares
    assert vector.between + edges.between == pytest.approx(1)
    assert group.maps["combined"].between.sum() == pytest.approx(edges.between)


def test_a_model_that_says_the_same_of_everybody_has_no_shares():
    group = group_attribution([person(f"s{i}", series=np.zeros(4), edges=np.zeros((4, 4))) for i in range(5)])
    assert [s.share for s in group.shares] == [0, 0]
    assert all(np.isnan(s.between) for s in group.shares)
    assert (group.maps["series"].consistency == 0).all()


def test_worst_errors_and_facts_are_passed_on():
    rng = np.random.default_rng(0)
    found = [person(f"s{i}", edges=symmetric(rng, 4), error=e) for i, e in enumerate((0.001, 0.02, 0.003))]
    found[2] = replace(found[2], steps=64)
    group = group_attribution(found)
    assert (group.error, group.shares[0].error, group.steps) == (0.04, 0.02, 64)
    assert group.keys == ("s0", "s1", "s2")
    assert group.baseline == {"fc": "zero"}


def test_the_same_people_give_the_same_bits_and_the_seed_matters():
    found = people(10, 40)
    one, two, other = (group_attribution(found, seed=s) for s in (0, 0, 1))
    assert one.stability.tobytes() == two.stability.tobytes()
    assert one.shares == two.shares
    assert one.shares != other.shares


def test_people_that_are_not_alike_are_refused():
    with pytest.raises(DataError, match="no attribution"):
        group_attribution([])
    with pytest.raises(DataError, match="same modalities"):
        group_attribution([*people(2, 5), *people(1, 5, series=False)])
    with pytest.raises(DataError, match="must hold series all or none, and of as many parcels"):
        group_attribution([*people(2, 5), *people(2, 6)])
    mixed = replace(people(1, 5)[0], parcels=None)
    with pytest.raises(DataError, match="must hold series all or none"):
        group_attribution([*people(2, 5), mixed])
    with pytest.raises(ValueError, match="2 people but 1 classes"):
        group_attribution(people(2, 5), ["a"])
