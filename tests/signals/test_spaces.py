import json
from importlib.resources import files

import h5py
import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from bids_fmmtc.errors import MissingInputError, SpaceError
from bids_fmmtc.recipe import SpaceSpec
from bids_fmmtc.signals.spaces import NLIN6, NLIN2009C, PACKAGED, packaged_warp, place, usable_spaces

DATA = files("bids_fmmtc") / "data"
LPS = np.array([-1.0, -1, 1])


@pytest.fixture(scope="module")
def displacement():
    return nib.load(str(DATA / PACKAGED))


# packaged


def test_packaged_warp_keeps_the_convention_of_its_json(displacement):
    text = json.loads((DATA / PACKAGED.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
    assert (text["From"], text["To"]) == (NLIN2009C, NLIN6)
    assert text["Convention"]["Formula"].startswith("x_6Asym = x_2009c + d(x_2009c)")
    d = displacement.get_fdata()
    nodes = np.argwhere(np.ones(d.shape[:3], bool))[::97]
    x = nib.affines.apply_affine(displacement.affine, nodes)
    np.testing.assert_allclose(packaged_warp()(x), x + d[tuple(nodes.T)], atol=1e-4)
    assert np.linalg.norm(d, axis=-1).max() > 3  # a field of zeros would pass the line above


def test_packaged_warp_is_linear_between_nodes(displacement):
    d = displacement.get_fdata()
    at = np.random.default_rng(0).uniform(1, np.array(d.shape[:3]) - 2, (200, 3))
    low, part = np.floor(at).astype(int), at % 1
    expected = np.zeros((200, 3))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        expected += weight[:, None] * d[tuple((low + corner).T)]
    x = nib.affines.apply_affine(displacement.affine, at)
    np.testing.assert_allclose(packaged_warp()(x) - x, expected, atol=1e-4)


def test_outside_the_grid_the_nearest_edge_counts(displacement):
    d, n = displacement.get_fdata(), np.array(displacement.shape[:3])
    at = np.array([[-40.0, 30, 30], [200, 30, 30], [30, -10, 30], [30, 30, 90], [-5, -5, -5]])
    edge = np.clip(at, 0, n - 1).astype(int)
    x = nib.affines.apply_affine(displacement.affine, at)
    np.testing.assert_allclose(packaged_warp()(x) - x, d[tuple(edge.T)], atol=1e-4)


def brain_points(n=4000):
    x = np.random.default_rng(1).uniform([-70, -100, -45], [70, 70, 75], (3 * n, 3))
    return x[np.linalg.norm((x - [0, -17, 13]) / [68, 86, 62], axis=1) < 1][:n]


def test_the_inverse_undoes_the_packaged_warp():
    x = brain_points()
    inverse = place(NLIN6, NLIN2009C, SpaceSpec(warp="packaged")).warp
    there = packaged_warp()(x)
    assert np.linalg.norm(there - x, axis=1).max() > 2
    assert np.linalg.norm(inverse(there) - x, axis=1).max() < 0.01
    assert np.linalg.norm(packaged_warp()(inverse(x)) - x, axis=1).max() < 0.01


def test_the_warp_brings_cortex_to_less_white_matter_than_none_and_than_its_opposite(a424_folder, meta):
    t1 = nib.load(next(meta.rglob("tpl-MNI152NLin2009cAsym_res-02_T1w_reference.nii.gz")))
    atlas = nib.load(a424_folder / "A424+2mm.nii.gz")
    labels = np.asarray(atlas.dataobj)
    cortex = nib.affines.apply_affine(atlas.affine, np.argwhere((labels > 0) & (labels <= 360)))[::3]
    inverse = place(NLIN6, NLIN2009C, SpaceSpec(warp="packaged")).warp

    def brightness(x):  # white matter is brightest
        at = nib.affines.apply_affine(np.linalg.inv(t1.affine), x).T
        return map_coordinates(t1.get_fdata(), at, order=1).mean()

    assert brightness(inverse(cortex)) < brightness(cortex) - 50
    assert brightness(cortex) < brightness(packaged_warp()(cortex)) - 25


# place


@pytest.mark.parametrize("rule", ["warp", "affine", "fail"])
def test_one_space_needs_no_rule(rule):
    for space in (NLIN6, NLIN2009C, "MNI152Lin"):
        placed = place(space, space, SpaceSpec(rule))
        assert (placed.how, placed.warp) == ("same", None)


def test_affine_takes_two_templates_for_one():
    for space in (NLIN2009C, "MNIColin27"):
        placed = place(space, NLIN6, SpaceSpec("affine"))
        assert (placed.how, placed.warp) == ("affine", None)


@pytest.mark.parametrize("rule", ["affine", "warp"])
def test_a_participants_own_space_is_never_taken_for_a_template(rule):
    with pytest.raises(SpaceError, match="no transform between T1w"):
        place("T1w", NLIN6, SpaceSpec(rule))


def test_fail_names_the_option_that_helps():
    with pytest.raises(SpaceError, match="--output-spaces MNI152NLin6Asym:res-2"):
        place(NLIN2009C, NLIN6, SpaceSpec("fail"))


@pytest.mark.parametrize("pair", [("MNIColin27", NLIN6), (NLIN6, "MNIColin27"), ("MNI152NLin6Sym", NLIN2009C)])
def test_warp_between_unknown_spaces_is_refused(pair):
    with pytest.raises(SpaceError, match=f"no transform between {pair[0]} and the atlas's {pair[1]}"):
        place(*pair, SpaceSpec("warp"))


def test_warp_goes_from_recording_to_atlas():
    x = brain_points(50)
    forward, backward = (place(*p, SpaceSpec(warp="packaged")) for p in ((NLIN2009C, NLIN6), (NLIN6, NLIN2009C)))
    assert forward.how == backward.how == "packaged"
    np.testing.assert_array_equal(forward.warp(x), packaged_warp()(x))
    assert np.abs(backward.warp(x) - packaged_warp()(x)).max() > 1


def test_source_of_the_warp(tmp_path):
    broken = tmp_path / "x.h5"
    broken.write_bytes(b"no")
    assert place(NLIN2009C, NLIN6, SpaceSpec(warp="auto")).how == "packaged"
    assert place(NLIN2009C, NLIN6, SpaceSpec(warp="packaged"), broken).how == "packaged"
    with pytest.raises(MissingInputError, match="TemplateFlow"):
        place(NLIN2009C, NLIN6, SpaceSpec(warp="templateflow"))
    for source in ("auto", "templateflow"):
        with pytest.raises(SpaceError, match="cannot be read"):
            place(NLIN2009C, NLIN6, SpaceSpec(warp=source), broken)


def test_usable_spaces_start_with_the_atlass_own():
    assert usable_spaces(NLIN6) == (NLIN6, NLIN2009C)
    assert usable_spaces(NLIN2009C) == (NLIN2009C, NLIN6)
    assert usable_spaces("MNIColin27") == ("MNIColin27",)


# TemplateFlow


def composite(path, *parts):
    """Write a composite as ITK does: /TransformGroup/0 the composite itself, 1.. its queue (the last acts first)."""
    with h5py.File(path, "w") as f:
        for name in ("ITKVersion", "HDFVersion", "OSName", "OSVersion"):
            f.create_dataset(name, data=["x"], dtype=h5py.string_dtype())
        for i, (kind, fixed, parameters) in enumerate([("CompositeTransform_double_3_3", None, None), *parts]):
            group = f.create_group(f"TransformGroup/{i}")
            group.create_dataset("TransformType", data=[kind], dtype=h5py.string_dtype())
            if parameters is not None:
                group.create_dataset("TransformFixedParameters", data=np.asarray(fixed, np.float64))
                group.create_dataset("TransformParameters", data=np.asarray(parameters, np.float64))
    return path


SIZE, ORIGIN, STEP = np.array([40, 30, 35]), np.array([80.0, 95, -70]), np.array([4.0, 6, 5])
DIRECTION = np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]])  # as ANTs writes an RAS image
SLOPE = np.array([[0.02, -0.01, 0.005], [0.03, -0.02, 0.0], [-0.01, 0.015, 0.01]])
SHIFT = np.array([1.5, -2.0, 3.0])
MATRIX = np.array([[1.02, 0.05, -0.01], [-0.04, 0.98, 0.02], [0.0, -0.03, 1.05]])
TRANSLATION, CENTRE = np.array([2.0, -3.0, 4.0]), np.array([5.0, 10.0, -15.0])


