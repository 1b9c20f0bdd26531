"""Methods of a participant's numbers in words that can be pasted into a paper; made of what the derivatives hold."""

from __future__ import annotations

from collections.abc import Iterator

from bids_fmmtc.dataset.derivatives.describe import NAME
from bids_fmmtc.keys import Key
from bids_fmmtc.modalities import about
from bids_fmmtc.recipe import Denoising, Recipe
from bids_fmmtc.report.kit.references import references
from bids_fmmtc.report.kit.sheet import plain
from bids_fmmtc.report.kit.values import mapping, mappings
from bids_fmmtc.report.kit.words import listed
from bids_fmmtc.report.participant.facts import ParticipantFacts

_CONNECTIVITY = {
    "pearson": "Pearson correlation",
    "partial": "partial correlation",
    "tangent": "covariance, projected to tangent space (Varoquaux et al. 2010)",
    "gram": "Gram matrix of standardised series",
}


def methods(facts: ParticipantFacts) -> str:
    """Return what was done, in sentences, then what to cite; empty where no recipe is told."""
    recipe = facts.recipe
    if recipe is None or not any(r.ok for s in facts.sessions for r in s.recordings):
        return ""
    cited = ["fmmtc"]
    sentences = [*_extraction(facts, recipe, cited), *_windows(recipe, cited), *_prediction(facts, cited)]
    return f"{' '.join(sentences)}\n\n{references(cited)}"


def _extraction(facts: ParticipantFacts, recipe: Recipe, cited: list[str]) -> Iterator[str]:
    made = facts.description.get("GeneratedBy")
    before = [e for e in mappings(made) if e.get("Name") != NAME]
    said = listed([f"{plain(e.get('Name'))} {e.get('Version') or '(version not told)'}" for e in before])
    if any("fmriprep" in str(e.get("Name")).lower() for e in before):
        cited.append("fmriprep")
    atlas = recipe.atlas
    yield (
        f"Recordings{f' preprocessed with {said}' if said else ''} were analysed with bids_fmmtc "
        f"{plain(facts.version)} after Fan et al. (2025)."
    )
    spaces = listed(sorted({str(s) for s in _said(facts, "space")}))
    imported = "imported" in _said(facts, "placement")
    if imported:
        yield f"Series of {plain(atlas.n_parcels)} parcels ({plain(atlas.name)}) were imported."
        return
    yield (
        f"In {spaces or 'template space'}, signals were averaged over the voxels of each of "
        f"{plain(atlas.n_parcels)} parcels (atlas {plain(atlas.name)}) that lie in the brain mask and "
        "hold signal."
    )
    yield from _denoising(recipe.denoising, cited)


def _said(facts: ParticipantFacts, name: str) -> set[str]:
    """Return what the qualities, or the names, of recordings tell of ``placement`` or ``space``."""
    good = [r for s in facts.sessions for r in s.recordings if r.ok]
    if name == "space":
        spaces = (Key(r.record.path.name).label("space") for r in good)
        return {space for space in spaces if space is not None}
    return {str(r.quality.value(name)) for r in good if r.quality is not None}


def _denoising(denoising: Denoising, cited: list[str]) -> Iterator[str]:
    strategy = denoising.strategy
    limits = ((denoising.high_pass, "high-pass"), (denoising.low_pass, "low-pass"))
    if strategy == "none" and not any(hz for hz, _ in limits):
        yield "No confounds were regressed out and no filter was applied."
    else:
        cited.append("nilearn")
        filters = [f"{text} filter at {plain(hz)} Hz" for hz, text in limits if hz]
        more = f", with a {listed(filters)}" if filters else ""
        yield f"Parcel series were cleaned with nilearn's confound strategy {strategy}{more}."
    if strategy == "scrubbing":
        cited.append("power")
        yield (
            f"Frames with a framewise displacement above {plain(denoising.fd_threshold)} mm (Power et al. 2012) "
            f"or a standardised DVARS above {plain(denoising.std_dvars_threshold)} were censored."
        )
    if denoising.drop_non_steady_state:
        yield "Initial frames that fMRIPrep marked as not in a steady state were left out."


def _windows(recipe: Recipe, cited: list[str]) -> Iterator[str]:
    windows, target = recipe.windows, recipe.target_repetition_time
    if target:
        yield f"Series were resampled to a repetition time of {plain(target)} s."
    length, stride = plain(windows.length), plain(windows.stride)
    yield f"They were cut into windows of {length} frames, one every {stride}."
    names = [m.name for m in recipe.modalities]
    for name, what in ((name, about(name)) for name in names):
        if what.encoder:
            cited.append(name)
            name_of = f"{what.encoder} ({what.cite})"
            yield f"The {what.reads} of each window were encoded by the frozen foundation model {name_of}."
    kind = recipe.connectivity.kind
    if "fc" in names:
        if kind == "tangent":
            cited.append("tangent")
        fisher = ", Fisher-transformed" if recipe.connectivity.fisher_z else ""
        whose = "A session's" if recipe.connectivity.frames == "all" else "Its"
        of = ", over all frames left" if whose != "Its" else ""
        yield f"{whose} functional connectivity is the {_CONNECTIVITY.get(kind, kind)} between parcels{fisher}{of}."


def _prediction(facts: ParticipantFacts, cited: list[str]) -> Iterator[str]:
    found = next((s.sidecar for s in facts.sessions if s.predicted), None)
    if found is None:
        return
    yield (
        f"A trained model ({plain(found.get('ModelName'))}, digest {str(found.get('BundleDigest', ''))[:12]}) gave "
        "each window two logits; their difference was averaged over all windows of a session and calibrated once "
        f"(kind: {plain(mapping(found.get('Calibration')).get('kind'))})."
    )
    conformal = found.get("Conformal")
    if isinstance(conformal, dict):
        cited.append("vovk")
        yield (
            "The prediction set holds the classes that class-conditional conformal prediction (Vovk et al. 2005) "
            f"cannot exclude at an error rate of {plain(conformal.get('alpha'))}."
        )
    versions = found.get("SoftwareVersions")
    if isinstance(versions, dict):
        yield f"Software: {', '.join(f'{name} {number}' for name, number in versions.items())}."
