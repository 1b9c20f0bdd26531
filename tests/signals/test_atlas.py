import itertools

import nibabel as nib
import numpy as np
import published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff

from bids_fmmtc.errors import AtlasError, MissingInputError
from bids_fmmtc.signals.atlas import PUBLISHED_IMAGE, TIE_BREAK_MM, labels_on_grid, read_atlas

AFFINE = np.array([[-2.0, 0, 0, 6], [0, 2, 0, -8], [0, 0, 2, -4], [0, 0, 0, 1]])
TABLE = "index\tname\n3\tleft\n7\tright\n20\tback\n"
FULL = "index\tname\tx\ty\tz\tnetwork\n3\tleft\t1\t2\t3\tA\n7\tright\t-4\t5\t6\tB\n20\tback\t7\t8\t9\tB\n"


def blocks():
    labels = np.zeros((6, 7, 5), np.int16)
    labels[1:3, 1:4, 1:3] = 3
    labels[3:5, 1:4, 1:4] = 7
    labels[2, 5, 2] = 20
    return labels


@pytest.fixture
def folder(tmp_path):
    """Write an atlas folder; every part can be replaced."""

    def make(data=None, table=TABLE, stem="tpl-MNI152NLin6Asym_atlas-Three_res-02_dseg", name=None, under="", **how):
        root = tmp_path / "atlas"
        place = root / under
        place.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(blocks() if data is None else data, how.get("affine", AFFINE))
        image.to_filename(place / f"{stem}{how.get('suffix', '.nii.gz')}")
        if table is not None:
            (how.get("table_folder") or place).joinpath(name or f"{stem}.tsv").write_text(table, encoding="utf-8")
        return root

    return make


# the table


def test_index_and_name_alone_give_centroids(folder):
    atlas = read_atlas(folder())
    assert (atlas.name, atlas.space) == ("Three", "MNI152NLin6Asym")
    assert (atlas.index, atlas.names, atlas.networks) == ((3, 7, 20), ("left", "right", "back"), None)
    data = blocks()
    for row, label in enumerate(atlas.index):
        voxels = np.argwhere(data == label)
        np.testing.assert_allclose(atlas.xyz[row], nib.affines.apply_affine(AFFINE, voxels.mean(axis=0)), rtol=1e-6)
        np.testing.assert_array_equal(atlas.labels == row + 1, data == label)
    assert atlas.labels.dtype == np.int32
    assert atlas.n_parcels == 3


def test_coordinates_and_networks_of_the_table(folder):
    atlas = read_atlas(folder(table=FULL))
    np.testing.assert_array_equal(atlas.xyz, [[1, 2, 3], [-4, 5, 6], [7, 8, 9]])
    assert atlas.networks == ("A", "B", "B")
    assert atlas.xyz.dtype == np.float32


def test_columns_follow_the_table_not_the_labels(folder):
    atlas = read_atlas(folder(table="name\tindex\nback\t20\nnobody\t5\nleft\t3\nbackground\t0\nright\t7\n"))
    assert atlas.index == (20, 5, 3, 7)
    assert atlas.labels[2, 5, 2] == 1
    assert (atlas.labels == 2).sum() == 0
    np.testing.assert_array_equal(atlas.labels == 3, blocks() == 3)


def test_equal_names_are_told_apart(folder):
    names = read_atlas(folder(table="index\tname\n3\ta\n7\ta\n20\tb\n")).names
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("index\tname\n3\tleft\n7\tright\n", r"labels that its table lacks: \[20\]"),
        ("index\tname\n3\tleft\n7\tright\n20\tback\n7\tagain\n", "lists a label twice"),
        ("number\tname\n3\tleft\n", "columns index and name, found number, name"),
        ("", "found nothing"),
        ("index\tname\n", "found nothing"),
        ("index\tname\n0\tbackground\n", "labels of 1 and above"),
        ("index\tname\n-3\tleft\n7\tright\n20\tback\n", "labels of 1 and above"),
        ("index\tname\nthree\tleft\n", "could not convert"),
        ("index\tname\n3\tleft\n7\tright\n20\n", "a parcel without a name"),
        ("index\tname\tnetwork\n3\tleft\t=A1()\n7\tright\tB\n20\tback\tB\n", "network name '=A1"),
        (FULL.replace("\t5\t6", "\tn/a\t6"), "could not convert"),
    ],
)
def test_tables_that_do_not_serve(folder, table, message):
    with pytest.raises(AtlasError, match=message):
        read_atlas(folder(table=table))


