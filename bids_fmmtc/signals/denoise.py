"""Confound regression, filters and censoring on parcel series.

These steps are linear over voxels with one design matrix for all of them, so cleaning parcel means gives what
cleaning every voxel and averaging gives, some hundred times cheaper. nilearn reads the confounds and does the
cleaning; it is imported only when a recipe asks for it.
"""

from __future__ import annotations

import csv
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ConfoundsError, ShortRecordingError
from bids_fmmtc.recipe import Denoising
from bids_fmmtc.types import Float32, RoiSeries

if TYPE_CHECKING:
    import pandas as pd

# Arguments of nilearn's load_confounds for each strategy; numbers that the recipe holds are added to them. They are
# the presets of nilearn 0.14.1, spelled out so that another nilearn cannot change them under an equal digest.
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "none": {"strategy": (), "demean": True},
    "simple": {"strategy": ("high_pass", "motion", "wm_csf"), "motion": "full", "wm_csf": "basic", "demean": True},
    "scrubbing": {
        "strategy": ("high_pass", "motion", "wm_csf", "scrub"),
        "motion": "full",
        "wm_csf": "full",
        "demean": True,
    },
    "compcor": {
        "strategy": ("high_pass", "motion", "compcor"),
        "motion": "full",
        "compcor": "anat_combined",
        "n_compcor": "all",
        "demean": True,
    },
    "ica_aroma": {
        "strategy": ("high_pass", "wm_csf", "ica_aroma"),
        "wm_csf": "basic",
        "ica_aroma": "full",
        "demean": True,
    },
}

HEAD_RADIUS_MM = 50.0  # Power et al. 2012: rotations become millimetres on a sphere of this radius


