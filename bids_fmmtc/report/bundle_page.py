"""The card of a model bundle as a page: the facts of its README.md, what it is for and what it is not for first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_fmmtc.dataset.derivatives.describe import NAME
from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.report.analysis.forest import ForestRow, forest, interval_text
from bids_fmmtc.report.kit.figure import Figure
from bids_fmmtc.report.kit.page import render
from bids_fmmtc.report.kit.sheet import attempt, plain
from bids_fmmtc.report.kit.values import estimate_in, mapping, number_of, texts
from bids_fmmtc.report.kit.words import REFERENCE_WORDS, is_embedding, reference_words
from bids_fmmtc.results.measures import PRIMARY, words_of

DEEPEST = 6
SECTIONS = {
    "intended_use": "Intended use",
    "limits": "Limits",
    "data": "Training data",
    "outcome": "Outcome",
    "findings": "What the evaluation found",
}
"""Sections of words, in their order; the first of ``findings`` also stands at the top."""
_SHOWN = {*SECTIONS, "title", "demo", "version", "metrics", "baselines", "external", "protocol", "software"}
_SHOWN |= {"training_command", "caution"}  # the limits hold the caution
_NONE = "The card says nothing of it."


def bundle_page(folder: Path) -> str:
    """Return the page of a bundle as HTML; what is missing or broken in it is said, never raised.

    Nothing is verified or loaded here but ``bundle.json``: whoever applies a bundle checks every byte of it.

    Parameters
    ----------
    folder
        The bundle, with ``bundle.json`` in it.
    """
    document = read_record(folder / "bundle.json")
    card = mapping((document or {}).get("card"))
    title = str(card.get("title") or folder.resolve().name)
    extra = [(f"s-extra-{i}", heading(name), blocks(card[name])) for i, name in enumerate(_others(card), 1)]
    facts: dict[str, Any] = {
        "title": f"Model card, {title}",
        "heading": title,
        "kind": "Model card",
        "demo": card.get("demo") is True,
        "readable": document is not None,
        "findings": texts(card.get("findings"))[:1],
        "sections": [(f"s-{name}", text, blocks(card.get(name, _NONE))) for name, text in SECTIONS.items()],
        "forest": attempt("The comparison", performance, card, "performance"),
        "own": blocks(card.get("metrics", _NONE)),
        "metrics": metric_tables(card),
        "external": blocks(card["external"]) if card.get("external") else [],
        "model": attempt("The model", model_facts, document or {}),
        "reference": attempt("What training saw", reference_rows, mapping((document or {}).get("reference"))),
        "files": attempt("The files", file_rows, folder, mapping((document or {}).get("files"))),
        "protocol": blocks(card.get("protocol", _NONE)),
        "software": blocks(card.get("software", _NONE)),
        "command": str(card.get("training_command", "")),
        "extra": extra,
    }
    facts["contents"] = [(name, text) for name, text, _ in facts["sections"]]
    facts["contents"] += [("s-performance", "Performance"), ("s-model", "The model"), ("s-reference", "Reference")]
    facts["contents"] += [(name, text) for name, text, _ in extra]
    facts["contents"] += [("s-files", "Files"), ("s-protocol", "Protocol and software")]
    return render("bundle.html", facts)


def _others(card: Mapping[str, Any]) -> list[str]:
    """Return the sections that this page does not know, in the order of the card."""
    return [str(name) for name in card if name not in _SHOWN]


def heading(name: str) -> str:
    """Return the name of a section in words."""
    words = " ".join(name.replace("_", " ").split())
    return f"{words[:1].upper()}{words[1:]}" or "Without a name"


# --------------------------------------------------------------------------------------------------------- performance


def performance(card: Mapping[str, Any], name: str) -> Figure | None:
    """Draw the model beside its baselines by the measure of record; None where the card has no such measure."""
    measure = PRIMARY["classification"]
    metric = measure.name
    own = ForestRow("the model", "model", estimate_in(card.get("metrics"), metric))
    if own.estimate is None:
        return None
    rows = [ForestRow(str(k), "baseline", estimate_in(v, metric)) for k, v in mapping(card.get("baselines")).items()]
    more = [
        ForestRow(f"cohort {k}, untouched", "elsewhere", estimate_in(v, metric))
        for k, v in mapping(card.get("external")).items()
    ]
    kept = [row for row in (*rows, *more) if row.estimate is not None]
    caption = "Out of fold, on the same people and folds, with 95 % intervals; baselines include parts of the model."
    return forest([own, *kept], measure, name, "The model beside its baselines", caption)


def metric_tables(card: Mapping[str, Any], most: int = 4) -> list[dict[str, Any]]:
    """Return every measure of the model and of what stands beside it as tables narrow enough for paper."""
    shown: dict[str, Mapping[str, Any]] = {"the model": mapping(card.get("metrics"))}
    shown |= {str(k): mapping(v) for k, v in mapping(card.get("baselines")).items()}
    names = list(dict.fromkeys(name for metrics in shown.values() for name in metrics))
    tables = []
    for start in range(0, len(names), most):
        some = names[start : start + most]
        columns = [("what", "what", "text"), *((name, words_of(name), "number") for name in some)]
        rows = []
        for what, metrics in shown.items():
            cells = {n: interval_text(estimate_in(metrics, n)) if n in metrics else plain(None) for n in some}
            rows.append({"what": what, **cells})
        caption = f"The model and what was judged beside it: {', '.join(heading for _, heading, _ in columns[1:])}"
        tables.append({"caption": caption, "columns": columns, "rows": rows})
    return tables


# ---------------------------------------------------------------------------------------------------------- the bundle


def model_facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the model is and how it decides."""
    calibration, conformal = mapping(document.get("calibration")), mapping(document.get("conformal"))
    classes = document.get("classes")
    rate = number_of(conformal.get("alpha"))
    pairs = [
        ("Classes, the predicted one last", ", ".join(texts(classes)) or plain(None)),
        ("Decision threshold", plain(number_of(document.get("threshold")))),
        ("Head", plain(mapping(document.get("head")).get("kind"))),
        ("Calibration", _calibration(calibration)),
        ("One value for each", plain(document.get("unit"))),
        ("Conformal set", "none" if rate is None else f"error rate {plain(rate)} in either class"),
    ]
    if rate is not None:
        quantiles = conformal.get("quantiles")
        told = ", ".join(plain(number_of(q)) for q in quantiles) if isinstance(quantiles, Sequence) else plain(None)
        pairs.append(("Conformal quantiles", told))
    for name, encoder in mapping(document.get("encoders")).items():
        own = mapping(encoder)
        where = "included" if own.get("included") is True else "not included; everybody fetches the weights"
        pairs.append((f"Encoder {name}", f"{where}; sha256 {plain(own.get('sha256'))}"))
    shapes = mapping(document.get("shapes"))
    pairs += [(f"Input {name}", " × ".join(map(str, shape))) for name, shape in shapes.items()]
    return [*pairs, ("Checksum", plain(document.get("checksum")))]


