from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.dataset.naming import Image, natural, some


def image(extension=".nii.gz", **labels):
    labels = {"sub": "01", "task": "rest", **labels}
    stem = "_".join(f"{k}-{v}" for k, v in labels.items())
    return Image(Path("/d"), 0, Path(f"/d/sub-01/func/{stem}_bold{extension}"), labels, extension)


def test_natural_order():
    assert sorted(["sub-10", "sub-2", "sub-x", "sub-1a", "sub-01"], key=natural) == [
        "sub-01", "sub-1a", "sub-2", "sub-10", "sub-x",
    ]  # fmt: skip


@given(st.lists(st.text(max_size=8)))
def test_natural_orders_any_text_and_never_ties_what_differs(texts):
    assert len({natural(text) for text in texts}) == len(set(texts))
    assert sorted(sorted(texts), key=natural) == sorted(sorted(texts, reverse=True), key=natural)


def test_long_lists_are_cut_and_counted():
    assert some([]) == "none"
    assert some(["b", "a", "b"]) == "a, b"
    assert some(map(str, range(20)), most=2) == "0, 1, … (20 in all)"


def test_companions_are_named_after_the_image():
    bold = image(run="01", space="X", res="2", desc="preproc")
    assert bold.masks[0] == "sub-01_task-rest_run-01_space-X_res-2_desc-brain_mask.nii.gz"
    assert bold.confounds[0] == "sub-01_task-rest_run-01_desc-confounds_timeseries.tsv"


def test_identity_ignores_padding_order_and_what_fmriprep_adds():
    assert image(acq="a", run="1", space="X").identity == image(run="01", acq="a", desc="preproc").identity
    assert image(run="1").identity != image(run="2").identity


@pytest.mark.parametrize(
    ("found", "surface"),
    [
        (image(), False),
        (image(extension=".nii"), False),
        (image(extension=".dtseries.nii"), True),
        (image(extension=".func.gii", hemi="L"), True),
        (image(den="91k"), True),
    ],
)
def test_surfaces(found, surface):
    assert found.is_surface is surface
