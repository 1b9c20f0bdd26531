"""From a recording's template space to the atlas's: which way, and the displacement that does it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import MissingInputError, SpaceError
from bids_fmmtc.recipe import SpaceSpec
from bids_fmmtc.signals.atlas import Warp

NLIN6, NLIN2009C = "MNI152NLin6Asym", "MNI152NLin2009cAsym"
PACKAGED = f"from-{NLIN2009C}_to-{NLIN6}_displacement.nii.gz"

# Fixed-point steps that invert a displacement; each shrinks the error by the field's gradient (below 0.5 in the
# brain), so 20 leave micrometres.
INVERSION_STEPS = 20


@dataclass(frozen=True, slots=True)
class Placement:
    """How atlas labels reach a recording.

    ``how`` is ``same`` (one space), ``packaged`` or ``templateflow`` (through that displacement) or ``affine`` (the
    two taken for one, as the references do, some millimetres off).
    """

    how: str
    warp: Warp | None = None


def usable_spaces(atlas_space: str) -> tuple[str, ...]:
    """Return the template spaces a recording may be in, best first; whether the second will do is `place`'s to say."""
    other = {NLIN6: NLIN2009C, NLIN2009C: NLIN6}.get(atlas_space)
    return (atlas_space,) if other is None else (atlas_space, other)


def place(space: str, atlas_space: str, rule: SpaceSpec, transform: Path | None = None) -> Placement:
    """Decide how an atlas is brought to a recording's space.

    Parameters
    ----------
    space, atlas_space
        Template names of recording and atlas.
    rule
        The recipe's rule; ``rule.warp`` says whose displacement.
    transform
        TemplateFlow's ``tpl-MNI152NLin2009cAsym_from-MNI152NLin6Asym_mode-image_xfm.h5``, when the user has it.

    Raises
    ------
    SpaceError
        The rule refuses, or no way between the two spaces is known.
    """
    if space == atlas_space:
        return Placement("same")
    remedy = f"Run fMRIPrep with --output-spaces {atlas_space}:res-2"
    if rule.on_mismatch == "fail":
        raise SpaceError(
            f"the recording is in {space}, the atlas in {atlas_space}, and the recipe refuses to mix them.",
            f"{remedy}, or use --on-space-mismatch warp (or affine, as the published code does).",
        )
    if rule.on_mismatch == "affine" and space.startswith("MNI"):  # a participant's own space shares no grid at all
        return Placement("affine")
    if {space, atlas_space} != {NLIN6, NLIN2009C}:
        raise SpaceError(f"no transform between {space} and the atlas's {atlas_space} is known.", f"{remedy}.")
    how, forward = _displacement(rule.warp, transform)
    return Placement(how, forward if space == NLIN2009C else _inverted(forward))


def _displacement(source: str, transform: Path | None) -> tuple[str, Warp]:
    if source != "packaged" and transform is not None:
        return "templateflow", _templateflow(transform)
    if source == "templateflow":
        raise MissingInputError(
            "the recipe asks for TemplateFlow's transform, which is not on this machine.",
            "Fetch it with bids_fmmtc-fetch transform, or set space.warp to packaged.",
        )
    return "packaged", packaged_warp()


@cache
def packaged_warp() -> Warp:
    """Return the displacement shipped with this package: points of 2009cAsym to 6Asym, linear between its nodes.

    Its convention, making and accuracy stand in the JSON file beside it.
    """
    return _shifted(nib.load(Path(str(files("bids_fmmtc") / "data" / PACKAGED))), outside="nearest")


def _shifted(img: Any, outside: str) -> Warp:
    """Return the warp of a displacement image (X, Y, Z, 3): RAS+ mm on a RAS+ grid, linear between its nodes.

    ``outside`` the grid, ``nearest`` goes on with the edge and ``constant`` leaves points where they are.
    """
    from scipy.ndimage import map_coordinates  # noqa: PLC0415  (only recordings in the other space need scipy here)

    field = np.asarray(img.dataobj, np.float32)
    to_voxel = np.linalg.inv(img.affine)

    def warp(points: NDArray[np.float64]) -> NDArray[np.float64]:
        voxels = (points @ to_voxel[:3, :3].T + to_voxel[:3, 3]).T
        shift = [map_coordinates(field[..., c], voxels, order=1, mode=outside) for c in range(3)]
        moved: NDArray[np.float64] = points + np.stack(shift, 1)
        return moved

    return warp


def _templateflow(path: Path) -> Warp:
    """Read TemplateFlow's composite (ITK, HDF5) as points in RAS+, moved as ITK moves them.

    nitransforms reads the file but does not move the points: its ``map`` fits a spline through the whole field at
    every call, and where all points fall on nodes (1 mm images) those below the grid wrap round to its far side.
    """
    from nitransforms.io.itk import ITKCompositeH5, ITKLinearTransform  # noqa: PLC0415  (only for who has the file)

    try:
        # ITK applies the last transform of a composite first.
        parts = ITKCompositeH5.from_filename(path)[::-1]
        steps = [_linear(p.to_ras()) if isinstance(p, ITKLinearTransform) else _shifted(p, "constant") for p in parts]
        if not steps:
            raise ValueError("it holds no transform")
    except Exception as error:  # third-party reader: any failure means the file is unusable
        raise SpaceError(
            f"transform {path} cannot be read: {error}.", "Fetch it again with bids_fmmtc-fetch transform."
        ) from error

    def warp(points: NDArray[np.float64]) -> NDArray[np.float64]:
        for step in steps:
            points = step(points)
        return points

    return warp


def _linear(matrix: NDArray[np.float64]) -> Warp:
    return lambda points: points @ matrix[:3, :3].T + matrix[:3, 3]


def _inverted(forward: Warp) -> Warp:
    def warp(points: NDArray[np.float64]) -> NDArray[np.float64]:
        guess = points
        for _ in range(INVERSION_STEPS):
            guess = points - (forward(guess) - guess)
        return guess

    return warp
