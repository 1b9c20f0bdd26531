"""The images behind features, for encoders of volumes: found again where they lay, taken only if they are the same."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bids_fmmtc.dataset.derivatives.describe import input_folders
from bids_fmmtc.dataset.derivatives.records import Record
from bids_fmmtc.dataset.find.fingerprint import fingerprint
from bids_fmmtc.errors import DataError, MissingInputError
from bids_fmmtc.learning.explaining.paths import ClipWindow
from bids_fmmtc.plan import transform_of
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.run import discover
from bids_fmmtc.settings import Settings
from bids_fmmtc.signals.atlas import labels_on_grid
from bids_fmmtc.signals.source import LabelGrids, Source
from bids_fmmtc.types import Atlas, ClipForm, Float32, Recording


@dataclass(frozen=True, slots=True)
class Images:
    """Opens recordings from their images, as the participant level did.

    Parameters
    ----------
    settings
        Of the run: ``bids_dir`` and the resources count; the datasets that a record's own output names do, too.
    atlas
        With its label image.
    """

    settings: Settings
    atlas: Atlas
    _grids: list[LabelGrids] = field(default_factory=list)

    def source(self, record: Record, recipe: Recipe, form: ClipForm) -> Source:
        """Open the image of a record; nothing is read of it yet.

        Raises
        ------
        MissingInputError
            The image is not here any more, or the atlas has no label image to place in it.
        DataError
            It is not what the features were made of.
        """
        if self.atlas.labels.size == 0:
            raise MissingInputError(f"{record.key}: the atlas is a table, which cannot be placed in an image.")
        recording = self._recording(record, recipe)
        if fingerprint(recording) != record.content.get("InputFingerprint"):
            raise DataError(
                f"{record.key}: the image, its mask or its confounds are not those that the features were made of.",
                "Run the participant level again.",
            )
        if not self._grids:
            self._grids.append(LabelGrids(self.atlas))
        return Source(recording, self._grids[0], recipe, transform_of(recipe, self.settings), (form,))

    def _recording(self, record: Record, recipe: Recipe) -> Recording:
        asked = replace(
            self.settings,
            participants=(record.participant.removeprefix("sub-"),),
            sessions=() if record.session is None else (record.session,),
            tasks=() if record.task is None else (record.task,),
            spaces=(),
            filter_file=None,
            database_dir=None,
            timeseries=None,
            derivatives=tuple((None, folder) for folder in input_folders(record.root)),
        )
        found, _ = discover(asked, recipe, self.atlas.space, transform_of(recipe, self.settings))
        for recording in found.recordings:
            if recording.key == record.key:
                return recording
        raise MissingInputError(
            f"the image of {record.key} is not where it was when its features were made.",
            "Mount or fetch the fMRIPrep dataset, or name it by bids_dir.",
        )


def clip_windows(source: Source, form: ClipForm, most: int | None = None) -> list[ClipWindow]:
    """Return the clips of each window of a recording, of the first ``most``; with all of them in memory.

    Raises
    ------
    FmmtcError
        As `Source.clips`.
    """
    windows = source.windows[:most]
    clips: list[list[Float32]] = [[] for _ in windows]
    for rows, clip in source.clips(form, windows):
        kept = clip.copy()  # its memory is used again for the next one
        for row in rows:
            clips[row].append(kept)
    affine = np.asarray(form.affine, np.float64)
    labels = labels_on_grid(source.atlas, form.shape, affine, source.placement.warp).labels
    return [ClipWindow(np.stack(of), labels) for of in clips]
