"""What the final model looks at: attributions of the group, of people on demand, and of other cohorts beside it."""

from __future__ import annotations

import gzip
import logging
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_fmmtc.dataset.store import write_bytes, write_json
from bids_fmmtc.errors import FmmtcError, SelectionError
from bids_fmmtc.group.results import ATTRIBUTION, described, plain, write_described
from bids_fmmtc.group.scans import Find, Scans, sample
from bids_fmmtc.group.study import Others, Study, load_other
from bids_fmmtc.learning.bundle.predict import filled_head
from bids_fmmtc.learning.explaining import tables
from bids_fmmtc.learning.explaining.attribution import VOLUMES, Attribution, GroupAttribution, group_attribution
from bids_fmmtc.learning.explaining.checks import COMPARISON_COLUMNS, SANITY_COLUMNS, compare, sanity_check
from bids_fmmtc.learning.explaining.explain import Explainer, mean_features
from bids_fmmtc.learning.explaining.paths import InputPath, SeriesPath, VolumePath, seconds_a_clip
from bids_fmmtc.learning.judging.evaluate import Final
from bids_fmmtc.modalities import Differentiable, Encoder, OfVolumes
from bids_fmmtc.results.evaluation import Compared, Explanation, Part, Sanity
from bids_fmmtc.types import Atlas, Cohort

log = logging.getLogger("bids_fmmtc")

