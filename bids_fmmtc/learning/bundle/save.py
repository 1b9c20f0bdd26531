"""Writing a bundle: its parts to bytes, and all of it into place at once."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays
from safetensors.torch import save
from torch import Tensor, nn

from bids_fmmtc.errors import BundleError, MissingInputError, OutputError
from bids_fmmtc.learning.bundle.calibrate import EMBEDDING, UNIT, Calibration, Conformal, Limits, Reference
from bids_fmmtc.learning.bundle.card import card_text
from bids_fmmtc.learning.bundle.load import (
    CARD,
    FORMAT,
    FORMAT_VERSION,
    HEAD,
    JSON,
    NAME,
    NOVELTY,
    TANGENT,
    EncoderReference,
    ModelBundle,
    load_bundle,
    rendered,
    strays,
)
from bids_fmmtc.learning.bundle.novelty import Novelty, from_arrays, to_arrays
from bids_fmmtc.learning.bundle.predict import filled_head
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.modalities.weights import NAMES, file_sha256, weights_file, weights_sha256
from bids_fmmtc.plain import to_json
from bids_fmmtc.recipe import Recipe


def save_bundle(  # noqa: PLR0913  (a bundle has that many parts)
    root: Path,
    *,
    recipe: Recipe,
    shapes: Mapping[str, Sequence[int]],
    head_spec: Mapping[str, object],
    head: nn.Module | Mapping[str, Tensor],
    classes: Sequence[str] = ("non-responder", "responder"),
    threshold: float = 0.5,
    calibration: Calibration,
    conformal: Conformal | None = None,
    reference: Reference | None = None,
    card: Mapping[str, object],
    encoders: Mapping[str, Path | EncoderReference],
    include_encoders: bool = False,
    tangent: TangentReference | None = None,
    novelty: Mapping[str, Novelty] | None = None,
    overwrite: bool = False,
) -> ModelBundle:
    """Write a bundle; the same input gives the same bytes, and nothing is left behind on failure.

    Parameters
    ----------
    root
        Folder to make. It may exist empty; a bundle there is replaced only with ``overwrite``, and only when intact
        and without any other file, so that nothing foreign is ever deleted.
    head
        The trained head or its state dict; must fit ``head_spec`` and ``shapes``.
    threshold, calibration, conformal
        Fitted on sessions: on `bids_fmmtc.learning.bundle.calibrate.pooled` logits, which the bundle then states.
    encoders
        Modality -> folder of its encoder, or a reference to one that is not at hand.
    include_encoders
        Copy the encoders in. Only where their licence allows it (`modalities.about.About.licence`).
    tangent
        Reference fitted on the training data; needed for connectivity of kind ``tangent``.
    novelty
        Modality -> where its embeddings lie in training, of as many modalities as one likes; adds the entries
        ``embedding_<modality>`` to ``reference``.

    The others are as in `ModelBundle`.

    Raises
    ------
    BundleError
        Parts that do not fit each other.
    OutputError
        ``root`` is occupied or cannot be written.
    """
    root = Path(root)
    refuse_occupied(root, overwrite=overwrite)
    shapes = {name: tuple(shape) for name, shape in shapes.items()}
    contents = {HEAD: _head_bytes(head, head_spec, shapes)}
    if tangent is not None:
        contents[TANGENT] = _array_bytes(tangent.to_arrays())
    if novelty:
        contents[NOVELTY] = _novelty_bytes(novelty, shapes)
        reference = {**(reference or {}), **{f"{EMBEDDING}{name}": Limits(high=1.0) for name in novelty}}
    references, sources = _encoder_parts(encoders, included=include_encoders)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "card": _sorted(card),
        "classes": list(classes),
        "threshold": threshold,
        "recipe": _sorted(recipe.to_json()),
        "shapes": {name: list(shape) for name, shape in sorted(shapes.items())},
        "head": head_spec,  # keeps its order, which is the order of concatenation
        "unit": UNIT,
        "calibration": _sorted(to_json(calibration)),
        "conformal": _sorted(to_json(conformal)),
        "reference": _sorted(to_json(reference)),
        "encoders": references,
    }
    contents[CARD] = card_text(document, recipe.digest).encode()
    files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    for name, source in sources.items():
        files[name] = {"bytes": source.stat().st_size, "sha256": file_sha256(source)}
    contents[JSON] = rendered({**document, "files": _sorted(files)})
    return _published(root, contents, sources, overwrite=overwrite)


def _published(
    root: Path, contents: Mapping[str, bytes], sources: Mapping[str, Path], *, overwrite: bool
) -> ModelBundle:
    """Write beside ``root``, verify what was written, then move it into place."""
    temporary = root.with_name(f".{root.name}.{secrets.token_hex(4)}.tmp")
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        for name, data in contents.items():
            (temporary / name).write_bytes(data)
        for name, source in sources.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, temporary / name)
        bundle = load_bundle(temporary)
        refuse_occupied(root, overwrite=overwrite)
        if root.exists():
            root.rename(old)
        try:
            temporary.rename(root)
        except OSError:
            if old.exists():
                old.rename(root)
            raise
    except BundleError as error:
        raise BundleError(error.message.replace(str(temporary), str(root))) from None
    except OutputError:  # an OSError too
        raise
    except OSError as error:
        raise OutputError(f"bundle {root} cannot be written: {error}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if root.exists():
            shutil.rmtree(old, ignore_errors=True)
    return replace(bundle, root=root)


def refuse_occupied(root: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is not empty; with ``overwrite`` only one that is no intact bundle and nothing else.

    Raises
    ------
    OutputError
        It is occupied.
    """
    if not os.path.lexists(root):
        return
    if root.is_symlink() or not root.is_dir():
        raise OutputError(f"{root} exists and is not a folder.", "Name another folder.")
    if not any(root.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{root} exists and is not empty.", "Name another folder, or ask to overwrite the bundle.")
    try:
        foreign = strays(root, load_bundle(root).files, hidden=True)
    except BundleError as error:
        raise OutputError(f"{root} is not an intact bundle and is left as it is: {error.message}") from None
    if foreign:
        raise OutputError(f"{root} also holds {', '.join(foreign)} and is left as it is.", "Move them elsewhere first.")


def _encoder_parts(
    encoders: Mapping[str, Path | EncoderReference], *, included: bool
) -> tuple[dict[str, object], dict[str, Path]]:
    """Return the JSON of the encoders, and bundle file name -> file to copy where they are included."""
    references: dict[str, object] = {}
    sources: dict[str, Path] = {}
    for name, value in sorted(encoders.items()):
        if not NAME.fullmatch(name):
            raise BundleError(f"encoder {name!r}: not a plain name.")
        weights = None if isinstance(value, EncoderReference) else _weights_in(Path(value))
        if included:
            if weights is None or weights.name != NAMES[0]:
                raise BundleError(
                    f"encoder {name} cannot be included: its folder with {NAMES[0]} is needed, not a pickle.",
                    "Save without encoders; users then pass --encoder-weights.",
                )
            sources |= {f"encoders/{name}/{file.name}": file for file in (weights.with_name("config.json"), weights)}
        sha256 = value.sha256 if isinstance(value, EncoderReference) else weights_sha256(Path(value))
        references[name] = {"sha256": sha256, "included": included}
    return references, sources


def _weights_in(folder: Path) -> Path:
    try:
        return weights_file(folder)
    except MissingInputError as error:
        raise BundleError(error.message) from None


def _head_bytes(
    head: nn.Module | Mapping[str, Tensor], spec: Mapping[str, object], shapes: Mapping[str, object]
) -> bytes:
    given = head.state_dict() if isinstance(head, nn.Module) else head
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in given.items()}
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise BundleError("head holds weights that are not finite.")
    filled_head(spec, shapes, state)
    data: bytes = save(state)
    return data


def _novelty_bytes(novelty: Mapping[str, Novelty], shapes: Mapping[str, Sequence[int]]) -> bytes:
    strangers = sorted(set(novelty) - set(shapes))
    if strangers:
        raise BundleError(f"novelty of {', '.join(strangers)}, but modalities are {', '.join(shapes)}.")
    arrays = to_arrays(novelty)
    from_arrays(arrays, {name: shapes[name] for name in novelty})
    return _array_bytes(arrays)


def _array_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    data: bytes = save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return data


def _sorted(value: Any) -> Any:
    """Return JSON data with the keys of every object in order."""
    if isinstance(value, Mapping):
        return {str(name): _sorted(value[name]) for name in sorted(value)}
    return [_sorted(v) for v in value] if isinstance(value, list | tuple) else value
