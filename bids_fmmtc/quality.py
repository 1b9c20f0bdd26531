"""How far a recording can be trusted: its numbers, each with all that is said of it.

A new number is a field of `Quality`, and the line in `signals.quality.measure` that computes it. The columns of
tables, what a bundle compares with its training, the words for that and the rows of a page are made from the fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bids_fmmtc.errors import DataError
from bids_fmmtc.plain import Cell, Strictness, from_json, unwritten

IMPORTED = "imported"
"""The placement of series that came as a table: there was no image to place labels on."""

Widened = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class About:
    """What is said of a quality number.

    Parameters
    ----------
    description, unit
        Of its column; without a description it has none.
    reference
        By what share a bundle widens the least and the greatest value of training, None where there is no limit;
        ``words`` where words seen in training are known, and others are outside; None where it is not compared.
    words
        Its name in a sentence.
    over_runs
        What several runs of a session are given together: their ``sum``, ``mean`` or ``least``; see `over_runs`.
    title, shown
        On a participant's page, where it has a row: heading, and how it is written (``tenths``, ``plain``, ``length``,
        ``share``).
    """

    description: str = ""
    unit: str = ""
    reference: Widened | Literal["words"] | None = None
    words: str = ""
    over_runs: Literal["sum", "mean", "least", ""] = ""
    title: str = ""
    shown: Literal["tenths", "plain", "length", "share"] = "plain"


def _number(description: str = "", unit: str = "", **more: Any) -> Any:
    return dataclasses.field(metadata={"about": About(description, unit, **more)})


def _maybe(description: str = "", unit: str = "", **more: Any) -> Any:
    """Return the field of a number that is not always known."""
    return dataclasses.field(default=None, metadata={"about": About(description, unit, **more)})


def _later() -> Any:
    """Return the field of what is asked of some recordings only; it is not written of the others."""
    return unwritten(None, about=About())


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Numbers and flags of one recording, in the order in which they are stored; None where not known.

    ``n_frames_left`` and ``minutes_left`` are what dropping and censoring leave of the recording's own frames, before
    resampling and windowing; ``n_frames_in_windows`` the distinct frames that windows cover, ``window_repetition_time``
    s apart. Framewise displacement is over all frames but dropped ones. A parcel is low below half, and lost without
    any usable voxel. The frames of imported series may have been taken out before (``frames_removed``).
    """

    n_frames: int = _number("Frames in the recording")
    n_dropped: int = _number("Leading non-steady-state frames dropped")
    n_censored: int = _number("Frames censored for motion")
    n_frames_left: int = _number(
        "Frames of the recording after dropping and censoring, before windowing",
        reference=(0.1, None),
        words="number of frames left",
        over_runs="sum",
    )
    minutes_left: float = _number(
        "Duration of the frames after dropping and censoring",
        "min",
        over_runs="sum",
        title="Minutes left",
        shown="tenths",
    )
    n_frames_in_windows: int = _number("Distinct frames covered by windows, at window_repetition_time", over_runs="sum")
    window_repetition_time: float = _number(
        "Repetition time of the frames in windows: the recipe's target when resampled", "s"
    )
    # The recording's own: resampling may make the frames alike, not the images.
    repetition_time: float = _number(
        "Repetition time of the recording",
        "s",
        reference=(0.01, 0.01),
        words="repetition time",
        title="Repetition time",
    )
    header_repetition_time: float | None = _maybe()
    mean_fd: float | None = _maybe(
        "Mean framewise displacement (Power et al. 2012)",
        "mm",
        reference=(None, 0.25),
        words="mean framewise displacement",
        over_runs="mean",
        title="Mean framewise displacement",
        shown="length",
    )
    max_fd: float | None = _maybe(
        "Largest framewise displacement", "mm", title="Largest framewise displacement", shown="length"
    )
    share_high_fd: float | None = _maybe(
        "Share of frames with a framewise displacement above 0.5 mm", title="Frames above 0.5 mm", shown="share"
    )
    mean_std_dvars: float | None = _maybe("Mean standardised DVARS as fMRIPrep reports it")
    tsnr: float | None = _maybe(
        "Temporal signal-to-noise ratio, median over labelled voxels",
        reference=(0.25, 0.25),
        words="temporal signal-to-noise ratio",
        title="Temporal signal-to-noise ratio",
        shown="tenths",
    )
    mean_coverage: float = _number(
        "Coverage, mean over parcels",
        reference=(0.05, None),
        words="mean coverage of parcels",
        over_runs="least",
        title="Mean coverage of parcels",
        shown="share",
    )
    least_coverage: float = _number()
    n_low_coverage: int = _number("Parcels with less than half of their voxels covered")
    n_lost_parcels: int = _number("Parcels without usable signal")
    n_parcels: int = _number()
    placement: str = _number(reference="words", words="how the atlas came to the image")
    has_mask: bool = _number()
    padded: bool = _number()
    repetition_time_of: str | None = _later()
    single_echo: bool | None = _later()
    places_disagree: bool | None = _later()
    mask_thresholded: bool | None = _later()
    frames_removed: bool | None = _later()
    columns_matched: str | None = _later()
    columns_left_out: tuple[str, ...] | None = _later()
    flags: tuple[str, ...] = ()

    @property
    def imported(self) -> bool:
        """Whether the series were imported, not extracted from an image."""
        return self.placement == IMPORTED

    def value(self, name: str) -> Cell:
        """Return a number or word by its name, which may come from a bundle; None where there is none of that name."""
        found: Cell = getattr(self, name, None) if name in ABOUT else None
        return found


ABOUT: Mapping[str, About] = {f.name: f.metadata["about"] for f in dataclasses.fields(Quality) if f.metadata}
"""What is said of each number, in their order."""


def _columns() -> list[str]:
    names = [name for name, about in ABOUT.items() if about.description]
    # In tables the recording's own repetition time has always stood before that of its windows.
    own, windows = names.index("repetition_time"), names.index("window_repetition_time")
    names[own], names[windows] = names[windows], names[own]
    return names


COLUMNS: Mapping[str, Mapping[str, str]] = {
    name: {"Description": ABOUT[name].description} | ({"Units": ABOUT[name].unit} if ABOUT[name].unit else {})
    for name in _columns()
}
"""Columns of the tables of quality, described as a BIDS sidecar wants."""


def over_runs(name: str, values: Iterable[float | None]) -> float | None:
    """Return what the runs of a session have together of a number, of those that are known; None where none is.

    Motion is their mean; coverage the least, since a parcel that one run lacks is lost to the session.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    rule = ABOUT[name].over_runs
    if rule == "least":
        return min(known)
    return sum(known) / len(known) if rule == "mean" else sum(known)


def read_quality(content: Mapping[str, object], record: str = "record") -> Quality:
    """Return the quality in the record of a recording; what another version stored besides is left out.

    ``record`` is what to call it in messages.

    Raises
    ------
    DataError
        It is not there, or a number is missing or none.
    """
    again = Strictness(hint="Run this recording again.", drop=lambda _: None)
    return from_json(Quality, content.get("Quality"), f"{record}.Quality", again)


def quality_in(content: Mapping[str, object]) -> Quality | None:
    """Return the quality in a record, None where it is not there or no such thing."""
    try:
        return read_quality(content)
    except DataError:
        return None
