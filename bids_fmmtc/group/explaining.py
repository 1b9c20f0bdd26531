"""What the final model looks at: attributions of the group, of people on demand, and of other cohorts beside it."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bids_fmmtc.dataset.store import write_bytes, write_json
from bids_fmmtc.errors import FmmtcError, SelectionError
from bids_fmmtc.group.results import ATTRIBUTION, described, plain, write_described
from bids_fmmtc.group.scans import Scans, sample, scans_of
from bids_fmmtc.group.study import Study, load_other
from bids_fmmtc.learning import attribution_tables as tables
from bids_fmmtc.learning.attribution import Attribution, GroupAttribution, group_attribution
from bids_fmmtc.learning.attribution_checks import COMPARISON_COLUMNS, SANITY_COLUMNS, compare, sanity_check
from bids_fmmtc.learning.evaluate import Final
from bids_fmmtc.learning.explain import Explainer, SeriesPath, mean_features
from bids_fmmtc.learning.predict import filled_head
from bids_fmmtc.modalities.brainlm import BrainLMModality
from bids_fmmtc.settings import Settings
from bids_fmmtc.types import Atlas, Cohort

log = logging.getLogger("bids_fmmtc")

THROUGH_ENCODER = 20
"""People of a group whose series are explained through the encoder: about a CPU minute each with 424 parcels."""
WINDOWS = 1  # of each of them
RANDOM_HEADS = 3
CLASSES = ("non-responder", "responder")


def explain(study: Study, final: Final, encoder: BrainLMModality | None, settings: Settings) -> dict[str, Any]:
    """Explain the final model on its cohort, on people asked for, and on other cohorts; write tables and maps.

    Returns
    -------
    dict
        What ``evaluation.json`` says of it, JSON-ready.

    Raises
    ------
    FmmtcError
        People asked for who are not there, or features that do not fit.
    """
    scans = scans_of(study.features)
    explainer = _explainer(study, final, encoder, scans.atlas)
    cohort = study.cohort
    asked = asked_rows(cohort, settings.group.explain)
    rows = sample(cohort, THROUGH_ENCODER, settings.seed) if explainer.path is not None else list(range(len(cohort)))
    people = _attributed(study, explainer, cohort, scans, rows, "explain")
    group = group_attribution(people, _classes(cohort, rows), seed=settings.seed)
    folder = study.folder / ATTRIBUTION
    _write_group(folder, group, scans.atlas)
    found = {"status": "ok", "of": len(cohort), **_facts(group, scans.atlas)}
    found["windows_each"] = WINDOWS if explainer.path is not None else None
    found["encoder"] = explainer.path is not None
    found["sanity"] = _sanity(study, explainer, scans, rows, group, folder)
    for row in asked:
        _write_person(folder, _person(explainer, cohort, scans, row), scans.atlas)
    found["participants"] = [cohort.keys[row] for row in asked]
    found["compared"] = _others(study, explainer, group, settings)
    return found


def _explainer(study: Study, final: Final, encoder: BrainLMModality | None, atlas: Atlas) -> Explainer:
    parts = final.fitted.head()
    head = filled_head(parts.spec, parts.shapes, dict(parts.state)).to(study.setup.device)
    baselines = mean_features({name: study.cohort.arrays[name] for name in parts.shapes}, parts.tangent)
    path = None
    if encoder is not None and encoder.name in parts.shapes and np.isfinite(atlas.xyz).all():
        path = SeriesPath(encoder, atlas.xyz, study.recipe.scaling)
    return Explainer(head, baselines, parts.tangent, path)


def asked_rows(cohort: Cohort, labels: Sequence[str]) -> list[int]:
    """Return the rows of people to explain one by one; SelectionError where somebody was not learnt from."""
    rows = [i for i, subject in enumerate(cohort.subjects) if subject.removeprefix("sub-") in labels]
    absent = sorted(set(labels) - {cohort.subjects[i].removeprefix("sub-") for i in rows})
    if absent:
        raise SelectionError(
            f"--explain names {', '.join(absent)}, who are not among the {len(cohort)} sessions learnt from.",
            "exclusions.tsv says why people are left out.",
        )
    return rows


def _classes(cohort: Cohort, rows: Sequence[int]) -> list[str] | None:
    return None if cohort.kind == "regression" else [CLASSES[int(cohort.y[i])] for i in rows]


def _attributed(
    study: Study, explainer: Explainer, cohort: Cohort, scans: Scans, rows: Sequence[int], name: str
) -> list[Attribution]:
    """Explain rows one by one, saying how far it is; each costs minutes where it goes through a large encoder."""
    done = []
    for i, row in enumerate(rows):
        done.append(_person(explainer, cohort, scans, row, WINDOWS, keep_time=False))
        if explainer.path is not None and ((i + 1) % 5 == 0 or i + 1 == len(rows)):
            study.setup.say(f"{name}: {i + 1} of {len(rows)}")
    return done


def _person(
    explainer: Explainer, cohort: Cohort, scans: Scans, row: int, most: int | None = None, *, keep_time: bool = True
) -> Attribution:
    through = explainer.path is not None
    limit = most if through else None
    arrays = {name: cohort.arrays[name][row][:limit] for name in explainer.baselines}
    series = scans.windows(cohort.keys[row], limit) if through else None
    return explainer.explain(cohort.keys[row], arrays, series, keep_time=keep_time and through)


def _facts(group: GroupAttribution, atlas: Atlas) -> dict[str, Any]:
    parcels = sorted(tables.parcel_rows(group, atlas), key=lambda r: r["rank"])
    return {
        "people": len(group.keys),
        "shares": tables.share_rows(group),
        "top_parcels": parcels[:20],
        "top_edges": tables.edge_rows(group, atlas, 20) if "edges" in group.maps else [],
        "completeness_error": group.error,
        "steps": group.steps,
        "baseline": dict(group.baseline),
        "top_stability": group.top_stability,
    }


def _sanity(
    study: Study, explainer: Explainer, scans: Scans, rows: Sequence[int], group: GroupAttribution, folder: Path
) -> dict[str, Any]:
    """Compare with heads of random weights (Adebayo et al. 2018): maps that look the same tell nothing of the model."""
    heads = 1 if explainer.path is not None else RANDOM_HEADS
    random = []
    for seed in range(heads):
        other = explainer.randomised(seed, encoder=explainer.path is not None)
        people = _attributed(study, other, study.cohort, scans, rows, f"random model {seed + 1}")
        random.append(group_attribution(people, _classes(study.cohort, rows)))
    check = sanity_check(group, random)
    write_described(
        folder / "sanity", "Maps of the model and of models with random weights", described(SANITY_COLUMNS), check.rows
    )
    return {"passes": check.passes, "text": check.text, "rows": list(check.rows)}


def _others(study: Study, explainer: Explainer, group: GroupAttribution, settings: Settings) -> dict[str, Any]:
    """Put the model's behaviour on each other cohort beside that on its own; what fails says why."""
    found: dict[str, Any] = {}
    for name, folder, outcome in settings.group.external:
        try:
            cohort, scans = load_other(settings, study, folder, outcome).cohort, scans_of((folder,))
            rows = sample(cohort, THROUGH_ENCODER if explainer.path is not None else len(cohort), settings.seed)
            people = _attributed(study, explainer, cohort, scans, rows, name)
            other = group_attribution(people, _classes(cohort, rows), seed=settings.seed)
            table = compare(group, other)
        except FmmtcError as error:
            found[name] = {"status": "failed", "reason": str(error)}
            continue
        target = study.folder / ATTRIBUTION / f"cohort-{name}"
        _write_group(target, other, scans.atlas)
        write_described(
            target / "compared",
            f"The model on its own cohort (one) and on {name} (other)",
            described(COMPARISON_COLUMNS),
            table,
        )
        found[name] = {"status": "ok", "rows": table}
    return found