def node(index, direction=DIRECTION):
    return index @ (direction * STEP).T + ORIGIN


def field(direction=DIRECTION):
    """Sample u(p) = SLOPE p + SHIFT in LPS: between nodes, linear interpolation returns it exactly."""
    index = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), -1).reshape(-1, 3)
    u = (node(index, direction) @ SLOPE.T + SHIFT).reshape(*SIZE, 3)
    values = np.moveaxis(u, -1, 0).ravel(order="F")  # component fastest, then x, y, z
    fixed = [*SIZE, *ORIGIN, *STEP, *direction.ravel()]
    return "DisplacementFieldTransform_double_3_3", fixed, values


AFFINE_PART = ("AffineTransform_double_3_3", CENTRE, [*MATRIX.ravel(), *TRANSLATION])


def moved_by_field(p):
    return p + p @ SLOPE.T + SHIFT


def moved_by_affine(p):
    return (p - CENTRE) @ MATRIX.T + CENTRE + TRANSLATION


def through(path, x_ras):
    placed = place(NLIN2009C, NLIN6, SpaceSpec(warp="templateflow"), path)
    assert placed.how == "templateflow"
    return placed.warp(x_ras)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("field", moved_by_field),
        ("affine", moved_by_affine),
        ("affine field", lambda p: moved_by_affine(moved_by_field(p))),
        ("field affine", lambda p: moved_by_field(moved_by_affine(p))),
        ("affine affine", lambda p: moved_by_affine(moved_by_affine(p))),
    ],
)
def test_itk_composite_moves_points_as_itk_does(tmp_path, parts, expected):
    made = {"field": field(), "affine": AFFINE_PART}
    path = composite(tmp_path / "x.h5", *[made[p] for p in parts.split()])
    p = node(np.random.default_rng(2).uniform(6, SIZE - 7, (300, 3)))
    np.testing.assert_allclose(through(path, p * LPS) * LPS, expected(p), atol=1e-4)


