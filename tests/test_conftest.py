"""The hook that turns skips into failures, in a pytest of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

TESTS = """
import pytest

def test_passes():
    pass

@pytest.mark.skipif(True, reason="no data here")
def test_marked():
    pass

@pytest.fixture
def data():
    pytest.skip("the fixture found nothing")

def test_by_fixture(data):
    pass

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    assert False
"""
DRAWN = """
from hypothesis import given, strategies as st

@given(st.lists(st.integers()))
def test_drawn(numbers):
    print("DRAWN", numbers)
"""
MODULE = "import pytest\npytest.skip('a whole module', allow_module_level=True)\n"


@pytest.fixture
def child(tmp_path):
    """Run a pytest of its own, with this folder's conftest; returns its exit code and output."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)

    def run(*words, **environ):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FMMTC_", "PYTEST_"))}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".", *words],
            cwd=tmp_path, env=kept | environ, capture_output=True, text=True, check=False, timeout=patience(120),
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


def test_skips_are_let_be_by_default(child):
    code, text = child()
    assert code == 0, text
    assert "1 passed, 3 skipped, 1 xfailed" in text


@pytest.mark.parametrize("how", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_forbidden_skips_fail_and_say_why(child, how):
    code, text = child("test_some.py", *how, FMMTC_FORBID_SKIPS="1")
    assert code == 1, text
    assert "1 passed, 1 xfailed" in text.replace("1 failed, ", "")
    for name, reason in (("test_marked", "no data here"), ("test_by_fixture", "the fixture found nothing")):
        assert f"test_some.py::{name} was skipped, which $FMMTC_FORBID_SKIPS forbids. Skipped: {reason}" in text


def test_a_module_that_skips_itself_fails_too(child):
    code, text = child("test_module.py", FMMTC_FORBID_SKIPS="1")
    assert code != 0
    assert "test_module.py was skipped, which $FMMTC_FORBID_SKIPS forbids. Skipped: a whole module" in text


def test_property_tests_draw_the_same_examples_each_time_and_others_in_a_longer_run(child, tmp_path):
    (tmp_path / "test_drawn.py").write_text(DRAWN)

    def drawn(*words):
        code, text = child("test_drawn.py", "-s", "-p", "no:cacheprovider", *words)
        assert code == 0, text
        found = [line for line in text.splitlines() if "DRAWN" in line]
        assert len(found) > 50
        return found

    assert drawn() == drawn()
    one, two = (drawn("-m", "hypothesis", "--hypothesis-profile=random") for _ in range(2))
    assert one != two
    assert len(one) > 500


def test_the_longer_run_asks_for_that_profile():
    script = (Path(__file__).parents[1] / ".ci" / "long").read_text()
    assert "-m pytest -n 2 -m hypothesis --hypothesis-profile=random" in script


def test_ci_forbids_them_where_the_shared_data_is():
    script = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    assert "if [ -d ../shared ]; then export FMMTC_FORBID_SKIPS=1; fi" in script
