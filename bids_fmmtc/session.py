"""One session: pool the features of its runs, predict, write the prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from bids_fmmtc.dataset.derivatives import sidecars
from bids_fmmtc.dataset.derivatives.standing import ATTEMPT, attempt, find_standing
from bids_fmmtc.dataset.naming import natural
from bids_fmmtc.dataset.people.cohort import SAME_TR
from bids_fmmtc.dataset.store import read_record, together, write_json, write_table
from bids_fmmtc.errors import DataError, RepetitionTimeError
from bids_fmmtc.keys import Key
from bids_fmmtc.plain import Object, to_json
from bids_fmmtc.recording import Workplace, guarded, standing_features
from bids_fmmtc.types import Failure, Features, Prediction, Recording


def process_session(
    key: str, runs: Sequence[Recording], results: Mapping[str, Features | Failure], place: Workplace
) -> Prediction | Failure:
    """Pool the runs of a session, predict and write; never raises.

    A run that failed now and has features of before that stand is pooled with those: the prediction is what it was.
    """
    by_key: dict[str, Recording] = {r.key: r for r in runs}
    found = {
        name: result if isinstance(result, Features) else standing_features(name, by_key.get(name), place) or result
        for name, result in sorted(results.items(), key=lambda item: natural(item[0]))
    }
    good = [r for r in found.values() if isinstance(r, Features)]
    bad = [r for r in found.values() if isinstance(r, Failure)]

    def step() -> Prediction:
        predictor = place.predictor
        if predictor is None:
            raise DataError("there is no model bundle.")
        _same_repetition_time(good)
        flags = [f for features in good for f in features.quality.flags] + [f"run_failed:{f.key}" for f in bad]
        return predictor.predict(key, good, tuple(dict.fromkeys(flags)), place.task.recipe)

    outcome = guarded(key, "predict", place, step) if good else _summary(key, bad)
    written = guarded(key, "write", place, lambda: write_prediction(key, runs, outcome, good, place))
    return written if isinstance(written, Failure) else outcome


def _same_repetition_time(runs: Sequence[Features]) -> None:
    times = [r.quality.window_repetition_time for r in runs]
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


def write_prediction(
    key: str,
    runs: Sequence[Recording],
    outcome: Prediction | Failure,
    good: Sequence[Features],
    place: Workplace,
) -> None:
    """Write the prediction of a session, or a row that says why there is none.

    Parameters
    ----------
    key
        The session's key.
    runs
        Its recordings; empty where discovery turned all of them down.
    good
        Features of those that have any.
    """
    subject, session = place.task.subject, runs[0].session if runs else Key(key).session
    table = place.layout.prediction(subject, session, key, ".tsv")
    if isinstance(outcome, Failure):
        if Key(key).whole and _has_results(key, place):
            return  # nothing was found of somebody who has results: their own records tell of it
        standing = _standing_prediction(table, runs, place)
        if standing is not None:
            write_json(table.with_suffix(".json"), {**standing, ATTEMPT: attempt(outcome)})
            place.wrote(table, table.with_suffix(".json"))
            return
    prediction = outcome if isinstance(outcome, Prediction) else None
    qc = outcome.reason if isinstance(outcome, Failure) else ",".join(outcome.flags) or "ok"
    row = sidecars.prediction_row(subject, session, prediction, [f.quality for f in good], qc)
    columns = [c for c in sidecars.PREDICTION_COLUMNS if c != "session_id" or session is not None]
    records = _records(good, runs, session, place)
    sources = {
        place.links.uri(path.with_suffix(".safetensors")): (read_record(path) or {}).get("FeaturesSHA256")
        for path in records
    }
    reason = outcome.reason if isinstance(outcome, Failure) else ""
    with together():
        write_table(table, columns, [row])
        write_json(
            table.with_suffix(".json"), sidecars.prediction_sidecar(prediction, _model_facts(place), sources, reason)
        )
    place.wrote(table, table.with_suffix(".json"))


def _has_results(key: str, place: Workplace) -> bool:
    folder = place.layout.folder(place.task.subject, None)
    return bool(find_standing(key, None, place.layout, folder, place.task.recipe))


def _records(good: Sequence[Features], runs: Sequence[Recording], session: str | None, place: Workplace) -> list[Path]:
    """Return the records that features were read from or written to."""
    by_key: dict[str, Recording] = {r.key: r for r in runs}
    folder = place.layout.folder(place.task.subject, session)
    records = []
    for features in good:
        run = by_key.get(features.key)
        own = None if run is None else place.layout.derivative(run, "features", ".json")
        if own is not None and own.is_file():
            records.append(own)
        else:
            standing = find_standing(features.key, run, place.layout, folder, place.task.recipe)
            records += [each.record for each in standing[:1]]
    return records


def _standing_prediction(table: Path, runs: Sequence[Recording], place: Workplace) -> Object | None:
    """Return the sidecar of a prediction that stands, though the attempt at it failed now; None where it does not.

    It stands if the same bundle and recipe made it, from features that are the same to the byte and whose own input is
    not proven to have changed.
    """
    sidecar, task = read_record(table.with_suffix(".json")), place.task
    if sidecar is None or sidecar.get("Status") != "ok" or not table.is_file():
        return None
    if (sidecar.get("BundleDigest"), sidecar.get("RecipeDigest")) != (task.bundle_digest, task.recipe.digest):
        return None
    session = Key(table.name).session
    folder = place.layout.folder(task.subject, session)
    by_record = {place.layout.derivative(r, "features", ".json"): r for r in runs}
    made_from = sidecar.get("FeaturesSHA256")
    for uri, sha256 in (made_from if isinstance(made_from, dict) else {}).items():
        record = place.layout.root / str(uri).removeprefix("bids::").replace(".safetensors", ".json")
        content = read_record(record) or {}
        run = by_record.get(record)
        standing = find_standing(str(content.get("Key")), run, place.layout, folder, task.recipe)
        if content.get("FeaturesSHA256") != sha256 or any(s.changed for s in standing if s.record == record):
            return None
    return sidecar if made_from else None


def _model_facts(place: Workplace) -> Object:
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
        "Calibration": dict(sorted(to_json(bundle.calibration).items())),
        "Conformal": "n/a" if bundle.conformal is None else to_json(bundle.conformal),
        "ConformalCaution": str(bundle.card.get("caution", "n/a")),
        "OutOfFold": bundle.card.get("out_of_fold", "n/a"),
        "WindowRule": f"{rule.length} frames every {rule.stride}, pooled over runs: mean of logits, then calibrated",
        "ConnectivityFrames": task.recipe.connectivity.frames,
        "EnsembleSize": 1,
        "Seed": task.seed,
        "Device": task.device,
        "SoftwareVersions": {name: version(name) for name in ("numpy", "scipy", "torch", "transformers", "nilearn")},
    }
