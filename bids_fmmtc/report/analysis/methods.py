"""Methods of an analysis in words that can be pasted into a paper, and where its numbers come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bids_fmmtc.modalities import about
from bids_fmmtc.report.analysis.facts import METRIC_WORDS, Analysis
from bids_fmmtc.report.kit.references import references
from bids_fmmtc.report.kit.sheet import plain
from bids_fmmtc.report.kit.values import mapping, mappings, texts

_KINDS = {"pearson": "Pearson correlation", "tangent": "tangent-space projection of covariance"}


def methods(analysis: Analysis) -> str:
    """Return what was done, in sentences made of the fields of ``evaluation.json``, then what to cite."""
    evaluation = analysis.evaluation
    if not evaluation:
        return ""
    cited = ["fmmtc"]
    said = [*_features(evaluation, cited), *_cohort(evaluation), *_judging(analysis, cited)]
    said += [*_explaining(analysis, cited), *_planning(analysis, cited)]
    versions = ", ".join(f"{name} {number}" for name, number in mapping(analysis.card.get("software")).items())
    if versions:
        said.append(f"Software: {versions}.")
    return f"{' '.join(said)}\n\n{references(cited)}"


def _features(evaluation: Mapping[str, Any], cited: list[str]) -> Iterator[str]:
    recipe = mapping(evaluation.get("Recipe"))
    version, digest = plain(evaluation.get("SoftwareVersion")), str(evaluation.get("RecipeDigest") or "")[:12]
    yield f"Features were made with bids_fmmtc {version} (recipe {digest or 'not recorded'}) after Fan et al. (2025)."
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


def _cohort(evaluation: Mapping[str, Any]) -> Iterator[str]:
    people = mapping(evaluation.get("people"))
    yield f"The outcome was: {plain(evaluation.get('Outcome'))}."
    if not people:
        return
    split = ""
    if "responders" in people:
        split = f", {plain(people['responders'])} responders and {plain(people.get('non_responders'))} non-responders"
    yield (
        f"{plain(people.get('sessions'))} sessions of {plain(people.get('participants'))} participants were analysed"
        f"{split}; {plain(people.get('excluded'))} were left out for reasons that were recorded."
    )


def _judging(analysis: Analysis, cited: list[str]) -> Iterator[str]:
    evaluation = analysis.evaluation
    scheme, model = mapping(evaluation.get("scheme")), analysis.models.get("model", {})
    cited += ["sklearn", "nadeau"]
    yield (
        f"The model ({plain(model.get('text'))}) was judged by {plain(scheme.get('folds'))}-fold cross-validation, "
        f"{plain(scheme.get('repeats'))} times, with {plain(scheme.get('inner_folds'))} inner folds (seed "
        f"{plain(scheme.get('seed'))}; folds by scikit-learn, Pedregosa et al. 2011). No person and no family was on "
        "both sides. Settings, scaling, calibration and threshold were decided within the training part of each fold."
    )
    yield f"The measure of record is {METRIC_WORDS[analysis.metric]}. Intervals: {plain(scheme.get('interval'))}."
    others = [name for name in analysis.models if name != "model" and analysis.models[name].get("status") == "ok"]
    if others:
        yield (
            f"{len(others)} parts of the model and baselines were judged on the same folds; differences were tested by "
            "the corrected resampled t test (Nadeau and Bengio 2003)."
        )
    test = mapping(evaluation.get("permutation"))
    if test:
        yield f"The whole procedure was repeated on {plain(test.get('n'))} permutations of the outcome."
    else:
        yield "No permutation test was run."
    if mapping(evaluation.get("leave_one_site_out")).get("status") == "ok":
        yield "Each site was also judged by models of the other sites."
    for name, cohort in mapping(evaluation.get("external")).items():
        if mapping(cohort).get("status") == "ok":
            yield f"The final model was judged, nothing refitted, on cohort {name} ({plain(cohort.get('n'))} sessions)."
    if analysis.part("bundle")[0] and not analysis.regression:
        cited.append("vovk")
        yield "Decisions of the final model are conformal prediction sets (Vovk et al. 2005)."


def _explaining(analysis: Analysis, cited: list[str]) -> Iterator[str]:
    found, _ = analysis.part("explanation")
    if not found:
        return
    cited += ["ig", "captum", "adebayo"]
    yield (
        f"The final model was explained on {plain(found.get('people'))} people by integrated gradients (Sundararajan "
        f"et al. 2017; captum, Kokhlikyan et al. 2020; {plain(found.get('steps'))} steps) and checked against models "
        "of random weights (Adebayo et al. 2018)."
    )


def _planning(analysis: Analysis, cited: list[str]) -> Iterator[str]:
    found, _ = analysis.part("trial")
    options = mapping(found.get("options"))
    if not options:
        return
    cited += ["statsmodels", "vickers"]
    control = {
        "given": f"a given responder rate under control of {plain(options.get('control_rate'))}",
        "control arm": "the responder rate of the control arm",
    }.get(str(found.get("control")), "no responder rate under control, so no sizes")
    yield (
        f"The trial was planned for two arms, two-sided alpha {plain(options.get('alpha'))}, power "
        f"{plain(options.get('power'))}, {plain(options.get('ratio'))} control patients per drug patient, with "
        f"{control} (sizes: statsmodels, Seabold and Perktold 2010; decision curve: Vickers and Elkin 2006)."
    )


def provenance(analysis: Analysis) -> list[tuple[str, str]]:
    """Return where the numbers come from: command, version, recipe, sources."""
    evaluation = analysis.evaluation
    pairs = [
        ("Folder", f"group/{analysis.label}"),
        ("Outcome", plain(evaluation.get("Outcome"))),
        ("bids_fmmtc", plain(evaluation.get("SoftwareVersion"))),
        ("Recipe digest", plain(evaluation.get("RecipeDigest"))),
        ("Seed", plain(mapping(evaluation.get("scheme")).get("seed"))),
        ("Bundle digest", plain(mapping(evaluation.get("bundle")).get("digest"))),
    ]
    pairs += [(f"Source of {name}", str(path)) for name, path in mapping(evaluation.get("Sources")).items()]
    return pairs


def notes(analysis: Analysis) -> list[str]:
    """Return what the run noted of the cohort."""
    return texts(analysis.evaluation.get("Notes"))
