"""The parcellation: its label image and table, and its labels on a recording's grid."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import AtlasError, MissingInputError, UnreadableError
from bids_fmmtc.reading import read_text
from bids_fmmtc.signals.nifti import open_nifti
from bids_fmmtc.signals.parcel_table import (
    LABEL_MOST,
    NAMES,
    NETWORKS,
    centres,
    first_of,
    label_values,
    refuse_names,
    table_rows,
)
from bids_fmmtc.types import Atlas

PUBLISHED_IMAGE, PUBLISHED_TABLE = "A424+2mm.nii.gz", "A424_Coordinates.dat"
PUBLISHED_COLUMNS = ("index", "x", "y", "z")
PUBLISHED_SPACE = "MNI152NLin6Asym"  # its grid is FSL's MNI152 at 2 mm

# A voxel centre may fall exactly between two atlas voxels. Nudging every point by the same hair in world space
# sends it to the same side however the atlas is stored (flipped, permuted).
TIE_BREAK_MM = 1e-4
_DENSE = 2**20  # label values up to here are looked up in a list; above, as some atlases have them, among those found

Warp = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Maps points (N, 3) of the recording's space to the atlas's space, RAS+ millimetres."""


@dataclass(frozen=True, slots=True)
class LabelGrid:
    """Atlas labels on a recording's grid.

    ``labels`` (X, Y, Z) int32 holds row + 1 or 0; ``expected`` (R,) is how many voxels of this size and grid each
    parcel would fill if the field of view had no end.
    """

    labels: NDArray[np.int32]
    expected: NDArray[np.int64]


def read_atlas(folder: Path, name: str | None = None) -> Atlas:
    """Read an atlas folder.

    Parameters
    ----------
    folder
        An image ``*_dseg.nii[.gz]`` with its table beside it, or a folder. That either holds the published pair
        ``A424+2mm.nii.gz`` and ``A424_Coordinates.dat``, or is a BIDS atlas folder or dataset
        (``tpl-<space>[/cohort-<label>][/anat]`` below it): one ``*_dseg.nii[.gz]`` and its ``*_dseg.tsv`` with columns
        ``index`` and ``name`` (or ``label``), optionally ``x``, ``y``, ``z`` (else parcel centroids) and ``network``.
    name
        Name to give it; by default the ``atlas-`` or ``seg-`` label of the file, else the folder's name.

    Raises
    ------
    MissingInputError, AtlasError
        A file is absent, or image and table contradict each other.
    """
    if is_image(folder):
        published = folder.name == PUBLISHED_IMAGE
        return _read_published(folder.parent, name or "A424") if published else _read_bids(folder, name)
    if not folder.is_dir():
        raise MissingInputError(f"atlas folder {folder} does not exist.", "Give --atlas the folder that holds it.")
    if (folder / PUBLISHED_IMAGE).is_file():
        return _read_published(folder, name or "A424")
    below = ("tpl-*", "tpl-*/anat", "tpl-*/cohort-*", "tpl-*/cohort-*/anat", "anat")
    images = sorted(p for d in (folder, *(f for g in below for f in folder.glob(g))) for p in d.glob("*_dseg.nii*"))
    if not images:
        raise AtlasError(
            f"atlas folder {folder} holds neither {PUBLISHED_IMAGE} nor a *_dseg.nii.gz.",
            "Give a BIDS atlas folder (dseg image and tsv), or fetch A424 with bids_fmmtc-fetch atlas.",
        )
    if len(images) > 1:
        images = [p for p in images if re.search(r"_res-0*2_", p.name)] or images
    if len(images) > 1:
        raise AtlasError(
            f"atlas folder {folder} holds several images: {', '.join(p.name for p in images)}.",
            "Give the path of one of them.",
        )
    return _read_bids(images[0], name)


def is_image(path: Path) -> bool:
    """Tell whether a path is an image's own, not a folder's or a table's."""
    return path.name.endswith((".nii", ".nii.gz")) and path.is_file()


def _read_published(folder: Path, name: str) -> Atlas:
    table_file = folder / PUBLISHED_TABLE
    if not table_file.is_file():
        raise AtlasError(f"{folder} holds {PUBLISHED_IMAGE} but no {PUBLISHED_TABLE}.", "Put both into one folder.")
    try:
        rows = [line.split() for line in read_text(table_file).splitlines() if line.strip()]
    except UnreadableError as error:
        raise AtlasError(f"table of parcels {error.message}", error.hint) from None
    wrong = next((len(cells) for cells in rows if len(cells) != len(PUBLISHED_COLUMNS)), None)
    if wrong is not None or not rows:
        raise AtlasError(f"{table_file} has {wrong or 'no'} columns, expected index, x, y, z.")
    index = label_values([cells[0] for cells in rows], table_file)
    xyz = centres([dict(zip(PUBLISHED_COLUMNS, cells, strict=True)) for cells in rows], table_file)
    width = len(str(max(index)))
    names = tuple(f"{name}_{i:0{width}d}" for i in index)
    return _assemble(folder / PUBLISHED_IMAGE, name, PUBLISHED_SPACE, index, names, None, xyz)


