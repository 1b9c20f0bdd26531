"""Group tables from the files of each participant: predictions in long form, one phenotype file a session, quality.

Everybody known has a row: who failed, with the reason, and who was listed in the input and has no output here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bids_fmmtc.dataset.derivatives.describe import NOT_A_DEVICE, PAPER
from bids_fmmtc.dataset.derivatives.records import Record, attempts_note, gather, mixed_versions
from bids_fmmtc.dataset.derivatives.scans import shown
from bids_fmmtc.dataset.derivatives.sidecars import PREDICTION_COLUMNS, SCANS_COLUMNS
from bids_fmmtc.dataset.derivatives.standing import attempt_reason
from bids_fmmtc.dataset.folders import func_files, list_participants
from bids_fmmtc.dataset.naming import natural, padded_otherwise, some, told_padding
from bids_fmmtc.dataset.store import MISSING, read_record, read_table, remove, write_json, write_table
from bids_fmmtc.dataset.tables import PARTICIPANTS, read_people
from bids_fmmtc.errors import DataError, FmmtcError
from bids_fmmtc.keys import Key
from bids_fmmtc.plain import Cells, Columns, Json, Object, to_json
from bids_fmmtc.quality import quality_in
from bids_fmmtc.states import MEANINGS, RecordingState, State

PREDICTIONS = "desc-fmmtc_predictions"
QUALITY = "desc-fmmtc_qc"
_SUFFIX = "_desc-fmmtc_prediction.tsv"
# Only names that this module gives are ever removed from phenotype/.
_OURS = re.compile(r"fmmtc(_ses-[A-Za-z0-9+]+)?(_task-[A-Za-z0-9+]+(_[a-z]+-[A-Za-z0-9+]+)*)?\.(tsv|json)")
_BIDS_ID = re.compile(r"sub-[A-Za-z0-9+]+")
_LABELS: Columns = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session"},
    "task": {"Description": "Label of the task"},
}
_KEY: Columns = {
    "fmmtc_key": {"Description": "Entities that the pooled recordings share; the name of the prediction's file"}
}
_MODEL: Columns = {"fmmtc_model": {"Description": "First 12 characters of the digest of the model bundle"}}
_STATE: Columns = {
    "fmmtc_state": {
        "Description": "What there is; the reason stands in fmmtc_qc",
        "Levels": {str(state): meaning for state, meaning in MEANINGS.items()},
    }
}
_VALUES = {k: v for k, v in PREDICTION_COLUMNS.items() if k not in ("participant_id", "session_id")}
_ATTEMPT: Columns = {
    "fmmtc_last_attempt": {
        "Description": "Why the last attempt at this prediction failed, where that of an earlier one stands"
    }
}
LONG_COLUMNS: Columns = {**_LABELS, **_KEY, **_STATE, **_VALUES, **_MODEL, **_ATTEMPT}
PHENOTYPE_COLUMNS: Columns = {
    "participant_id": _LABELS["participant_id"],
    **_KEY,
    **_STATE,
    **_VALUES,
    **_MODEL,
    **_ATTEMPT,
}
QUALITY_TABLE: Columns = {
    **_LABELS,
    "run": {"Description": "Label of the run"},
    "filename": {"Description": "Record of the recording, relative to the dataset"},
    **{k: v for k, v in SCANS_COLUMNS.items() if k != "filename"},
}


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the long form: a session, or a participant of whom there is none.

    Parameters
    ----------
    participant, session, task, key
        As the columns hold them; only a participant where nothing is known.
    state, qc
        What there is, and flags or why there is nothing.
    values
        Cells of the prediction's own table; empty where it was not read.
    model, last_attempt
        As the columns hold them.
    made_from
        Checksums of the features that the prediction was made from; in no table.
    """

    participant: str
    session: str | None
    task: str | None
    key: str | None
    state: State
    qc: str
    values: Mapping[str, str | None] = field(default_factory=dict)
    model: str | None = None
    last_attempt: str | None = None
    made_from: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: Key, state: State, qc: str) -> Line:
        """Return the row of a key that has no values."""
        return cls(key.participant, _session(key), key.task, key, state, qc)

    @property
    def predicted(self) -> bool:
        """Whether there is a probability."""
        return self.values.get("fmmtc_probability", MISSING) != MISSING

    @property
    def cells(self) -> Cells:
        """By column."""
        return {
            **_labels(self.participant, self.session, self.task),
            **self.values,
            "fmmtc_key": self.key,
            "fmmtc_state": self.state,
            "fmmtc_qc": self.qc,
            "fmmtc_model": self.model,
            "fmmtc_last_attempt": self.last_attempt,
        }


