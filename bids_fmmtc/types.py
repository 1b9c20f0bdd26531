"""The values that travel between the rooms: frozen, checked on construction, numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.keys import Key
from bids_fmmtc.plain import Json
from bids_fmmtc.quality import Quality

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Rows = NDArray[np.intp]
"""Row numbers of a `Cohort`."""
OutcomeKind = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True)
class Recording:
    """One preprocessed BOLD recording in one space; nothing is loaded.

    Parameters
    ----------
    subject, session, task, run
        BIDS labels without their ``sub-`` and so on, spelled as in the file name.
    entities
        The further entities that tell recordings of one session apart (``acq``, ``ce``, ``rec``, ``dir``), in the
        order of the file name.
    space, resolution
        ``space-`` and ``res-`` labels of the image.
    bold, mask, confounds
        Absolute paths. ``mask`` and ``confounds`` are None when the dataset has none.
    repetition_time
        Seconds, from the sidecar; None when the sidecar does not tell.
    dataset
        Root folder of the derivative dataset the recording comes from.
    """

    subject: str
    session: str | None
    task: str
    run: str | None
    entities: tuple[tuple[str, str], ...]
    space: str
    resolution: str | None
    bold: Path
    mask: Path | None
    confounds: Path | None
    repetition_time: float | None
    dataset: Path

    def __post_init__(self) -> None:
        if self.repetition_time is not None and not self.repetition_time > 0:
            raise ValueError(f"repetition time must be positive, found {self.repetition_time}")

    @property
    def key(self) -> Key:
        """Source entities as in the file name, without space: ``sub-01_ses-a_task-rest_run-1``."""
        return Key.of(self.subject, self.session, self.task, self.entities, self.run)

    @property
    def session_key(self) -> Key:
        """Like `key` without the run: what the runs pooled into one prediction share."""
        return Key.of(self.subject, self.session, self.task, self.entities)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A candidate file that was found and is not used, and why; not an error."""

    subject: str
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a participant, session or recording has no result.

    Parameters
    ----------
    key
        ``sub-01`` or a recording's or session's key.
    stage
        ``discover``, ``extract``, ``predict``, ``write`` or ``process``.
    kind
        Short machine-readable reason: the ``kind`` of the error, ``killed`` or ``unexpected``.
    message, hint
        One line each: what happened, what to do.
    traceback_file
        Path of the full traceback for errors nobody foresaw.
    """

    key: str
    stage: str
    kind: str
    message: str
    hint: str = ""
    traceback_file: str | None = None

    @property
    def reason(self) -> str:
        """One line for tables: kind, message and hint."""
        return " ".join(f"{self.kind}: {self.message} {self.hint}".split())


@dataclass(frozen=True, slots=True)
class Selection:
    """What discovery found: recordings to process, files left aside, and participants that cannot run."""

    recordings: tuple[Recording, ...]
    skipped: tuple[Skipped, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class RoiSeries:
    """Parcel time series; column j is row j of the atlas table, always.

    Parameters
    ----------
    values
        (T, R) float32, units of the BOLD file; NaN in the columns of lost parcels.
    coverage
        (R,) float32 in 0..1: share of the parcel's voxels on the recording's grid that hold signal inside the
        brain mask.
    repetition_time
        Seconds.
    """

    values: Float32
    coverage: Float32
    repetition_time: float

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.coverage.shape != (self.values.shape[1],):
            raise ValueError(
                f"values must be (T, R) and coverage (R,), found {self.values.shape} and {self.coverage.shape}"
            )
        if self.values.dtype != np.float32 or self.coverage.dtype != np.float32:
            raise ValueError("parcel series and coverage are float32")
        if not self.repetition_time > 0:
            raise ValueError(f"repetition time must be positive, found {self.repetition_time}")

    @property
    def lost(self) -> NDArray[np.bool_]:
        """(R,) True where a parcel has no usable signal."""
        return np.asarray(np.isnan(self.values).all(axis=0))


@dataclass(frozen=True, slots=True)
class Atlas:
    """A parcellation in a template space.

    Parameters
    ----------
    name, space
        Labels as in ``atlas-`` and ``tpl-``.
    labels
        (X, Y, Z) int32: row number + 1 of the voxel's parcel, 0 for background.
    affine
        (4, 4) voxel to RAS+ millimetres.
    index
        (R,) label values as in the atlas's own image and table.
    names, networks
        R parcel names; R network names or None.
    xyz
        (R, 3) float32 parcel centres, RAS+ millimetres.
    sha256
        Of labels, affine and table: the atlas's identity in recipes.
    """

    name: str
    space: str
    labels: NDArray[np.int32]
    affine: NDArray[np.float64]
    index: tuple[int, ...]
    names: tuple[str, ...]
    networks: tuple[str, ...] | None
    xyz: Float32
    sha256: str

    @property
    def n_parcels(self) -> int:
        """R, the number of rows of the table."""
        return len(self.index)


class Windowed(Protocol):
    """What a series modality reads of an opened recording.

    ``frames`` (F, R) float32 are the cleaned frames with lost parcels set to 0, ``scaled`` (F, R) the same as the
    recipe scales them for an encoder, ``left`` (L, R) every frame that dropping and censoring leave, whether a window
    reaches it or not and never padded, ``lost`` (R,) marks lost parcels, ``xyz`` (R, 3) are parcel centres in MNI
    millimetres.
    """

    @property
    def frames(self) -> Float32: ...  # noqa: D102
    @property
    def scaled(self) -> Float32: ...  # noqa: D102
    @property
    def left(self) -> Float32: ...  # noqa: D102
    @property
    def lost(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def xyz(self) -> Float32: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ClipForm:
    """The clips that an encoder of volumes was trained on.

    Parameters
    ----------
    shape
        Voxels along x, y, z.
    affine
        Voxel to RAS+ millimetres, 4 rows of 4; it says which way each axis runs.
    seconds
        Between frames.
    frames
        Of a clip.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, float, float, float], ...]
    seconds: float
    frames: int


