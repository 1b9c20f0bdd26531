"""The group level from settings to exit code, a straight line."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_fmmtc.dataset.derivatives.collate import Summary, collate
from bids_fmmtc.dataset.derivatives.describe import prepare_group, write_citations
from bids_fmmtc.dataset.derivatives.records import common_recipe, gather
from bids_fmmtc.dataset.store import read_record
from bids_fmmtc.dataset.tables import dataset_roots
from bids_fmmtc.errors import EXIT_FAILURE, EXIT_OK, FmmtcError
from bids_fmmtc.modalities import encoder_references
from bids_fmmtc.modalities.about import LETTERS
from bids_fmmtc.pages import draw_card, draw_results, redraw
from bids_fmmtc.participant import steady_torch
from bids_fmmtc.plain import to_json
from bids_fmmtc.plan import weights_folder
from bids_fmmtc.results.evaluation import Chosen, Evaluation, Part, Saved
from bids_fmmtc.results.trial import TrialPlan
from bids_fmmtc.results.verdict import verdicts
from bids_fmmtc.run import import_series, name_datasets, refuse_writing_into, run_participant_level
from bids_fmmtc.settings import Settings
from bids_fmmtc.work import open_work, work_folder

if TYPE_CHECKING:
    from bids_fmmtc.group.judging import Judged
    from bids_fmmtc.group.study import Study
    from bids_fmmtc.learning.judging.evaluate import Final
    from bids_fmmtc.modalities import Encoder

log = logging.getLogger("bids_fmmtc")

_AGAIN = "Mend the cause and run the same command again; what was learnt is kept in the work folder."


def run_group_level(settings: Settings) -> int:
    """Gather what the participant level wrote; with an outcome train, judge, explain and plan. Returns the exit code.

    Raises
    ------
    FmmtcError
        Whatever makes the features or the outcome unusable.
    """
    if settings.reports_only:
        open_work(settings)  # for matplotlib's cache
        return redraw(settings)
    if settings.dry_run:
        return _dry_run(settings)
    failed = import_series(settings) if settings.timeseries is not None else 0
    features = settings.group.features or (settings.output_dir,)
    recipes, _ = common_recipe(features)
    others = [folder for folder in settings.group.features if folder != settings.output_dir]
    refuse_writing_into(others, settings)
    recipe = recipes[features[0]]
    prepare_group(settings.output_dir, recipe, name_datasets(features, ()))
    if not (settings.output_dir / "logs" / "CITATION.md").is_file():
        write_citations(settings.output_dir, encoder_references(recipe))
    _recover(settings.output_dir / "group")
    open_work(settings)
    summary = collate(settings.output_dir, dataset_roots(settings.bids_dir), features)
    _tell(summary)
    if settings.group.outcome is None:
        log.info("No --outcome was given: what is there was gathered, nothing was trained.")
        failed += draw_results(settings.output_dir, None)
    else:
        failed += _analyse(settings, summary.notes)
    return EXIT_FAILURE if failed else EXIT_OK


def _dry_run(settings: Settings) -> int:
    """Print who would be learnt from and who not, and why; writes nothing."""
    if settings.timeseries is not None:
        return run_participant_level(settings)
    if settings.group.outcome is None:
        counts = Counter(record.problem or "ok" for record in gather(settings.group.features or (settings.output_dir,)))
        sys.stdout.write("".join(f"{n} recordings: {state}\n" for state, n in counts.most_common()))
        return EXIT_OK
    from bids_fmmtc.group.study import load_study, people  # noqa: PLC0415  (torch)

    study = load_study(settings, work_folder(settings), "cpu", log.debug)
    study.scheme.divisions(study.cohort)
    sys.stdout.write(f"{study.folder}\n{study.outcomes.definition}\n{json.dumps(to_json(people(study)), indent=2)}\n")
    for out in study.exclusions:
        sys.stdout.write(f"{out.key}: {out.reason}\n")
    for note in study.notes:
        log.warning("%s", note)
    return EXIT_OK


def _recover(folder: Path) -> None:
    """Put right what killed runs left beside analyses."""
    if any(folder.glob(".*")):
        from bids_fmmtc.group import results, swap  # noqa: PLC0415  (torch)

        swap.recover(folder, results.ours)


def _tell(summary: Summary) -> None:
    counts = summary.counts
    sys.stdout.write(
        f"{counts['participants']} participants, {counts['recordings']} recordings of which "
        f"{counts['failed_recordings']} failed, {counts['predicted']} predictions, {counts['missing']} participants "
        "without any output\n"
    )
    for note in summary.notes:
        log.warning("%s", note)


def _analyse(settings: Settings, told: Sequence[str]) -> int:
    """Judge, train, explain, plan; returns how many parts failed that were asked for. Notes were ``told`` before.

    All of it is built beside an earlier analysis of this name and put in its place when it is whole. A part that fails
    says why and costs no other, nor the same part of an earlier run on the same people.
    """
    from bids_fmmtc.group import explaining, results, swap  # noqa: PLC0415  (torch)
    from bids_fmmtc.group.study import load_study  # noqa: PLC0415

    device = steady_torch(settings.device, settings.omp_nthreads, settings.seed)
    study = load_study(settings, open_work(settings), device, lambda line: log.info("  %s", line))
    for note in study.notes:
        if note not in told:
            log.warning("%s", note)
    explaining.asked_rows(study.cohort, settings.group.explain)  # raises now what would be found hours later
    results.refuse_another(study)
    study.scheme.divisions(study.cohort)
    # The folder is made now: one that cannot be written is found out before hours of work.
    with swap.building(study.folder, results.ours) as new:
        log.info("Learning %s from %d sessions; %d left out.", study.label, len(study.cohort), len(study.exclusions))
        evaluation = _built(study, new, settings)
        undrawn = draw_card(new)
        results.refuse_another(study)  # it may have changed in these hours
        lost = results.worsened(read_record(study.folder / results.EVALUATION), evaluation, study.digest)
        if not lost:
            swap.put_in_place(new, study.folder, results.ours)
    results.tell(study, evaluation)
    if lost:
        log.error("%s failed now and not before: %s stays as it was. %s", ", ".join(lost), study.folder, _AGAIN)
    undrawn += draw_results(settings.output_dir, study.folder)
    return undrawn + results.failures(evaluation)


def _built(study: Study, folder: Path, settings: Settings) -> Evaluation:
    """Write everything of an analysis into a folder, and return what ``evaluation.json`` holds."""
    from bids_fmmtc.group import judging, results, scans  # noqa: PLC0415  (torch)
    from bids_fmmtc.group.study import others_of  # noqa: PLC0415
    from bids_fmmtc.learning.judging.evaluate import final_model  # noqa: PLC0415

    place, study = str(study.folder), replace(study, folder=folder)
    results.write_exclusions(study)
    asked, find = settings.group, partial(scans.scans_of, settings=settings)
    encoders = scans.load_encoders(study, lambda name: weights_folder(name, None, settings))
    study = scans.with_amplitude(scans.with_random_encoders(study, encoders, find))
    judged = judging.judge_all(study)
    evaluation = judging.evaluation(
        study,
        judged,
        permutations=asked.permutations,
        sites_apart=asked.leave_one_site_out,
        threads=settings.omp_nthreads,
    )
    results.write_comparison(study, evaluation.models)
    results.write_predictions(study, judging.made(judged[0]))
    final = final_model(judging.learner_of(judged[0]), study.cohort, study.scheme.inner, "model")
    others = judging.judge_others(study, final, others_of(settings))
    evaluation = replace(evaluation, final=Chosen(final.setting), external=others)
    said = verdicts(evaluation, LETTERS)
    evaluation = replace(
        evaluation, verdicts=tuple(each.text for each in said), verdicts_about=tuple(each.about for each in said)
    )
    for name, part in _parts(study, judged, final, encoders, evaluation, settings).items():
        evaluation = replace(evaluation, **{name: _placed(_guarded(name, part), folder, place)})
    results.write_evaluation(study, evaluation, settings.command)
    return evaluation


def _placed(found: Any, folder: Path, place: str) -> Any:
    """Return a part whose reason names the folder where it is for a reader, not the one it was built in."""
    if isinstance(found, Part):
        return replace(found, reason=found.reason.replace(str(folder), place))
    return found


def _parts(
    study: Study,
    judged: Sequence[Judged],
    final: Final,
    encoders: Sequence[Encoder],
    evaluation: Evaluation,
    settings: Settings,
) -> dict[str, Callable[[], Any]]:
    """Return what follows the evaluation, in order."""
    from bids_fmmtc.group import explaining, judging, planning, results, scans, training  # noqa: PLC0415
    from bids_fmmtc.group.study import others_of  # noqa: PLC0415

    asked = settings.group

    def bundle() -> Saved | Part:
        if study.cohort.kind == "regression":
            return Part("not run", "a bundle predicts classes; give --responder-if for one")
        made = training.write_bundle(study, final, evaluation, error_rate=asked.error_rate, command=settings.command)
        return Saved("ok", results.BUNDLE, made.digest)

    def trial() -> TrialPlan | Part:
        if study.cohort.kind == "regression":
            return Part("not run", "a trial is planned for responders; give --responder-if")
        pooled = sorted(set(study.cohort.arms or ()))
        if len(pooled) > 1 and asked.control_arm is None:
            reason = f"arms {', '.join(pooled)} are pooled; name the control with --control-arm, or one drug with --arm"
            return Part("not run", reason)
        options = planning.trial_options(asked, settings.seed)
        plan = planning.planned(study, judging.made(judged[0]), final, evaluation, options, asked.control_arm)
        results.write_plan(study, plan)
        return plan

    parts: dict[str, Callable[[], Any]] = {}
    if asked.reference_protocol:
        parts["reference_protocol"] = lambda: judging.published(study)
    parts |= {"bundle": bundle, "trial": trial}
    if asked.explanation:
        whom = explaining.Asked(asked.explain, asked.explain_volumes, settings.seed)
        others, find = others_of(settings), partial(scans.scans_of, settings=settings)
        parts["explanation"] = lambda: explaining.explain(study, final, encoders, whom, others, find)
    return parts


def _guarded(name: str, part: Callable[[], Any]) -> Any:
    """Run a part; what it raises becomes its result, so that hours of work before it are not lost."""
    try:
        return part()
    except (FmmtcError, MemoryError, RuntimeError, OSError) as error:
        log.error("%s failed: %s", name, " ".join(str(error).split()))
        return Part("failed", " ".join(f"{error}".split()) or type(error).__name__)