# --------------------------------------------------------------------------------------------------------------- write


def _write_group(folder: Path, group: GroupAttribution, atlas: Atlas) -> None:
    classes = [c for c in CLASSES if any(c in m.by_class for m in group.maps.values())]
    more = {f"mean_{c}": f"Mean over people of class {c}." for c in classes}
    parcels = tables.parcel_rows(group, atlas)
    edges = tables.edge_rows(group, atlas) if "edges" in group.maps else []
    for name, text, columns, rows in (
        ("shares", "What each modality contributes", tables.SHARE_COLUMNS, tables.share_rows(group)),
        ("parcels", "Attribution to parcels", {**tables.PARCEL_COLUMNS, **more}, parcels),
        ("edges", "Top edges by attribution", {**tables.EDGE_COLUMNS, **more}, edges),
        ("networks", "Attribution summed to networks", tables.NETWORK_COLUMNS, tables.network_rows(group, atlas)),
    ):
        if rows:
            write_described(folder / name, text, described(columns), rows)
    for column in ("mean", "between"):
        if parcels:
            _write_map(folder / f"parcels_{column}.nii.gz", [r[column] for r in parcels], atlas)


def _write_person(folder: Path, found: Attribution, atlas: Atlas) -> None:
    """Write one person's parcels, edges, map, and the attribution over time where there is one."""
    one = group_attribution([found])
    target = folder / found.key
    _write_group(target, one, atlas)
    if found.parcels_time is not None:
        columns = {name: {"Description": f"Attribution to parcel {name}"} for name in atlas.names}
        rows = [dict(zip(atlas.names, frame.tolist(), strict=True)) for frame in found.parcels_time]
        write_described(target / "time", "Attribution by frame (rows) and parcel, first window", columns, rows)
    facts = {"score": found.score, "baseline_score": found.baseline_score, "parts": dict(found.parts)}
    facts |= {
        "relative_errors": dict(found.relative_errors),
        "windows": found.windows,
        "baseline": dict(found.baseline),
    }
    write_json(target / "attribution.json", plain(facts))


def _write_map(path: Path, values: Sequence[float | None], atlas: Atlas) -> None:
    """Write parcel values on the atlas's grid, where the atlas has an image."""
    if atlas.labels.size == 0:
        return
    numbers = np.array([0.0 if v is None else v for v in values])
    image = nib.Nifti1Image(tables.to_volume(numbers, atlas.labels), atlas.affine)
    image.header.set_xyzt_units("mm", "sec")
    write_bytes(path, gzip.compress(image.to_bytes(), mtime=0))
