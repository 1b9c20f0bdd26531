"""What methods texts cite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bids_fmmtc.dataset.derivatives.describe import PAPER
from bids_fmmtc.modalities import about

REFERENCES: Mapping[str, str] = {
    "fmmtc": f"{PAPER}.",
    "nadeau": "Nadeau and Bengio, Inference for the generalization error, Machine Learning 2003, 52:239-281.",
    "sklearn": "Pedregosa et al., Scikit-learn: machine learning in Python, JMLR 2011, 12:2825-2830.",
    "vovk": "Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, Springer 2005.",
    "ig": "Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML 2017.",
    "captum": "Kokhlikyan et al., Captum: a unified and generic model interpretability library for PyTorch, "
    "arXiv:2009.07896, 2020.",
    "adebayo": "Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018.",
    "statsmodels": "Seabold and Perktold, statsmodels: econometric and statistical modeling with Python, SciPy 2010.",
    "vickers": "Vickers and Elkin, Decision curve analysis, Medical Decision Making 2006, 26:565-574.",
    "fmriprep": "Esteban et al., fMRIPrep: a robust preprocessing pipeline for functional MRI, Nature Methods 2019, "
    "16:111-116.",
    "nilearn": "Nilearn contributors, nilearn, https://doi.org/10.5281/zenodo.8397156.",
    "power": "Power et al., Spurious but systematic correlations in functional connectivity MRI networks arise from "
    "subject motion, NeuroImage 2012, 59:2142-2154.",
    "tangent": "Varoquaux et al., Detection of brain functional-connectivity difference in post-stroke patients using "
    "group-level covariance modeling, MICCAI 2010.",
}


def references(cited: Iterable[str]) -> str:
    """Return the works cited as a list under its heading, each once, in the order they were first cited.

    Parameters
    ----------
    cited
        Keys of `REFERENCES`, or modalities, whose encoder is cited.
    """
    works = [REFERENCES.get(name) or about(name).reference for name in dict.fromkeys(cited)]
    return "\n".join(["References", *(f"- {work}" for work in works)])
