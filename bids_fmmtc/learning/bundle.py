"""A model on disk: recipe, head, calibration and model card in one folder, each file under its sha256.

::

    bundle.json                 everything but weights; sha256 and size of every other file, and of itself
    head.safetensors            weights of the head
    tangent.safetensors         training reference of tangent space, only where the recipe asks for it
    encoders/NAME/              config.json and model.safetensors of an encoder that may be passed on
    README.md                   model card

Nothing is pickled. `load_bundle` checks everything before anything is used, and needs no torch. The checksums find
damage and hand edits; they do not prove who made a bundle. Hidden files (``.DS_Store``) are ignored: nothing reads
them. A listed file may be a symbolic link only to a place inside the bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import BundleError, DataError, MissingInputError, OutputError
from bids_fmmtc.learning.calibrate import (
    calibrated,
    check_calibration,
    check_conformal,
    check_reference,
    prediction_set,
    reference_flags,
)
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.types import Features, Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = "bids_fmmtc bundle"
FORMAT_VERSION = 1
JSON, HEAD, TANGENT, CARD = "bundle.json", "head.safetensors", "tangent.safetensors", "README.md"
TANGENT_MODALITY = "fc"
CARD_TEXTS = {
    "title": "Title",
    "intended_use": "Intended use",
    "limits": "Limits",
    "data": "Training data",
}
"""Texts every model card holds, and their headings."""

_FIELDS = (
    *("format", "format_version", "card", "classes", "threshold", "recipe", "shapes", "head"),
    *("calibration", "conformal", "reference", "encoders", "files", "checksum"),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_DAMAGED = "Fetch or copy the bundle again; a bundle is not edited by hand but saved anew."
_LICENCE = "BrainLM's licence (CC BY-NC-ND 4.0) forbids passing its weights on, so each user fetches them"


@dataclass(frozen=True, slots=True)
class EncoderReference:
    """The frozen encoder of a modality: sha256 of its weights file, and whether the bundle holds it."""

    sha256: str
    included: bool = False


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A verified bundle; nothing is loaded but ``bundle.json``.

    Parameters
    ----------
    root
        The folder.
    recipe
        How recordings become features.
    shapes
        Modality -> shape of one window's array.
    head
        Spec of the head, see `bids_fmmtc.learning.head`.
    classes
        Two names; the second is the one whose probability is given.
    threshold
        The second class is predicted from this probability on, 0..1.
    calibration, conformal, reference
        See `bids_fmmtc.learning.calibrate`; conformal and reference may be None.
    card
        Model card: the texts of `CARD_TEXTS`, ``demo``, and anything else that is JSON.
    encoders
        Modality -> its frozen encoder.
    files
        File name relative to ``root`` -> ``{"bytes": size, "sha256": checksum}``.
    digest
        Sha256 of ``bundle.json``, and so of everything in the bundle.
    """

    root: Path
    recipe: Recipe
    shapes: Mapping[str, tuple[int, ...]]
    head: Mapping[str, Any]
    classes: tuple[str, str]
    threshold: float
    calibration: Mapping[str, Any]
    conformal: Mapping[str, Any] | None
    reference: Mapping[str, Mapping[str, Any]] | None
    card: Mapping[str, Any]
    encoders: Mapping[str, EncoderReference]
    files: Mapping[str, Mapping[str, Any]]
    digest: str

    @property
    def demo(self) -> bool:
        """Whether the model was made to show the program, not to predict."""
        return bool(self.card["demo"])

    def read(self, name: str) -> bytes:
        """Return the bytes of a listed file, verified again."""
        trouble = _trouble(self.root, name, self.files[name])
        if trouble:
            raise BundleError(f"bundle {self.root}: {trouble}.", _DAMAGED)
        return (self.root / name).read_bytes()


# --------------------------------------------------------------------------------------------------- load and verify


