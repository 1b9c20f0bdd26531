"""The scans behind a cohort, for encoders that training never runs: parcel series from derivatives, or the images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bids_fmmtc.dataset.derivatives.records import Record, common_recipe, gather
from bids_fmmtc.errors import DataError, FmmtcError, MissingInputError
from bids_fmmtc.group.images import Images, clip_windows
from bids_fmmtc.group.study import Study
from bids_fmmtc.learning.explaining.paths import ClipWindow
from bids_fmmtc.learning.judging.contestants import AMPLITUDE, RANDOM
from bids_fmmtc.modalities import Encoder, OfVolumes, about, load_modality, pretrained
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.recording import reopen
from bids_fmmtc.settings import Settings
from bids_fmmtc.signals.amplitude import amplitude
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.parcels import open_atlas
from bids_fmmtc.types import Atlas, Cohort, Float32

log = logging.getLogger("bids_fmmtc")

RANDOM_SEED = 1  # of the untrained encoder's weights
TELL = 5.0  # seconds of the first session from which on it is said how long all will take


@dataclass(frozen=True, slots=True)
class Scans:
    """Where the series of each session lie, and the images they came from.

    Parameters
    ----------
    records
        Session key -> records of its runs, in the order their windows are pooled.
    recipes
        Of each output dataset.
    atlas
        Parcellation, with or without a label image.
    images
        Opens what series came from; None where only series are wanted.
    """

    records: Mapping[str, Sequence[Record]]
    recipes: Mapping[Path, Recipe]
    atlas: Atlas
    images: Images | None = None

    def windows(self, key: str, most: int | None = None) -> Float32:
        """Return (W, T, R) scaled windows of a session, lost parcels 0, as the encoder saw them; the first ``most``.

        Raises
        ------
        DataError
            The series are gone, or are not those the features were made of.
        """
        found: list[Float32] = []
        for record in self.records.get(key, ()):
            source = reopen(record.path, self.recipes[record.root], self.atlas.xyz)
            found += [source.scaled[start:stop] for start, stop in source.windows]
            if most is not None and len(found) >= most:
                break
        if not found:
            raise DataError(f"session {key} has no parcel series.", "Run the participant level again.")
        return np.stack(found[:most])

    def clips(self, key: str, encoder: OfVolumes, most: int | None = None) -> list[ClipWindow]:
        """Return the clips of each window of a session, in the order their windows are pooled; the first ``most``.

        Raises
        ------
        DataError, MissingInputError
            The images are gone, or are not those the features were made of.
        """
        found: list[ClipWindow] = []
        for source in self._opened(key, encoder):
            found += clip_windows(source, encoder.form, None if most is None else most - len(found))
            if most is not None and len(found) >= most:
                break
        return found

    def inputs(self, key: str, encoder: Encoder, most: int | None = None) -> Sequence[Any]:
        """Return what an encoder saw of each window of a session, as its path in `learning.paths` wants it."""
        return self.clips(key, encoder, most) if isinstance(encoder, OfVolumes) else list(self.windows(key, most))

    def lacking(self, encoder: OfVolumes, keys: Sequence[str]) -> str:
        """Say why the images of sessions cannot be read by an encoder; empty where all can. No image is read."""
        try:
            for key in keys:
                for _ in self._opened(key, encoder):
                    pass
        except FmmtcError as error:
            return str(error)
        return ""

    def encoded(self, key: str, encoder: Encoder) -> Float32:
        """Return (W, H) vectors of all windows of a session by another encoder; raises as `windows` or `clips`."""
        return np.concatenate([encoder.compute(source, source.windows) for source in self._opened(key, encoder)])

    def _opened(self, key: str, encoder: Any) -> Iterator[Any]:
        """Open the runs of a session for an encoder: from stored series, or for one of volumes from the images."""
        if not self.records.get(key):
            raise DataError(f"session {key} has no recording with features.", "Run the participant level again.")
        for record in self.records[key]:
            recipe = self.recipes[record.root]
            if not isinstance(encoder, OfVolumes):
                yield reopen(record.path, recipe, self.atlas.xyz)
            elif self.images is None:
                raise MissingInputError(f"the image of {record.key} is not at hand.", "Name its dataset by bids_dir.")
            else:
                yield self.images.source(record, recipe, encoder.form)

    def amplitude(self, key: str) -> dict[str, Float32]:
        """Return each of `AMPLITUDE`, (runs, R), over all frames that a session's runs keep; raises as `windows`."""
        opened = (reopen(r.path, self.recipes[r.root], self.atlas.xyz).cleaned for r in self.records.get(key, ()))
        runs = [amplitude(cleaned.values, cleaned.keep) for cleaned in opened]
        if not runs:
            raise DataError(f"session {key} has no parcel series.", "Run the participant level again.")
        return {name: np.stack([getattr(run, name) for run in runs]) for name in AMPLITUDE}


