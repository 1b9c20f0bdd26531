"""The model and what must stand beside it: its modalities alone, an untrained encoder, and everything trivial.

Each is judged on the same folds as the model. A new baseline is one line in `contestants`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from bids_fmmtc.learning.learner import Fitted, HeadParts, Learner
from bids_fmmtc.learning.learners.linear import LinearLearner
from bids_fmmtc.learning.ledger import Ledger
from bids_fmmtc.modalities import by_letter
from bids_fmmtc.modalities.about import LETTERS
from bids_fmmtc.results.evaluation import Role, Setting
from bids_fmmtc.types import Cohort, Float64, Rows

RANDOM = "_random"
"""Suffix of the array that holds what an encoder of the same shape with random weights makes of the same windows."""
AMPLITUDE = ("log_variance", "autocorrelation")
"""Arrays (runs, R) that tell of each parcel by itself what no encoder is needed for; see `signals.amplitude`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How learners are built.

    Parameters
    ----------
    head
        Name in `LEARNERS`.
    tangent
        Whether ``fc`` holds covariances that are to be projected by a reference from the training part.
    options
        Of the head; see its learner.
    seed, ledger, device, say
        Of learners that train by epochs.
    """

    head: str = "linear"
    tangent: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    ledger: Ledger = field(default_factory=lambda: Ledger(None, ""))
    device: str = "cpu"
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Contestant:
    """One line of the comparison; ``learner`` is None where it cannot run, and ``reason`` says why.

    Parameters
    ----------
    name
        Key in tables, ``t_only``.
    text
        For readers.
    role
        ``model``, ``ablation`` (a part of the model) or ``baseline`` (what it must beat).
    """

    name: str
    text: str
    role: Role
    learner: Learner | None
    reason: str = ""


def learnt_from(cohort: Cohort) -> tuple[str, ...]:
    """Return the modalities of a cohort that a model may learn from; other arrays serve only what stands beside it."""
    return tuple(name for name in cohort.arrays if name not in AMPLITUDE and not name.endswith(RANDOM))


def contestants(cohort: Cohort, setup: Setup) -> list[Contestant]:
    """Return the model first, then everything it is compared with."""
    names = learnt_from(cohort)
    letters = by_letter(names)
    model = Contestant(
        "model", f"{HEAD_TEXTS[setup.head]}, {' + '.join(letters)}", "model", LEARNERS[setup.head](cohort, names, setup)
    )
    return [
        model,
        *_ablations(cohort, setup, letters),
        _random_encoder(cohort, setup, letters),
        _fc_linear(cohort, setup, letters),
        _amplitude(cohort, setup),
        *_trivial(cohort, setup),
    ]


def _ablations(cohort: Cohort, setup: Setup, letters: Mapping[str, tuple[str, ...]]) -> Iterator[Contestant]:
    """Yield what the model reads one by one and, where that is more than two things, by pairs.

    T and C, FMM_TC's own, always have their line; V has one where the model reads volumes.
    """
    shown = [letter for letter in LETTERS if letter in letters or letter in "TC"]
    parts = [(letter,) for letter in shown] + ([*combinations(letters, 2)] if len(letters) > 2 else [])
    for part in parts:
        words, sum_of = " and ".join(LETTERS[letter] for letter in part), " + ".join(part)
        linear = ", which is FC + linear" if part == ("C",) and setup.head == "linear" else ""
        lacking = [letter for letter in part if letter not in letters]
        reason = _absent(lacking[0], letters) if lacking else ("" if len(letters) > 1 else _WHOLE)
        blocks = tuple(name for letter in part for name in letters.get(letter, ()))
        yield Contestant(
            f"{''.join(part).lower()}_only",
            f"{words} only ({sum_of}){linear}",
            "ablation",
            None if reason else LEARNERS[setup.head](cohort, blocks, setup),
            reason,
        )


_WHOLE = "all there is: the model itself"


def _absent(letter: str, letters: Mapping[str, tuple[str, ...]]) -> str:
    """Say that features lack what an ablation would keep."""
    if set(letters) == {"C"}:
        return "the features hold no encoder's array, only connectivity"
    return f"the features hold no {'encoder of ' if letter != 'C' else ''}{LETTERS[letter]}"


def _random_encoder(cohort: Cohort, setup: Setup, letters: Mapping[str, tuple[str, ...]]) -> Contestant:
    """Return the model with every encoder's vectors replaced by those of a network that was never trained."""
    encoders = tuple(name for letter, those in letters.items() if letter != "C" for name in those)
    untrained = tuple(name + RANDOM for name in encoders)
    reason = "" if encoders else _absent("T", letters)
    if not reason and not set(untrained) <= set(cohort.arrays):
        need = "the parcel series" if set(letters) <= {"T", "C"} else "what the encoder reads (parcel series, images)"
        reason = f"needs the encoder's shape (--encoder-weights) and {need}"
    blocks = (*untrained, *letters.get("C", ()))
    return Contestant(
        "random_encoder",
        "the model with an encoder of random weights",
        "baseline",
        None if reason else LEARNERS[setup.head](cohort, blocks, setup),
        reason,
    )