# the image


def test_float_storage_of_whole_labels_is_read(folder):
    np.testing.assert_array_equal(read_atlas(folder(blocks().astype(np.float32))).labels > 0, blocks() > 0)


def test_a_fourth_axis_of_one_is_read(folder):
    assert read_atlas(folder(blocks()[..., None])).labels.shape == (6, 7, 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (blocks() * np.float32(0.3), "not whole labels"),
        (np.where(blocks() == 3, np.nan, blocks()).astype(np.float32), "not whole labels"),
        (-blocks(), "not whole labels"),
        (np.where(blocks() == 3, 1e300, blocks()), "not whole labels"),
        (np.stack([blocks()] * 3, axis=-1), "expected one 3-D label image"),
        (np.zeros((4, 4, 4), np.int16), "no label at all"),
    ],
)
def test_images_that_do_not_serve(folder, data, message):
    with pytest.raises(AtlasError, match=message):
        read_atlas(folder(data))


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty", "type"])
def test_a_damaged_image_is_an_atlas_error(folder, damage):
    root = folder(np.random.default_rng(0).permutation(blocks().ravel()).reshape(6, 7, 5), suffix=".nii.gz")
    path = next(root.glob("*.nii.gz"))
    data = bytearray(path.read_bytes())
    if damage == "type":
        import gzip

        plain = bytearray(gzip.decompress(data))
        plain[70:72] = (9999).to_bytes(2, "little")  # datatype
        data = gzip.compress(plain)
    elif damage == "corrupt":
        data[12:16] = b"\xff" * 4  # zlib.error, which is no OSError
    else:
        data = data[: len(data) // 2 if damage == "truncated" else 0]
    path.write_bytes(data)
    with pytest.raises(AtlasError, match=r"not a readable NIfTI image|cannot be read"):
        read_atlas(root)


# the folder


def test_folder_must_exist(tmp_path):
    with pytest.raises(MissingInputError, match="nowhere"):
        read_atlas(tmp_path / "nowhere")


def test_folder_without_an_atlas(tmp_path):
    with pytest.raises(AtlasError, match="neither"):
        read_atlas(tmp_path)


@pytest.mark.parametrize("stem", ["atlas-Three_space-MNI152NLin6Asym_dseg", "tpl-MNI152NLin6Asym_seg-Three_dseg"])
def test_spellings_of_space_and_name(folder, stem):
    atlas = read_atlas(folder(stem=stem, suffix=".nii"))
    assert (atlas.name, atlas.space) == ("Three", "MNI152NLin6Asym")


def test_a_name_given_wins_and_is_alphanumeric(folder):
    assert read_atlas(folder(), "My-Atlas_2").name == "MyAtlas2"


def test_a_space_unnamed_is_refused(folder):
    with pytest.raises(AtlasError, match="does not name its space"):
        read_atlas(folder(stem="atlas-Three_dseg"))


def test_tpl_folder_below(folder):
    assert read_atlas(folder(under="tpl-MNI152NLin6Asym")).space == "MNI152NLin6Asym"


@pytest.mark.parametrize("above", [False, True])
def test_table_is_inherited(folder, tmp_path, above):
    root = folder(
        under="tpl-MNI152NLin6Asym",
        name="tpl-MNI152NLin6Asym_atlas-Three_dseg.tsv",
        table_folder=tmp_path / "atlas" if above else None,
    )
    assert read_atlas(root).names == ("left", "right", "back")


def test_missing_table_names_what_was_looked_for(folder):
    with pytest.raises(AtlasError, match=r"has no table: looked for tpl-MNI152NLin6Asym_atlas-Three_res-02_dseg\.tsv"):
        read_atlas(folder(table=None))


def test_of_several_resolutions_2_mm_is_taken(folder):
    folder(np.where(blocks() == 3, 3, 0).astype(np.int16), stem="tpl-MNI152NLin6Asym_atlas-Three_res-01_dseg")
    atlas = read_atlas(folder())
    assert (atlas.labels == 2).any()


def test_several_images_are_refused(folder):
    folder(stem="tpl-MNI152NLin6Asym_atlas-Three_res-01_dseg")
    with pytest.raises(AtlasError, match="several images"):
        read_atlas(folder(stem="tpl-MNI152NLin6Asym_atlas-Three_res-03_dseg"))


# identity


def test_sha256_is_of_content(folder, tmp_path):
    first = read_atlas(folder(table=FULL))
    (tmp_path / "atlas").rename(tmp_path / "first")

    def again(**change):
        import shutil

        shutil.rmtree(tmp_path / "atlas", ignore_errors=True)
        return read_atlas(folder(**{"table": FULL, **change})).sha256

    same = [
        again(),
        again(stem="tpl-MNI152NLin6Asym_atlas-Other_dseg", suffix=".nii"),
        again(data=blocks().astype(np.float64)),
        again(data=blocks().astype(np.uint8)),
        again(data=blocks()[..., None]),
    ]
    assert set(same) == {first.sha256}
    moved = blocks()
    moved[0, 0, 0] = 3
    affine = AFFINE.copy()
    affine[0, 3] += 0.5
    different = [
        again(data=moved),
        again(affine=affine),
        again(stem="tpl-MNI152NLin2009cAsym_atlas-Three_res-02_dseg"),
        again(table=FULL.replace("left", "link")),
        again(table=FULL.replace("\tA\n", "\tC\n")),
        again(table=FULL.replace("1\t2\t3", "1\t2\t4")),
        again(table=FULL + "21\tmore\t0\t0\t0\tB\n"),
        again(table=FULL.replace("3\tleft\t1", "5\tleft\t1"), data=np.where(blocks() == 3, 5, blocks())),
    ]
    assert len({first.sha256, *different}) == 9


# labels on a grid


def nearest(atlas, shape, affine):
    """Look at every voxel of a grid, one by one."""
    labels = np.zeros(shape, np.int32)
    to_atlas = np.linalg.inv(atlas.affine)
    for at in np.ndindex(shape):
        point = affine[:3, :3] @ at + affine[:3, 3] + TIE_BREAK_MM
        voxel = np.rint(to_atlas[:3, :3] @ point + to_atlas[:3, 3]).astype(int)
        if all(0 <= v < n for v, n in zip(voxel, atlas.labels.shape, strict=True)):
            labels[at] = atlas.labels[tuple(voxel)]
    return labels


orientations = st.tuples(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3))