def _session(key: Key) -> str | None:
    return None if key.session is None else f"ses-{key.session}"


def _labels(participant: str, session: str | None, task: str | None) -> Cells:
    return {"participant_id": participant, "session_id": session, "task": task}


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle that predicted: its title, whether it is the demo's, and how many predictions are its."""

    title: str | None
    demo: bool
    predictions: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """What was collated.

    Parameters
    ----------
    rows
        The long form: one row a participant, session and task.
    counts
        ``participants``, ``predicted`` and ``without_prediction`` (rows), ``missing`` (participants without any
        output), ``recordings`` and ``failed_recordings``.
    models
        Digest of each bundle that predicted -> what is told of it.
    notes
        What the user should know, one line each.
    files
        What was written, relative to the dataset, sorted.
    """

    rows: tuple[Line, ...]
    counts: Mapping[str, int]
    models: Mapping[str, Model]
    notes: tuple[str, ...]
    files: tuple[str, ...]


def collate(layout_root: Path, roots: Sequence[Path], sources: Sequence[Path] = ()) -> Summary:
    """Write the group tables of one output dataset; the same files give the same bytes.

    ``desc-fmmtc_predictions.tsv`` has a row for every session key. ``phenotype/fmmtc.tsv`` (``fmmtc_ses-X.tsv``, one
    a session, where there are sessions) has one row a participant, as BIDS wants; only where some participant has
    several tasks or acquisitions within a session does that session get a file for each,
    ``fmmtc[_ses-X]_task-T[_acq-A].tsv``. ``desc-fmmtc_qc.tsv`` has a row for every recording. No participants.tsv is
    written: BIDS wants it to list everybody, and the input has one.

    Parameters
    ----------
    layout_root
        Output dataset of ours.
    roots
        Folders that tell who should be there, from `tables.dataset_roots`: the first participants.tsv among them, and
        the participants' folders.
    sources
        Datasets of ours that hold features and predictions; ``layout_root`` itself where none are given.

    Raises
    ------
    DataError
        One session stands in two sources.
    OutputError
        A table cannot be written.
    InputError
        A folder cannot be read.
    """
    sources = tuple(dict.fromkeys(sources)) or (layout_root,)
    records = gather(sources)
    models: dict[str, Model] = {}
    rows: dict[str, Line] = {}
    for source in sources:
        found = _predictions(source, models)
        _refuse_twice(set(rows) & set(found), sources)
        rows |= found
    rows |= _by_recordings(rows, records)
    expected, notes = _expected(roots)
    present = {row.participant for row in rows.values()}
    missing = {whom: reason for whom, reason in expected.items() if whom not in present}
    rows |= {whom: Line(whom, None, None, None, State.ABSENT, reason) for whom, reason in missing.items()}
    ordered = [rows[key] for key in sorted(rows, key=natural)]
    files = _write_long(layout_root, ordered, models)
    files += _write_phenotype(layout_root, [row for row in ordered if _BIDS_ID.fullmatch(row.participant)])
    files += _write_quality(layout_root, records)
    if len(models) > 1:
        each = ", ".join(f"{digest[:12]} ({model.predictions})" for digest, model in sorted(models.items()))
        notes.append(f"predictions of several models lie side by side: {each}; do not compare them with each other.")
    notes += (*mixed_versions(records), *told_padding(padded_otherwise(missing, present)), *attempts_note(records))
    odd = [whom for whom in missing if not _BIDS_ID.fullmatch(whom)]
    if odd:
        notes.append(f"{some(odd)} cannot be BIDS labels; they stand in {PREDICTIONS}.tsv only.")
    predicted = sum(row.predicted for row in ordered)
    counts = {
        "participants": len(present | set(missing)),
        "predicted": predicted,
        "without_prediction": len(ordered) - predicted,
        "missing": len(missing),
        "recordings": sum(record.task is not None for record in records),
        "failed_recordings": sum(bool(record.problem) for record in records if record.task is not None),
    }
    return Summary(tuple(ordered), counts, models, tuple(notes), tuple(sorted(files)))


# ---------------------------------------------------------------------------------------------------------------- rows


def _refuse_twice(clash: set[str], sources: Sequence[Path]) -> None:
    if clash:
        raise DataError(
            f"{some(clash)} stands in two of {', '.join(map(str, sources))}: one person or two cannot be told.",
            "Keep every participant in one dataset, rename one side, or evaluate it with --external.",
        )


