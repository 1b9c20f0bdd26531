"""The parcel series behind a cohort: re-opened from derivatives, for encoders that training never runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bids_fmmtc.dataset.records import Record, common_recipe, gather
from bids_fmmtc.dataset.scans import session_key
from bids_fmmtc.errors import DataError, FmmtcError, MissingInputError
from bids_fmmtc.group.study import Study
from bids_fmmtc.learning.contestants import AMPLITUDE, RANDOM
from bids_fmmtc.modalities import load_modality, pretrained
from bids_fmmtc.modalities.brainlm import BrainLMModality
from bids_fmmtc.plan import weights_folder
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.recording import reopen
from bids_fmmtc.settings import Settings
from bids_fmmtc.signals.amplitude import amplitude
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.parcels import open_atlas
from bids_fmmtc.types import Atlas, Cohort, Float32

log = logging.getLogger("bids_fmmtc")

RANDOM_SEED = 1  # of the untrained encoder's weights


@dataclass(frozen=True, slots=True)
class Scans:
    """Where the series of each session lie.

    Parameters
    ----------
    records
        Session key -> records of its runs, in the order their windows are pooled.
    recipes
        Of each output dataset.
    atlas
        Parcellation, with or without a label image.
    """

    records: Mapping[str, Sequence[Record]]
    recipes: Mapping[Path, Recipe]
    atlas: Atlas

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

    def encoded(self, key: str, encoder: BrainLMModality) -> Float32:
        """Return (W, H) vectors of all windows of a session by another encoder; raises as `windows`."""
        opened = (reopen(r.path, self.recipes[r.root], self.atlas.xyz) for r in self.records[key])
        return np.concatenate([encoder.compute(source, source.windows) for source in opened])

    def amplitude(self, key: str) -> dict[str, Float32]:
        """Return each of `AMPLITUDE`, (runs, R), over all frames that a session's runs keep; raises as `windows`."""
        opened = (reopen(r.path, self.recipes[r.root], self.atlas.xyz).cleaned for r in self.records.get(key, ()))
        runs = [amplitude(cleaned.values, cleaned.keep) for cleaned in opened]
        if not runs:
            raise DataError(f"session {key} has no parcel series.", "Run the participant level again.")
        return {name: np.stack([getattr(run, name) for run in runs]) for name in AMPLITUDE}


def scans_of(features: Sequence[Path]) -> Scans:
    """Find the series of output datasets of ours; the atlas is the one that the first of them holds.

    Raises
    ------
    FmmtcError
        No atlas, or a folder that this program did not make.
    """
    records: dict[str, list[Record]] = {}
    for record in gather(features):
        if not record.problem:
            records.setdefault(session_key(record.key), []).append(record)
    return Scans(records, common_recipe(features)[0], stored_atlas(features[0]))


def stored_atlas(root: Path) -> Atlas:
    """Return the atlas that an output dataset of ours holds: with its image, or a table only."""
    if sorted(root.glob("tpl-*/*_dseg.nii.gz")):
        return read_atlas(root)
    tables = sorted(root.glob("tpl-*/*_dseg.tsv"))
    if not tables:
        raise MissingInputError(f"{root} holds no atlas (tpl-*/*_dseg.tsv).", "Run the participant level again.")
    return open_atlas(tables[0])


def load_encoder(study: Study, settings: Settings) -> BrainLMModality | None:
    """Return the pretrained encoder of parcel series, or None where there is none or its weights are not here."""
    for spec in study.recipe.modalities:
        if spec.name not in pretrained():
            continue
        try:
            folder = weights_folder(spec.name, None, settings)
        except MissingInputError:
            continue
        found = load_modality(spec, study.recipe, folder, study.setup.device)
        if isinstance(found, BrainLMModality):
            return found
    return None


def with_random_encoder(study: Study, encoder: BrainLMModality | None) -> Study:
    """Return the study with vectors of an untrained encoder of the same shape beside the pretrained one's.

    The series of every session are encoded once and kept in the ledger; training reads vectors only. Where the series
    are gone the study stays as it is, and the comparison says that this baseline was not run.
    """
    if encoder is None or encoder.name not in study.cohort.arrays:
        return study
    untrained, scans = encoder.untrained(RANDOM_SEED), scans_of(study.features)
    log.info("Encoding %d sessions with an untrained encoder, for a baseline.", len(study.cohort))
    try:
        arrays = [
            study.ledger.once(f"untrained/{key}", lambda key=key: {"a": scans.encoded(key, untrained)})["a"]  # type: ignore[misc]
            for key in study.cohort.keys
        ]
    except FmmtcError as error:
        log.warning("No untrained encoder: %s", error)
        return study
    more = {encoder.name + RANDOM: tuple(np.asarray(a, np.float32) for a in arrays)}
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
