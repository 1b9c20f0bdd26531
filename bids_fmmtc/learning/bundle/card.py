"""The model card: what it says of a trained model, and how it is shown as Markdown.

A card is JSON in ``bundle.json``; the bundle's README.md shows it. Names of sites, columns and classes come from other
people's tables, so every text is shown as plain text: no character in it makes a heading, table, link or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bids_fmmtc.errors import BundleError
from bids_fmmtc.learning.bundle.calibrate import UNIT, is_number
from bids_fmmtc.learning.bundle.load import CARD_TEXTS, dumped
from bids_fmmtc.modalities import about

SECTIONS = {
    "data": CARD_TEXTS["data"],
    "outcome": "Outcome",
    "intended_use": CARD_TEXTS["intended_use"],
    "limits": CARD_TEXTS["limits"],
    "findings": "What the evaluation found",
    "metrics": "Performance, out of fold",
    "baselines": "Beside it, in the same folds",
    "out_of_fold": "Probabilities of the people learnt from, out of fold",
    "external": "On other cohorts, untouched",
    "protocol": "Protocol",
    "software": "Software",
}
"""Sections in their order, and their headings; any others follow by name, under it."""
COMMAND = "training_command"
"""The one entry that is shown as code."""
CAUTION = "caution"
"""The one entry that is not shown by itself: the limits hold it, and pages of people that the model is applied to."""
REQUIRED = (
    *("title", "datasets", "classes", "outcome", "findings", "metrics", "baselines", "protocol", "software"),
    COMMAND,
)
OPTIONAL = ("sites", "ages", "arms", "external", "out_of_fold", "version", "demo", CAUTION)
OLDEST = 89.0
"""Years; greater ages could tell who a person is and are not shown, as BIDS advises."""
DEEPEST = 4  # lists below lists; what lies deeper is shown as JSON

# ------------------------------------------------------------------------------------------------------------- content


def trained_card(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of a trained classifier.

    Nothing in it depends on time or place: the same facts give the same card.

    Parameters
    ----------
    facts
        ``title``; ``datasets`` (names); ``classes`` (class -> number of people, the predicted class last);
        ``outcome`` (its definition in words); ``findings`` (sentences of the evaluation, whatever they say);
        ``metrics`` (name -> ``value``, ``low``, ``high``); ``baselines`` (name -> metrics); ``protocol`` and
        ``software`` (anything JSON); ``training_command``. Where they are known: ``sites`` (name -> number of
        people), ``ages`` (years, NaN where missing), ``arms`` (names of the arms learnt from), ``external`` (cohort
        -> metrics), ``out_of_fold`` (range of probability -> class -> number of sessions), ``version``, ``demo``,
        ``caution`` (why its conformal sets are not to be relied on).

    Raises
    ------
    BundleError
        A fact is missing or of no known name, or there are not two classes.
    """
    lacks = sorted(set(REQUIRED) - set(facts))
    unknown = sorted(set(facts) - {*REQUIRED, *OPTIONAL})
    if lacks or unknown:
        raise BundleError(f"model card: lacks {lacks} and has unknown facts {unknown}.")
    if len(facts["classes"]) != 2:
        raise BundleError(f"model card: expected two classes, found {list(facts['classes'])}.")
    card = {name: facts[name] for name in ("title", "outcome", "findings", "metrics", "baselines", "protocol")}
    more = {name: facts[name] for name in ("external", "out_of_fold", "version", CAUTION) if facts.get(name)}
    return card | {
        "demo": bool(facts.get("demo", False)),
        "data": _data(facts),
        "intended_use": _intended_use(facts),
        "limits": _limits(facts),
        "software": facts["software"],
        COMMAND: facts[COMMAND],
        **more,
    }


def _data(facts: Mapping[str, Any]) -> str:
    counts = facts["classes"]
    said = [f"{sum(counts.values())} people ({_counted(counts)}) from {', '.join(facts['datasets'])}."]
    if facts.get("arms"):
        said.append(f"Arms: {', '.join(facts['arms'])}.")
    if facts.get("sites"):
        said.append(f"Sites: {_counted(facts['sites'])}.")
    said.append(_ages(facts["ages"]) if facts.get("ages") is not None else "Ages were not read.")
    return " ".join(said)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _ages(given: ArrayLike) -> str:
    ages = np.asarray(given, dtype=np.float64)
    known = np.minimum(ages[np.isfinite(ages)], OLDEST + 1)
    if len(known) < 2:
        return "Ages are not known."
    youngest, oldest = (f"{a:.0f}" if a <= OLDEST else f"over {OLDEST:.0f}" for a in (known.min(), known.max()))
    some = "" if len(known) == len(ages) else f", known of {len(known)}"
    return f"Age {known.mean():.0f} years on average (SD {known.std(ddof=1):.0f}, {youngest} to {oldest}{some})."


def _intended_use(facts: Mapping[str, Any]) -> str:
    responder = list(facts["classes"])[-1]
    return (
        f"Research on treatment response and the planning of trials: the probability that a person becomes {responder} "
        "by the outcome defined here, from a resting-state recording made and preprocessed like those of training. "
        "Predictions must not guide the care of an individual patient."
    )


