"""The page of a whole output dataset: who is in it, what was learnt, how sure that is, and everybody in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bids_fmmtc.report.analysis.facts import Analysis
from bids_fmmtc.report.group.facts import Group, Session, read_group
from bids_fmmtc.report.group.figures import applied_figure, flow_figure, quality_figure
from bids_fmmtc.report.group.sections import analysis_view
from bids_fmmtc.report.kit.page import DASH, number, render
from bids_fmmtc.report.kit.sheet import attempt, plain
from bids_fmmtc.report.kit.values import mapping
from bids_fmmtc.report.kit.words import flag_words

TRAIN = "bids_fmmtc BIDS_DIR OUTPUT_DIR group --outcome COLUMN"
PARTS = {  # what every analysis has, in this order
    "flow": "Who was analysed",
    "spread": "Predictions by arm and site",
    "curves": "How good the predictions are",
    "forest": "The model beside baselines",
    "permutation": "Permutation test",
    "confounds": "Checks of confounds",
    "elsewhere": "Other cohorts",
    "attribution": "What the model looks at",
    "trial": "Trial plan",
}
_ALWAYS = {"quality": "Quality", "participants": "Participants", "methods": "Methods and provenance"}


def group_page(root: Path) -> str:
    """Return the group page of an output dataset as HTML; what is missing or broken there is said, never raised.

    Parameters
    ----------
    root
        The output dataset, whose ``group`` folder holds the analyses.
    """
    group = read_group(root)
    views = [analysis_view(group, each, f"a{i}") for i, each in enumerate(group.analyses, 1)]
    for view in views:
        view["shows"] = [key for key in PARTS if shows(view, key)]
    name = root.resolve().name
    facts: dict[str, object] = {
        "title": f"Group report, {name}",
        "heading": name,
        "kind": "Group report",
        "demo": group.demo,
        "contents": contents(group, views),
        "analyses": views,
        "parts": PARTS,
        "overview": overview(views),
        "problems": group.problems,
        "counts": counts(group),
        "train": TRAIN,
        "flow": None if len(views) == 1 else attempt("The flow of people", flow_figure, group, None, "flow"),
        "troubles": [{"participant": t.participant, "what": t.what, "reason": t.reason} for t in group.troubles],
        "attempts": [{"participant": t.participant, "what": t.what, "reason": t.reason} for t in group.attempts],
        "applied": attempt("The predictions", applied_figure, group.sessions, "applied"),
        "models": models(group),
        "quality": attempt("The quality", quality_figure, group.sessions, "quality"),
        "flags": [{"flag": f, "n": plain(n), "words": flag_words(f)} for f, n in group.flags.most_common()],
        "columns": columns(group.analyses),
        "rows": rows(group),
        "made_with": provenance(group),
    }
    return render("group.html", facts)


def contents(group: Group, views: Sequence[Mapping[str, object]]) -> list[tuple[str, str]]:
    """Return id and text of what the page links to at its top."""
    links = [("s-who", "Who is in this dataset")]
    if len(views) == 1:
        links += [(f"{views[0]['prefix']}-s-{key}", text) for key, text in PARTS.items() if shows(views[0], key)]
    elif views:
        links += [(f"{view['prefix']}-s", str(view["label"])) for view in views]
    if group.predicted:
        links.append(("s-applied", "Applied model"))
    return [*links, *((f"s-{key}", text) for key, text in _ALWAYS.items())]


def shows(view: Mapping[str, object], key: str) -> bool:
    """Tell whether a part of an analysis has anything to show; an analysis that did not finish has its flow only."""
    return key == "flow" or bool(view["readable"] and (view[key] or key == "permutation"))


def overview(views: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return a row for each analysis, so that none is picked with the others unseen."""
    return [
        {
            "analysis": {"text": view["label"], "href": f"#{view['prefix']}-s"},
            "outcome": view["outcome"],
            "n": view["n"],
            "headline": view["headline"],
            "verdict": view["lead"],
            "trial": view["trial_verdict"] or DASH,
        }
        for view in views
    ]


def counts(group: Group) -> list[tuple[str, str]]:
    """Return how many there are, as pairs of words and number."""
    return [
        ("Participants known", plain(len(group.participants))),
        ("Without any output", plain(len(group.missing))),
        ("Recordings", plain(group.recordings)),
        ("Failed recordings", plain(group.failed)),
        ("Sessions with a prediction", plain(len(group.predicted))),
        ("Analyses", plain(len(group.analyses))),
    ]


def models(group: Group) -> list[dict[str, str]]:
    """Return a row for each bundle whose predictions are here."""
    return [
        {
            "model": plain(model.get("title")),
            "digest": str(model.get("BundleDigest", ""))[:12],
            "n": plain(model.get("predictions")),
            "demo": "yes" if model.get("demo") is True else "no",
        }
        for model in group.models
    ]


def provenance(group: Group) -> list[tuple[str, str]]:
    """Return what made the features, as far as the dataset tells."""
    atlas, denoising, windows = (mapping(group.recipe.get(name)) for name in ("atlas", "denoising", "windows"))
    return [
        ("Features made with", f"bids_fmmtc {group.version}" if group.version else DASH),
        ("Recipe digest", group.recipe_digest or DASH),
        ("Atlas", f"{plain(atlas.get('name'))}, {plain(atlas.get('n_parcels'))} parcels"),
        ("Denoising", plain(denoising.get("strategy"))),
        ("Windows", f"{plain(windows.get('length'))} frames every {plain(windows.get('stride'))}"),
    ]


# ------------------------------------------------------------------------------------------------ table of participants


def columns(analyses: Sequence[Analysis]) -> list[tuple[str, str, str]]:
    """Return the columns of the table of everybody; each analysis adds one."""
    alone = len(analyses) == 1
    found = [("participant", "participant", "text"), ("session", "session", "text"), ("state", "status", "text")]
    found += [("probability", "probability", "number"), ("decision", "decision", "text")]
    for i, each in enumerate(analyses, 1):
        found.append((f"a{i}", "out of fold" if alone else f"out of fold, {each.label}", "number"))
    found += [("fd", "mean FD (mm)", "number"), ("frames", "frames left", "number")]
    return [*found, ("coverage", "coverage", "number"), ("flags", "flags", "text")]


def rows(group: Group) -> list[dict[str, object]]:
    """Return a row for every session and for everybody who has none, with links to pages of participants."""
    values = [{each.key: each.value for each in analysis.judged} for analysis in group.analyses]
    return [_row(session, [own.get(session.key) for own in values]) for session in group.sessions]


def _row(session: Session, values: Sequence[float | None]) -> dict[str, object]:
    quality = session.quality
    link = {"text": session.participant, "href": session.href} if session.href else session.participant
    when = " ".join(each for each in (session.session, session.task and f"task-{session.task}") if each)
    return {
        "participant": link,
        "session": when or DASH,
        "state": session.state,
        "probability": number(session.probability),
        "decision": session.decision or DASH,
        **{f"a{i}": number(value) for i, value in enumerate(values, 1)},
        "fd": number(quality.mean_fd, 3),
        "frames": number(quality.frames, 0),
        "coverage": number(quality.coverage),
        "flags": ", ".join(session.flags) or DASH,
    }
