"""The participant level from settings to exit code: discover, schedule, collect, tell."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_fmmtc import __version__
from bids_fmmtc.accounts import look_again, tell, unsettled
from bids_fmmtc.console import Progress, describe_selection, subjects
from bids_fmmtc.dataset.derivatives.describe import check_output, prepare_dataset, refuse_inside, write_citations
from bids_fmmtc.dataset.find.beside import is_series
from bids_fmmtc.dataset.find.discover import Query, find_recordings, read_filter_file
from bids_fmmtc.dataset.find.fingerprint import fingerprint
from bids_fmmtc.dataset.find.series import SeriesQuery, read_series_filters, select_series
from bids_fmmtc.dataset.folders import find_derivatives
from bids_fmmtc.dataset.store import Layout, read_record, remove, write_json
from bids_fmmtc.errors import EXIT_FAILURE, EXIT_OK, FmmtcError, MissingInputError, UnreadableError, UsageError
from bids_fmmtc.keys import Key
from bids_fmmtc.modalities import encoder_references, load_modality
from bids_fmmtc.pages import redraw
from bids_fmmtc.plain import to_json
from bids_fmmtc.plan import Imported, Plan, find_imported, left_out, left_out_line, outline, resolve
from bids_fmmtc.reading import is_there, read_text
from bids_fmmtc.recipe import Recipe
from bids_fmmtc.rows import Report, read_report
from bids_fmmtc.settings import Settings, Task
from bids_fmmtc.signals.parcellate import read_header
from bids_fmmtc.signals.spaces import place, usable_spaces
from bids_fmmtc.types import Failure, Recording, Selection
from bids_fmmtc.work import open_work

if TYPE_CHECKING:
    from bids_fmmtc.workflow import Job

log = logging.getLogger("bids_fmmtc")

BASE_GB = 0.3  # interpreter, numpy, labels
TORCH_GB = 0.9  # torch, an encoder, one window through it


# ------------------------------------------------------------------------------------------------------------ discover


def discover(
    settings: Settings, recipe: Recipe, atlas_space: str, transform: Path | None = None
) -> tuple[Selection, dict[str, Path]]:
    """Find recordings, turn down those in a space the atlas cannot be brought to, and name the input datasets."""
    roots = find_derivatives(settings.bids_dir, settings.derivatives)
    refuse_writing_into(roots, settings)
    query = Query(
        participants=settings.participants,
        sessions=settings.sessions,
        tasks=settings.tasks,
        spaces=settings.spaces or usable_spaces(atlas_space),
        bold_desc=recipe.denoising.bold_desc,
        filters=read_filter_file(settings.filter_file) if settings.filter_file else {},
    )
    found = find_recordings(roots, query, settings.database_dir)
    return _placeable(found, recipe, atlas_space, transform), name_datasets(roots, settings.derivatives)


def discover_series(settings: Settings, imported: Imported) -> tuple[Selection, dict[str, Path]]:
    """Turn the tables of series into recordings, and name the folder they come from; ``bids_dir`` holds none of them.

    Raises
    ------
    FmmtcError
        As `select_series`; or ``bids_dir`` is not there, or something would be written into an input.
    """
    folder = settings.timeseries
    if folder is None:
        raise ValueError("there are no series to import")
    if not settings.bids_dir.is_dir():
        raise MissingInputError(
            f"input folder {settings.bids_dir} does not exist.",
            "Give the folder of participants.tsv, or that of the series.",
        )
    refuse_writing_into((folder,), settings)
    query = SeriesQuery(
        participants=settings.participants,
        sessions=settings.sessions,
        tasks=settings.tasks,
        spaces=settings.spaces,
        filters=read_series_filters(settings.filter_file),
        atlas=imported.label,
        repetition_time=settings.repetition_time,
    )
    return select_series(imported.found, query), name_datasets((folder,), ())


def refuse_writing_into(roots: Sequence[Path], settings: Settings) -> None:
    """Refuse output, work or database folders in an input dataset."""
    written = {"output": settings.output_dir, "work": settings.work_dir, "database": settings.database_dir}
    for what, folder in written.items():
        if folder is not None:
            refuse_inside(folder, roots, f"{what} folder")
            _refuse_among_raw_data(folder, settings.bids_dir, f"{what} folder")


def _refuse_among_raw_data(folder: Path, bids_dir: Path, what: str) -> None:
    """Refuse to write into a raw dataset anywhere but in a folder of its own under ``derivatives``."""
    if not folder.resolve().is_relative_to(bids_dir.resolve()):
        return
    parts = folder.resolve().relative_to(bids_dir.resolve()).parts
    if len(parts) < 2 or parts[0] != "derivatives":
        raise UsageError(
            f"the {what} {folder} lies in the input dataset {bids_dir}.",
            f"Give another folder, or one in {bids_dir / 'derivatives'}.",
        )


def _placeable(selection: Selection, recipe: Recipe, atlas_space: str, transform: Path | None) -> Selection:
    """Make recordings whose space has no way to the atlas failures, so that a dry run shows them, too."""
    good, failures = [], list(selection.failures)
    for recording in selection.recordings:
        try:
            place(recording.space, atlas_space, recipe.space, transform)
            good.append(recording)
        except FmmtcError as error:
            failures.append(Failure(recording.key, "discover", error.kind, error.message, error.hint))
    return replace(selection, recordings=tuple(good), failures=tuple(failures))


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


# ------------------------------------------------------------------------------------------------------------ schedule


def make_tasks(settings: Settings, plan: Plan, selection: Selection, links: Mapping[str, Path]) -> list[Task]:
    """Return one task per participant, in order; participants with nothing but failures have one too."""
    return [
        Task(
            subject=subject,
            recordings=tuple(r for r in selection.recordings if r.subject == subject),
            failures=tuple(f for f in selection.failures if Key(f.key).subject == subject),
            recipe=plan.recipe,
            output=settings.output_dir,
            atlas=plan.atlas_folder,
            bundle=None if plan.bundle is None else plan.bundle.root.absolute(),
            bundle_digest=None if plan.bundle is None else plan.bundle.digest,
            weights=plan.weights,
            transform=plan.transform,
            links=links,
            device=settings.device,
            threads=settings.omp_nthreads,
            seed=settings.seed,
        )
        for subject in subjects(selection)
    ]


def memory_gb(recordings: Sequence[Recording], recipe: Recipe, *, torch: bool) -> float:
    """Estimate what a participant's process needs, from the headers; recordings come one after another."""
    most = 0.0
    parcels = recipe.atlas.n_parcels or 424
    for recording in recordings:
        if is_series(recording):
            most = max(most, _series_bytes(recording, parcels, recipe))
            continue
        try:
            header = read_header(recording.bold)
        except FmmtcError:
            continue  # it will fail with its reason, and cheaply
        voxels, frames = int(np.prod(header.shape[:3])), header.shape[3]
        windows = 1 + max(frames - recipe.windows.length, 0) // recipe.windows.stride
        # A volume, the labels and a mask on its grid; a dozen float64 copies of the series; connectivity of each
        # window, which is stacked and packed for writing.
        bulk = 3 * header.volume_bytes + 12 * voxels + 12 * 8 * parcels * frames + 3 * 4 * parcels**2 * windows
        most = max(most, bulk)
    return BASE_GB + (TORCH_GB if torch else 0) + most / 1e9


