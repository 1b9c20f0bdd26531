"""What the name of a table of parcel series says, and what stands beside the table: sidecars, motion, outliers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bids_fmmtc.dataset.folders import entries
from bids_fmmtc.dataset.naming import Filters, Image, matches
from bids_fmmtc.errors import RepetitionTimeError, UnreadableError
from bids_fmmtc.reading import read_object
from bids_fmmtc.types import Recording

UNKNOWN_SPACE = "unknown"
SUFFIX = "_timeseries.tsv"
IDENTITY = ("sub", "ses", "task", "acq", "ce", "trc", "rec", "dir", "run", "echo", "part")
"""What tells recordings apart; every other entity of a name is a variant of one recording's series."""
_ATLAS = ("atlas", "seg", "scale")
# giga_connectome names its scrubbing presets by their limit in mm, with the decimal point: desc-...Scrubbing.5+gsr
_NAME = re.compile(r"((?:[A-Za-z]+-[A-Za-z0-9+]+(?:\.[0-9][A-Za-z0-9+]*)?_)+)[A-Za-z]+\.[a-z]+", re.ASCII)
_TR_SECONDS = (0.05, 30.0)  # no scanner is faster or slower; 2000 is milliseconds
_SAME = 0.01  # two repetition times that differ by no more than this share are one


def labels_of(name: str) -> dict[str, str] | None:
    """Return the entities of a file name, short name -> label; None for a name that is not made of them."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    pairs = [token.partition("-") for token in match[1].rstrip("_").split("_")]
    labels = {key: value for key, _, value in pairs}
    return labels if len(labels) == len(pairs) else None


def identity_of(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what all files of one recording share; ``run-1`` and ``run-01`` are one run."""
    numbered = ("run", "echo")
    found = [(k, labels[k]) for k in IDENTITY if k in labels]
    return tuple((k, str(int(v)) if k in numbered and v.isdigit() else v) for k, v in found)


@dataclass(frozen=True, slots=True)
class SeriesFile:
    """A table of parcel series by its name: ``labels`` are short entity name -> label, as in the name."""

    path: Path
    labels: Mapping[str, str]

    @property
    def atlas(self) -> str | None:
        """Which parcels: the labels of ``atlas-``, ``seg-`` and ``scale-`` in one; None where the name has none."""
        return "".join(self.labels[k] for k in _ATLAS if k in self.labels) or None

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """What all tables of one recording share; ``run-1`` and ``run-01`` are one run."""
        return identity_of(self.labels)

    @property
    def variant(self) -> tuple[tuple[str, str], ...]:
        """What tells series of one recording and atlas apart: space, denoising, feature."""
        return tuple(sorted((k, v) for k, v in self.labels.items() if k not in IDENTITY and k not in _ATLAS))

    @property
    def space(self) -> str:
        """The ``space-`` label, else ``unknown``."""
        return self.labels.get("space", UNKNOWN_SPACE)

    def matches(self, filters: Filters) -> bool:
        """Tell whether the name meets checked filters."""
        return matches(Image(self.path.parent, 0, self.path, self.labels, ".tsv"), filters.get("bold", {}))


@dataclass(frozen=True, slots=True)
class Beside:
    """What stands beside a table of series: xcp_d's table of ``outliers``, and what sidecars ``told`` (JSON-ready)."""

    outliers: Path | None
    told: Mapping[str, float | None]


def is_series(recording: Recording) -> bool:
    """Tell whether a recording's data are a table of parcel series, not an image."""
    return recording.bold.name.endswith(SUFFIX)


def beside_series(recording: Recording) -> Beside:
    """Look up what stands beside the table of an imported recording."""
    labels = labels_of(recording.bold.name)
    if labels is None:
        raise ValueError(f"{recording.bold.name} is no name of a table of series")
    return Neighbours(recording.dataset).beside(SeriesFile(recording.bold, labels))


@dataclass(frozen=True, slots=True)
class _Other:
    path: Path
    labels: Mapping[str, str]
    suffix: str


