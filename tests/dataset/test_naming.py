from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.dataset.naming import (
    Image,
    is_text,
    natural,
    padded_otherwise,
    preference,
    printable,
    some,
    told_padding,
    unpadded,
)


def image(extension=".nii.gz", **labels):
    labels = {"sub": "01", "task": "rest", **labels}
    stem = "_".join(f"{k}-{v}" for k, v in labels.items())
    return Image(Path("/d"), 0, Path(f"/d/sub-01/func/{stem}_bold{extension}"), labels, extension)


def test_natural_order():
    assert sorted(["sub-10", "sub-2", "sub-x", "sub-1a", "sub-01"], key=natural) == [
        "sub-01", "sub-1a", "sub-2", "sub-10", "sub-x",
    ]  # fmt: skip


def test_a_number_of_any_length_has_its_place():
    long = f"sub-{'9' * 5000}"  # more digits than Python makes an int of
    assert sorted([long, "sub-10", "sub-9", "sub-010", "sub-00"], key=natural) == [
        "sub-00", "sub-9", "sub-010", "sub-10", long,
    ]  # fmt: skip
    assert unpadded(f"0{'9' * 5000}") == "9" * 5000


def test_labels_that_differ_by_leading_zeros_only():
    assert unpadded("sub-P007x0") == "sub-P7x0"
    pairs = padded_otherwise(["sub-1", "sub-02", "sub-3", "sub-P05"], ["sub-01", "sub-02", "sub-4", "sub-P5"])
    assert pairs == {"sub-1": "sub-01", "sub-P05": "sub-P5"}
    assert told_padding({}) == ()
    assert told_padding({"sub-1": "sub-01"})[0].startswith("1 label differs from those of the features")
    # Two people here already have labels that differ in this way: nobody is paired with himself.
    assert padded_otherwise(["sub-1", "sub-01"], ["sub-1", "sub-01"]) == {}


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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("sub-01", "sub-01"), ("sub-\u00e9", "sub-\u00e9"), (b"sub-\xe9".decode(errors="surrogateescape"), r"sub-\xe9"),
        ("a\nb\t", r"a\nb\t"), ("\ud800", r"\ud800"),
    ],
)  # fmt: skip
def test_any_name_is_shown_on_one_line_of_text(name, shown):
    assert printable(name) == some([name]) == shown
    assert shown.encode()
    assert is_text(name) == (name.encode(errors="replace").decode() == name)


def test_the_atlass_own_grid_is_wanted_first_then_the_images_own():
    one, two = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
    wanted = [
        *(image(space=one, res="2"), image(space=one), image(space=one, res="1"), image(space=one, res="10")),
        *(image(space=two, res="02"), image(space=two, extension=".nii")),
    ]
    shuffled = [wanted[i] for i in (3, 5, 0, 4, 2, 1)]
    assert sorted(shuffled, key=lambda each: preference(each, (one, two))) == wanted
