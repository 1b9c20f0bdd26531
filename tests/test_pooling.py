"""Runs of a session pooled: windows as they are, connectivity of all frames."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qualities import quality

from bids_fmmtc.pooling import about_all, pooled
from bids_fmmtc.recipe import Connectivity, Recipe
from bids_fmmtc.types import Features

ALL = Recipe(connectivity=Connectivity(frames="all"))


def run(key, n_windows, n_frames, seed):
    rng = np.random.default_rng(seed)
    fc = rng.normal(size=(n_windows, 5, 5)).astype(np.float32)
    arrays = {"fc": fc + fc.transpose(0, 2, 1), "brainlm": rng.normal(size=(n_windows, 7)).astype(np.float32)}
    return Features(key, np.zeros((n_windows, 2), np.int32), arrays, quality(n_frames_left=n_frames), ALL.digest)


runs = st.lists(st.tuples(st.integers(1, 5), st.integers(50, 900), st.integers(0, 99)), min_size=2, max_size=4).map(
    lambda found: [run(f"r{i}", *each) for i, each in enumerate(found)]
)


@given(runs)
def test_runs_weigh_as_many_frames_as_they_have(found):
    got = pooled("fc", found, ALL)
    frames = np.array([r.quality.n_frames_left for r in found])
    expected = sum(n * r.arrays["fc"].mean(axis=0, dtype=np.float64) for n, r in zip(frames, found, strict=True))
    np.testing.assert_allclose(got.mean(axis=0), expected / frames.sum(), atol=1e-5)
    plain = np.concatenate([r.arrays["fc"] for r in found])
    np.testing.assert_allclose(got - got.mean(axis=0), plain - plain.mean(axis=0), atol=1e-5)
    assert got.dtype == np.float32


@given(runs)
def test_all_else_is_windows_one_after_another(found):
    windows = replace(ALL, connectivity=Connectivity())
    for name, recipe in (("brainlm", ALL), ("brainlm", windows), ("fc", windows)):
        np.testing.assert_array_equal(pooled(name, found, recipe), np.concatenate([r.arrays[name] for r in found]))


@pytest.mark.parametrize("name", ["fc", "brainlm"])
def test_a_single_run_is_as_it_stands(name):
    only = run("r", 3, 200, 1)
    assert pooled(name, [only], ALL) is only.arrays[name]


def test_covariances_stay_positive_definite():
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(3, 4, 4))
    windows = (halves @ halves.transpose(0, 2, 1) + 0.01 * np.eye(4)).astype(np.float32)
    whole = 0.01 * np.eye(4)
    got = about_all(windows, whole, "tangent")
    np.testing.assert_array_equal(got, np.repeat(whole[None], 3, axis=0).astype(np.float32))
    assert np.linalg.eigvalsh(about_all(windows, whole, "gram").astype(np.float64)).min() < 0  # why