def _series_bytes(recording: Recording, parcels: int, recipe: Recipe) -> float:
    """Estimate what a table of series needs: its text, a dozen copies of its numbers, connectivity of each window."""
    try:
        size = recording.bold.stat().st_size
    except OSError:
        return 0.0  # it will fail with its reason, and cheaply
    numbers = size / 6  # at least this many characters each
    windows = 1 + numbers / parcels / recipe.windows.stride
    return 8 * size + 12 * 8 * numbers + 3 * 4 * parcels**2 * windows


def write_job(task: Task, work: Path, *, torch: bool) -> tuple[Job, bool]:
    """Write a participant's task file; tell whether an earlier run already did just this, with all outputs there."""
    from bids_fmmtc.workflow import Job  # noqa: PLC0415

    job = Job(task.subject, work / f"sub-{task.subject}", memory_gb(task.recordings, task.recipe, torch=torch))
    marks: dict[str, Mapping[str, str] | str] = {}
    for r in task.recordings:
        try:
            marks[r.key] = fingerprint(r)
        except FmmtcError as error:
            marks[r.key] = error.message  # unreadable: the child will say so in the recording's row
    data = json.loads(json.dumps({**to_json(task), "software": __version__, "inputs": marks}))
    report = read_report(job.report_file)
    done = (
        _same_but_threads(read_record(job.task_file), data)
        and report is not None
        and report.succeeded
        and not unsettled(task.output, report.outputs)
    )
    if not done:
        for old in (job.report_file, job.partial_file, job.log_file):
            remove(old)
        write_json(job.task_file, data)
    return job, done


