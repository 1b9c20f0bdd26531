"""The participant steps as plain functions, and the entry of the child process that takes them for one participant.

From left to right: open a recording, extract its features (or take those of equal digest), write them, pool the
runs of a session, predict, write. Errors are caught here, once: a recording that fails becomes a `Failure` with
its own row and never costs another.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bids_fmmtc import __version__
from bids_fmmtc.dataset import sidecars
from bids_fmmtc.dataset.scans import session_key, session_of, write_scans
from bids_fmmtc.dataset.sidecars import Context, Links
from bids_fmmtc.dataset.store import (
    Layout,
    read_features,
    read_record,
    write_array,
    write_features,
    write_json,
    write_table,
    write_text,
)
from bids_fmmtc.errors import BundleError, DataError, FmmtcError, OutputError, RepetitionTimeError
from bids_fmmtc.modalities import Modality, load_modality
from bids_fmmtc.modalities.connectivity import connectivity, describe, measure_name
from bids_fmmtc.settings import Task, failure_to_json
from bids_fmmtc.signals.atlas import read_atlas
from bids_fmmtc.signals.source import LabelGrids, Source
from bids_fmmtc.types import Failure, Features, Prediction, Recording

if TYPE_CHECKING:
    from bids_fmmtc.learning.bundle import ModelBundle
    from bids_fmmtc.learning.predict import Predictor

T = TypeVar("T")
SAME_TR = 0.01  # runs whose repetition times differ by more than this share are not pooled


# ------------------------------------------------------------------------------------------------- from recording on


def extract(source: Source, modalities: Sequence[Modality]) -> Features:
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
    return Features(source.recording.key, source.windows, arrays, source.quality, source.recipe.digest)


def fingerprint(recording: Recording) -> dict[str, str]:
    """Tell what a recording is made of apart by content, without reading a compressed image.

    A gzip file ends in the checksum and length of what it holds; other files are summed (CRC-32). What sidecars say
    counts too: the repetition time, and how the confounds were made.
    """
    files = {"bold": recording.bold, "mask": recording.mask, "confounds": recording.confounds}
    if recording.confounds is not None and recording.confounds.with_suffix(".json").is_file():
        files["confounds_sidecar"] = recording.confounds.with_suffix(".json")
    marks = {name: _content(path) for name, path in files.items() if path is not None}
    return marks | {"repetition_time": str(recording.repetition_time)}


def _content(path: Path) -> str:
    try:
        with path.open("rb") as f:
            size = f.seek(0, 2)
            if path.suffix == ".gz":
                f.seek(max(size - 8, 0))
                return f"{size}-{f.read(8).hex()}"
            f.seek(0)
            total = 0
            while block := f.read(1 << 22):
                total = zlib.crc32(block, total)
            return f"{size}-{total:08x}"
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be read: {error.strerror or error}.", "Check the file and its disk."
        ) from None


# ------------------------------------------------------------------------------------------------ one child's rooms


@dataclass
class Workplace:
    """What the recordings of one participant share, made when first needed: atlas, encoders, the bundle's head."""

    task: Task
    outputs: list[str] = field(default_factory=list)

    @cached_property
    def grids(self) -> LabelGrids:
        """The atlas with its labels on grids already met."""
        return LabelGrids(read_atlas(self.task.atlas, self.task.recipe.atlas.name))

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
        from bids_fmmtc.learning.bundle import load_bundle  # noqa: PLC0415

        if self.task.bundle is None:
            return None
        bundle = load_bundle(self.task.bundle)
        if bundle.digest != self.task.bundle_digest:
            raise BundleError(f"bundle {bundle.root} has changed since this run began.", "Run again.")
        return bundle

    @cached_property
    def predictor(self) -> Predictor | None:
        """The bundle's head."""
        from bids_fmmtc.learning.predict import Predictor  # noqa: PLC0415  (torch, only to predict)

        return None if self.bundle is None else Predictor(self.bundle, self.task.device)

    def wrote(self, *paths: Path) -> None:
        """Note files that belong to the result."""
        self.outputs += [self.layout.relative(p) for p in paths]


# ------------------------------------------------------------------------------------------------------- recordings


