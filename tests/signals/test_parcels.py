import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import AtlasError, DataError, MissingInputError
from bids_fmmtc.signals.parcels import Table, match_columns, open_atlas, parcel_atlas, read_series
from bids_fmmtc.signals.quality import BY_POSITION_DESPITE_NAMES


@pytest.fixture
def write(tmp_path):
    def write(text, name="sub-1_timeseries.tsv"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


# read


def test_a_header_of_names(write):
    table = read_series(write("a\tb c\n1.5\tn/a\n2\t-3e-2\n"))
    assert table.names == ("a", "b c")
    np.testing.assert_array_equal(table.values, [[1.5, np.nan], [2, -0.03]])


def test_halfpipe_writes_no_header(write):
    table = read_series(write("0.1000000000\tnan\n0.2000000000\tnan\n"))
    assert table.names is None
    np.testing.assert_array_equal(table.values, [[0.1, np.nan], [0.2, np.nan]])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1\t2\n0.5\t3\n1\t1\n", ("1", "2")),  # giga_connectome
        ("7\t3\n1.0\t2.0\n1.5\t2.5\n", ("7", "3")),
        ("1\t2\n3\t4\n5\t6\n", None),  # whole numbers all over: data
        ("1\t2\n3\tn/a\n5\tn/a\n", None),
        ("2\t2\n0.5\t3\n1\t1\n", None),  # no two parcels have one number
        ("1.0\t2.0\n0.5\t3\n1\t1\n", None),
        ("-1\t2\n0.5\t3\n1\t1\n", None),
        ("\t1\t2\n0\t0.5\t3\n1\t1\t1\n", ("1", "2")),
    ],
)
def test_a_header_of_numbers(write, text, names):
    assert read_series(write(text)).names == names


@pytest.mark.parametrize("first", [0, 1])
def test_row_numbers_of_pandas_are_no_parcel(write, first):
    table = read_series(write(f"\ta\n{first}\t0.5\n{first + 1}\t0.7\n"))
    assert (table.names, table.left_out) == (("a",), ("(row numbers)",))
    np.testing.assert_array_equal(table.values, [[0.5], [0.7]])


@pytest.mark.parametrize("missing", ["n/a", "NaN", "nan", "NA", "", " n/a ", "#N/A", "NULL", "."])
def test_every_way_to_write_nothing(write, missing):
    assert np.isnan(read_series(write(f"a\tb\n{missing}\t1\n2\t1\n")).values[0, 0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a\tb\n", "holds 0 rows"),
        ("a\tb\n1\t2\n", "holds 1 rows"),
        ("a\tb\n1\n2\t3\n", "a row of 1 cells where 2"),
        ("a,b\n1,2\n3,4\n", "could not convert"),
        ("a\tb\n1\tx\n2\t3\n", "could not convert string to float: 'x'"),
        ("a\tb\n1\tinf\n2\t3\n", "infinite"),
        ("a\t\n1\t2\n2\t3\n", "a column without a name"),
        (b"a\tb\n1\t\xff\n", "cannot be read"),
    ],
)
def test_what_is_no_table_of_series_says_so(write, text, words):
    with pytest.raises(DataError, match=words):
        read_series(write(text))


@given(st.lists(st.lists(st.floats(width=32, allow_infinity=False), min_size=3, max_size=3), min_size=2, max_size=9))
def test_float32_come_back_to_the_bit(tmp_path_factory, rows):
    from bids_fmmtc.dataset.store import write_array

    values = np.array(rows, np.float32)
    path = tmp_path_factory.mktemp("t") / "sub-1_timeseries.tsv"
    write_array(path, ["a", "b", "c"], values)
    np.testing.assert_array_equal(read_series(path).values.astype(np.float32), values)


# atlas