def _calibration(found: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{name} {plain(number_of(found[name]))}" for name in ("slope", "intercept") if name in found)
    return f"{plain(found.get('kind'))}{f' ({numbers})' if numbers else ''}"


def reference_rows(reference: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what training saw: a row a quantity with its limits or the values seen."""
    rows = []
    for name, limits in reference.items():
        own = mapping(limits)
        values = own.get("values")
        rows.append(
            {
                "name": f"{name} ({reference_words(name)})"
                if name in REFERENCE_WORDS or is_embedding(name)
                else str(name),
                "low": plain(number_of(own.get("low"))),
                "high": plain(number_of(own.get("high"))),
                "values": ", ".join(map(str, values)) if isinstance(values, list) else plain(None),
            }
        )
    return rows


def file_rows(folder: Path, files: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the listed files with size and sha256, and whether each is there with that size."""
    rows = []
    for name, entry in files.items():
        own, path = mapping(entry), folder / str(name)
        inside = re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", str(name)) is not None and ".." not in str(name)
        there = inside and path.is_file()
        state = "there" if there and path.stat().st_size == own.get("bytes") else "differs" if there else "missing"
        size, digest = plain(own.get("bytes")), plain(own.get("sha256"))
        rows.append({"name": str(name), "bytes": size, "sha256": digest, "state": state})
    return rows


# -------------------------------------------------------------------------------------------------- anything on a card


def blocks(value: Any) -> list[dict[str, Any]]:
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


def _table(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return estimates, or rows of estimates, as a table; None for anything else."""
    if all(_is_estimate(each) for each in value.values()):
        columns = [("what", "measure", "text"), ("value", "value (95 % interval)", "number")]
        rows = [{"what": _words(k), "value": interval_text(estimate_in(value, k))} for k in value]
        return {"kind": "table", "columns": columns, "rows": rows}
    if all(isinstance(row, Mapping) and row and all(map(_is_estimate, row.values())) for row in value.values()):
        names = list(dict.fromkeys(name for row in value.values() for name in row))
        columns = [("what", "of", "text"), *((name, _words(name), "number") for name in names)]
        rows = [
            {"what": str(k), **{n: interval_text(estimate_in(row, n)) for n in names if n in row}}
            for k, row in value.items()
        ]
        return {"kind": "table", "columns": columns, "rows": rows}
    return None


def _words(name: str) -> str:
    return words_of(name)


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "low", "high"} <= set(value)


def flat(value: Mapping[Any, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield path and text of everything below a mapping; what lies very deep as JSON."""
    for name, inner in value.items():
        path = f"{before}{name if name == NAME else str(name).replace('_', ' ')}"
        if isinstance(inner, Mapping | list | tuple) and depth + 1 >= DEEPEST:
            yield path, json.dumps(inner, ensure_ascii=False)
        elif _is_estimate(inner):
            yield path, interval_text(estimate_in({"x": inner}, "x"))
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
