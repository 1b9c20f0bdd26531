"""The participant level from settings to exit code: discover, schedule, collect, tell."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_fmmtc import __version__
from bids_fmmtc.dataset.describe import check_output, prepare_dataset, refuse_inside
from bids_fmmtc.dataset.discover import Query, find_recordings, read_filter_file
from bids_fmmtc.dataset.folders import find_derivatives
from bids_fmmtc.dataset.store import Layout, read_record, write_json, write_table
from bids_fmmtc.errors import EXIT_FAILURE, EXIT_OK, FmmtcError, MissingInputError, UsageError
from bids_fmmtc.plan import Plan, outline, resolve
from bids_fmmtc.progress import Progress
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.settings import Settings, Task
from bids_fmmtc.signals.parcellate import read_header
from bids_fmmtc.signals.spaces import usable_spaces
from bids_fmmtc.types import Failure, Recording, Selection

if TYPE_CHECKING:
    from bids_fmmtc.workflow import Job

log = logging.getLogger("bids_fmmtc")

BASE_GB = 0.3  # interpreter, numpy, labels
TORCH_GB = 0.9  # torch, an encoder, one window through it


# ------------------------------------------------------------------------------------------------------------ discover


def discover(settings: Settings, recipe: Recipe, atlas_space: str) -> tuple[Selection, dict[str, Path]]:
    """Find recordings, and name the input datasets for BIDS URIs."""
    roots = find_derivatives(settings.bids_dir, settings.derivatives)
    for folder, what in ((settings.work_dir, "work folder"), (settings.database_dir, "database folder")):
        if folder is not None:
            refuse_inside(folder, roots, what)
    query = Query(
        participants=settings.participants,
        sessions=settings.sessions,
        tasks=settings.tasks,
        spaces=settings.spaces or usable_spaces(atlas_space),
        bold_desc=recipe.denoising.bold_desc,
        filters=read_filter_file(settings.filter_file) if settings.filter_file else {},
    )
    return find_recordings(roots, query, settings.database_dir), name_datasets(roots, settings.derivatives)


def name_datasets(roots: Sequence[Path], given: Sequence[tuple[str | None, Path]]) -> dict[str, Path]:
    """Name each input dataset: as the user did, else after its folder; letters and digits, no name twice."""
    names: dict[str, Path] = {}
    asked = {path.resolve(): name for name, path in given if name}
    for root in roots:
        plain = "".join(c for c in asked.get(root.resolve()) or root.name if c.isalnum() or c in "-_") or "input"
        name, n = plain, 2
        while name in names:
            name, n = f"{plain}{n}", n + 1
        names[name] = root
    return names


def describe_selection(selection: Selection) -> str:
    """Return, per participant, which recordings would run, which not, and why."""
    lines: list[str] = []
    subjects = list(dict.fromkeys(_subjects(selection)))
    for subject in subjects:
        lines.append(f"sub-{subject}")
        for r in selection.recordings:
            if r.subject == subject:
                res = "" if r.resolution is None else f" res-{r.resolution}"
                tr = "repetition time from header" if r.repetition_time is None else f"{r.repetition_time:g} s"
                lines.append(f"  run   {r.key}  space-{r.space}{res}  {tr}  {r.bold.name}")
        lines += [f"  fail  {f.key}  {f.reason}" for f in selection.failures if _subject_of(f.key) == subject]
        lines += [f"  skip  {s.path.name}  {s.reason}" for s in selection.skipped if s.subject == subject]
    n, m = len(selection.recordings), len(selection.failures)
    lines.append(f"{len(subjects)} participants: {n} recordings would run, {m} cannot; nothing was written.")
    return "\n".join(lines) + "\n"


def _subjects(selection: Selection) -> list[str]:
    found = [r.subject for r in selection.recordings] + [_subject_of(f.key) for f in selection.failures]
    return sorted(set(found))


def _subject_of(key: str) -> str:
    return key.split("_", 1)[0].removeprefix("sub-")


# ------------------------------------------------------------------------------------------------------------ schedule


def make_tasks(settings: Settings, plan: Plan, selection: Selection, links: Mapping[str, Path]) -> list[Task]:
    """Return one task per participant, in order; participants with nothing but failures have one too."""
    return [
        Task(
            subject=subject,
            recordings=tuple(r for r in selection.recordings if r.subject == subject),
            failures=tuple(f for f in selection.failures if _subject_of(f.key) == subject),
            recipe=plan.recipe,
            output=settings.output_dir,
            atlas=plan.atlas_folder,
            bundle=None if plan.bundle is None else plan.bundle.root.absolute(),
            weights=plan.weights,
            transform=plan.transform,
            links=links,
            device=settings.device,
            threads=settings.omp_nthreads,
            seed=settings.seed,
        )
        for subject in _subjects(selection)
    ]


def memory_gb(recordings: Sequence[Recording], *, torch: bool) -> float:
    """Estimate what a participant's process needs, from the headers; recordings come one after another."""
    most = 0.0
    for recording in recordings:
        try:
            header = read_header(recording.bold)
        except FmmtcError:
            continue  # it will fail with its reason, and cheaply
        voxels = int(np.prod(header.shape[:3]))
        # A volume, the labels and a mask on its grid, and a dozen float64 copies of 500 parcels by T frames.
        most = max(most, 3 * header.volume_bytes + 12 * voxels + 12 * 8 * 500 * header.shape[3])
    return BASE_GB + (TORCH_GB if torch else 0) + most / 1e9


