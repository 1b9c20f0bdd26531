"""Figures of a recording show what its tables hold."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from participant_parts import R, T, write_dataset, write_recording

from bids_fmmtc.report.participant.facts import participant_facts
from bids_fmmtc.report.participant.recording_figures import (
    coverage_figure,
    fitted,
    lost_parcels,
    matrix_figure,
    timeline_figure,
)


@pytest.fixture
def make(tmp_path):
    def make(networks=True, image=True, **more):
        write_dataset(tmp_path, **({} if networks else {"networks": None}), image=image)
        record = write_recording(tmp_path, **more)
        facts = participant_facts(tmp_path, "01")
        return facts.sessions[0].recordings[0], facts.atlas, [tmp_path / name for name in record["Outputs"]]

    return make


def told(figure):
    return re.search(r"<desc[^>]*>(.*?)</desc>", figure.markup, re.DOTALL)[1]


def test_time_course_has_motion_voxels_and_parcels(make):
    recording, atlas, _ = make()
    figure = timeline_figure(recording, atlas, "t")
    assert told(figure) == (
        "Framewise displacement: mean 0.70, most 1.28 mm; 1 frame left out of 60. Carpet of 24 voxels. "
        "Series of 12 parcels, 1 parcel lost."
    )
    assert figure.markup.count("<image") == 2
    assert "Rows are ordered by network." in figure.caption
    for network in ("visual", "motor"):
        assert f">{network}<" in figure.markup


def test_without_picture_or_networks(make):
    recording, atlas, _ = make(networks=False, carpet=False)
    figure = timeline_figure(recording, atlas, "t")
    assert "Carpet" not in told(figure)
    assert "voxels" not in figure.caption
    assert "ordered by network" not in figure.caption


def test_motion_that_is_not_known_is_said(make):
    recording, atlas, outputs = make()
    frames = next(path for path in outputs if path.name.endswith("_qc.tsv"))
    frames.write_text(re.sub(r"\t[\d.]+\t", "\tn/a\t", frames.read_text()))
    assert told(timeline_figure(recording, atlas, "t")).startswith("Motion is not known; 1 frame left out of 60.")


def test_nothing_to_draw_is_nothing(make):
    recording, atlas, outputs = make()
    for path in outputs:
        path.unlink()
    for draw in (timeline_figure, coverage_figure, matrix_figure):
        assert draw(recording, atlas, "x") is None
    assert lost_parcels(recording, atlas) == []


def test_coverage_tells_what_is_low_and_lost(make):
    recording, atlas, _ = make()
    text = told(coverage_figure(recording, atlas, "c"))
    coverage = np.linspace(0.4, 1, R)
    coverage[3] = 0
    assert f"Mean coverage {100 * coverage.mean():.0f} %" in text
    assert "2 parcels below one half, 1 parcel lost" in text
    assert lost_parcels(recording, atlas) == ["P04"]


def test_an_atlas_without_image_or_of_other_parcels_is_not_drawn(make):
    recording, atlas, outputs = make(image=False)
    assert coverage_figure(recording, atlas, "c") is None
    recording, atlas, outputs = make()
    table = next(path for path in outputs if path.name.endswith("_coverage.tsv"))
    table.write_text("a\tb\n1\t1\n")
    assert coverage_figure(recording, atlas, "c") is None


def test_connectivity_is_ordered_and_told(make):
    recording, atlas, outputs = make()
    figure = matrix_figure(recording, atlas, "m")
    table = next(path for path in outputs if path.name.endswith("_relmat.tsv"))
    matrix = np.genfromtxt(table, delimiter="\t", skip_header=1, missing_values="n/a")
    upper = matrix[np.triu_indices(R, 1)]
    assert f"12 parcels; mean {np.nanmean(upper):.2f}".replace("-", "−") in told(figure)
    assert ">Correlation<" in figure.markup
    assert "ordered by network" in figure.caption


def test_a_matrix_of_lost_parcels_only(make):
    recording, atlas, outputs = make()
    table = next(path for path in outputs if path.name.endswith("_relmat.tsv"))
    table.write_text(re.sub(r"-?\d[\d.e-]*", "n/a", table.read_text().replace("P", "p_")))
    assert told(matrix_figure(recording, atlas, "m")) == "12 parcels."


@pytest.mark.parametrize("pixels", [100, 10_000])
def test_pictures_keep_to_the_pixels_they_are_given(make, pixels):
    recording, atlas, _ = make()
    figure = timeline_figure(recording, atlas, "t", pixels)
    sizes = [int(w) * int(h) for w, h in re.findall(r'width="(\d+)" height="(\d+)"', figure.markup)]
    assert sizes
    assert all(size <= max(pixels, 1) * 1.5 for size in sizes if pixels < R * T)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 500), st.integers(0, 3))
def test_averaging_keeps_the_mean_of_what_is_known(rows, columns, pixels, holes):
    rng = np.random.default_rng([rows, columns, holes])
    image = rng.standard_normal((rows, columns))
    image.ravel()[: holes * 2] = np.nan
    small = fitted(image, pixels)
    step = max(1, int(np.ceil(np.sqrt(rows * columns / pixels))))
    assert small.shape == (-(-rows // step), -(-columns // step))
    block = image[:step, :step]
    if np.isfinite(block).any():
        assert small[0, 0] == pytest.approx(np.nanmean(block))
    else:
        assert np.isnan(small[0, 0])
