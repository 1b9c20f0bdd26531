"""Files that describe the output dataset as a whole, and the check that one folder holds one recipe."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_fmmtc import __version__
from bids_fmmtc.dataset.store import Layout, read_record, sweep, write_bytes, write_json, write_table, write_text
from bids_fmmtc.errors import OutputError, RecipeError, UsageError
from bids_fmmtc.plain import Cells, Json, Object
from bids_fmmtc.recipe import Recipe, differences
from bids_fmmtc.types import Atlas

BIDS_VERSION = "1.11.0"
PAPER = "Fan et al., FMM_TC, MICCAI 2025, arXiv:2503.00210"
NOT_A_DEVICE = "Research software, not a medical device: predictions must not guide the care of an individual patient."
NAME = "bids_fmmtc"
DESCRIPTION = "dataset_description.json"
IMPORTED_KEY = "ImportedSeries"
"""In this program's entry under ``GeneratedBy``: true where parcel series were imported, not extracted."""
LEFT_OUT_KEY = "EncodersLeftOut"
"""There, too: encoders that the default recipe would have, were their weights on the machine."""

# bids-validator-deno 3.0.2 does not match ``figures/`` with its slash; both members of a pair are hidden, since a
# visible JSON beside an ignored table is an error.
IGNORED = (
    "*.html",
    "logs/",
    "figures",
    "*_timeseries.*",
    "*_coverage.*",
    "*_relmat.*",
    "*_features.*",
    "*_prediction.*",
    "*_predictions.*",
    "*_qc.*",
    "group",
)


def prepare_dataset(
    layout: Layout,
    recipe: Recipe,
    atlas: Atlas,
    inputs: Mapping[str, Path],
    model: str | None = None,
    *,
    imported: bool = False,
    left_out: Sequence[str] = (),
) -> None:
    """Write what belongs to the dataset as a whole, the same bytes whichever participant job comes first.

    Parameters
    ----------
    layout
        Of the output dataset.
    recipe
        The complete recipe; it is stored in ``dataset_description.json``.
    inputs
        Dataset name -> root of each input dataset, first the one that ``GeneratedBy`` continues.
    model
        Digest of the bundle that predicts, if any.
    imported
        Whether the parcel series were imported, not extracted from images; said under ``GeneratedBy``.
    left_out
        Encoders without features, for want of their weights; said there, too.

    Raises
    ------
    UsageError
        The output folder is an input.
    OutputError
        The folder holds somebody else's dataset, or series of the other origin, or cannot be written.
    RecipeError
        It holds results of a different recipe; the differing fields are named. One whose modalities this recipe
        only adds to is completed.
    """
    check_output(layout.root, recipe, inputs, imported=imported)
    sweep(layout.root, below=False)
    more: Object = {IMPORTED_KEY: True} if imported else {}
    more |= {LEFT_OUT_KEY: list(left_out)} if left_out else {}
    more |= {"ModelDigest": model} if model else {}
    description = _description(recipe, inputs, layout.root, more)
    write_json(layout.root / DESCRIPTION, description)
    write_text(layout.root / ".bidsignore", "\n".join(IGNORED) + "\n")
    write_text(layout.root / "README.md", _README)
    rows = [{"desc_id": "desc-fmmtc", "description": f"Prediction of treatment response by {NAME} ({PAPER})."}]
    write_table(layout.root / "descriptions.tsv", ("desc_id", "description"), rows)
    described: Object = {
        "Description": "What the desc- labels of this dataset stand for.",
        "desc_id": {"Description": "Label"},
        "description": {"Description": "What it stands for"},
    }
    write_json(layout.root / "descriptions.json", described)
    _write_atlas(layout.root, atlas)


def prepare_group(root: Path, recipe: Recipe, features: Mapping[str, Path]) -> None:
    """Make an output folder ready for group tables; a dataset of ours keeps its description.

    Parameters
    ----------
    root
        The output folder.
    recipe
        Of the features.
    features
        Dataset name -> root of the datasets that features come from; ``root`` may be one of them.

    Raises
    ------
    OutputError
        The folder holds somebody else's dataset, or cannot be written.
    """
    if own_entry(root) is None:
        inputs = {name: folder for name, folder in features.items() if folder != root}
        check_output(root, recipe, inputs)
        description = _description(recipe, inputs, root, {})
        write_json(root / DESCRIPTION, description)
    # Of older versions, too: they knew no group tables.
    write_text(root / ".bidsignore", "\n".join(IGNORED) + "\n")
    write_text(root / "README.md", _README)


