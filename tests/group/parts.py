"""A small imported cohort with features, made in this process, and the group level run on it."""

import json
import shutil

import numpy as np
import pytest

from bids_fmmtc.cli import parse
from bids_fmmtc.dataset.derivatives.describe import prepare_dataset
from bids_fmmtc.dataset.store import Layout, write_table
from bids_fmmtc.group.judging import evaluation
from bids_fmmtc.group.study import load_study
from bids_fmmtc.participant import process_subject
from bids_fmmtc.plan import resolve
from bids_fmmtc.run import discover_series, make_tasks

R, T, LENGTH = 12, 90, 40
PLANTED = (0, 3, 6, 9)
COLUMNS = ("participant_id", "responder", "pain", "site", "age", "sex", "arm", "family", "luck")


def person_series(i, responder, strength=0.9):
    """Return (T, R) series; in responders the planted parcels share a signal."""
    rng = np.random.default_rng([11, i])
    x = rng.standard_normal((T, R))
    if responder:
        x[:, PLANTED] = (1 - strength) * x[:, PLANTED] + strength * rng.standard_normal((T, 1))
    return x


def write_inputs(root, n=24, broken=(), start=0):
    """Write series of ``n`` people (half of them responders), their table, an atlas table, and a recipe."""
    series = root / "series"
    series.mkdir(parents=True)
    (series / "dataset_description.json").write_text(json.dumps({"Name": "t", "BIDSVersion": "1.8.0"}))
    (series / "timeseries.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    names = [f"p{j:02d}" for j in range(R)]
    rows = []
    for i in range(start, start + n):
        responder = (i // 2) % 2 == 0
        x = person_series(i, responder)
        rows_of = x[:20] if i in broken else x
        table = [dict(zip(names, map(float, frame), strict=True)) for frame in rows_of]
        write_table(series / f"sub-{i:02d}_task-rest_timeseries.tsv", names, table)
        rng = np.random.default_rng([12, i])
        rows.append(
            {
                "participant_id": f"sub-{i:02d}", "responder": int(responder),
                "pain": round(50 - 30 * responder + float(rng.normal(0, 5)), 2), "site": "ab"[i % 2],
                "age": 30 + i, "sex": "FM"[(i // 3) % 2], "arm": "drug" if i % 3 else "placebo",
                "family": f"f{i // 2 if i < 6 else i}", "luck": int(rng.integers(0, 2)),
            }
        )  # fmt: skip
    write_table(root / "bids" / "participants.tsv", COLUMNS, rows)
    atlas = [
        {"index": j + 1, "name": names[j], "x": 4.0 * j - 20, "y": 2.0 * j, "z": 1.0 * j, "network": "AB"[j % 3 == 0]}
        for j in range(R)
    ]
    write_table(root / "atlas-Tiny.tsv", ("index", "name", "x", "y", "z", "network"), atlas)
    recipe = {"atlas": {"name": "Tiny"}, "windows": {"length": LENGTH, "stride": LENGTH, "short_least": LENGTH}}
    (root / "recipe.json").write_text(json.dumps(recipe))
    return root


def make_features(root, *words):
    """Run the participant steps on `write_inputs`, in this process, without drawing; returns the output dataset."""
    given = [str(root / "bids"), str(root / "out"), "participant", "--timeseries", str(root / "series")]
    given += [
        "--atlas",
        str(root / "atlas-Tiny.tsv"),
        "--recipe",
        str(root / "recipe.json"),
        "--device",
        "cpu",
        *map(str, words),
    ]
    settings = parse(given, {})
    plan = resolve(settings)
    selection, links = discover_series(settings, plan.imported)
    layout = Layout(settings.output_dir, plan.atlas.name)
    prepare_dataset(layout, plan.recipe, plan.atlas, links, imported=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bids_fmmtc.participant.draw_participant", _no_page)  # a second each, and tested elsewhere
        for task in make_tasks(settings, plan, selection, links):
            process_subject(task, lambda report: None)
    return settings.output_dir


def _no_page(root, label):
    page = root / f"sub-{label}.html"
    page.write_text("<!DOCTYPE html><title>x</title>")
    return page


def group_words(root, *words, outcome="responder"):
    """Return the command line of a group run on `make_features`, kept small."""
    given = [str(root / "bids"), str(root / "out"), "group", "-w", str(root / "work"), "--omp-nthreads", "1"]
    if outcome is not None:
        given += ["--outcome", outcome]
        small = {"--folds": "3", "--inner-folds": "3", "--repeats": "2", "--permutations": "19"}
        given += [w for option, value in small.items() if option not in words for w in (option, value)]
    return [*given, *map(str, words)]


def copied(made, root):
    """Copy a made dataset, so that a test may write into it."""
    return shutil.copytree(made, root / "copy")


def evaluated(study, judged, given):
    """Evaluate as the level does with these settings."""
    asked = given.group
    return evaluation(
        study, judged, permutations=asked.permutations, sites_apart=asked.leave_one_site_out, threads=given.omp_nthreads
    )


def study(root, *words, outcome="responder"):
    """Load what an analysis would work on."""
    return load_study(parse(group_words(root, *words, outcome=outcome), {}), root / "work", "cpu", print)