@dataclass(frozen=True, slots=True)
class Confounds:
    """The table beside a recording: column names and (T, C) float64, NaN for ``n/a``."""

    path: Path
    names: tuple[str, ...]
    values: NDArray[np.float64]

    def column(self, name: str) -> NDArray[np.float64] | None:
        """Return one column (T,), or None when the table lacks it."""
        return self.values[:, self.names.index(name)] if name in self.names else None

    @property
    def non_steady(self) -> int:
        """Leading frames marked as non-steady-state."""
        marked = [c for c, n in enumerate(self.names) if n.startswith("non_steady_state_outlier")]
        if not marked:
            return 0
        hit = np.flatnonzero((self.values[:, marked] > 0).any(axis=1))
        return int(hit.max()) + 1 if hit.size else 0

    @property
    def framewise_displacement(self) -> NDArray[np.float64] | None:
        """(T,) in mm as Power et al. 2012 define it, from the table or from its six motion parameters."""
        fd = self.column("framewise_displacement")
        if fd is None:
            fd = self.column("FramewiseDisplacement")
        if fd is not None:
            return fd
        parameters = [self.column(f"{kind}_{axis}") for kind in ("trans", "rot") for axis in "xyz"]
        known = [p for p in parameters if p is not None]
        if len(known) < 6:
            return None
        steps = np.abs(np.diff(np.stack(known, 1), axis=0))
        moved: NDArray[np.float64] = steps[:, :3].sum(1) + HEAD_RADIUS_MM * steps[:, 3:].sum(1)
        return np.concatenate([[np.nan], moved])


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Cleaned parcel series on the recording's own frames.

    Parameters
    ----------
    series
        (T, R); rows of dropped and censored frames are NaN.
    keep
        (T,) False for dropped and censored frames.
    n_dropped, n_censored
        Non-steady-state and scrubbed frames.
    regressors
        Names of the confounds regressed out.
    parameters
        JSON-ready: the arguments that confounds were chosen (``load_confounds``) and series cleaned (``clean``) with,
        and nilearn's version; empty where nothing was cleaned.
    """

    values: Float32
    keep: NDArray[np.bool_]
    n_dropped: int
    n_censored: int
    regressors: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read_confounds(path: Path, n_frames: int) -> Confounds:
    """Read a fMRIPrep confounds table, old or new.

    Raises
    ------
    ConfoundsError
        Not a table, or not one row per frame.
    """
    try:
        with path.open(encoding="utf-8", newline="") as f:
            rows = list(csv.reader(f, delimiter="\t"))
        names = tuple(rows[0])
        values = np.array([[float(v) if v not in _MISSING else np.nan for v in row] for row in rows[1:] if row])
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise ConfoundsError(f"{path.name} is not a readable confounds table: {error}.", _REMEDY) from None
    if values.ndim != 2 or values.shape != (n_frames, len(names)):
        raise ConfoundsError(
            f"{path.name} holds {len(values)} rows, the recording {n_frames} frames.",
            "Check that both come from the same fMRIPrep run.",
        )
    return Confounds(path, names, values)


_MISSING = frozenset({"n/a", "", "NaN", "nan", "NA"})
_REMEDY = "Re-run fMRIPrep, or give a recipe whose denoising needs fewer confounds."


def denoise(raw: RoiSeries, confounds: Confounds | None, spec: Denoising) -> Cleaned:
    """Clean parcel series as the recipe says.

    Parameters
    ----------
    raw
        (T, R) parcel means.
    confounds
        The recording's table; None when it has none.
    spec
        Strategy (see `STRATEGIES`), global signal, filters, limits for scrubbing.

    Returns
    -------
    Cleaned
        With strategy ``none`` and no filter the values are the raw ones. Lost parcels stay NaN.

    Raises
    ------
    ConfoundsError
        The strategy needs columns that are missing; they are named. Or a filter limit is not below Nyquist.
    ShortRecordingError
        Scrubbing leaves nothing.
    """
    check_limits(spec, raw.repetition_time)
    n_frames = len(raw.values)
    keep = np.ones(n_frames, np.bool_)
    dropped = confounds.non_steady if confounds is not None and spec.drop_non_steady_state else 0
    keep[:dropped] = False
    design: pd.DataFrame | None = None
    regressors: tuple[str, ...] = ()
    if confound_arguments(spec)["strategy"]:
        if confounds is None:
            raise ConfoundsError(f"denoising {spec.strategy!r} needs confounds; the recording has none.", _REMEDY)
        design, kept = _design(confounds, spec, n_frames)
        regressors = tuple(str(c) for c in design.columns)
        keep &= kept
        keep[: 0 if spec.drop_non_steady_state else confounds.non_steady] = True
    if keep.sum() < 2:
        raise ShortRecordingError(
            f"{int(keep.sum())} of {n_frames} frames are left after dropping and censoring.",
            "The participant moved too much for this recipe; use one without scrubbing, or exclude the recording.",
        )
    values = raw.values.copy()
    if spec.cleans and not raw.lost.all():
        values = _clean(raw, design, keep, spec)
    values[~keep] = np.nan
    used = _parameters(spec, raw.repetition_time) if spec.cleans else {}
    return Cleaned(values, keep, dropped, int((~keep[dropped:]).sum()), regressors, used)


def check_limits(spec: Denoising, repetition_time: float) -> None:
    """Refuse filter limits at or above the Nyquist frequency, which nilearn would clip or leave out in silence.

    Raises
    ------
    ConfoundsError
        Names the limit.
    """
    nyquist = 0.5 / repetition_time
    for name, limit in (("high_pass", spec.high_pass), ("low_pass", spec.low_pass)):
        if limit is not None and limit >= nyquist:
            raise ConfoundsError(
                f"{name} is {limit:g} Hz, at or above the Nyquist frequency, {nyquist:g} Hz.",
                "Check the recipe's filters and the repetition time.",
            )


def confound_arguments(spec: Denoising) -> dict[str, Any]:
    """Return every argument nilearn's ``load_confounds`` is called with; an empty ``strategy`` means it is not."""
    arguments = dict(STRATEGIES[spec.strategy])
    if spec.strategy == "scrubbing":
        arguments["scrub"] = spec.least_segment
        arguments |= {"fd_threshold": spec.fd_threshold, "std_dvars_threshold": spec.std_dvars_threshold}
    if spec.global_signal is not None:
        arguments["strategy"] = (*arguments["strategy"], "global_signal")
        arguments["global_signal"] = spec.global_signal
    return arguments


