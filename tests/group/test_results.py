"""Tables and JSON of an analysis."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bids_fmmtc.dataset.store import read_table, write_json
from bids_fmmtc.errors import UsageError
from bids_fmmtc.group.results import described, plain, refuse_another, write_described


def test_a_table_has_its_description_beside_it(tmp_path):
    columns = described({"a": "First.", "b": "Second."})
    write_described(tmp_path / "t", "A table", columns, [{"a": 1, "b": None}, {"a": "x\ty", "b": 0.5}])
    assert read_table(tmp_path / "t.tsv") == [{"a": "1", "b": "n/a"}, {"a": "x y", "b": "0.5"}]
    about = json.loads((tmp_path / "t.json").read_text())
    assert about["a"] == {"Description": "First."}
    assert "not a medical device" in about["IntendedUse"]


def test_an_analysis_of_other_people_is_refused_and_one_of_an_older_version_is_not(tmp_path):
    def of(design):
        return SimpleNamespace(folder=tmp_path, design=design)

    kept = {"outcome": "y", "missing_codes": [], "arms": []}
    refuse_another(of(kept))
    write_json(tmp_path / "evaluation.json", {"Design": {"outcome": "y", "arms": []}})
    refuse_another(of(kept))
    with pytest.raises(UsageError, match=r"missing_codes: None there, \['-9'\] here"):
        refuse_another(of({**kept, "missing_codes": ["-9"]}))
    write_json(tmp_path / "evaluation.json", {"Design": {**kept, "missing_codes": ["-9"]}})
    with pytest.raises(UsageError, match=r"missing_codes: \['-9'\] there, None here"):
        refuse_another(of(kept))


def test_plain_data_is_json_without_nan():
    data = {
        "a": np.float32(0.5),
        "b": [np.nan, np.inf, 1],
        "c": np.array([1.0, np.nan]),
        "d": (np.int64(3), "x"),
        5: None,
    }
    assert plain(data) == {"a": 0.5, "b": [None, None, 1], "c": [1.0, None], "d": [3, "x"], "5": None}
    json.dumps(plain(data), allow_nan=False)
