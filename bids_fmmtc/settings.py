"""What one run was asked to do: frozen values, nothing parsed and nothing looked up past this point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bids_fmmtc.plain import Strictness, from_json
from bids_fmmtc.reading import read_json
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.types import Failure, Recording


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """What the group level was asked to do, resolved; see the options of the same names.

    ``outcome`` None only gathers. ``external`` holds name, folder and outcome of other cohorts. ``control_rate``,
    ``power``, ``alpha``, ``dropout`` and ``error_rate`` are shares, 0..1.
    """

    features: tuple[Path, ...] = ()
    outcome: str | None = None
    responder_if: str | None = None
    non_responders: tuple[str, ...] = ()
    missing_codes: tuple[str, ...] = ()
    arm_column: str | None = None
    arms: tuple[str, ...] = ()
    site_column: str | None = None
    covariates: tuple[str, ...] = ()
    family_column: str | None = None
    external: tuple[tuple[str, Path, str], ...] = ()
    adapt: bool = False
    head: str = "linear"
    folds: int = 5
    inner_folds: int = 5
    repeats: int = 5
    permutations: int | None = None
    epochs: int = 100
    leave_one_site_out: bool = False
    reference_protocol: bool = False
    label: str | None = None
    error_rate: float = 0.1
    explain: tuple[str, ...] = ()
    explain_volumes: int = 0
    explanation: bool = True
    power: float = 0.8
    alpha: float = 0.05
    control_rate: float | None = None
    control_arm: str | None = None
    dropout: float = 0.0
    allocation: float = 1.0
    cost_scan: float | None = None
    cost_patient: float | None = None
    cost_screening: float = 0.0
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line and the environment, resolved.

    ``spaces``, ``model``, ``on_space_mismatch`` and the like are None or empty where the user left them open;
    ``resources`` are folders that may hold fetched files, TemplateFlow's own among them. ``timeseries`` is a folder of
    parcel series to import instead of images, ``repetition_time`` theirs in seconds where no sidecar tells it.
    ``recipe_name`` is one of `bids_fmmtc.recipes`; it and ``recipe_file`` are never both given.
    """

    bids_dir: Path
    output_dir: Path
    level: str
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("rest",)
    spaces: tuple[str, ...] = ()
    filter_file: Path | None = None
    database_dir: Path | None = None
    derivatives: tuple[tuple[str | None, Path], ...] = ()
    timeseries: Path | None = None
    repetition_time: float | None = None
    model: Path | None = None
    encoder_weights: Path | None = None
    recipe_file: Path | None = None
    recipe_name: str | None = None
    atlas: str = "A424"
    atlas_given: bool = False
    on_space_mismatch: str | None = None
    device: str = "auto"
    nprocs: int = 1
    omp_nthreads: int = 1
    memory_gb: float | None = None
    work_dir: Path | None = None
    plugin_file: Path | None = None
    stop_on_first_crash: bool = False
    dry_run: bool = False
    reports_only: bool = False
    seed: int = 0
    verbose: int = 0
    resources: tuple[Path, ...] = ()
    command: str = ""
    group: GroupSettings = field(default_factory=GroupSettings)

    @property
    def recipe_given(self) -> bool:
        """Whether a bundle, a file or a name tells the recipe, of which then nothing is left out."""
        return any(each is not None for each in (self.model, self.recipe_file, self.recipe_name))


@dataclass(frozen=True, slots=True)
class Task:
    """What one child process does: one participant, everything decided.

    Parameters
    ----------
    subject, recordings
        Whom, and which recordings in order.
    failures
        What discovery already knows cannot run; they keep their rows.
    recipe
        Complete: atlas and weights checksums filled in.
    output
        Root of the output dataset.
    atlas
        Folder of the atlas; for imported series perhaps a table (see `signals.parcels.open_atlas`).
    bundle
        Folder of the model bundle; None stops after features.
    bundle_digest
        Digest of the bundle that the parent verified; the child refuses one that changed since.
    weights
        Modality name -> folder of its pretrained encoder.
    transform
        TemplateFlow's transform, when it is used.
    links
        Dataset name -> root folder, for BIDS URIs.
    device, threads, seed
        Of the encoder and head.
    """

    subject: str
    recordings: tuple[Recording, ...]
    failures: tuple[Failure, ...]
    recipe: Recipe
    output: Path
    atlas: Path
    bundle: Path | None = None
    bundle_digest: str | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    transform: Path | None = None
    links: Mapping[str, Path] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    seed: int = 0


def read_task(path: Path) -> Task:
    """Read the task that was written for a child process; what else the file holds is for its parent.

    Raises
    ------
    DataError
        It is no task of this version.
    """
    return from_json(Task, read_json(path), path.name, Strictness(drop=lambda _: None))
