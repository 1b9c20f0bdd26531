"""The recipe: every scientific choice between a recording and its features, as plain data.

A recipe comes with a bundle, from a JSON file, or is the default one. Its `Recipe.digest` is the sha256 of its
sorted JSON: features of equal digest are comparable, and two digests never share an output folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from bids_fmmtc import plain
from bids_fmmtc.errors import MissingInputError, RecipeError, UnreadableError
from bids_fmmtc.reading import read_json

SpaceRule = Literal["warp", "affine", "fail"]
WarpSource = Literal["auto", "packaged", "templateflow"]
Strategy = Literal["none", "simple", "scrubbing", "compcor", "ica_aroma"]
GlobalSignal = Literal["basic", "power2", "derivatives", "full"]
ConnectivityKind = Literal["pearson", "gram", "partial", "tangent"]


@dataclass(frozen=True, slots=True)
class AtlasSpec:
    """Which parcellation; ``sha256`` (of labels, affine and table) and ``n_parcels`` are filled in when it is read."""

    name: str = "A424"
    sha256: str | None = None
    n_parcels: int | None = None


@dataclass(frozen=True, slots=True)
class SpaceSpec:
    """What to do with a recording that is not in the atlas's space.

    ``warp`` is where the displacement comes from: ``packaged`` (made for this project), ``templateflow`` (must be
    there), or ``auto`` (TemplateFlow's when present, else packaged).
    """

    on_mismatch: SpaceRule = "warp"
    warp: WarpSource = "auto"


@dataclass(frozen=True, slots=True)
class Denoising:
    """Confound regression, filters and censoring, applied to parcel series.

    Parameters
    ----------
    strategy
        ``none`` as FMM_TC is published, else what nilearn's ``load_confounds_strategy`` of that name regresses; the
        arguments behind each name are pinned in `signals.denoise.STRATEGIES`.
    global_signal
        nilearn's global signal model, or None to leave it in.
    high_pass, low_pass
        Butterworth limits in Hz. With ``high_pass`` fMRIPrep's cosine regressors are left out.
    detrend
        Remove a linear trend (and the mean) while cleaning; only when something is cleaned.
    drop_non_steady_state
        Drop the leading frames that fMRIPrep marks as non-steady-state.
    require_confounds
        Refuse a recording without confounds even where none is regressed: its motion cannot be judged.
    fd_threshold, std_dvars_threshold
        ``scrubbing`` censors frames whose framewise displacement (mm) or standardised DVARS exceeds these.
    least_segment
        ``scrubbing`` also censors segments with fewer frames than this between two censored frames.
    """

    strategy: Strategy = "none"
    global_signal: GlobalSignal | None = None
    high_pass: float | None = None
    low_pass: float | None = None
    detrend: bool = True
    drop_non_steady_state: bool = True
    require_confounds: bool = True
    fd_threshold: float = 0.5
    std_dvars_threshold: float = 1.5
    least_segment: int = 5

    @property
    def bold_desc(self) -> str:
        """``desc-`` of the image this strategy starts from."""
        return "smoothAROMAnonaggr" if self.strategy == "ica_aroma" else "preproc"

    @property
    def cleans(self) -> bool:
        """Whether anything is regressed or filtered."""
        return self != replace(self, strategy="none", global_signal=None, high_pass=None, low_pass=None)


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of ``length`` frames every ``stride`` frames; what a recording shorter than one window gets.

    ``short="reflect"`` extends a stretch of at least ``short_least`` frames by reflection; ``refuse`` fails, and minds
    ``short_least`` no further.
    """

    length: int = 200
    stride: int = 200
    short: Literal["refuse", "reflect"] = "refuse"
    short_least: int = 100


@dataclass(frozen=True, slots=True)
class Connectivity:
    """Kind of connectivity, and of which frames.

    Parameters
    ----------
    kind
        See `modalities.connectivity`.
    fisher_z
        Arctanh, diagonal 0; applies to correlations only.
    frames
        ``all``: a session's connectivity is that of every frame that is left, though windows keep their differences
        from each other. ``windows``: the mean over windows, as published; frames that fill no window do not count.
        Stored recipes without it mean ``windows``, which is therefore never written, so that digests made before
        there was a choice are what they were. Runs without a recipe, and files of one that do not spell out
        connectivity, take ``all`` (`Recipe.read`).
    """

    kind: ConnectivityKind = "pearson"
    fisher_z: bool = True
    frames: Literal["all", "windows"] = plain.unwritten("windows")


@dataclass(frozen=True, slots=True)
class ModalitySpec:
    """One modality by its name in ``modalities.TABLE``, with its own options and the checksum of its weights."""

    name: str
    weights_sha256: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that turns a recording into features.

    Parameters
    ----------
    atlas, space, denoising, windows, connectivity
        See their types.
    target_repetition_time
        Resample cleaned series to this repetition time in s; None keeps each recording's own.
    scaling
        For the encoder: ``global_sd`` (each parcel demeaned in time, then one standard deviation over all parcels
        and frames: what BrainLM's checkpoint-1400 saw), ``median_iqr`` per parcel, or ``none`` (as published).
    least_coverage
        A parcel with less coverage than this is lost; a parcel without any voxel always is.
    most_lost
        A recording that loses more than this share of parcels is refused: its affine, mask or space is wrong.
    modalities
        What is computed from each window.
    """

    atlas: AtlasSpec = AtlasSpec()
    space: SpaceSpec = SpaceSpec()
    denoising: Denoising = Denoising()
    windows: Windows = Windows()
    connectivity: Connectivity = Connectivity()
    target_repetition_time: float | None = None
    scaling: Literal["global_sd", "median_iqr", "none"] = "global_sd"
    least_coverage: float = 0.0
    most_lost: float = 0.25
    modalities: tuple[ModalitySpec, ...] = (ModalitySpec("fc"),)

    def __post_init__(self) -> None:
        w, d = self.windows, self.denoising
        for ok, message in (
            (w.length >= 2 and w.stride >= 1, "windows.length must be at least 2 and windows.stride at least 1"),
            (w.short_least >= 2, "windows.short_least must be at least 2"),
            (
                w.short == "refuse" or w.short_least <= w.length,
                "windows.short_least must not exceed windows.length where short recordings are reflected",
            ),
            (0 <= self.least_coverage <= 1, "least_coverage must lie in 0..1"),
            (0 <= self.most_lost <= 1, "most_lost must lie in 0..1"),
            (
                self.target_repetition_time is None or 0 < self.target_repetition_time < math.inf,
                "target_repetition_time must be positive",
            ),
            (d.high_pass is None or 0 < d.high_pass < math.inf, "denoising.high_pass must be positive"),
            (
                d.low_pass is None or (d.high_pass or 0) < d.low_pass < math.inf,
                "denoising.low_pass must exceed high_pass",
            ),
            (0 < d.fd_threshold < math.inf, "denoising.fd_threshold must be positive"),
            (0 < d.std_dvars_threshold < math.inf, "denoising.std_dvars_threshold must be positive"),
            (d.least_segment > 0, "denoising.least_segment must be at least 1"),
            (len(self.modalities) > 0, "modalities must name at least one modality"),
            (len({m.name for m in self.modalities}) == len(self.modalities), "a modality is named twice"),
        ):
            if not ok:
                raise RecipeError(f"recipe: {message}.")

    @property
    def digest(self) -> str:
        """Sha256 of the sorted JSON, as hexadecimal."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def only(self, names: Iterable[str]) -> Recipe | None:
        """Return the recipe with no modalities but those named; None where it has none of them, or not all."""
        wanted = set(names)
        kept = tuple(m for m in self.modalities if m.name in wanted)
        return replace(self, modalities=kept) if kept and len(kept) == len(wanted) else None

    def completes(self, other: Recipe) -> bool:
        """Tell whether this recipe is another one with modalities added: its features hold all that the other's do."""
        part = self.only(m.name for m in other.modalities)
        return part is not None and part.digest == other.digest != self.digest

    def to_json(self) -> plain.Object:
        """Return a JSON-ready mapping with every field spelled out (but see `Connectivity`); `from_json` inverts it."""
        data: plain.Object = plain.to_json(self)
        return data

    @classmethod
    def from_json(cls, data: Any, source: str = "recipe") -> Recipe:
        """Build a recipe from a mapping; fields that are left out keep their defaults.

        Raises
        ------
        RecipeError
            On an unknown field, a wrong type or a value out of range; names the field.
        """
        return plain.from_json(cls, data, source, plain.Strictness(RecipeError))

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe from a JSON file, in which a stored one may stand, or the few fields that somebody chose.

        Who chose connectivity's kind or nothing of it gets the default of today, ``frames: all``; where ``kind`` and
        ``fisher_z`` are spelled out and no ``frames``, as in stored recipes, it is ``windows``.
        """
        if not path.exists():
            raise MissingInputError(f"recipe {path} does not exist.")
        try:
            data = read_json(path)
        except UnreadableError as error:
            raise RecipeError(f"recipe {error.message}", error.hint) from None
        own = data.get("connectivity", {}) if isinstance(data, Mapping) else None
        if isinstance(own, Mapping) and "frames" not in own and not {"kind", "fisher_z"} <= own.keys():
            data = {**data, "connectivity": {**own, "frames": "all"}}
        return cls.from_json(data, str(path))


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Name the fields in which two recipes differ, as ``field: value of one, value of other``."""
    return _differences(plain.to_json(one, whole=True), plain.to_json(other, whole=True), "")


def _differences(a: Any, b: Any, where: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        found = []
        for name in sorted({*a, *b}):
            # Options may hold null, which is not the same as holding nothing.
            inside = f"{where}.{name}" if where else name
            found += _differences(a.get(name, _NOTHING), b.get(name, _NOTHING), inside)
        return found
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b, strict=True)) for line in _differences(x, y, f"{where}[{i}]")]
    # As text, since True == 1 == 1.0 to Python but not to the digest.
    there, here = ("nothing" if side is _NOTHING else json.dumps(side, sort_keys=True) for side in (a, b))
    return [] if there == here else [f"{where}: {there} there, {here} here"]


_NOTHING = object()
