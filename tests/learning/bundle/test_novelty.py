"""Distances of embeddings: against a dense computation, and on simulated people."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from bids_fmmtc.errors import BundleError, DataError
from bids_fmmtc.learning.bundle.novelty import Novelty, embedding, embedding_size, from_arrays, to_arrays


def draw(rng, n, size, noise=1.0):
    """People about a common pattern, who vary along six directions and by themselves."""
    pattern = np.random.default_rng(99).standard_normal((7, size))
    spread = np.array([3, 2, 1.5, 1, 1, 0.5])
    return (
        2 * pattern[0] + (rng.standard_normal((n, 6)) * spread) @ pattern[1:] + noise * rng.standard_normal((n, size))
    )


def directions(x, k):
    """Mean direction and components of rows (N, P), by a plain singular value decomposition."""
    mean = x.mean(axis=0)
    components = np.linalg.svd(x - mean, full_matrices=False)[2][:k]
    rest = mean - components.T @ (components @ mean)
    return mean, np.vstack([rest / np.linalg.norm(rest), components])


def coordinates(x, mean, basis):
    scores = basis @ (x - mean)
    return scores, np.linalg.norm(x - mean - basis.T @ scores)


def expected_distances(x, new, k):
    """The definition, one person left out at a time."""
    n = len(x)
    left_out = [coordinates(x[i], *directions(np.delete(x, i, axis=0), k)) for i in range(n)]
    scores, left = np.array([s for s, _ in left_out]), np.array([r for _, r in left_out])

    def distance(s, r, rows):
        beyond = max(0, r - left[rows].mean()) / left[rows].std()
        return np.sqrt((s**2 / (scores[rows] ** 2).mean(axis=0)).sum() + beyond**2)

    logs = np.log([distance(scores[i], left[i], np.arange(n) != i) for i in range(n)])
    limit = np.exp(logs.mean() + student.ppf(0.98, n - 1) * np.sqrt(1 + 1 / n) * logs.std(ddof=1))
    mean, basis = directions(x, k)
    return [distance(*coordinates(row, mean, basis), np.full(n, fill_value=True)) / limit for row in new]


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_unit_of_an_embedding_does_not_matter(unit):
    rng = np.random.default_rng(5)
    x, new = draw(rng, 16, 60), draw(rng, 4, 60, noise=2)
    one, other = Novelty.fit(x), Novelty.fit(unit * x)
    np.testing.assert_allclose(
        [other.distance(unit * row) for row in new], [one.distance(row) for row in new], rtol=1e-3
    )


@pytest.mark.parametrize(("n", "size", "most"), [(8, 40, 2), (13, 400, 3), (20, 50, 5)])
def test_distances_are_what_the_definition_says(n, size, most):
    rng = np.random.default_rng(n)
    x, new = draw(rng, n, size), draw(rng, 5, size, noise=2)
    novelty = Novelty.fit(x)
    k = len(novelty.basis) - 1
    assert 1 <= k <= most
    np.testing.assert_allclose(novelty.basis @ novelty.basis.T, np.eye(1 + k), atol=1e-5)
    found = [novelty.distance(row) for row in new]
    np.testing.assert_allclose(found, expected_distances(x, new, k), rtol=1e-3)


@pytest.mark.parametrize(("n", "repeats", "most"), [(8, 30, 0.1), (20, 20, 0.08), (60, 12, 0.06)])
def test_few_people_like_those_of_training_lie_outside(n, repeats, most):
    alarms = []
    for seed in range(repeats):
        rng = np.random.default_rng([n, seed])
        novelty = Novelty.fit(draw(rng, n, 300).astype(np.float32))
        alarms.append(np.mean([novelty.distance(row) > 1 for row in draw(rng, 60, 300)]))
    assert 0 < np.mean(alarms) < most


def test_training_people_themselves_lie_inside():
    for n in (8, 20, 40):
        for noise in (0.1, 10):
            x = draw(np.random.default_rng(n), n, 300, noise)
            novelty = Novelty.fit(x)
            assert np.mean([novelty.distance(row) > 1 for row in x]) <= 0.05


@pytest.mark.parametrize(("noise", "least", "most"), [(0.01, 6, 6), (20, 0, 1)])
def test_components_that_do_not_last_are_left_out(noise, least, most):
    """Six directions in 400, and whatever directions the noise of these people happens to take."""
    novelty = Novelty.fit(draw(np.random.default_rng(0), 40, 400, noise))
    assert least <= len(novelty.basis) - 1 <= most


def test_other_people_lie_outside():
    rng = np.random.default_rng(0)
    novelty = Novelty.fit(draw(rng, 30, 300))
    people = draw(rng, 20, 300)
    for strange in (
        people[:, rng.permutation(300)],  # parcels in another order
        rng.standard_normal((20, 300)),  # no common pattern
        people + 5 * rng.standard_normal(300),  # another scanner
        people * 3,  # another scale
    ):
        assert all(novelty.distance(row) > 1 for row in strange)


def test_sessions_of_one_person_are_left_out_together():
    """Three scans of each of ten people: left out one by one, a person's other scans would draw the limit in."""
    rng = np.random.default_rng(0)
    people = draw(rng, 10, 200)
    x = np.repeat(people, 3, axis=0) + 0.1 * rng.standard_normal((30, 200))
    names = [f"sub-{i // 3}" for i in range(30)]
    new = draw(rng, 20, 200)
    together, apart = Novelty.fit(x, names), Novelty.fit(x)
    assert np.mean([together.distance(row) > 1 for row in new]) < np.mean([apart.distance(row) > 1 for row in new])