def _predictions(root: Path, models: dict[str, Model]) -> dict[str, Line]:
    """Read every session's prediction, and count those of each model."""
    rows: dict[str, Line] = {}
    for label in list_participants([root]):
        for folder, names in func_files(root, label).items():
            for name in sorted(names):
                if name.endswith(_SUFFIX):
                    key = Key(name.removesuffix(_SUFFIX))
                    rows[key] = _prediction(key, folder / name, f"sub-{label}", models)
    return rows


def _prediction(key: Key, path: Path, participant: str, models: dict[str, Model]) -> Line:
    facts = read_record(path.with_suffix(".json")) or {}
    try:
        found = read_table(path)
    except (OSError, ValueError, csv.Error):
        found = []
    if len(found) != 1 or found[0].get("participant_id") != participant or "fmmtc_probability" not in found[0]:
        problem = f"data: {path.name} cannot be read or is not {participant}'s. Run this participant again."
        return Line.of(key, State.NO_PREDICTION, problem)
    qc = found[0].get("fmmtc_qc") or MISSING
    predicted = found[0]["fmmtc_probability"] != MISSING
    state = State.of(found=True, predicted=predicted, judged=True, failed=False)
    made_from, digest = facts.get("FeaturesSHA256"), facts.get("BundleDigest")
    row = replace(
        Line.of(key, state, qc),
        values={name: found[0].get(name) for name in _VALUES},
        last_attempt=attempt_reason(facts) or None,
        made_from=tuple(map(str, made_from.values())) if isinstance(made_from, dict) else (),
    )
    if not predicted or not isinstance(digest, str):
        return row
    demo, title = facts.get("DemoModel") is True, facts.get("ModelName")
    if demo and "demo_model" not in qc.split(","):
        row = replace(row, qc=_flagged(qc, "demo_model"))
    model = models.get(digest, Model(title if isinstance(title, str) else None, demo))
    models[digest] = replace(model, predictions=model.predictions + 1)
    return replace(row, model=digest[:12])


def _by_recordings(rows: Mapping[str, Line], records: Sequence[Record]) -> dict[str, Line]:
    """Return rows of sessions without a prediction (features only, or failed), and of predictions that are stale."""
    sessions: dict[Key, list[Record]] = {}
    for record in records:
        sessions.setdefault(record.key.of_session, []).append(record)
    found: dict[str, Line] = {}
    for key, runs in sessions.items():
        problems = [run.reason for run in runs if run.problem]
        failed = len(problems) == len(runs)
        if key not in rows:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            state = State.of(found=True, predicted=False, judged=False, failed=failed)
            why = f"{problems[0]}{more}" if failed else f"{state}: no model was given"
            found[key] = Line.of(key, state, why)
        elif failed and rows[key].state is State.NO_PREDICTION:
            found[key] = replace(rows[key], state=State.FAILED)
        elif rows[key].predicted:
            # Predicted once; a later call without a model could not make the features again, or made others.
            flag = "features_failed_since" if failed else "features_changed_since" if _others(rows[key], runs) else ""
            if flag:
                found[key] = replace(rows[key], qc=_flagged(rows[key].qc, flag))
    return found


def _others(row: Line, runs: Sequence[Record]) -> bool:
    """Tell whether features that a prediction was made from have been replaced since."""
    now = {run.content.get("FeaturesSHA256") for run in runs}
    return not set(row.made_from) <= now


def _flagged(qc: str, flag: str) -> str:
    """Add a flag to those of a prediction."""
    return flag if qc == "ok" else f"{qc},{flag}"


def _expected(roots: Sequence[Path]) -> tuple[dict[str, str], list[str]]:
    """Return who should be there, and why we think so."""
    expected: dict[str, str] = {}
    notes: list[str] = []
    table = next((path for path in (root / PARTICIPANTS for root in roots) if path.is_file()), None)
    if table is not None:
        try:
            people = read_people(table).participants
            expected = dict.fromkeys(people, f"missing: listed in {PARTICIPANTS} of the input, no output here")
        except FmmtcError as error:
            notes.append(f"who is missing was told by folders only: {error}")
    for label in list_participants([root for root in roots if root.is_dir()]):
        expected.setdefault(f"sub-{label}", "missing: has a folder in the input, no output here")
    return expected, notes


# -------------------------------------------------------------------------------------------------------------- tables


