"""Which frames are left out and which confounds are regressed out: known before any image is read.

nilearn names the regressors of a strategy and the frames that scrubbing takes; it is imported only when a recipe asks
for it.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import ConfoundsError, ShortRecordingError, UnreadableError
from bids_fmmtc.reading import read_object
from bids_fmmtc.recipe import Denoising
from bids_fmmtc.signals.confounds import Confounds

# Arguments of nilearn's load_confounds for each strategy; numbers that the recipe holds are added to them. They are
# the presets of nilearn 0.14.1, spelled out so that another nilearn cannot change them under an equal digest.
Argument = str | float | tuple[str, ...]
"""Of nilearn's ``load_confounds``."""
STRATEGIES: Mapping[str, Mapping[str, Argument]] = {
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

_REMEDY = "Re-run fMRIPrep, or give a recipe whose denoising needs fewer confounds."


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the confounds decide before any image is read.

    Parameters
    ----------
    keep
        (T,) False for dropped and censored frames.
    n_dropped
        Leading frames dropped.
    regressors
        Names of the C regressors.
    design
        (T, C) their values, demeaned over kept frames, finite there; NaN in frames that are left out.
    """

    keep: NDArray[np.bool_]
    n_dropped: int
    regressors: tuple[str, ...] = ()
    design: NDArray[np.float64] | None = None


def chosen_kinds(spec: Denoising) -> tuple[str, ...]:
    """Return the kinds of confounds that a strategy's name stands for; empty where nilearn is not called."""
    kinds = STRATEGIES[spec.strategy]["strategy"]
    return kinds if isinstance(kinds, tuple) else ()


def confound_arguments(spec: Denoising) -> dict[str, Argument]:
    """Return every argument nilearn's ``load_confounds`` is called with; an empty ``strategy`` means it is not."""
    arguments = dict(STRATEGIES[spec.strategy])
    if spec.strategy == "scrubbing":
        arguments["scrub"] = spec.least_segment
        arguments |= {"fd_threshold": spec.fd_threshold, "std_dvars_threshold": spec.std_dvars_threshold}
    if spec.global_signal is not None:
        arguments["strategy"] = (*chosen_kinds(spec), "global_signal")
        arguments["global_signal"] = spec.global_signal
    return arguments


def choose(confounds: Confounds | None, spec: Denoising, n_frames: int) -> Chosen:
    """Choose frames and regressors as the recipe says.

    Parameters
    ----------
    confounds, spec
        Of the recording, and of the recipe.
    n_frames
        T.

    Raises
    ------
    ConfoundsError
        The strategy needs columns, or values in kept frames, that are missing; they are named.
    ShortRecordingError
        Dropping and scrubbing leave fewer than two frames.
    """
    keep = np.ones(n_frames, np.bool_)
    dropped = confounds.non_steady if confounds is not None and spec.drop_non_steady_state else 0
    keep[:dropped] = False
    needs = bool(confound_arguments(spec)["strategy"])
    names: tuple[str, ...] = ()
    if needs:
        if confounds is None:
            raise ConfoundsError(f"denoising {spec.strategy!r} needs confounds; the recording has none.", _REMEDY)
        if spec.strategy == "scrubbing":
            _refuse_unjudged(confounds, dropped)
        names, kept = _ask_nilearn(confounds, spec)
        names = _slow_drift(confounds, spec, names)
        keep &= kept
    if keep.sum() < 2:
        raise ShortRecordingError(
            f"{int(keep.sum())} of {n_frames} frames are left after dropping and censoring.",
            "The participant moved too much for this recipe; use one without scrubbing, or exclude the recording.",
        )
    return Chosen(keep, dropped, names, _design(confounds, names, keep) if needs and confounds is not None else None)


def _refuse_unjudged(confounds: Confounds, dropped: int) -> None:
    """Refuse to scrub by a measure that is not known; only the first frame has no frame to have moved from."""
    first = max(dropped, 1)
    for name in ("framewise_displacement", "std_dvars"):
        column = confounds.column(name)
        unknown = np.zeros(0) if column is None else np.flatnonzero(np.isnan(column[first:]))
        if unknown.size:
            raise ConfoundsError(
                f"{confounds.path.name} holds no {name} for {unknown.size} of {len(confounds.values)} frames (the "
                f"first is frame {unknown[0] + first}, counted from 0), so scrubbing cannot judge them.",
                _REMEDY,
            )


def _slow_drift(confounds: Confounds, spec: Denoising, names: tuple[str, ...]) -> tuple[str, ...]:
    """Leave one way to take out slow drift: the recipe's filter or, where it has none, fMRIPrep's cosines.

    nilearn passes over cosines that are missing without a word; then nothing would.
    """
    if spec.high_pass is not None:
        return tuple(name for name in names if not is_cosine(name))
    if "high_pass" in chosen_kinds(spec) and not any(map(is_cosine, names)):
        raise ConfoundsError(
            f"{confounds.path.name} has no cosine columns, so that {spec.strategy!r} would take out no slow drift.",
            "Set denoising.high_pass (0.008 Hz, say) in the recipe, or re-run fMRIPrep; it writes none for runs of "
            "about a minute or less.",
        )
    return names


def _design(confounds: Confounds, names: tuple[str, ...], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return regressors (T, C): NaN where a frame is left out, demeaned over the others.

    A derivative has no value in the first frame: it takes that of the next frame that is kept, as nilearn takes that
    of the next frame.
    """
    design = confounds.values[:, [confounds.names.index(name) for name in names]].copy()
    design[~keep] = np.nan
    if keep[0]:
        following = int(np.flatnonzero(keep)[1])
        design[0] = np.where(np.isnan(design[0]), design[following], design[0])
    for frame, column in np.argwhere(keep[:, None] & ~np.isfinite(design))[:1]:
        raise ConfoundsError(
            f"{confounds.path.name}: {names[column]} has no finite value in frame {frame} (counted from 0), which is "
            "kept.",
            _REMEDY,
        )
    centred: NDArray[np.float64] = design - design[keep].mean(axis=0)
    return centred


def _ask_nilearn(confounds: Confounds, spec: Denoising) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """Let nilearn name the regressors and the frames that scrubbing keeps (T,).

    nilearn finds the table by the image's name and knows fewer names than there are in the wild (old suffixes,
    several runs that share a prefix), and fewer words for a missing value. A folder with one table under one plain
    name, of what was read here, leaves it nothing to guess. Non-steady-state frames are dropped here, by their own
    rule.
    """
    from nilearn.interfaces.fmriprep import load_confounds  # noqa: PLC0415  (2 s)

    with tempfile.TemporaryDirectory(prefix="fmmtc-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Path(folder) / f"sub-x_task-x_space-MNI_desc-{spec.bold_desc}_bold.nii.gz"
        image.touch()
        table = Path(folder) / "sub-x_task-x_desc-confounds_timeseries.tsv"
        _write_table(table, confounds)
        sidecar = confounds.path.with_suffix(".json")
        if spec.strategy == "compcor" and sidecar.is_file():
            table.with_suffix(".json").write_text(json.dumps(_read_sidecar(sidecar)), encoding="utf-8")
        try:
            design, sample = load_confounds(str(image), **confound_arguments(spec) | {"demean": False})
        except (ValueError, KeyError, OSError) as error:
            text = " ".join(str(error).split()).rstrip(".").replace(str(table.with_suffix(".json")), sidecar.name)
            text = re.sub(r"\[('[^\]]*')\]", _sorted_names, text)
            raise ConfoundsError(f"{confounds.path.name} does not serve {spec.strategy!r}: {text}.", _REMEDY) from None
    keep = np.ones(len(confounds.values), np.bool_)
    if sample is not None:
        keep[:] = False
        keep[np.asarray(sample, int)] = True
    return tuple(str(c) for c in design.columns), keep


def _sorted_names(listed: re.Match[str]) -> str:
    """Sort a list of names: nilearn has them in the order of a set, which is another one in each process."""
    return f"[{', '.join(sorted(listed[1].split(', ')))}]"


def _write_table(path: Path, confounds: Confounds) -> None:
    columns = [c for c, n in enumerate(confounds.names) if n and not n.startswith("non_steady_state_outlier")]
    rows = (("n/a" if np.isnan(v) else repr(float(v)) for v in row) for row in confounds.values[:, columns])
    lines = [[confounds.names[c] for c in columns], *rows]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except UnreadableError as error:
        raise ConfoundsError(error.message, error.hint or _REMEDY) from None


def is_cosine(name: str) -> bool:
    """Tell fMRIPrep's cosine regressors from others by name, as nilearn does."""
    return "cosine" in name
