"""A bundle's head at work: from the features of a session to its prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.torch import load
from torch import Tensor, nn

from bids_fmmtc.errors import BundleError, DataError
from bids_fmmtc.learning.bundle.calibrate import (
    EMBEDDING,
    calibrated,
    embedded,
    pooled,
    prediction_set,
    reference_flags,
)
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.bundle.load import HEAD, NOVELTY, TANGENT, TANGENT_MODALITY, ModelBundle
from bids_fmmtc.learning.bundle.novelty import Novelty, embedding, from_arrays
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.modalities.numerics import strict
from bids_fmmtc.plain import to_json
from bids_fmmtc.pooling import pooled as windows_of
from bids_fmmtc.recipe import Recipe, differences
from bids_fmmtc.types import Features, Float32, Prediction


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
        self.bundle, self.device = bundle, device
        self._head = filled_head(bundle.head, bundle.shapes, load(bundle.read(HEAD))).to(device)
        self._tangent: TangentReference | None = None
        if TANGENT in bundle.files:
            self._tangent = TangentReference.from_arrays(load_arrays(bundle.read(TANGENT)))
        self._novelty = _novelty(bundle) if NOVELTY in bundle.files else {}

    def predict(
        self, key: str, features: Sequence[Features], flags: Sequence[str] = (), recipe: Recipe | None = None
    ) -> Prediction:
        """Judge one session from all windows of its runs, each window counting the same.

        Windows go through the head one at a time, so a window's number does not depend on its neighbours. Their logit
        differences are averaged and then calibrated once, as the bundle's calibration was fitted on such means.

        Parameters
        ----------
        key
            The session's key.
        features
            One entry per run.
        flags
            Reasons for care known so far; those of the reference (of the quality of each run, and of the distance
            of the session's embeddings), ``recipe_differs`` and ``demo_model`` are added.
        recipe
            The recipe that the features were made with; the bundle's own by default. It may differ from the bundle's
            in ``space`` only, which is flagged ``recipe_differs``. What the bundle leaves open (a warp ``auto``, an
            atlas without checksum) and the run has filled in is no difference.

        Raises
        ------
        BundleError
            Another recipe than the bundle's, or features of another recipe or shape.
        DataError
            No features.
        """
        bundle = self.bundle
        if not features:
            raise DataError(f"session {key} has no features.")
        used = bundle.recipe if recipe is None else recipe
        differs = _space_differs(bundle.recipe, used)
        for run in features:
            self._check(run, used.digest)
        logits = self._logits({name: windows_of(name, features, used) for name in bundle.shapes})
        per_window = calibrated(logits, bundle.calibration)
        probability = float(calibrated(pooled(logits), bundle.calibration)[0])
        distances = self.distances(features, used)
        found = sorted(self._reference_flags(features, distances))
        added = (("recipe_differs", differs), ("demo_model", bundle.demo))
        conformal = bundle.conformal
        return Prediction(
            key=key,
            probability=probability,
            per_window=per_window.astype(np.float32),
            threshold=bundle.threshold,
            label=bundle.classes[int(probability >= bundle.threshold)],
            prediction_set=None
            if conformal is None
            else prediction_set(probability, bundle.classes, conformal, bundle.threshold),
            flags=tuple(dict.fromkeys((*flags, *found, *(flag for flag, so in added if so)))),
            digest=bundle.digest,
            reference=self._position(features, distances),
        )

    def distances(self, features: Sequence[Features], recipe: Recipe | None = None) -> dict[str, float]:
        """Return how far a session's embeddings lie from those of training: reference entry -> distance.

        Beyond its limit in the reference (1, as bundles are saved) one lies outside. The embedding is the mean over
        all windows of all runs of a modality, as pooled: matrices are not projected to tangent space.
        """
        used = self.bundle.recipe if recipe is None else recipe
        return {
            f"{EMBEDDING}{name}": novelty.distance(embedding(windows_of(name, features, used)))
            for name, novelty in self._novelty.items()
        }

    def _position(self, features: Sequence[Features], distances: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """Return what was found of each entry of the reference, beside its limits."""
        reference = self.bundle.reference or {}
        of_session = {name: [float(f"{value:.6g}")] for name, value in distances.items()}
        of_runs = {name: [run.quality.value(name) for run in features] for name in reference}
        return {
            name: {"found": of_session.get(name, of_runs[name]), **to_json(limits)}
            for name, limits in reference.items()
        }

    def _reference_flags(self, features: Sequence[Features], distances: Mapping[str, float]) -> set[str]:
        """Return what the reference has to say, of each run by its quality and of the session by its embeddings."""
        reference = self.bundle.reference or {}
        of_runs = {name: limits for name, limits in reference.items() if name not in distances}
        of_session = {name: reference[name] for name in distances}
        found = {flag for run in features for flag in reference_flags(run.quality.value, of_runs)}
        return found | set(reference_flags(distances.get, of_session))

    def _check(self, run: Features, expected: str) -> None:
        if run.digest != expected:
            raise BundleError(
                f"features of {run.key} come from recipe {run.digest}, expected {expected}.",
                "Extract them again.",
            )
        for name, shape in self.bundle.shapes.items():
            found = run.arrays[name].shape[1:] if name in run.arrays else None
            if found != shape:
                raise BundleError(f"features of {run.key}: {name} is of shape {found}, the bundle expects {shape}.")

    def _logits(self, windows: Mapping[str, Float32]) -> NDArray[np.float32]:
        """Return logits (W, 2) of a session.

        Every window is copied into memory that torch aligns, as the rounding of some kernels depends on alignment.
        """
        rows = []
        with torch.inference_mode(), strict():
            for i in range(len(next(iter(windows.values())))):
                arrays = {name: column[i : i + 1] for name, column in windows.items()}
                if self._tangent is not None:
                    arrays[TANGENT_MODALITY] = self._tangent.project(arrays[TANGENT_MODALITY])
                batch = {n: torch.tensor(a, dtype=torch.float32).to(self.device) for n, a in arrays.items()}
                rows.append(self._head(batch).cpu().numpy())
        return np.concatenate(rows)


def _novelty(bundle: ModelBundle) -> dict[str, Novelty]:
    try:
        arrays = load_arrays(bundle.read(NOVELTY))
    except SafetensorError as error:
        raise BundleError(f"bundle {bundle.root}: {NOVELTY} cannot be read: {error}.") from None
    return from_arrays(arrays, {name: bundle.shapes[name] for name in embedded(bundle.reference)})


def _space_differs(own: Recipe, used: Recipe) -> bool:
    """Tell whether recordings were brought to the atlas otherwise than in training; refuse any other difference."""
    atlas, space = own.atlas, own.space
    own = replace(
        own,
        atlas=replace(
            atlas,
            sha256=used.atlas.sha256 if atlas.sha256 is None else atlas.sha256,
            n_parcels=used.atlas.n_parcels if atlas.n_parcels is None else atlas.n_parcels,
        ),
        space=replace(space, warp=used.space.warp) if space.warp == "auto" else space,
    )
    found = differences(own, replace(used, space=own.space))
    if found:
        raise BundleError(
            f"the recipe of the features (here) is not the bundle's (there): {'; '.join(found)}.",
            "A model judges only features made as those it was trained on; use its recipe.",
        )
    return own.space != used.space


def check_head(bundle: ModelBundle) -> None:
    """Build a bundle's head as `Predictor` does; raises what that would raise for its first participant."""
    try:
        state = load(bundle.read(HEAD))
    except SafetensorError as error:
        raise BundleError(f"bundle {bundle.root}: {HEAD} cannot be read: {error}.") from None
    filled_head(bundle.head, bundle.shapes, state)


def filled_head(spec: Mapping[str, Any], shapes: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Build the head without drawing random weights and give it ``state``, whose names and shapes must fit exactly."""
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