def write_citations(root: Path, encoders: Sequence[str]) -> None:
    """Write what to cite to ``logs/CITATION.md``; ``encoders`` are the works that describe the recipe's encoders.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    said = "".join(f"- Encoder: {work}\n" for work in encoders)
    write_text(root / "logs" / "CITATION.md", f"# Citations\n\n- Model: {PAPER}.\n{said}{_TOOLS}")


def input_folders(root: Path) -> tuple[Path, ...]:
    """Return the datasets that an output dataset of ours was made from, as far as they are still there."""
    links = (read_record(root / DESCRIPTION) or {}).get("DatasetLinks")
    found = links.values() if isinstance(links, dict) else ()
    paths = [root / _path(each) for each in found if isinstance(each, str)]
    return tuple(path.resolve() for path in paths if path.is_dir())


def is_demo(root: Path) -> bool:
    """Tell whether an output dataset was made from the demo's synthetic cohort."""
    generated = (read_record(root / DESCRIPTION) or {}).get("GeneratedBy")
    entries = generated if isinstance(generated, list) else []
    return any(isinstance(entry, dict) and entry.get("Name") == f"{NAME}-demo" for entry in entries)


def check_output(root: Path, recipe: Recipe, inputs: Mapping[str, Path], *, imported: bool | None = None) -> Own | None:
    """Refuse an output folder that is or lies in an input, is foreign, or holds another recipe's results.

    Parameters
    ----------
    imported
        Refuse images where series were imported before, and the other way round; None does not ask.

    Returns
    -------
    Own
        What the folder's description says of this program's earlier runs; None for a new folder.
    """
    refuse_inside(root, inputs.values(), "output folder")
    path = root / DESCRIPTION
    # Looked for before the description, which is written before them: another job of an array may be writing now.
    occupied = _occupied(root)
    if not path.exists():
        if occupied:
            raise OutputError(
                f"{root} holds {', '.join(occupied)}, which {NAME} did not make and would overwrite.",
                "Give an output folder of its own.",
            )
        return None
    ours = own_entry(root)
    if ours is None:
        raise OutputError(f"{root} holds a dataset that {NAME} did not make.", "Give another output folder.")
    _refuse_other_input(root, read_record(path) or {}, inputs)
    there = Recipe.from_json(ours.recipe, str(path))
    if there.digest != recipe.digest and not recipe.completes(there):
        more = [m.name for m in there.modalities if m not in recipe.modalities]
        weights = (
            f" Its features hold {', '.join(more)}, too: --encoder-weights DIR." if there.completes(recipe) else ""
        )
        raise RecipeError(
            f"{root} holds results of another recipe: {'; '.join(differences(there, recipe))}.",
            f"Give another output folder, or the recipe that is used there.{weights}",
        )
    if imported is not None and ours.imported != imported:
        old, new = ("imported series", "images") if ours.imported else ("images", "imported series")
        raise OutputError(
            f"{root} holds features of {old}, now {new} are given: the two must not be mixed.",
            "Give another output folder.",
        )
    return ours


def _occupied(root: Path) -> list[str]:
    """Return the files of names we write that are there already."""
    return [name for name in ("README.md", ".bidsignore", "descriptions.tsv") if (root / name).exists()]


def _refuse_other_input(root: Path, description: Mapping[str, object], inputs: Mapping[str, Path]) -> None:
    """Refuse another dataset under a name already in use; one that has only moved is let through."""
    links = description.get("DatasetLinks")
    for name, folder in inputs.items():
        before = links.get(name) if isinstance(links, dict) else None
        if not isinstance(before, str) or before == link(folder, root):
            continue
        there = root / _path(before)
        if there.is_dir() and not there.samefile(folder):
            raise OutputError(
                f"{root} holds results of another dataset called {name}: {there.resolve()}, now {folder}.",
                "Give another output folder, or name the dataset with --derivatives NAME=PATH.",
            )


def _path(link: str) -> Path:
    """Return the path that `link` made a value of DatasetLinks from; a relative one stays relative."""
    if not link.startswith("file://"):
        return Path(link)
    text = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes.fromhex(m[1].decode()), link.removeprefix("file://").encode())
    return Path(os.fsdecode(text))