@given(
    seed=st.integers(0, 2**32 - 1),
    turn=orientations,
    step=st.sampled_from([1.0, 2.0, 3.0, 3.5, 4.0]),
    shift=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 0.3])] * 3),
    tilt=st.sampled_from([0.0, 0.0, 0.2]),
)
@settings(max_examples=80, deadline=None)
def test_storage_order_of_the_atlas_does_not_matter(tiny_atlas, seed, turn, step, shift, tilt):
    # Shifts of half an atlas voxel put grid voxels exactly between two atlas voxels.
    labels = np.random.default_rng(seed).integers(0, 6, (5, 6, 4))
    atlas = tiny_atlas(labels, AFFINE, n=5)
    ornt = np.array(list(zip(*turn, strict=True)), float)
    stored = apply_orientation(labels, ornt)
    other = tiny_atlas(stored, AFFINE @ inv_ornt_aff(ornt, labels.shape), n=5)
    c, s = np.cos(tilt), np.sin(tilt)
    affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]) @ np.diag([step, step, step, 1])
    affine[:3, 3] = np.array([-6.0, -10, -6]) + shift
    shape = (7, 7, 5)
    one, two = labels_on_grid(atlas, shape, affine), labels_on_grid(other, shape, affine)
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.expected, two.expected)
    np.testing.assert_array_equal(one.labels, nearest(atlas, shape, affine))


def test_its_own_grid_gives_its_own_labels(folder):
    atlas = read_atlas(folder())
    grid = labels_on_grid(atlas, atlas.labels.shape, atlas.affine)
    np.testing.assert_array_equal(grid.labels, atlas.labels)
    np.testing.assert_array_equal(grid.expected, np.bincount(atlas.labels.ravel())[1:])


