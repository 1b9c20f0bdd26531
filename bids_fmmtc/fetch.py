"""``bids_fmmtc-fetch``: bring atlas, template transform or encoder weights to this machine, once.

The command line, and the licence of the weights; the work is done by `bids_fmmtc.resources.download`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from bids_fmmtc import __version__, resources
from bids_fmmtc.errors import EXIT_OK, EXIT_USAGE, OutputError, UsageError
from bids_fmmtc.guard import guarded
from bids_fmmtc.resources.download import (
    LICENCE,
    NEUROSTORM_LICENCE,
    fetch_atlas,
    fetch_brainlm,
    fetch_neurostorm,
    fetch_transform,
    say,
)
from bids_fmmtc.resources.install import PROGRAM, RECORD


def confirm_licence(*, accepted: bool, stdin: TextIO | None, stderr: TextIO) -> None:
    """Show the licence of the weights and ask for consent.

    Parameters
    ----------
    accepted
        Consent was given on the command line, so do not ask.
    stdin, stderr
        Where to read the answer, where to show the text.

    Raises
    ------
    UsageError
        No consent, or nobody there to ask.
    """
    stderr.write(LICENCE + "\n")
    if accepted:
        return
    if stdin is None or not stdin.isatty():
        raise UsageError(
            "the licence of the weights was not accepted and there is no terminal to ask at.",
            "Read it above, then add --accept-licence.",
        )
    stderr.write("Do you accept these terms? Type yes or no: ")
    stderr.flush()
    if stdin.readline().strip().lower() != "yes":
        raise UsageError("the licence of the weights was not accepted; nothing was fetched.")


class _Parser(argparse.ArgumentParser):
    """argparse with one line and exit code 64 for usage errors."""

    def error(self, message: str) -> NoReturn:
        """Report a usage error and leave."""
        self.exit(EXIT_USAGE, f"{PROGRAM}: error: {message}. See {PROGRAM} --help.\n")


def build_parser() -> argparse.ArgumentParser:
    """Command line of ``bids_fmmtc-fetch``."""
    parser = _Parser(
        prog=PROGRAM,
        description="Fetch what bids_fmmtc needs and may not bring along. bids_fmmtc itself never uses the network.",
        epilog=f"bids_fmmtc looks in the folders of ${resources.RESOURCES_VARIABLE} and in "
        f"~/.cache/{resources.PACKAGE_CACHE}. Every file is checked against its sha256 where one is known.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="resource", metavar=f"{{{','.join(resources.RESOURCES)}}}", required=True)
    helps = {
        "atlas": ("the A424 atlas, from BrainLM's GitHub repository", "DIR", "copy from this folder, do not download"),
        "transform": (
            "TemplateFlow's transform from MNI152NLin6Asym to MNI152NLin2009cAsym",
            "FILE",
            "copy this .h5 file, do not download",
        ),
        "brainlm": (
            "weights of the BrainLM encoder (CC BY-NC-ND 4.0: non-commercial, no derivatives)",
            "DIR",
            "copy config.json and the weights from this folder, do not download",
        ),
        "neurostorm": (
            "the pre-trained encoder of NeuroSTORM, converted from its training checkpoint (MIT)",
            "FILE",
            "convert this training checkpoint, do not download",
        ),
    }
    for name, (summary, metavar, source) in helps.items():
        command = commands.add_parser(name, help=summary, description=f"Fetch {summary}.")
        command.add_argument(
            "--cache",
            type=Path,
            metavar="DIR",
            help=f"folder for all resources (default: the first of ${resources.RESOURCES_VARIABLE}, else "
            f"~/.cache/{resources.PACKAGE_CACHE})",
        )
        converted = name == "neurostorm"
        option = "--convert" if converted else "--from"
        command.add_argument(option, dest="source", type=Path, metavar=metavar, help=source)
        if converted:
            command.add_argument(
                "--to",
                type=Path,
                metavar="DIR",
                help="folder of the encoder itself (default: neurostorm-NAME among the resources, of FILE's name)",
            )
        command.add_argument("--base-url", help=argparse.SUPPRESS)
        if name == "brainlm":
            command.add_argument(
                "--checkpoint",
                choices=resources.CHECKPOINTS,
                default=resources.DEFAULT_CHECKPOINT,
                help="checkpoint-1400 (hidden size 256, what FMM_TC was built on) or old_13M (512) "
                "(default: %(default)s)",
            )
            command.add_argument(
                "--accept-licence",
                "--accept-license",
                action="store_true",
                help="accept the licence of the weights without being asked",
            )
    return parser


def _run(options: argparse.Namespace, environ: MutableMapping[str, str]) -> Path:
    """Fetch what the command line asks for; returns where it lies."""
    cache = options.cache or resources.fetch_dir(environ)
    common: dict[str, Any] = {"source": options.source}
    if options.base_url:
        common["base_url"] = options.base_url
    if options.resource == "neurostorm" and options.to is not None:
        return _neurostorm(options.to.absolute(), environ, common)
    if cache is None:
        raise OutputError(
            "there is no cache folder: neither FMMTC_RESOURCES, XDG_CACHE_HOME nor HOME is set.",
            "Name one with --cache.",
        )
    if options.resource == "neurostorm":
        stem = resources.NEUROSTORM_CHECKPOINT if options.source is None else options.source.stem
        return _neurostorm(cache / resources.neurostorm_folder(stem), environ, common)
    if options.resource == "atlas":
        return fetch_atlas(cache, **common)
    if options.resource == "transform":
        path = fetch_transform(cache, environ, **common)
        say(f"no checksum is published for this file; the one found is recorded in {path.with_name(RECORD)}")
        return path
    confirm_licence(accepted=options.accept_licence, stdin=sys.stdin, stderr=sys.stderr)
    path = fetch_brainlm(cache, environ, checkpoint=options.checkpoint, **common)
    if not any(resources.has_content(path / name) for name in resources.BRAINLM_SHA256[options.checkpoint]):
        say(f"no checksum is known for these weights; the one found is recorded in {path / RECORD}")
    return path


def _neurostorm(place: Path, environ: MutableMapping[str, str], common: Mapping[str, Any]) -> Path:
    """Fetch or convert NeuroSTORM; its licence asks for no consent, and is shown."""
    from bids_fmmtc.modalities.neurostorm_weights import convert  # noqa: PLC0415  (torch)

    sys.stderr.write(NEUROSTORM_LICENCE + "\n")
    path = fetch_neurostorm(place, environ, convert, **common)
    say(f"no checksum is published for these weights; the one found is recorded in {path / RECORD}")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the console script ``bids_fmmtc-fetch``.

    Parameters
    ----------
    argv
        Arguments without the program's name; None for those of the process.

    Returns
    -------
    int
        Exit code, see `bids_fmmtc.errors`. The path of what was fetched goes to the standard output.
    """

    def fetch() -> int:
        path = _run(build_parser().parse_args(argv), os.environ)
        sys.stdout.write(f"{path}\n")
        return EXIT_OK

    return guarded(PROGRAM, fetch)


if __name__ == "__main__":
    sys.exit(main())