def _same_but_threads(one: Mapping[str, object] | None, other: Mapping[str, object]) -> bool:
    """Compare task files; how many threads did the work does not change its result."""
    return one is not None and {**one, "threads": 0} == {**other, "threads": 0}


def plugin_arguments(settings: Settings) -> dict[str, Any]:
    """Return Nipype's plugin and its arguments: the user's file, else Linear for one process, MultiProc for more."""
    if settings.plugin_file is not None:
        import yaml  # noqa: PLC0415

        from bids_fmmtc.workflow import check_plugin  # noqa: PLC0415

        file = settings.plugin_file
        if not is_there(file):
            raise MissingInputError(f"plugin file {file} does not exist.")
        try:
            loaded = yaml.safe_load(read_text(file))
        except UnreadableError as error:
            raise UsageError(f"plugin file {file}: {error}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UsageError(f"plugin file {file} cannot be read: {' '.join(str(error).split())}.") from None
        if not isinstance(loaded, dict) or not isinstance(loaded.get("plugin"), str):
            raise UsageError(f"plugin file {file} needs a mapping with the key plugin, a name.")
        _check_arguments(file, loaded.get("plugin_args"))
        check_plugin(loaded["plugin"])
        return {k: v for k, v in loaded.items() if k in ("plugin", "plugin_args")}
    if settings.nprocs == 1:
        return {"plugin": "Linear"}
    arguments: dict[str, float] = {"n_procs": settings.nprocs * settings.omp_nthreads}
    if settings.memory_gb is not None:
        arguments["memory_gb"] = settings.memory_gb
    return {"plugin": "MultiProc", "plugin_args": arguments}


def _check_arguments(file: Path, found: Any) -> None:
    """Refuse arguments of a plugin that is not a mapping of names, or numbers that are none."""
    if found is None:
        return
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"plugin file {file}: plugin_args needs a mapping of names.", "Correct the plugin file.")
    wanted = {
        "n_procs": "a whole number above 0",
        "max_jobs": "a whole number above 0",
        "memory_gb": "a number above 0",
    }
    for name, words in wanted.items():
        kinds = int | float if name == "memory_gb" else int
        value = found.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 1e6:
            raise UsageError(
                f"plugin file {file}: {name} is {value!r}, not {words} above 0.", "Correct the plugin file."
            )


# ------------------------------------------------------------------------------------------------------------- collect


def collect(jobs: Sequence[Job], tasks: Sequence[Task], problem: str = "") -> list[Report]:
    """Gather the reports; a participant whose worker was lost, or that was never reached, keeps its rows.

    Parameters
    ----------
    problem
        Why the scheduler ended early, on one line; empty if it did not.
    """
    from bids_fmmtc.participant import record_lost  # noqa: PLC0415

    reports = []
    for job, task in zip(jobs, tasks, strict=True):
        report = read_report(job.report_file)
        if report is None:
            text = f"the scheduler ended early: {problem}." if problem else "it was not reached before the run ended."
            failure = Failure(f"sub-{task.subject}", "process", "not-run", text, "Run the same command again.")
            if job.log_file.exists() and not problem:
                failure = replace(failure, kind="killed", message="its worker was lost.")
            report = record_lost(task, read_report(job.partial_file) or Report(task.subject), failure)
        reports.append(report)
    return reports


# ---------------------------------------------------------------------------------------------------------------- level


def run_participant_level(settings: Settings) -> int:
    """Run the participant level; returns the exit code.

    Raises
    ------
    FmmtcError
        What stops a run before any recording is read.
    """
    if settings.reports_only:
        open_work(settings)  # for matplotlib's cache
        return redraw(settings)
    if settings.dry_run:
        return _dry_run(settings)
    return EXIT_FAILURE if _process(settings) else EXIT_OK


