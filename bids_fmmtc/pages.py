"""Draw the pages of an output dataset from its derivatives, while a level runs or again later (``--reports-only``)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from bids_fmmtc.dataset.derivatives.describe import own_entry
from bids_fmmtc.dataset.folders import list_participants
from bids_fmmtc.dataset.store import write_text
from bids_fmmtc.errors import EXIT_FAILURE, EXIT_OK, FmmtcError, InputError, MissingInputError, SelectionError
from bids_fmmtc.keys import Key
from bids_fmmtc.settings import Settings

log = logging.getLogger("bids_fmmtc")

GROUP_PAGE, BUNDLE_PAGE, BUNDLE = "group_fmmtc.html", "bundle.html", "bundle"


def draw_participant(root: Path, label: str) -> Path:
    """Draw ``sub-<label>.html`` from the derivatives in an output dataset; returns its path.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    from bids_fmmtc.report.participant.page import participant_page  # noqa: PLC0415  (matplotlib: 0.7 s)

    page = root / f"sub-{label}.html"
    write_text(page, participant_page(root, label))
    return page


def draw_group(root: Path) -> Path:
    """Draw ``group_fmmtc.html``; returns its path.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    from bids_fmmtc.report.group.page import group_page  # noqa: PLC0415

    page = root / GROUP_PAGE
    write_text(page, group_page(root))
    return page


def draw_bundle(folder: Path) -> Path:
    """Draw the card of the bundle in an analysis' folder, beside it: a bundle holds nothing but its own files.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    from bids_fmmtc.report.bundle_page import bundle_page  # noqa: PLC0415

    page = folder / BUNDLE_PAGE
    write_text(page, bundle_page(folder / BUNDLE))
    return page


def draw_card(folder: Path) -> int:
    """Draw the card of an analysis' bundle where it has one; returns how many pages could not be drawn."""
    return int((folder / BUNDLE).is_dir() and not _drawn(BUNDLE_PAGE, lambda: draw_bundle(folder)))


def draw_results(root: Path, folder: Path | None) -> int:
    """Draw what changes when the group level has run: group page, pages of participants it explained.

    Parameters
    ----------
    root
        The output dataset.
    folder
        Of the analysis that was run; None where only tables were gathered.

    Returns
    -------
    int
        How many pages could not be drawn; each says why.
    """
    steps: list[tuple[str, Callable[[], Path]]] = []
    if folder is not None:
        explained = sorted({Key(p.name).participant for p in folder.glob("attribution/sub-*") if p.is_dir()})
        here = [Key(name).subject for name in explained if (root / name).is_dir()]
        steps += [(f"sub-{label}.html", lambda label=label: draw_participant(root, label)) for label in here]  # type: ignore[misc]
    steps.append((GROUP_PAGE, lambda: draw_group(root)))
    return sum(not _drawn(name, step) for name, step in steps)


def redraw(settings: Settings) -> int:
    """Draw the pages of a level again from the derivatives in the output folder; nothing else is read or written.

    Returns
    -------
    int
        Exit code: 1 where a page could not be drawn.

    Raises
    ------
    MissingInputError, InputError
        There is no output of this program.
    SelectionError
        A participant asked for has no output.
    """
    root = settings.output_dir
    if not root.is_dir():
        raise MissingInputError(f"output folder {root} does not exist.", "Give the one to draw pages of.")
    if own_entry(root) is None:
        raise InputError(f"{root} is no output of bids_fmmtc: its dataset_description.json does not name it.")
    if settings.level == "group":
        steps: list[tuple[str, Callable[[], Path]]] = [
            (f"{folder.parent.name}/{BUNDLE_PAGE}", lambda folder=folder: draw_bundle(folder.parent))  # type: ignore[misc]
            for folder in sorted(root.glob(f"group/[!.]*/{BUNDLE}"))
        ]
        steps.append((GROUP_PAGE, lambda: draw_group(root)))
    else:
        labels = _chosen(root, settings.participants)
        steps = [(f"sub-{label}.html", lambda label=label: draw_participant(root, label)) for label in labels]  # type: ignore[misc]
    failed = sum(not _drawn(name, step) for name, step in steps)
    log.info("%d of %d pages were drawn.", len(steps) - failed, len(steps))
    return EXIT_FAILURE if failed else EXIT_OK


def _chosen(root: Path, asked: tuple[str, ...]) -> tuple[str, ...]:
    there = list_participants([root])
    absent = [label for label in asked if label not in there]
    if absent:
        raise SelectionError(f"{root} holds nothing of participant {', '.join(absent)}; found {', '.join(there)}.")
    return tuple(label for label in there if not asked or label in asked)


def _drawn(name: str, step: Callable[[], Path]) -> bool:
    """Draw a page; tell whether that worked, and say why if not."""
    try:
        step()
    except (FmmtcError, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        log.error("%s could not be drawn: %s", name, " ".join(f"{type(error).__name__}: {error}".split()))
        return False
    return True
