"""The JSON beside each derivative, and the columns of the tables; plain values in, mappings out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bids_fmmtc import __version__, quality
from bids_fmmtc.dataset.derivatives.describe import NOT_A_DEVICE, PAPER, atlas_image, atlas_table, has_image
from bids_fmmtc.plain import Cells, Columns, Json, Object, to_json
from bids_fmmtc.quality import Quality, over_runs
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.states import RECORDING_MEANINGS
from bids_fmmtc.types import Atlas, Prediction, Recording

_NONE: Mapping[str, Json] = MappingProxyType({})
UNDECIDED = "undecided"
SCANS_COLUMNS: Columns = {
    "filename": {"Description": "Record of the recording, relative to this file"},
    "fmmtc_status": {
        "Description": "Outcome",
        "Levels": {str(state): meaning for state, meaning in RECORDING_MEANINGS.items()},
    },
    "fmmtc_reason": {"Description": "Why it failed, or is stale, and what to do"},
    "fmmtc_last_attempt": {
        "Description": "Why the last attempt failed, where results of an earlier one stand; n/a where it did not fail"
    },
    "fmmtc_flags": {"Description": "Reasons for care, comma-separated"},
    **{f"fmmtc_{name}": text for name, text in quality.COLUMNS.items()},
}
FRAME_COLUMNS: Columns = {
    "onset": {"Description": "Start of the frame", "Units": "s"},
    "framewise_displacement": {"Description": "Framewise displacement (Power et al. 2012)", "Units": "mm"},
    "std_dvars": {"Description": "Standardised DVARS as fMRIPrep reports it"},
    "mean_signal": {"Description": "Mean over parcels, before denoising, in the units of the image"},
    "status": {
        "Description": "What became of the frame",
        "Levels": {
            "used": "It is in the series",
            "dropped": "Left out at the start: not in a steady state",
            "censored": "Left out for motion",
        },
    },
}
PREDICTION_COLUMNS: Columns = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session"},
    "fmmtc_probability": {"Description": "Calibrated probability of being a responder"},
    "fmmtc_label": {"Description": "Class on this side of the threshold"},
    "fmmtc_set": {"Description": "Classes that the conformal prediction set cannot exclude at the model's error rate"},
    "fmmtc_decision": {
        "Description": f"The class in fmmtc_set, or {UNDECIDED} where both are in it; n/a where the model holds "
        "no conformal quantiles"
    },
    "fmmtc_sd": {"Description": "Standard deviation of the probability over windows"},
    "fmmtc_n_windows": {"Description": "Windows pooled over all runs"},
    "fmmtc_n_models": {"Description": "Models averaged"},
    "fmmtc_threshold": {"Description": "Decision threshold of the model"},
    "fmmtc_qc": {"Description": "ok, the flags raised, or why there is no prediction"},
    "fmmtc_n_volumes": {
        "Description": "Distinct frames covered by windows, summed over runs, at the repetition time of the windows"
    },
    "fmmtc_mean_fd": {"Description": "Mean framewise displacement, mean over runs", "Units": "mm"},
    "fmmtc_coverage": {"Description": "Mean coverage of parcels, least over runs"},
}


@dataclass(frozen=True, slots=True)
class Links:
    """Turns paths into BIDS URIs: ``bids:<dataset>:<path>``, or ``bids::<path>`` inside the output."""

    root: Path
    datasets: Mapping[str, Path]

    def uri(self, path: Path) -> str:
        """Return the URI of a file; its plain name when it lies in no known dataset."""
        if path.is_relative_to(self.root):
            return f"bids::{path.relative_to(self.root).as_posix()}"
        for name, folder in self.datasets.items():
            if path.is_relative_to(folder):
                return f"bids:{name}:{path.relative_to(folder).as_posix()}"
        return path.name

    def sources(self, recording: Recording) -> list[str]:
        """Return the URIs of the files a recording is made of."""
        return [self.uri(p) for p in (recording.bold, recording.mask, recording.confounds) if p is not None]


@dataclass(frozen=True, slots=True)
class Context:
    """What all sidecars of one recording share; ``others`` are further files it is made of."""

    recording: Recording
    atlas: Atlas
    recipe: Recipe
    links: Links
    quality: Quality
    others: tuple[Path, ...] = ()

    @property
    def imported(self) -> bool:
        """Whether the series were imported, not extracted from an image."""
        return self.quality.imported

    @property
    def common(self) -> Object:
        """Return the keys every sidecar starts with."""
        own = atlas_image(self.atlas) if has_image(self.atlas) else atlas_table(self.atlas)
        others = [self.links.uri(path) for path in self.others]
        return {
            "Sources": [*self.links.sources(self.recording), *others, f"bids::{own}"],
            "TaskName": self.recording.task,
            "RecipeDigest": self.recipe.digest,
        }


def timeseries_sidecar(about: Context, regressors: Sequence[str], parameters: Mapping[str, Json] = _NONE) -> Object:
    """Describe the parcel series.

    Parameters
    ----------
    regressors
        Names of the confounds regressed out.
    parameters
        The arguments confounds were chosen and series cleaned with; empty where nothing was cleaned.
    """
    if about.imported:
        return _imported_sidecar(about)
    q, d = about.quality, about.recipe.denoising
    detrended = d.cleans and d.detrend
    return {
        "Description": "Mean BOLD signal per parcel, after the denoising named here; n/a marks lost parcels, and "
        f"frames dropped or censored. {_LEVELS[detrended, d.cleans and d.high_pass is not None]}",
        **about.common,
        "SamplingFrequency": round(1 / q.repetition_time, 9),
        "RepetitionTime": q.repetition_time,
        "StartTime": 0,
        "SpatialReference": about.recording.space,
        "AtlasSpace": about.atlas.space,
        "AtlasSHA256": about.atlas.sha256,
        "AtlasPlacement": PLACEMENTS[q.placement],
        "DenoisingStrategy": d.strategy,
        "DenoisingParameters": dict(parameters),
        "ConfoundRegressors": list(regressors),
        "Demeaned": detrended or (d.cleans and d.high_pass is not None),
        "Detrended": detrended,
        "HighPassFilter": d.high_pass if d.high_pass is not None else "n/a",
        "LowPassFilter": d.low_pass if d.low_pass is not None else "n/a",
        "NumberOfVolumesDiscarded": q.n_dropped,
        "NumberOfVolumesCensored": q.n_censored,
        "MeanFramewiseDisplacement": q.mean_fd if q.mean_fd is not None else "n/a",
        "Standardization": "none",
    }


def _imported_sidecar(about: Context) -> Object:
    """Describe parcel series that were imported; what was done to them before is not known here."""
    q = about.quality
    return {
        "Description": "Parcel series as imported from the table under Sources, in its units; n/a marks lost parcels "
        "and censored frames. How the table was made and denoised, its own dataset tells.",
        **about.common,
        "SamplingFrequency": round(1 / q.repetition_time, 9),
        "RepetitionTime": q.repetition_time,
        "StartTime": 0,
        "SpatialReference": about.recording.space,
        "AtlasSpace": about.atlas.space,
        "AtlasSHA256": about.atlas.sha256,
        "AtlasPlacement": PLACEMENTS[q.placement],
        "DenoisingStrategy": "none here; the series were imported",
        "ColumnsMatchedBy": q.columns_matched,
        "ColumnsLeftOut": list(q.columns_left_out or ()),
        "FramesRemovedBeforeImport": q.frames_removed,
        "NumberOfVolumesCensored": q.n_censored,
        "MeanFramewiseDisplacement": q.mean_fd if q.mean_fd is not None else "n/a",
        "Standardization": "n/a",
    }


_LEVELS = {  # (detrended, high-pass filtered)
    (True, True): "Mean and linear trend are removed: values are deviations, in the units of the image.",
    (True, False): "Mean and linear trend are removed: values are deviations, in the units of the image.",
    (False, True): "The high-pass filter removed the mean: values are deviations, in the units of the image.",
    (False, False): "Neither mean nor trend is removed as such.",
}
PLACEMENTS = {
    "same": "recording and atlas share one template space",
    "packaged": "labels warped by the displacement field shipped with bids_fmmtc (an approximation; see its JSON)",
    "templateflow": "labels warped by TemplateFlow's transform",
    "affine": "labels taken as if both templates were one, some millimetres off (flagged)",
    "imported": "none: parcel series were imported, no image was read",
}


def coverage_sidecar(about: Context) -> Object:
    """Describe parcel coverage."""
    text = (
        "Share of each parcel's voxels, on the grid of the recording, that lie inside the brain mask and hold signal; "
        "0 where the parcel's mean never changes."
    )
    if about.imported:
        text = "Not known, since parcel series were imported: 1 where a parcel has signal, 0 where it is lost."
    return {
        "Description": text,
        **about.common,
        "LeastCoverage": about.recipe.least_coverage,
    }


def frames_sidecar(about: Context) -> Object:
    """Describe the table of frames."""
    return {
        "Description": "Every frame of the recording, dropped and censored ones too.",
        **about.common,
        **{name: dict(column) for name, column in FRAME_COLUMNS.items()},
    }


def carpet_sidecar(about: Context, parcels: Sequence[int], span: float) -> Object:
    """Describe the carpet picture.

    Parameters
    ----------
    parcels
        Parcel of each row, counted from 0.
    span
        Standard deviations from the middle grey to black and to white.
    """
    return {
        "Description": "A sample of voxels (rows, parcel by parcel) over time (columns, one a frame) before denoising; "
        f"grey level 128 is the voxel's linear trend, 0 and 255 are {span:g} standard deviations from it.",
        **about.common,
        "RepetitionTime": about.quality.repetition_time,
        "RowParcels": list(parcels),
    }


def relmat_sidecar(about: Context, facts: Mapping[str, Json]) -> Object:
    """Describe the connectivity matrix over all frames left; ``facts`` of the measure rule over what stands here."""
    return {
        "Description": "Connectivity between parcels over all frames that dropping and censoring leave; lost parcels "
        "are n/a.",
        **about.common,
        "FisherZ": False,
        "Weighted": True,
        "Directed": False,
        "ValidDiagonal": False,
        "StorageFormat": "Full",
        "NonNegative": False,
        **facts,
        "NodeFiles": [f"bids::{atlas_table(about.atlas)}"],
        "NumberOfVolumes": about.quality.n_frames_left,
    }


def features_record(
    about: Context,
    key: str,
    shapes: Mapping[str, Sequence[int]],
    sha256: str,
    window_onsets: Iterable[Sequence[float]] = (),
) -> Object:
    """Describe the features; with `failed_record` the one file every recording has.

    Parameters
    ----------
    window_onsets
        (W, 2) seconds from the start of the recording: onset of each window's first frame and end of its last one.
    """
    frames, q = about.recipe.windows, about.quality
    return {
        "Description": "Features of each window and the state of the recording.",
        "Key": key,
        "Status": "ok",
        **about.common,
        "SoftwareVersion": __version__,
        "FeaturesSHA256": sha256,
        "Modalities": {name: {"Shape": list(shape)} for name, shape in shapes.items()},
        "WindowRule": f"{frames.length} frames every {frames.stride}",
        "WindowIndices": _INDICES,
        "WindowRepetitionTime": q.window_repetition_time,
        "WindowOnsets": [[round(float(t), 6) for t in span] for span in window_onsets],
        "WindowOnsetsUnits": "s from the start of the recording: onset of the first frame, end of the last one",
        "Resampled": q.window_repetition_time != q.repetition_time,
        "EncoderScaling": about.recipe.scaling,
        "ConnectivityFrames": about.recipe.connectivity.frames,
        "Quality": to_json(about.quality),
    }


_INDICES = (
    "start and stop (exclusive), counted from 0 in the frames that dropping and censoring leave, one uninterrupted "
    "stretch after another, each resampled to WindowRepetitionTime where Resampled is true, extended by reflection "
    "where the quality says padded; not rows of the time series, for which see WindowOnsets"
)


def failed_record(key: str, kind: str, reason: str) -> Object:
    """Describe a recording that failed."""
    return {
        "Description": "State of a recording that has no features.",
        "Key": key,
        "Status": "failed",
        "Kind": kind,
        "Reason": reason,
        "SoftwareVersion": __version__,
    }


def prediction_sidecar(
    prediction: Prediction | None, model: Mapping[str, Json], sources: Mapping[str, str | None], reason: str
) -> Object:
    """Describe a prediction, or its absence; ``sources`` are URIs of features and their checksums."""
    data: Object = {
        "Description": f"Prediction of treatment response ({PAPER}).",
        "IntendedUse": NOT_A_DEVICE,
        **model,
        "SoftwareVersion": __version__,
        "Sources": list(sources),
        "FeaturesSHA256": dict(sources),
    }
    if prediction is None:
        data |= {"Status": "failed", "Reason": reason}
    else:
        data |= {
            "Status": "ok",
            "PerWindow": [round(float(p), 6) for p in prediction.per_window],
            "Flags": list(prediction.flags),
            "Reference": {name: dict(entry) for name, entry in prediction.reference.items()},
        }
    return data | {k: dict(v) for k, v in PREDICTION_COLUMNS.items()}


def prediction_row(
    subject: str, session: str | None, prediction: Prediction | None, qualities: Sequence[Quality], qc: str
) -> Cells:
    """Return the one row of a prediction table; a failed session has one too."""
    row: Cells = {"participant_id": f"sub-{subject}", "fmmtc_qc": qc}
    if session is not None:
        row["session_id"] = f"ses-{session}"
    if qualities:
        row["fmmtc_n_volumes"] = over_runs("n_frames_in_windows", (q.n_frames_in_windows for q in qualities))
        row["fmmtc_mean_fd"] = over_runs("mean_fd", (q.mean_fd for q in qualities))
        row["fmmtc_coverage"] = over_runs("mean_coverage", (q.mean_coverage for q in qualities))
    if prediction is not None:
        p = prediction.per_window
        row |= {
            "fmmtc_probability": round(prediction.probability, 6),
            "fmmtc_label": prediction.label,
            "fmmtc_set": prediction.prediction_set,
            "fmmtc_decision": _decision(prediction.prediction_set),
            "fmmtc_sd": round(float(p.std(ddof=1)), 6) if len(p) > 1 else None,
            "fmmtc_n_windows": len(p),
            "fmmtc_n_models": 1,
            "fmmtc_threshold": prediction.threshold,
        }
    return row


def _decision(classes: Sequence[str] | None) -> str | None:
    if classes is None:
        return None
    return classes[0] if len(classes) == 1 else UNDECIDED
