"""A model on disk: recipe, head, calibration and model card in one folder, each file under its sha256.

::

    bundle.json                 everything but weights; sha256 and size of every other file, and of itself
    head.safetensors            weights of the head
    tangent.safetensors         training reference of tangent space, only where the recipe asks for it
    novelty.safetensors         where the embeddings of training lie, only where the reference limits a distance
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_fmmtc.errors import BundleError, MissingInputError
from bids_fmmtc.learning.bundle.calibrate import (
    EMBEDDING,
    UNIT,
    Calibration,
    Conformal,
    Reference,
    embedded,
    is_number,
    read_calibration,
    read_conformal,
    read_reference,
)
from bids_fmmtc.modalities import about
from bids_fmmtc.modalities.weights import NAMES, file_sha256, weights_sha256
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.results.card import TEXTS

FORMAT = "bids_fmmtc bundle"
FORMAT_VERSION = 1
JSON, HEAD, TANGENT, CARD = "bundle.json", "head.safetensors", "tangent.safetensors", "README.md"
NOVELTY = "novelty.safetensors"
TANGENT_MODALITY = "fc"

FIELDS = (
    *("format", "format_version", "card", "classes", "threshold", "recipe", "shapes", "head"),
    *("unit", "calibration", "conformal", "reference", "encoders", "files", "checksum"),
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAMAGED = "Fetch or copy the bundle again; a bundle is not edited by hand but saved anew."


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
        Spec of the head, see `bids_fmmtc.learning.bundle.head`.
    classes
        Two names; the second is the one whose probability is given.
    threshold
        The second class is predicted from this probability of a session on, 0..1.
    calibration, conformal, reference
        See `bids_fmmtc.learning.bundle.calibrate`; conformal and reference may be None. Reference entries
        ``embedding_<modality>`` limit distances (`bids_fmmtc.learning.bundle.novelty`). ``bundle.json`` must state
        beside them ``"unit": "session"``: calibration, threshold and conformal quantiles were fitted on logits pooled
        over all windows of a session, one value a session, as `Predictor` applies them.
    card
        Model card: the texts of `TEXTS`, ``demo``, and anything else that is JSON.
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
    calibration: Calibration
    conformal: Conformal | None
    reference: Reference | None
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
    troubles += [f"{name} does not belong there" for name in strays(root, bundle.files)]
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
    lacks, unknown = sorted(set(FIELDS) - set(document)), sorted(set(document) - set(FIELDS))
    if lacks or unknown:
        raise BundleError(f"bundle {root}: {JSON} lacks fields {lacks} and has unknown fields {unknown}.", _DAMAGED)
    if rendered(document) != content:
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


def rendered(document: Mapping[str, Any]) -> bytes:
    """Return ``bundle.json`` as bytes: fixed order of fields, and last the sha256 of all fields before it."""
    body = {name: document[name] for name in FIELDS[:-1]}
    checksum = hashlib.sha256(dumped(body).encode()).hexdigest()
    return (dumped({**body, "checksum": checksum}, indent=1) + "\n").encode()


def dumped(value: Any, indent: int | None = None) -> str:
    """Return plain JSON; raise BundleError for what is none."""
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
        calibration=read_calibration(document["calibration"]),
        conformal=None if document["conformal"] is None else read_conformal(document["conformal"]),
        reference=None if document["reference"] is None else read_reference(document["reference"]),
        card=document["card"],
        encoders={
            name: EncoderReference(entry["sha256"], entry["included"]) for name, entry in document["encoders"].items()
        },
        files=document["files"],
        digest=digest,
    )
    if document["unit"] != UNIT:
        raise BundleError(
            f"calibration, threshold and conformal quantiles must be fitted per {UNIT}, found {document['unit']!r}.",
            "Fit them anew on logits pooled over the windows of a session.",
        )
    for ok, message in (*_checks(bundle), *_card_checks(bundle.card)):
        if not ok:
            raise BundleError(message)
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
    yield is_number(threshold) and 0 <= threshold <= 1, f"threshold must lie in 0..1, found {threshold!r}."
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
    yield all(NAME.fullmatch(name) for name in bundle.encoders), "an encoder's name is not a plain name."
    yield (
        all(isinstance(e.included, bool) and _SHA256.fullmatch(e.sha256) for e in bundle.encoders.values()),
        "an encoder lacks its sha256 or whether it is included.",
    )
    yield (
        {name: e.sha256 for name, e in bundle.encoders.items()} == weights,
        "encoders and their sha256 differ from the weights_sha256 of the recipe's modalities.",
    )
    strangers = sorted(set(embedded(bundle.reference)) - names)
    yield not strangers, f"reference: {EMBEDDING}{'|'.join(strangers)} is of no modality of the recipe."
    expected = _expected_files(bundle)
    yield set(bundle.files) == expected, f"expected files {sorted(expected)}, listed are {sorted(bundle.files)}."
    for name, entry in bundle.files.items():
        yield set(entry) == {"bytes", "sha256"}, f"{name} must be listed with bytes and sha256."
        if NAMES[0] in name:
            encoder = bundle.encoders[name.split("/")[1]]
            yield entry["sha256"] == encoder.sha256, f"{name} is not the encoder that the recipe names."


def _card_checks(card: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    for name in TEXTS:
        text = card.get(name)
        yield isinstance(text, str) and bool(text.strip()), f"card: {name} must be a text."
    yield isinstance(card.get("demo"), bool), "card: demo must be true or false."


def _expected_files(bundle: ModelBundle) -> set[str]:
    """Return the files a bundle consists of besides ``bundle.json``; no name comes from outside but an encoder's."""
    expected = {HEAD, CARD}
    if bundle.recipe.connectivity.kind == "tangent" and TANGENT_MODALITY in bundle.shapes:
        expected.add(TANGENT)
    if embedded(bundle.reference):
        expected.add(NOVELTY)
    for name, encoder in bundle.encoders.items():
        if encoder.included:
            expected |= {f"encoders/{name}/config.json", f"encoders/{name}/{NAMES[0]}"}
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
    return "" if file_sha256(path) == entry["sha256"] else f"{name} does not have the checksum that {JSON} states"


def strays(root: Path, files: Mapping[str, Any], *, hidden: bool = False) -> list[str]:
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
    hint = (
        f"Pass --encoder-weights DIR, a folder with config.json and the weights of sha256 {expected}. "
        f"{about(name).licence}."
    )
    if bundle.encoders[name].included:
        return bundle.root / "encoders" / name
    if encoder_weights is None:
        raise BundleError(f"bundle {bundle.root} does not include the weights of encoder {name}.", hint)
    if not encoder_weights.is_dir():
        raise MissingInputError(f"folder of encoder weights {encoder_weights} does not exist.", hint)
    below = encoder_weights / name
    folder = below if below.is_dir() else encoder_weights
    try:
        found = weights_sha256(folder)
    except MissingInputError as error:
        raise BundleError(error.message, hint) from None
    if found != expected:
        raise BundleError(f"encoder {name} in {folder} has sha256 {found}, the bundle expects {expected}.", hint)
    return folder