def refuse_inside(folder: Path, inputs: Iterable[Path], what: str) -> None:
    """Refuse to write into an input.

    Raises
    ------
    UsageError
        ``folder`` is an input dataset or lies in one.
    """
    for root in inputs:
        if folder.resolve().is_relative_to(root.resolve()):
            raise UsageError(f"the {what} {folder} lies in the input dataset {root}.", "Give another folder.")


@dataclass(frozen=True, slots=True)
class Own:
    """What a description says of our own run, under GeneratedBy; None or empty where it is not told.

    ``recipe`` is as it is stored; ``imported`` tells whether parcel series were imported, ``left_out`` which encoders
    have no features for want of weights, ``model`` is the digest of the bundle that predicted.
    """

    recipe: object
    digest: str
    version: str | None
    model: str | None
    imported: bool
    left_out: tuple[str, ...]


def own_entry(root: Path) -> Own | None:
    """Return this program's entry in a dataset's description; None when somebody else made the dataset, or nobody."""
    return own_in(read_record(root / DESCRIPTION) or {})


def own_in(description: Mapping[str, object]) -> Own | None:
    """Return this program's entry in a description: the first, as others are of the datasets this one was made from."""
    generated = description.get("GeneratedBy")
    first = generated[0] if isinstance(generated, list) and generated else None
    if not isinstance(first, dict) or first.get("Name") != NAME:
        return None
    words = {key: str(first[key]) if key in first else None for key in ("ConfigurationHash", "Version", "ModelDigest")}
    without = first.get(LEFT_OUT_KEY)
    return Own(
        recipe=first.get("Recipe"),
        digest=words["ConfigurationHash"] or "",
        version=words["Version"],
        model=words["ModelDigest"],
        imported=bool(first.get(IMPORTED_KEY)),
        left_out=tuple(map(str, without)) if isinstance(without, list) else (),
    )


def link(folder: Path, root: Path) -> str:
    """Return the DatasetLinks value of a folder: relative to the output when both share more than ``/``."""
    folder, root = folder.resolve(), root.resolve()
    if len(Path(os.path.commonpath([folder, root])).parts) > 1:
        return os.path.relpath(folder, root)
    return folder.as_uri()


def _description(recipe: Recipe, inputs: Mapping[str, Path], root: Path, more: Mapping[str, Json]) -> Object:
    first = read_record(next(iter(inputs.values())) / DESCRIPTION) or {}
    upstream = first.get("GeneratedBy") or first.get("PipelineDescription") or []
    authors = first.get("Authors")
    description: Object = {
        "Name": f"{NAME} - parcel series, connectivity and predictions of treatment response",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "Authors": authors if isinstance(authors, list) and authors else ["Authors of the input dataset", "bids_fmmtc"],
        "HowToAcknowledge": f"Cite {PAPER}, fMRIPrep, and the works in logs/CITATION.md.",
        "GeneratedBy": [
            {
                "Name": NAME,
                "Version": __version__,
                "Description": NOT_A_DEVICE,
                "ConfigurationHash": recipe.digest,
                "Recipe": recipe.to_json(),
                **more,
            },
            *(upstream if isinstance(upstream, list) else [upstream]),
        ],
        "SourceDatasets": [{"URL": link(folder, root)} for folder in inputs.values()],
        "DatasetLinks": {name: link(folder, root) for name, folder in inputs.items()},
    }
    if isinstance(first.get("License"), str):
        description["License"] = first["License"]
    return description


def atlas_image(atlas: Atlas) -> str:
    """Return where the label image of the atlas stands in an output dataset, relative to its root."""
    voxel = np.sqrt((atlas.affine[:3, :3] ** 2).sum(0))[0]
    resolution = f"{voxel:g}".replace(".", "p")
    return f"tpl-{atlas.space}/tpl-{atlas.space}_atlas-{atlas.name}_res-{resolution}_dseg.nii.gz"


def atlas_table(atlas: Atlas) -> str:
    """Return where the table of the atlas stands in an output dataset, relative to its root."""
    if has_image(atlas):
        return atlas_image(atlas).removesuffix(".nii.gz") + ".tsv"
    return f"tpl-{atlas.space}/tpl-{atlas.space}_atlas-{atlas.name}_dseg.tsv"


def has_image(atlas: Atlas) -> bool:
    """Tell whether an atlas has labels; that of imported series may be a table only."""
    return atlas.labels.size > 0


