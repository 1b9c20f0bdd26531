"""A bundle that nobody trained, labelled as a demo: the published head with random weights on the demo's encoder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from bids_fmmtc import synthetic
from bids_fmmtc.learning.head import build_head
from bids_fmmtc.learning.save import save_bundle

CARD = {
    "title": "DEMO MODEL",
    "demo": True,
    "data": "None: every weight is random.",
    "intended_use": "To show how the program runs. Its predictions mean nothing.",
    "limits": "Not trained on anything. Research software, not a medical device.",
}


def write_model(folder: Path, atlas_folder: Path) -> None:
    """Write the bundle with its encoder."""
    with tempfile.TemporaryDirectory() as temporary:
        encoder = Path(temporary)
        synthetic.write_encoder(encoder)
        recipe = synthetic.recipe(atlas_folder, encoder)
        parcels = synthetic.N_PARCELS
        shapes = {"brainlm": (int(synthetic.ENCODER["hidden_size"]),), "fc": (parcels, parcels)}
        spec = {
            "kind": "fmmtc",
            "branches": {
                "brainlm": {"branch": "identity"},
                "fc": {"branch": "resnet18", "width": 32, "embedding_size": 8, "hidden_sizes": [8, 16, 32, 64]},
            },
            "outputs": 2,
        }
        torch.manual_seed(0)
        save_bundle(
            folder,
            recipe=recipe,
            shapes=shapes,
            head_spec=spec,
            head=build_head(spec, shapes),
            classes=("non-responder", "responder"),
            threshold=0.5,
            calibration={"kind": "none"},
            conformal=None,
            reference=None,
            card=CARD,
            encoders={"brainlm": encoder},
            include_encoders=True,
        )
