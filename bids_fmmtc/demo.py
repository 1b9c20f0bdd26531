"""``bids_fmmtc-demo DIR``: the whole circle on a synthetic cohort: features, a model, its evaluation, predictions.

The participant level runs on a cohort in which responders differ by a planted effect (`bids_fmmtc.synthetic`); one
participant's image is cut off, to show what a failure looks like. The group level learns, judges, explains and plans
a trial. The participant level then predicts people whom the model has never met. No figure of it means anything
beyond that the program finds what was planted; everything it writes says DEMO.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_fmmtc.cli import main as run_app
from bids_fmmtc.dataset.store import read_record, read_table, write_json
from bids_fmmtc.errors import EXIT_FAILURE, EXIT_OK, OutputError
from bids_fmmtc.guard import guarded
from bids_fmmtc.keys import Key
from bids_fmmtc.synthetic import ATLAS, BROKEN, ENCODERS, Person, cohort, recipe, write_atlas, write_cohort

ANALYSIS = "demo"
RECIPE = "recipe.json"
ENCODER = next(iter(ENCODERS))
"""The encoder of a demo that is not asked for another."""

FIRST_NEW = 101
"""Number of the first new person; those learnt from are numbered from 1, and numbers seed the signal."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the demo is; the default takes a few minutes on two cores.

    Parameters
    ----------
    people
        To learn from, the broken one among them.
    new
        To predict.
    permutations, repeats
        Of the evaluation.
    """

    people: int = 24
    new: int = 4
    permutations: int = 100
    repeats: int = 2


class _Unplanned(Exception):  # noqa: N818  (never leaves this module)
    """Something did not go as planned; holds the exit code and what it was."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code or EXIT_FAILURE


def main(argv: Sequence[str] | None = None) -> int:
    """Write the demo into a folder and run every level on it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bids_fmmtc-demo",
        description="Write a synthetic cohort, run bids_fmmtc on it, and predict new people; a few minutes on 2 cores.",
    )
    parser.add_argument("folder", type=Path, help="where to put everything; made if absent")
    parser.add_argument("--nprocs", type=int, default=2, help="participants at once; default: 2")
    parser.add_argument(
        "--encoder",
        choices=tuple(ENCODERS),
        default=ENCODER,
        help=f"modality for which a small encoder of random weights is made; default: {ENCODER}",
    )
    options = parser.parse_args(argv)
    folder, encoder = options.folder.absolute(), options.encoder
    return guarded("bids_fmmtc-demo", lambda: run_demo(folder, options.nprocs, encoder=encoder))


def run_demo(folder: Path, nprocs: int, size: Size | None = None, encoder: str = ENCODER) -> int:
    """Write the inputs below ``folder``, run the levels on them, and say where to look.

    What an earlier run has finished in the same folder is not done again.

    Parameters
    ----------
    nprocs
        Participants at once.
    size
        How large; default: `Size`.
    encoder
        Whose place a small one of random weights takes; one of `ENCODERS`.

    Returns
    -------
    int
        0 when all but the broken participant succeeded, that one failed as planned, and every new person has a
        prediction.

    Raises
    ------
    OutputError
        ``folder`` holds something else, or a demo with another encoder.
    """
    size = size or Size()
    _refuse_another(folder, encoder)
    learnt, new = cohort(size.people), cohort(size.new, FIRST_NEW)
    _say(f"Writing a synthetic cohort to {folder} (no real person's data) ...")
    _write_inputs(folder, learnt, new, encoder)
    try:
        _features(folder, nprocs, learnt)
        _learn(folder, size)
        _predict(folder, nprocs)
        _compare(folder, new)
    except _Unplanned as stop:
        _say(f"\nThe demo did not go as planned: {stop}")
        return stop.code
    return EXIT_OK


def _refuse_another(folder: Path, encoder: str) -> None:
    """Refuse a folder of something else, and one whose features are of another encoder."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / f"atlas-{ATLAS}").is_dir():
        raise OutputError(f"{folder} is not empty and holds no demo.", "Give another folder.")
    made = read_record(folder / RECIPE)  # None: an earlier run ended before it
    others = [] if made is None else [m["name"] for m in made["modalities"] if m["name"] in {*ENCODERS} - {encoder}]
    if others:
        raise OutputError(f"{folder} holds a demo with {others[0]}, not with {encoder}.", "Give another folder.")


def _write_inputs(folder: Path, learnt: Sequence[Person], new: Sequence[Person], encoder: str) -> None:
    atlas, weights = folder / f"atlas-{ATLAS}", folder / "encoder"
    write_atlas(atlas)
    write_cohort(folder / "fmriprep", atlas, learnt)
    write_cohort(folder / "fmriprep-new", atlas, new, outcome=False)
    ENCODERS[encoder](weights)
    write_json(folder / RECIPE, recipe(atlas, weights, encoder).to_json())