class Volumes(Protocol):
    """What a modality of volumes reads of an opened recording; imported series have none.

    `clips` yields, in the order of time, each clip that lies inside a window: the rows of those windows (k,), and the
    clip (T, X, Y, Z) float32 as `ClipForm` wants it, normalised. The clip's memory is used again for the next one.
    """

    def clips(self, form: ClipForm, windows: Int32) -> Iterator[tuple[NDArray[np.intp], Float32]]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Features:
    """Fixed-shape arrays of one recording, one entry per window.

    Parameters
    ----------
    key
        The recording's key.
    windows
        (W, 2) int32 start and stop frame of each window, on the grid the encoder saw.
    arrays
        Modality name -> (W, ...) float32: ``brainlm`` (W, H), ``fc`` (W, R, R).
    quality
        Numbers and flags of the recording.
    digest
        Digest of the recipe; equal digest means comparable features.
    """

    key: str
    windows: Int32
    arrays: Mapping[str, Float32]
    quality: Quality
    digest: str

    def __post_init__(self) -> None:
        if self.windows.ndim != 2 or self.windows.shape[1] != 2 or len(self.windows) == 0:
            raise ValueError(f"windows must be (W, 2) with W > 0, found {self.windows.shape}")
        for name, array in self.arrays.items():
            if len(array) != len(self.windows):
                raise ValueError(f"{name} holds {len(array)} windows, expected {len(self.windows)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds values that are not finite")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a bundle says of one session.

    Parameters
    ----------
    key
        The session's key (no run: its runs are pooled).
    probability
        Calibrated P(responder) in 0..1, from the logits pooled over windows.
    per_window
        (W,) float32 probability of each window by the same calibration: their spread, not their mean, has a meaning.
    threshold
        The bundle's decision threshold.
    label
        Class name on this side of the threshold.
    prediction_set
        Class names of the conformal set; None when the bundle holds no conformal quantiles.
    flags
        Reasons for care, short names.
    digest
        Digest of the bundle.
    reference
        Where the session stands in what training saw: name -> ``found`` (one entry a run, or one of the session) and
        the limits, ``low``, ``high`` or ``values``.
    """

    key: str
    probability: float
    per_window: Float32
    threshold: float
    label: str
    prediction_set: tuple[str, ...] | None
    flags: tuple[str, ...]
    digest: str
    reference: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"a probability lies in 0..1, found {self.probability}")


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """People with features and an outcome: what a model learns from, or is judged on. N rows, one a session.

    Parameters
    ----------
    keys
        N session keys, ``sub-01_ses-a_task-rest``.
    subjects
        N participant ids, ``sub-01``.
    groups
        N names of what is never divided between training and test: the participant, or the family.
    arrays
        Modality -> N float32 arrays (W_i, *shape), all windows of all runs of the session.
    y
        (N,) float64 outcome: 1 responder and 0 non-responder, or a number.
    kind
        Which of the two ``y`` holds.
    covariates
        Column -> (N, k) float64, NaN where missing; a column of words is k indicators.
    motion
        (N,) float64 mean framewise displacement in mm, NaN where unknown.
    sites, arms
        N names each, or None where not given.
    quality
        N tuples: the quality of each run.
    digest
        Of the recipe all features were made with.
    """

    keys: tuple[str, ...]
    subjects: tuple[str, ...]
    groups: tuple[str, ...]
    arrays: Mapping[str, tuple[Float32, ...]]
    y: Float64
    kind: OutcomeKind
    covariates: Mapping[str, Float64]
    motion: Float64
    sites: tuple[str, ...] | None
    arms: tuple[str, ...] | None
    quality: tuple[tuple[Quality, ...], ...]
    digest: str

    def __post_init__(self) -> None:
        n = len(self.keys)
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("arrays", "covariates")}
        columns = {k: v for k, v in named.items() if v is not None and k not in ("kind", "digest")}
        for name, column in {**columns, **self.arrays, **self.covariates}.items():
            if len(column) != n:
                raise ValueError(f"{name} holds {len(column)} rows, expected {n}")
        if not np.isfinite(self.y).all():
            raise ValueError("an outcome is not finite")
        if self.kind == "classification" and not np.isin(self.y, (0, 1)).all():
            raise ValueError("outcomes to classify are 0 or 1")

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Rows) -> Cohort:
        """Return the cohort of these rows, in this order; arrays are not copied."""

        def some(column: tuple[Any, ...] | None) -> Any:
            return None if column is None else tuple(column[i] for i in rows)

        return Cohort(
            keys=some(self.keys),
            subjects=some(self.subjects),
            groups=some(self.groups),
            arrays={name: some(column) for name, column in self.arrays.items()},
            y=self.y[rows],
            kind=self.kind,
            covariates={name: column[rows] for name, column in self.covariates.items()},
            motion=self.motion[rows],
            sites=some(self.sites),
            arms=some(self.arms),
            quality=some(self.quality),
            digest=self.digest,
        )
