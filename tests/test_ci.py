"""Which tests ``.ci/quick`` takes, in a repository of its own."""

import shutil
import subprocess
from pathlib import Path

import pytest

QUICK = Path(__file__).parents[1] / ".ci" / "quick"
ALWAYS = "tests/test_structure.py"
FILES = (
    *("bids_fmmtc/run.py", "bids_fmmtc/learning/judging/metrics.py", "bids_fmmtc/report/templates/page.html"),
    *("bids_fmmtc/data/field.json", "docs/method.md", "tests/conftest.py", "tests/signals/stored.py"),
    *("tests/test_run.py", "tests/test_docs.py", "tests/test_boutiques.py", ALWAYS),
    *(
        "tests/learning/judging/test_metrics.py",
        "tests/learning/judging/test_decide.py",
        "tests/learning/test_folds.py",
    ),
    *("tests/report/test_bundle_page.py", "tests/report/kit/test_page.py", "tests/signals/test_atlas.py"),
)


def git(root, *words):
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=n@n", *words], cwd=root, check=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Names of ours with nothing in them, committed as main."""
    root = tmp_path_factory.mktemp("repository")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / ".ci").mkdir()
    shutil.copy(QUICK, root / ".ci")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    return root


def taken(root):
    done = subprocess.run([root / ".ci" / "quick", "--list"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("bids_fmmtc/run.py", ["tests/test_run.py"]),
        (
            "bids_fmmtc/learning/judging/metrics.py",
            ["tests/learning/judging/test_decide.py", "tests/learning/judging/test_metrics.py"],
        ),
        ("bids_fmmtc/report/templates/page.html", ["tests/report/test_bundle_page.py"]),
        ("bids_fmmtc/data/field.json", []),
        ("tests/learning/test_folds.py", ["tests/learning/test_folds.py"]),
        ("tests/signals/stored.py", ["tests/signals/test_atlas.py"]),
        ("docs/method.md", ["tests/test_boutiques.py", "tests/test_docs.py"]),
        (ALWAYS, []),
        ("tests/conftest.py", []),
        ("bids_fmmtc/report/kit/new.py", ["tests/report/kit/test_page.py"]),
    ],
)
def test_a_change_brings_the_tests_of_its_room(repository, changed, tests):
    path = repository / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("changed\n")
    try:
        assert taken(repository) == [ALWAYS, *tests]
    finally:
        path.unlink()
        if changed in FILES:
            path.touch()


def test_what_is_committed_since_main_counts_and_a_test_that_is_gone_does_not(repository, tmp_path):
    root = shutil.copytree(repository, tmp_path / "copy")
    git(root, "checkout", "-q", "-b", "work")
    (root / "bids_fmmtc" / "run.py").write_text("changed\n")
    (root / "tests" / "learning" / "test_folds.py").unlink()
    git(root, "commit", "-q", "-a", "-m", "work")
    assert taken(root) == [ALWAYS, "tests/test_run.py"]
