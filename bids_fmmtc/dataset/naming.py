"""What the name of a preprocessed BOLD file says, and which of a recording's files is the one to use.

Labels arrive parsed (``discover`` asks pybids); here they are compared, filtered and ranked. No file is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_fmmtc.errors import FmmtcError, SelectionError, SpaceError, UsageError
from bids_fmmtc.types import Recording

Filters = Mapping[str, Mapping[str, object]]

# The top-level names of fMRIPrep's filter files; only "bold" has an effect here.
_QUERIES = ("bold", "t1w", "t2w", "flair", "roi", "sbref", "fmap", "asl", "dwi", "pet")
# Entities fMRIPrep adds to the names of one recording, or that `Recording` holds in fields of their own.
_DERIVED = frozenset({"space", "cohort", "res", "den", "hemi", "desc", "echo"})
# Names before fMRIPrep 1.2: sub-01_task-rest_bold_space-MNI152NLin2009cAsym_preproc.nii.gz.
_OLD = re.compile(r"sub-[A-Za-z0-9]+_.*_bold_(space-[A-Za-z0-9]+_)?(preproc|brainmask|confounds)\..+")
_DESC, _DESC_ECHO = frozenset({"desc"}), frozenset({"desc", "echo"})
_OWN_FIELD = frozenset({"sub", "ses", "task", "run"})
_PADDED = frozenset({"run", "echo"})
_PARTS = re.compile(r"(\d+)", re.ASCII)
_DENOISED = {"smoothAROMAnonaggr": "already denoised by fMRIPrep's ICA-AROMA; the recipe starts from desc-preproc"}


def natural(text: str) -> tuple[tuple[int, str, str], ...]:
    """Sort key under which ``sub-2`` comes before ``sub-10``; numbers of any length."""
    parts = _PARTS.split(text)
    whole = (part.lstrip("0") for part in parts)
    return tuple(
        (len(n), n, part) if i % 2 else (-1, "", part) for i, (n, part) in enumerate(zip(whole, parts, strict=True))
    )


def is_old_name(name: str) -> bool:
    """Tell whether a file is named as fMRIPrep before 1.2 named its output, which no reader of today parses."""
    return _OLD.fullmatch(name) is not None


def unpadded(label: str) -> str:
    """Return a label with the leading zeros of every number in it left out: ``sub-01`` and ``sub-1`` become one."""
    return "".join((part.lstrip("0") or "0") if i % 2 else part for i, part in enumerate(_PARTS.split(label)))


def padded_otherwise(some_labels: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return labels of the first that are not among the others -> the one there that differs by leading zeros only."""
    first, second = set(some_labels), set(others)
    plain = {unpadded(label): label for label in sorted(second - first, key=natural, reverse=True)}
    return {label: plain[unpadded(label)] for label in sorted(first - second, key=natural) if unpadded(label) in plain}


def told_padding(pairs: Mapping[str, str]) -> tuple[str, ...]:
    """Return the sentence on labels that differ by leading zeros only; none where there are no such pairs."""
    if not pairs:
        return ()
    shown = ", ".join(f"{one} / {other}" for one, other in list(pairs.items())[:3])
    many = "1 label differs" if len(pairs) == 1 else f"{len(pairs)} labels differ"
    return (
        f"{many} from those of the features by leading zeros only ({shown}{', …' if len(pairs) > 3 else ''}) and so "
        "stand for other people: write them alike in the table.",
    )


