from __future__ import annotations

import subprocess
import sys

import pytest

from bids_fmmtc.errors import RecipeError
from bids_fmmtc.modalities import PRETRAINED, TABLE, load_modality
from bids_fmmtc.recipe import ModalitySpec, Recipe


def test_every_name_in_the_table_is_a_modality():
    from importlib import import_module

    for name, entry in TABLE.items():
        module, _, kind = entry.partition(":")
        modality = getattr(import_module(module), kind)
        assert modality.name == name
        assert callable(modality.from_spec)
        assert callable(modality.compute)
    assert set(PRETRAINED) <= set(TABLE)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RecipeError, match="no modality 'telepathy'; known are brainlm, fc"):
        load_modality(ModalitySpec("telepathy"), Recipe(), None)


def test_only_the_named_encoder_is_imported():
    code = (
        "import sys; from bids_fmmtc.modalities import load_modality; from bids_fmmtc.recipe import *;"
        "load_modality(ModalitySpec('fc'), Recipe(), None); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