def test_same_input_same_bits_and_little_of_it():
    x = draw(np.random.default_rng(0), 25, 9001).astype(np.float32)
    one, two = Novelty.fit(x).to_arrays(), Novelty.fit(x.copy()).to_arrays()
    for name, array in one.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, two[name])
    assert sum(a.nbytes for a in one.values()) <= 4 * (9001 + 7 * 9001 + 7 + 2)  # the mean, its direction, 6 components


def test_eight_people_and_ninety_thousand_edges():
    rng = np.random.default_rng(0)
    novelty = Novelty.fit(rng.standard_normal((8, 90_100), dtype=np.float32) + 3)
    assert novelty.basis.shape == (1, 90_100)  # the mean: nothing else is common to them
    assert novelty.distance(np.full(90_100, 3, np.float32)) < 1 < novelty.distance(np.zeros(90_100))


def test_people_that_differ_in_one_direction_only():
    """Fewer directions than components are allowed: a new direction is far away, but its distance is a number."""
    x = 1 + np.outer(np.arange(12.0), [1, 0, 0, 0])
    novelty = Novelty.fit(x)
    assert novelty.distance(x[5]) < 1
    assert 1 < novelty.distance(x[5] + [0, 0, 5, 0]) < np.inf


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((9, 4)), "are the same"),
        (np.full((9, 4), 0.1, np.float32), "are the same"),
        (np.zeros((9, 4)), "are the same"),
        (np.eye(7), "at least 8 people, found 7"),
        (np.full((9, 4), np.nan), "not finite"),
        (1e200 * np.eye(9), "too large"),
    ],
)
def test_what_cannot_be_fitted(x, message):
    with np.errstate(over="ignore"), pytest.raises(DataError, match=message):
        Novelty.fit(x)


def test_groups_count_people():
    with pytest.raises(DataError, match="found 4"):
        Novelty.fit(np.random.default_rng(0).standard_normal((12, 5)), ["a", "b", "c", "d"] * 3)
    with pytest.raises(ValueError, match="3"):
        Novelty.fit(np.eye(9), ["a", "b", "c"])


@settings(deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_an_embedding_is_the_mean_over_windows(windows, shape):
    rng = np.random.default_rng(windows)
    x = rng.standard_normal((windows, *shape)).astype(np.float32)
    found = embedding(x)
    assert (found.dtype, found.shape) == (np.float32, (embedding_size(shape),))
    mean = x.astype(np.float64).mean(axis=0)
    square = len(shape) == 2 and shape[0] == shape[1]
    expected = [mean[i, j] for i in range(shape[0]) for j in range(i, shape[1])] if square else mean.ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# Stored arrays that were tampered with: tests/learning/bundle/test_predict.py.


def test_what_is_stored_is_read():
    rng = np.random.default_rng(0)
    shapes = {"fc": (4, 4), "brainlm": (7,)}
    novelty = {name: Novelty.fit(draw(rng, 12, embedding_size(shape))) for name, shape in shapes.items()}
    arrays = to_arrays(novelty)
    again = from_arrays(arrays, shapes)
    for name, shape in shapes.items():
        x = rng.standard_normal(embedding_size(shape))
        assert again[name].distance(x) == novelty[name].distance(x)
    with pytest.raises(BundleError, match="expected arrays"):
        from_arrays(arrays, {"fc": (4, 4)})
    with pytest.raises(BundleError, match=r"brainlm\.mean must be float32 \(8,\), found float32 \(7,\)"):
        from_arrays(arrays, {**shapes, "brainlm": (8,)})
    with pytest.raises(BundleError, match=r"fc\.weights must be float32"):
        from_arrays({**arrays, "fc.weights": arrays["fc.weights"][None]}, shapes)
