"""The page of one participant, put together from facts and figures."""

from __future__ import annotations

import json
from pathlib import Path

from bids_fmmtc.keys import Key
from bids_fmmtc.quality import ABOUT, About, Quality
from bids_fmmtc.report.kit.page import DASH, number, percent, render
from bids_fmmtc.report.kit.sheet import attempt, counted, plain
from bids_fmmtc.report.kit.words import flag_words, is_embedding, left_out_words, listed, reference_words, serious
from bids_fmmtc.report.participant.attribution import attribution_sections
from bids_fmmtc.report.participant.facts import ParticipantFacts, RecordingFacts, SessionFacts, participant_facts
from bids_fmmtc.report.participant.figures import position_figure, scale_figure, windows_figure
from bids_fmmtc.report.participant.methods import methods
from bids_fmmtc.report.participant.recording_figures import (
    MOST_PIXELS,
    coverage_figure,
    lost_parcels,
    matrix_figure,
    timeline_figure,
)
from bids_fmmtc.states import RecordingState

PIXELS_OF_ALL = 4 * MOST_PIXELS
"""What the recordings of a page share: four in full, more of them coarser."""


def participant_page(root: Path, label: str) -> str:
    """Return the page of a participant from the derivatives in an output dataset.

    Parameters
    ----------
    root
        The output dataset.
    label
        Without ``sub-``.
    """
    facts = participant_facts(root, label)
    n = sum(r.ok for s in facts.sessions for r in s.recordings)
    pixels = min(MOST_PIXELS, PIXELS_OF_ALL // max(n, 1))
    sessions = [_session(facts, s, f"s{i}", pixels) for i, s in enumerate(facts.sessions)]
    attributions = attribution_sections(facts)
    text = methods(facts)
    several = len(sessions) > 1
    contents = [("prediction", "Prediction")]
    contents += [(str(s["id"]), str(s["name"]) if several else "Recordings") for s in sessions]
    contents += [("attribution", "Attribution")] if attributions else []
    contents += [("methods", "Methods"), ("provenance", "Provenance")] if text else [("provenance", "Provenance")]
    return render(
        "participant.html",
        {
            "title": f"sub-{label} · bids_fmmtc",
            "heading": f"sub-{label}",
            "kind": "Participant report",
            "demo": facts.demo,
            "contents": contents,
            "sessions": sessions,
            "several": several,
            "attributions": attributions,
            "methods": text,
            "provenance": _provenance(facts),
            "group_page": "group_fmmtc.html" if (root / "group_fmmtc.html").is_file() else None,
        },
    )


def _session(facts: ParticipantFacts, session: SessionFacts, name: str, pixels: int) -> dict[str, object]:
    """Return what the template shows of a session."""
    flags = [f for f in session.flags if f != "demo_model"]
    failed = [r for r in session.recordings if not r.ok]
    return {
        "id": name,
        "name": Key(session.key).words(),
        "predicted": session.predicted,
        "sentences": _sentences(session),
        "reason": _no_prediction(session),
        "scale": attempt("The scale", scale_figure, session, f"{name}-scale"),
        "serious": [flag_words(f) for f in flags if serious(f)],
        "flags": [flag_words(f) for f in flags if not serious(f)],
        "windows": attempt("Windows", windows_figure, session, f"{name}-windows"),
        "position": attempt("The place among training", position_figure, session, f"{name}-position"),
        "reference": _reference(session),
        "recordings": [_recording(facts, r, f"{name}-r{i}", pixels) for i, r in enumerate(session.recordings) if r.ok],
        "failed": [{"key": r.key, "what": STATE_WORDS[r.record.state], "reason": _reason(r)} for r in failed],
        "notes": [*_attempts(session), *_incomplete(facts, session)],
    }


STATE_WORDS = {
    RecordingState.FAILED: "failed.",
    RecordingState.STALE: "is not used: its results are kept, but stale.",
    RecordingState.OK: "",
}


def _attempts(session: SessionFacts) -> list[str]:
    """Say of each attempt that failed last that what is shown was made before it."""
    return [
        f"The last attempt at {key} failed; what is shown was made before it. {why}" for key, why in session.attempts
    ]


def _incomplete(facts: ParticipantFacts, session: SessionFacts) -> list[str]:
    """Say which encoders have no features, and how they are added."""
    if facts.left_out:
        return [left_out_words(facts.left_out)]
    found = [(r.key, r.without(facts.recipe)) for r in session.recordings if r.ok]
    return [
        f"Features of {listed(names)} are not made for {key} yet. Run the participant level again; they are added."
        for key, names in found
        if names
    ]


def _sentences(session: SessionFacts) -> list[str]:
    """Return the prediction in words; what a reader must not miss comes first."""
    row, sidecar = session.row, session.sidecar
    if row is None or session.probability is None:
        return []
    said = [f"Calibrated probability of being a responder: {number(session.probability)}."]
    conformal = sidecar.get("Conformal")
    if not isinstance(conformal, dict):
        said.append("The model holds no conformal quantiles, so it does not say how sure this is.")
    else:
        rate = percent(conformal.get("alpha"))
        classes = [c for c in (row.get("fmmtc_set") or "").split(",") if c and c != "n/a"]
        if len(classes) == 1:
            said.append(f"Conformal set: {classes[0]} only. At an error rate of {rate}, the other class is excluded.")
        else:
            said.append(f"Conformal set: {' or '.join(classes)}. Undecided: at an error rate of {rate}, neither class "
                        "can be excluded.")  # fmt: skip
        caution = sidecar.get("ConformalCaution")
        said += [caution] if isinstance(caution, str) and caution != "n/a" else []
    side = "at or above" if session.probability >= (session.threshold or 0) else "below"
    said.append(f"It lies {side} the model's threshold of {number(session.threshold)}: {row.get('fmmtc_label', '')}.")
    return said


def _no_prediction(session: SessionFacts) -> str:
    if session.predicted:
        return ""
    if session.row is None:
        there = any(r.ok for r in session.recordings)
        return "No model was applied: there are features, and no prediction." if there else ""
    return f"No prediction: {session.sidecar.get('Reason') or session.row.get('fmmtc_qc') or 'no reason is told.'}"


def _reason(recording: RecordingFacts) -> str:
    record = recording.record
    return " ".join(filter(None, [record.reason, record.last_attempt]))


def _reference(session: SessionFacts) -> list[dict[str, str]]:
    """Return a row for each entry of what training saw: what was found here, and whether it lies inside."""
    rows = []
    found = session.sidecar.get("Reference")
    for name, entry in (found if isinstance(found, dict) else {}).items():
        values = entry.get("found", [])
        if "values" in entry:
            seen = listed([str(v) for v in entry["values"]])
        elif is_embedding(name):
            seen = f"up to {plain(entry.get('high'))} (distance; 1 is the limit)"
        else:
            ends = [f"{word} {plain(entry[end])}" for end, word in (("low", "from"), ("high", "to")) if end in entry]
            seen = " ".join(ends)
        outside = f"outside_reference:{name}" in session.flags
        unknown = f"unknown:{name}" in session.flags
        rows.append(
            {
                "what": reference_words(name),
                "found": listed([plain(v) for v in dict.fromkeys(values)]),
                "seen": seen,
                "inside": "no" if outside else "not known" if unknown else "yes",
            }
        )
    return rows


def _recording(facts: ParticipantFacts, recording: RecordingFacts, name: str, pixels: int) -> dict[str, object]:
    """Return what the template shows of a recording that has features."""
    atlas = facts.atlas
    lost = attempt("Lost parcels", lost_parcels, recording, atlas)
    coverage = attempt("Coverage", coverage_figure, recording, atlas, f"{name}-coverage")
    return {
        "id": name,
        "name": Key(recording.key).words(),
        "facts": _quality(recording),
        "flags": [flag_words(f) for f in recording.flags],
        "timeline": attempt("The time course", timeline_figure, recording, atlas, f"{name}-time", pixels),
        "coverage": coverage,
        "lost": f"Lost parcels: {listed(lost, 40)}." if isinstance(lost, list) and lost else "",
        "no_image": coverage is None and atlas.image is None,
        "matrix": attempt("Connectivity", matrix_figure, recording, atlas, f"{name}-matrix", pixels),
        "sources": recording.record.sources,
    }


def _quality(recording: RecordingFacts) -> list[tuple[str, str]]:
    """Return the numbers of a recording, in the order a reader asks for them."""
    q = recording.quality
    space = Key(recording.record.path.name).label("space")
    rows = [] if q is None else [(about, _shown(q, name, about)) for name, about in ABOUT.items() if about.title]
    left = "not known" if q is None else f"{plain(q.n_frames_left)} of {counted(q.n_frames, 'frame')}{_left_out(q)}"
    lost = "not known" if q is None else f"{plain(q.n_lost_parcels)} of {plain(q.n_parcels)}"
    return [
        ("Usable", left),
        *((about.title, text) for about, text in rows if about.unit in _TIMES),
        ("Space", space or "not told"),
        *((about.title, text) for about, text in rows if about.unit not in _TIMES),
        ("Parcels lost", lost),
        ("Windows", str(len(recording.record.spans))),
    ]


_TIMES = ("s", "min")


def _left_out(q: Quality) -> str:
    """Say which frames are not used, in brackets; nothing where all are."""
    reasons = ((q.n_dropped, "dropped at the start"), (q.n_censored, "censored for motion"))
    told = [f"{counted(n, 'frame')} {why}" for n, why in reasons if n]
    return f" ({listed(told)})" if told else ""


def _shown(q: Quality, name: str, about: About) -> str:
    """Write a number as its row of the page has it."""
    value = q.value(name)
    if q.imported and name == "mean_coverage":
        return "not known"  # there was no image
    if about.shown == "length":
        return "not known" if value is None else f"{number(value, 2)} {about.unit}"
    if about.shown == "share":
        return percent(value, 1)
    return number(value, 1) if about.shown == "tenths" else f"{plain(value)} {about.unit}".rstrip()


def _provenance(facts: ParticipantFacts) -> list[tuple[str, str]]:
    """Return where the numbers come from, as pairs of term and text."""
    digest = next((r.record.digest for s in facts.sessions for r in s.recordings if r.ok), None)
    links = facts.description.get("DatasetLinks")
    atlas = None if facts.recipe is None else facts.recipe.atlas
    pairs = [
        ("Program", f"bids_fmmtc {plain(facts.version)}"),
        ("Recipe digest", str(digest or "not recorded")),
        ("Atlas", f"{plain(atlas.name)}, sha256 {plain(atlas.sha256)}" if atlas else f"{DASH}, sha256 {DASH}"),
        ("Input datasets", ", ".join(f"{k}: {v}" for k, v in links.items()) if isinstance(links, dict) else "not told"),
    ]  # fmt: skip
    model = next((s.sidecar for s in facts.sessions if s.sidecar.get("BundleDigest")), None)
    if model is not None:
        encoders = model.get("EncoderSHA256")
        pairs += [
            ("Model", f"{plain(model.get('ModelName'))}, version {plain(model.get('ModelVersion'))}"),
            ("Bundle digest", str(model["BundleDigest"])),
            ("Encoder weights", json.dumps(encoders) if encoders else "none"),
            ("Device and seed", f"{plain(model.get('Device'))}, {plain(model.get('Seed'))}"),
        ]
    return pairs