def _read_bids(image: Path, name: str | None) -> Atlas:
    stem = re.sub(r"\.nii(\.gz)?$", "", image.name)
    table_file = _sibling_table(image, stem)
    rows = table_rows(table_file)
    called = first_of(NAMES, rows)
    if not rows or "index" not in rows[0] or called is None:
        found = ", ".join(rows[0]) if rows else "nothing"
        raise AtlasError(f"{table_file} needs the columns index and name, found {found}.")
    rows = [r for r in rows if r["index"].strip() not in {"0", ""}]
    entities = entities_of(stem)
    space = entities.get("tpl") or entities.get("space")
    if space is None:
        raise AtlasError(f"{image.name} does not name its space.", "Add tpl-<space>_ (or space-<space>_) to its name.")
    index = label_values([r["index"] for r in rows], table_file)
    xyz = centres(rows, table_file) if rows and all(c in rows[0] for c in ("x", "y", "z")) else None
    network = first_of(NETWORKS, rows)
    networks = None if network is None else tuple(r[network] for r in rows)
    label = plain(name or entities.get("atlas") or entities.get("seg") or image.parent.name)
    return _assemble(image, label, space, index, tuple(r[called] for r in rows), networks, xyz)


def entities_of(stem: str) -> dict[str, str]:
    """Return the entities of a file name: short name -> label."""
    return dict(part.split("-", 1) for part in stem.split("_") if "-" in part)


def plain(label: str) -> str:
    """Return a label with nothing but letters and digits, as a file name takes it."""
    return re.sub(r"[^0-9A-Za-z]", "", label)


def atlas_digest(
    labels: NDArray[np.int32],
    affine: NDArray[np.float64],
    index: Sequence[int],
    centres: NDArray[np.float32],
    words: Sequence[str],
) -> str:
    """Return the sha256 of labels, affine, label values, centres and words (space, names, networks)."""
    digest = hashlib.sha256()
    for part in (np.array(labels.shape, np.int64), np.asfortranarray(labels).T, affine, np.array(index, np.int64)):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(centres.tobytes() + "\n".join(words).encode())
    return digest.hexdigest()


def _sibling_table(image: Path, stem: str) -> Path:
    candidates = [image.with_name(f"{stem}.tsv")]
    # BIDS inheritance: the table may leave out res-, or stand one folder above.
    short = re.sub(r"_res-[0-9A-Za-z]+", "", stem)
    candidates += [image.with_name(f"{short}.tsv"), image.parent.parent / f"{short}.tsv"]
    for path in candidates:
        if path.is_file():
            return path
    raise AtlasError(f"{image} has no table: looked for {', '.join(p.name for p in candidates[:2])}.")


def _assemble(
    image: Path,
    name: str,
    space: str,
    index: Sequence[int],
    names: tuple[str, ...],
    networks: tuple[str, ...] | None,
    xyz: NDArray[np.float64] | None,
) -> Atlas:
    """Check image against table and turn label values into row numbers."""
    values, affine = _read_labels(image)
    if not index or min(index) < 1:
        raise AtlasError(f"the table of {image.name} needs labels of 1 and above.")
    if len(set(index)) != len(index):
        raise AtlasError(f"the table of {image.name} lists a label twice.")
    if not all(name.strip() for name in names):
        raise AtlasError(f"the table of {image.name} holds a parcel without a name.")
    refuse_names(names, image.name)
    refuse_names(networks or (), image.name, "network")
    if len(set(names)) != len(names):
        names = tuple(f"{n}_{i}" for n, i in zip(names, index, strict=True))
    labels = _rows(values, index, image)
    if xyz is None:
        xyz = _centroids(labels, affine, len(index))
    middles = np.ascontiguousarray(xyz, np.float32)
    sha256 = atlas_digest(labels, affine, index, middles, (space, *names, *(networks or ())))
    return Atlas(name, space, labels, affine, tuple(index), names, networks, middles, sha256)


def _rows(values: NDArray[np.int64], index: Sequence[int], image: Path) -> NDArray[np.int32]:
    """Turn label values into row + 1 of the table."""
    if max(*index, int(values.max())) < _DENSE:
        found, at = np.flatnonzero(np.bincount(values.ravel(order="K"))), None  # ten times as fast as a sort
    else:
        found, at = np.unique(values, return_inverse=True)
    if not found.any():
        raise AtlasError(f"{image.name} holds no label at all.")
    unknown = sorted(set(found.tolist()) - set(index) - {0})
    if unknown:
        raise AtlasError(f"{image.name} holds labels that its table lacks: {unknown[:10]}.")
    row_of = {value: row for row, value in enumerate(index, 1)}
    if at is not None:
        return np.array([row_of.get(value, 0) for value in found.tolist()], np.int32)[at.reshape(values.shape)]
    rows = np.zeros(max(*index, int(found.max())) + 1, np.int32)
    rows[list(index)] = np.arange(1, len(index) + 1)
    return rows[values]


