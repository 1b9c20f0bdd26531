"""One recording: reuse or extract its features, write its derivatives. Errors are caught here, once.

A recording that fails becomes a `Failure` with its own row and never costs another.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bids_fmmtc import __version__
from bids_fmmtc.dataset.derivatives import sidecars
from bids_fmmtc.dataset.derivatives.records import PREPARED_BY
from bids_fmmtc.dataset.derivatives.sidecars import Context, Links
from bids_fmmtc.dataset.derivatives.standing import find_standing, holds_results, made_by, names_in, settled
from bids_fmmtc.dataset.find.beside import beside_series, is_series
from bids_fmmtc.dataset.find.fingerprint import fingerprint
from bids_fmmtc.dataset.folders import fmriprep_version
from bids_fmmtc.dataset.store import (
    Layout,
    read_features,
    read_record,
    together,
    write_array,
    write_features,
    write_grey,
    write_json,
    write_table,
    write_text,
)
from bids_fmmtc.errors import BundleError, DataError, FmmtcError, OutputError
from bids_fmmtc.keys import Key
from bids_fmmtc.modalities import Modality, clip_forms, load_modality
from bids_fmmtc.modalities.connectivity import connectivity, describe, measure_name
from bids_fmmtc.plain import Json, Object
from bids_fmmtc.quality import read_quality
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.settings import Task
from bids_fmmtc.signals.carpet import SPAN_SD, grey_levels
from bids_fmmtc.signals.parcels import open_atlas, read_series
from bids_fmmtc.signals.series import SeriesSource, import_source
from bids_fmmtc.signals.source import LabelGrids, Opened, Source
from bids_fmmtc.types import Atlas, Failure, Features, Float32, Recording

if TYPE_CHECKING:
    from bids_fmmtc.learning.bundle.load import ModelBundle
    from bids_fmmtc.learning.bundle.predict import Predictor

T = TypeVar("T")


@dataclass
class Workplace:
    """What the recordings of one participant share, made when first needed: atlas, encoders, the bundle's head."""

    task: Task
    outputs: list[str] = field(default_factory=list)

    @cached_property
    def atlas(self) -> Atlas:
        """The atlas."""
        return open_atlas(self.task.atlas, self.task.recipe.atlas.name)

    @cached_property
    def grids(self) -> LabelGrids:
        """The atlas with its labels on grids already met."""
        return LabelGrids(self.atlas)

    @cached_property
    def layout(self) -> Layout:
        """Names of output files."""
        return Layout(self.task.output, self.task.recipe.atlas.name)

    @cached_property
    def links(self) -> Links:
        """BIDS URIs."""
        return Links(self.task.output, self.task.links)

    @cached_property
    def modalities(self) -> list[Modality]:
        """Encoders and connectivity, as the recipe names them."""
        task = self.task
        return [load_modality(m, task.recipe, task.weights.get(m.name), task.device) for m in task.recipe.modalities]

    @cached_property
    def bundle(self) -> ModelBundle | None:
        """The verified bundle, or None."""
        from bids_fmmtc.learning.bundle.load import load_bundle  # noqa: PLC0415

        if self.task.bundle is None:
            return None
        bundle = load_bundle(self.task.bundle)
        if bundle.digest != self.task.bundle_digest:
            raise BundleError(f"bundle {bundle.root} has changed since this run began.", "Run again.")
        return bundle

    @cached_property
    def predictor(self) -> Predictor | None:
        """The bundle's head."""
        from bids_fmmtc.learning.bundle.predict import Predictor  # noqa: PLC0415  (torch, only to predict)

        return None if self.bundle is None else Predictor(self.bundle, self.task.device)

    def wrote(self, *paths: Path) -> None:
        """Note files that belong to the result."""
        self.outputs += [self.layout.relative(p) for p in paths]


def guarded(key: str, stage: str, place: Workplace, step: Callable[[], T]) -> T | Failure:
    """Run a step; turn what it raises into a failure with one line, and a traceback file if nobody foresaw it."""
    try:
        return step()
    except OutputError as error:
        return Failure(key, "write", error.kind, error.message, error.hint)
    except FmmtcError as error:
        return Failure(key, stage, error.kind, error.message, error.hint)
    except MemoryError:
        return Failure(key, stage, "memory", "there was not enough memory.", "Give fewer --nprocs or more memory.")
    except Exception as error:
        text = " ".join(str(error).split())
        trace = _write_trace(key, place.layout.root)
        hint = f"This is a fault of the program; please report it with {trace}." if trace else ""
        return Failure(key, stage, "unexpected", f"{type(error).__name__}: {text}", hint, trace)


def _write_trace(key: str, root: Path) -> str | None:
    path = root / "logs" / f"crash-{key}.txt"
    try:
        write_text(path, traceback.format_exc())
    except OutputError:
        return None
    return str(path)


