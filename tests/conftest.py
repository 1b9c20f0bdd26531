"""Shared fixtures: the demo's atlas and bundle, made once a session, and the program as a real child process.

With ``FMMTC_FORBID_SKIPS`` set, a skipped test fails: where everything it needs should be there, as in CI, a skip
is a check that was silently lost.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, which is no fault of what is tested. "steady", the default, draws the same examples each time:
# a suite that fails by luck teaches people to run it again. "random" draws others, and more where a test leaves their
# number open; .ci/long runs it, and a failure there prints what makes it happen again. Both say which they are, since
# where $CI is set a profile that does not is like "steady".
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("steady", derandomize=True, **_UNTIMED)
settings.register_profile("random", derandomize=False, max_examples=1000, print_blob=True, **_UNTIMED)
settings.load_profile("steady")

# Two workers of the tests on two cores: threads of small matrix products would only wait for each other.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# The kernels of the encoder of volumes are compiled once a session, and not by every worker.
if "NUMBA_CACHE_DIR" not in os.environ:
    _MACHINE_CODE = tempfile.TemporaryDirectory(prefix="fmmtc-tests-")  # gone with the process that made it
    os.environ["NUMBA_CACHE_DIR"] = _MACHINE_CODE.name

# A shell starts what runs in its background with Ctrl-C ignored, and every process below inherits that: then nothing
# that a test interrupts would end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_OWN = ("FMMTC_", "TEMPLATEFLOW_", "XDG_", "HF_")
_FORBID_SKIPS = "FMMTC_FORBID_SKIPS"


def _forbidding(report):
    if os.environ.get(_FORBID_SKIPS) and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which ${_FORBID_SKIPS} forbids. {reason}"
    return report


LONGEST = (
    *("test_endings.py", "test_demo.py", "report/test_in_browser.py", "test_end_to_end.py", "test_group_end_to_end.py"),
    *("test_imported_end_to_end.py", "learning/test_acceptance.py", "learning/learners/test_train.py"),
    *("learning/explaining/test_explain.py", "learning/judging/test_intervals.py", "report/group/test_page.py"),
    *("report/participant/test_page.py", "test_docs.py"),
)


def pytest_collection_modifyitems(items):
    """Start the files that take longest first, so that no worker is left alone with one of them at the end."""
    tests = Path(__file__).parent
    rank = {tests / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a worker whole files: what a file's tests share is made once then."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Report a skipped test as failed where skips are forbidden."""
    return _forbidding((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """Report a module that skips itself as failed where skips are forbidden."""
    return _forbidding((yield))


def pytest_sessionfinish():
    """End the process that tests fork, if there is one."""
    if "warm" in sys.modules:
        sys.modules["warm"].close()


@pytest.fixture(autouse=True)
def log_as_it_was():
    """Undo what a run in this process does to the program's log, so that no test sees how another left it."""
    log = logging.getLogger("bids_fmmtc")
    before = (log.level, log.handlers[:], log.propagate)
    yield
    log.setLevel(before[0])
    log.handlers[:], log.propagate = before[1:]


@pytest.fixture(scope="session")
def demo_atlas(tmp_path_factory):
    """Folder of the demo's atlas: 48 parcels on a 6 mm grid."""
    from bids_fmmtc.synthetic import write_atlas

    folder = tmp_path_factory.mktemp("shared") / "atlas-Demo"
    write_atlas(folder)
    return folder


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory, demo_atlas):
    """Folder of an untrained bundle, labelled as a demo, with its encoder; do not write into it."""
    from untrained import write_model

    folder = tmp_path_factory.mktemp("shared") / "model"
    write_model(folder, demo_atlas)
    return folder


@pytest.fixture
def clean_environ(tmp_path):
    """Environment in which the program finds no resources but its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    home = tmp_path / "home"
    home.mkdir()
    return kept | {"HOME": str(home)}


@pytest.fixture
def run_app(clean_environ, tmp_path):
    """Run ``python -m bids_fmmtc`` with words; returns the completed process with its output as text."""

    from patience import patience

    def run(*words, cwd=tmp_path, **environ):
        command = [sys.executable, "-m", "bids_fmmtc", *map(str, words)]
        return subprocess.run(
            command,
            env=clean_environ | environ,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=patience(120),
            check=False,
        )

    return run


@pytest.fixture
def run_warm(clean_environ, tmp_path):
    """As `run_app`, forked where all is imported: see `warm`."""
    import warm
    from patience import patience

    def run(*words, **environ):
        return warm.run([*map(str, words)], environ=clean_environ | environ, cwd=tmp_path, timeout=patience(120))

    return run


@pytest.fixture
def fmriprep(tmp_path):
    """Tiny fMRIPrep tree of two participants: names only, nothing that could be read as an image."""
    import json

    root = tmp_path / "fmriprep"
    for label in ("01", "02"):
        func = root / f"sub-{label}" / "func"
        func.mkdir(parents=True)
        for space in ("MNI152NLin6Asym_res-2", "MNI152NLin2009cAsym"):
            stem = f"sub-{label}_task-rest_space-{space}_desc-"
            for name in ("preproc_bold.nii.gz", "brain_mask.nii.gz"):
                (func / f"{stem}{name}").touch()
        (func / f"sub-{label}_task-rest_desc-confounds_timeseries.tsv").touch()
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "t", "BIDSVersion": "1.8.0", "GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.1.0"}]})
    )
    return Path(root)


@pytest.fixture
def server(monkeypatch):
    """HTTP server on the loopback, reached without a proxy."""
    from served import serving

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as httpd:
        yield httpd


@pytest.fixture
def dead_url():
    """Address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """Inputs of one synthetic participant with two runs: see `small.write_inputs`."""
    from small import write_inputs

    from bids_fmmtc.synthetic import Person

    root = tmp_path_factory.mktemp("two-runs")
    write_inputs(root, [Person("01", "north", True, 50, "F", 2)])
    return root


@pytest.fixture
def task(two_runs, tmp_path):
    """A features-only task on `two_runs`, writing to a folder of the test's own."""
    from bids_fmmtc import synthetic
    from bids_fmmtc.dataset.find.discover import Query, find_recordings
    from bids_fmmtc.recipe import Recipe
    from bids_fmmtc.settings import Task

    found = find_recordings([two_runs / "fmriprep"], Query(spaces=(synthetic.SPACE,)))
    return Task(
        subject="01",
        recordings=found.recordings,
        failures=(),
        recipe=Recipe.read(two_runs / "recipe.json"),
        output=tmp_path / "out",
        atlas=two_runs / "atlas-Demo",
        links={"fmriprep": two_runs / "fmriprep"},
    )