def is_text(name: str) -> bool:
    """Tell whether a name of a file or folder is UTF-8, as what is written into JSON and tables must be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    r"""Return a name on one line, with what is no text as escapes; bytes of another encoding as ``\xe9``."""
    return "".join(c if c.isprintable() else _escaped(c) for c in name)


def _escaped(c: str) -> str:
    # Python holds a byte that is no UTF-8 as a surrogate from U+DC80 on.
    byte = ord(c) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else c.encode("unicode_escape").decode()


def some(labels: Iterable[str], most: int = 10) -> str:
    """Join labels in natural order for a message; long lists are cut and counted."""
    names = sorted({printable(label) for label in labels}, key=natural)
    if not names:
        return "none"
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, … ({len(names)} in all)"


@dataclass(frozen=True, slots=True)
class Image:
    """One BOLD file by its name.

    Parameters
    ----------
    root
        The derivative dataset it lies in; ``order`` is the place of that dataset in the search.
    path
        Absolute path, links not resolved.
    labels
        Short entity name (``sub``, ``acq``, ...) -> label, spelled and ordered as in the file name.
    extension
        Everything from the first dot on.
    """

    root: Path
    order: int
    path: Path
    labels: Mapping[str, str]
    extension: str

    @property
    def space(self) -> str:
        """The ``space-`` label; ``native`` for a file without one, as fMRIPrep writes the BOLD's own space."""
        return self.labels.get("space", "native")

    @property
    def is_surface(self) -> bool:
        """Whether the file holds vertices or grayordinates."""
        return self.extension not in (".nii", ".nii.gz") or not {"hemi", "den"}.isdisjoint(self.labels)

    @property
    def is_partial(self) -> bool:
        """Whether the file holds one echo only, or not the magnitude."""
        return "echo" in self.labels or self.labels.get("part", "mag") != "mag"

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """What all files of one recording share; ``run-1`` and ``run-01`` are one run, magnitude and phase too."""
        return tuple(sorted((k, _label(k, v)) for k, v in self.labels.items() if k not in _DERIVED | {"part"}))

    @property
    def source(self) -> str:
        """File name up to the entities that fMRIPrep adds, as its confounds table spells it."""
        return "_".join(f"{k}-{v}" for k, v in self.labels.items() if k not in _DERIVED)

    @property
    def sources(self) -> tuple[str, ...]:
        """Spellings of `source`: with its echo, if it is of a single one, and without."""
        whole = "_".join(f"{k}-{v}" for k, v in self.labels.items() if k not in _DERIVED - {"echo"})
        return tuple(dict.fromkeys((whole, self.source)))

    @property
    def masks(self) -> tuple[str, ...]:
        """Names its brain mask can have: same entities, space and resolution."""
        stems = ["_".join(f"{k}-{v}" for k, v in self.labels.items() if k not in out) for out in (_DESC, _DESC_ECHO)]
        names = [f"{stem}_desc-brain_mask{extension}" for stem in stems for extension in (".nii.gz", ".nii")]
        return tuple(dict.fromkeys(names))

    @property
    def confounds(self) -> tuple[str, ...]:
        """Names its confounds table can have; before fMRIPrep 20.2 the suffix was ``regressors``."""
        return tuple(
            f"{source}_desc-confounds_{suffix}.tsv"
            for source in self.sources
            for suffix in ("timeseries", "regressors")
        )

    def recording(
        self, mask: Path | None = None, confounds: Path | None = None, repetition_time: float | None = None
    ) -> Recording:
        """Make the recording of which this is the image."""
        labels = self.labels
        return Recording(
            subject=labels["sub"],
            session=labels.get("ses"),
            task=labels["task"],
            run=labels.get("run"),
            entities=tuple((k, v) for k, v in labels.items() if k not in _DERIVED | _OWN_FIELD),
            space=self.space,
            resolution=labels.get("res"),
            bold=self.path,
            mask=mask,
            confounds=confounds,
            repetition_time=repetition_time,
            dataset=self.root,
        )


def unusable(image: Image, bold_desc: str, spaces: Sequence[str], *, one_echo: bool = False) -> str | None:
    """Say why an image can never be the one of its recording; None when it can.

    With ``one_echo`` an image of a single echo will do: the filter asks for it, or it is all there is.
    """
    desc = image.labels.get("desc")
    if image.is_surface:
        return "surface data; the atlas needs a volume"
    if image.labels.get("part", "mag") != "mag" or (image.is_partial and not one_echo):
        return "a single echo, or not the magnitude; the combined series is wanted"
    if desc != bold_desc:
        found = "no desc-" if desc is None else f"desc-{desc}"
        return _DENOISED.get(desc or "", f"{found}; the recipe starts from desc-{bold_desc}")
    if image.space not in spaces:
        return f"space {image.space} is none of {', '.join(spaces)}"
    return None


def echo_will_do(group: Sequence[Image], bold_desc: str) -> bool:
    """Tell whether a single echo stands for its recording: of images that pass the filter there is one and no other.

    fMRIPrep keeps ``echo-`` in the names of what it made with ``--echo-idx``, or of fewer than three echoes.
    """
    whole = [i for i in group if not i.is_surface and i.labels.get("desc") == bold_desc]
    if any("echo" not in image.labels for image in whole):
        return False
    echoes = {_label("echo", image.labels["echo"]) for image in whole}
    return len(echoes) == 1


def preference(image: Image, spaces: Sequence[str]) -> tuple[Any, ...]:
    """Sort key of usable images of one recording, best first.

    The first dataset, then the earliest space, then 2 mm (the atlas's own grid), then no ``res-`` (the BOLD's
    voxel size), then other resolutions; compressed before plain.
    """
    resolution = image.labels.get("res")
    rank = 0 if resolution in ("2", "02") else 1 if resolution is None else 2
    return (
        image.order,
        spaces.index(image.space),
        rank,
        natural(resolution or ""),
        natural(image.labels.get("cohort", "")),
        image.extension != ".nii.gz",
        natural(image.path.name),
    )