def _write_atlas(root: Path, atlas: Atlas) -> None:
    """Write labels, table and description of the atlas under its space, labels renumbered 1..R as in the table."""
    name, space = atlas.name, atlas.space
    facts: Object = {
        "Description": f"Parcellation {name} with the labels this dataset uses; row order is column order.",
        "SpatialReference": space,
    }
    if has_image(atlas):
        _write_labels(root / atlas_image(atlas), atlas)
        voxel = np.sqrt((atlas.affine[:3, :3] ** 2).sum(0))
        facts["Resolution"] = " x ".join(f"{v:g}" for v in voxel) + " mm"
    columns = ["index", "name", "x", "y", "z", "source_index", *(["network"] if atlas.networks else [])]
    table = root / atlas_table(atlas)
    write_table(table, columns, [_parcel(atlas, i) for i in range(atlas.n_parcels)])
    facts |= {
        "AtlasSHA256": atlas.sha256,
        **{axis: {"Description": f"Parcel centre, {axis} (RAS+)", "Units": "mm"} for axis in "xyz"},
        "source_index": {"Description": "Label value in the atlas's own image"},
    }
    if atlas.networks:
        facts["network"] = {"Description": "Network the parcel belongs to"}
    write_json(table.with_suffix(".json"), facts)
    text = f"Parcellation with {atlas.n_parcels} parcels in {space}."
    if not has_image(atlas):
        text = f"Parcellation with {atlas.n_parcels} parcels, of imported series; space {space}, no image."
    write_json(root / f"atlas-{name}_description.json", {"Name": name, "Description": text})


def _write_labels(path: Path, atlas: Atlas) -> None:
    image = nib.Nifti1Image(atlas.labels.astype(np.int16 if atlas.n_parcels < 2**15 else np.int32), atlas.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_sform(atlas.affine, code="mni")
    image.header.set_qform(atlas.affine, code="mni")
    # nibabel's own gzip header would carry the time of writing.
    write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def _parcel(atlas: Atlas, i: int) -> Cells:
    """Return row i of the atlas table."""
    x, y, z = (float(v) for v in atlas.xyz[i])
    network = atlas.networks[i] if atlas.networks else None
    return {
        "index": i + 1,
        "name": atlas.names[i],
        "x": x,
        "y": y,
        "z": z,
        "source_index": atlas.index[i],
        "network": network,
    }


_README = f"""# bids_fmmtc derivatives

Per recording: parcel time series, their coverage, functional connectivity, and the features a model sees. Per
session, where a model bundle was given: a prediction of treatment response. {NOT_A_DEVICE}

| file | what |
|---|---|
| `*_timeseries.tsv` | one column per parcel, one row per frame of the recording, after denoising; `n/a` where |
|  | a parcel is lost and where a frame is dropped or censored |
| `*_coverage.tsv` | share of each parcel's voxels that hold signal inside the brain mask, 0 to 1; where series were |
|  | imported it is not known: 1, or 0 in lost parcels |
| `*_relmat.tsv` | connectivity over all frames left |
| `*_features.safetensors` | per window: start and stop frames, and one array per modality |
| `*_features.json` | status, quality, recipe and input fingerprints of the recording; a last attempt that failed |
| `*_prediction.tsv` | one row: calibrated P(responder), label, spread over windows, flags |
| `*_scans.tsv` | status and quality of every recording, failed ones too |
| `phenotype/fmmtc*.tsv` | predictions, one row a participant (one file a session) |
| `desc-fmmtc_predictions.tsv` | predictions of every participant, session and task; without one, why |
| `desc-fmmtc_qc.tsv` | quality of every recording |
| `group/<analysis>/` | an analysis: `evaluation.json`, comparison, out-of-fold predictions, attributions, trial plan, |
|  | and the model in `bundle/` |

The recipe that made all of it stands in `dataset_description.json` under `GeneratedBy`. Each sidecar names its
sources as BIDS URIs.
"""


_TOOLS = """\
- Preprocessing: Esteban et al., fMRIPrep, Nature Methods 2019, doi:10.1038/s41592-018-0235-4.
- Denoising: nilearn; Wang et al., PLOS Computational Biology 2024, doi:10.1371/journal.pcbi.1011942.
- Workflow: Gorgolewski et al., Nipype, Frontiers in Neuroinformatics 2011.
- Data layout: Gorgolewski et al., BIDS, Scientific Data 2016; PyBIDS, JOSS 2019.
"""
