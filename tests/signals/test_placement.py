"""Interpolation axis by axis is the sparse matrix's, wherever it may be used, and nothing else is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import CoverageError
from bids_fmmtc.signals.parcellate import Header
from bids_fmmtc.signals.placement import Oblique, Parallel, place_image
from bids_fmmtc.types import ClipForm

# 4 mm, from right to left, as the encoder's grid runs.
FORM = ClipForm((17, 19, 15), ((-4, 0, 0, 32), (0, 4, 0, -38), (0, 0, 4, -28), (0, 0, 0, 1)), 0.8, 5)


def header_of(shape, affine, dtype=np.float32, slope=1.0, intercept=0.0):
    return Header(Path("b.nii"), (*shape, 2), affine, np.dtype(dtype), slope, intercept, 352, 2.0)


def turn(affine, degrees):
    angle = np.deg2rad(degrees)
    about = np.eye(4)
    about[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return about @ affine


@st.composite
def images(draw):
    """Draw shape, affine and (X, Y, Z) mask or None: axes parallel to the grid's, in any order, direction and place."""
    order = draw(st.permutations(range(3)))
    shape, affine = [0, 0, 0], np.diag([0.0, 0, 0, 1])
    for axis, world in enumerate(order):
        # Steps of the grid's own, of a part of it, and of any other; on its points, beside them, and partly off it.
        step = draw(st.sampled_from([4.0, 2.0, 8.0]) | st.floats(2.5, 9))
        shape[axis] = draw(st.integers(1, 1 + int(80 / step)))
        middle = draw(st.sampled_from([0.0, 1.0, 2.0]) | st.floats(-15, 15))
        affine[world, axis] = step * draw(st.sampled_from([-1, 1]))
        affine[world, 3] = middle - affine[world, axis] * (shape[axis] // 2)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    share = draw(st.sampled_from([None, 0.05, 0.5, 0.95, 1.0]))
    return tuple(shape), affine, None if share is None else rng.random(shape) < share


@settings(max_examples=60)
@given(image=images(), dtype=st.sampled_from(["<i2", ">i2", "u1", "<f4", ">f8"]), scaled=st.booleans())
def test_axis_by_axis_is_what_the_sparse_matrix_gives(image, dtype, scaled):
    shape, affine, mask = image
    header = header_of(shape, affine, dtype, *((0.5, -7.0) if scaled else (1.0, 0.0)))
    fast, general = Parallel.of(header, mask, FORM), Oblique.of(header, mask, FORM)
    np.testing.assert_array_equal(fast.places, general.places)
    assert fast.masked == general.masked == (mask is not None)
    rng = np.random.default_rng(0)
    raw = rng.integers(0 if dtype == "u1" else -90, 250, int(np.prod(shape))).astype(dtype)
    if raw.dtype.kind == "f":
        raw[rng.random(len(raw)) < 0.1] = np.nan
    before = raw.copy()
    one, other = fast.volume(raw, header), general.volume(raw, header)
    assert one.dtype == other.dtype == np.float32
    np.testing.assert_allclose(one, other, atol=250 * 1e-6)
    np.testing.assert_array_equal(raw, before)


def test_only_what_is_parallel_all_across_the_grid_goes_axis_by_axis():
    affine = np.array([[0, 3, 0, -30], [-3, 0, 0, 33], [0, 0, 3, -24], [0, 0, 0, 1.0]])
    shape = (24, 22, 18)
    assert isinstance(place_image(header_of(shape, affine), None, FORM), Parallel)
    assert isinstance(place_image(header_of(shape, turn(affine, 90)), None, FORM), Parallel)
    rounded = turn(affine, 1e-5).astype(np.float32).astype(float)
    assert isinstance(place_image(header_of(shape, rounded), None, FORM), Parallel)
    for degrees in (0.1, 45):
        assert isinstance(place_image(header_of(shape, turn(affine, degrees)), None, FORM), Oblique)


@pytest.mark.parametrize("degrees", [0, 7])
def test_an_image_beside_the_grid_or_without_a_brain_is_refused(degrees):
    affine = turn(np.diag([3.0, 3, 3, 1]), degrees)
    affine[:3, 3] += (-30, -33, -24)
    shape, nothing = (22, 24, 18), np.zeros((22, 24, 18), bool)
    with pytest.raises(CoverageError, match=r"has only 0 voxels on the encoder's grid inside its brain mask \(0 of"):
        place_image(header_of(shape, affine), nothing, FORM)
    affine[:3, 3] += 500
    with pytest.raises(CoverageError, match="has only 0 voxels on the encoder's grid: no brain"):
        place_image(header_of(shape, affine), None, FORM)
