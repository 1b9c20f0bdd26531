"""What the derivatives of one participant tell; nothing is drawn here, and nothing missing is an error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.dataset.derivatives.describe import Own, is_demo, own_in
from bids_fmmtc.dataset.derivatives.records import Record, gather_participant
from bids_fmmtc.dataset.derivatives.standing import attempt_reason
from bids_fmmtc.dataset.store import MISSING, read_record
from bids_fmmtc.errors import RecipeError
from bids_fmmtc.plain import Json, Strictness, from_json
from bids_fmmtc.quality import Quality, quality_in
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.report.kit.values import number_of, read_rows, real, texts

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AtlasFacts:
    """The parcellation as the output dataset holds it.

    ``names`` of R parcels and their ``networks`` (empty where the atlas names none); ``image`` of labels 1..R, None
    where there is none.
    """

    name: str
    names: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    image: Path | None = None

    def order(self, n: int) -> NDArray[np.intp]:
        """Return the places of ``n`` parcels ordered by network, networks in the order they first appear."""
        if len(self.networks) != n:
            return np.arange(n)
        first = {name: i for i, name in enumerate(dict.fromkeys(self.networks))}
        return np.argsort([first[name] for name in self.networks], kind="stable")

    def blocks(self, n: int) -> list[tuple[str, int, int]]:
        """Return network, start and stop in that order; nothing where no networks are named."""
        if len(self.networks) != n:
            return []
        found, start = [], 0
        for name in dict.fromkeys(self.networks):
            stop = start + self.networks.count(name)
            found.append((name, start, stop))
            start = stop
        return found

    def name_of(self, index: int) -> str:
        """Return the name of parcel ``index``, counted from 0."""
        return self.names[index] if index < len(self.names) else str(index + 1)


@dataclass(frozen=True, slots=True)
class RecordingFacts:
    """One recording: its record, and where its tables are."""

    record: Record

    @property
    def key(self) -> str:
        """The recording's key."""
        return self.record.key

    @property
    def ok(self) -> bool:
        """Whether it has features."""
        return not self.record.problem

    def without(self, recipe: Recipe | None) -> list[str]:
        """Name the modalities of the dataset's recipe that its features do not hold."""
        held = self.record.modalities
        return [m.name for m in recipe.modalities if m.name not in held] if recipe is not None and held else []

    @property
    def quality(self) -> Quality | None:
        """Quality numbers; None where it failed."""
        return quality_in(self.record.content)

    @property
    def flags(self) -> tuple[str, ...]:
        """Reasons for care."""
        return () if self.quality is None else self.quality.flags

    def output(self, ending: str) -> Path | None:
        """Return its output with this ending, where it is there."""
        for name in self.record.outputs:
            path = self.record.root / name
            if path.name.endswith(ending) and path.is_file():
                return path
        return None

    def array(self, ending: str) -> Float64 | None:
        """Return the numbers of a table (rows, columns), NaN for ``n/a``; None where it is not there or is no table."""
        path = self.output(ending)
        return None if path is None else _numbers_of(path, path.stat().st_mtime_ns)

    def frames(self) -> list[dict[str, str]]:
        """Return a row for each frame; empty where the table is not there."""
        path = self.output("_qc.tsv")
        return [] if path is None else read_rows(path) or []


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """One session: its recordings, and its prediction where a model was applied (row and sidecar)."""

    key: str
    recordings: tuple[RecordingFacts, ...]
    row: Mapping[str, str] | None = None
    sidecar: Mapping[str, Json] = field(default_factory=dict)

    @property
    def predicted(self) -> bool:
        """Whether there is a probability."""
        return self.row is not None and self.probability is not None

    @property
    def probability(self) -> float | None:
        """Calibrated P(responder)."""
        return None if self.row is None else number_in(self.row, "fmmtc_probability")

    @property
    def threshold(self) -> float | None:
        """From which probability on the second class is predicted."""
        return number_of(self.sidecar.get("Threshold"))

    @property
    def classes(self) -> list[str]:
        """Names of both."""
        return texts(self.sidecar.get("Classes")) or ["non-responder", "responder"]

    @property
    def per_window(self) -> tuple[float, ...]:
        """Probability of each window of all runs, in order."""
        found = self.sidecar.get("PerWindow", [])
        return tuple(float(p) for p in found) if isinstance(found, list) else ()

    @property
    def attempts(self) -> list[tuple[str, str]]:
        """Key and reason of each attempt that failed last, where what an earlier one made is shown."""
        own = [(self.key, attempt_reason(self.sidecar))]
        return [(k, r) for k, r in [*((r.key, r.record.last_attempt) for r in self.recordings if r.ok), *own] if r]

    @property
    def flags(self) -> tuple[str, ...]:
        """Reasons for care, of the prediction where there is one, else of the recordings."""
        own = self.sidecar.get("Flags")
        if isinstance(own, list):
            return tuple(map(str, own))
        return tuple(dict.fromkeys(f for r in self.recordings for f in r.flags))