def _limits(facts: Mapping[str, Any]) -> str:
    n, fewest = sum(facts["classes"].values()), min(facts["classes"].values())
    elsewhere = "Not validated elsewhere: every figure comes from the training cohort itself, out of fold."
    if facts.get("external"):
        elsewhere = f"Tried elsewhere only on: {', '.join(facts['external'])}. Of other cohorts nothing is known."
    return "\n\n".join(
        (
            "Research software, not a medical device.",
            f"Learnt from {n} people, {fewest} of them in the smaller class. From so few, figures are uncertain; read "
            "them with their intervals, and beside the baselines.",
            elsewhere,
            "A recording whose repetition time, frames, motion, coverage, signal-to-noise ratio, placement of the "
            "atlas or embedding lies outside what training saw is flagged outside_reference; its probability is not "
            "to be relied on. The flags are no proof of likeness: another diagnosis, treatment, age or scanner than "
            "in training is outside too, and need not raise one.",
            facts.get(CAUTION)
            or "The conformal set holds the true class at the stated rate among people like those of training, not for "
            "any one of them.",
        )
    )


# ------------------------------------------------------------------------------------------------------------ Markdown


def card_text(document: Mapping[str, Any], recipe_digest: str) -> str:
    """Return the model card as Markdown.

    Parameters
    ----------
    document
        Content of ``bundle.json``.
    recipe_digest
        Digest of its recipe.
    """
    card = document["card"]
    lines = [f"# {plain(card.get('title', ''))}", ""]
    if card.get("demo"):
        lines += ["**Demonstration only: this model predicts nothing about patients.**", ""]
    others = sorted(set(card) - {*SECTIONS, "title", "demo", COMMAND, CAUTION})
    for name in (n for n in (*SECTIONS, *others) if n in card):
        lines += [f"## {SECTIONS.get(name, _heading(name))}", "", *_block(card[name]), ""]
    if COMMAND in card:
        lines += [f"## {_heading(COMMAND)}", "", f"    {_printable(str(card[COMMAND]))}", ""]
    lines += ["## Model", "", *_model(document), f"- Recipe digest: {plain(recipe_digest)}", ""]
    if isinstance(document["reference"], Mapping) and document["reference"]:
        lines += ["## What training saw", "", *_reference(document["reference"]), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _heading(name: str) -> str:
    return plain(name.replace("_", " ").capitalize())


def _model(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"- Classes: {plain(', '.join(map(str, document['classes'])))}"
    yield f"- Decision threshold: {scalar(document['threshold'])}"
    yield f"- Head: {scalar(document['head'].get('kind'))}"
    yield f"- Calibration: {scalar(document['calibration'].get('kind'))}, per {UNIT}"
    conformal = document["conformal"]
    rate = conformal.get("alpha") if isinstance(conformal, Mapping) else None
    yield f"- Conformal set: {f'error rate {scalar(rate)} in either class' if is_number(rate) else 'none'}"
    for name, encoder in document["encoders"].items():
        where = "included" if encoder["included"] else f"not included. {about(name).licence}"
        yield f"- Encoder {plain(name)}: weights sha256 {plain(encoder['sha256'])}, {where}"


def _reference(reference: Mapping[str, Any]) -> Iterator[str]:
    yield "| | from | to | seen |"
    yield "|---|---|---|---|"
    for name, limits in reference.items():
        entry = limits if isinstance(limits, Mapping) else {}
        seen = ", ".join(map(str, entry.get("values", ())))
        ends = (scalar(entry[end]) if end in entry else "" for end in ("low", "high"))
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
    if isinstance(value, Mapping) and all(map(_is_estimate, value.values())):
        return _table(("", "value", "95 % interval"), [(name, *_estimate(v)) for name, v in value.items()])
    if isinstance(value, Mapping) and all(map(_is_row, value.values())):
        columns = list(dict.fromkeys(column for row in value.values() for column in row))
        rows = [(name, *(_cell(row[c]) if c in row else "" for c in columns)) for name, row in value.items()]
        return _table(("", *columns), rows)
    return list(_listed(value, 0))


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "low", "high"} <= set(value)


def _is_row(value: Any) -> bool:
    cells = value.values() if isinstance(value, Mapping) else [{}]
    return all(_is_estimate(cell) or not isinstance(cell, Mapping | list | tuple) for cell in cells)


def _estimate(value: Mapping[str, Any]) -> tuple[str, str]:
    low, high = value["low"], value["high"]
    return scalar(value["value"]), "none" if low is None or high is None else f"{scalar(low)} to {scalar(high)}"


def _cell(value: Any) -> str:
    if not _is_estimate(value):
        return scalar(value)
    number, interval = _estimate(value)
    return number if value["value"] is None else f"{number} ({interval})"


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
        inner = isinstance(item, Mapping | list | tuple) and bool(item) and not _is_estimate(item)
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
