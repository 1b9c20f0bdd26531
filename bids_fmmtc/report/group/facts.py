"""What a whole output dataset tells: who was found, what came of each, quality, analyses; nothing is drawn here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_fmmtc.dataset.derivatives.collate import PREDICTIONS, QUALITY
from bids_fmmtc.dataset.derivatives.describe import is_demo, own_entry
from bids_fmmtc.dataset.folders import list_participants
from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.errors import FmmtcError
from bids_fmmtc.keys import Key
from bids_fmmtc.quality import over_runs
from bids_fmmtc.report.analysis.facts import Analysis, read_analyses
from bids_fmmtc.report.kit.values import mapping, mappings, read_rows, real, word
from bids_fmmtc.report.kit.words import left_out_words
from bids_fmmtc.states import RecordingState, State

NOT_GATHERED = f"{State.UNGATHERED}: run the group level"
MISSING_ADVICE = "Run the participant level for this participant, or check that its data are where the others are."
_WITHOUT = [state for state in RecordingState if not state.usable]
_ID = re.compile(r"sub-[A-Za-z0-9+]+")


@dataclass(frozen=True, slots=True)
class Pooled:
    """Quality of the usable recordings of a session together, as `quality.over_runs` has it. None where not known."""

    mean_fd: float | None = None
    frames: float | None = None
    minutes: float | None = None
    coverage: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One row of the table of everybody: a session, or a participant of whom there is none.

    ``href`` is the participant's page, empty where there can be none.
    """

    key: str
    participant: str
    session: str | None
    task: str | None
    state: State
    reason: str
    flags: tuple[str, ...]
    probability: float | None
    sd: float | None
    decision: str | None
    threshold: float | None
    model: str | None
    quality: Pooled
    href: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Somebody or something without a result: what, and why and what to do as it was written down."""

    participant: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Group:
    """Everything that a group page shows.

    Parameters
    ----------
    root
        The output dataset.
    demo
        Whether anything in it comes of the demo.
    sessions
        Everybody known, one row a session.
    troubles
        Failed recordings, stale ones, and missing participants.
    attempts
        Recordings and sessions whose last attempt failed, and of which what an earlier one made is shown.
    recordings, failed
        Numbers of recordings.
    models
        What is known of the bundles whose predictions are here.
    analyses
        Below ``group``.
    recipe, recipe_digest, version
        As ``dataset_description.json`` has them.
    problems
        What could not be read, one line each.
    """

    root: Path
    demo: bool
    sessions: tuple[Session, ...]
    troubles: tuple[Trouble, ...]
    attempts: tuple[Trouble, ...]
    recordings: int
    failed: int
    models: tuple[Mapping[str, object], ...]
    analyses: tuple[Analysis, ...]
    recipe: Mapping[str, object]
    recipe_digest: str
    version: str
    problems: tuple[str, ...]

    @property
    def participants(self) -> list[str]:
        """Everybody known, once."""
        return list(dict.fromkeys(s.participant for s in self.sessions))

    @property
    def missing(self) -> list[str]:
        """Participants of whom there is no output at all."""
        return [s.participant for s in self.sessions if s.state is State.ABSENT]

    @property
    def predicted(self) -> list[Session]:
        """Sessions to which a model was applied."""
        return [s for s in self.sessions if s.probability is not None]

    @property
    def flags(self) -> Counter[str]:
        """Flag -> number of sessions that carry it."""
        return Counter(flag for s in self.sessions for flag in s.flags)


def read_group(root: Path) -> Group:
    """Read an output dataset of ours; whatever is missing or broken is named in ``problems``."""
    problems = []
    predictions, quality = read_rows(root / f"{PREDICTIONS}.tsv"), read_rows(root / f"{QUALITY}.tsv")
    if predictions is None:
        problems.append(f"{PREDICTIONS}.tsv is missing or cannot be read. Run the group level to gather everybody.")
    if quality is None:
        problems.append(f"{QUALITY}.tsv is missing or cannot be read: quality and failed recordings are not shown.")
    recordings = [row for row in quality or () if word(row.get("task")) is not None]
    broken = [row for row in quality or () if row.get("fmmtc_status") in _WITHOUT]
    by_session: dict[str, list[Mapping[str, str]]] = {}
    for row in quality or ():
        by_session.setdefault(_key(row).of_session, []).append(row)
    rows = predictions if predictions is not None else _without_table(root)
    sessions = tuple(_session(root, row, by_session.get(_row_key(row), [])) for row in rows)
    troubles = [Trouble(row.get("participant_id", ""), _key(row), row.get("fmmtc_reason", "")) for row in broken]
    troubles += [
        Trouble(s.participant, "everything", f"{s.reason}. {MISSING_ADVICE}") for s in _of(sessions, State.ABSENT)
    ]
    troubles += [Trouble(s.participant, s.key, s.reason) for s in _of(sessions, State.NO_PREDICTION)]
    models = tuple(mappings((read_record(root / f"{PREDICTIONS}.json") or {}).get("Models")))
    analyses = read_analyses(root)
    tried = [row for row in quality or () if row.get("fmmtc_status") == RecordingState.OK] + [*(predictions or ())]
    attempts = [
        Trouble(row.get("participant_id", ""), word(row.get("fmmtc_key")) or _key(row), reason)
        for row in tried
        if (reason := word(row.get("fmmtc_last_attempt"))) is not None
    ]
    own = own_entry(root)
    if own is not None and own.left_out:
        problems.append(left_out_words(own.left_out))
    if own is None:
        problems.append("dataset_description.json is missing, or another program made it: the recipe is not known.")
    demo = is_demo(root) or any(m.get("demo") is True for m in models) or any(a.card.demo for a in analyses)
    return Group(
        root=root,
        demo=bool(demo or any("demo_model" in s.flags for s in sessions)),
        sessions=sessions,
        troubles=tuple(troubles),
        attempts=tuple(attempts),
        recordings=len(recordings),
        failed=sum(row.get("fmmtc_status") in _WITHOUT for row in recordings),
        models=models,
        analyses=analyses,
        recipe=mapping(None if own is None else own.recipe),
        recipe_digest="" if own is None else own.digest,
        version="" if own is None else own.version or "",
        problems=tuple(problems),
    )


def page_of(root: Path, participant: str) -> str:
    """Return the link to a participant's page; empty where the label is no label or nothing of them is here."""
    return f"{participant}.html" if _ID.fullmatch(participant) and (root / f"{participant}.html").is_file() else ""