def test_a_table_of_parcels(write):
    path = write("index\tname\tx\ty\tz\tnetwork\n9\ta\t1\t2\t3\tVis\n4\tb\tn/a\t\t5\t\n0\tbackground\t\t\t\t\n",
                 "tpl-MNI152NLin6Asym_atlas-My_dseg.tsv")  # fmt: skip
    atlas = open_atlas(path)
    assert (atlas.name, atlas.space, atlas.index, atlas.names) == ("My", "MNI152NLin6Asym", (9, 4), ("a", "b"))
    assert atlas.networks == ("Vis", "n/a")
    np.testing.assert_array_equal(atlas.xyz, np.array([[1, 2, 3], [np.nan, np.nan, 5]], np.float32))
    assert atlas.labels.shape == (0, 0, 0)
    assert atlas.n_parcels == 2


def test_a_table_may_hold_names_only_and_name_them_as_xcp_d_does(write):
    atlas = open_atlas(write("index\tlabel\tnetwork_label\n1\tLH\tA\n2\tRH\tB\n", "atlas-4S156Parcels_dseg.tsv"))
    assert (atlas.name, atlas.space, atlas.names, atlas.networks) == (
        "4S156Parcels",
        "unknown",
        ("LH", "RH"),
        ("A", "B"),
    )
    assert np.isnan(atlas.xyz).all()


def test_names_that_come_twice_are_told_apart_as_pandas_does(write):
    atlas = open_atlas(write("labels\na\nb\na\n", "my parcels.tsv"))
    assert (atlas.name, atlas.names, atlas.index) == ("myparcels", ("a", "b", "a.1"), (1, 2, 3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("index\tx\n1\t2\n", "needs a column name"),
        ("", "needs a column name .*found nothing"),
        ("name\n", "needs a column name"),
        ("index\tname\n1\ta\n1\tb\n", "none of them twice"),
        ("index\tname\n-1\ta\n2\tb\n", "1 and above"),
        ("index\tname\nx\ta\n", "could not convert"),
        ("name\tx\na\tleft\n", "could not convert"),
        ("name\tx\n\t1\n", "a name for each parcel"),
    ],
)
def test_a_table_that_is_none_of_parcels(write, text, words):
    with pytest.raises(AtlasError, match=words):
        open_atlas(write(text, "atlas.tsv"))


def test_an_atlas_that_is_not_there(tmp_path):
    with pytest.raises(MissingInputError):
        open_atlas(tmp_path / "no")


def test_a_folder_is_an_atlas_with_an_image(demo_atlas):
    assert open_atlas(demo_atlas, "Demo").labels.size > 0


def test_a_header_names_parcels_whose_centres_are_unknown(write):
    atlas = open_atlas(write("a\tb\n1\t2\n2\t1\n"), "Mine-1")
    assert (atlas.name, atlas.names, atlas.index) == ("Mine1", ("a", "b"), (1, 2))
    assert np.isnan(atlas.xyz).all()


def test_without_a_header_parcels_are_numbered(write):
    atlas = open_atlas(write("\t".join(["0.5"] * 12) + "\n" + "\t".join(["0.7"] * 12) + "\n"))
    assert atlas.names[0] == "Parcels_01"
    assert atlas.names[-1] == "Parcels_12"


@pytest.mark.parametrize("name", ["GlobSig", "global_signal", "white_matter", "framewise_displacement"])
def test_a_header_with_a_regressor_names_no_parcels(write, name):
    with pytest.raises(DataError, match=f"the column '{name}', which is no parcel"):
        open_atlas(write(f"{name}\ta\n1\t2\n2\t1\n"))


def test_the_digest_is_of_everything_in_the_table():
    one = parcel_atlas("x", ["a", "b"], xyz=np.zeros((2, 3)))
    others = [
        parcel_atlas("x", ["a", "c"], xyz=np.zeros((2, 3))),
        parcel_atlas("x", ["a", "b"], xyz=np.ones((2, 3))),
        parcel_atlas("x", ["a", "b"]),
        parcel_atlas("x", ["a", "b"], index=[1, 3], xyz=np.zeros((2, 3))),
        parcel_atlas("x", ["a", "b"], networks=("n", "m"), xyz=np.zeros((2, 3))),
        parcel_atlas("x", ["a", "b"], space="MNI", xyz=np.zeros((2, 3))),
    ]
    assert len({one.sha256, *(o.sha256 for o in others)}) == 7
    assert one.sha256 == parcel_atlas("y", ["a", "b"], xyz=np.zeros((2, 3))).sha256


