"""The command line: the only reader of options and environment. Heavy imports come after parsing."""

from __future__ import annotations

import argparse
import logging
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_fmmtc import __version__
from bids_fmmtc.errors import EXIT_UNKNOWN_LEVEL, MissingInputError, UsageError, printable
from bids_fmmtc.group_options import add_group_options, group_settings
from bids_fmmtc.guard import complain, guarded
from bids_fmmtc.resources import resource_dirs
from bids_fmmtc.usage import SEE_HELP, UsageParser, refuse_misplaced

if TYPE_CHECKING:
    from bids_fmmtc.settings import Settings

LEVELS = {
    "participant": "bids_fmmtc.run:run_participant_level",
    "group": "bids_fmmtc.group.level:run_group_level",
}
"""Analysis level -> function from settings to exit code."""

_LEVEL_HELP = (
    "participant: features per recording, and predictions if there is a model; group: gather them, and with "
    "--outcome train, evaluate, explain, plan a trial"
)
_EPILOG = """\
Names with underscores are accepted for those with hyphens: --participant_label, --n_cpus, --mem_gb.

Exit codes: 0 all well; 1 something failed (see the table); 16 not a dataset this program can read; 17 unknown
level; 18 nothing selected; 64 usage; 65 unusable data, recipe, atlas or bundle; 66 an input is missing; 70 a
fault of the program; 73 output cannot be written; 74 I/O; 75 temporary, try again.

Research software, not a medical device."""

# Nothing of a run may reach out: libraries that phone home unless told not to are told before they are imported.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NIPYPE_NO_ET": "1",
    "NO_ET": "1",
    "TEMPLATEFLOW_AUTOUPDATE": "off",
}
# cuBLAS is repeatable only with a workspace of fixed size, which must be set before CUDA starts.
_REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "MPLBACKEND": "Agg"}
# Libraries keep caches and settings in the home folder, which may be read-only, somebody else's, or change a figure.
_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "HF_HOME": "huggingface",
    "NIPYPE_CONFIG_DIR": "nipype",
    "XDG_CACHE_HOME": "xdg",
}
"""Variable -> folder below the work folder."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def build_parser() -> UsageParser:
    """Return the parser of ``bids_fmmtc``."""
    parser = UsageParser(
        prog="bids_fmmtc",
        description="Predict treatment response from resting-state fMRI that fMRIPrep has preprocessed (FMM_TC).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=Path, help="fMRIPrep derivatives, or a BIDS dataset that holds them")
    parser.add_argument("output_dir", type=Path, help="where the derivatives of this program go")
    parser.add_argument("analysis_level", help=_LEVEL_HELP)
    parser.add_argument("--version", action="version", version=f"bids_fmmtc {__version__}")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice for everything")
    for add in (_add_selection, _add_model, _add_resources, add_group_options):
        add(parser)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which recordings")
    several = {"nargs": "+", "action": "extend", "default": [], "metavar": "LABEL"}
    group.add_argument("--participant-label", **several, help="with or without sub-; @FILE reads labels, # comments")  # type: ignore[arg-type]
    group.add_argument("--session-label", "--session-id", **several, help="with or without ses-")  # type: ignore[arg-type]
    group.add_argument(
        "--task-id", "--task-label", nargs="+", action="extend", default=[], metavar="TASK", help="default: rest"
    )
    group.add_argument(
        "--space",
        nargs="+",
        action="extend",
        default=[],
        help="template spaces, the most wanted first; with or without space-",
    )
    group.add_argument("--bids-filter-file", type=Path, metavar="FILE", help="JSON filters, as fMRIPrep takes them")
    group.add_argument("--bids-database-dir", type=Path, metavar="DIR", help="pybids database to reuse or to make")
    group.add_argument(
        "--derivatives", nargs="+", action="extend", default=[], metavar="[NAME=]PATH", help="fMRIPrep folders"
    )
    group.add_argument(
        "--timeseries",
        type=Path,
        metavar="DIR",
        help="import parcel series instead of images: tables of xcp_d, giga_connectome, HALFpipe, or any "
        "sub-LABEL[_...]_timeseries.tsv below DIR",
    )
    group.add_argument(
        "--repetition-time", type=_seconds, metavar="S", help="of --timeseries, in s, where no sidecar tells it"
    )
    group.add_argument("--dry-run", action="store_true", help="print what would run and why not; write nothing")
    group.add_argument(
        "--reports-only", action="store_true", help="draw the pages again from what is in output_dir; compute nothing"
    )
    group.add_argument("--skip-bids-validation", action="store_true", help="accepted; input is not validated anyway")


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is computed")
    group.add_argument(
        "--model", type=Path, metavar="DIR", help="model bundle; default $FMMTC_MODEL; none: features only"
    )
    group.add_argument("--encoder-weights", type=Path, metavar="DIR", help="folder of the pretrained encoder")
    group.add_argument(
        "--recipe",
        action=_Recipe,
        metavar="NAME|FILE",
        help="name or JSON file of a recipe; list: the names and what each is for; default: what is here of fmm_tc; a "
        "bundle brings its own",
    )
    group.add_argument(
        "--atlas",
        metavar="NAME|DIR|FILE",
        help="default: A424, from the cache or $FMMTC_RESOURCES; with --timeseries the one in the names, or a FILE.tsv "
        "of parcels (name, x, y, z in MNI mm)",
    )
    group.add_argument(
        "--on-space-mismatch",
        choices=("warp", "affine", "fail"),
        help="recording not in the atlas's space: warp the labels (default), take both for one (flagged), or refuse",
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="for encoder and head")
    group.add_argument(
        "--random-seed",
        type=int,
        default=0,
        metavar="N",
        help="of folds, bootstraps and permutations (group); recorded, and given to torch",
    )


class _Recipe(argparse.Action):
    """``--recipe``: keeps what was given; asked for the list, prints it and ends there, as ``--version`` does."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Keep the value, or list the recipes."""
        del option
        from bids_fmmtc.recipes import LIST, listing  # noqa: PLC0415

        if values == LIST:
            sys.stdout.write(listing())
            parser.exit()
        setattr(namespace, self.dest, values)