def _fc_linear(cohort: Cohort, setup: Setup, letters: Mapping[str, tuple[str, ...]]) -> Contestant:
    """Return connectivity under the linear head, where no ablation is that."""
    linear, connectivity = setup.head == "linear", letters.get("C", ())
    if not connectivity:
        reason = "the features hold no connectivity"
    elif linear:
        reason = "the same as c_only" if len(letters) > 1 else _WHOLE
    else:
        reason = ""
    learner = None if reason else _linear(cohort, connectivity, setup)
    return Contestant("fc_linear", "connectivity, linear (FC + linear)", "baseline", learner, reason)


def _amplitude(cohort: Cohort, setup: Setup) -> Contestant:
    """Return what needs no encoder: how much each parcel fluctuates, and how slowly."""
    ready = set(AMPLITUDE) <= set(cohort.arrays)
    return Contestant(
        "amplitude",
        "amplitude, no encoder (log-variance and lag-1 autocorrelation of each parcel, linear)",
        "baseline",
        _linear(cohort, AMPLITUDE, setup) if ready else None,
        "" if ready else "needs the parcel series",
    )


def _trivial(cohort: Cohort, setup: Setup) -> list[Contestant]:
    """Return the baselines that see no brain, but what comes with it."""
    moved = bool(np.isfinite(cohort.motion).any())
    sites = len(set(cohort.sites or ()))
    told = bool(cohort.covariates)
    constant = "every session has the same answer: the training part's base rate or mean"
    return [
        Contestant("majority", constant, "baseline", ConstantLearner(cohort)),
        Contestant(
            "covariates",
            f"covariates only ({', '.join(cohort.covariates) or 'none'})",
            "baseline",
            _linear(cohort, ("covariates",), setup) if told else None,
            "" if told else "no --covariates were given",
        ),
        Contestant(
            "motion",
            "motion only (mean framewise displacement)",
            "baseline",
            _linear(cohort, ("motion",), setup) if moved else None,
            "" if moved else "motion is unknown for everybody",
        ),
        Contestant(
            "site",
            "site only",
            "baseline",
            _linear(cohort, ("site",), setup) if sites > 1 else None,
            "" if sites > 1 else ("there is one site" if sites else "no --site-column was given"),
        ),
    ]


def _linear(cohort: Cohort, blocks: tuple[str, ...], setup: Setup) -> Learner:
    return LinearLearner(cohort, blocks, tangent=setup.tangent)


def _network(cohort: Cohort, blocks: tuple[str, ...], setup: Setup) -> Learner:
    from bids_fmmtc.learning.learners.epochs import TrainingOptions  # noqa: PLC0415  (torch)
    from bids_fmmtc.learning.learners.train import NetworkLearner  # noqa: PLC0415

    return NetworkLearner(cohort, blocks, TrainingOptions(**setup.options), setup)


LEARNERS: dict[str, Callable[[Cohort, tuple[str, ...], Setup], Learner]] = {"linear": _linear, "fmmtc": _network}
"""Head -> how to learn it from blocks of a cohort."""
HEAD_TEXTS = {
    "linear": "FMM_TC with the linear head (principal components, L2 penalty)",
    "fmmtc": "FMM_TC with the published head (ResNet-18 over connectivity, concatenation, linear layer)",
}


class ConstantLearner:
    """Learns the base rate or mean of the training part and nothing else."""

    choices = 1

    def __init__(self, cohort: Cohort) -> None:
        self._kind = cohort.kind

    def path(self, y: Float64, train: Rows, rows: Rows, name: str) -> Float64:
        """Return (1, len(rows)) equal scores."""
        return self.fit(y, train, 0, name).scores(rows)[None]

    def fit(self, y: Float64, train: Rows, choice: int, name: str) -> Fitted:
        """Return the constant: log-odds 0, since classes weigh the same before calibration, or the mean."""
        del choice, name
        return _Constant(0.0 if self._kind == "classification" else float(y[train].mean()))

    def describe(self, choice: int) -> Setting:
        """Return nothing: there is no setting."""
        del choice
        return Setting()


@dataclass(frozen=True, slots=True)
class _Constant:
    value: float

    def scores(self, rows: Rows) -> Float64:
        return np.full(len(rows), self.value)

    def elsewhere(self, cohort: Cohort) -> Float64:
        return np.full(len(cohort), self.value)

    def head(self) -> HeadParts:
        raise ValueError("a constant is no head")