def _of(sessions: Sequence[Session], state: State) -> list[Session]:
    return [s for s in sessions if s.state == state]


def _without_table(root: Path) -> list[dict[str, str]]:
    """Return a row for each participant's folder, where nobody has gathered yet."""
    try:
        labels = list_participants([root])
    except FmmtcError:
        return []
    none = {"fmmtc_state": State.UNGATHERED, "fmmtc_qc": NOT_GATHERED}
    return [{"participant_id": f"sub-{label}", **none} for label in labels]


def _key(row: Mapping[str, str]) -> Key:
    """Return the key of a recording from the name of its record."""
    name = row.get("filename", "").rpartition("/")[2]
    key = Key.parse(name)
    return key if key != name else Key(row.get("participant_id", ""))


def _row_key(row: Mapping[str, str]) -> str:
    return word(row.get("fmmtc_key")) or row.get("participant_id", "")


def _session(root: Path, row: Mapping[str, str], recordings: Sequence[Mapping[str, str]]) -> Session:
    probability, qc = real(row.get("fmmtc_probability")), word(row.get("fmmtc_qc")) or ""
    failed = bool(recordings) and all(each.get("fmmtc_status") in _WITHOUT for each in recordings)
    state = _state(row, failed=failed)
    own = qc if probability is not None and qc != "ok" else ""
    flags = [each for text in (own, *(r.get("fmmtc_flags") for r in recordings)) for each in _listed(text)]
    whom = row.get("participant_id", "")
    return Session(
        key=_row_key(row),
        participant=whom,
        session=word(row.get("session_id")),
        task=word(row.get("task")),
        state=state,
        reason="" if state is State.PREDICTED else qc,
        flags=tuple(dict.fromkeys(flags)),
        probability=probability,
        sd=real(row.get("fmmtc_sd")),
        decision=word(row.get("fmmtc_decision")) or word(row.get("fmmtc_label")),
        threshold=real(row.get("fmmtc_threshold")),
        model=word(row.get("fmmtc_model")),
        quality=_quality(recordings),
        href=page_of(root, whom),
    )


def _state(row: Mapping[str, str], *, failed: bool) -> State:
    """Return a row's state as it is stored; from its values where a table is older than that column."""
    stored = row.get("fmmtc_state", "")
    if stored in list(State):
        return State(stored)
    return State.of(
        found=word(row.get("fmmtc_key")) is not None,  # whoever has any output has a key
        predicted=real(row.get("fmmtc_probability")) is not None,
        judged=not (row.get("fmmtc_qc") or "").startswith(State.FEATURES_ONLY),
        failed=failed,
    )


def _listed(text: str | None) -> list[str]:
    return [each.strip() for each in (word(text) or "").split(",") if each.strip()]


def _quality(recordings: Sequence[Mapping[str, str]]) -> Pooled:
    usable = [row for row in recordings if row.get("fmmtc_status") not in _WITHOUT]

    def pooled(name: str) -> float | None:
        return over_runs(name, (real(row.get(f"fmmtc_{name}")) for row in usable))

    return Pooled(pooled("mean_fd"), pooled("n_frames_left"), pooled("minutes_left"), pooled("mean_coverage"))