# --------------------------------------------------------------------------------------------------------------- steps


def _features(folder: Path, nprocs: int, people: Sequence[Person]) -> None:
    _say("\n1 of 3: features of the cohort, as after fMRIPrep.")
    code = _run(folder, "fmriprep", "output", "participant", "--recipe", folder / RECIPE, *_common(folder, nprocs))
    planned = [f"sub-{p.label}" for p in people if p.label == BROKEN]
    failed = _failed(folder / "output")
    if failed != planned or code != (EXIT_FAILURE if planned else EXIT_OK):
        raise _Unplanned(code, f"exit code {code}, failed: {', '.join(failed) or 'nobody'}.")
    if planned:
        why = "its image is cut off on purpose"
        _say(f"As planned, {planned[0]} failed ({why}) and keeps a row; the others have features.")


def _learn(folder: Path, size: Size) -> None:
    _say("\n2 of 3: learn from the cohort, judge the model, explain it, plan a trial.")
    words: list[str | Path | int] = ["--outcome", "responder", "--site-column", "site", "--covariates", "age", "sex"]
    words += ["--repeats", size.repeats, "--permutations", size.permutations, "--analysis-label", ANALYSIS]
    words += ["--control-rate", "0.3", "--cost-scan", 500, "--cost-patient", 5000, "--currency", "EUR"]
    # One thread: the cohort is so small that a second one would mostly wait.
    words += ["--encoder-weights", folder / "encoder", "--omp-nthreads", 1, "--work-dir", folder / "work"]
    code = _run(folder, "fmriprep", "output", "group", *words)
    if code != EXIT_OK or not (_bundle(folder) / "bundle.json").is_file():
        raise _Unplanned(code, f"exit code {code} of the group level.")


def _predict(folder: Path, nprocs: int) -> None:
    _say("\n3 of 3: apply the model to people whom it has never met; their outcome is in no file.")
    code = _run(
        folder, "fmriprep-new", "output-new", "participant", "--model", _bundle(folder), *_common(folder, nprocs)
    )
    if code != EXIT_OK:
        raise _Unplanned(code, f"exit code {code}, failed: {', '.join(_failed(folder / 'output-new')) or 'nobody'}.")


def _compare(folder: Path, people: Sequence[Person]) -> None:
    """Print what the model says of the new people beside what was planted; everyone must have a prediction."""
    lines = ["\nNew people: probability of being a responder, and what was planted in their signal"]
    called = 0
    for person in people:
        name = f"sub-{person.label}"
        table = folder / "output-new" / name / "func" / f"{name}_task-rest_desc-fmmtc_prediction.tsv"
        rows = read_table(table) if table.is_file() else []
        if len(rows) != 1 or rows[0]["fmmtc_probability"] == "n/a":
            raise _Unplanned(EXIT_FAILURE, f"{name} has no prediction.")
        (row,) = rows
        truth = "responder" if person.responder else "non-responder"
        called += row["fmmtc_label"] == truth
        said = f"{float(row['fmmtc_probability']):.3f}  decision: {row['fmmtc_decision']:<13}"
        lines.append(f"  {name}  {said}  planted: {truth:<13}  flags: {row['fmmtc_qc']}")
    lines += [
        f"{called} of {len(people)} are called what was planted. The data are synthetic and the effect is a strong one",
        "that was put in: this shows that the program finds what is there, and says nothing about patients.",
        "",
        f"Features      {folder / 'output'}",
        f"Analysis      {folder / 'output' / 'group' / ANALYSIS}",
        f"DEMO model    {_bundle(folder)}",
        f"Predictions   {folder / 'output-new'}",
    ]
    _say("\n".join(lines))


# -------------------------------------------------------------------------------------------------------------- running


def _run(folder: Path, data: str, output: str, level: str, *more: str | Path | int) -> int:
    words = [str(folder / data), str(folder / output), level, *map(str, more)]
    _say(f"Running: {shlex.join(['bids_fmmtc', *words])}\n")
    return run_app(words)


def _common(folder: Path, nprocs: int) -> list[str | Path | int]:
    words: list[str | Path | int] = ["--encoder-weights", folder / "encoder", "--atlas", folder / f"atlas-{ATLAS}"]
    return [*words, "--nprocs", nprocs, "--work-dir", folder / "work"]


def _bundle(folder: Path) -> Path:
    return folder / "output" / "group" / ANALYSIS / "bundle"


def _failed(output: Path) -> list[str]:
    """Return participants with a recording that failed."""
    records = output.glob("sub-*/func/*_features.json")
    failed = [p for p in records if json.loads(p.read_text(encoding="utf-8"))["Status"] != "ok"]
    return sorted({Key(p.name).participant for p in failed})


def _say(text: str) -> None:
    # At once: the program's own messages go to standard error in between.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