def _write(
    root: Path, stem: str, description: Mapping[str, Json], columns: Columns, rows: Iterable[Cells]
) -> list[str]:
    """Write a table and its JSON; return both paths, relative to the dataset."""
    write_table(root / f"{stem}.tsv", list(columns), rows)
    write_json(root / f"{stem}.json", {**description, **{name: dict(text) for name, text in columns.items()}})
    return [f"{stem}.tsv", f"{stem}.json"]


def _write_long(root: Path, rows: Sequence[Line], models: Mapping[str, Model]) -> list[str]:
    about: Object = {
        "Description": f"Predictions of treatment response ({PAPER}), a row for every participant, session and task; "
        "n/a with the reason where there is none.",
        "IntendedUse": NOT_A_DEVICE,
        "Models": [{"BundleDigest": digest, **to_json(model)} for digest, model in sorted(models.items())],
    }
    return _write(root, PREDICTIONS, about, LONG_COLUMNS, [row.cells for row in rows])


def _write_phenotype(root: Path, rows: Sequence[Line]) -> list[str]:
    """Write one row a participant, a file for each session; remove files of an earlier division."""
    whole = {row.participant: row for row in rows if row.task is None and row.session is None}
    sessions: dict[str | None, list[Line]] = {}
    for row in rows:
        if row is not whole.get(row.participant):
            sessions.setdefault(row.session, []).append(row)
    known = {row.participant for row in rows}
    files: list[str] = []
    for session, own in (sessions or {None: []}).items():
        stem = "phenotype/fmmtc" + ("" if session is None else f"_{session}")
        # Beside sessions, the file of scans without one is about those who have such scans.
        everybody = known if session is not None or set(sessions) <= {None} else set()
        for name, variant in _variants(own).items():
            by_person = {row.participant: row.cells for row in variant}
            absent = {whom: _absent(whom, session, name, whole) for whom in everybody - set(by_person)}
            listed = sorted({**absent, **by_person}.items(), key=lambda item: natural(item[0]))
            files += _write(root, stem + name, _instrument(session), PHENOTYPE_COLUMNS, [row for _, row in listed])
    for path in sorted((root / "phenotype").glob("fmmtc*")):
        if _OURS.fullmatch(path.name) and f"phenotype/{path.name}" not in files:
            remove(path)
    return files


def _variants(rows: Sequence[Line]) -> dict[str, list[Line]]:
    """Return the rows of a session as one file, or by task and acquisition where somebody has several."""
    people = [row.participant for row in rows]
    if len(set(people)) == len(people):
        return {"": list(rows)}
    found: dict[str, list[Line]] = {}
    for row in rows:
        parts = Key(row.key or "").without("sub", "ses").parts
        found.setdefault("".join(f"_{part}" for part in parts), []).append(row)
    return found


def _absent(whom: str, session: str | None, variant: str, whole: Mapping[str, Line]) -> Cells:
    """Return the row of somebody who has nothing in this file."""
    if whom in whole:
        return {"participant_id": whom, "fmmtc_state": whole[whom].state, "fmmtc_qc": whole[whom].qc}
    what = " ".join(part for part in (session or "", *Key(variant).parts) if part)
    return {"participant_id": whom, "fmmtc_state": State.ABSENT, "fmmtc_qc": f"missing: no recording of {what} here"}


def _instrument(session: str | None) -> Object:
    when = "" if session is None else f" from recordings of {session}"
    about = f"Prediction of treatment response{when} ({PAPER}). {NOT_A_DEVICE}"
    return {
        "Description": "One row a participant; n/a with the reason in fmmtc_qc where there is no prediction.",
        "MeasurementToolMetadata": {"Description": about, "TermURL": "https://arxiv.org/abs/2503.00210"},
    }


def _write_quality(root: Path, records: Sequence[Record]) -> list[str]:
    rows = []
    keys = [(record.key, record.path.name) for record in records]
    _refuse_twice({key for key, _ in keys if keys.count((key, _)) > 1}, sorted({record.root for record in records}))
    for record in records:
        row: Cells = {
            **_labels(record.key.participant, _session(record.key), record.task),
            "run": record.key.run,
            "filename": record.path.relative_to(record.root).as_posix(),
            "fmmtc_status": record.state,
            "fmmtc_last_attempt": record.last_attempt or None,
        }
        if record.problem:
            row["fmmtc_reason"] = record.reason
        if record.state is not RecordingState.FAILED:
            row |= shown(quality_in(record.content))
        rows.append(row)
    about = {"Description": "State and quality of every recording; whole participants where none was found."}
    return _write(root, QUALITY, about, QUALITY_TABLE, rows)