THROUGH_ENCODER = 20
"""People of a group who are explained through encoders: through series about a CPU minute each with 424 parcels."""
WINDOWS = 1  # of each of them
RANDOM_HEADS = 3
CLASSES = ("non-responder", "responder")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be explained.

    Parameters
    ----------
    labels
        Participants who are explained one by one.
    through_volumes
        People of a group who are explained through volumes; 0: the vector is an input of its own.
    seed
        Draws who is explained of many.
    """

    labels: Sequence[str] = ()
    through_volumes: int = 0
    seed: int = 0


def explain(
    study: Study, final: Final, encoders: Sequence[Encoder], asked: Asked, others: Others, find: Find
) -> Explanation:
    """Explain the final model on its cohort, on people asked for, and on other cohorts; write tables and maps.

    Parameters
    ----------
    encoders
        Those at hand: parcels and voxels are reached through them. One that is not leaves its vector an input of its
        own. Through volumes a person costs minutes to hours, so of a group only those people who are asked for
        (``--explain``, ``--explain-volumes``) are explained so.
    asked, others
        Whom to explain, and the other cohorts.
    find
        Finds the scans of a dataset.

    Raises
    ------
    FmmtcError
        People asked for who are not there, or features that do not fit.
    """
    scans = find(study.features)
    cohort = study.cohort
    one_by_one = asked_rows(cohort, asked.labels)
    down = sample(cohort, asked.through_volumes, asked.seed) if asked.through_volumes else []
    own = _explainer(
        study, final, _paths(study, final, encoders, scans, [cohort.keys[i] for i in {*one_by_one, *down}])
    )
    explainer = own if down else replace(own, paths=tuple(path for path in own.paths if path.map != VOLUMES))
    rows = _rows(explainer, cohort, asked)
    _say_cost(study, explainer, scans, rows * 2, WINDOWS)  # once more by a random model, for the sanity check
    people = _attributed(study, explainer, cohort, scans, rows, "explain")
    group = group_attribution(people, _classes(cohort, rows), seed=asked.seed)
    folder = study.folder / ATTRIBUTION
    _write_group(folder, group, scans.atlas)
    found = replace(
        _facts(group, scans.atlas, len(cohort)),
        windows_each=WINDOWS if explainer.paths else None,
        encoder=bool(explainer.paths),
        through=tuple(sorted(explainer.through)),
        sanity=_sanity(study, explainer, scans, rows, group, folder),
    )
    _say_cost(study, own, scans, one_by_one, None)
    for row in one_by_one:
        _write_person(folder, _person(own, cohort, scans, row), scans.atlas)
    compared = {
        name: _other(study, explainer, group, asked, name, partial(_opened, study, others, find, path, outcome))
        for name, path, outcome in others.cohorts
    }
    return replace(found, participants=tuple(cohort.keys[row] for row in one_by_one), compared=compared)


def _rows(explainer: Explainer, cohort: Cohort, asked: Asked) -> list[int]:
    """Return whom of a cohort (the model's own, or another) a group's attribution rests on, as its cost allows."""
    if any(path.map == VOLUMES for path in explainer.paths):
        return sample(cohort, asked.through_volumes, asked.seed)
    return sample(cohort, THROUGH_ENCODER if explainer.paths else len(cohort), asked.seed)


def _explainer(study: Study, final: Final, paths: tuple[InputPath, ...]) -> Explainer:
    parts = final.fitted.head()
    head = filled_head(parts.spec, parts.shapes, dict(parts.state)).to(study.setup.device)
    baselines = mean_features({name: study.cohort.arrays[name] for name in parts.shapes}, parts.tangent)
    return Explainer(head, baselines, parts.tangent, paths)


def _paths(
    study: Study, final: Final, encoders: Sequence[Encoder], scans: Scans, deep: Sequence[str]
) -> tuple[InputPath, ...]:
    """Return the ways through encoders that the model reads; through volumes where images of ``deep`` are at hand."""
    atlas = scans.atlas
    found: list[InputPath] = []
    for encoder in encoders:
        if encoder.name not in final.fitted.head().shapes or not isinstance(encoder, Differentiable):
            continue
        if isinstance(encoder, OfVolumes):
            if lacking := scans.lacking(encoder, deep):
                log.warning("%s is explained as one input, without voxels: %s", encoder.name, lacking)
            elif deep:
                found.append(VolumePath(encoder, len(atlas.names)))
        elif np.isfinite(atlas.xyz).all():
            found.append(SeriesPath(encoder, atlas.xyz, study.recipe.scaling))
    return tuple(found)


def _say_cost(study: Study, explainer: Explainer, scans: Scans, rows: Sequence[int], most: int | None) -> None:
    """Say how long attributions through volumes will take, before they begin: one clip, there and back, is timed."""
    for path in explainer.paths:
        if not isinstance(path.encoder, OfVolumes) or not rows:
            continue
        window = scans.clips(study.cohort.keys[rows[0]], path.encoder, 1)[0]
        windows = [min(len(study.cohort.arrays[path.encoder.name][row]), most or sys.maxsize) for row in rows]
        seconds = seconds_a_clip(path, window, study.setup.device)
        clips = len(window.clips) * sum(windows)
        study.setup.say(
            f"through {path.encoder.name}: {len(set(rows))} people, {clips} clips at {explainer.steps} points and "
            f"more, about {clips * explainer.steps * seconds / 60:.0f} minutes at {seconds:.1f} s a clip"
        )


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
        if explainer.paths and ((i + 1) % 5 == 0 or i + 1 == len(rows)):
            study.setup.say(f"{name}: {i + 1} of {len(rows)}")
    return done


def _person(
    explainer: Explainer, cohort: Cohort, scans: Scans, row: int, most: int | None = None, *, keep_time: bool = True
) -> Attribution:
    limit = most if explainer.paths else None
    arrays = {name: cohort.arrays[name][row][:limit] for name in explainer.baselines}
    inputs = {name: scans.inputs(cohort.keys[row], path.encoder, limit) for name, path in explainer.through.items()}
    return explainer.explain(cohort.keys[row], arrays, inputs, keep_time=keep_time)


def _facts(group: GroupAttribution, atlas: Atlas, sessions: int) -> Explanation:
    parcels = tables.parcel_rows(group, atlas)
    return Explanation(
        status="ok",
        of=sessions,
        people=len(group.keys),
        shares=tuple(tables.share_rows(group)),
        top_parcels=tuple(sorted(parcels, key=operator.itemgetter("rank"))[:20]),
        top_edges=tuple(tables.edge_rows(group, atlas, 20)) if "edges" in group.maps else (),
        completeness_error=group.error,
        steps=group.steps,
        baseline=dict(group.baseline),
        top_stability=group.top_stability,
    )


def _sanity(
    study: Study, explainer: Explainer, scans: Scans, rows: Sequence[int], group: GroupAttribution, folder: Path
) -> Sanity:
    """Compare with heads of random weights (Adebayo et al. 2018): maps that look the same tell nothing of the model."""
    heads = 1 if explainer.paths else RANDOM_HEADS
    random = []
    for seed in range(heads):
        other = explainer.randomised(seed, encoder=bool(explainer.paths))
        people = _attributed(study, other, study.cohort, scans, rows, f"random model {seed + 1}")
        random.append(group_attribution(people, _classes(study.cohort, rows)))
    check = sanity_check(group, random)
    write_described(
        folder / "sanity", "Maps of the model and of models with random weights", described(SANITY_COLUMNS), check.rows
    )
    return Sanity(check.passes, check.text, check.rows)


def _other(
    study: Study,
    explainer: Explainer,
    group: GroupAttribution,
    asked: Asked,
    name: str,
    opened: Callable[[], tuple[Cohort, Scans]],
) -> Part | Compared:
    """Put the model's behaviour on another cohort beside that on its own; what fails says why."""
    try:
        cohort, scans = opened()
        rows = _rows(explainer, cohort, asked)
        people = _attributed(study, explainer, cohort, scans, rows, name)
        other = group_attribution(people, _classes(cohort, rows), seed=asked.seed)
        table = compare(group, other)
    except FmmtcError as error:
        return Part("failed", str(error))
    target = study.folder / ATTRIBUTION / f"cohort-{name}"
    _write_group(target, other, scans.atlas)
    about = f"The model on its own cohort (one) and on {name} (other)"
    write_described(target / "compared", about, described(COMPARISON_COLUMNS), table)
    return Compared(rows=tuple(table))


def _opened(study: Study, others: Others, find: Find, folder: Path, outcome: str) -> tuple[Cohort, Scans]:
    return load_other(others, study, folder, outcome).cohort, find((folder,))


# --------------------------------------------------------------------------------------------------------------- write


def _write_group(folder: Path, group: GroupAttribution, atlas: Atlas) -> None:
    classes = [c for c in CLASSES if any(c in m.by_class for m in group.maps.values())]
    more = {f"mean_{c}": f"Mean over people of class {c}." for c in classes}
    parcels = tables.parcel_rows(group, atlas)
    edges = tables.edge_rows(group, atlas) if "edges" in group.maps else []
    for name, text, columns, rows in (
        ("shares", "What each modality contributes", tables.SHARE_COLUMNS, tables.share_rows(group)),
        ("parcels", "Attribution to parcels", {**tables.parcel_columns(group), **more}, parcels),
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
