import re

import nibabel as nib
import numpy as np
import pytest
from group_parts import explanation, write_map

from bids_fmmtc.report.analysis.attribution import (
    compared_table,
    edge_table,
    map_figure,
    parcel_figure,
    parcel_table,
    read_map,
    sanity_table,
    share_figure,
)


def test_a_map_is_drawn_as_one_picture_with_its_range(tmp_path):
    write_map(tmp_path / "parcels_mean.nii.gz")
    drawn = map_figure(tmp_path, "mean", "x")
    assert drawn.markup.count("<image") <= 2  # slices, and the colour bar
    assert "largest absolute value 0.5" in drawn.markup
    assert len(re.findall(r"z = −?\d+ mm", drawn.markup)) == 6
    assert "left of the person is left of the picture" in drawn.caption


def test_a_map_is_brought_to_the_left_on_the_left(tmp_path):
    write_map(tmp_path / "parcels_mean.nii.gz", (1.0, 0.0, 0.0))
    image = nib.load(tmp_path / "parcels_mean.nii.gz")
    affine = np.diag([-6.0, 6.0, 6.0, 1.0])
    affine[0, 3] = 6.0 * (image.shape[0] - 1)
    nib.Nifti1Image(image.get_fdata()[::-1], affine).to_filename(tmp_path / "flipped.nii.gz")
    (values, affine), (other, _) = read_map(tmp_path / "parcels_mean.nii.gz"), read_map(tmp_path / "flipped.nii.gz")
    assert np.array_equal(values, other)
    assert np.array_equal(affine, image.affine)


def test_no_map_no_figure(tmp_path):
    assert map_figure(tmp_path, "mean", "x") is None
    write_map(tmp_path / "parcels_mean.nii.gz", (0.0, 0.0, 0.0))
    assert map_figure(tmp_path, "mean", "x") is None


def test_a_map_with_one_thin_slice_is_drawn(tmp_path):
    image = np.zeros((5, 5, 5), np.float32)
    image[2, 2, 2] = -1
    nib.Nifti1Image(image, np.eye(4)).to_filename(tmp_path / "parcels_between.nii.gz")
    assert map_figure(tmp_path, "between", "x") is not None


def test_an_image_of_four_dimensions_is_refused(tmp_path):
    nib.Nifti1Image(np.zeros((2, 2, 2, 2), np.float32), np.eye(4)).to_filename(tmp_path / "parcels_mean.nii.gz")
    with pytest.raises(ValueError, match="shape"):
        map_figure(tmp_path, "mean", "x")


def test_shares_show_both_ways_with_intervals():
    drawn = share_figure(explanation()["shares"], "x")
    assert "time series (brainlm): share of the absolute parts 0.40 (0.30 to 0.50)" in drawn.caption
    assert "share of the differences between people 0.75 (0.10 to 0.40)" in drawn.caption
    assert share_figure([{"modality": "fc"}], "x") is None


def test_parcels_are_bars_by_differences_or_else_by_size():
    parcels = explanation()["top_parcels"]
    drawn = parcel_figure(parcels, "x")
    assert "By share of the differences between people: P01 (visual) 0.15" in drawn.markup
    assert "<pattern" in drawn.markup  # what is below 0 is hatched
    alone = [{k: v for k, v in row.items() if k != "between"} for row in parcels]
    assert "By mean absolute attribution" in parcel_figure(alone, "x").markup
    assert parcel_figure([], "x") is None


def test_tables_hold_names_networks_and_numbers():
    content = explanation()
    columns, rows = parcel_table(content["top_parcels"])
    assert [key for key, *_ in columns][:3] == ["name", "network", "rank"]
    assert rows[0] == {
        "name": "P01", "network": "visual", "rank": "1", "between": "0.1500", "mean": "−0.0100", "absolute": "0.1000",
        "stability": "90 %",
    }  # fmt: skip
    _, edges = edge_table([*content["top_edges"], {"name_1": "a", "name_2": "b"}])
    assert edges[0]["edge"] == "P01 – P05"
    assert edges[0]["networks"] == "visual – motor"
    assert edges[1]["networks"] == "–"
    _, compared = compared_table([{"what": "map by mean", "name": "edges", "pearson": 0.5, "top_shared": 3}])
    assert (compared[0]["pearson"], compared[0]["top_shared"], compared[0]["one"]) == ("0.5000", "3", "–")
    _, sane = sanity_table(content["sanity"]["rows"])
    assert (sane[0]["random_model"], sane[0]["passes"]) == ("0.1200", "yes")