def passed_over(image: Image, chosen: Image) -> str:
    """Say why a usable image gave way to the chosen one of the same recording."""
    if image.order != chosen.order:
        return f"the same recording is taken from {chosen.root}"
    if image.space != chosen.space:
        return f"space {chosen.space} of the same recording is used"
    if image.labels.get("res") != chosen.labels.get("res") or image.labels.get("cohort") != chosen.labels.get("cohort"):
        return f"another resolution of the same recording is used: {chosen.path.name}"
    return f"names the same recording as {chosen.path.name}, which is used"


def nothing_usable(group: Sequence[Image], bold_desc: str, spaces: Sequence[str]) -> FmmtcError:
    """Return the error of a recording none of whose images is usable: no wanted space, or nothing to start from."""
    key = group[0].recording().key
    whole = [image for image in group if not image.is_surface and not image.is_partial]
    elsewhere = [image for image in whole if image.labels.get("desc") == bold_desc]
    surfaces = [image for image in group if image.is_surface]
    rerun = f"Rerun fMRIPrep with --output-spaces {spaces[0]}:res-2."
    if elsewhere or len(surfaces) == len(group):
        return SpaceError(
            f"{key} has desc-{bold_desc} in none of {', '.join(spaces)}; "
            f"found space {some(image.space for image in (*elsewhere, *surfaces))}.",
            rerun,
        )
    echoes = {image.labels["echo"] for image in group if "echo" in image.labels}
    if len(echoes) > 1:
        return SelectionError(
            f"{key} has images of single echoes only ({some(echoes)}); which one is wanted, or their combination?",
            'Choose one with --bids-filter-file {"bold": {"echo": "1"}}, or rerun fMRIPrep (three echoes or more are '
            "combined, without --echo-idx).",
        )
    reasons = sorted({unusable(image, bold_desc, spaces) or "" for image in group})
    return SelectionError(
        f"{key} has no usable image: {', or '.join(reasons)}.",
        "fMRIPrep before 23.1 writes ICA-AROMA's images with --use-aroma." if "AROMA" in bold_desc else rerun,
    )


def parse_filters(data: Any, known: Mapping[str, str], source: str) -> dict[str, dict[str, object]]:
    """Check a filter file's content and spell its entities as in file names; idempotent.

    Parameters
    ----------
    data
        JSON object: query name -> entity -> label, list of labels, null (must be absent) or ``*`` (must be there).
    known
        Every accepted spelling of an entity -> its short name.
    source
        What to call the data in messages.

    Raises
    ------
    UsageError
        On an unknown query or entity, or a value that is none of the above.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{source}: expected a JSON object such as {{'bold': {{'acquisition': 'ap'}}}}.")
    unknown = [str(name) for name in data if name not in _QUERIES]
    if unknown:
        raise UsageError(f"{source}: unknown query {some(unknown)}; known are {', '.join(_QUERIES)}.")
    filters: dict[str, dict[str, object]] = {}
    for query, entities in data.items():
        if not isinstance(entities, Mapping):
            raise UsageError(f"{source}: query {query} must be an object, found {entities!r}.")
        if query != "bold":
            continue
        unknown = [str(name) for name in entities if name not in known]
        if unknown:
            raise UsageError(f"{source}: unknown entity {some(unknown)}; known are {', '.join(sorted(set(known)))}.")
        checked = {known[name]: _wanted(value, f"{source}: {query}.{name}") for name, value in entities.items()}
        filters[query] = {name: value for name, value in checked.items() if value != "Query.OPTIONAL"}
    return filters


def _wanted(value: Any, where: str) -> Any:
    if isinstance(value, list | tuple):
        return [_wanted(item, where) for item in value]
    # fMRIPrep also accepts the names of pybids' own constants.
    named = {"Query.NONE": None, "Query.ANY": "*", "Query.REQUIRED": "*"}
    if isinstance(value, str):
        return named.get(value, value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise UsageError(f"{where}: expected a label, a list of labels, null or '*', found {value!r}.")


def matches(image: Image, filters: Mapping[str, Any]) -> bool:
    """Tell whether an image meets checked filters of one query."""
    labels = {**image.labels, "suffix": "bold", "datatype": "func", "extension": image.extension}
    return all(
        any(_meets(name, labels.get(name), item) for item in (value if isinstance(value, list) else [value]))
        for name, value in filters.items()
    )


def _meets(name: str, label: str | None, wanted: str | int | None) -> bool:
    if wanted == "Query.OPTIONAL":
        return True
    if wanted is None or label is None:
        return wanted is None and label is None
    return wanted == "*" or _label(name, label) == _label(name, str(wanted))


def _label(name: str, label: str) -> str:
    if name == "extension":
        return label.lstrip(".")
    return str(int(label)) if name in _PADDED and label.isascii() and label.isdigit() else label
