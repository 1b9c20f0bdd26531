"""One recording, opened lazily: header, labels on its grid, series, cleaned series, windows, quality.

`Opened` is what every recording has from its parcel series on; `Source` is one whose series come from an image,
`signals.series.SeriesSource` one whose series come from a table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ConfoundsError, CoverageError, DataError, RepetitionTimeError, SpaceError
from bids_fmmtc.quality import Quality
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.signals.atlas import LabelGrid, labels_on_grid
from bids_fmmtc.signals.confounds import Confounds, read_confounds
from bids_fmmtc.signals.denoise import Cleaned, check_limits, denoise
from bids_fmmtc.signals.mask import Mask, read_mask
from bids_fmmtc.signals.nifti import open_nifti
from bids_fmmtc.signals.parcellate import Header, Parcellated, Sample, parcellate, read_header
from bids_fmmtc.signals.placement import place_image
from bids_fmmtc.signals.quality import frame_table, measure
from bids_fmmtc.signals.regressors import Chosen, choose
from bids_fmmtc.signals.spaces import Placement, place
from bids_fmmtc.signals.volumes import FrameSums, clocks_of, plan_clips, stream_clips
from bids_fmmtc.signals.windows import Frames, cut, gather, scale
from bids_fmmtc.types import Atlas, ClipForm, Float32, Int32, Recording, RoiSeries

SAME_GRID_MM = 0.05  # fMRIPrep rounds affines of one grid to float32 here and there


class LabelGrids:
    """Labels placed on grids, kept for the last grid: the runs of a participant mostly share one."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self._key: tuple[Any, ...] | None = None
        self._grid: LabelGrid | None = None

    def on(self, header: Header, placement: Placement) -> LabelGrid:
        """Return the labels on the grid of a recording."""
        key = (header.shape[:3], header.affine.tobytes(), placement.how)
        if self._grid is None or key != self._key:
            self._grid = labels_on_grid(self.atlas, header.shape[:3], header.affine, placement.warp)
            self._key = key
        return self._grid


class Opened(ABC):
    """A recording from its parcel series on, wherever these come from: cut, scaled, measured as the recipe says.

    A subclass says where key, recipe, repetition time, parcel centres, series, cleaned series and quality come from.
    """

    recipe: Recipe
    confounds: Confounds | None

    @property
    @abstractmethod
    def key(self) -> str:
        """The recording's key."""

    @property
    @abstractmethod
    def repetition_time(self) -> float:
        """Seconds."""

    @property
    @abstractmethod
    def xyz(self) -> Float32:
        """(R, 3) parcel centres in MNI millimetres."""

    @property
    @abstractmethod
    def series(self) -> RoiSeries:
        """Parcel series as they were read, and their coverage."""

    @property
    @abstractmethod
    def cleaned(self) -> Cleaned:
        """Series after the recipe's denoising."""

    @property
    @abstractmethod
    def quality(self) -> Quality:
        """Quality numbers and flags."""

    @property
    def frame_table(self) -> dict[str, NDArray[Any]]:
        """What is known of each frame, dropped and censored ones too; see `quality.frame_table`."""
        return frame_table(self.series, self.cleaned, self.confounds, self.repetition_time)

    @property
    def sample(self) -> Sample | None:
        """Voxels over time, for a picture; None where series did not come from an image."""
        return None

    @cached_property
    def cut(self) -> Frames:
        """Frames and windows."""
        spec, target = self.recipe.windows, self.recipe.target_repetition_time
        return cut(self.cleaned.values, self.cleaned.keep, self.repetition_time, spec, target)

    @property
    def windows(self) -> Int32:
        """(W, 2) start and stop in `frames`."""
        return self.cut.windows

    @property
    def window_onsets(self) -> NDArray[np.float64]:
        """(W, 2) seconds from the start of the recording: onset of a window's first frame, end of its last one."""
        return self.cut.window_onsets

    @cached_property
    def frames(self) -> Float32:
        """(F, R) cleaned frames, lost parcels 0."""
        return np.where(self.lost, np.float32(0), self.cut.values)

    @property
    def left(self) -> Float32:
        """(L, R) every cleaned frame that is left, lost parcels 0."""
        if not self.cut.padded:
            return self.frames
        parts = gather(
            self.cleaned.values, self.cleaned.keep, self.repetition_time, self.recipe.target_repetition_time
        )[1]
        return np.where(self.lost, np.float32(0), np.concatenate(parts))

    @cached_property
    def scaled(self) -> Float32:
        """(F, R) frames as the recipe scales them for an encoder, lost parcels 0."""
        return scale(self.cut.values, self.recipe.scaling)

    @property
    def lost(self) -> NDArray[np.bool_]:
        """(R,) parcels without usable signal."""
        return self.series.lost

    def clips(self, form: ClipForm, windows: Int32) -> Iterator[tuple[NDArray[np.intp], Float32]]:
        """Yield the clips inside windows (see `bids_fmmtc.types.Volumes`).

        Raises
        ------
        DataError
            There is no image to read them from.
        """
        del form, windows
        raise DataError(f"{self.key} was imported as parcel series, which hold no volumes.", "Give images.")