def process_recording(recording: Recording, place: Workplace) -> Features | Failure:
    """Reuse or extract and write the features of one recording; never raises."""
    return guarded(recording.key, "extract", place, lambda: _process(recording, place))


def _process(recording: Recording, place: Workplace) -> Features:
    record_file = place.layout.derivative(recording, "features", ".json")
    marks = fingerprint(recording)
    found = _reusable(record_file, marks, place)
    if found is not None:
        return found
    source = Source(recording, place.grids, place.task.recipe, place.task.transform)
    features = extract(source, place.modalities)
    _write_recording(source, features, marks, place)
    return features


def _reusable(record_file: Path, marks: Mapping[str, str], place: Workplace) -> Features | None:
    """Return features made earlier by this version and recipe from the same files, if they are whole."""
    record = read_record(record_file)
    same = (
        record is not None
        and record.get("Status") == "ok"
        and record.get("RecipeDigest") == place.task.recipe.digest
        and record.get("SoftwareVersion") == __version__
        and record.get("InputFingerprint") == marks
        and all((place.layout.root / name).is_file() for name in record.get("Outputs", []))
    )
    if record is None or not same:
        return None
    try:
        features = read_features(record_file)
    except DataError:
        return None
    place.outputs += record["Outputs"]
    place.wrote(record_file)
    return features


def _write_recording(source: Source, features: Features, marks: Mapping[str, str], place: Workplace) -> None:
    """Write all derivatives of a recording; the record comes last, so that half a result is never taken for one."""
    layout, recording, names = place.layout, source.recording, source.atlas.names
    kind = source.recipe.connectivity.kind
    about = Context(recording, source.atlas, source.recipe, place.links, source.quality)
    series = layout.derivative(recording, "timeseries", ".tsv")
    coverage = layout.derivative(recording, "coverage", ".tsv")
    matrix = layout.derivative(recording, "relmat", ".tsv", measure_name(kind))
    arrays = layout.derivative(recording, "features", ".safetensors")

    write_array(series, names, source.cleaned.values)
    write_json(
        series.with_suffix(".json"),
        sidecars.timeseries_sidecar(about, source.cleaned.regressors, source.cleaned.parameters),
    )
    write_array(coverage, names, source.raw.series.coverage[None])
    write_json(coverage.with_suffix(".json"), sidecars.coverage_sidecar(about))
    write_array(matrix, names, _whole_matrix(source))
    facts = describe(kind)
    write_json(matrix.with_suffix(".json"), sidecars.relmat_sidecar(about, facts))
    shapes = {name: a.shape[1:] for name, a in features.arrays.items()}
    sha256 = write_features(arrays, features)
    record = sidecars.features_record(about, features.key, shapes, sha256, source.window_onsets)
    written = [p for table in (series, coverage, matrix) for p in (table, table.with_suffix(".json"))]
    record |= {
        "Device": place.task.device,
        "InputFingerprint": dict(marks),
        "Outputs": [layout.relative(p) for p in (*written, arrays)],
    }
    record_file = arrays.with_suffix(".json")
    write_json(record_file, record)
    place.wrote(*written, arrays, record_file)