def _add_resources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it runs")
    group.add_argument(
        "--nprocs",
        "--n-cpus",
        "--n-procs",
        "--nthreads",
        type=_positive,
        metavar="N",
        help="participants at once; default: 1",
    )
    group.add_argument(
        "--omp-nthreads", type=_positive, metavar="N", help="threads of each; default: CPUs / nprocs, group: 1"
    )
    group.add_argument("--mem", "--mem-gb", type=_gigabytes, metavar="GB", help="memory the scheduler may plan with")
    group.add_argument("-w", "--work-dir", type=Path, metavar="DIR", help="task files and logs; enables resuming")
    group.add_argument("--nipype-plugin-file", type=Path, metavar="FILE", help="YAML with plugin and plugin_args")
    group.add_argument("--stop-on-first-crash", action="store_true", help="start no participant after a failure")
    group.add_argument("--notrack", action="store_true", help="accepted; nothing is ever tracked")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.05 <= value <= 30:
        raise argparse.ArgumentTypeError(f"{text} is not a repetition time, 0.05 to 30 s")
    return value


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of GB")
    return value


def parse(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Settings:
    """Turn the command line and the environment into settings.

    Raises
    ------
    SystemExit
        ``--help``, ``--version``, or a usage error (code 64).
    UsageError, MissingInputError
        A value no option accepts, or a label file that is not there.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for word in words:
        _refuse_other_text(word)
    parser = build_parser()
    spelt, given = parser.spelt(words)
    options = parser.parse_args(spelt)
    refuse_misplaced(options.analysis_level, given)
    from bids_fmmtc.recipes import name_or_file  # noqa: PLC0415
    from bids_fmmtc.settings import Settings  # noqa: PLC0415  (brings numpy, which --help does without)

    nprocs = options.nprocs or 1
    # Training sums in an order that depends on the number of threads: by default a number is the same everywhere.
    free = 1 if options.analysis_level == "group" else max(1, len(os.sched_getaffinity(0)) // nprocs)
    threads = options.omp_nthreads or free
    if options.repetition_time is not None and options.timeseries is None:
        raise UsageError("--repetition-time is for --timeseries only; an image has its own.")
    _refuse_other_text(environ.get("FMMTC_MODEL", ""))
    model = options.model or (Path(environ["FMMTC_MODEL"]) if environ.get("FMMTC_MODEL") else None)
    recipe = None if options.recipe is None else name_or_file(options.recipe)
    return Settings(
        bids_dir=_real(options.bids_dir),
        output_dir=_real(options.output_dir),
        level=options.analysis_level,
        participants=_labels("--participant-label", options.participant_label, "sub-"),
        sessions=_labels("--session-label", options.session_label, "ses-"),
        tasks=_labels("--task-id", options.task_id, "task-") or ("rest",),
        spaces=_labels("--space", options.space, "space-"),
        filter_file=options.bids_filter_file,
        database_dir=options.bids_database_dir,
        derivatives=tuple(_derivative(text) for text in options.derivatives),
        timeseries=None if options.timeseries is None else _real(options.timeseries),
        repetition_time=options.repetition_time,
        model=model,
        encoder_weights=options.encoder_weights,
        recipe_file=recipe if isinstance(recipe, Path) else None,
        recipe_name=recipe if isinstance(recipe, str) else None,
        atlas=options.atlas or "A424",
        atlas_given=options.atlas is not None,
        on_space_mismatch=options.on_space_mismatch,
        device=options.device,
        nprocs=nprocs,
        omp_nthreads=threads,
        memory_gb=options.mem,
        work_dir=None if options.work_dir is None else _real(options.work_dir),
        plugin_file=options.nipype_plugin_file,
        stop_on_first_crash=options.stop_on_first_crash,
        dry_run=options.dry_run,
        reports_only=options.reports_only,
        seed=options.random_seed,
        verbose=options.verbose,
        resources=resource_dirs(environ),
        command=shlex.join(["bids_fmmtc", *words]),
        group=group_settings(options),
    )


def _refuse_other_text(word: str) -> None:
    """Refuse what is not UTF-8: it cannot be written into JSON and tables, where paths go."""
    try:
        word.encode()
    except UnicodeEncodeError:
        shown = word.encode(errors="backslashreplace").decode()
        raise UsageError(f"{shown} is not UTF-8 text.", "Rename it, or give a link with a plain name.") from None


def _real(path: Path) -> Path:
    # absolute() keeps links as the user spelled them: a DataLad dataset is a forest of them.
    absolute = os.path.normpath(path.expanduser().absolute())
    _refuse_other_text(absolute)  # the working directory may be no UTF-8
    return Path(absolute)


def _labels(option: str, words: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Flatten labels given apart, separated by commas, or in files as ``@FILE``; take their BIDS prefix off."""
    labels: list[str] = []
    for word in words:
        if word.startswith("@"):
            labels += _label_file(Path(word[1:])).replace(",", " ").split()
        else:
            labels += word.replace(",", " ").split()
    if words and not labels:
        # An empty shell variable or file must not turn into "everybody".
        raise UsageError(f"{option} holds no label.", "Leave the option out to take all.")
    if prefix in labels:
        raise UsageError(f"{option} {prefix} has no label after {prefix}.", f"Write {prefix}LABEL or LABEL.")
    return tuple(label.removeprefix(prefix) for label in labels)


def _label_file(path: Path) -> str:
    """Return the labels in a file; lines that start with # are comments."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise MissingInputError(f"label file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"label file {path} is not UTF-8 text.") from None
    return " ".join(line for line in lines if not line.lstrip().startswith("#"))


def _derivative(text: str) -> tuple[str | None, Path]:
    name, equals, path = text.partition("=")
    if equals and not name:
        raise UsageError(f"--derivatives {text}: the name before = is empty.", "Write NAME=PATH or PATH.")
    return (name, _real(Path(path))) if equals else (None, _real(Path(text)))


def _parsed(argv: Sequence[str] | None) -> Settings:
    try:
        return parse(argv, os.environ)
    except UsageError as error:
        raise UsageError(error.message, f"{error.hint} {SEE_HELP}".lstrip()) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bids_fmmtc``; returns the exit code."""
    known: list[Settings] = []

    def logs() -> Path | None:
        there = bool(known) and not known[0].dry_run and (known[0].output_dir / "logs").is_dir()
        return known[0].output_dir / "logs" if there else None

    return guarded("bids_fmmtc", lambda: _run(argv, known), logs)


def _run(argv: Sequence[str] | None, known: list[Settings]) -> int:
    settings = _parsed(argv)
    known.append(settings)
    entry = LEVELS.get(settings.level)
    if entry is None:
        complain("bids_fmmtc", f"unknown analysis level {settings.level!r}; known: {', '.join(LEVELS)}.")
        return EXIT_UNKNOWN_LEVEL
    os.environ.update(_OFFLINE | _REPEATABLE | dict.fromkeys(_THREADS, str(settings.omp_nthreads)))
    from bids_fmmtc.work import work_folder  # noqa: PLC0415

    caches = {name: str(work_folder(settings) / "cache" / place) for name, place in _CACHES.items()}
    before = {name: os.environ.get(name) for name in caches}
    os.environ.update(caches)
    start_log(settings.verbose)
    module, _, function = entry.partition(":")
    try:
        return int(getattr(import_module(module), function)(settings))
    finally:
        # A second call in this process (the demo) looks for its own resources where the user keeps them.
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start_log(verbose: int) -> None:
    """Send the program's messages to standard error; other libraries' only when asked for everything."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(message)s"))
    log = logging.getLogger("bids_fmmtc")
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    if verbose > 1:
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)


class _Plain(logging.Formatter):
    """Messages without the control characters that names from outside may hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's own name)
        """Return the message, line by line."""
        return "\n".join(map(printable, super().formatMessage(record).split("\n")))
