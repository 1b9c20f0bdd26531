"""What CITATION.cff says of the program is what the package says of itself."""

import tomllib
from pathlib import Path

import yaml

from bids_fmmtc.dataset.derivatives.describe import PAPER

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version_and_names_the_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["title"], cited["version"], cited["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    assert cited["keywords"] == project["keywords"]
    assert cited["authors"] == project["authors"]
    (paper,) = cited["references"]
    assert paper["identifiers"][0]["value"] in PAPER
    assert paper["authors"][0]["family-names"] in PAPER