def work_folder(settings: Settings) -> Path:
    """Return the folder for task files and logs, one per output folder unless the user names it."""
    if settings.work_dir is not None:
        return settings.work_dir
    import tempfile  # noqa: PLC0415

    mark = hashlib.sha256(f"{os.getuid()}:{settings.output_dir.resolve()}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"bids_fmmtc-{mark}"


def write_job(task: Task, work: Path, *, torch: bool) -> tuple[Job, bool]:
    """Write a participant's task file; tell whether an earlier run already did just this, with all outputs there."""
    from bids_fmmtc.participant import fingerprint  # noqa: PLC0415
    from bids_fmmtc.workflow import Job, succeeded  # noqa: PLC0415

    job = Job(task.subject, work / f"sub-{task.subject}", memory_gb(task.recordings, torch=torch))
    marks: dict[str, Any] = {}
    for r in task.recordings:
        try:
            marks[r.key] = fingerprint(r)
        except FmmtcError as error:
            marks[r.key] = error.message  # unreadable: the child will say so in the recording's row
    data = json.loads(json.dumps({**task.to_json(), "software": __version__, "inputs": marks}))
    report = read_record(job.report_file)
    done = (
        _same_but_threads(read_record(job.task_file), data)
        and report is not None
        and succeeded(report)
        and all((task.output / name).is_file() for name in report["outputs"])
    )
    if not done:
        job.report_file.unlink(missing_ok=True)
        write_json(job.task_file, data)
    return job, done


def _same_but_threads(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    """Compare task files; how many threads did the work does not change its result."""
    return one is not None and {**one, "threads": 0} == {**other, "threads": 0}


def plugin_arguments(settings: Settings, n_jobs: int) -> dict[str, Any]:
    """Return Nipype's plugin and its arguments: the user's file, else Linear for one process, MultiProc for more."""
    if settings.plugin_file is not None:
        import yaml  # noqa: PLC0415

        try:
            loaded = yaml.safe_load(settings.plugin_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingInputError(f"plugin file {settings.plugin_file} does not exist.") from None
        except (OSError, yaml.YAMLError) as error:
            text = " ".join(str(error).split())
            raise UsageError(f"plugin file {settings.plugin_file} cannot be read: {text}.") from None
        if not isinstance(loaded, dict) or "plugin" not in loaded:
            raise UsageError(f"plugin file {settings.plugin_file} needs a mapping with the key plugin.")
        return {k: v for k, v in loaded.items() if k in ("plugin", "plugin_args")}
    workers = min(settings.nprocs, n_jobs)
    if workers <= 1:
        return {"plugin": "Linear"}
    arguments: dict[str, Any] = {"n_procs": workers * settings.omp_nthreads, "raise_insufficient": False}
    if settings.memory_gb is not None:
        arguments["memory_gb"] = settings.memory_gb
    return {"plugin": "MultiProc", "plugin_args": arguments}


# ------------------------------------------------------------------------------------------------------------- collect


def collect(jobs: Sequence[Job], tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Gather the reports; a participant whose worker was lost, or that was never reached, keeps its rows."""
    from bids_fmmtc.participant import record_lost  # noqa: PLC0415

    reports = []
    for job, task in zip(jobs, tasks, strict=True):
        report = read_record(job.report_file)
        if report is None:
            started = read_record(job.partial_file)
            failure = Failure(
                f"sub-{task.subject}", "process", "not-run", "it was not reached before the run ended.", "Run it again."
            )
            if started is not None:
                failure = replace(failure, kind="killed", message="its worker was lost.")
            report = record_lost(task, started or {}, failure)
        reports.append(report)
    return reports


def outcome_rows(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the outcome table: a row per recording and session of every participant."""
    rows = []
    for report in reports:
        for level in ("recordings", "sessions"):
            for row in report[level]:
                ok = row["status"] == "ok"
                reason = ",".join(row["flags"]) if ok else _reason(row)
                rows.append(
                    {
                        "key": row["key"],
                        "level": level[:-1],
                        "status": row["status"],
                        "windows": row.get("windows"),
                        "probability": row.get("probability"),
                        "label": row.get("label"),
                        "notes": reason,
                    }
                )
    return rows


def _reason(row: Mapping[str, Any]) -> str:
    return Failure(**{name: row[name] for name in Failure.__slots__}).reason


COLUMNS = ("key", "level", "status", "windows", "probability", "label", "notes")


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the outcome table as aligned text."""
    body = [[_shown(row[c]) for c in COLUMNS] for row in rows]
    lines = [list(COLUMNS), *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS) - 1)]
    text = [
        "  ".join([*(c.ljust(w) for c, w in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip() for line in lines
    ]
    return "\n".join(text) + "\n"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------------------------- level


def run_participant_level(settings: Settings) -> int:
    """Run the participant level; returns the exit code.

    Raises
    ------
    FmmtcError
        What stops a run before any recording is read.
    """
    if settings.dry_run:
        return _dry_run(settings)
    plan = resolve(settings)
    _check_device(settings)
    selection, links = discover(settings, plan.recipe, plan.atlas.space)
    layout = Layout(settings.output_dir, plan.atlas.name)
    check_output(layout.root, plan.recipe, links)
    prepare_dataset(layout, plan.recipe, plan.atlas, links)
    if plan.bundle is None:
        log.info("No model bundle was given (--model or $FMMTC_MODEL): features only, no predictions.")
    elif plan.bundle.demo:
        log.warning("DEMO MODEL: its predictions mean nothing.")
    tasks = make_tasks(settings, plan, selection, links)
    reports = _run(settings, plan, tasks)
    return _tell(settings, layout, plan, reports)


def _dry_run(settings: Settings) -> int:
    """Print what would run; needs no atlas and no weights, and writes nothing."""
    recipe, atlas_space = outline(settings)
    selection, _ = discover(settings, recipe, atlas_space)
    sys.stdout.write(describe_selection(selection))
    return EXIT_OK


def _run(settings: Settings, plan: Plan, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Schedule the participants that are not done yet, and return the reports of all."""
    from bids_fmmtc.workflow import run_jobs  # noqa: PLC0415  (Nipype: 0.5 s)

    work = work_folder(settings)
    torch = plan.bundle is not None or bool(plan.weights)
    jobs, waiting = [], []
    for task in tasks:
        job, done = write_job(task, work, torch=torch)
        jobs.append(job)
        if not done:
            waiting.append(job)
    if len(waiting) < len(jobs):
        log.info("%d of %d participants are done already.", len(jobs) - len(waiting), len(jobs))
    if waiting:
        plugin = plugin_arguments(settings, len(waiting))
        with Progress(waiting):
            run_jobs(waiting, work / "nipype", plugin, settings.omp_nthreads, stop=settings.stop_on_first_crash)
    return collect(jobs, tasks)


def _tell(settings: Settings, layout: Layout, plan: Plan, reports: Sequence[Mapping[str, Any]]) -> int:
    """Print and store the outcome table; return the exit code."""
    rows = outcome_rows(reports)
    run = layout.root / "logs" / f"run-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    write_table(run / "outcomes.tsv", COLUMNS, rows)
    facts = {"Version": __version__, "Command": settings.command, "RecipeDigest": plan.recipe.digest}
    write_json(run / "run.json", facts)
    sys.stdout.write(format_table(rows))
    failed = [r for r in rows if r["status"] != "ok"]
    if failed:
        log.error("%d of %d rows failed; the reasons stand above and in %s.", len(failed), len(rows), run)
        return EXIT_FAILURE
    return EXIT_OK


def _check_device(settings: Settings) -> None:
    if settings.device != "cuda":
        return
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise UsageError("--device cuda was given, but torch finds no CUDA device.", "Use --device auto or cpu.")
