"""Features that the tests of the group level share; a test that writes copies them."""

import pytest
from group.parts import copied, make_features, write_inputs


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """24 people, one of them too short to have features."""
    root = write_inputs(tmp_path_factory.mktemp("group"), broken=(23,))
    make_features(root)
    return root


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """Another cohort, of 16 other people."""
    root = write_inputs(tmp_path_factory.mktemp("other"), n=16, start=60)
    make_features(root)
    return root


@pytest.fixture
def root(made, tmp_path):
    return copied(made, tmp_path)
