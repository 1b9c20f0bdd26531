"""A session's arrays from those of its runs, and its connectivity from every frame of them.

A head reads a session as the mean of what it says of windows. With ``connectivity.frames: all`` that mean has to be
the connectivity of all frames that are left, also of those that fill no window, while windows keep their differences
from each other, which tell how far a number can be trusted. So windows are shifted together until their mean is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.recipe import ConnectivityKind, Recipe
from bids_fmmtc.types import Features, Float32

CONNECTIVITY = "fc"


def about_all(windows: Float32, whole: NDArray[np.float64], kind: ConnectivityKind) -> Float32:
    """Shift connectivity of windows (W, R, R) so that its mean is that of all frames (R, R).

    Covariances (``tangent``) would not stay positive definite: each window gets that of all frames. A single window
    does, too. Values may leave -1..1 where correlations are not Fisher-transformed.
    """
    if kind == "tangent" or len(windows) == 1:
        return np.repeat(whole[None], len(windows), axis=0).astype(np.float32)
    shifted: Float32 = (windows + (whole - windows.mean(axis=0, dtype=np.float64))).astype(np.float32)
    return shifted


def pooled(name: str, runs: Sequence[Features], recipe: Recipe) -> Float32:
    """Return all windows (W, ...) of a session's runs for one modality.

    Connectivity with ``frames: all`` has the mean of its runs, each weighing as much as it has frames left; everything
    else is windows one after another, each counting the same.
    """
    parts = [run.arrays[name] for run in runs]
    if len(parts) == 1:
        return parts[0]
    windows = np.concatenate(parts)
    if name != CONNECTIVITY or recipe.connectivity.frames == "windows":
        return windows
    frames = [run.quality.n_frames_left for run in runs]
    whole = np.average([part.mean(axis=0, dtype=np.float64) for part in parts], axis=0, weights=frames)
    return about_all(windows, whole, recipe.connectivity.kind)
