"""How a wrong command line is told: in one line, with the nearest option; and which options a level takes."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from bids_fmmtc.errors import EXIT_USAGE, UsageError, printable
from bids_fmmtc.group_options import add_group_options

SEE_HELP = "See --help."
_NEGATIVE = re.compile(r"-\.?\d")
_OF_IMAGES_OR_SERIES = (
    "space",
    "bids_filter_file",
    "bids_database_dir",
    "derivatives",
    "recipe",
    "atlas",
    "on_space_mismatch",
)
"""What decides how features are made; the group level makes some only with ``--timeseries``."""


class UsageParser(argparse.ArgumentParser):
    """argparse with the execution specification's exit code for usage errors."""

    def error(self, message: str) -> NoReturn:
        """End with one line on standard error and the code of a wrong command line."""
        self.exit(EXIT_USAGE, f"{self.prog}: error: {printable(' '.join(message.split())).rstrip('.')}. {SEE_HELP}\n")

    def spelt(self, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Return words with options as this parser spells them, and dest -> option of those that are among them.

        Names with underscores (``--participant_label``, as many BIDS-Apps have them) are taken for those with
        hyphens; an unknown option is a usage error that names the nearest.
        """
        known, found, options = self._option_string_actions, list(words), {}
        for i, word in enumerate(words[: words.index("--") if "--" in words else None]):
            if not word.startswith("-") or word == "-" or " " in word or _NEGATIVE.match(word):
                continue
            name, equals, value = word.partition("=")
            hyphened = name.replace("_", "-")
            own = next((each for each in (name, hyphened, name[:2]) if each in known and each != "--"), None)
            if own is None or (own == name[:2] != name and name.startswith("--")):
                near = difflib.get_close_matches(hyphened, list(known), 1)
                self.error(f"unknown option {name}" + (f"; the nearest is {near[0]}" if near else ""))
            if own == hyphened:
                found[i] = f"{own}{equals}{value}"
            options[known[own].dest] = own
        return found, options


def refuse_misplaced(level: str, given: Mapping[str, str]) -> None:
    """Refuse options that mean nothing at a level, rather than pass over them.

    Parameters
    ----------
    level
        Analysis level.
    given
        Dest -> option of those that were given; see `UsageParser.spelt`.

    Raises
    ------
    UsageError
        There are such options; all are named.
    """
    if level == "participant":
        group = argparse.ArgumentParser(add_help=False)
        add_group_options(group)
        wrong = [given[action.dest] for action in group._actions if action.dest in given]
        if wrong:
            raise UsageError(f"for the group level only: {', '.join(wrong)}.", "Leave it out at participant.")
    elif level == "group":
        if "model" in given:
            raise UsageError("for the participant level only: --model.", "Group gathers what it predicted.")
        wrong = [given[dest] for dest in _OF_IMAGES_OR_SERIES if dest in given]
        if wrong and "timeseries" not in given:
            text = f"for the participant level only, or with --timeseries: {', '.join(wrong)}."
            raise UsageError(text, "Leave it out; group takes features as they are.")
