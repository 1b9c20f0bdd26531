"""Parts of small bundles, for the tests of saving, loading and predicting."""

import hashlib
import json

import numpy as np
import torch
from qualities import FAULTLESS

from bids_fmmtc.learning.bundle.calibrate import Calibration, Conformal, Limits
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.bundle.load import rendered
from bids_fmmtc.learning.bundle.novelty import Novelty, embedding_size
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.types import Features

R, H = 12, 5
SHAPES = {"brainlm": (H,), "fc": (R, R)}
FC = {"branch": "resnet18", "width": 6, "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
SPEC = {"kind": "fmmtc", "branches": {"fc": FC, "brainlm": {"branch": "identity"}}, "outputs": 2}
CARD = {
    "title": "Small",
    "intended_use": "Tests.",
    "limits": "All.",
    "data": "None.",
    "demo": False,
    "contact": "a@b",
    "n": {"train": 3},
}
ENCODER_SHA256 = hashlib.sha256(b"weights").hexdigest()
MODALITIES = (ModalitySpec("brainlm", ENCODER_SHA256, {"hidden": H}), ModalitySpec("fc"))


def make_encoder(folder, name="model.safetensors", content=b"weights"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size": 5}')
    (folder / name).write_bytes(content)
    return folder


def parts(encoder, /, **changes):
    torch.manual_seed(0)
    given = {
        "recipe": Recipe(modalities=MODALITIES),
        "shapes": SHAPES,
        "head_spec": SPEC,
        "head": build_head(SPEC, SHAPES),
        "calibration": Calibration("platt", 1.5, -0.25),
        "conformal": Conformal(0.1, (0.7, 0.6)),
        "reference": {"tsnr": Limits(90.0, 20.0)},
        "card": CARD,
        "encoders": {"brainlm": encoder},
    }
    return {**given, **changes}


def make_tangent():
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((4, R, 2 * R))
    return TangentReference.fit(spread @ np.swapaxes(spread, 1, 2) / (2 * R))


def make_novelty():
    rng = np.random.default_rng(1)
    return {name: Novelty.fit(1 + rng.standard_normal((12, embedding_size(shape)))) for name, shape in SHAPES.items()}


def features(bundle, windows=3, seed=0, **changes):
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((windows, R, 2 * R))
    arrays = {
        "brainlm": rng.standard_normal((windows, H)).astype(np.float32),
        "fc": (spread @ np.swapaxes(spread, 1, 2) / (2 * R)).astype(np.float32),
        "unused": np.zeros((windows, 1), np.float32),
    }
    bounds = np.stack([np.arange(windows) * 10, np.arange(windows) * 10 + 10], axis=1).astype(np.int32)
    given = {"key": f"sub-1_run-{seed}", "windows": bounds, "arrays": arrays, "quality": FAULTLESS}
    return Features(**{**given, "digest": bundle.recipe.digest, **changes})


def names(folder):
    return [path.name for path in folder.iterdir()]


def restate(root, change):
    """Change bundle.json as someone would who also corrects its checksum."""
    document = json.loads((root / "bundle.json").read_text())
    change(document)
    (root / "bundle.json").write_bytes(rendered(document))
