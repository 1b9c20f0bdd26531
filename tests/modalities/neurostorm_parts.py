"""A small NeuroSTORM and the reference's fixtures, for the tests of its modules."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bids_fmmtc.modalities.neurostorm import NeuroStorm
from bids_fmmtc.modalities.neurostorm_config import NeuroStormConfig

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures" / "neurostorm"
TOLERANCE = 5e-5

# Grids that windows do not divide, an odd number of frames, a shifted stage.
SMALL = NeuroStormConfig(
    (24, 24, 24, 5), 1, (2, 2, 2, 1), 4, (2, 2), (4, 4, 4, 4), (4, 4, 4, 2), 2, last_layer_full_MSA=False
)


def fixture(name):
    path = FIXTURES / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"parity fixture {path} is not here")
    return load_file(path)


def manifest(name="manifest"):
    path = FIXTURES / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"parity fixture {path} is not here")
    return json.loads(path.read_text())


def random_model(config=SMALL, seed=0, prompts=0):
    torch.manual_seed(seed)
    model = NeuroStorm(config, prompts).eval()
    with torch.no_grad():  # norms and biases away from where torch leaves them, so that a wrong one shows
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_clip(config=SMALL, batch=2, frames=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, *config.img_size[:3], frames or config.frames, generator=generator)


def write_encoder(folder, model=None):
    """Write a converted encoder as a user would have it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = random_model() if model is None else model
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_json()))
    return folder