class Source(Opened):
    """A recording as the recipe sees it. Nothing is read before it is asked for, and nothing twice.

    Parameters
    ----------
    recording
        What to open.
    grids
        The atlas, with its labels on grids already met.
    recipe
        Every choice on the way.
    transform
        TemplateFlow's transform file, when there is one.
    forms
        Clips that `clips` will be asked for: what they need of the whole image is gathered in the pass that makes the
        parcel series.
    """

    def __init__(
        self,
        recording: Recording,
        grids: LabelGrids,
        recipe: Recipe,
        transform: Path | None = None,
        forms: Sequence[ClipForm] = (),
    ) -> None:
        self.recording = recording
        self._forms = tuple(forms)
        self.recipe = recipe
        self.atlas = grids.atlas
        self._grids = grids
        self._transform = transform

    @property
    def key(self) -> str:
        """The recording's key."""
        return self.recording.key

    @cached_property
    def header(self) -> Header:
        """Header of the 4-D image."""
        return read_header(self.recording.bold)

    @cached_property
    def repetition_time(self) -> float:
        """Seconds: the sidecar's, else the header's."""
        tr = self.recording.repetition_time or self.header.repetition_time
        if tr is None:
            raise RepetitionTimeError(
                f"{self.recording.bold.name}: neither its sidecar nor its header tells the repetition time.",
                "Add RepetitionTime (seconds) to its JSON sidecar.",
            )
        return tr

    @cached_property
    def placement(self) -> Placement:
        """How the atlas comes to the recording's space."""
        return place(self.recording.space, self.atlas.space, self.recipe.space, self._transform)

    @cached_property
    def mask(self) -> Mask | None:
        """The brain mask on the image's grid, or None."""
        path = self.recording.mask
        if path is None:
            return None
        image = open_nifti(path, "brain mask")
        same = image.shape == self.header.shape[:3] and np.allclose(image.affine, self.header.affine, atol=SAME_GRID_MM)
        if not same:
            raise SpaceError(
                f"{self.recording.bold.name} and its brain mask lie on different grids: shape {self.header.shape[:3]} "
                f"and {image.shape}, origin {_origin(self.header.affine)} and {_origin(image.affine)}.",
                "One of the two has a wrong affine; re-run fMRIPrep for this recording.",
            )
        return read_mask(image)

    @cached_property
    def confounds(self) -> Confounds | None:  # type: ignore[override]  # read when first asked for
        """The confounds table, or None when there is none and the recipe allows that."""
        path = self.recording.confounds
        if path is None:
            if self.recipe.denoising.require_confounds:
                raise ConfoundsError(
                    f"{self.recording.key} has no confounds table (desc-confounds_timeseries.tsv), so its motion "
                    "cannot be judged.",
                    "Restore the file, or set denoising.require_confounds to false in the recipe.",
                )
            return None
        return read_confounds(path, self.header.shape[3])

    @cached_property
    def chosen(self) -> Chosen:
        """Frames and regressors that the recipe takes."""
        return choose(self.confounds, self.recipe.denoising, self.header.shape[3])

    @cached_property
    def raw(self) -> Parcellated:
        """Parcel means as they are in the image; the one pass over the 4-D file."""
        # What can fail fast does so before the long read.
        tr, mask, grid = self.repetition_time, self.mask, self._grids.on(self.header, self.placement)
        brain = None if mask is None else mask.values
        check_limits(self.recipe.denoising, tr)
        keep, watch = self.chosen.keep, [sums.add for sums in self._sums.values()]
        raw = parcellate(self.header, grid, brain, tr, self.recipe.least_coverage, keep, watch)
        name, space = self.recording.bold.name, self.recording.space
        refuse_lost(
            raw.series,
            self.recipe,
            f"Check the affine, the space ({space}) and the brain mask of {name}, and whether its voxels change over "
            "time.",
        )
        return raw

    @cached_property
    def _sums(self) -> dict[ClipForm, FrameSums]:
        brain = None if self.mask is None else self.mask.values
        return {form: FrameSums(place_image(self.header, brain, form), self.header) for form in self._forms}

    def clips(self, form: ClipForm, windows: Int32) -> Iterator[tuple[NDArray[np.intp], Float32]]:
        """Yield the clips inside windows, in a second pass over the image.

        Frames that the recipe drops or censors are in no clip, and touch none: neither its frames nor its scale.
        Denoising is not applied to volumes.

        Parameters
        ----------
        form
            One of those the source was opened with.
        windows
            (W, 2) of this recording.

        Raises
        ------
        ShortRecordingError
            A window holds no clip.
        CoverageError, ImageError
            The foreground never changes; the file is truncated or corrupt.
        """
        keep, tr = self.cleaned.keep, self.repetition_time  # cleaned: the first pass is over
        sums = self._sums[form]
        clocks = clocks_of(keep, tr, form.seconds)
        wanted = plan_clips(clocks, self.cut.onsets_of(windows), tr, form)
        yield from stream_clips(self.header, sums.placed, sums.scale(clocks), wanted, form)

    @property
    def sample(self) -> Sample | None:
        """Voxels over time, for a picture."""
        return self.raw.sample

    @property
    def series(self) -> RoiSeries:
        """Parcel series as they are in the image, and their coverage."""
        return self.raw.series

    @cached_property
    def cleaned(self) -> Cleaned:
        """Series after the recipe's denoising."""
        return denoise(self.raw.series, self.confounds, self.recipe.denoising, self.chosen)

    @property
    def xyz(self) -> Float32:
        """(R, 3) parcel centres in MNI millimetres."""
        return self.atlas.xyz

    @cached_property
    def quality(self) -> Quality:
        """Quality numbers and flags."""
        return measure(
            self.raw,
            self.cleaned,
            self.confounds,
            self.cut,
            placement=self.placement.how,
            has_mask=self.recording.mask is not None,
            header_tr=self.header.repetition_time,
            repetition_time_of="header" if self.recording.repetition_time is None else "sidecar",
            single_echo="_echo-" in self.recording.bold.name,
            places_disagree=not self.header.places_agree,
            mask_thresholded=self.mask is not None and self.mask.thresholded,
        )


def refuse_lost(series: RoiSeries, recipe: Recipe, hint: str) -> None:
    """Refuse series of which more parcels are lost than the recipe allows.

    Raises
    ------
    CoverageError
        With ``hint``.
    """
    lost, n = int(series.lost.sum()), series.values.shape[1]
    if lost > recipe.most_lost * n:
        raise CoverageError(f"{lost} of {n} parcels hold no signal (at most {recipe.most_lost:.0%} may be lost).", hint)


def _origin(affine: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in affine[:3, 3]) + ")"