def _whole_matrix(source: Source) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return connectivity (R, R) over all frames left, untransformed; lost parcels are NaN."""
    frames = np.where(source.lost, np.float32(0), source.cleaned.values[source.cleaned.keep])
    matrix = connectivity(frames, source.recipe.connectivity.kind, fisher_z=False, lost=source.lost)
    matrix[source.lost] = np.nan
    matrix[:, source.lost] = np.nan
    return matrix


# --------------------------------------------------------------------------------------------------------- sessions


def process_session(
    key: str, runs: Sequence[Recording], results: Mapping[str, Features | Failure], place: Workplace
) -> Prediction | Failure:
    """Pool the runs of a session, predict and write; never raises."""
    good = [r for r in results.values() if isinstance(r, Features)]
    bad = [r for r in results.values() if isinstance(r, Failure)]

    def step() -> Prediction:
        predictor = place.predictor
        if predictor is None:
            raise DataError("there is no model bundle.")
        _same_repetition_time(good)
        flags = [f for features in good for f in features.quality["flags"]] + [f"run_failed:{f.key}" for f in bad]
        return predictor.predict(key, good, tuple(dict.fromkeys(flags)), place.task.recipe)

    outcome = guarded(key, "predict", place, step) if good else _summary(key, bad)
    written = guarded(key, "write", place, lambda: _write_prediction(key, runs, outcome, good, place))
    return written if isinstance(written, Failure) else outcome


def _same_repetition_time(runs: Sequence[Features]) -> None:
    times = [r.quality["window_repetition_time"] for r in runs]
    if max(times) - min(times) > SAME_TR * min(times):
        found = ", ".join(f"{r.key} {t:g} s" for r, t in zip(runs, times, strict=True))
        raise RepetitionTimeError(
            f"runs of one session differ in repetition time: {found}.",
            "Choose runs with --bids-filter-file, or use a recipe with a target_repetition_time.",
        )


def _summary(key: str, failures: Sequence[Failure]) -> Failure:
    first = failures[0]
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return Failure(key, first.stage, first.kind, first.message + more, first.hint, first.traceback_file)


def _write_prediction(
    key: str,
    runs: Sequence[Recording],
    outcome: Prediction | Failure,
    good: Sequence[Features],
    place: Workplace,
) -> None:
    subject, session = place.task.subject, runs[0].session if runs else session_of(key)
    table = place.layout.prediction(subject, session, key, ".tsv")
    prediction = outcome if isinstance(outcome, Prediction) else None
    qc = outcome.reason if isinstance(outcome, Failure) else ",".join(outcome.flags) or "ok"
    row = sidecars.prediction_row(subject, session, prediction, [f.quality for f in good], qc)
    columns = [c for c in sidecars.PREDICTION_COLUMNS if c != "session_id" or session is not None]
    done = {f.key for f in good}
    sources = [place.links.uri(place.layout.derivative(r, "features", ".safetensors")) for r in runs if r.key in done]
    write_table(table, columns, [row])
    reason = outcome.reason if isinstance(outcome, Failure) else ""
    write_json(
        table.with_suffix(".json"), sidecars.prediction_sidecar(prediction, _model_facts(place), sources, reason)
    )
    place.wrote(table, table.with_suffix(".json"))


def _model_facts(place: Workplace) -> dict[str, Any]:
    """Describe the bundle and the conditions under which it was applied."""
    bundle, task = place.bundle, place.task
    if bundle is None:
        return {}
    rule = task.recipe.windows
    return {
        "ModelName": bundle.card.get("title", bundle.root.name),
        "ModelVersion": str(bundle.card.get("version", "n/a")),
        "DemoModel": bundle.demo,
        "BundleDigest": bundle.digest,
        "EncoderSHA256": {name: e.sha256 for name, e in bundle.encoders.items()},
        "RecipeDigest": task.recipe.digest,
        "Classes": list(bundle.classes),
        "Threshold": bundle.threshold,
        "Calibration": dict(bundle.calibration),
        "WindowRule": f"{rule.length} frames every {rule.stride}, pooled over runs: mean of logits, then calibrated",
        "EnsembleSize": 1,
        "Seed": task.seed,
        "Device": task.device,
        "SoftwareVersions": {name: version(name) for name in ("numpy", "scipy", "torch", "transformers", "nilearn")},
    }


# ------------------------------------------------------------------------------------------------------ participant


def process_subject(task: Task, save: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Process every recording and session of a participant.

    Parameters
    ----------
    task
        What to do.
    save
        Called with the report so far after every recording, so that a killed process loses only the one in hand.

    Returns
    -------
    dict
        ``subject``, ``recordings`` and ``sessions`` (one row each: key, status, reason, flags, quality or
        prediction), ``outputs``, ``complete``.
    """
    place = Workplace(task)
    rows: dict[str, dict[str, Any]] = {f.key: _row(f.key, f) for f in task.failures}
    judged: dict[str, dict[str, Any]] = {}
    for key, runs in _sessions(task).items():
        # One session at a time: its features are let go before the next one's are made.
        results: dict[str, Features | Failure] = {f.key: f for f in task.failures if session_key(f.key) == key}
        for recording in runs:
            results[recording.key] = process_recording(recording, place)
            rows[recording.key] = _row(recording.key, results[recording.key])
            if task.bundle is None:
                del results[recording.key]
            save(_report(place, rows, judged, complete=False))
        if task.bundle is not None:
            judged[key] = _row(key, process_session(key, runs, results, place))
            save(_report(place, rows, judged, complete=False))
    trouble = guarded(
        f"sub-{task.subject}", "write", place, lambda: write_scans(task, list(rows.values()), place.layout)
    )
    if isinstance(trouble, Failure):
        rows[trouble.key] = _row(trouble.key, trouble)
    report = _report(place, rows, judged, complete=True)
    save(report)
    return report


