"""Where atlas, transform and weights lie on disk; nothing here uses the network.

A resource is found by its file names, in this order: each folder of ``$FMMTC_RESOURCES``, the user's cache, and the
TemplateFlow homes. A file of zero bytes does not count: TemplateFlow fills its home with such placeholders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

RESOURCES_VARIABLE: Final = "FMMTC_RESOURCES"
PACKAGE_CACHE: Final = "bids_fmmtc"

ATLAS_FOLDER: Final = "atlas-A424"
ATLAS_IMAGE: Final = "A424+2mm.nii.gz"
ATLAS_TABLE: Final = "A424_Coordinates.dat"
ATLAS_SHA256: Final[Mapping[str, str]] = MappingProxyType(
    {
        ATLAS_IMAGE: "8478d7516a2bbf295989835d5033d03e4283143a2955c90428f634951702501b",
        ATLAS_TABLE: "cdad8f8859c211b1400211ebbad455dedcc4399ac14fd614354fb71b110c892c",
    }
)

TRANSFORM_FOLDER: Final = "transform"
TRANSFORM_FILE: Final = "tpl-MNI152NLin2009cAsym_from-MNI152NLin6Asym_mode-image_xfm.h5"
TEMPLATE_FOLDER: Final = "tpl-MNI152NLin2009cAsym"

BRAINLM_CONFIG: Final = "config.json"
BRAINLM_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
DEFAULT_CHECKPOINT: Final = "checkpoint-1400"
CHECKPOINTS: Final = (DEFAULT_CHECKPOINT, "old_13M")
BRAINLM_SHA256: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        DEFAULT_CHECKPOINT: MappingProxyType(
            {"pytorch_model.bin": "e647c70b2af023d945bfd61b4187c4fdf1700fbb4433a0818e982520564493c5"}
        ),
        "old_13M": MappingProxyType({}),  # its publisher gives no checksum
    }
)

NEUROSTORM_CHECKPOINT: Final = "pt_neurostorm_mae_ratio0.5"
NEUROSTORM_FILES: Final = ("config.json", "model.safetensors")

RESOURCES: Final = ("atlas", "transform", "brainlm", "neurostorm")


def brainlm_folder(checkpoint: str) -> str:
    """Name of the folder that holds one BrainLM checkpoint."""
    return f"brainlm-{checkpoint}"


def neurostorm_folder(checkpoint: str = NEUROSTORM_CHECKPOINT) -> str:
    """Name of the folder that holds one converted NeuroSTORM checkpoint."""
    return f"neurostorm-{checkpoint}"


def fetch_dir(environ: Mapping[str, str]) -> Path | None:
    """Folder that ``bids_fmmtc-fetch`` fills unless told otherwise: the first to be looked in.

    Parameters
    ----------
    environ
        The environment: ``FMMTC_RESOURCES``, ``XDG_CACHE_HOME`` and ``HOME``.

    Returns
    -------
    Path or None
        None when no variable tells. The folder need not exist.
    """
    root = _cache_root(environ)
    return next(iter(_named_dirs(environ)), None if root is None else root / PACKAGE_CACHE)


def resource_dirs(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Folders to look for resources in, first come first served.

    Parameters
    ----------
    environ
        The environment: ``FMMTC_RESOURCES`` (several folders separated as in ``PATH``), ``XDG_CACHE_HOME``, ``HOME``
        and ``TEMPLATEFLOW_HOME``. A relative path in the two in the middle is ignored, as the XDG specification asks.

    Returns
    -------
    tuple of Path
        Without doubles; the folders need not exist or be readable.
    """
    root = _cache_root(environ)
    cached = [] if root is None else [root / PACKAGE_CACHE]
    if environ.get("TEMPLATEFLOW_HOME"):
        templates = [Path(environ["TEMPLATEFLOW_HOME"]).absolute()]
    else:
        templates = [] if root is None else [root / "templateflow"]
    return tuple(dict.fromkeys([*_named_dirs(environ), *cached, *templates]))


def find_resource(name: str, dirs: Iterable[Path], *, checkpoint: str = DEFAULT_CHECKPOINT) -> Path | None:
    """Find one resource on disk.

    Parameters
    ----------
    name
        ``atlas``, ``transform``, ``brainlm`` or ``neurostorm`` (the published pre-trained encoder, converted).
    dirs
        Folders to look in, as of `resource_dirs`.
    checkpoint
        Which BrainLM checkpoint; only used with ``brainlm``.

    Returns
    -------
    Path or None
        The folder that holds all its files, for ``transform`` the file itself; None when no folder has it.
    """
    if name not in RESOURCES:
        raise ValueError(f"resource must be one of {', '.join(RESOURCES)}, found {name!r}")
    candidates: dict[str, Callable[[Path], tuple[Path, ...]]] = {
        "atlas": lambda folder: (folder / ATLAS_FOLDER, folder),
        "transform": lambda folder: tuple(
            folder / part / TRANSFORM_FILE for part in ("", TRANSFORM_FOLDER, TEMPLATE_FOLDER)
        ),
        "brainlm": lambda folder: (folder / brainlm_folder(checkpoint),),
        "neurostorm": lambda folder: (folder / neurostorm_folder(),),
    }
    complete = {"atlas": _is_atlas, "transform": has_content, "brainlm": _is_brainlm, "neurostorm": _is_neurostorm}[
        name
    ]
    return next((path for folder in dirs for path in candidates[name](folder) if complete(path)), None)


def has_content(path: Path) -> bool:
    """Tell whether a path is a regular file that holds at least one byte; unreadable counts as no."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _named_dirs(environ: Mapping[str, str]) -> list[Path]:
    """Give the folders of ``$FMMTC_RESOURCES``."""
    return [Path(entry).absolute() for entry in environ.get(RESOURCES_VARIABLE, "").split(os.pathsep) if entry]


def _cache_root(environ: Mapping[str, str]) -> Path | None:
    """Give the user's cache folder, or None when the environment does not tell."""
    named = environ.get("XDG_CACHE_HOME", "")
    if Path(named).is_absolute():
        return Path(named)
    home = environ.get("HOME", "")
    return Path(home) / ".cache" if Path(home).is_absolute() else None


def _is_atlas(folder: Path) -> bool:
    """Tell whether a folder holds the label image and the coordinates."""
    return all(has_content(folder / name) for name in ATLAS_SHA256)


def _is_brainlm(folder: Path) -> bool:
    """Tell whether a folder holds a config and weights."""
    return has_content(folder / BRAINLM_CONFIG) and any(has_content(folder / name) for name in BRAINLM_WEIGHTS)


def _is_neurostorm(folder: Path) -> bool:
    """Tell whether a folder holds a converted encoder."""
    return all(has_content(folder / name) for name in NEUROSTORM_FILES)