def _clean_arguments(spec: Denoising, repetition_time: float) -> dict[str, Any]:
    """Return the arguments of nilearn's ``clean`` that do not depend on the recording's frames."""
    return {
        "detrend": spec.detrend,
        "standardize": None,
        "standardize_confounds": True,
        "filter": "butterworth" if spec.high_pass or spec.low_pass else False,
        "high_pass": spec.high_pass,
        "low_pass": spec.low_pass,
        "t_r": repetition_time,
        "extrapolate": True,
    }


def _parameters(spec: Denoising, repetition_time: float) -> dict[str, Any]:
    from nilearn import __version__  # noqa: PLC0415

    chosen = confound_arguments(spec)
    chosen["strategy"] = list(chosen["strategy"])
    return {
        "load_confounds": chosen if chosen["strategy"] else None,
        "cosine_regressors": "high_pass" in chosen["strategy"] and spec.high_pass is None,
        "clean": _clean_arguments(spec, repetition_time),
        "nilearn": str(__version__),
    }


def _design(confounds: Confounds, spec: Denoising, n_frames: int) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Let nilearn read the regressors (T, C) and the frames to keep (T,)."""
    from nilearn.interfaces.fmriprep import load_confounds  # noqa: PLC0415  (2 s)

    # nilearn finds the table by the image's name and knows fewer names than there are in the wild (old suffixes,
    # several runs that share a prefix). A folder of links under one plain name leaves it nothing to guess.
    with tempfile.TemporaryDirectory(prefix="fmmtc-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Path(folder) / f"sub-x_task-x_space-MNI_desc-{spec.bold_desc}_bold.nii.gz"
        image.touch()
        link = Path(folder) / "sub-x_task-x_desc-confounds_timeseries.tsv"
        link.symlink_to(confounds.path.absolute())
        sidecar = confounds.path.with_suffix(".json").absolute()
        if sidecar.is_file():
            link.with_suffix(".json").symlink_to(sidecar)
        try:
            table, sample = load_confounds(str(image), **confound_arguments(spec))
        except (ValueError, KeyError, OSError) as error:
            text = " ".join(str(error).split()).rstrip(".").replace(str(link.with_suffix(".json")), sidecar.name)
            raise ConfoundsError(f"{confounds.path.name} does not serve {spec.strategy!r}: {text}.", _REMEDY) from None
    keep = np.ones(n_frames, np.bool_)
    if sample is not None:
        keep[:] = False
        keep[np.asarray(sample, int)] = True
    if spec.high_pass is not None:
        # The Butterworth limit replaces fMRIPrep's cosines; both would take the low frequencies twice.
        table = table[[c for c in table.columns if not str(c).startswith("cosine")]]
    return table, keep


def _clean(raw: RoiSeries, design: pd.DataFrame | None, keep: NDArray[np.bool_], spec: Denoising) -> Float32:
    """Regress, filter and censor the parcels that have signal; dropped rows come back as NaN."""
    from nilearn.signal import clean  # noqa: PLC0415

    found = ~raw.lost
    arguments = _clean_arguments(spec, raw.repetition_time) | {
        "confounds": design if design is not None and design.shape[1] else None,
        "sample_mask": None if keep.all() else np.flatnonzero(keep),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cleaned = clean(raw.values[:, found].astype(np.float64), **arguments)
        except ValueError as error:
            text = " ".join(str(error).split()).rstrip(".")
            raise ConfoundsError(
                f"cleaning failed: {text}.", "Check the recipe's filters and repetition time."
            ) from None
    values = np.full(raw.values.shape, np.nan, np.float32)
    values[np.ix_(np.flatnonzero(keep), np.flatnonzero(found))] = cleaned
    return values
