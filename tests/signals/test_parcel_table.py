"""Tables of parcels: read as they stand or refused in one line; nothing is rounded, cut or moved."""

import os

import nibabel as nib
import numpy as np
import pytest

from bids_fmmtc.errors import AtlasError, DataError
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.parcel_table import centres, first_of, label_values, refuse_names, table_rows
from bids_fmmtc.signals.parcels import open_atlas, read_series

SOUND = "index\tname\tx\ty\tz\tnetwork\n1\tleft\t1.5\t2\t3\tA\n2\tright\t-4\t5\t6\tB\n3\tback\t7\t8\t9\tB\n"
RUNS = 500


@pytest.fixture
def write(tmp_path):
    def make(text, name="atlas.tsv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def test_rows_are_mappings_and_short_ones_are_filled(write):
    rows = table_rows(write(b"\xef\xbb\xbfname\tindex\r\na\t1\r\n\r\nb\r\nc\t3\t\t\r\n"))
    assert rows == [{"name": "a", "index": "1"}, {"name": "b", "index": ""}, {"name": "c", "index": "3"}]
    assert table_rows(write("name\n")) == table_rows(write("")) == []
    assert first_of(("label", "index", "name"), rows) == "index"
    assert first_of(("index",), []) is None


def test_a_row_that_is_too_long_is_named(write):
    with pytest.raises(AtlasError, match="line 3 holds 3 cells, its header 2"):
        table_rows(write("index\tname\n1\ta\n2\tb\tc\n"))


def test_what_is_no_file_is_refused_at_once(tmp_path, write):
    os.mkfifo(tmp_path / "p.tsv")
    with pytest.raises(AtlasError, match=r"p\.tsv is no regular file"):
        table_rows(tmp_path / "p.tsv")
    os.mkfifo(tmp_path / "sub-1_timeseries.tsv")
    for read in (read_series, open_atlas):
        with pytest.raises(DataError, match="no regular file"):
            read(tmp_path / "sub-1_timeseries.tsv")
    with pytest.raises(AtlasError, match="not UTF-8"):
        table_rows(write("index\tname\n".encode("utf-16")))


def test_label_values_are_whole_numbers_however_written(tmp_path):
    assert label_values(["3", " 7 ", "20.0", "1e2", "-1"], tmp_path) == (3, 7, 20, 100, -1)
    for cell in ("2.7", "inf", "nan", "1e300", "9007199254740993000"):
        with pytest.raises(AtlasError, match="is no label value"):
            label_values(["1", cell], tmp_path)
    with pytest.raises(AtlasError, match="could not convert"):
        label_values(["n/a"], tmp_path)


def test_centres_are_finite_or_unknown(tmp_path):
    rows = [{"x": "1", "y": "n/a", "z": "-2.5"}, {"x": "", "y": "0"}]
    np.testing.assert_array_equal(centres(rows, tmp_path, unknown=True), [[1, np.nan, -2.5], [np.nan, 0, np.nan]])
    with pytest.raises(AtlasError, match="could not convert"):
        centres(rows, tmp_path)
    for cell in ("inf", "-inf", "1e999"):
        with pytest.raises(AtlasError, match="is no coordinate"):
            centres([{"x": cell, "y": "0", "z": "0"}], tmp_path, unknown=True)
    with pytest.raises(AtlasError, match="'nan' is no coordinate"):
        centres([{"x": "nan", "y": "0", "z": "0"}], tmp_path)


@pytest.mark.parametrize("name", ["=HYPERLINK(A1)", "@x", "+a(", "-cmd|x", "a\x1b[2J", "a\u202eb"])
def test_a_name_that_is_none_is_refused_wherever_it_comes_from(write, name):
    with pytest.raises(AtlasError, match="parcel name"):
        refuse_names(["V1", name], "atlas.tsv")
    with pytest.raises(AtlasError, match="parcel name"):
        open_atlas(write(f"name\nV1\n{name}\n"))
    with pytest.raises(AtlasError, match="network name"):
        open_atlas(write(f"name\tnetwork\nV1\t{name}\n"))
    with pytest.raises(AtlasError, match="parcel name"):
        open_atlas(write(f"V1\t{name}\n1\t2\n2\t1\n", "sub-1_timeseries.tsv"))


def test_names_as_atlases_have_them_pass():
    refuse_names(["V1", "7Networks_LH-Vis(1)", "-1", "+", "Größe"], "atlas.tsv")


def mutated(rng, text):
    """Change some characters of a table."""
    chars = list(text)
    for at in rng.integers(0, len(chars), rng.integers(1, 4)):
        chars[at] = str(rng.choice(list("\t\n\r0123456789.eE+-=@\"'#naif \u00e4\x00\x1b_")))
    return "".join(chars)


def naive(text):
    """Split a table by hand: rows as mappings, those without a label left out."""
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]
    header = lines[0].split("\t")
    rows = [dict(zip(header, [*line.split("\t"), *[""] * len(header)], strict=False)) for line in lines[1:]]
    return [row for row in rows if "index" not in row or row["index"].strip() not in ("", "0")]


def check(found, rows, *, with_image):
    """Hold an atlas against its rows."""
    if "index" in rows[0]:
        assert list(found.index) == [float(row["index"]) for row in rows]
    names = [row.get("name", row.get("label")).strip() for row in rows]
    assert [n.strip() for n in found.names] == names or len(set(names)) < len(names)
    if with_image and not all(c in rows[0] for c in "xyz"):
        return  # centroids
    for axis, name in enumerate("xyz"):
        cells = [row[name] for row in rows] if name in rows[0] else []
        for cell, place in zip(cells, found.xyz[:, axis], strict=False):
            assert np.isnan(place) or place == np.float32(cell)


@pytest.mark.parametrize("with_image", [True, False])
def test_five_hundred_tables_of_parcels_at_random(tmp_path, with_image):
    """Whatever a table holds: one line, or the very values, names and places that stand there."""
    labels = np.arange(27).reshape(3, 3, 3) % 4
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.diag([2.0, 2, 2, 1])), tmp_path / "tpl-A_atlas-T_dseg.nii")
    path = tmp_path / "tpl-A_atlas-T_dseg.tsv"
    rng, passed = np.random.default_rng(9), 0
    for _ in range(RUNS):
        text = mutated(rng, SOUND)
        path.write_bytes(text.encode())
        said, found = "", None
        try:
            found = read_atlas(tmp_path) if with_image else open_atlas(path)
        except DataError as error:
            said = str(error)
        assert "\n" not in said
        if found is None:
            continue
        passed += 1
        if '"' in text:  # quotes are the csv module's to understand
            continue
        check(found, naive(text), with_image=with_image)
        if with_image:
            for row, value in enumerate(found.index, 1):
                assert ((found.labels == row) == (labels == value)).all()
    assert passed > RUNS / 10