class Neighbours:
    """Sidecars, motion and outliers of tables below a folder; remembers the folders it has listed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._list = lru_cache(maxsize=4096)(_listed)

    def beside(self, file: SeriesFile) -> Beside:
        """Return everything but motion."""
        data = self._sidecar(file)
        told = {
            "mean_fd": _number(data, "MeanFramewiseDisplacement", "FDMean"),  # giga_connectome and ours; HALFpipe
            "n_scrubbed": _number(data, "NumberOfVolumesDiscardedByMotionScrubbing"),
            "n_skipped": _number(data, "NumberOfVolumesDiscardedByNonsteadyStatesDetector", "DummyScans"),
        }
        return Beside(self._table(file, "outliers", {None}), told)

    def motion(self, file: SeriesFile) -> Path | None:
        """Return the table with the framewise displacement: xcp_d's ``motion.tsv``, else fMRIPrep's confounds."""
        found = self._table(file, "motion", {None, "filtered"})
        for suffix in ("timeseries", "regressors"):
            found = found or self._table(file, suffix, {"confounds"})
        return found

    def repetition_time(self, file: SeriesFile, given: float | None) -> float:
        """Return the repetition time that the sidecars tell, else the one given.

        The ``SamplingFrequency`` in HALFpipe's sidecars (names with ``feature-``) is its repetition time in seconds,
        not its inverse; since that may be mended one day, the time given rules over it.

        Raises
        ------
        RepetitionTimeError
            None is known, it is no number or implausible, two that are told contradict each other, or a sidecar is
            there and cannot be read.
        """
        data = self._sidecar(file)
        for name in ("RepetitionTime", "SamplingFrequency"):
            if name in data and _number(data, name) is None:
                raise RepetitionTimeError(
                    f"{file.path.name}: a sidecar gives {name} as {str(data[name])[:60]!r}, expected a number.",
                    "Correct the sidecar.",
                )
        time, frequency = _number(data, "RepetitionTime"), _number(data, "SamplingFrequency")
        if frequency is not None and frequency > 0:
            halfpipe = "feature" in file.labels
            second = (given or frequency) if halfpipe and time is None else 1 / frequency
            if time is not None and not halfpipe:
                _refuse_two(file, "RepetitionTime", time, "SamplingFrequency", second)
            time = second if time is None else time
        if time is None and given is None:
            raise RepetitionTimeError(
                f"{file.path.name}: no sidecar tells its repetition time.",
                "Give it with --repetition-time SECONDS, or RepetitionTime in a timeseries.json of the folder.",
            )
        if time is not None and given is not None:
            _refuse_two(file, "the sidecar", time, "--repetition-time", given)
        result = given if time is None else time
        low, high = _TR_SECONDS
        if result is None or not low <= result <= high:
            raise RepetitionTimeError(
                f"{file.path.name} has a repetition time of {result:g}, expected {low:g} to {high:g}, in seconds.",
                "Correct RepetitionTime in the sidecar.",
            )
        return float(result)

    def _sidecar(self, file: SeriesFile) -> dict[str, object]:
        """Merge the sidecars that apply: labels all the table's; the nearest folder, then the most specific, rules."""
        tokens = set(file.labels.items())
        merged: dict[str, object] = {}
        folder = file.path.parent
        while True:
            apply = [
                o for o in self._list(folder) if o.suffix == "timeseries.json" and tokens.issuperset(o.labels.items())
            ]
            for other in sorted(apply, key=lambda o: (-len(o.labels), o.path.name)):
                merged = _told(other.path) | merged
            if folder == self._root or not folder.is_relative_to(self._root):
                return merged
            folder = folder.parent

    def _table(self, file: SeriesFile, suffix: str, descriptions: set[str | None]) -> Path | None:
        """Return the table of this suffix of the same recording: of the same settings, then with the shortest name."""
        found = [
            other
            for other in self._list(file.path.parent)
            if other.suffix == f"{suffix}.tsv"
            and identity_of(other.labels) == file.identity
            and other.labels.get("desc") in descriptions
        ]
        # xcp_d's multiverse layout keeps runs of other settings in the same folder, told by hash-.
        same = file.labels.get("hash")
        best = min(found, key=lambda o: (o.labels.get("hash") != same, len(o.path.name), o.path.name), default=None)
        return None if best is None else best.path


def _told(path: Path) -> dict[str, object]:
    """Read a sidecar; what stands in one is never passed over for a guess."""
    try:
        return read_object(path)
    except UnreadableError as error:
        raise RepetitionTimeError(
            f"sidecar {error.message} What it tells would have to be guessed.",
            error.hint or "Correct or fetch the sidecar, or remove it.",
        ) from None


def _listed(folder: Path) -> tuple[_Other, ...]:
    found = []
    for name in sorted(entry.name for entry in entries(folder)):
        labels, suffix = labels_of(name), name.rpartition("_")[2]
        if labels is not None or name == "timeseries.json":
            found.append(_Other(folder / name, labels or {}, suffix))
    return tuple(found)


def _number(data: Mapping[str, object], *names: str) -> float | None:
    for name in names:
        value = data.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def _refuse_two(file: SeriesFile, one: str, time: float, other: str, second: float) -> None:
    if abs(time - second) > _SAME * time:
        raise RepetitionTimeError(
            f"{file.path.name}: {one} says {time:g} s, {other} {second:g} s.", "Correct the one that is wrong."
        )