def test_the_parcels_of_a_real_atlas():
    """The table of a published cohort (rpn_pain122): an unnamed first column, names that come twice, no centres."""
    from small import SHARED

    path = SHARED / "data" / "rpn_pain122" / "atlas_relabeled.tsv"
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    atlas = open_atlas(path)
    with np.load(path.with_name("bochum_122.npz"), allow_pickle=False) as data:
        columns = tuple(data["columns"].tolist())
    table = Table(path, columns, np.zeros((2, 123)))
    found = match_columns(table, atlas)
    assert (found.matched, found.left_out) == ("name", ("GlobSig",))
    assert found.places.tolist() == list(range(1, 123))
    with path.open(newline="") as f:
        assert atlas.networks == tuple(row["modules"] for row in csv.DictReader(f, delimiter="\t"))


# match

ATLAS = parcel_atlas("x", ["a", "b", "c"], index=[7, 5, 9])


def table(*names, n=None):
    n = len(names) if n is None else n
    return Table(None if names is None else _Named(), names or None, np.zeros((2, n)))


class _Named:
    name = "t.tsv"


@given(st.permutations(["a", "b", "c", "GlobSig", "d"]))
def test_names_are_matched_in_the_order_of_the_atlas(names):
    found = match_columns(table(*names), ATLAS)
    assert [names[i] for i in found.places] == ["a", "b", "c"]
    assert found.matched == "name"
    assert found.left_out == tuple(n for n in names if n in ("GlobSig", "d"))


@given(st.permutations(["7", "5", "9", "1"]))
def test_label_values_are_matched_in_the_order_of_the_atlas(names):
    found = match_columns(table(*names), ATLAS)
    assert [names[i] for i in found.places] == ["7", "5", "9"]
    assert (found.matched, found.left_out) == ("label value", ("1",))


@pytest.mark.parametrize(
    ("names", "matched"),
    [
        ((), "position"),
        (("0", "1", "2"), "position"),
        (("1", "2", "3"), "position"),
        (("x", "y", "z"), BY_POSITION_DESPITE_NAMES),
    ],
)
def test_else_the_position_counts(names, matched):
    found = match_columns(table(*names, n=3), ATLAS)
    assert found.places.tolist() == [0, 1, 2]
    assert found.matched == matched


@pytest.mark.parametrize(
    ("names", "n", "words"),
    [
        (("a", "b", "x"), None, "lacks 1 of the 3 parcels of atlas x, the first 'c'"),
        (("a", "b"), None, "lacks 1 of the 3"),
        (("a", "b", "c", "a"), None, "several columns called 'a'"),
        ((), 4, "4 columns and no header, the atlas 3"),
        (("x", "y"), None, "2 columns and no name of the atlas"),
        (("GlobSig", "y", "z"), None, "'GlobSig', which is no parcel"),
        (("7", "5", "8"), None, "label values in the header"),
    ],
)
def test_what_cannot_be_matched_is_refused(names, n, words):
    with pytest.raises(DataError, match=words):
        match_columns(table(*names, n=n), ATLAS)


def test_names_go_before_label_values():
    atlas = replace(ATLAS, names=("5", "9", "7"))
    found = match_columns(table("5", "9", "7"), atlas)
    assert found.places.tolist() == [0, 1, 2]
    assert found.matched == "name"


ROWS = np.random.default_rng(5).standard_normal((6, 2))


