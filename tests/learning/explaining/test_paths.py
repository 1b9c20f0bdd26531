"""Ways through encoders: closed forms for an encoder that one can do by hand, completeness through a real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neurostorm_parts import random_model

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.explaining.attribution import VOLUMES, group_attribution
from bids_fmmtc.learning.explaining.explain import TOLERANCE, Explainer
from bids_fmmtc.learning.explaining.paths import ClipWindow, VolumePath, seconds_a_clip
from bids_fmmtc.modalities import Differentiable, Encoder, OfVolumes
from bids_fmmtc.modalities.neurostorm_config import NeuroStormConfig
from bids_fmmtc.modalities.neurostorm_modality import NeuroStormModality

CPU = torch.device("cpu")
SHAPE, PARCELS = (4, 3, 2), 3
TINY = NeuroStormConfig(
    (12, 12, 12, 3), 1, (2, 2, 2, 1), 4, (1, 1), (4, 4, 4, 3), (4, 4, 4, 3), 2, last_layer_full_MSA=False
)
EDGE = np.arange(24).reshape(SHAPE) >= 16  # background, which never changes


class Weighted:
    """Two numbers a clip: voxels weighted by a map, and their squares by the same map."""

    name = "weighted"
    weights_sha256 = None

    def __init__(self, weights):
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def untrained(self, seed):
        return Weighted(np.random.default_rng(seed).standard_normal(SHAPE))

    def compute(self, source, windows):
        raise NotImplementedError

    def vectors(self, clips):
        return torch.stack(
            [(clips * self.weights).mean(1).sum((1, 2, 3)), (clips**2 * self.weights).mean((1, 2, 3, 4))], 1
        )


def make_window(seed=0, clips=2, frames=5):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((clips, frames, *SHAPE)).astype(np.float32)
    values[..., EDGE] = -2
    labels = np.zeros(SHAPE, np.int32)
    labels[0], labels[1], labels[2, 0] = 1, 2, 3  # parcel 3 lies in the background in part; two rows in no parcel
    return ClipWindow(values, labels)


def explained(path, window, width=2, seed=3, **more):
    torch.manual_seed(seed)
    head = build_head(
        {"kind": "linear", "outputs": 2, "modalities": [path.encoder.name]}, {path.encoder.name: (width,)}
    )
    with torch.no_grad():
        head.weights[path.encoder.name].normal_()
    name = path.encoder.name
    vector = vector_of(path, window)
    found = Explainer(head.eval(), {name: np.zeros(width, np.float32)}, paths=(path,), **more).explain(
        "s", {name: vector}, {name: [window]}
    )
    return found, head.weights[name].detach().numpy().astype(np.float64)


@torch.no_grad()
def vector_of(path, window):
    return path.encoder.vectors(torch.tensor(window.clips)).mean(0, keepdim=True).numpy()


def test_a_weighted_sum_is_divided_among_parcels_as_it_was_made():
    weights, window = np.random.default_rng(5).standard_normal(SHAPE), make_window()
    found, head = explained(VolumePath(Weighted(weights), PARCELS), window)
    assert isinstance(Weighted(weights), Encoder)
    assert isinstance(Weighted(weights), Differentiable)
    x = window.clips.astype(np.float64)
    rest = x.mean(axis=(0, 1))
    # Integrated gradients of a sum of functions of one voxel each: what each of them gains.
    gain = (
        head[0] * weights * (x - rest).mean(axis=(0, 1)) + head[1] * weights * (x**2 - rest**2).mean(axis=(0, 1)) / 24
    )
    gain[EDGE] = 0
    expected = [gain[window.labels == row + 1].sum() for row in range(PARCELS)]
    np.testing.assert_allclose(found.volumes, expected, atol=1e-5)
    assert found.parts["weighted"] == pytest.approx(gain.sum(), abs=1e-5)  # with what lies in no parcel
    assert abs(gain[window.labels == 0].sum()) > 1e-3
    assert found.parcels is found.edges is found.parcels_time is None
    np.testing.assert_array_equal(found.combined, found.volumes)
    assert found.inputs[VOLUMES].shape == found.volumes.shape  # what lies in no parcel is in neither
    moved = np.abs(x - rest).mean(axis=(0, 1))
    inside = (window.labels == 1) & ~EDGE
    assert found.inputs[VOLUMES][0] == pytest.approx(moved[inside].mean(), rel=1e-5)
    assert found.baseline["weighted"].startswith("image without fluctuation")


def test_background_and_still_voxels_get_nothing_and_cost_nothing():
    window = make_window()
    window.clips[:, :, 0] = 3.0  # parcel 1 does not fluctuate
    path = VolumePath(Weighted(np.ones(SHAPE)), PARCELS)
    walk = path.walk("s", window, CPU)
    assert walk.start.shape == walk.end.shape == (2, 5, 24 - EDGE.sum() - 6)
    found, _ = explained(path, window)
    assert found.volumes[0] == found.inputs[VOLUMES][0] == 0
    # What never changes does not matter to where the attribution goes, only to what the encoder makes of it.
    assert np.count_nonzero(found.volumes) == PARCELS - 1


def test_both_ends_of_the_walk_are_what_the_encoder_sees():
    path, window = VolumePath(Weighted(np.random.default_rng(1).standard_normal(SHAPE)), PARCELS), make_window()
    walk = path.walk("s", window, CPU)
    np.testing.assert_allclose(walk.vector(torch.tensor(walk.end)[None]).numpy(), vector_of(path, window), atol=1e-6)
    still = ClipWindow(np.broadcast_to(window.clips.mean((0, 1)), window.clips.shape).copy(), window.labels)
    np.testing.assert_allclose(walk.vector(torch.tensor(walk.start)[None]).numpy(), vector_of(path, still), atol=1e-6)
    assert seconds_a_clip(path, window, "cpu") > 0
    one = torch.tensor(walk.end)[None].requires_grad_()
    walk.vector(one).sum().backward()  # clip by clip, computed again
    volumes = torch.tensor(window.clips)
    volumes.requires_grad_()
    (path.encoder.vectors(volumes).mean(0).sum()).backward()
    places = np.flatnonzero(~EDGE.ravel())
    np.testing.assert_allclose(one.grad[0].numpy(), volumes.grad.flatten(2)[:, :, places].numpy(), atol=1e-7)


def test_attribution_through_a_real_encoder_adds_up():
    model = random_model(TINY)
    path = VolumePath(NeuroStormModality(model), 2)
    assert isinstance(path.encoder, OfVolumes)
    clips = np.full((1, 3, 12, 12, 12), -1.5, np.float32)
    clips[:, :, 3:9, 3:9, 3:9] = np.random.default_rng(2).standard_normal((1, 3, 6, 6, 6))
    labels = np.zeros((12, 12, 12), np.int32)
    labels[3:6, 3:9, 3:9], labels[0:2] = 1, 2  # the second one lies in the background
    window = ClipWindow(clips, labels)
    found, _ = explained(path, window, model.config.width)
    assert max(found.relative_errors.values()) <= TOLERANCE
    moved = found.score - found.baseline_score
    assert found.parts["neurostorm"] == pytest.approx(moved, abs=TOLERANCE * max(abs(moved), 1e-3))
    assert found.volumes[0] != 0
    assert found.volumes[1] == 0
    rough = {"steps": 1, "most_steps": 1}
    one, again, other = (explained(p, window, model.config.width, **rough)[0] for p in (path, path, path.untrained(4)))
    assert one.volumes.tobytes() == again.volumes.tobytes()
    assert not np.allclose(other.volumes, one.volumes)
    assert group_attribution([found]).maps[VOLUMES].mean.tolist() == found.volumes.tolist()


def test_what_is_no_window_of_clips_is_refused():
    path, window = VolumePath(Weighted(np.ones(SHAPE)), PARCELS), make_window()
    with pytest.raises(DataError, match=r"sub-9: expected clips \(K, T, X, Y, Z\)"):
        path.walk("sub-9", window.clips, CPU)
    with pytest.raises(DataError, match="labels of their grid"):
        path.walk("s", ClipWindow(window.clips, window.labels[1:]), CPU)
    with pytest.raises(DataError, match="count 3 parcels, the features 2"):
        VolumePath(path.encoder, 2).walk("s", window, CPU)