def open_source(recording: Recording, place: Workplace) -> Opened:
    """Open a recording: a table of parcel series as it is, an image through the atlas."""
    recipe = place.task.recipe
    if is_series(recording):
        beside = beside_series(recording)
        return import_source(recording, place.atlas, recipe, beside.outliers, beside.told)
    return Source(recording, place.grids, recipe, place.task.transform, clip_forms(recipe, place.task.weights))


def reopen(record: Path, recipe: Recipe, xyz: Float32, content: Mapping[str, Json] | None = None) -> SeriesSource:
    """Open a finished recording from its stored parcel series: same frames, windows and scaling to the bit, no image.

    Parameters
    ----------
    record
        Its ``*_features.json``; the series are the ``*_timeseries.tsv`` among the record's outputs, beside it.
    recipe
        That of the output dataset (``dataset_description.json``).
    xyz
        (R, 3) parcel centres in MNI millimetres.
    content
        What the record holds, where it was read before.

    Raises
    ------
    DataError
        The record tells of a failure or of another recipe, or the series are gone or cannot be read.
    """
    content = (read_record(record) if content is None else content) or {}
    names = [Path(name).name for name in names_in(content, "Outputs") if name.endswith("_timeseries.tsv")]
    if content.get("Status") != "ok" or len(names) != 1:
        raise DataError(f"{record.name} holds no parcel series.", "Run the participant level again for this recording.")
    if content.get("RecipeDigest") != recipe.digest:
        raise DataError(f"{record.name} was made by another recipe.", "Run the participant level again.")
    table = read_series(record.with_name(names[0]))
    if table.values.shape[1] != len(xyz):
        raise DataError(f"{names[0]} has {table.values.shape[1]} parcels, the atlas {len(xyz)}.")
    quality = read_quality(content, record.name)
    values = table.values.astype(np.float32)
    return SeriesSource(str(content["Key"]), values, quality.repetition_time, xyz, recipe, quality=quality)


def extract(source: Opened, modalities: Sequence[Modality]) -> Features:
    """Turn an opened recording into features.

    Parameters
    ----------
    source
        The recording; its windows must not be empty.
    modalities
        What to compute from each window.

    Raises
    ------
    FmmtcError
        Anything that makes the recording unusable; see `bids_fmmtc.errors`.
    """
    arrays = {m.name: m.compute(source, source.windows) for m in modalities}
    return Features(source.key, source.windows, arrays, source.quality, source.recipe.digest)


def process_recording(recording: Recording, place: Workplace) -> Features | Failure:
    """Reuse, complete, or extract and write the features of one recording; never raises."""
    return guarded(recording.key, "extract", place, lambda: _process(recording, place))


def standing_features(key: str, recording: Recording | None, place: Workplace) -> Features | None:
    """Return features that an earlier attempt at a recording made and that stand; None where there are none.

    Parameters
    ----------
    recording
        None where discovery turned it down.
    """
    if Key(key).whole:
        return None  # about all recordings, so about no features in particular
    folder = place.layout.folder(place.task.subject, Key(key).session)
    for each in find_standing(key, recording, place.layout, folder, place.task.recipe):
        if not each.changed and each.content.get("RecipeDigest") == place.task.recipe.digest:
            with contextlib.suppress(DataError):
                return read_features(each.record, settled(each.content))
    return None


def _process(recording: Recording, place: Workplace) -> Features:
    record_file = place.layout.derivative(recording, "features", ".json")
    marks = fingerprint(recording)
    found = _reusable(record_file, marks, place)
    if found is not None:
        return found
    source = open_source(recording, place)
    features = extract(source, place.modalities)
    _write_recording(recording, source, features, marks, place)
    return features


def _reusable(record_file: Path, marks: Mapping[str, str], place: Workplace) -> Features | None:
    """Return features made earlier by this version and recipe from the same files, if they are whole.

    Where modalities were added to the recipe, those are computed from the stored series, and nothing else.
    """
    record = read_record(record_file)
    same = (
        record is not None
        and holds_results(record)
        and made_by(record, place.task.recipe)
        and record.get("SoftwareVersion") == __version__
        and record.get("InputFingerprint") == marks
        and all((place.layout.root / name).is_file() for name in record.get("Outputs", []))
    )
    if record is None or not same:
        return None
    plain = settled(record)
    try:
        features = read_features(record_file, plain)
        if features.digest != place.task.recipe.digest:
            features = _completed(record_file, plain, features, place)
        elif plain != record:
            write_json(record_file, plain)  # a failed attempt was noted, or they were stale for a while
    except DataError:
        return None
    place.outputs += record["Outputs"]
    place.wrote(record_file)
    return features


