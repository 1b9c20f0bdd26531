"""Methods of an analysis in words that can be pasted into a paper, and where its numbers come from."""

from __future__ import annotations

from collections.abc import Iterator

from bids_fmmtc.modalities import about
from bids_fmmtc.report.analysis.facts import Analysis, told
from bids_fmmtc.report.kit.references import references
from bids_fmmtc.report.kit.sheet import plain
from bids_fmmtc.report.kit.values import mapping, mappings
from bids_fmmtc.results.evaluation import NOTHING, Elsewhere, Explanation, LeftOut, Saved
from bids_fmmtc.results.record import Origin

_KINDS = {"pearson": "Pearson correlation", "tangent": "tangent-space projection of covariance"}


def methods(analysis: Analysis) -> str:
    """Return what was done, in sentences made of the fields of ``evaluation.json``, then what to cite."""
    if not analysis.readable:
        return ""
    cited = ["fmmtc"]
    said = [*_features(analysis.origin, cited), *_cohort(analysis), *_judging(analysis, cited)]
    said += [*_explaining(analysis, cited), *_planning(analysis, cited)]
    versions = ", ".join(f"{name} {number}" for name, number in analysis.card.software.items())
    if versions:
        said.append(f"Software: {versions}.")
    return f"{' '.join(said)}\n\n{references(cited)}"


def _features(origin: Origin, cited: list[str]) -> Iterator[str]:
    recipe, digest = origin.recipe, (origin.recipe_digest or "")[:12] or "not recorded"
    version = plain(origin.software_version)
    yield f"Features were made with bids_fmmtc {version} (recipe {digest}) after Fan et al. (2025)."
    atlas, windows, denoising = (mapping(recipe.get(name)) for name in ("atlas", "windows", "denoising"))
    if atlas:
        yield f"They rest on the series of {plain(atlas.get('n_parcels'))} parcels (atlas {plain(atlas.get('name'))})."
    if denoising:
        yield f"Denoising strategy here: {plain(denoising.get('strategy'))}."
    if windows:
        length, stride = plain(windows.get("length")), plain(windows.get("stride"))
        yield f"Series were cut into windows of {length} frames, one every {stride} frames."
    names = [str(each.get("name")) for each in mappings(recipe.get("modalities"))]
    for name, what in ((name, about(name)) for name in names):
        if what.encoder:
            cited.append(name)
            name_of = f"{what.encoder} ({what.cite})"
            yield f"The frozen encoder {name_of} summed up the {what.reads} of each window in one vector."
    if "fc" in names:
        connectivity = mapping(recipe.get("connectivity"))
        kind, fisher = str(connectivity.get("kind")), " (Fisher z)" if connectivity.get("fisher_z") is True else ""
        yield f"Connectivity of each window was its {_KINDS.get(kind, kind)}{fisher if kind == 'pearson' else ''}."


def _cohort(analysis: Analysis) -> Iterator[str]:
    people = analysis.evaluation.people
    yield f"The outcome was: {plain(analysis.origin.outcome)}."
    if people is None:
        return
    split = ""
    if people.responders is not None:
        split = f", {plain(people.responders)} responders and {plain(people.non_responders)} non-responders"
    yield (
        f"{plain(people.sessions)} sessions of {plain(people.participants)} participants were analysed{split}; "
        f"{plain(people.excluded)} were left out for reasons that were recorded."
    )


def _judging(analysis: Analysis, cited: list[str]) -> Iterator[str]:
    evaluation = analysis.evaluation
    scheme, model = evaluation.scheme, evaluation.model
    cited += ["sklearn", "nadeau"]
    yield (
        f"The model ({plain(model.text or None)}) was judged by {plain(scheme.folds)}-fold cross-validation, "
        f"{plain(scheme.repeats)} times, with {plain(scheme.inner_folds)} inner folds (seed {plain(scheme.seed)}; "
        "folds by scikit-learn, Pedregosa et al. 2011). No person and no family was on both sides. Settings, scaling, "
        "calibration and threshold were decided within the training part of each fold."
    )
    yield f"The measure of record is {analysis.measure.words}. Intervals: {plain(scheme.interval)}."
    others = [name for name, other in evaluation.models.items() if name != "model" and other.judged]
    if others:
        yield (
            f"{len(others)} parts of the model and baselines were judged on the same folds; differences were tested by "
            "the corrected resampled t test (Nadeau and Bengio 2003)."
        )
    test = evaluation.permutation
    if test is not None:
        yield f"The whole procedure was repeated on {plain(test.n)} permutations of the outcome."
    else:
        yield "No permutation test was run."
    if isinstance(evaluation.leave_one_site_out, LeftOut):
        yield "Each site was also judged by models of the other sites."
    for name, cohort in (evaluation.external or NOTHING).items():
        if isinstance(cohort, Elsewhere):
            yield f"The final model was judged, nothing refitted, on cohort {name} ({plain(cohort.n)} sessions)."
    if isinstance(evaluation.bundle, Saved) and not analysis.regression:
        cited.append("vovk")
        yield "Decisions of the final model are conformal prediction sets (Vovk et al. 2005)."


def _explaining(analysis: Analysis, cited: list[str]) -> Iterator[str]:
    found = analysis.evaluation.explanation
    if not isinstance(found, Explanation):
        return
    cited += ["ig", "captum", "adebayo"]
    yield (
        f"The final model was explained on {plain(found.people)} people by integrated gradients (Sundararajan et al. "
        f"2017; captum, Kokhlikyan et al. 2020; {plain(found.steps)} steps) and checked against models of random "
        "weights (Adebayo et al. 2018)."
    )


def _planning(analysis: Analysis, cited: list[str]) -> Iterator[str]:
    found, _ = told(analysis.trial)
    if found is None or found.options is None:
        return
    options = found.options
    cited += ["statsmodels", "vickers"]
    control = {
        "given": f"a given responder rate under control of {plain(options.control_rate)}",
        "control arm": "the responder rate of the control arm",
    }.get(found.control, "no responder rate under control, so no sizes")
    yield (
        f"The trial was planned for two arms, two-sided alpha {plain(options.alpha)}, power {plain(options.power)}, "
        f"{plain(options.ratio)} control patients per drug patient, with {control} (sizes: statsmodels, Seabold and "
        "Perktold 2010; decision curve: Vickers and Elkin 2006)."
    )


def provenance(analysis: Analysis) -> list[tuple[str, str]]:
    """Return where the numbers come from: command, version, recipe, sources."""
    origin, bundle = analysis.origin, analysis.evaluation.bundle
    pairs = [
        ("Folder", f"group/{analysis.label}"),
        ("Outcome", plain(origin.outcome)),
        ("bids_fmmtc", plain(origin.software_version)),
        ("Recipe digest", plain(origin.recipe_digest)),
        ("Seed", plain(analysis.evaluation.scheme.seed)),
        ("Bundle digest", plain(bundle.digest if isinstance(bundle, Saved) else None)),
    ]
    return [*pairs, *((f"Source of {name}", path) for name, path in origin.sources.items())]
