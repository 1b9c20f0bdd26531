"""Which voxels of a mask are brain."""

import nibabel as nib
import numpy as np
import pytest

from bids_fmmtc.errors import ImageError
from bids_fmmtc.signals.mask import read_mask
from bids_fmmtc.signals.nifti import open_nifti

INSIDE = np.zeros((4, 5, 6), bool)
INSIDE[1:3, 1:4, 2:5] = True


def read(tmp_path, values):
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), tmp_path / "m.nii.gz")
    return read_mask(open_nifti(tmp_path / "m.nii.gz", "brain mask"))


@pytest.mark.parametrize("low_high", [(0, 1), (0, 255), (0.0, 0.02), (0.01, 0.98), (np.nan, 1)])
def test_of_two_values_the_higher_is_brain(tmp_path, low_high):
    low, high = low_high
    mask = read(tmp_path, np.where(INSIDE, high, low).astype(np.float32))
    assert np.array_equal(mask.values, INSIDE)
    assert not mask.thresholded


def test_shares_are_cut_at_one_half(tmp_path):
    values = np.where(INSIDE, 0.98, 0.01).astype(np.float32)
    values[0], values[3, 0, 0] = 0.49, 0.5
    expected = INSIDE.copy()
    expected[3, 0, 0] = True
    mask = read(tmp_path, values)
    assert np.array_equal(mask.values, expected)
    assert mask.thresholded


def test_labels_are_no_mask(tmp_path):
    with pytest.raises(ImageError, match="more than two values, from 0 to 3"):
        read(tmp_path, np.where(INSIDE, np.arange(6, dtype=np.uint8) % 4, 0).astype(np.uint8))


def test_a_mask_of_nothing_and_one_of_everything(tmp_path):
    assert not read(tmp_path, np.zeros((4, 5, 6), np.uint8)).values.any()
    assert read(tmp_path, np.ones((4, 5, 6), np.uint8)).values.all()


def test_an_axis_of_one_is_squeezed(tmp_path):
    assert read(tmp_path, INSIDE.astype(np.uint8)[..., None]).values.shape == (4, 5, 6)
