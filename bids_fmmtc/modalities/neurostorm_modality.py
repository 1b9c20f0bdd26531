"""The modality ``neurostorm``: one vector a window, the mean over the clips inside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bids_fmmtc.errors import DataError, MissingInputError
from bids_fmmtc.modalities.neurostorm import NeuroStorm
from bids_fmmtc.modalities.neurostorm_config import FETCH, clip_form
from bids_fmmtc.modalities.neurostorm_weights import load_neurostorm
from bids_fmmtc.modalities.numerics import one_thread, strict
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.types import ClipForm, Float32, Int32, Volumes


class NeuroStormModality:
    """The mean vector of the clips of each window: the modality ``neurostorm``, (W, H) float32.

    Parameters
    ----------
    model
        A NeuroSTORM in evaluation mode; its weights are frozen, so that gradients, where they are on, are of the clip.
    """

    name = "neurostorm"

    def __init__(self, model: NeuroStorm) -> None:
        self.model = model.requires_grad_(False)  # noqa: FBT003  (torch's own signature)

    @classmethod
    def from_spec(cls, spec: ModalitySpec, recipe: Recipe, weights: Path | None, device: str) -> NeuroStormModality:
        """Load the encoder that a recipe asks for.

        Raises
        ------
        MissingInputError
            The folder is not given or not there.
        WeightsError
            As `load_neurostorm`.
        """
        del recipe
        if weights is None:
            raise MissingInputError("the recipe asks for neurostorm, and no folder with its weights is given.", FETCH)
        return cls(load_neurostorm(weights, spec.weights_sha256, device))

    def untrained(self, seed: int) -> NeuroStormModality:
        """Return an encoder of the same shape with the weights it has before any training."""
        device = next(self.model.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = NeuroStorm(self.model.config)
        return NeuroStormModality(model.to(device).eval())

    @property
    def weights_sha256(self) -> str | None:
        """Checksum of the weights file; None for a model that was not loaded from one."""
        return self.model.weights_sha256

    @property
    def width(self) -> int:
        """H, the length of a window's vector."""
        return self.model.config.width

    @property
    def form(self) -> ClipForm:
        """The clips it reads."""
        return clip_form(self.model.config)

    @strict()
    @torch.inference_mode()
    def compute(self, source: Volumes, windows: Int32) -> Float32:
        """Return the mean vectors of windows; each clip is encoded once, however many windows it lies in.

        Parameters
        ----------
        source
            Its clips are read, in one pass over the image.
        windows
            (W, 2) start and stop frames.

        Returns
        -------
        NDArray
            (W, H) float32; the same input gives the same bits on the same machine.

        Raises
        ------
        ShortRecordingError
            A window holds no clip.
        DataError
            The result is not finite.
        """
        device = next(self.model.parameters()).device
        # One thread: the products are small, and bits that depend on the number of threads would be no result.
        with one_thread():
            return self._mean_vectors(source, windows, device)

    def _mean_vectors(self, source: Volumes, windows: Int32, device: torch.device) -> Float32:
        sums, counts = np.zeros((len(windows), self.width)), np.zeros(len(windows))
        for rows, clip in source.clips(self.form, windows):
            vector = self.vectors(torch.from_numpy(clip)[None].to(device))[0].double().cpu().numpy()
            sums[rows] += vector
            counts[rows] += 1
        out = (sums / counts[:, None]).astype(np.float32)
        if not np.isfinite(out).all():
            bad = np.flatnonzero(~np.isfinite(out).all(axis=1)).tolist()
            raise DataError(f"NeuroSTORM: the vectors of windows {bad} are not finite; is the image?")
        return out

    def vectors(self, clips: Tensor) -> Tensor:
        """Return the vectors [B,H] of clips [B,T,X,Y,Z]; gradients reach the clips where they are on."""
        return self.model.vector(clips.movedim(1, -1)[:, None])  # [B,T,X,Y,Z] -> [B,1,X,Y,Z,T]