@dataclass(frozen=True, slots=True)
class ParticipantFacts:
    """Everything a participant's page shows."""

    root: Path
    label: str
    sessions: tuple[SessionFacts, ...]
    atlas: AtlasFacts
    description: Mapping[str, Json]
    own: Own | None
    """Entry of this program under ``GeneratedBy``: version and recipe."""
    recipe: Recipe | None
    """Every choice on the way from image to features; None where it is not told."""
    explained: tuple[tuple[str, Path], ...] = ()
    """Analysis and folder of each attribution of this participant."""

    @property
    def demo(self) -> bool:
        """Whether data or model are the demonstration's."""
        return is_demo(self.root) or any(s.sidecar.get("DemoModel") is True for s in self.sessions)

    @property
    def version(self) -> str | None:
        """Of this program; None where it is not told."""
        return None if self.own is None else self.own.version

    @property
    def left_out(self) -> tuple[str, ...]:
        """Encoders without features since their weights were not there."""
        return () if self.own is None else self.own.left_out


def participant_facts(root: Path, label: str) -> ParticipantFacts:
    """Read what an output dataset holds of a participant.

    Parameters
    ----------
    root
        The output dataset.
    label
        Without ``sub-``.
    """
    there = (root / f"sub-{label}").is_dir()
    records = [RecordingFacts(r) for r in gather_participant(root, label)] if there else []
    predictions = dict(_predictions(root, label))
    keys = dict.fromkeys([*(r.record.key.of_session for r in records), *predictions])
    sessions = []
    for key in keys:
        row, sidecar = predictions.get(key, (None, {}))
        sessions.append(SessionFacts(key, tuple(r for r in records if r.record.key.of_session == key), row, sidecar))
    description = read_record(root / "dataset_description.json") or {}
    own = own_in(description)
    recipe = _recipe(own)
    atlas = atlas_facts(root, "" if recipe is None else recipe.atlas.name)
    explained = _explained(root, keys)
    return ParticipantFacts(root, label, tuple(sessions), atlas, description, own, recipe, explained)


def _recipe(own: Own | None) -> Recipe | None:
    if own is None:
        return None
    try:
        return from_json(Recipe, own.recipe, "recipe", Strictness(RecipeError, drop=lambda _: None))
    except RecipeError:
        return None


def atlas_facts(root: Path, name: str) -> AtlasFacts:
    """Read the parcellation ``name`` that an output dataset holds."""
    for table in sorted(root.glob("tpl-*/*_dseg.tsv")):
        if f"_atlas-{name}_" not in table.name:
            continue
        rows = read_rows(table) or []
        networks = tuple(row["network"] for row in rows if "network" in row)
        image = table.with_suffix(".nii.gz")
        names = tuple(row.get("name", "") for row in rows)
        return AtlasFacts(name, names, networks, image if image.is_file() else None)
    return AtlasFacts(name)


def _predictions(root: Path, label: str) -> list[tuple[str, tuple[Mapping[str, str], Mapping[str, Json]]]]:
    """Return key, row and sidecar of each prediction of a participant."""
    found: list[tuple[str, tuple[Mapping[str, str], Mapping[str, Json]]]] = []
    for path in sorted((root / f"sub-{label}").rglob("func/*_desc-fmmtc_prediction.tsv")):
        rows = read_rows(path) or []
        if rows:
            sidecar = read_record(path.with_suffix(".json")) or {}
            found.append((path.name.removesuffix("_desc-fmmtc_prediction.tsv"), (rows[0], sidecar)))
    return found


def _explained(root: Path, keys: Collection[str]) -> tuple[tuple[str, Path], ...]:
    """Return the folders in which analyses explain this participant."""
    folders = [(path.parent.parent.name, path) for path in sorted(root.glob("group/[!.]*/attribution/sub-*"))]
    return tuple((analysis, path) for analysis, path in folders if path.name in keys)


def number_in(row: Mapping[str, str], name: str) -> float | None:
    """Return a number of a table's row, or None."""
    return real(row.get(name))


@lru_cache(maxsize=2)
def _numbers_of(path: Path, _changed: int) -> Float64 | None:
    """Read a table once for the figures of a recording that show it, one after the other."""
    found = read_numbers(path)
    if found is not None:
        found.flags.writeable = False
    return found


def read_numbers(path: Path) -> Float64 | None:
    """Return a table of numbers (rows, columns), NaN for ``n/a``; None where it cannot be read as one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        return np.array([[float("nan") if v == MISSING else float(v) for v in line.split("\t")] for line in lines])
    except (OSError, ValueError):
        return None
