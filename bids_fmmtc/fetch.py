"""``bids_fmmtc-fetch``: bring atlas, template transform or encoder weights to this machine, once.

This is the only code of the package that uses the network, and only when called. Files are gathered in a hidden
folder inside the cache, checked, and moved to their place by renaming: what `bids_fmmtc.resources` finds is always
complete. ``fetched.json`` beside the files tells where they came from and their sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn, TextIO
from urllib.parse import quote

from bids_fmmtc import __version__, resources
from bids_fmmtc.errors import (
    EXIT_OK,
    EXIT_TEMPORARY,
    EXIT_USAGE,
    AtlasError,
    DataError,
    FmmtcError,
    MissingInputError,
    OutputError,
    UsageError,
    WeightsError,
)

PROGRAM: Final = "bids_fmmtc-fetch"
RECORD: Final = "fetched.json"
LICENCE_FILE: Final = "LICENCE-ACCEPTED.txt"
TIMEOUT: Final = 60  # seconds without a byte

GITHUB_URL: Final = "https://raw.githubusercontent.com/vandijklab/BrainLM"
# The commit the checksums were taken at, then the branch: should history be rewritten, the checksum still decides.
GITHUB_REFS: Final = ("b591d88", "main")
ATLAS_PATH: Final = "toolkit/atlases"
CHECKPOINT_PATH: Final = "pretrained_models/2023-06-06-22_15_00-checkpoint-1400"
TEMPLATEFLOW_URL: Final = "https://templateflow.s3.amazonaws.com"
HUGGING_FACE_URL: Final = "https://huggingface.co"
HUGGING_FACE_REPO: Final = "vandijklab/brainlm"
HDF5_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
BRAINLM_EXPECTED: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        "checkpoint-1400": {"model_type": "brainlm_mae", "hidden_size": 256, "num_brain_voxels": 424},
        "old_13M": {"model_type": "brainlm_mae", "hidden_size": 512, "num_brain_voxels": 424},
    }
)

LICENCE: Final = """\
The weights of BrainLM are the work of the van Dijk Lab, Yale University
(https://huggingface.co/vandijklab/brainlm, https://github.com/vandijklab/BrainLM).

Licence: Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 International (CC BY-NC-ND 4.0),
https://creativecommons.org/licenses/by-nc-nd/4.0/, as the model card and the README of the authors say.
  - Non-commercial use only.
  - No derivatives: changed, converted or fine-tuned weights must not be passed on.
  - Do not redistribute the weights, in container images and datasets neither: let others fetch their own.
  - Name the authors:
    Ortega Caro J, et al. BrainLM: a foundation model for brain activity recordings. ICLR 2024.
    https://doi.org/10.1101/2023.09.12.557460
bids_fmmtc does not come with these weights and grants no rights in them.
"""


class DownloadError(FmmtcError, ConnectionError):
    """A server cannot be reached, does not have the file, or broke off."""

    exit_code = EXIT_TEMPORARY
    kind = "download"


def fetch_atlas(
    cache: Path,
    *,
    source: Path | None = None,
    base_url: str = GITHUB_URL,
    checksums: Mapping[str, str] = resources.ATLAS_SHA256,
) -> Path:
    """Bring the A424 atlas to ``<cache>/atlas-A424``.

    Parameters
    ----------
    cache
        Folder that holds all resources; made when absent.
    source
        A folder to copy from instead of downloading.
    base_url
        Where the BrainLM repository is served in the way of raw.githubusercontent.com.
    checksums
        File name to sha256, of every file of the atlas.

    Returns
    -------
    Path
        The folder of the atlas.
    """

    def fill(folder: Path) -> str:
        if source is not None:
            return _copy(source, checksums, folder)
        return _download(base_url, ATLAS_PATH, checksums, folder, AtlasError)

    return _install(cache, resources.ATLAS_FOLDER, fill, checksums, AtlasError, keep=source is None)


def fetch_transform(cache: Path, *, source: Path | None = None, base_url: str = TEMPLATEFLOW_URL) -> Path:
    """Bring TemplateFlow's transform between the two MNI152 spaces to ``<cache>/transform``.

    TemplateFlow publishes no checksum; the one found is recorded.

    Parameters
    ----------
    cache
        Folder that holds all resources; made when absent.
    source
        The file to copy instead of downloading, whatever its name.
    base_url
        Where the TemplateFlow archive is served.

    Returns
    -------
    Path
        The transform file.
    """

    def fill(folder: Path) -> str:
        target = folder / resources.TRANSFORM_FILE
        if source is not None:
            _copy_file(source, target)
        else:
            _templateflow(target, base_url)
        with target.open("rb") as stream:
            if stream.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
                raise DataError(f"{source or base_url} gave a file that is not HDF5, expected an ITK transform (.h5).")
        return str(source.absolute()) if source is not None else base_url

    folder = _install(cache, resources.TRANSFORM_FOLDER, fill, {}, DataError, keep=source is None)
    return folder / resources.TRANSFORM_FILE


def fetch_brainlm(
    cache: Path,
    *,
    checkpoint: str = resources.DEFAULT_CHECKPOINT,
    source: Path | None = None,
    base_url: str | None = None,
    checksums: Mapping[str, str] | None = None,
) -> Path:
    """Bring one BrainLM checkpoint to ``<cache>/brainlm-<checkpoint>``; call it after `confirm_licence`.

    Parameters
    ----------
    cache
        Folder that holds all resources; made when absent.
    checkpoint
        ``checkpoint-1400`` (GitHub) or ``old_13M`` (Hugging Face).
    source
        A folder with ``config.json`` and ``pytorch_model.bin`` or ``model.safetensors`` to copy instead.
    base_url
        Where GitHub's raw files, or Hugging Face, are served; None for the public servers.
    checksums
        File name to sha256, where known; None for the published ones.

    Returns
    -------
    Path
        The folder of the checkpoint.
    """
    if checkpoint not in resources.CHECKPOINTS:
        raise UsageError(f"checkpoint must be one of {', '.join(resources.CHECKPOINTS)}, found {checkpoint!r}.")
    known = resources.BRAINLM_SHA256[checkpoint] if checksums is None else checksums

    def fill(folder: Path) -> str:
        if source is not None:
            origin = _copy(source, (resources.BRAINLM_CONFIG, _choose_weights(source, known)), folder)
        elif checkpoint == "old_13M":
            origin = _hugging_face(folder, checkpoint, base_url or HUGGING_FACE_URL)
        else:
            wanted = {resources.BRAINLM_CONFIG: None, "pytorch_model.bin": known.get("pytorch_model.bin")}
            origin = _download(base_url or GITHUB_URL, CHECKPOINT_PATH, wanted, folder, WeightsError)
        _check_config(folder / resources.BRAINLM_CONFIG, checkpoint)
        text = f"Accepted on {_now()} when {PROGRAM} {__version__} fetched {checkpoint}.\n\n{LICENCE}"
        (folder / LICENCE_FILE).write_text(text, encoding="utf-8")
        return origin

    return _install(cache, resources.brainlm_folder(checkpoint), fill, known, WeightsError, keep=source is None)


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


# --- gathering, checking and moving into place ---------------------------------------------------------------------


def _install(
    cache: Path,
    name: str,
    fill: Callable[[Path], str],
    checksums: Mapping[str, str],
    mismatch: type[DataError],
    *,
    keep: bool,
) -> Path:
    """Fill a folder, check it, record it, and rename it to ``cache / name``.

    Parameters
    ----------
    cache, name
        Where the folder is to be.
    fill
        Puts the files into an empty folder, with room for scratch beside it, and tells where they came from.
    checksums
        File name to sha256, for those whose checksum is known.
    mismatch
        What to raise when a checksum differs.
    keep
        Leave a folder alone that is there already and still as recorded.
    """
    target = cache / name
    if keep and _is_intact(target, checksums):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache, ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch) / "new"
            folder.mkdir()
            origin = fill(folder)
            digests = _verify(folder, checksums, mismatch)
            record = {"source": origin, "fetched": _now(), "by": f"{PROGRAM} {__version__}", "sha256": digests}
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            _publish(folder, target)
    except FmmtcError:
        raise
    except OSError as error:
        raise _cannot_write(cache, error) from error
    return target


def _verify(folder: Path, checksums: Mapping[str, str], mismatch: type[DataError]) -> dict[str, str]:
    """Compare every file with its known checksum and return all that were found."""
    digests = {}
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)  # downloaders leave files that only their owner can read
        digests[path.name] = _sha256(path)
        if digests[path.name] != checksums.get(path.name, digests[path.name]):
            raise mismatch(
                f"{path.name} has sha256 {digests[path.name]}, expected {checksums[path.name]}.",
                "It was not kept: it is damaged or another version.",
            )
    return digests


def _publish(folder: Path, target: Path) -> None:
    """Rename a finished folder to its place; a former one leaves with the scratch folder."""
    former = folder.with_name("former")
    replaced = target.exists()
    if replaced:
        target.rename(former)
    try:
        folder.rename(target)
    except OSError:
        if replaced:
            former.rename(target)
        raise


def _is_intact(folder: Path, checksums: Mapping[str, str]) -> bool:
    """Tell whether a folder holds just what its record and the known checksums say."""
    try:
        recorded = json.loads((folder / RECORD).read_text(encoding="utf-8"))["sha256"]
        expected = {**recorded, **{name: checksums[name] for name in recorded if name in checksums}}
        return bool(expected) and all(_sha256(folder / name) == digest for name, digest in expected.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(path: Path) -> str:
    """Sha256 of a file as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _copy(source: Path, names: Iterable[str], folder: Path) -> str:
    """Copy files of a local folder; returns where they came from."""
    for name in names:
        _copy_file(source / name, folder / name)
    return str(source.absolute())


def _copy_file(source: Path, target: Path) -> None:
    """Copy one file that must be there and hold something."""
    if not resources.has_content(source):
        raise MissingInputError(f"{source} is not there, is empty or cannot be read.", "Check the path after --from.")
    shutil.copyfile(source, target)


def _choose_weights(source: Path, checksums: Mapping[str, str]) -> str:
    """Name of the weights file in a folder; one whose checksum is known goes first."""
    names = (*(name for name in resources.BRAINLM_WEIGHTS if name in checksums), *resources.BRAINLM_WEIGHTS)
    found = next((name for name in names if resources.has_content(source / name)), None)
    if found is None:
        raise MissingInputError(
            f"{source} holds no weights, expected {' or '.join(resources.BRAINLM_WEIGHTS)}.",
            "Check the path after --from.",
        )
    return found


def _check_config(path: Path, checkpoint: str) -> None:
    """Refuse a configuration that is not that of the checkpoint."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = {name: config.get(name) for name in BRAINLM_EXPECTED[checkpoint]}
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{path.name} is not a JSON object: {_one_line(error)}.") from error
    if found != BRAINLM_EXPECTED[checkpoint]:
        raise WeightsError(
            f"{path.name} does not belong to {checkpoint}: found {found}, expected {BRAINLM_EXPECTED[checkpoint]}."
        )


# --- the three servers ---------------------------------------------------------------------------------------------


def _download(
    base_url: str, path: str, files: Mapping[str, str | None], folder: Path, mismatch: type[DataError]
) -> str:
    """Download files of the BrainLM repository; returns the address of their folder."""
    for ref in GITHUB_REFS:
        origin = f"{base_url.rstrip('/')}/{ref}/{path}"
        try:
            for name, digest in files.items():
                _retrieve(f"{origin}/{quote(name)}", folder / name, digest)
        except OSError as error:  # what requests raises is an OSError too
            is_absent = getattr(getattr(error, "response", None), "status_code", None) == 404
            if is_absent and ref != GITHUB_REFS[-1]:
                continue
            raise _download_problem(error, origin, folder) from error
        except ValueError as error:  # pooch's word for another checksum
            raise mismatch(f"{_one_line(error)}.", "It was not kept: it is damaged or another version.") from error
        break
    return origin


def _retrieve(url: str, target: Path, digest: str | None) -> None:
    """Download one file by pooch, which checks it before it gets its name."""
    import pooch  # noqa: PLC0415  (slow, and only here)

    _say(f"downloading {url}")
    pooch.get_logger().setLevel("ERROR")
    pooch.retrieve(
        url,
        known_hash=None if digest is None else f"sha256:{digest}",
        fname=target.name,
        path=target.parent,
        downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
    )


def _templateflow(target: Path, base_url: str) -> None:
    """Download the transform by TemplateFlow, in a home of its own beside ``target``'s folder."""
    home = target.parent.with_name("templateflow")
    wanted = home / resources.TEMPLATE_FOLDER / resources.TRANSFORM_FILE
    wanted.parent.mkdir(parents=True)
    wanted.touch()  # a placeholder; in an empty home TemplateFlow would unpack its thousands
    _say(f"downloading {base_url}/{resources.TEMPLATE_FOLDER}/{resources.TRANSFORM_FILE}")
    try:
        with _environment(TEMPLATEFLOW_HOME=str(home), TEMPLATEFLOW_AUTOUPDATE="off", TEMPLATEFLOW_USE_DATALAD="off"):
            from templateflow.client import TemplateFlowClient  # noqa: PLC0415  (imports pybids; touches its home)

            client = TemplateFlowClient(root=home, s3_root=base_url.rstrip("/"), use_datalad=False, timeout=TIMEOUT)
            query = {"from": "MNI152NLin6Asym", "mode": "image", "suffix": "xfm", "extension": ".h5"}
            client.get("MNI152NLin2009cAsym", raise_empty=True, **query)
    except Exception as error:  # TemplateFlow raises bare Exception and RuntimeError, and what requests raises
        raise _download_problem(error, base_url, target.parent) from error
    shutil.move(wanted, target)


def _hugging_face(folder: Path, checkpoint: str, endpoint: str) -> str:
    """Download a checkpoint from Hugging Face; returns its address with the commit."""
    scratch = folder.with_name("huggingface")
    origin = f"{endpoint.rstrip('/')}/{HUGGING_FACE_REPO}"
    _say(f"downloading {origin}, {checkpoint}")
    # Offline mode is meant for the other programs of an image; who calls this one wants the network.
    settings = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    try:
        with _environment(HF_HOME=str(scratch / "home"), **settings):
            from huggingface_hub import hf_hub_download  # noqa: PLC0415  (slow; reads the environment)
            from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

            def get(name: str) -> None:
                path = hf_hub_download(
                    HUGGING_FACE_REPO,
                    name,
                    subfolder=checkpoint,
                    local_dir=scratch,
                    endpoint=endpoint.rstrip("/"),
                    token=False,
                )
                shutil.move(path, folder / name)

            get(resources.BRAINLM_CONFIG)
            first, second = resources.BRAINLM_WEIGHTS
            try:
                get(first)
            except EntryNotFoundError:
                get(second)
    except Exception as error:  # huggingface_hub has no common base for its own, its client's and its checks' errors
        raise _download_problem(error, origin, folder) from error
    metadata = scratch / ".cache" / "huggingface" / "download" / checkpoint / f"{resources.BRAINLM_CONFIG}.metadata"
    commit = metadata.read_text(encoding="utf-8").split("\n", 1)[0] if metadata.is_file() else "main"
    return f"{origin}/tree/{commit}/{checkpoint}"


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables that a library reads while it is imported or called, and put the former ones back."""
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- messages ------------------------------------------------------------------------------------------------------


def _download_problem(error: Exception, origin: str, folder: Path) -> FmmtcError:
    """Tell a disk that refuses from a server that does."""
    is_local = isinstance(error, OSError) and error.errno is not None
    if is_local and not isinstance(error, ConnectionError | TimeoutError):
        return _cannot_write(folder, error)
    return DownloadError(
        f"could not download from {origin}: {_one_line(error)}.",
        "Try again later, or fetch the files on another machine and name them with --from.",
    )


def _cannot_write(folder: Path, error: Exception) -> OutputError:
    """Describe a folder that cannot be made or filled."""
    reason = getattr(error, "strerror", None) or _one_line(error)
    return OutputError(f"cannot write into {folder}: {reason}.", "Name another folder with --cache.")


def _one_line(error: Exception) -> str:
    """Reduce a foreign error to its kind and beginning."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}".rstrip(" .:")


def _now() -> str:
    """Time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _say(text: str) -> None:
    """Tell the user what is going on, on the standard error stream."""
    sys.stderr.write(f"{PROGRAM}: {text}\n")
    sys.stderr.flush()


# --- command line --------------------------------------------------------------------------------------------------


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
    commands = parser.add_subparsers(dest="resource", metavar="{atlas,transform,brainlm}", required=True)
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
        command.add_argument("--from", dest="source", type=Path, metavar=metavar, help=source)
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


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> Path:
    """Fetch what the command line asks for; returns where it lies."""
    cache = options.cache or resources.fetch_dir(environ)
    if cache is None:
        raise OutputError(
            "there is no cache folder: neither FMMTC_RESOURCES, XDG_CACHE_HOME nor HOME is set.",
            "Name one with --cache.",
        )
    common: dict[str, Any] = {"source": options.source}
    if options.base_url:
        common["base_url"] = options.base_url
    if options.resource == "atlas":
        return fetch_atlas(cache, **common)
    if options.resource == "transform":
        path = fetch_transform(cache, **common)
        _say(f"no checksum is published for this file; the one found is recorded in {path.with_name(RECORD)}")
        return path
    confirm_licence(accepted=options.accept_licence, stdin=sys.stdin, stderr=sys.stderr)
    path = fetch_brainlm(cache, checkpoint=options.checkpoint, **common)
    if not any(resources.has_content(path / name) for name in resources.BRAINLM_SHA256[options.checkpoint]):
        _say(f"no checksum is known for these weights; the one found is recorded in {path / RECORD}")
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
    options = build_parser().parse_args(argv)
    try:
        path = _run(options, os.environ)
    except FmmtcError as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{PROGRAM}: error: interrupted; nothing was changed.\n")
        return 130
    sys.stdout.write(f"{path}\n")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