def test_itk_field_on_a_turned_grid(tmp_path):
    direction = np.array([[0.0, -1, 0], [0.6, 0, -0.8], [0.8, 0, 0.6]])
    path = composite(tmp_path / "x.h5", field(direction))
    p = node(np.random.default_rng(2).uniform(2, SIZE - 3, (300, 3)), direction)
    np.testing.assert_allclose(through(path, p * LPS) * LPS, moved_by_field(p), atol=1e-4)


def test_single_precision_names_of_itk(tmp_path):
    parts = [(k.replace("double", "float"), f, v) for k, f, v in (AFFINE_PART, field())]
    p = node(np.random.default_rng(2).uniform(6, SIZE - 7, (20, 3)))
    got = through(composite(tmp_path / "x.h5", *parts), p * LPS) * LPS
    np.testing.assert_allclose(got, moved_by_affine(moved_by_field(p)), atol=1e-4)


@pytest.mark.parametrize("off_node", [0.0, 0.3])
def test_outside_an_itk_field_points_stay(tmp_path, off_node):
    # With every point on a node, nitransforms wraps those below the grid round to its far side, and fails above it.
    path = composite(tmp_path / "x.h5", field())
    at = np.array([[-1.0, 5, 5], [5, -8, 5], [5, 5, 40], [45, 5, 5], [5, 5, 5]]) + off_node
    p = node(at)
    expected = np.where(np.arange(5)[:, None] < 4, p, moved_by_field(p))
    np.testing.assert_allclose(through(path, p * LPS) * LPS, expected, atol=1e-4)


def test_reading_agrees_with_nitransforms_inside(tmp_path):
    from nitransforms.manip import TransformChain

    path = composite(tmp_path / "x.h5", AFFINE_PART, field())
    x = node(np.random.default_rng(3).uniform(6, SIZE - 7, (50, 3))) * LPS
    np.testing.assert_allclose(through(path, x), TransformChain.from_filename(path, fmt="itk").map(x), atol=1e-3)


def test_the_inverse_of_an_itk_composite(tmp_path):
    path = composite(tmp_path / "x.h5", AFFINE_PART, field())
    x = node(np.random.default_rng(4).uniform(10, SIZE - 11, (100, 3))) * LPS
    back = place(NLIN6, NLIN2009C, SpaceSpec(warp="auto"), path).warp
    np.testing.assert_allclose(back(through(path, x)), x, atol=1e-3)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "no group", "no transform", "unknown", "size"])
def test_unusable_transform_files(tmp_path, kind):
    path = tmp_path / "x.h5"
    if kind == "no group":
        with h5py.File(path, "w") as f:
            f["x"] = 1
    elif kind == "no transform":
        composite(path)
    elif kind == "unknown":
        composite(path, ("BSplineTransform_double_3_3", [0.0], [0.0]))
    elif kind == "size":
        name, fixed, values = field()
        composite(path, (name, fixed, values[:-3]))
    else:
        composite(path, field())
        data = path.read_bytes()
        path.write_bytes({"text": b"#Insight", "empty": b"", "truncated": data[: len(data) // 3]}[kind])
    with pytest.raises(SpaceError, match=r"x\.h5 cannot be read"):
        place(NLIN2009C, NLIN6, SpaceSpec(), path)


def test_absent_transform_file(tmp_path):
    with pytest.raises(SpaceError, match="cannot be read"):
        place(NLIN2009C, NLIN6, SpaceSpec(), tmp_path / "absent.h5")
