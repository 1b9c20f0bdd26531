from __future__ import annotations

import hashlib

import pytest

from bids_fmmtc.errors import MissingInputError
from bids_fmmtc.modalities.weights import NAMES, file_sha256, weights_file, weights_sha256


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_safetensors_come_before_pickle(folder):
    (folder / "pytorch_model.bin").write_bytes(b"old")
    assert weights_file(folder).name == "pytorch_model.bin"
    (folder / "model.safetensors").write_bytes(b"new")
    assert weights_file(folder).name == "model.safetensors"
    assert weights_sha256(folder) == file_sha256(folder / "model.safetensors") == hashlib.sha256(b"new").hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_weights_without_a_config_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MissingInputError, match=r"needs config\.json"):
        weights_file(tmp_path)


def test_an_empty_and_an_absent_folder_name_the_remedy(folder):
    with pytest.raises(MissingInputError, match=r"it holds config\.json") as error:
        weights_file(folder)
    assert "bids_fmmtc-fetch" in error.value.hint
    assert "BrainLM" not in error.value.hint  # nothing here knows whose weights they are
    with pytest.raises(MissingInputError, match="does not exist"):
        weights_file(folder / "no")