def written(path, names, values):
    lines = ["\t".join(names), *("\t".join(f"{v:.6f}" for v in row) for row in values)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["Unnamed: 0", "index", "Index", "time", "volume", "frame", "TR"])
@pytest.mark.parametrize("step", [1.0, 0.72])
@pytest.mark.parametrize("at", [0, 1])
def test_a_column_that_counts_or_times_the_rows_is_left_out(tmp_path, name, step, at):
    counts = 3 + step * np.arange(6)
    names, values = ["a", "b"], np.insert(ROWS, at, counts, axis=1)
    names.insert(at, name)
    table = read_series(written(tmp_path / "x_timeseries.tsv", names, values))
    assert table.names == ("a", "b")
    assert np.allclose(table.values, ROWS, atol=1e-6)
    assert table.left_out == (name,)


def test_a_parcel_of_such_a_name_that_does_not_count_stays(tmp_path):
    table = read_series(written(tmp_path / "x_timeseries.tsv", ["time", "b"], ROWS))
    assert table.names == ("time", "b")


@settings(deadline=None)
@given(
    name=st.sampled_from(["index", "Unnamed: 0.1", "volume_index", "vol", "timepoint", "Time (s)", "scan", "row", ""]),
    step=st.sampled_from([1, 0.735, 2]),
    kept=st.sets(st.integers(0, 40), min_size=6, max_size=6).map(sorted),
    digits=st.integers(2, 6),
)
def test_numbers_of_frames_are_left_out_with_gaps_and_rounding(tmp_path_factory, name, step, kept, digits):
    counts = np.round(step * np.array(kept), digits)
    path = tmp_path_factory.mktemp("t") / "x_timeseries.tsv"
    table = read_series(written(path, [name, "a", "b"], np.column_stack([counts, ROWS])))
    assert (table.names, table.left_out) == (("a", "b"), (name or "(row numbers)",))
    assert np.allclose(table.values, ROWS, atol=1e-6)


@pytest.mark.parametrize("slope", [1.0, -0.37])
def test_a_straight_line_of_any_name_is_no_parcel(tmp_path, slope):
    rows = np.column_stack([slope * np.arange(40), np.random.default_rng(1).standard_normal(40), np.ones(40)])
    path = written(tmp_path / "sub-1_timeseries.tsv", ["drift", "a", "level"], rows)
    with pytest.raises(DataError, match="column 'drift' is a straight line"):
        open_atlas(path)
    with pytest.raises(DataError, match="column 'drift' is a straight line"):
        match_columns(read_series(path), parcel_atlas("x", ["p", "q", "r"]))


@pytest.mark.parametrize("ends", [("a1b2c3d4", "a1b2c3d4"), ("9f8e+0a1b", "0a1b"), ("abcdefgh", None)])
def test_hashes_that_xcp_d_appends_are_taken_off(tmp_path, ends):
    names = ["LH_Vis_1", "LH_Vis_2"]
    hashed = [name if end is None else f"{name}_hash-{end}" for name, end in zip(names, ends, strict=True)]
    assert read_series(written(tmp_path / "x_timeseries.tsv", hashed, ROWS)).names == tuple(names)


@pytest.mark.parametrize(
    "names", [("A_1", "B_1"), ("LH_Schaefer400", "RH_Schaefer400"), ("LH_hash-a1b2c3d4", "LH_hash-a1b2c3d5")]
)
def test_what_is_no_hash_or_tells_columns_apart_stays(tmp_path, names):
    table = read_series(written(tmp_path / "x_timeseries.tsv", names, ROWS))
    assert table.names == names
    assert match_columns(table, parcel_atlas("x", names[::-1])).places.tolist() == [1, 0]


@pytest.mark.parametrize("name", ["Background", "global", "WM", "global_signal"])
def test_background_and_global_columns_are_no_parcels(tmp_path, name):
    with pytest.raises(DataError, match="is no parcel"):
        open_atlas(written(tmp_path / "sub-1_timeseries.tsv", ["a", name], ROWS))
