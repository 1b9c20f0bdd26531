"""The reading mode that repeats the reference, against what the reference made."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bids_fmmtc.signals.reference_volumes import MOST, reference_frames

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures" / "neurostorm"


@pytest.mark.parametrize("run", ["t1", "t2"])
def test_frames_are_the_reference_s(run):
    if not (FIXTURES / "preprocess.safetensors").is_file():
        pytest.skip(f"parity fixture {FIXTURES / 'preprocess.safetensors'} is not here")
    arrays, facts = (
        load_file(FIXTURES / "preprocess.safetensors"),
        json.loads((FIXTURES / "preprocess.json").read_text())[run],
    )
    mask = arrays.get(f"{run}.mask")
    found = reference_frames(arrays[f"{run}.input"], facts["zooms"], None if mask is None else mask > 0)
    levels = np.abs(found.frames.astype(int) - arrays[f"{run}.frames_int8"])
    assert levels.max() <= 1
    assert (levels > 0).mean() < 1e-3
    assert np.isclose(found.scale, arrays[f"{run}.scale"][0], rtol=1e-6)
    clip = found.clip(0, 2)
    assert list(clip.shape[1:]) == facts["pad_to_96_shape"][1:4]
    assert np.isclose(clip[0, 0, 0, 0], facts["pad_value"], rtol=1e-6)
    assert np.isclose(clip.sum(dtype=np.float64), facts["padded_sum"], rtol=1e-6)


def test_a_long_axis_is_cropped_in_the_middle_and_nothing_is_resampled_on_its_own_grid():
    rng = np.random.default_rng(0)
    values = rng.random((101, 20, 20, 3), dtype=np.float32) + 1
    found = reference_frames(values, (2.0, 2.0, 2.0, 0.8))
    assert found.frames.shape == (3, MOST, 20, 20)
    kept = values[2:98].transpose(3, 0, 1, 2)
    normal = (kept - kept.mean()) / kept.std(ddof=1)
    assert np.abs(found.frames * found.scale - normal).max() <= found.scale * 0.51
