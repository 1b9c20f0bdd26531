"""Folds: nobody on both sides, every class in every fold, the same folds for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.folds import most_folds, permuted_rows, rng_of, site_folds, stratified_folds


@st.composite
def people(draw):
    sizes = draw(st.lists(st.integers(1, 3), min_size=12, max_size=40))
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    classes = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    classes[:4] = [True, False, True, False]
    y = np.array([float(classes[i]) for i, size in enumerate(sizes) for _ in range(size)])
    return groups, y


@given(people(), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_row_is_judged_once_and_no_group_is_divided(cohort, k, seed):
    groups, y = cohort
    folds = stratified_folds(y, groups, "classification", k, np.random.default_rng(seed))
    assert len(folds) == k
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(len(y)))
    for fold in folds:
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.test}
        assert sorted([*fold.train, *fold.test]) == list(range(len(y)))


@given(st.integers(5, 30), st.integers(5, 30), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_classes_and_sizes_are_even(n1, n0, seed):
    y = np.repeat([1.0, 0.0], [n1, n0])
    folds = stratified_folds(y, [str(i) for i in range(len(y))], "classification", 5, np.random.default_rng(seed))
    responders = [y[f.test].sum() for f in folds]
    sizes = [len(f.test) for f in folds]
    assert max(responders) - min(responders) <= 1
    assert max(sizes) - min(sizes) <= 1


def test_a_number_as_outcome_is_spread_over_the_folds():
    y = np.sort(np.random.default_rng(0).standard_normal(50))
    folds = stratified_folds(y, [str(i) for i in range(50)], "regression", 5, np.random.default_rng(1))
    assert all((f.test < 10).sum() == 2 and (f.test >= 40).sum() == 2 for f in folds)


def test_seeds_decide():
    y = np.tile([0.0, 1.0], 20)
    groups = [str(i) for i in range(40)]

    def tests_of(*seed):
        return [f.test.tolist() for f in stratified_folds(y, groups, "classification", 5, rng_of(*seed))]

    assert tests_of(1, "outer", 0) == tests_of(1, "outer", 0)
    assert tests_of(1, "outer", 0) != tests_of(1, "outer", 1)
    assert tests_of(1, "outer", 0) != tests_of(2, "outer", 0)


def test_too_few_people_or_one_class_is_said():
    y = np.array([1.0, 0, 1, 0])
    with pytest.raises(DataError, match="4 independent people or families cannot be divided into 5 folds"):
        stratified_folds(y, list("abcd"), "classification", 5, np.random.default_rng(0))
    with pytest.raises(DataError, match="found 1 responders and 5 non-responders"):
        stratified_folds(np.array([1.0, 0, 0, 0, 0, 0]), list("abcdef"), "classification", 2, np.random.default_rng(0))


def test_the_rarer_class_limits_inner_folds():
    y = np.array([1.0] * 3 + [0.0] * 9)
    groups = [str(i) for i in range(12)]
    assert most_folds(y, groups, "classification", 5) == 3
    assert most_folds(y, ["x", "x", *groups[2:]], "classification", 5) == 2
    assert most_folds(y, groups, "regression", 5) == 5


def test_a_site_is_judged_by_the_others_and_a_person_at_two_sites_teaches_neither():
    sites, groups = ["a", "a", "b", "b", "b"], ["1", "2", "2", "3", "4"]
    folds = site_folds(sites, groups)
    assert folds["a"].test.tolist() == [0, 1]
    assert folds["a"].train.tolist() == [3, 4]
    assert folds["b"].train.tolist() == [0]
    with pytest.raises(DataError, match="at least two sites, found a"):
        site_folds(["a", "a"], ["1", "2"])


@given(people(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_permutation_moves_whole_groups(cohort, seed):
    groups, _ = cohort
    moved = permuted_rows(groups, np.random.default_rng(seed))
    assert sorted(moved) == list(range(len(groups)))
    pairs = {(groups[i], groups[j]) for i, j in enumerate(moved)}
    assert len({a for a, _ in pairs}) == len(pairs) == len(set(groups))