def _completed(record_file: Path, record: Mapping[str, Json], before: Features, place: Workplace) -> Features:
    """Add modalities to finished features, from the stored series; the other files change in the recipe they name.

    Raises
    ------
    DataError
        The series are gone or cannot be read.
    OutputError
        A file cannot be written; then none is.
    """
    recipe = place.task.recipe
    part = recipe.only(before.arrays) or recipe
    source = reopen(record_file, part, place.atlas.xyz, record)
    arrays = {
        m.name: before.arrays[m.name] if m.name in before.arrays else m.compute(source, source.windows)
        for m in place.modalities
    }
    features = Features(before.key, before.windows, arrays, before.quality, recipe.digest)
    sidecars_of = [place.layout.root / name for name in names_in(record, "Outputs") if name.endswith(".json")]
    with together():
        for path in sidecars_of:
            write_json(path, {**(read_record(path) or {}), "RecipeDigest": recipe.digest})
        sha256 = write_features(record_file.with_suffix(".safetensors"), features)
        more: Object = {
            "RecipeDigest": recipe.digest,
            "FeaturesSHA256": sha256,
            "Modalities": {name: {"Shape": list(a.shape[1:])} for name, a in arrays.items()},
            "Device": place.task.device,
        }
        write_json(record_file, {**record, **more})
    return features


def _write_recording(
    recording: Recording, source: Opened, features: Features, marks: Mapping[str, str], place: Workplace
) -> None:
    """Write all derivatives of a recording, or none; the record comes last: half a result is never taken for one."""
    layout, names, kind = place.layout, place.atlas.names, source.recipe.connectivity.kind
    outliers = beside_series(recording).outliers if is_series(recording) else None
    others = () if outliers is None else (outliers,)
    about = Context(recording, place.atlas, source.recipe, place.links, source.quality, others)
    series = layout.derivative(recording, "timeseries", ".tsv")
    coverage = layout.derivative(recording, "coverage", ".tsv")
    matrix = layout.derivative(recording, "relmat", ".tsv", measure_name(kind))
    arrays = layout.derivative(recording, "features", ".safetensors")

    with together():
        write_array(series, names, source.cleaned.values)
        write_json(
            series.with_suffix(".json"),
            sidecars.timeseries_sidecar(about, source.cleaned.regressors, source.cleaned.parameters),
        )
        write_array(coverage, names, source.series.coverage[None])
        write_json(coverage.with_suffix(".json"), sidecars.coverage_sidecar(about))
        write_array(matrix, names, _whole_matrix(source))
        facts = describe(kind)
        write_json(matrix.with_suffix(".json"), sidecars.relmat_sidecar(about, facts))
        frames = layout.derivative(recording, "qc", ".tsv")
        table = {name: column.tolist() for name, column in source.frame_table.items()}
        write_table(
            frames, list(table), (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
        )
        write_json(frames.with_suffix(".json"), sidecars.frames_sidecar(about))
        carpet = _write_carpet(recording, source, about, layout)
        shapes = {name: a.shape[1:] for name, a in features.arrays.items()}
        sha256 = write_features(arrays, features)
        record = sidecars.features_record(about, features.key, shapes, sha256, source.window_onsets)
        tables = (series, coverage, matrix, frames, *carpet)
        written = [p for table in tables for p in (table, table.with_suffix(".json"))]
        record |= {
            "Device": place.task.device,
            **prepared_by(recording),
            "InputFingerprint": dict(marks),
            "Outputs": [layout.relative(p) for p in (*written, arrays)],
        }
        record_file = arrays.with_suffix(".json")
        write_json(record_file, record)
    place.wrote(*written, arrays, record_file)


def prepared_by(recording: Recording) -> dict[str, str]:
    """Return which version of fMRIPrep an image came from, for its record; nothing where nobody tells."""
    version = "" if is_series(recording) else fmriprep_version(recording.dataset)
    return {PREPARED_BY: version} if version else {}


def _write_carpet(recording: Recording, source: Opened, about: Context, layout: Layout) -> tuple[Path, ...]:
    """Write the carpet picture, if there was an image; its voxels were kept while the image streamed by."""
    sample = source.sample
    if sample is None or not len(sample.values):
        return ()
    picture = layout.figure(recording, "carpet", ".png")
    write_grey(picture, grey_levels(sample.values, source.cleaned.keep))
    write_json(picture.with_suffix(".json"), sidecars.carpet_sidecar(about, sample.parcels.tolist(), SPAN_SD))
    return (picture,)


def _whole_matrix(source: Opened) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return connectivity (R, R) over all frames left, untransformed; lost parcels are NaN."""
    frames = np.where(source.lost, np.float32(0), source.cleaned.values[source.cleaned.keep])
    matrix = connectivity(frames, source.recipe.connectivity.kind, fisher_z=False, lost=source.lost)
    matrix[source.lost] = np.nan
    matrix[:, source.lost] = np.nan
    return matrix
