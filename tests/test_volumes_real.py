"""The real recording through an encoder of volumes, however it is stored: the same brain gives the same vector."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from modalities.neurostorm_parts import random_model, write_encoder
from scipy.ndimage import map_coordinates
from signals.stored import turned
from small import content, run, validate
from test_end_to_end import A424, CHECKPOINT, DEVFIX, STEM, needs_shared
from untrained import CARD

from bids_fmmtc.dataset.store import read_features, read_table
from bids_fmmtc.learning.bundle.calibrate import Calibration
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.bundle.save import save_bundle
from bids_fmmtc.modalities.neurostorm_config import NeuroStormConfig, clip_form
from bids_fmmtc.modalities.weights import weights_sha256
from bids_fmmtc.recipe import AtlasSpec
from bids_fmmtc.recipes import named
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.parcellate import frames, read_header
from bids_fmmtc.signals.placement import place_image
from bids_fmmtc.signals.volumes import FrameSums, clocks_of, plan_clips, stream_clips

pytestmark = [needs_shared, pytest.mark.slow]

# The published encoder's clips of 20 frames, at 4 mm instead of 2, and two short stages.
SMALL = NeuroStormConfig(
    (48, 48, 48, 20), 1, (6, 6, 6, 1), 8, (2, 2), (4, 4, 4, 4), (4, 4, 4, 4), 2, last_layer_full_MSA=False
)
TR = 1.5
FRAMES = 40  # three clips
BOLD = "sub-rapidtide_task-rest_space-MNI152NLin2009cAsym_desc-preproc_bold"
MASK = "sub-rapidtide_task-rest_space-MNI152NLin2009cAsym_desc-brain_mask"


def stored(folder, name):
    image = nib.load(folder / "sub-rapidtide" / "func" / f"{name}.nii.gz")
    return image, np.asarray(image.affine)


# ----------------------------------------------------------------------------------------------------- in this process


@pytest.fixture(scope="module")
def brain():
    """The first frames of the recording, its mask and its affine."""
    image, affine = stored(DEVFIX, BOLD)
    data = np.asarray(image.dataobj[..., :FRAMES], np.float32)
    return data, np.asarray(stored(DEVFIX, MASK)[0].dataobj) > 0, affine


@pytest.fixture(scope="module")
def vector(tmp_path_factory):
    """From data, mask and affine to the mean vector over the clips."""
    model, form, folder = random_model(SMALL), clip_form(SMALL), tmp_path_factory.mktemp("stored")

    @torch.inference_mode()
    def of(data, mask, affine):
        path = folder / "bold.nii"
        image = nib.Nifti1Image(data, affine)
        image.header.set_zooms((*image.header.get_zooms()[:3], TR))
        nib.save(image, path)
        header = read_header(path)
        sums = FrameSums(place_image(header, mask, form), header)
        for raw in frames(header):
            sums.add(raw)
        clocks = clocks_of(np.ones(FRAMES, bool), TR, form.seconds)
        clips = plan_clips(clocks, np.array([[0, FRAMES * TR]]), TR, form)
        assert len(clips) == 3
        found = []
        for _, clip in stream_clips(header, sums.placed, sums.scale(clocks), clips, form):
            found.append(model.vector(torch.from_numpy(clip)[None].movedim(1, -1)[:, None])[0].double().numpy())
        return np.mean(found, axis=0)

    return of


def apart(one, other):
    """Distance in units of the first vector's length."""
    return np.linalg.norm(one - other) / np.linalg.norm(one)


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.mark.parametrize(
    ("order", "flips"), [((0, 1, 2), (True, False, False)), ((2, 0, 1), (False, True, False)), ((1, 2, 0), (True,) * 3)]
)
def test_how_it_is_stored_changes_nothing_but_rounding(brain, vector, order, flips):
    data, mask, affine = brain
    other, moved = turned(data, affine, order, flips)
    assert apart(vector(*brain), vector(other, turned(mask, affine, order, flips)[0], moved)) < 1e-6


def to_2mm(data, mask, affine):
    """Resample linearly, as fMRIPrep's own outputs of another resolution are."""
    corner, step = affine[:3, 3], np.diag(affine)[:3]
    shape = np.floor(step * (np.array(mask.shape) - 1) / 2).astype(int) + 1
    points = (2 * np.indices(shape).reshape(3, -1)) / step[:, None]

    def at(volume):
        return map_coordinates(volume.astype(np.float32), points, order=1).reshape(shape)

    grid = np.diag([2.0, 2, 2, 1])
    grid[:3, 3] = corner
    return np.stack([at(data[..., t]) for t in range(data.shape[3])], axis=-1), at(mask) >= 0.5, grid


