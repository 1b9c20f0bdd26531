"""A bundle that nobody trained, labelled as a demo: a linear head with random weights on the demo's encoder.

Not the published head: every process that predicts with it imports transformers, some five seconds a participant. The
real recording in ``test_end_to_end.py`` goes through that one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from bids_fmmtc import synthetic
from bids_fmmtc.learning.bundle.calibrate import Calibration
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.bundle.save import save_bundle

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
        spec = {"kind": "linear", "outputs": 2, "modalities": ["brainlm", "fc"]}
        torch.manual_seed(0)
        head = build_head(spec, shapes)
        with torch.no_grad():
            for weights in head.parameters():
                weights.normal_(std=0.05)
        save_bundle(
            folder,
            recipe=recipe,
            shapes=shapes,
            head_spec=spec,
            head=head,
            classes=("non-responder", "responder"),
            threshold=0.5,
            calibration=Calibration(),
            conformal=None,
            reference=None,
            card=CARD,
            encoders={"brainlm": encoder},
            include_encoders=True,
        )
