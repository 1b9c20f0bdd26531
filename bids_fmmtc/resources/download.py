"""Downloading atlas, template transform and encoder weights, or copying them from a local folder.

This is the only code of the package that uses the network, and only when `bids_fmmtc.fetch` calls it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from bids_fmmtc import __version__, resources
from bids_fmmtc.errors import (
    EXIT_TEMPORARY,
    AtlasError,
    DataError,
    FmmtcError,
    MissingInputError,
    OutputError,
    UsageError,
    WeightsError,
)
from bids_fmmtc.resources.install import PROGRAM, RECORD, cannot_write, copy_file, copy_files, install, now, one_line

LICENCE_FILE: Final = "LICENCE-ACCEPTED.txt"
NEUROSTORM_LICENCE_FILE: Final = "LICENCE.txt"  # MIT asks for no consent
TIMEOUT: Final = 60  # seconds without a byte

GITHUB_URL: Final = "https://raw.githubusercontent.com/vandijklab/BrainLM"
# The commit the checksums were taken at, then the branch: should history be rewritten, the checksum still decides.
GITHUB_REFS: Final = ("b591d88", "main")
ATLAS_PATH: Final = "toolkit/atlases"
CHECKPOINT_PATH: Final = "pretrained_models/2023-06-06-22_15_00-checkpoint-1400"
TEMPLATEFLOW_URL: Final = "https://templateflow.s3.amazonaws.com"
HUGGING_FACE_URL: Final = "https://huggingface.co"
HUGGING_FACE_REPO: Final = "vandijklab/brainlm"
NEUROSTORM_REPO: Final = "zxcvb20001/NeuroSTORM"
NEUROSTORM_PATH: Final = "pretraining"
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

NEUROSTORM_LICENCE: Final = """\
The weights of NeuroSTORM are the work of its authors (https://huggingface.co/zxcvb20001/NeuroSTORM,
https://github.com/CUHK-AIM-Group/NeuroSTORM).

Licence: MIT, as the page of the repository at Hugging Face says; the code of the authors is under Apache-2.0.
  - Name the authors: arXiv:2506.11167.
  - A checkpoint from elsewhere is under the licence its giver names.
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
            return copy_files(source, checksums, folder)
        return _download(base_url, ATLAS_PATH, checksums, folder, AtlasError)

    return install(cache, resources.ATLAS_FOLDER, fill, checksums, AtlasError, keep=source is None)


def fetch_transform(
    cache: Path,
    environ: MutableMapping[str, str],
    *,
    source: Path | None = None,
    base_url: str = TEMPLATEFLOW_URL,
) -> Path:
    """Bring TemplateFlow's transform between the two MNI152 spaces to ``<cache>/transform``.

    TemplateFlow publishes no checksum; the one found is recorded.

    Parameters
    ----------
    cache
        Folder that holds all resources; made when absent.
    environ
        Environment of this process: libraries read their settings there, and it is put back as it was.
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
            copy_file(source, target)
        else:
            _templateflow(target, base_url, environ)
        with target.open("rb") as stream:
            if stream.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
                raise DataError(f"{source or base_url} gave a file that is not HDF5, expected an ITK transform (.h5).")
        return str(source.absolute()) if source is not None else base_url

    folder = install(cache, resources.TRANSFORM_FOLDER, fill, {}, DataError, keep=source is None)
    return folder / resources.TRANSFORM_FILE


def fetch_brainlm(
    cache: Path,
    environ: MutableMapping[str, str],
    *,
    checkpoint: str = resources.DEFAULT_CHECKPOINT,
    source: Path | None = None,
    base_url: str | None = None,
    checksums: Mapping[str, str] | None = None,
) -> Path:
    """Bring one BrainLM checkpoint to ``<cache>/brainlm-<checkpoint>``; its licence must have been accepted.

    Parameters
    ----------
    cache
        Folder that holds all resources; made when absent.
    environ
        Environment of this process: libraries read their settings there, and it is put back as it was.
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
            origin = copy_files(source, (resources.BRAINLM_CONFIG, _choose_weights(source, known)), folder)
        elif checkpoint == "old_13M":
            wanted_here = ((resources.BRAINLM_CONFIG,), resources.BRAINLM_WEIGHTS)
            origin = _hugging_face(
                folder, HUGGING_FACE_REPO, checkpoint, wanted_here, base_url or HUGGING_FACE_URL, environ
            )
        else:
            wanted = {resources.BRAINLM_CONFIG: None, "pytorch_model.bin": known.get("pytorch_model.bin")}
            origin = _download(base_url or GITHUB_URL, CHECKPOINT_PATH, wanted, folder, WeightsError)
        _check_config(folder / resources.BRAINLM_CONFIG, checkpoint)
        text = f"Accepted on {now()} when {PROGRAM} {__version__} fetched {checkpoint}.\n\n{LICENCE}"
        (folder / LICENCE_FILE).write_text(text, encoding="utf-8")
        return origin

    return install(cache, resources.brainlm_folder(checkpoint), fill, known, WeightsError, keep=source is None)


def fetch_neurostorm(
    place: Path,
    environ: MutableMapping[str, str],
    convert: Callable[[Path, Path], Sequence[str]],
    *,
    source: Path | None = None,
    base_url: str = HUGGING_FACE_URL,
) -> Path:
    """Bring an encoder of NeuroSTORM to a folder: a training checkpoint, downloaded or given, and converted.

    Parameters
    ----------
    place
        The folder itself; its parents are made when absent.
    environ
        Environment of this process: libraries read their settings there, and it is put back as it was.
    convert
        Writes the encoder of a checkpoint into a folder and returns what is worth telling, a line each.
    source
        A checkpoint to convert instead of downloading the published one.
    base_url
        Where Hugging Face is served.

    Returns
    -------
    Path
        ``place``.

    Raises
    ------
    OutputError
        ``place`` is there and was not made by this program, or cannot be written.
    FmmtcError
        No checkpoint, a broken or foreign one, a server that refuses.
    """
    if place.exists() and not (place / RECORD).is_file() and not (place.is_dir() and not any(place.iterdir())):
        raise OutputError(f"{place} is there and was not made by {PROGRAM}.", "Name another folder, or remove it.")

    def fill(folder: Path) -> str:
        if source is not None:
            checkpoint, origin = source, str(source.absolute())
        else:
            name = f"{resources.NEUROSTORM_CHECKPOINT}.ckpt"
            scratch = folder.with_name("checkpoint")
            scratch.mkdir()
            origin = _hugging_face(scratch, NEUROSTORM_REPO, NEUROSTORM_PATH, ((name,),), base_url, environ)
            checkpoint, origin = scratch / name, f"{origin}/{name}"
        for line in convert(checkpoint, folder):
            say(line)
        text = f"Converted on {now()} by {PROGRAM} {__version__} from {origin}.\n\n{NEUROSTORM_LICENCE}"
        (folder / NEUROSTORM_LICENCE_FILE).write_text(text, encoding="utf-8")
        return origin

    return install(place.parent, place.name, fill, {}, WeightsError, keep=source is None)


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
        raise WeightsError(f"{path.name} is not a JSON object: {one_line(error)}.") from error
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
            raise mismatch(f"{one_line(error)}.", "It was not kept: it is damaged or another version.") from error
        break
    return origin


def _retrieve(url: str, target: Path, digest: str | None) -> None:
    """Download one file by pooch, which checks it before it gets its name."""
    import pooch  # noqa: PLC0415  (slow, and only here)

    say(f"downloading {url}")
    pooch.get_logger().setLevel("ERROR")
    pooch.retrieve(
        url,
        known_hash=None if digest is None else f"sha256:{digest}",
        fname=target.name,
        path=target.parent,
        downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
    )


def _templateflow(target: Path, base_url: str, environ: MutableMapping[str, str]) -> None:
    """Download the transform by TemplateFlow, in a home of its own beside ``target``'s folder."""
    home = target.parent.with_name("templateflow")
    wanted = home / resources.TEMPLATE_FOLDER / resources.TRANSFORM_FILE
    wanted.parent.mkdir(parents=True)
    wanted.touch()  # a placeholder; in an empty home TemplateFlow would unpack its thousands
    say(f"downloading {base_url}/{resources.TEMPLATE_FOLDER}/{resources.TRANSFORM_FILE}")
    settings = {"TEMPLATEFLOW_AUTOUPDATE": "off", "TEMPLATEFLOW_USE_DATALAD": "off"}
    try:
        with _changed(environ, TEMPLATEFLOW_HOME=str(home), **settings):
            from templateflow.client import TemplateFlowClient  # noqa: PLC0415  (imports pybids; touches its home)

            client = TemplateFlowClient(root=home, s3_root=base_url.rstrip("/"), use_datalad=False, timeout=TIMEOUT)
            query = {"from": "MNI152NLin6Asym", "mode": "image", "suffix": "xfm", "extension": ".h5"}
            client.get("MNI152NLin2009cAsym", raise_empty=True, **query)
    except Exception as error:  # TemplateFlow raises bare Exception and RuntimeError, and what requests raises
        raise _download_problem(error, base_url, target.parent) from error
    shutil.move(wanted, target)


def _hugging_face(
    folder: Path,
    repository: str,
    path: str,
    files: Sequence[Sequence[str]],
    endpoint: str,
    environ: MutableMapping[str, str],
) -> str:
    """Download files below ``path`` from Hugging Face; returns their address with the commit.

    Each of ``files`` is a choice of names, of which the first that is there is taken.
    """
    scratch = folder.with_name("huggingface")
    origin = f"{endpoint.rstrip('/')}/{repository}"
    say(f"downloading {origin}, {path}")
    # Offline mode is meant for the other programs of an image; who calls this one wants the network.
    settings = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    try:
        with _changed(environ, HF_HOME=str(scratch / "home"), **settings):
            from huggingface_hub import hf_hub_download  # noqa: PLC0415  (slow; reads the environment)
            from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

            def get(first: str, *others: str) -> None:
                try:
                    found = hf_hub_download(
                        repository,
                        first,
                        subfolder=path,
                        local_dir=scratch,
                        endpoint=endpoint.rstrip("/"),
                        token=False,
                    )
                except EntryNotFoundError:
                    if not others:
                        raise
                    get(*others)
                else:
                    shutil.move(found, folder / first)

            for names in files:
                get(*names)
    except Exception as error:  # huggingface_hub has no common base for its own, its client's and its checks' errors
        raise _download_problem(error, origin, folder) from error
    told = sorted((scratch / ".cache" / "huggingface" / "download" / path).glob("*.metadata"))
    commit = told[0].read_text(encoding="utf-8").split("\n", 1)[0] if told else "main"
    return f"{origin}/tree/{commit}/{path}"


@contextmanager
def _changed(environ: MutableMapping[str, str], **values: str) -> Iterator[None]:
    """Set variables that a library reads while it is imported or called, and put the former ones back."""
    former = {name: environ.get(name) for name in values}
    environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value


def _download_problem(error: Exception, origin: str, folder: Path) -> FmmtcError:
    """Tell a disk that refuses from a server that does."""
    is_local = isinstance(error, OSError) and error.errno is not None
    if is_local and not isinstance(error, ConnectionError | TimeoutError):
        return cannot_write(folder, error)
    return DownloadError(
        f"could not download from {origin}: {one_line(error)}.",
        "Try again later, or fetch the files on another machine and name them with --from (--convert for neurostorm).",
    )


def say(text: str) -> None:
    """Tell the user what is going on, on the standard error stream."""
    sys.stderr.write(f"{PROGRAM}: {text}\n")
    sys.stderr.flush()
