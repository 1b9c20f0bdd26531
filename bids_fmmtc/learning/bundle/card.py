"""The model card as Markdown: README.md of a bundle; what it says stands in `bids_fmmtc.results.card`.

Names of sites, columns and classes come from other
people's tables, so every text is shown as plain text: no character in it makes a heading, table, link or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bids_fmmtc.learning.bundle.calibrate import UNIT
from bids_fmmtc.learning.bundle.load import dumped
from bids_fmmtc.modalities import about
from bids_fmmtc.results.card import CAUTION, COMMAND, SECTIONS, Document, Limits, document_of, estimate_of, estimates_of
from bids_fmmtc.results.estimate import Estimate

DEEPEST = 4  # lists below lists; what lies deeper is shown as JSON


def card_text(document: Mapping[str, object], recipe_digest: str) -> str:
    """Return the model card as Markdown.

    Parameters
    ----------
    document
        Content of ``bundle.json``.
    recipe_digest
        Digest of its recipe.
    """
    card = document["card"]
    if not isinstance(card, Mapping):
        raise ValueError("a card is an object")
    lines = [f"# {plain(card.get('title', ''))}", ""]
    if card.get("demo"):
        lines += ["**Demonstration only: this model predicts nothing about patients.**", ""]
    others = sorted(set(card) - {*SECTIONS, "title", "demo", COMMAND, CAUTION})
    for name in (n for n in (*SECTIONS, *others) if n in card):
        lines += [f"## {SECTIONS.get(name, _heading(name))}", "", *_block(card[name]), ""]
    if COMMAND in card:
        lines += [f"## {_heading(COMMAND)}", "", f"    {_printable(str(card[COMMAND]))}", ""]
    about_model = document_of(document)
    lines += ["## Model", "", *_model(about_model), f"- Recipe digest: {plain(recipe_digest)}", ""]
    if about_model.reference:
        lines += ["## What training saw", "", *_reference(about_model.reference), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _heading(name: str) -> str:
    return plain(name.replace("_", " ").capitalize())


def _model(document: Document) -> Iterator[str]:
    conformal = document.conformal
    rate = None if conformal is None else conformal.alpha
    yield f"- Classes: {plain(', '.join(document.classes))}"
    yield f"- Decision threshold: {scalar(document.threshold)}"
    yield f"- Head: {scalar(document.head.kind)}"
    yield f"- Calibration: {scalar(document.calibration.kind)}, per {UNIT}"
    yield f"- Conformal set: {'none' if rate is None else f'error rate {scalar(rate)} in either class'}"
    for name, weights in document.encoders.items():
        where = "included" if weights.included else f"not included. {about(name).licence}"
        yield f"- Encoder {plain(name)}: weights sha256 {plain(str(weights.sha256))}, {where}"


def _reference(reference: Mapping[str, Limits]) -> Iterator[str]:
    yield "| | from | to | seen |"
    yield "|---|---|---|---|"
    for name, limits in reference.items():
        seen = ", ".join(map(str, limits.values or ()))
        ends = ("" if end is None else scalar(end) for end in (limits.low, limits.high))
        yield f"| {plain(name)} | {' | '.join(ends)} | {plain(seen)} |"


def _block(value: Any) -> list[str]:
    """Return any JSON value as lines: paragraphs, a table of estimates, or a list."""
    if isinstance(value, str):
        paragraphs = [plain(part) for part in re.split(r"\n[^\S\n]*\n", value) if part.strip()]
        return [line for paragraph in paragraphs for line in (paragraph, "")][:-1]
    if not isinstance(value, Mapping | list | tuple):
        return [scalar(value)]
    if not value:
        return ["None."]
    if (estimates := estimates_of(value)) is not None:
        return _table(("", "value", "95 % interval"), [(name, *_estimate(each)) for name, each in estimates.items()])
    if isinstance(value, Mapping) and all(map(_is_row, value.values())):
        columns = list(dict.fromkeys(column for row in value.values() for column in row))
        rows = [(name, *(_cell(row[c]) if c in row else "" for c in columns)) for name, row in value.items()]
        return _table(("", *columns), rows)
    return list(_listed(value, 0))


def _is_row(value: Any) -> bool:
    cells = value.values() if isinstance(value, Mapping) else [{}]
    return all(estimate_of(cell) is not None or not isinstance(cell, Mapping | list | tuple) for cell in cells)


def _estimate(found: Estimate) -> tuple[str, str]:
    low, high = found.low, found.high
    return scalar(found.value), "none" if low is None or high is None else f"{scalar(low)} to {scalar(high)}"


def _cell(value: Any) -> str:
    found = estimate_of(value)
    if found is None:
        return scalar(value)
    number, interval = _estimate(found)
    return number if found.value is None else f"{number} ({interval})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table; the header and the first cell of each row are names, the other cells are ready."""
    head = [plain(str(name)) for name in header]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join((plain(str(name)), *cells))} |" for name, *cells in rows]


def _listed(value: Any, depth: int) -> Iterator[str]:
    """Yield the lines of a nested list."""
    pad = "  " * depth
    pairs = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
    for name, item in pairs:
        label = "" if name is None else f"{plain(str(name))}: "
        inner = isinstance(item, Mapping | list | tuple) and bool(item) and estimate_of(item) is None
        if not inner:
            yield f"{pad}- {label}{_cell(item)}"
        elif depth + 1 >= DEEPEST:
            yield f"{pad}- {label}{plain(dumped(item))}"
        else:
            yield f"{pad}- {label}".rstrip()
            yield from _listed(item, depth + 1)


def scalar(value: Any) -> str:
    """Return one JSON value that holds no others, as plain text; numbers with four digits."""
    if value is None or (isinstance(value, Mapping | list | tuple) and not value):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return plain(str(value))


_SPECIAL = re.compile(r"[\\`*\[\]|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+=](?=[-+=\s]|$)")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def plain(text: str) -> str:
    """Return a text as one line that Markdown shows as it is: in a paragraph, heading, list item or table cell."""
    line = _printable(text)
    number = re.match(r"\d{1,9}(?=[.)](?:\s|$))", line)  # "1." would begin a list
    start = number.group() + "\\" if number else ""
    rest = line[len(start) - 1 :] if number else line
    return start + _SPECIAL.sub(r"\\\g<0>", rest).translate(_HTML)


def _printable(text: str) -> str:
    """Return one line without control characters, lone surrogates or marks that turn the direction of writing."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