def load_bundle(root: Path) -> ModelBundle:
    """Read a bundle and verify all of it.

    Raises
    ------
    MissingInputError
        The folder does not exist.
    BundleError
        Not a bundle, of another version, or any file damaged, missing, added or leading outside; names all of them.
    """
    root = Path(root)
    document, digest = _document(root)
    try:
        bundle = _parsed(root, document, digest)
    except BundleError as error:
        raise BundleError(f"bundle {root}: {error.message}", error.hint or _DAMAGED) from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BundleError(f"bundle {root}: {JSON} is not as expected: {error}", _DAMAGED) from None
    troubles = [t for name, entry in bundle.files.items() if (t := _trouble(root, name, entry))]
    troubles += [f"{name} does not belong there" for name in _strays(root, bundle.files)]
    if troubles:
        raise BundleError(f"bundle {root}: {'; '.join(troubles)}.", _DAMAGED)
    return bundle


def _document(root: Path) -> tuple[dict[str, Any], str]:
    """Return the content of ``bundle.json``, checked for format, version, fields and checksum, and its digest."""
    content = _content(root)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle {root}: {JSON} is not JSON: {error}.", _DAMAGED) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(f"{root} is not a model bundle: {JSON} does not say format {FORMAT!r}.")
    if document.get("format_version") != FORMAT_VERSION:
        found = document.get("format_version")
        raise BundleError(
            f"bundle {root} is of format version {found!r}, this program reads {FORMAT_VERSION}.",
            "Use the bids_fmmtc version that made it, or a newer one.",
        )
    lacks, unknown = sorted(set(_FIELDS) - set(document)), sorted(set(document) - set(_FIELDS))
    if lacks or unknown:
        raise BundleError(f"bundle {root}: {JSON} lacks fields {lacks} and has unknown fields {unknown}.", _DAMAGED)
    if _rendered(document) != content:
        raise BundleError(f"bundle {root}: {JSON} does not have the checksum it states.", _DAMAGED)
    return document, hashlib.sha256(content).hexdigest()


def _content(root: Path) -> bytes:
    """Return the bytes of ``bundle.json``; say what a folder without it lacks."""
    path = root / JSON
    try:
        if not root.exists():
            raise MissingInputError(f"model bundle {root} does not exist.")
        if not path.is_file():
            hint = "Pass the folder that holds bundle.json."
            if (root / "config.json").is_file():
                hint = "It looks like an encoder's folder: that is what --encoder-weights takes."
            raise BundleError(f"{root} is not a model bundle: it has no {JSON}.", hint)
        if not path.resolve().is_relative_to(root.resolve()):
            raise BundleError(f"bundle {root}: {JSON} leads outside the folder.", _DAMAGED)
        return path.read_bytes()
    except MissingInputError:  # an OSError too
        raise
    except OSError as error:
        raise BundleError(f"bundle {root}: {JSON} cannot be read: {error}.", "Check the permissions.") from None


def _rendered(document: Mapping[str, Any]) -> bytes:
    """Return ``bundle.json`` as bytes: fixed order of fields, and last the sha256 of all fields before it."""
    body = {name: document[name] for name in _FIELDS[:-1]}
    checksum = hashlib.sha256(_dumped(body).encode()).hexdigest()
    return (_dumped({**body, "checksum": checksum}, indent=1) + "\n").encode()