def import_series(settings: Settings) -> int:
    """Make the features of imported series (``--timeseries``) that are not made yet; no predictions.

    For the group level, which goes on with what is in the output folder then. What happened is printed and stored as
    at the participant level.

    Returns
    -------
    int
        How many recordings have no features; their rows say why.

    Raises
    ------
    FmmtcError
        What stops a run before any recording is read.
    """
    return _process(replace(settings, model=None))


def _process(settings: Settings) -> int:
    """Run all participants; returns how many rows failed."""
    _refuse_absent_input(settings)
    plan = resolve(settings)
    _check_device(settings)
    _open_encoders(plan)
    plugin = plugin_arguments(settings)
    if plan.imported is None:
        selection, links = discover(settings, plan.recipe, plan.atlas.space, plan.transform)
    else:
        selection, links = discover_series(settings, plan.imported)
        for skipped in selection.skipped:
            log.info("%s is passed over: %s.", skipped.path.name, skipped.reason)
    layout = Layout(settings.output_dir, plan.atlas.name)
    model, imported = None if plan.bundle is None else plan.bundle.digest, plan.imported is not None
    ours = check_output(layout.root, plan.recipe, links, imported=imported)
    before = None if ours is None else ours.model
    prepare_dataset(layout, plan.recipe, plan.atlas, links, model or before, imported=imported, left_out=plan.left_out)
    write_citations(layout.root, encoder_references(plan.recipe))
    if plan.left_out:
        log.warning("%s", left_out_line(plan.left_out))
    if model and before and model != before:
        log.warning("%s holds predictions of another model; participants not run now keep theirs.", layout.root)
    if plan.bundle is None:
        log.info("No model bundle was given (--model or $FMMTC_MODEL): features only, no predictions.")
    elif plan.bundle.demo:
        log.warning("DEMO MODEL: its predictions mean nothing.")
    tasks = make_tasks(settings, plan, selection, links)
    reports = _run(settings, plan, tasks, plugin)
    return tell(look_again(reports, layout), layout, {"Command": settings.command, "RecipeDigest": plan.recipe.digest})


def _refuse_absent_input(settings: Settings) -> None:
    """Refuse a dataset that is not there, the argument most often mistyped, before resources are looked for."""
    if not settings.bids_dir.exists():
        raise MissingInputError(
            f"input folder {settings.bids_dir} does not exist.", "Check the path, or the container's mounts."
        )


def _dry_run(settings: Settings) -> int:
    """Print what would run; needs no atlas and no weights, and writes nothing."""
    _refuse_absent_input(settings)
    recipe, atlas_space = outline(settings)
    imported = find_imported(settings, recipe)
    if imported is None:
        selection, _ = discover(settings, recipe, atlas_space)
    else:
        selection, _ = discover_series(settings, imported)
    sys.stdout.write(describe_selection(selection))
    without = left_out(settings, recipe)
    if without:
        sys.stdout.write(f"{left_out_line(without)}\n")
    return EXIT_OK if selection.recordings else EXIT_FAILURE


def _run(settings: Settings, plan: Plan, tasks: Sequence[Task], plugin: Mapping[str, Any]) -> list[Report]:
    """Schedule the participants that are not done yet, and return the reports of all."""
    from bids_fmmtc.workflow import run_jobs  # noqa: PLC0415  (Nipype: 0.5 s)

    work = open_work(settings)
    torch = plan.bundle is not None or bool(plan.weights)
    jobs, waiting = [], []
    for task in tasks:
        job, done = write_job(task, work, torch=torch)
        jobs.append(job)
        if not done:
            waiting.append(job)
    if len(waiting) < len(jobs):
        log.info("%d of %d participants are done already.", len(jobs) - len(waiting), len(jobs))
    problem = ""
    if waiting:
        with Progress(waiting):
            problem = run_jobs(
                waiting, work / "nipype", plugin, settings.omp_nthreads, stop=settings.stop_on_first_crash
            )
    return collect(jobs, tasks, problem)


def _check_device(settings: Settings) -> None:
    if settings.device != "cuda":
        return
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise UsageError("--device cuda was given, but torch finds no CUDA device.", "Use --device auto or cpu.")


def _open_encoders(plan: Plan) -> None:
    """Open each encoder whole, as every participant will, so that one that is none ends the run before the first."""
    for spec in plan.recipe.modalities:
        if spec.name in plan.weights:
            load_modality(spec, plan.recipe, plan.weights[spec.name])