def record_lost(task: Task, report: Mapping[str, Any], failure: Failure) -> dict[str, Any]:
    """Complete the report of a child process that ended before its time, and write the rows it owes.

    Parameters
    ----------
    report
        What the child had saved; may be empty.
    failure
        How it ended; every recording and session without a row gets one with this reason.
    """
    place = Workplace(task)
    done = {row["key"]: row for row in report.get("recordings", [])}
    for key in [*(r.key for r in task.recordings), *(f.key for f in task.failures)]:
        done.setdefault(key, _row(key, replace(failure, key=key)))
    sessions = {row["key"]: row for row in report.get("sessions", [])}
    if task.bundle is not None:
        for key, runs in _sessions(task).items():
            if key in sessions:
                continue
            lost = replace(failure, key=key)
            guarded(key, "write", place, lambda k=key, r=runs, f=lost: _write_prediction(k, r, f, [], place))  # type: ignore[misc]
            sessions[key] = _row(key, lost)
    rows = list(done.values())
    trouble = guarded(f"sub-{task.subject}", "write", place, lambda: write_scans(task, rows, place.layout))
    if isinstance(trouble, Failure):
        rows.append(_row(trouble.key, trouble))
    return {
        "subject": task.subject,
        "recordings": rows,
        "sessions": list(sessions.values()),
        "outputs": sorted({*report.get("outputs", []), *place.outputs}),
        "complete": False,
    }


def _sessions(task: Task) -> dict[str, list[Recording]]:
    """Group recordings, failed ones too, by what one prediction is made from."""
    sessions: dict[str, list[Recording]] = {}
    for recording in task.recordings:
        sessions.setdefault(recording.session_key, []).append(recording)
    for failure in task.failures:
        sessions.setdefault(session_key(failure.key), [])
    return sessions


def _report(place: Workplace, rows: Mapping[str, Any], judged: Mapping[str, Any], *, complete: bool) -> dict[str, Any]:
    return {
        "subject": place.task.subject,
        "recordings": list(rows.values()),
        "sessions": list(judged.values()),
        "outputs": sorted(set(place.outputs)),
        "complete": complete,
    }


def _row(key: str, result: Features | Prediction | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"key": key, "status": "failed", **failure_to_json(result)}
    if isinstance(result, Features):
        flags = result.quality["flags"]
        return {"key": key, "status": "ok", "flags": flags, "windows": len(result.windows), "quality": result.quality}
    return {
        "key": key,
        "status": "ok",
        "flags": list(result.flags),
        "probability": result.probability,
        "label": result.label,
        "windows": len(result.per_window),
    }


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


# ----------------------------------------------------------------------------------------------------- child process


def main(arguments: Iterable[str]) -> int:
    """Run the task file given as first argument; the report goes to the second."""
    die_with_parent()
    task_file, report_file = (Path(a) for a in arguments)
    task = Task.from_json(json.loads(task_file.read_text(encoding="utf-8")))
    if task.weights or task.bundle is not None:
        task = replace(task, device=_steady_torch(task))
    elif task.device == "auto":
        task = replace(task, device="cpu")
    process_subject(task, lambda report: write_json(report_file, report))
    return 0


def die_with_parent() -> None:
    """Ask Linux to end this process when the worker that waits for it is gone, so that no orphan goes on writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def _steady_torch(task: Task) -> str:
    """Make the same input give the same bits (fixed threads, deterministic kernels); return the device to use."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    torch.use_deterministic_algorithms(mode=True)
    if task.device != "auto":
        return task.device
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
