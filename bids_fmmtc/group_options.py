"""The options of the group level, and the settings they make. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bids_fmmtc.errors import UsageError

if TYPE_CHECKING:
    from bids_fmmtc.settings import GroupSettings

HEADS = ("linear", "fmmtc")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def add_group_options(parser: argparse.ArgumentParser) -> None:
    """Add what only the group level takes."""
    for add in (_add_people, _add_training, _add_results):
        add(parser)


def _add_people(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("group level: who, and with what outcome")
    several = {"nargs": "+", "action": "extend", "default": []}
    group.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="output folders of this program to learn from; default: output_dir",
        **several,  # type: ignore[arg-type]
    )
    group.add_argument(
        "--outcome",
        metavar="COLUMN",
        help="column of participants.tsv, phenotype/FILE.tsv:COLUMN, sessions:COLUMN or PATH.tsv:COLUMN; without it "
        "predictions are only gathered",
    )
    group.add_argument("--responder-if", metavar="RULE", help='what makes a responder: ">=30", "==remitted"')
    group.add_argument(
        "--non-responder",
        metavar="VALUE",
        help="beside ==VALUE: values of non-responders, where the column holds more than two",
        **several,  # type: ignore[arg-type]
    )
    group.add_argument(
        "--missing-code",
        metavar="VALUE",
        help="values that mean missing, such as -99 or unknown; n/a: what else looks like a code is a value",
        **several,  # type: ignore[arg-type]
    )
    group.add_argument("--arm-column", metavar="COLUMN", help="column that names the treatment")
    group.add_argument("--arm", metavar="NAME", help="learn from these arms only; default: all", **several)  # type: ignore[arg-type]
    group.add_argument("--site-column", metavar="COLUMN", help="column that names site or scanner")
    group.add_argument(
        "--covariates", default=[], nargs="+", action="extend", metavar="COLUMN", help="such as age sex; or age,sex"
    )
    group.add_argument("--family-column", metavar="COLUMN", help="people of one family are never divided by a fold")
    group.add_argument(
        "--external",
        metavar="NAME=DIR:OUTCOME",
        help="another cohort (an output folder of this program) to judge, nothing refitted",
        **several,  # type: ignore[arg-type]
    )
    group.add_argument("--adapt", action="store_true", help="also fine-tune on folds of each --external cohort")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("group level: training and evaluation")
    group.add_argument("--head", choices=HEADS, default="linear", help="default: linear; fmmtc: as published")
    group.add_argument("--folds", type=_whole(2), default=5, metavar="N", help="outer folds; default: 5")
    group.add_argument("--inner-folds", type=_whole(2), metavar="N", help="default: 5, fmmtc 3")
    group.add_argument("--repeats", type=_whole(1), metavar="N", help="divisions into folds; default: 5, fmmtc 1")
    group.add_argument("--permutations", type=_whole(0), metavar="N", help="default: 1000; fmmtc and tangent space: 0")
    group.add_argument("--epochs", type=_whole(1), default=100, metavar="N", help="fmmtc: at most; default: 100")
    group.add_argument("--leave-one-site-out", action="store_true", help="also judge every site by the others")
    group.add_argument(
        "--reference-protocol", action="store_true", help="also run the published protocol, whose figures are inflated"
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("group level: bundle, explanation, trial plan")
    group.add_argument("--analysis-label", metavar="LABEL", help="folder below group/; default: outcome and head")
    group.add_argument("--error-rate", type=_share, default=0.1, metavar="P", help="of conformal sets; default: 0.1")
    group.add_argument(
        "--explain", nargs="+", action="extend", default=[], metavar="LABEL", help="participants to explain one by one"
    )
    group.add_argument(
        "--explain-volumes",
        type=_whole(0),
        default=0,
        metavar="N",
        help="people of the group to explain down to voxels, minutes to hours each; default: those of --explain",
    )
    group.add_argument("--no-explanation", action="store_true", help="leave attributions out")
    group.add_argument("--power", type=_share, default=0.8, metavar="P", help="of the planned trial; default: 0.8")
    group.add_argument("--alpha", type=_share, default=0.05, metavar="P", help="two-sided; default: 0.05")
    group.add_argument("--control-rate", type=_share, metavar="P", help="expected responder rate of the control arm")
    group.add_argument("--control-arm", metavar="NAME", help="arm of --arm-column to take the control rate from")
    group.add_argument("--dropout", type=_fraction, default=0.0, metavar="P", help="share lost after enrolment")
    group.add_argument("--allocation", type=_positive, default=1.0, metavar="RATIO", help="controls per treated")
    group.add_argument("--cost-scan", type=_cost, metavar="SUM", help="per person screened")
    group.add_argument("--cost-patient", type=_cost, metavar="SUM", help="per person enrolled")
    group.add_argument("--cost-screening", type=_cost, default=0.0, metavar="SUM", help="per person, beyond the scan")
    group.add_argument("--currency", default="", metavar="NAME", help="as it shall be written")


def group_settings(options: argparse.Namespace) -> GroupSettings:
    """Turn parsed options into settings.

    Raises
    ------
    UsageError
        Options that need another one, or a label that cannot name a folder.
    """
    from bids_fmmtc.settings import GroupSettings  # noqa: PLC0415  (brings numpy, which --help does without)

    linear = options.head == "linear"
    chosen = GroupSettings(
        features=tuple(_real(p) for p in options.features),
        outcome=options.outcome,
        responder_if=options.responder_if,
        non_responders=tuple(options.non_responder),
        missing_codes=tuple(options.missing_code),
        arm_column=options.arm_column,
        arms=tuple(options.arm),
        site_column=options.site_column,
        covariates=tuple(c for word in options.covariates for c in map(str.strip, word.split(",")) if c),
        family_column=options.family_column,
        external=tuple(_external(text) for text in options.external),
        adapt=options.adapt,
        head=options.head,
        folds=options.folds,
        inner_folds=options.inner_folds or (5 if linear else 3),
        repeats=options.repeats or (5 if linear else 1),
        permutations=options.permutations,
        epochs=options.epochs,
        leave_one_site_out=options.leave_one_site_out,
        reference_protocol=options.reference_protocol,
        label=options.analysis_label,
        error_rate=options.error_rate,
        explain=tuple(w.removeprefix("sub-") for word in options.explain for w in word.split(",") if w),
        explain_volumes=options.explain_volumes,
        explanation=not options.no_explanation,
        power=options.power,
        alpha=options.alpha,
        control_rate=options.control_rate,
        control_arm=options.control_arm,
        dropout=options.dropout,
        allocation=options.allocation,
        cost_scan=options.cost_scan,
        cost_patient=options.cost_patient,
        cost_screening=options.cost_screening,
        currency=options.currency,
    )
    _check(chosen)
    _check_numbers(chosen)
    return chosen


def _check(chosen: GroupSettings) -> None:
    needs_outcome = {
        "--responder-if": chosen.responder_if,
        "--non-responder": chosen.non_responders,
        "--missing-code": chosen.missing_codes,
        "--arm-column": chosen.arm_column,
        "--site-column": chosen.site_column,
        "--covariates": chosen.covariates,
        "--family-column": chosen.family_column,
        "--external": chosen.external,
        "--reference-protocol": chosen.reference_protocol,
        "--explain": chosen.explain,
        "--explain-volumes": chosen.explain_volumes,
    }
    for option, value in needs_outcome.items():
        if value and chosen.outcome is None:
            raise UsageError(f"{option} needs an --outcome.", "Name the outcome column.")
    for option, given, other, there in (
        ("--arm", chosen.arms, "--arm-column", chosen.arm_column),
        ("--control-arm", chosen.control_arm, "--arm-column", chosen.arm_column),
        ("--adapt", chosen.adapt, "--external", chosen.external),
        ("--leave-one-site-out", chosen.leave_one_site_out, "--site-column", chosen.site_column),
    ):
        if given and not there:
            raise UsageError(f"{option} needs {other}.")
    if chosen.control_arm is not None and chosen.control_rate is not None:
        raise UsageError("--control-rate and --control-arm exclude each other.", "Give one of them.")
    if chosen.label is not None and not _LABEL.fullmatch(chosen.label):
        raise UsageError(
            f"--analysis-label {chosen.label!r} cannot name a folder.", "Use letters, digits, hyphen and underscore."
        )


def _check_numbers(chosen: GroupSettings) -> None:
    names = [name for name, _, _ in chosen.external]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--external names {name} twice.", "Give every cohort a name of its own.")
    if (chosen.cost_scan is None) != (chosen.cost_patient is None):
        raise UsageError("--cost-scan and --cost-patient belong together.", "Give both or neither.")
    if not chosen.alpha < chosen.power:
        raise UsageError(f"--power {chosen.power} does not exceed --alpha {chosen.alpha}.")
    if not 0.1 <= chosen.allocation <= 10:
        raise UsageError(f"--allocation {chosen.allocation} is not between 0.1 and 10.")
    if chosen.explain and not chosen.explanation:
        raise UsageError("--explain and --no-explanation exclude each other.", "Give one of them.")


def _external(text: str) -> tuple[str, Path, str]:
    name, equals, rest = text.partition("=")
    # The folder ends before the first colon behind which the outcome begins; an outcome may hold one (a file's).
    folder, colon, outcome = rest.partition(":")
    if not (equals and colon and folder and outcome) or not _LABEL.fullmatch(name):
        raise UsageError(f"--external {text} is not NAME=DIR:OUTCOME.", "Write for example szeged=/out/szeged:pain.")
    return name, _real(Path(folder)), outcome


def _real(path: Path) -> Path:
    return Path(os.path.normpath(path.expanduser().absolute()))


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {least}")
        return int(text)

    return number


def _number(text: str, ok: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and ok(value)):
        raise argparse.ArgumentTypeError(f"{text} is not {expected}")
    return value


def _share(text: str) -> float:
    return _number(text, lambda v: 0 < v < 1, "a number between 0 and 1")


def _fraction(text: str) -> float:
    return _number(text, lambda v: 0 <= v < 1, "a number from 0 to below 1")


def _positive(text: str) -> float:
    return _number(text, lambda v: v > 0, "a positive number")


def _cost(text: str) -> float:
    return _number(text, lambda v: v >= 0, "a sum of money")