def scans_of(features: Sequence[Path], settings: Settings | None = None) -> Scans:
    """Find the scans of output datasets of ours; the atlas is the one that the first of them holds.

    Parameters
    ----------
    features
        The datasets.
    settings
        Of the run, to find images by; None does without them.

    Raises
    ------
    FmmtcError
        No atlas, or a folder that this program did not make.
    """
    records: dict[str, list[Record]] = {}
    for record in gather(features):
        if not record.problem:
            records.setdefault(record.key.of_session, []).append(record)
    atlas = stored_atlas(features[0])
    return Scans(records, common_recipe(features)[0], atlas, None if settings is None else Images(settings, atlas))


Find = Callable[[Sequence[Path]], Scans]
"""Finds the scans of output datasets: `scans_of`, with the settings of the run."""


def stored_atlas(root: Path) -> Atlas:
    """Return the atlas that an output dataset of ours holds: with its image, or a table only."""
    if sorted(root.glob("tpl-*/*_dseg.nii.gz")):
        return read_atlas(root)
    tables = sorted(root.glob("tpl-*/*_dseg.tsv"))
    if not tables:
        raise MissingInputError(f"{root} holds no atlas (tpl-*/*_dseg.tsv).", "Run the participant level again.")
    return open_atlas(tables[0])


def load_encoders(study: Study, weights: Callable[[str], Path]) -> tuple[Encoder, ...]:
    """Return the pretrained encoders of the features whose weights are here, in the order of the recipe.

    ``weights`` gives their folder by name, and raises MissingInputError.
    """
    found = []
    for spec in study.recipe.modalities:
        if spec.name not in pretrained():
            continue
        try:
            folder = weights(spec.name)
        except MissingInputError:
            continue
        encoder = load_modality(spec, study.recipe, folder, study.setup.device)
        if isinstance(encoder, Encoder):
            found.append(encoder)
    return tuple(found)


def with_random_encoders(study: Study, encoders: Sequence[Encoder], find: Find) -> Study:
    """Return the study with vectors of untrained encoders of the same shape beside those of the pretrained ones.

    What they read (parcel series, or for an encoder of volumes the images) is encoded once for every session and kept
    in the ledger; training reads vectors only. Where it is gone the study stays as it is for that encoder, and the
    comparison says that this baseline was not run.
    """
    scans = find(study.features) if encoders else None
    for encoder in encoders:
        if scans is not None and encoder.name in study.cohort.arrays:
            study = _with_random(study, encoder, scans)
    return study


def _with_random(study: Study, encoder: Encoder, scans: Scans) -> Study:
    untrained, what = encoder.untrained(RANDOM_SEED), about(encoder.name)
    log.info(
        "Encoding the %s of %d sessions with an untrained %s, for a baseline.",
        what.reads,
        len(study.cohort),
        what.encoder or encoder.name,
    )
    arrays: list[Float32] = []
    started = time.monotonic()
    try:
        for key in study.cohort.keys:
            name = f"untrained/{encoder.name}/{key}"
            found = study.ledger.once(name, lambda key=key: {"a": scans.encoded(key, untrained)})["a"]  # type: ignore[misc]
            arrays.append(np.asarray(found, np.float32))
            if len(arrays) == 1 and (seconds := time.monotonic() - started) > TELL:
                study.setup.say(f"about {seconds * len(study.cohort) / 60:.0f} minutes in all")
    except FmmtcError as error:
        log.warning("No untrained encoder: %s", error)
        return study
    more = {encoder.name + RANDOM: tuple(arrays)}
    return study.with_cohort(replace(study.cohort, arrays={**study.cohort.arrays, **more}))


def with_amplitude(study: Study) -> Study:
    """Return the study with the amplitude of every parcel beside its features, for a baseline that needs no encoder.

    It is computed here from the stored series, not at the participant level: no recipe changes for a baseline, and
    outputs of earlier versions have it too. Where the series are gone, the comparison says that it was not run.
    """
    scans = scans_of(study.features)
    try:
        found = [
            study.ledger.once(f"amplitude/{key}", lambda key=key: scans.amplitude(key))  # type: ignore[misc]
            for key in study.cohort.keys
        ]
    except FmmtcError as error:
        log.warning("No amplitude of parcels: %s", error)
        return study
    more = {name: tuple(np.asarray(of[name], np.float32) for of in found) for name in AMPLITUDE}
    return study.with_cohort(replace(study.cohort, arrays={**study.cohort.arrays, **more}))


def sample(cohort: Cohort, most: int, seed: int) -> list[int]:
    """Return rows to explain: all, or ``most`` drawn at random, as many of each class as can be."""
    if len(cohort) <= most:
        return list(range(len(cohort)))
    rng = np.random.default_rng([seed, len(cohort), most])
    order = rng.permutation(len(cohort))
    if cohort.kind == "regression":
        return sorted(int(i) for i in order[:most])
    yes, no = (order[cohort.y[order] == c] for c in (1, 0))
    half = min(most // 2, len(yes), len(no))
    chosen = [*yes[:half], *no[:half]]
    rest = [i for i in order if i not in set(chosen)]
    return sorted(int(i) for i in [*chosen, *rest[: most - len(chosen)]])