def _dumped(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, allow_nan=False, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{JSON}: not plain JSON: {error}.") from None


def _parsed(root: Path, document: Mapping[str, Any], digest: str) -> ModelBundle:
    """Return the bundle that the content of ``bundle.json`` describes; any error means that it is malformed."""
    bundle = ModelBundle(
        root=root,
        recipe=Recipe.from_json(document["recipe"]),
        shapes={name: tuple(shape) for name, shape in document["shapes"].items()},
        head=document["head"],
        classes=tuple(document["classes"]),
        threshold=document["threshold"],
        calibration=document["calibration"],
        conformal=document["conformal"],
        reference=document["reference"],
        card=document["card"],
        encoders={
            name: EncoderReference(entry["sha256"], entry["included"]) for name, entry in document["encoders"].items()
        },
        files=document["files"],
        digest=digest,
    )
    for ok, message in (*_checks(bundle), *_card_checks(bundle.card)):
        if not ok:
            raise BundleError(message)
    check_calibration(bundle.calibration)
    if bundle.conformal is not None:
        check_conformal(bundle.conformal)
    if bundle.reference is not None:
        check_reference(bundle.reference)
    return bundle


def _checks(bundle: ModelBundle) -> Iterator[tuple[bool, str]]:
    """Yield whether parts are sound and fit each other, and what to say if not; later checks rest on earlier ones."""
    names = {m.name for m in bundle.recipe.modalities}
    weights = {m.name: m.weights_sha256 for m in bundle.recipe.modalities if m.weights_sha256 is not None}
    branches = bundle.head.get("branches")
    classes, threshold = bundle.classes, bundle.threshold
    sizes = [size for shape in bundle.shapes.values() for size in shape]
    yield (
        len(classes) == 2 and all(isinstance(c, str) and c for c in classes) and classes[0] != classes[1],
        f"expected two distinct classes, found {list(classes)}.",
    )
    yield _is_number(threshold) and 0 <= threshold <= 1, f"threshold must lie in 0..1, found {threshold!r}."
    yield all(type(size) is int and size > 0 for size in sizes), "shapes must be lists of positive integers."
    yield (
        set(bundle.shapes) == names,
        f"recipe names modalities {', '.join(sorted(names))}, shapes {', '.join(sorted(bundle.shapes))}.",
    )
    yield isinstance(bundle.head.get("kind"), str), "head has no kind."
    yield bundle.head.get("outputs") == len(classes), "head must have as many outputs as there are classes."
    yield (
        branches is None or set(branches) == names,
        f"recipe names modalities {', '.join(sorted(names))}, head {', '.join(sorted(branches or ()))}.",
    )
    yield all(_NAME.fullmatch(name) for name in bundle.encoders), "an encoder's name is not a plain name."
    yield (
        all(isinstance(e.included, bool) and _SHA256.fullmatch(e.sha256) for e in bundle.encoders.values()),
        "an encoder lacks its sha256 or whether it is included.",
    )
    yield (
        {name: e.sha256 for name, e in bundle.encoders.items()} == weights,
        "encoders and their sha256 differ from the weights_sha256 of the recipe's modalities.",
    )
    expected = _expected_files(bundle)
    yield set(bundle.files) == expected, f"expected files {sorted(expected)}, listed are {sorted(bundle.files)}."
    for name, entry in bundle.files.items():
        yield set(entry) == {"bytes", "sha256"}, f"{name} must be listed with bytes and sha256."
        if _WEIGHTS[0] in name:
            encoder = bundle.encoders[name.split("/")[1]]
            yield entry["sha256"] == encoder.sha256, f"{name} is not the encoder that the recipe names."


def _card_checks(card: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    for name in CARD_TEXTS:
        text = card.get(name)
        yield isinstance(text, str) and bool(text.strip()), f"card: {name} must be a text."
    yield isinstance(card.get("demo"), bool), "card: demo must be true or false."


def _expected_files(bundle: ModelBundle) -> set[str]:
    """Return the files a bundle consists of besides ``bundle.json``; no name comes from outside but an encoder's."""
    expected = {HEAD, CARD}
    if bundle.recipe.connectivity.kind == "tangent" and TANGENT_MODALITY in bundle.shapes:
        expected.add(TANGENT)
    for name, encoder in bundle.encoders.items():
        if encoder.included:
            expected |= {f"encoders/{name}/config.json", f"encoders/{name}/{_WEIGHTS[0]}"}
    return expected


def _trouble(root: Path, name: str, entry: Mapping[str, Any]) -> str:
    """Say what is wrong with a listed file; empty when nothing is."""
    try:
        return _mismatch(root, name, entry)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return f"{name} cannot be read ({error})"


def _mismatch(root: Path, name: str, entry: Mapping[str, Any]) -> str:
    path = root / name
    if not os.path.lexists(path):
        return f"{name} is missing"
    if not path.resolve().is_relative_to(root.resolve()):
        return f"{name} leads outside the folder"
    if not path.is_file():
        return f"{name} is not a file"
    if (size := path.stat().st_size) != entry["bytes"]:
        return f"{name} holds {size} bytes, expected {entry['bytes']}"
    return "" if _file_sha256(path) == entry["sha256"] else f"{name} does not have the checksum that {JSON} states"


def _strays(root: Path, files: Mapping[str, Any], *, hidden: bool = False) -> list[str]:
    """Name what lies in the folder and is not listed; empty folders are let be, hidden entries unless asked for."""
    found = []
    for parent, folders, names in os.walk(root):
        here = Path(parent)
        if not hidden:
            folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if (here / name).is_symlink()]
        found += [(here / name).relative_to(root).as_posix() for name in (*names, *links)]
    known = {JSON, *files, *(f"encoders/{name.split('/')[1]}" for name in files if "/" in name)}
    return sorted(n for n in found if n not in known and (hidden or not Path(n).name.startswith(".")))


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# -------------------------------------------------------------------------------------------------------------- save


def save_bundle(  # noqa: PLR0913  (a bundle has that many parts)
    root: Path,
    *,
    recipe: Recipe,
    shapes: Mapping[str, Sequence[int]],
    head_spec: Mapping[str, Any],
    head: nn.Module | Mapping[str, Tensor],
    classes: Sequence[str] = ("non-responder", "responder"),
    threshold: float = 0.5,
    calibration: Mapping[str, Any],
    conformal: Mapping[str, Any] | None = None,
    reference: Mapping[str, Mapping[str, Any]] | None = None,
    card: Mapping[str, Any],
    encoders: Mapping[str, Path | EncoderReference],
    include_encoders: bool = False,
    tangent: TangentReference | None = None,
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
    encoders
        Modality -> folder of its encoder, or a reference to one that is not at hand.
    include_encoders
        Copy the encoders in. Only where their licence allows it: BrainLM's (CC BY-NC-ND 4.0) does not.
    tangent
        Reference fitted on the training data; needed for connectivity of kind ``tangent``.

    The others are as in `ModelBundle`.

    Raises
    ------
    BundleError
        Parts that do not fit each other.
    OutputError
        ``root`` is occupied or cannot be written.
    """
    root = Path(root)
    _refuse_occupied(root, overwrite=overwrite)
    shapes = {name: tuple(shape) for name, shape in shapes.items()}
    contents = {HEAD: _head_bytes(head, head_spec, shapes)}
    if tangent is not None:
        contents[TANGENT] = _tangent_bytes(tangent)
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
        "calibration": _sorted(calibration),
        "conformal": _sorted(conformal),
        "reference": _sorted(reference),
        "encoders": references,
    }
    contents[CARD] = _card_text(document, recipe.digest).encode()
    files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    for name, source in sources.items():
        files[name] = {"bytes": source.stat().st_size, "sha256": _file_sha256(source)}
    contents[JSON] = _rendered({**document, "files": _sorted(files)})
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
        _refuse_occupied(root, overwrite=overwrite)
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


def _refuse_occupied(root: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(root):
        return
    if root.is_symlink() or not root.is_dir():
        raise OutputError(f"{root} exists and is not a folder.", "Name another folder.")
    if not any(root.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{root} exists and is not empty.", "Name another folder, or ask to overwrite the bundle.")
    try:
        strays = _strays(root, load_bundle(root).files, hidden=True)
    except BundleError as error:
        raise OutputError(f"{root} is not an intact bundle and is left as it is: {error.message}") from None
    if strays:
        raise OutputError(f"{root} also holds {', '.join(strays)} and is left as it is.", "Move them elsewhere first.")


def _encoder_parts(
    encoders: Mapping[str, Path | EncoderReference], *, included: bool
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return the JSON of the encoders, and bundle file name -> file to copy where they are included."""
    references: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    for name, value in sorted(encoders.items()):
        if not _NAME.fullmatch(name):
            raise BundleError(f"encoder {name!r}: not a plain name.")
        weights = None if isinstance(value, EncoderReference) else _weights_in(Path(value))
        if included:
            if weights is None or weights.name != _WEIGHTS[0]:
                raise BundleError(
                    f"encoder {name} cannot be included: its folder with {_WEIGHTS[0]} is needed, not a pickle.",
                    "Save without encoders; users then pass --encoder-weights.",
                )
            sources |= {f"encoders/{name}/{file.name}": file for file in (weights.with_name("config.json"), weights)}
        sha256 = value.sha256 if isinstance(value, EncoderReference) else _file_sha256(_weights_in(Path(value)))
        references[name] = {"sha256": sha256, "included": included}
    return references, sources


def _weights_in(folder: Path) -> Path:
    """Return the weights file of an encoder's folder: ``model.safetensors``, else ``pytorch_model.bin``."""
    for name in _WEIGHTS:
        if (folder / "config.json").is_file() and (folder / name).is_file():
            return folder / name
    raise BundleError(f"{folder} is not an encoder's folder: it needs config.json and {' or '.join(_WEIGHTS)}.")


def _head_bytes(head: nn.Module | Mapping[str, Tensor], spec: Mapping[str, Any], shapes: Mapping[str, Any]) -> bytes:
    import torch  # noqa: PLC0415
    from safetensors.torch import save  # noqa: PLC0415

    given = head.state_dict() if isinstance(head, torch.nn.Module) else head
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in given.items()}
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise BundleError("head holds weights that are not finite.")
    _filled_head(spec, shapes, state)
    data: bytes = save(state)
    return data


def _filled_head(spec: Mapping[str, Any], shapes: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Build the head without drawing random weights and give it ``state``, whose names and shapes must fit exactly."""
    import torch  # noqa: PLC0415

    from bids_fmmtc.learning.head import build_head  # noqa: PLC0415

    with torch.device("meta"):
        head = build_head(spec, shapes)
    expected = {name: (tuple(t.shape), t.dtype) for name, t in head.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in state.items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise BundleError(
            f"{len(wrong)} of the head's weights are missing, unknown or of another shape: "
            + "; ".join(f"{n} expected {expected.get(n)}, found {found.get(n)}" for n in wrong[:3])
        )
    head.load_state_dict(dict(state), strict=True, assign=True)
    return head.eval()


def _tangent_bytes(tangent: TangentReference) -> bytes:
    from safetensors.numpy import save  # noqa: PLC0415

    data: bytes = save({name: np.ascontiguousarray(array) for name, array in tangent.to_arrays().items()})
    return data


def _sorted(value: Any) -> Any:
    """Return JSON data with the keys of every object in order."""
    if isinstance(value, Mapping):
        return {str(name): _sorted(value[name]) for name in sorted(value)}
    return [_sorted(v) for v in value] if isinstance(value, list | tuple) else value


def _card_text(document: Mapping[str, Any], recipe_digest: str) -> str:
    """Return the model card as Markdown."""
    card = document["card"]
    lines = [f"# {card.get('title', '')}", ""]
    if card.get("demo"):
        lines += ["**Demonstration only: this model predicts nothing about patients.**", ""]
    for name, heading in list(CARD_TEXTS.items())[1:]:
        lines += [f"## {heading}", "", str(card.get(name, "")), ""]
    for name in (n for n in card if n not in CARD_TEXTS and n != "demo"):
        value = card[name]
        lines += [f"## {name.replace('_', ' ').capitalize()}", ""]
        lines += [value if isinstance(value, str) else f"    {_dumped(value)}", ""]
    lines += ["## Model", "", f"- Classes: {', '.join(map(str, document['classes']))}"]
    lines += [f"- Decision threshold: {document['threshold']}", f"- Head: {document['head'].get('kind')}"]
    lines += [f"- Calibration: {document['calibration'].get('kind')}", f"- Recipe digest: {recipe_digest}"]
    for name, encoder in document["encoders"].items():
        where = "included" if encoder["included"] else f"not included. {_LICENCE}"
        lines += [f"- Encoder {name}: weights sha256 {encoder['sha256']}, {where}"]
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------------------- use


def encoder_folder(bundle: ModelBundle, name: str, encoder_weights: Path | None) -> Path:
    """Return the folder of the encoder that a bundle was trained with: its own, else the user's, verified.

    Parameters
    ----------
    name
        The modality.
    encoder_weights
        The encoder's folder, or one that holds it under ``name``; None when the user gave none.

    Raises
    ------
    MissingInputError
        ``encoder_weights`` does not exist.
    BundleError
        The bundle names no such encoder, or it is neither included nor the one that the user gave.
    """
    if name not in bundle.encoders:
        raise BundleError(
            f"bundle {bundle.root} has no encoder {name!r}; it has {', '.join(bundle.encoders) or 'none'}."
        )
    expected = bundle.encoders[name].sha256
    hint = f"Pass --encoder-weights DIR, a folder with config.json and the weights of sha256 {expected}. {_LICENCE}."
    if bundle.encoders[name].included:
        return bundle.root / "encoders" / name
    if encoder_weights is None:
        raise BundleError(f"bundle {bundle.root} does not include the weights of encoder {name}.", hint)
    if not encoder_weights.is_dir():
        raise MissingInputError(f"folder of encoder weights {encoder_weights} does not exist.", hint)
    below = encoder_weights / name
    folder = below if below.is_dir() else encoder_weights
    try:
        found = _file_sha256(_weights_in(folder))
    except BundleError as error:
        raise BundleError(error.message, hint) from None
    if found != expected:
        raise BundleError(f"encoder {name} in {folder} has sha256 {found}, the bundle expects {expected}.", hint)
    return folder


class Predictor:
    """A bundle's head, ready to judge sessions.

    Parameters
    ----------
    bundle
        A loaded bundle.
    device
        torch device name, ``cpu`` or ``cuda``.

    Raises
    ------
    BundleError
        Weights that changed since the bundle was loaded, or that do not fit the head.
    """

    def __init__(self, bundle: ModelBundle, device: str = "cpu") -> None:
        from safetensors.torch import load  # noqa: PLC0415

        self.bundle, self.device = bundle, device
        self._head = _filled_head(bundle.head, bundle.shapes, load(bundle.read(HEAD))).to(device)
        self._tangent: TangentReference | None = None
        if TANGENT in bundle.files:
            from safetensors.numpy import load as load_arrays  # noqa: PLC0415

            self._tangent = TangentReference.from_arrays(load_arrays(bundle.read(TANGENT)))

    def predict(
        self, key: str, features: Sequence[Features], flags: Sequence[str] = (), expected_digest: str | None = None
    ) -> Prediction:
        """Judge one session from all windows of its runs, each window counting the same.

        Windows go through the head one at a time, so a window's number does not depend on its neighbours. The
        session's probability is the mean of the windows' calibrated probabilities.

        Parameters
        ----------
        key
            The session's key.
        features
            One entry per run.
        flags
            Reasons for care known so far; those of the reference range and ``demo_model`` are added.
        expected_digest
            Digest of the recipe the features must have; the bundle's own by default. For a caller whose user chose
            another recipe knowingly; such a caller says so in ``flags``.

        Raises
        ------
        BundleError
            Features of another recipe or shape than the head was trained on.
        DataError
            No features.
        """
        bundle = self.bundle
        if not features:
            raise DataError(f"session {key} has no features.")
        expected = bundle.recipe.digest if expected_digest is None else expected_digest
        for run in features:
            self._check(run, expected)
        logits = np.concatenate([self._logits(run) for run in features])
        per_window = calibrated(logits, bundle.calibration)
        probability = float(per_window.mean())
        reference = bundle.reference or {}
        found = sorted({flag for run in features for flag in reference_flags(run.quality, reference)})
        conformal = bundle.conformal
        return Prediction(
            key=key,
            probability=probability,
            per_window=per_window.astype(np.float32),
            threshold=bundle.threshold,
            label=bundle.classes[int(probability >= bundle.threshold)],
            prediction_set=None if conformal is None else prediction_set(probability, bundle.classes, conformal),
            flags=tuple(dict.fromkeys((*flags, *found, *(("demo_model",) if bundle.demo else ())))),
            digest=bundle.digest,
        )

    def _check(self, run: Features, expected: str) -> None:
        if run.digest != expected:
            raise BundleError(
                f"features of {run.key} come from recipe {run.digest}, the bundle's is {expected}.",
                "Extract them again with the bundle's recipe.",
            )
        for name, shape in self.bundle.shapes.items():
            found = run.arrays[name].shape[1:] if name in run.arrays else None
            if found != shape:
                raise BundleError(f"features of {run.key}: {name} is of shape {found}, the bundle expects {shape}.")

    def _logits(self, run: Features) -> NDArray[np.float32]:
        """Return logits (W, 2) of one run.

        Every window is copied into memory that torch aligns, as the rounding of some kernels depends on alignment.
        """
        import torch  # noqa: PLC0415

        rows = []
        strict = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), strict:
            for i in range(len(run.windows)):
                arrays = {name: run.arrays[name][i : i + 1] for name in self.bundle.shapes}
                if self._tangent is not None:
                    arrays[TANGENT_MODALITY] = self._tangent.project(arrays[TANGENT_MODALITY])
                batch = {n: torch.tensor(a, dtype=torch.float32).to(self.device) for n, a in arrays.items()}
                rows.append(self._head(batch).cpu().numpy())
        return np.concatenate(rows)