@given(
    st.tuples(*[st.tuples(st.integers(-3, 4), st.integers(1, 9))] * 3),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_cut_field_of_view_leaves_expected_counts(tiny_atlas, window, step, warped):
    labels = np.random.default_rng(5).integers(0, 4, (6, 6, 6))
    atlas = tiny_atlas(labels, np.diag([2.0, 2, 2, 1]))
    whole = np.diag([step, step, step, 1])
    whole[:3, 3] = -6 * step
    warp = (lambda x: x + np.array([0.7, -1.3, 0.4])) if warped else None
    full = labels_on_grid(atlas, (40, 40, 40), whole, warp)
    np.testing.assert_array_equal(full.expected, np.bincount(full.labels.ravel(), minlength=4)[1:])
    start, size = np.array(window).T
    part = whole.copy()
    part[:3, 3] += (start + 6) * step
    got = labels_on_grid(atlas, tuple(size), part, warp)
    np.testing.assert_array_equal(got.expected, full.expected)
    begin = start + 6
    inside = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
    np.testing.assert_array_equal(got.labels, full.labels[inside])


def test_a_warp_moves_points_before_the_look_up(tiny_atlas):
    labels = np.zeros((8, 8, 8), int)
    labels[5, 3, 2] = 1
    grid = labels_on_grid(tiny_atlas(labels), (8, 8, 8), np.eye(4), lambda x: x + np.array([2.0, 0, -1.0]))
    np.testing.assert_array_equal(np.argwhere(grid.labels), [[3, 3, 3]])


# A424


@pytest.fixture(scope="module")
def small_pair(tmp_path_factory):
    """A pair of files in A424's own format, of few parcels; the real one is not part of the project."""
    return published.write_pair(tmp_path_factory.mktemp("published"))


def test_a_pair_of_its_format(small_pair):
    atlas = read_atlas(small_pair)
    assert (atlas.name, atlas.space, atlas.n_parcels) == ("A424", "MNI152NLin6Asym", published.R)
    assert (atlas.names[0], atlas.names[-1]) == ("A424_01", "A424_24")
    np.testing.assert_array_equal(atlas.xyz, published.CENTRES)
    np.testing.assert_array_equal(atlas.labels, published.parcels(published.SHAPE, published.AFFINE))
    np.testing.assert_array_equal(atlas.affine, published.AFFINE)
    for row in (0, 5, 23):  # RAS+ millimetres: x is not mirrored, though the image stores it so
        middle = nib.affines.apply_affine(atlas.affine, np.argwhere(atlas.labels == row + 1).mean(axis=0))
        assert np.abs(atlas.xyz[row] - middle).max() <= 1


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\r\n", "\n").encode(),
        lambda text: text.replace("\t", "   ").encode(),
        lambda text: f"{text}\r\n\r\n".encode(),
        lambda text: text.replace("\t", ".0\t").encode(),
    ],
    ids=["byte order mark", "LF", "blanks", "empty lines", "floats"],
)  # fmt: skip
def test_a_published_table_in_other_spellings(small_pair, tmp_path, spell):
    (tmp_path / PUBLISHED_IMAGE).symlink_to(small_pair / PUBLISHED_IMAGE)
    text = (small_pair / "A424_Coordinates.dat").read_bytes().decode()
    (tmp_path / "A424_Coordinates.dat").write_bytes(spell(text))
    assert read_atlas(tmp_path).sha256 == read_atlas(small_pair).sha256


@pytest.fixture(scope="module")
def a424(a424_folder):
    return read_atlas(a424_folder)


def test_the_published_pair(a424):
    sizes = np.bincount(a424.labels.ravel())[1:]
    assert (a424.n_parcels, len(sizes)) == (424, 424)
    assert (sizes.min(), sizes.max()) == (1, 1983)
    assert (a424.name, a424.space) == ("A424", "MNI152NLin6Asym")
    assert a424.index == tuple(range(1, 425))
    assert (a424.names[0], a424.names[-1]) == ("A424_001", "A424_424")
    centres = nib.affines.apply_affine(
        a424.affine, np.array([np.argwhere(a424.labels == r).mean(axis=0) for r in (1, 180, 405, 424)])
    )
    assert np.abs(a424.xyz[[0, 179, 404, 423]] - centres).max() < 15  # same frame: RAS+ millimetres, x not mirrored


