"""Bundles that the tests of saving, loading and predicting share."""

import shutil
from pathlib import Path

import pytest
from bundle_parts import MODALITIES, make_encoder, make_novelty, make_tangent, parts

from bids_fmmtc.learning.bundle.predict import Predictor
from bids_fmmtc.learning.bundle.save import save_bundle
from bids_fmmtc.recipe import Connectivity, Recipe


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder") / "brainlm")


@pytest.fixture(scope="session")
def saved(tmp_path_factory, encoder):
    """A bundle with every kind of file; tests copy it before they change it."""
    recipe = Recipe(modalities=MODALITIES, connectivity=Connectivity("tangent"))
    root = tmp_path_factory.mktemp("bundle") / "model"
    everything = parts(encoder, recipe=recipe, tangent=make_tangent(), novelty=make_novelty())
    return save_bundle(root, **everything, include_encoders=True)


@pytest.fixture(scope="session")
def plain(tmp_path_factory, encoder):
    return save_bundle(tmp_path_factory.mktemp("plain") / "model", **parts(encoder))


@pytest.fixture(scope="session")
def predictor(plain):
    return Predictor(plain)


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved.root, tmp_path / "copy"))