def _read_labels(image: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    found = open_nifti(image, "atlas image", AtlasError)
    data = found.data("atlas image", AtlasError)
    if data.ndim != 3:
        raise AtlasError(f"{image} has shape {data.shape}, expected one 3-D label image.")
    if not ((data >= 0) & (data <= LABEL_MOST) & (np.rint(data) == data)).all():
        raise AtlasError(f"{image} holds values that are not whole labels; probabilistic atlases are not supported.")
    return data.astype(np.int64), found.affine


def _centroids(labels: NDArray[np.int32], affine: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    inside = np.nonzero(labels)
    row = labels[inside] - 1
    counts = np.bincount(row, minlength=n)
    means = np.stack([np.bincount(row, weights=axis, minlength=n) / np.maximum(counts, 1) for axis in inside], 1)
    middles: NDArray[np.float64] = means @ affine[:3, :3].T + affine[:3, 3]
    middles[counts == 0] = 0.0  # a row without voxels is lost in every recording; its place is never used
    return middles


def labels_on_grid(
    atlas: Atlas, shape: Sequence[int], affine: NDArray[np.float64], warp: Warp | None = None
) -> LabelGrid:
    """Place atlas labels on a grid by nearest neighbour in world space.

    Parameters
    ----------
    shape, affine
        The recording's 3-D shape and its (4, 4) voxel to RAS+ millimetres.
    warp
        From the recording's space to the atlas's; None where the two are one, or are taken for one.

    Notes
    -----
    Only the box that the atlas can reach is visited, in slabs, so that memory stays flat. The box may reach out of
    the field of view: voxels there count as expected, which is what makes coverage tell of a cut-off brain.
    """
    shape3 = (int(shape[0]), int(shape[1]), int(shape[2]))
    low, high = _reach(atlas, affine, warp)
    to_atlas = np.linalg.inv(atlas.affine)
    # Without a warp both affines are one, so a slab is the first one shifted; with it, points stop in world space.
    way = np.asarray(affine if warp is not None else to_atlas @ affine, np.float64)
    nudge = to_atlas[:3, :3].sum(1) * TIE_BREAK_MM
    i, j = (axis.ravel() for axis in np.mgrid[low[0] : high[0], low[1] : high[1]])
    plane = i[:, None] * way[:3, 0] + j[:, None] * way[:3, 1] + way[:3, 3]
    inside = (i >= 0) & (i < shape3[0]) & (j >= 0) & (j < shape3[1])
    at = (i[inside], j[inside])
    labels = np.zeros(shape3, np.int32)
    expected = np.zeros(atlas.n_parcels + 1, np.int64)
    for k in range(low[2], high[2]):
        points = plane + k * way[:3, 2]
        if warp is not None:
            points = warp(points) @ to_atlas[:3, :3].T + to_atlas[:3, 3]
        rows = _labels_at(atlas, np.rint(points + nudge).astype(np.int64))
        expected += np.bincount(rows, minlength=len(expected))
        if 0 <= k < shape3[2]:
            labels[(*at, k)] = rows[inside]
    return LabelGrid(labels, expected[1:])


def _labels_at(atlas: Atlas, voxels: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return row + 1 of the parcel at each of the atlas's voxels (N, 3); 0 outside its image."""
    valid = np.all((voxels >= 0) & (voxels < atlas.labels.shape), axis=1)
    rows = np.zeros(len(voxels), np.int32)
    rows[valid] = atlas.labels[tuple(voxels[valid].T)]
    return rows


def _reach(atlas: Atlas, affine: NDArray[np.float64], warp: Warp | None) -> tuple[list[int], list[int]]:
    """Return the voxel box (low, high) of a grid outside which no atlas label can fall."""
    used = np.nonzero(atlas.labels)
    ends = np.array([(axis.min() - 0.5, axis.max() + 0.5) for axis in used])
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T
    world = corners @ atlas.affine[:3, :3].T + atlas.affine[:3, 3]
    margin = 1.0 if warp is None else 15.0  # mm; the templates differ by at most 6.5 mm inside the brain
    box = np.array([world.min(0) - margin, world.max(0) + margin])
    corners = np.array(np.meshgrid(*box.T, indexing="ij")).reshape(3, -1).T
    to_grid = np.linalg.inv(affine)
    voxels = corners @ to_grid[:3, :3].T + to_grid[:3, 3]
    low, high = np.floor(voxels.min(0)).astype(int), np.ceil(voxels.max(0)).astype(int) + 1
    return low.tolist(), high.tolist()