def test_published_image_without_table(small_pair, tmp_path):
    (tmp_path / PUBLISHED_IMAGE).symlink_to(small_pair / PUBLISHED_IMAGE)
    with pytest.raises(AtlasError, match=r"no A424_Coordinates\.dat"):
        read_atlas(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n", "3 columns"),
        ("a b c d\n", "could not convert"),
        ("", "no columns"),
        ("1.5 0 0 0\n", "'1.5' is no label value"),
        ("1 0 0 0\n", "labels that its table lacks"),
    ],
)
def test_published_table_that_does_not_fit(small_pair, tmp_path, text, message):
    (tmp_path / PUBLISHED_IMAGE).symlink_to(small_pair / PUBLISHED_IMAGE)
    (tmp_path / "A424_Coordinates.dat").write_text(text)
    with pytest.raises(AtlasError, match=message):
        read_atlas(tmp_path)


def test_two_parcels_vanish_on_the_grid_of_a_real_recording(a424):
    affine = np.array([[3.5, 0, 0, -95.75], [0, 3.5, 0, -131.75], [0, 0, 4, -77.5], [0, 0, 0, 1]])
    grid = labels_on_grid(a424, (55, 65, 48), affine)
    assert (np.flatnonzero(grid.expected == 0) + 1).tolist() == [383, 405]


@pytest.mark.parametrize("turn", [((0, 1, 2), (-1, 1, 1)), ((2, 0, 1), (1, -1, -1))])
def test_a424_stored_otherwise_gives_the_same_columns(a424, turn):
    ornt = np.array(list(zip(*turn, strict=True)), float)
    stored = apply_orientation(a424.labels, ornt)
    other = type(a424)(
        **{
            **{f: getattr(a424, f) for f in a424.__slots__},
            "labels": np.ascontiguousarray(stored),
            "affine": a424.affine @ inv_ornt_aff(ornt, a424.labels.shape),
        }
    )
    for step, origin in itertools.product((4.0,), ((-96.5, -132.5, -78.5), (-97.0, -133.0, -79.0))):
        affine = np.diag([step, step, step, 1])
        affine[:3, 3] = origin
        one, two = labels_on_grid(a424, (49, 58, 49), affine), labels_on_grid(other, (49, 58, 49), affine)
        np.testing.assert_array_equal(one.labels, two.labels)


@pytest.mark.parametrize("below", ["tpl-MNI152NLin6Asym/anat", "tpl-MNI152NLin6Asym/cohort-1", "anat"])
def test_a_dataset_of_atlases_and_an_image_by_its_path_are_read(folder, tmp_path, below):
    made = folder(blocks())
    expected = read_atlas(made)
    inside = tmp_path / "dataset" / below
    inside.mkdir(parents=True)
    for path in made.iterdir():
        path.rename(inside / path.name)
    assert read_atlas(tmp_path / "dataset").sha256 == expected.sha256
    (image,) = inside.glob("*_dseg.nii*")
    assert read_atlas(image).sha256 == expected.sha256
    other = image.with_name(image.name.replace("res-02", "res-01"))
    other.write_bytes(image.read_bytes())
    assert read_atlas(image).sha256 == expected.sha256


def test_an_image_in_metres_is_refused(folder):
    with pytest.raises(AtlasError, match=r"makes voxels of 0\.002 x 0\.002 x 0\.002 mm"):
        read_atlas(folder(affine=np.diag([2e-3, 2e-3, 2e-3, 1])))


def test_label_values_may_be_large_as_in_some_atlases(folder):
    """Allen's reach 614454277: a list of all values up to there would take gigabytes."""
    large = {0: 0, 3: 3, 7: 614_454_277, 20: 2**31 - 1}
    data = np.vectorize(large.get)(blocks()).astype(np.int32)
    atlas = read_atlas(folder(data, "index\tname\n3\tleft\n614454277\tright\n2147483647\tback\n9007199254740992\tno\n"))
    np.testing.assert_array_equal(atlas.labels, read_atlas(folder()).labels)
    with pytest.raises(AtlasError, match=r"labels that its table lacks: \[2147483647\]"):
        read_atlas(folder(data, "index\tname\n3\tleft\n614454277\tright\n"))
