"""The card of a model bundle as a page: the facts of its README.md, what it is for and what it is not for first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_fmmtc.dataset.derivatives.describe import NAME
from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.report.analysis.forest import ForestRow, forest, interval_text
from bids_fmmtc.report.kit.figure import Figure
from bids_fmmtc.report.kit.page import render
from bids_fmmtc.report.kit.sheet import attempt, plain
from bids_fmmtc.report.kit.values import mapping
from bids_fmmtc.report.kit.words import REFERENCE_WORDS, is_embedding, reference_words
from bids_fmmtc.results.card import (
    CAUTION,
    COMMAND,
    SECTIONS,
    Calibration,
    Conformal,
    Document,
    Limits,
    Listed,
    ModelCard,
    document_of,
    estimate_of,
    estimates_of,
)
from bids_fmmtc.results.measures import PRIMARY, words_of

DEEPEST = 6
FIRST = ("intended_use", "limits", "data", "outcome", "findings")
"""Sections of words, in their order; the first of ``findings`` also stands at the top."""
_SHOWN = {*FIRST, "title", "demo", "version", "metrics", "baselines", "external", "protocol", "software"}
_SHOWN |= {COMMAND, CAUTION}  # the limits hold the caution
_NONE = "The card says nothing of it."


def bundle_page(folder: Path) -> str:
    """Return the page of a bundle as HTML; what is missing or broken in it is said, never raised.

    Nothing is verified or loaded here but ``bundle.json``: whoever applies a bundle checks every byte of it.

    Parameters
    ----------
    folder
        The bundle, with ``bundle.json`` in it.
    """
    content = read_record(folder / "bundle.json")
    document, sections = document_of(content), mapping((content or {}).get("card"))
    card = document.card
    title = card.title or folder.resolve().name
    extra = [(f"s-extra-{i}", heading(name), blocks(sections[name])) for i, name in enumerate(_others(sections), 1)]
    told = {name: blocks(sections.get(name, _NONE)) for name in (*FIRST, "metrics", "protocol", "software")}
    parts = [(f"s-{name}", SECTIONS[name], told[name]) for name in FIRST]
    facts: dict[str, object] = {
        "title": f"Model card, {title}",
        "heading": title,
        "kind": "Model card",
        "demo": card.demo,
        "readable": content is not None,
        "findings": card.findings[:1],
        "sections": parts,
        "contents": _contents(parts, extra),
        "forest": attempt("The comparison", performance, card, "performance"),
        "own": told["metrics"],
        "metrics": metric_tables(card),
        "external": blocks(sections["external"]) if sections.get("external") else [],
        "model": attempt("The model", model_facts, document),
        "reference": attempt("What training saw", reference_rows, document.reference or {}),
        "files": attempt("The files", file_rows, folder, document.files),
        "protocol": told["protocol"],
        "software": told["software"],
        "command": card.training_command,
        "extra": extra,
    }
    return render("bundle.html", facts)


Section = tuple[str, str, Sequence[object]]
"""Id, heading, blocks."""


def _contents(parts: Iterable[Section], extra: Iterable[Section]) -> list[tuple[str, str]]:
    """Return id and text of what the page links to at its top."""
    return [
        *((name, text) for name, text, _ in parts),
        *(("s-performance", "Performance"), ("s-model", "The model"), ("s-reference", "Reference")),
        *((name, text) for name, text, _ in extra),
        *(("s-files", "Files"), ("s-protocol", "Protocol and software")),
    ]


def _others(sections: Iterable[str]) -> list[str]:
    """Return the sections that this page does not know, in the order of the card."""
    return [str(name) for name in sections if name not in _SHOWN]


def heading(name: str) -> str:
    """Return the name of a section in words."""
    words = " ".join(name.replace("_", " ").split())
    return f"{words[:1].upper()}{words[1:]}" or "Without a name"


# --------------------------------------------------------------------------------------------------------- performance


def performance(card: ModelCard, name: str) -> Figure | None:
    """Draw the model beside its baselines by the measure of record; None where the card has no such measure."""
    measure = PRIMARY["classification"]
    if measure.name not in card.metrics:
        return None
    rows = [ForestRow("the model", "model", card.metrics[measure.name].estimate)]
    beside = [(what, "baseline", figures) for what, figures in card.baselines.items()]
    beside += [(f"cohort {what}, untouched", "elsewhere", figures) for what, figures in (card.external or {}).items()]
    rows += [
        ForestRow(what, role, figures[measure.name].estimate)
        for what, role, figures in beside
        if measure.name in figures
    ]
    caption = "Out of fold, on the same people and folds, with 95 % intervals; baselines include parts of the model."
    return forest(rows, measure, name, "The model beside its baselines", caption)


def metric_tables(card: ModelCard, most: int = 4) -> list[dict[str, object]]:
    """Return every measure of the model and of what stands beside it as tables narrow enough for paper."""
    shown = {"the model": card.metrics, **card.baselines}
    names = list(dict.fromkeys(name for figures in shown.values() for name in figures))
    tables: list[dict[str, object]] = []
    for start in range(0, len(names), most):
        some = names[start : start + most]
        columns = [("what", "what", "text"), *((name, words_of(name), "number") for name in some)]
        rows = []
        for what, figures in shown.items():
            cells = {n: interval_text(figures[n].estimate) if n in figures else plain(None) for n in some}
            rows.append({"what": what, **cells})
        caption = f"The model and what was judged beside it: {', '.join(heading for _, heading, _ in columns[1:])}"
        tables.append({"caption": caption, "columns": columns, "rows": rows})
    return tables


# ---------------------------------------------------------------------------------------------------------- the bundle


def model_facts(document: Document) -> list[tuple[str, str]]:
    """Return what the model is and how it decides."""
    conformal = document.conformal or Conformal()
    rate = conformal.alpha
    pairs = [
        ("Classes, the predicted one last", ", ".join(document.classes) or plain(None)),
        ("Decision threshold", plain(document.threshold)),
        ("Head", plain(document.head.kind)),
        ("Calibration", _calibration(document.calibration)),
        ("One value for each", plain(document.unit)),
        ("Conformal set", "none" if rate is None else f"error rate {plain(rate)} in either class"),
    ]
    if rate is not None:
        pairs.append(("Conformal quantiles", ", ".join(map(plain, conformal.quantiles)) or plain(None)))
    for name, weights in document.encoders.items():
        where = "included" if weights.included else "not included; everybody fetches the weights"
        pairs.append((f"Encoder {name}", f"{where}; sha256 {plain(weights.sha256)}"))
    pairs += [(f"Input {name}", " × ".join(map(str, shape))) for name, shape in document.shapes.items()]
    return [*pairs, ("Checksum", plain(document.checksum))]


def _calibration(found: Calibration) -> str:
    told = {"slope": found.slope, "intercept": found.intercept}
    numbers = ", ".join(f"{name} {plain(number)}" for name, number in told.items() if number is not None)
    return f"{plain(found.kind)}{f' ({numbers})' if numbers else ''}"


def reference_rows(reference: Mapping[str, Limits]) -> list[dict[str, str]]:
    """Return what training saw: a row a quantity with its limits or the values seen."""
    rows = []
    for name, limits in reference.items():
        known = name in REFERENCE_WORDS or is_embedding(name)
        rows.append(
            {
                "name": f"{name} ({reference_words(name)})" if known else name,
                "low": plain(limits.low),
                "high": plain(limits.high),
                "values": plain(None) if limits.values is None else ", ".join(map(str, limits.values)),
            }
        )
    return rows


def file_rows(folder: Path, files: Mapping[str, Listed]) -> list[dict[str, str]]:
    """Return the listed files with size and sha256, and whether each is there with that size."""
    rows = []
    for name, listed in files.items():
        path = folder / name
        inside = re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", name) is not None and ".." not in name
        there = inside and path.is_file()
        state = "there" if there and path.stat().st_size == listed.bytes else "differs" if there else "missing"
        rows.append({"name": name, "bytes": plain(listed.bytes), "sha256": plain(listed.sha256), "state": state})
    return rows


# -------------------------------------------------------------------------------------------------- anything on a card


def blocks(value: Any) -> list[dict[str, object]]:
    """Return any JSON value as blocks that the template shows: paragraphs, a list, a table, or pairs."""
    if isinstance(value, str):
        return [{"kind": "text", "lines": [p for p in re.split(r"\n\s*\n", value) if p.strip()]}]
    if isinstance(value, Mapping) and value:
        return [_table(value) or {"kind": "pairs", "pairs": list(flat(value))}]
    if isinstance(value, Sequence) and value:
        if all(isinstance(each, str) for each in value):
            return [{"kind": "list", "lines": list(value)}]
        return [{"kind": "pairs", "pairs": list(flat(dict(enumerate(value, 1))))}]
    return [{"kind": "text", "lines": ["None." if isinstance(value, Mapping | Sequence) else plain(value)]}]


def _table(value: Mapping[Any, Any]) -> dict[str, object] | None:
    """Return estimates, or rows of estimates, as a table; None for anything else."""
    if (estimates := estimates_of(value)) is not None:
        columns = [("what", "measure", "text"), ("value", "value (95 % interval)", "number")]
        rows = [{"what": words_of(name), "value": interval_text(each)} for name, each in estimates.items()]
        return {"kind": "table", "columns": columns, "rows": rows}
    grid = {str(name): estimates for name, row in value.items() if (estimates := estimates_of(row)) is not None}
    if len(grid) < len(value):
        return None
    names = list(dict.fromkeys(name for row in grid.values() for name in row))
    columns = [("what", "of", "text"), *((name, words_of(name), "number") for name in names)]
    rows = [
        {"what": what, **{name: interval_text(row[name]) for name in names if name in row}}
        for what, row in grid.items()
    ]
    return {"kind": "table", "columns": columns, "rows": rows}


def flat(value: Mapping[Any, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield path and text of everything below a mapping; what lies very deep as JSON."""
    for name, inner in value.items():
        path = f"{before}{name if name == NAME else str(name).replace('_', ' ')}"
        if isinstance(inner, Mapping | list | tuple) and depth + 1 >= DEEPEST:
            yield path, json.dumps(inner, ensure_ascii=False)
        elif (estimate := estimate_of(inner)) is not None:
            yield path, interval_text(estimate)
        elif isinstance(inner, Mapping) and inner:
            yield from flat(inner, f"{path}: ", depth + 1)
        elif isinstance(inner, list | tuple):
            simple = all(not isinstance(each, Mapping | list | tuple) for each in inner)
            if simple:
                yield path, ", ".join(map(plain, inner)) or "none"
            else:
                yield from flat(dict(enumerate(inner, 1)), f"{path}: ", depth + 1)
        else:
            yield path, "none" if isinstance(inner, Mapping) else plain(inner)
