"""A page: template, style and script in one file that asks nothing of anybody."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bids_fmmtc import __version__
from bids_fmmtc.dataset.derivatives.describe import NOT_A_DEVICE

DASH = "–"
# Control characters but tab and line feed, halves of surrogates, and what turns the direction of writing.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def render(template: str, facts: Mapping[str, object]) -> str:
    """Return a page.

    Parameters
    ----------
    template
        Name of a file in ``templates``, which extends ``page.html``.
    facts
        What the template names, ``title`` among it. Every text is escaped and shown without control characters,
        names from outside too; only figures are markup.
    """
    return _environment().get_template(template).render(**facts)


def _harmless(value: Any) -> Any:
    return _HARMFUL.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bids_fmmtc.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _asset("page.css"), _asset("page.js")
    # Only this very script runs, whatever a name in somebody's table may hold; nothing is ever loaded.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {
        "style": Markup(style),  # noqa: S704  (our own file)
        "script": Markup(script),  # noqa: S704  (our own file)
        "policy": f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        "version": __version__,
        "not_a_device": NOT_A_DEVICE,
    }
    filters: dict[str, Callable[..., str]] = {"number": number, "percent": percent, "between": between}
    environment.filters |= filters
    return environment


def _asset(name: str) -> str:
    return resources.files("bids_fmmtc.report").joinpath("assets", name).read_text(encoding="utf-8")


def number(value: Any, digits: int = 2) -> str:
    """Return a number with so many decimals, a dash where there is none."""
    if value is None or value != value:  # noqa: PLR0124  (NaN)
        return DASH
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(value: Any, digits: int = 0) -> str:
    """Return a share as a percentage, a dash where there is none."""
    return DASH if value is None or value != value else f"{number(100 * value, digits)} %"  # noqa: PLR0124


def between(estimate: Mapping[str, object] | None, digits: int = 2) -> str:
    """Return ``value (low to high)`` of an estimate."""
    if not estimate or estimate.get("value") is None:
        return DASH
    return (
        f"{number(estimate['value'], digits)} ({number(estimate['low'], digits)} to {number(estimate['high'], digits)})"
    )
