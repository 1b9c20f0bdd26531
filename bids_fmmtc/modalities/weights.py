"""Files of pretrained encoders: which one counts, and its checksum. No torch, so the parent process can ask."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bids_fmmtc.errors import MissingInputError

NAMES = ("model.safetensors", "pytorch_model.bin")  # the first that is there counts


def weights_file(folder: Path) -> Path:
    """Return the weights file of an encoder folder, safetensors before pickle.

    Raises
    ------
    MissingInputError
        The folder, its ``config.json`` or its weights are not there.
    """
    hint = "Fetch it with bids_fmmtc-fetch, which lists the encoders, or give its folder with --encoder-weights DIR."
    if not folder.is_dir():
        raise MissingInputError(f"folder of encoder weights {folder} does not exist.", hint)
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if not found or not (folder / "config.json").is_file():
        there = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise MissingInputError(f"{folder} needs config.json and one of {', '.join(NAMES)}; it holds {there}.", hint)
    return found[0]


def weights_sha256(folder: Path) -> str:
    """Return the sha256 of the weights file of an encoder folder, as hexadecimal."""
    return file_sha256(weights_file(folder))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
