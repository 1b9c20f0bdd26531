"""Synthetic cohorts whose answer is known: nothing, an effect in one modality or both, or a site in disguise.

Every recording has white noise with three common sources in most parcels. The parcels of one compact network, the
planted ones, have no part in these: each is an autoregression of unit variance.

- An effect in T: responders' planted parcels are slow, everybody else's alternate from frame to frame. The one is the
  other multiplied by 1, -1, 1, ... All of them alike, so the products of two planted parcels stay as they are; and
  white noise times a sign is white noise. But for the mean that is taken off each window, no function of connectivity
  sees this effect.
- An effect in C: responders' planted parcels share a source. It has the spectrum of what it replaces, so that every
  single parcel's series has the same distribution in everybody.
- A site in disguise: scanners differ in scale, in smoothness and in how much parcels have in common, and most
  responders were scanned at one of them. At either site the scans tell nothing of the outcome.

The encoder is a BrainLM with random weights, see `encoder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from qualities import quality

from bids_fmmtc.modalities.connectivity import connectivity
from bids_fmmtc.signals.amplitude import amplitude
from bids_fmmtc.signals.windows import plan_windows, scale
from bids_fmmtc.types import Cohort

EFFECTS = ("none", "T", "C", "both", "site")
SITES = ("north", "south")
R, N_PLANTED, SOURCES = 48, 16, 3
WINDOW = 100
TR = 2.0
MEMORY, COUPLING = 0.7, 0.15
"""Largest first autocorrelation of planted parcels (its sign is the effect in T); largest share of a common source."""
LEAST, MOST = 0.5, 0.95
"""People differ in both, evenly from this share of the largest on; neither exceeds ``MOST``."""
FAITHFUL = 0.85
"""Share of people whose outcome is that of their site, where the site decides."""

ENCODER = {
    "model_type": "brainlm_mae",
    "conv_kernel_size": 65,
    "decoder_hidden_size": 32,
    "decoder_intermediate_size": 48,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 32,
    "initializer_range": 0.2,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
    "loss_fn": "mse",
    "mask_ratio": 0.2,
    "num_attention_heads": 2,
    "num_brain_voxels": R,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "num_landmarks": 64,
    "num_timepoints_per_voxel": WINDOW,
    "patch_size": 16,
    "segment_means_seq_len": 64,
    "timepoint_patching_size": 20,
    "use_tanh_decoder": False,
}


def _place():
    """Parcel centres (R, 3) in MNI millimetres inside an ellipsoid, and the `N_PLANTED` next to one point."""
    rng = np.random.default_rng(5)
    direction = rng.standard_normal((R, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    xyz = (direction * rng.uniform(0.5, 1, (R, 1)) * [65, 85, 60]).round(1).astype(np.float32)
    near = np.argsort(((xyz - np.array([40, -30, 20])) ** 2).sum(axis=1), kind="stable")
    return xyz, np.sort(near[:N_PLANTED])


XYZ, PLANTED = _place()


def series(rng, effect="none", *, responder=False, site=SITES[0], windows=3, size=1.0):
    """Return (T, R) float32 parcel series of one recording, T for so many windows.

    ``size`` multiplies the effects; the same generator gives the same noise to responders and others.
    """
    n = windows * WINDOW
    common, own = rng.standard_normal((n, SOURCES)), rng.standard_normal((n, R))
    shared, amplitude = rng.standard_normal((n, 1)), np.exp(0.05 * rng.standard_normal(R))
    memory, coupling = np.minimum(rng.uniform(LEAST, 1, 2) * [MEMORY, COUPLING] * size, MOST)
    x = 0.5 * common[:, np.arange(R) % SOURCES] + 0.85 * own
    coupling *= responder and effect in ("C", "both")
    planted = np.sqrt(1 - coupling) * _slow(own[:, PLANTED], memory) + np.sqrt(coupling) * _slow(shared, memory)
    slow = responder and effect in ("T", "both")
    x[:, PLANTED] = planted if slow else planted * np.where(np.arange(n) % 2, -1, 1)[:, None]
    if effect == "site" and site != SITES[0]:
        x = 1.3 * (x + 0.3 * np.roll(x, 1, axis=0) + 0.3 * common[:, :1])
    return (x * amplitude).astype(np.float32)


def _slow(noise, memory):
    """Return the first-order autoregression (T, ...) of unit variance."""
    from scipy.signal import lfilter

    scaled = noise * np.sqrt(1 - memory**2)
    scaled[0] = noise[0]
    return lfilter([1], [1, -memory], scaled, axis=0)


@cache
def encoder(seed=2):
    """Return a frozen BrainLM of random weights that sees slow from fast.

    Two layers, as one would average over signals whose mean is 0. By the architecture's own random start a coordinate
    in millimetres outweighs a frame fifty to one, and after the first LayerNorm nothing is left of the signal; in
    trained weights it is not so. Here both are of one size. The convolution along the order of tokens is nearly off:
    the CLS would see the first parcels by it and no others.
    """
    import torch

    from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = BrainLM(BrainLMConfig.from_json(ENCODER))
    with torch.no_grad():
        model.vit.embeddings.signal_embedding_projection.weight *= 2
        model.vit.embeddings.xyz_embedding_projection.weight *= 0.02
        for block in model.vit.encoder.layer:
            block.attention.self.conv.weight *= 0.02
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Opened:
    """One recording as a modality reads it; see `types.Windowed`."""

    frames: np.ndarray

    @property
    def scaled(self):
        return scale(self.frames, "global_sd")

    @property
    def lost(self):
        return np.zeros(R, np.bool_)

    @property
    def xyz(self):
        return XYZ


def cut(values):
    """Return (W, WINDOW, R) scaled windows of a series, as an encoder sees them."""
    scaled = scale(values, "global_sd")
    return np.stack([scaled[start:stop] for start, stop in plan_windows([len(values)], WINDOW, WINDOW)])


def features(values, model):
    """Return what an analysis reads of a series (T, R): ``brainlm`` (W, H), ``fc`` (W, R, R), amplitude (1, R)."""
    from bids_fmmtc.modalities.brainlm import BrainLMModality
    from bids_fmmtc.modalities.token_order import TokenOrder

    windows = plan_windows([len(values)], WINDOW, WINDOW)
    vectors = BrainLMModality(model, TokenOrder()).compute(Opened(values), windows)
    edges = [connectivity(values[start:stop], "pearson", fisher_z=True) for start, stop in windows]
    by_parcel = amplitude(values, np.ones(len(values), np.bool_))
    return {"brainlm": vectors, "fc": np.stack(edges), **{k: v[None] for k, v in by_parcel._asdict().items()}}


def outcomes(rng, n, effect, share):
    """Return outcomes and sites of ``n`` people; in the effect ``site`` most of the south respond, few of the north."""
    south = rng.permutation(np.arange(n) % 2).astype(bool)
    y = rng.permutation(np.arange(n) < share * n)
    if effect == "site":
        for where, faithful in ((south, FAITHFUL), (~south, 1 - FAITHFUL)):
            y[where] = rng.permutation(np.arange(where.sum()) < round(faithful * where.sum()))
    return y.astype(np.float64), tuple(SITES[int(s)] for s in south)


def recordings(n, effect="none", *, seed=0, size=1.0, windows=(1, 3), second=0, share=0.5):
    """Return a series (T, R), outcome and site for each session of `cohort` with the same arguments."""
    if effect not in EFFECTS:
        raise ValueError(f"no effect {effect!r}; known are {EFFECTS}")
    y, sites = outcomes(np.random.default_rng([seed, 0]), n, effect, share)
    found = []
    for session, person in enumerate([*range(n), *range(second)]):
        rng = np.random.default_rng([seed, 1, session])
        count = int(rng.integers(windows[0], windows[1] + 1))
        values = series(rng, effect, responder=bool(y[person]), site=sites[person], windows=count, size=size)
        found.append((values, y[person], sites[person]))
    return found


def cohort(n, effect="none", *, seed=0, model=None, **more):
    """Return a cohort of ``n`` people and ``n + second`` sessions; age, sex and motion tell nothing.

    Parameters
    ----------
    effect
        One of `EFFECTS`.
    seed
        Other seed, other people.
    model
        A frozen BrainLM; `encoder` where left out.
    more
        ``size`` of the effect, see `series`; ``windows``, least and most of a session (1, 3); ``second``, so many
        people were scanned twice (0); ``share`` of responders (0.5).
    """
    found = recordings(n, effect, seed=seed, **more)
    rows = [features(values, encoder() if model is None else model) for values, _, _ in found]
    rng = np.random.default_rng([seed, 2])
    who = [*range(n), *range(len(found) - n)]
    names = tuple(f"sub-{person:03d}" for person in who)
    motion = rng.gamma(4, 0.04, len(found))
    return Cohort(
        keys=tuple(f"{name}_ses-{1 + (i >= n)}_task-rest" for i, name in enumerate(names)),
        subjects=names,
        groups=names,
        arrays={name: tuple(row[name] for row in rows) for name in rows[0]},
        y=np.array([y for _, y, _ in found]),
        kind="classification",
        covariates={"age": rng.normal(55, 12, (n, 1)).round()[who], "sex": np.eye(2)[rng.integers(0, 2, n)][who]},
        motion=motion,
        sites=tuple(site for _, _, site in found),
        arms=None,
        quality=tuple((_quality(len(values), fd, rng),) for (values, _, _), fd in zip(found, motion, strict=True)),
        digest="planted",
    )


def _quality(frames, motion, rng):
    """Return numbers such as `signals.quality.measure` gives."""
    coverage, tsnr = float(rng.uniform(0.95, 1)), float(rng.normal(60, 6))
    return quality(
        n_frames=frames,
        n_frames_left=frames,
        minutes_left=frames * TR / 60,
        n_frames_in_windows=frames,
        window_repetition_time=TR,
        repetition_time=TR,
        header_repetition_time=TR,
        mean_fd=float(motion),
        mean_coverage=coverage,
        tsnr=tsnr,
        n_parcels=R,
    )