def test_resampled_to_2_mm_it_stays_within_interpolation_error_and_mirrored_it_does_not(brain, vector):
    """The right half is made darker: in a mirrored brain that is another brain, whatever the anatomy's own symmetry."""
    data, mask, affine = brain
    data = data * np.linspace(1, 0.2, data.shape[0], dtype=np.float32)[:, None, None, None]
    expected = vector(data, mask, affine)
    resampled = vector(*to_2mm(data, mask, affine))
    mirrored = vector(data[::-1].copy(), mask[::-1].copy(), affine)
    assert cosine(expected, resampled) > 0.9999
    assert apart(expected, resampled) < 0.01
    assert apart(expected, mirrored) > 5 * apart(expected, resampled)
    assert apart(expected, mirrored) > 0.02


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder for each encoder: BrainLM in checkpoint-1400's size, a small NeuroSTORM, both of random weights."""
    root = tmp_path_factory.mktemp("weights")
    (root / "brainlm").mkdir()
    shutil.copy(CHECKPOINT / "config.json", root / "brainlm")
    shutil.copy(CHECKPOINT / "weights.safetensors", root / "brainlm" / "model.safetensors")
    write_encoder(root / "neurostorm", random_model(SMALL))
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, weights):
    """An untrained bundle of the recipe ``fmm_tvc`` for A424, with the linear head."""
    atlas, recipe = read_atlas(A424), named("fmm_tvc")
    encoders = {name: weights / name for name in ("brainlm", "neurostorm")}
    specs = tuple(replace(m, weights_sha256=weights_sha256(encoders[m.name])) for m in recipe.modalities[:2])
    recipe = replace(
        recipe,
        atlas=AtlasSpec(atlas.name, atlas.sha256, atlas.n_parcels),
        modalities=(*specs, recipe.modalities[2]),
    )
    shapes = {"brainlm": (256,), "neurostorm": (SMALL.width,), "fc": (424, 424)}
    spec = {"kind": "linear", "outputs": 2, "modalities": list(shapes)}
    torch.manual_seed(0)
    head = build_head(spec, shapes)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.002)
    root = tmp_path_factory.mktemp("models") / "tvc"
    save_bundle(
        root, recipe=recipe, shapes=shapes, head_spec=spec, head=head, calibration=Calibration(),
        card={**CARD, "title": "Untrained"}, encoders=encoders,
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def first(tmp_path_factory, weights, bundle):
    """The recording as it is, predicted with the bundle."""
    root = tmp_path_factory.mktemp("real")
    before = content(DEVFIX)
    words = [str(DEVFIX), str(root / "out"), "participant", "--atlas", str(A424), "-w", str(root / "work")]
    done = run([*words, "--model", str(bundle), "--encoder-weights", str(weights)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert content(DEVFIX) == before
    return root / "out"


def features(output):
    return read_features(output / "sub-rapidtide" / "func" / f"{STEM}_features.json")


def test_the_whole_level_with_time_series_volumes_and_connectivity(first):
    arrays = features(first).arrays
    assert {name: array.shape for name, array in arrays.items()} == {
        "brainlm": (1, 256), "neurostorm": (1, SMALL.width), "fc": (1, 424, 424),
    }  # fmt: skip
    assert all(np.isfinite(array[~np.isnan(array)]).all() for array in arrays.values())
    table = first / "sub-rapidtide" / "func" / "sub-rapidtide_task-rest_desc-fmmtc_prediction.tsv"
    (row,) = read_table(table)
    assert 0 < float(row["fmmtc_probability"]) < 1
    page = (first / "sub-rapidtide.html").read_text()
    assert "neurostorm" in page
    assert "cannot be shown" not in page
    assert validate(first) == (0, [])


def test_stored_from_right_to_left_every_modality_is_the_same(first, tmp_path, weights):
    """By the recipe's name, which is the bundle's recipe."""
    shutil.copytree(DEVFIX, tmp_path / "devfix")
    func = tmp_path / "devfix" / "sub-rapidtide" / "func"
    for name in (BOLD, MASK):
        image, affine = stored(DEVFIX, name)
        path = func / f"{name}.nii.gz"
        data, moved = turned(np.asarray(image.dataobj.get_unscaled()), affine, (0, 1, 2), (True, False, False))
        path.chmod(0o644)
        other = nib.Nifti1Image(data, moved, image.header)
        other.header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)
        func.chmod(0o755)
        path.unlink()
        nib.save(other, path)
    words = [str(tmp_path / "devfix"), str(tmp_path / "out"), "participant", "--atlas", str(A424)]
    words += ["-w", str(first.parent / "work"), "--recipe", "fmm_tvc", "--encoder-weights", str(weights)]
    done = run(words)
    assert done.returncode == 0, done.stdout + done.stderr
    one, other = features(first), features(tmp_path / "out")
    assert json.loads((func / f"{BOLD}.json").read_text())["RepetitionTime"] == TR
    for name, array in one.arrays.items():
        np.testing.assert_allclose(other.arrays[name], array, atol=2e-5 * np.nanmax(np.abs(array)), err_msg=name)
    assert one.digest == other.digest
