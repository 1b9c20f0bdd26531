"""What all pages draw with: sheets of one width, short labels, parts that may fail."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from bids_fmmtc.report.kit.figure import canvas
from bids_fmmtc.report.kit.page import DASH

T = TypeVar("T")
WIDTH = 4.0
"""Inches: two figures stand side by side on a desk, and one is still readable on a phone."""


@contextmanager
def sheet(
    height: float, left: float = 0.6, bottom: float = 0.45, right: float = 0.15, top: float = 0.1
) -> Iterator[Any]:
    """Give a canvas of the width that all figures of these pages have, with fixed margins in inches.

    Margins that matplotlib works out by itself would take half of the time that a page takes.
    """
    with canvas(WIDTH, height, layout="none") as drawn:
        sides = {"left": left / WIDTH, "right": 1 - right / WIDTH}
        drawn.subplots_adjust(**sides, bottom=bottom / height, top=1 - top / height)
        yield drawn


def room(labels: Sequence[str], size: float = 8.5) -> float:
    """Return the margin in inches that tick labels of this size in points need beside an axis."""
    return 0.14 + 0.0085 * size * max((len(line) for label in labels for line in label.split("\n")), default=0)


def key_below(drawn: Any, columns: int, **more: Any) -> None:
    """Put the legend of a canvas below its axes, at the very bottom."""
    style = {"borderaxespad": 0.1, "handletextpad": 0.4, "columnspacing": 1.0, **more}
    drawn.legend(loc="lower left", ncols=columns, **style)


def attempt(what: str, make: Callable[..., T], *given: Any) -> T | str:
    """Return what ``make`` makes of what is given, or one line that says why it cannot be shown."""
    try:
        return make(*given)
    except Exception as error:  # whatever is odd in one file must not cost the page
        reason = " ".join(str(error).split())
        return f"{what} cannot be shown: {type(error).__name__}{f' ({short(reason, 160)})' if reason else ''}."


def short(text: object, most: int = 40) -> str:
    """Return a text as one printable line, cut where it is longer than ``most``."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split()))
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def wrapped(text: object, width: int, lines: int = 3) -> str:
    """Return a text as at most so many lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(short(text, 400), width, max_lines=lines, placeholder=" …", break_long_words=True))


def counted(n: float, one: str, many: str | None = None) -> str:
    """Return a number with its noun, ``1 person`` or ``3 people``."""
    return f"{plain(n)} {one if n == 1 else many or one + 's'}"


def plain(value: Any, digits: int = 4) -> str:
    """Return one value that holds no others, as text: numbers with ``digits`` that count, a dash for nothing."""
    if value is None or value != value:  # noqa: PLR0124  (NaN)
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e15
        return (f"{value:,.0f}" if whole else f"{value:.{digits}g}").replace("-", "−")
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    return str(value)
