"""The command line: every option as specified, every exit code by a real process."""

import logging
import os
import sys
from pathlib import Path

import pytest

from bids_fmmtc import __version__, cli
from bids_fmmtc.errors import MissingInputError, UsageError

BASE = ["/in", "/out", "participant"]


def parse(*words, **environ):
    return cli.parse([*BASE, *words], environ)


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ([], "participants", ()),
        (["--participant-label", "01"], "participants", ("01",)),
        (["--participant-label", "sub-01", "02"], "participants", ("01", "02")),
        (["--participant-label", "01,02", "03"], "participants", ("01", "02", "03")),
        (["--participant-label", "01", "--participant-label", "02"], "participants", ("01", "02")),
        (["--session-label", "a", "ses-b"], "sessions", ("a", "b")),
        ([], "tasks", ("rest",)),
        (["--task-id", "nback"], "tasks", ("nback",)),
        (["--task-label", "rest", "nback"], "tasks", ("rest", "nback")),
        (["--task-id", "task-rest"], "tasks", ("rest",)),
        ([], "spaces", ()),
        (["--space", "A", "B"], "spaces", ("A", "B")),
        (["--space", "space-A,B", "--space", "C"], "spaces", ("A", "B", "C")),
        (["--bids-filter-file", "f.json"], "filter_file", Path("f.json")),
        (["--bids-database-dir", "db"], "database_dir", Path("db")),
        (["--derivatives", "fp=/d", "/e"], "derivatives", (("fp", Path("/d")), (None, Path("/e")))),
        (["--derivatives", "/d", "--derivatives", "/e"], "derivatives", ((None, Path("/d")), (None, Path("/e")))),
        ([], "timeseries", None),
        (["--timeseries", "/s/../t"], "timeseries", Path("/t")),
        (["--timeseries", "/t", "--repetition-time", "2.5"], "repetition_time", 2.5),
        (["--dry-run"], "dry_run", True),
        (["--model", "m"], "model", Path("m")),
        (["--encoder-weights", "w"], "encoder_weights", Path("w")),
        (["--recipe", "r.json"], "recipe_file", Path("r.json")),
        (["--recipe", "./fmm_tc"], "recipe_file", Path("fmm_tc")),
        (["--recipe", "./fmm_tc"], "recipe_name", None),
        (["--recipe", "fmm_tc"], "recipe_name", "fmm_tc"),
        (["--recipe=fmm_tvc"], "recipe_name", "fmm_tvc"),
        (["--recipe", "fmm_tc"], "recipe_file", None),
        ([], "recipe_name", None),
        ([], "atlas", "A424"),
        ([], "atlas_given", False),
        (["--atlas", "X"], "atlas", "X"),
        (["--atlas", "A424"], "atlas_given", True),
        (["--on-space-mismatch", "fail"], "on_space_mismatch", "fail"),
        (["--device", "cpu"], "device", "cpu"),
        (["--random-seed", "7"], "seed", 7),
        ([], "nprocs", 1),
        (["--nprocs", "3"], "nprocs", 3),
        (["--n-cpus", "3"], "nprocs", 3),
        (["--n_cpus", "3"], "nprocs", 3),
        (["--n_procs=3"], "nprocs", 3),
        (["--nthreads", "3"], "nprocs", 3),
        (["--participant_label", "01", "02"], "participants", ("01", "02")),
        (["--participant_label=sub-a_b"], "participants", ("a_b",)),
        (["--session-id", "a"], "sessions", ("a",)),
        (["--mem_gb", "8"], "memory_gb", 8.0),
        (["--work_dir", "/x"], "work_dir", Path("/x")),
        (["-w/x_y"], "work_dir", Path("/x_y")),
        (["--bids_filter_file", "a_b.json"], "filter_file", Path("a_b.json")),
        (["--skip_bids_validation", "--participant-label", "a_b"], "participants", ("a_b",)),
        (["--omp-nthreads", "5"], "omp_nthreads", 5),
        (["--nprocs", "100000"], "omp_nthreads", 1),
        ([], "omp_nthreads", len(os.sched_getaffinity(0))),
        (["--mem", "1.5"], "memory_gb", 1.5),
        (["--mem-gb", "8"], "memory_gb", 8.0),
        (["-w", "/w/../x"], "work_dir", Path("/x")),
        (["--work-dir", "w"], "work_dir", Path.cwd() / "w"),
        (["--nipype-plugin-file", "p"], "plugin_file", Path("p")),
        (["--stop-on-first-crash"], "stop_on_first_crash", True),
        (["-v"], "verbose", 1),
        (["-vv"], "verbose", 2),
        (["--notrack", "--skip-bids-validation"], "command", "bids_fmmtc /in /out participant --notrack "
         "--skip-bids-validation"),
        (["--model", "a b"], "command", "bids_fmmtc /in /out participant --model 'a b'"),
    ],
)  # fmt: skip
def test_an_option_becomes_a_setting(words, field, value):
    assert getattr(parse(*words), field) == value


def test_places_become_absolute_and_keep_links(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = cli.parse(["link/in", "~/out", "participant"], {})
    assert settings.bids_dir == tmp_path / "link" / "in"
    assert settings.output_dir == Path.home() / "out"


@pytest.mark.parametrize("content", ["01 sub-02\n03", "01,sub-02,03\n", "01\r\nsub-02\r\n\r\n03\r\n",
                                     "# who\n01\n  #, sub-9\nsub-02, 03\n#04"])  # fmt: skip
def test_labels_are_read_from_a_file(tmp_path, content):
    path = tmp_path / "labels.txt"
    path.write_bytes(content.encode())
    assert parse("--participant-label", "00", f"@{path}").participants == ("00", "01", "02", "03")


def test_a_label_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(MissingInputError, match=r"none\.txt"):
        parse("--participant-label", f"@{tmp_path}/none.txt")
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="latin is not UTF-8"):
        parse("--participant-label", f"@{tmp_path}/latin")


def test_a_label_file_of_a_spreadsheet_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "labels").write_bytes(b"\xef\xbb\xbfsub-01\r\n02\r\n")
    assert parse("--participant-label", f"@{tmp_path}/labels").participants == ("01", "02")


def test_a_file_of_comments_holds_no_label(tmp_path):
    (tmp_path / "labels").write_text("# 01\n")
    with pytest.raises(UsageError, match="--participant-label holds no label"):
        parse("--participant-label", f"@{tmp_path}/labels")


@pytest.mark.parametrize(
    ("option", "prefix"),
    [("--participant-label", "sub-"), ("--session-label", "ses-"), ("--task-id", "task-"), ("--space", "space-")],
)
def test_a_prefix_alone_is_no_label(option, prefix):
    """``--participant-label sub-$LABEL`` with the variable unset."""
    for words in ([prefix], ["01", prefix], [f"01,{prefix}"]):
        with pytest.raises(UsageError, match=f"{option} {prefix} has no label after {prefix}"):
            parse(option, *words)


@pytest.mark.parametrize("option", ["--participant-label", "--session-label", "--task-id", "--space"])
@pytest.mark.parametrize("word", ["", " ", ","])
def test_an_empty_label_is_not_everybody(option, word):
    """``--participant-label "$LABEL"`` with the variable unset."""
    with pytest.raises(UsageError, match=f"{option} holds no label"):
        parse(option, word)


def test_a_derivative_needs_its_name():
    with pytest.raises(UsageError, match="name before = is empty"):
        parse("--derivatives", "=/d")


def test_a_repetition_time_is_that_of_series():
    with pytest.raises(UsageError, match="--repetition-time is for --timeseries only"):
        parse("--repetition-time", "2")


def test_the_environment_names_model_and_places(tmp_path):
    settings = parse(FMMTC_MODEL="/m", TEMPLATEFLOW_HOME="/tf", FMMTC_RESOURCES="/r", HOME="/h")
    assert settings.model == Path("/m")
    assert settings.resources == (Path("/r"), Path("/h/.cache/bids_fmmtc"), Path("/tf"))
    assert parse("--model", "/own", FMMTC_MODEL="/m").model == Path("/own")
    assert parse(FMMTC_MODEL="", TEMPLATEFLOW_HOME="").model is None


@pytest.mark.parametrize(
    "words",
    [
        ["--participant-label", "01", "02", "--", *BASE],
        ["--participant-label", "01", "02", "--nprocs", "2", *BASE],
        [*BASE, "--participant-label", "01", "02"],
        [*BASE[:2], "--participant-label", "01", "02", "--", "participant"],
        [BASE[0], "--dry-run", *BASE[1:], "--participant-label", "01", "02"],
    ],
)
def test_labels_leave_the_positions_alone(words):
    settings = cli.parse(words, {})
    assert (str(settings.bids_dir), str(settings.output_dir), settings.level) == tuple(BASE)
    assert settings.participants == ("01", "02")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--participant-label", "01", *BASE],  # swallowed
        [*BASE, "more"],
        [*BASE, "--nonsense"],
        [*BASE, "--part", "01"],  # no abbreviations
        [*BASE, "--participant-label"],
        [*BASE, "--nprocs", "0"],
        [*BASE, "--nprocs", "x"],
        [*BASE, "--omp-nthreads", "-1"],
        [*BASE, "--mem", "0"],
        [*BASE, "--mem", "nan"],
        [*BASE, "--mem", "much"],
        [*BASE, "--device", "tpu"],
        [*BASE, "--on-space-mismatch", "x"],
        [*BASE, "--random-seed", "1.5"],
        [*BASE, "--timeseries", "/t", "--repetition-time", "2500"],  # milliseconds
        [*BASE, "--timeseries", "/t", "--repetition-time", "x"],
    ],
)
def test_a_wrong_line_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(words, {})
    assert caught.value.code == 64
    assert "bids_fmmtc: error: " in capsys.readouterr().err


# in this process


@pytest.fixture
def level(monkeypatch):
    """Put a function in the place of the participant level."""
    environ = dict(os.environ)

    def put(function):
        monkeypatch.setitem(cli.LEVELS, "participant", f"{__name__}:_level")
        monkeypatch.setattr(sys.modules[__name__], "_level", function, raising=False)

    yield put
    os.environ.clear()
    os.environ.update(environ)


def test_interruption_and_a_closed_pipe_have_their_codes(level, capsys):
    def raising(error):
        def run(_):
            raise error

        return run

    level(raising(KeyboardInterrupt()))
    assert cli.main(BASE) == 130
    level(raising(BrokenPipeError()))
    assert cli.main(BASE) == 74
    level(raising(UsageError("it broke.", "Mend it.")))
    assert cli.main(BASE) == 64
    assert "bids_fmmtc: error: it broke. Mend it." in capsys.readouterr().err


def test_a_run_is_told_to_stay_offline_and_how_many_threads_to_use(level):
    level(lambda settings: 3)
    assert cli.main([*BASE, "--omp-nthreads", "2"]) == 3
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == os.environ["NIPYPE_NO_ET"] == "1"
    assert os.environ["TEMPLATEFLOW_AUTOUPDATE"] == "off"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"


def test_verbosity(monkeypatch):
    root, own = logging.getLogger(), logging.getLogger("bids_fmmtc")
    before = (root.level, root.handlers[:], own.level, own.handlers[:], own.propagate)
    try:
        levels = []
        for verbose in (0, 1, 2):
            cli.start_log(verbose)
            levels.append((own.level, root.level))
        assert levels == [(logging.INFO, root_level := before[0]), (logging.DEBUG, root_level), (logging.DEBUG,) * 2]
        assert len(own.handlers) == 1
    finally:
        root.level, root.handlers[:], own.level, own.handlers[:], own.propagate = before


# as a user runs it


def test_version_and_help(run_app):
    done = run_app("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"bids_fmmtc {__version__}\n", "")
    done = run_app("--help")
    assert done.returncode == 0
    assert "not a medical device" in done.stdout


@pytest.mark.slow
def test_dry_run_tells_what_would_run_and_writes_nothing(run_warm, fmriprep, tmp_path):
    func = fmriprep / "sub-02" / "func"
    for path in func.glob("*bold*"):
        path.rename(path.with_name(path.name.replace("MNI152NLin6Asym_res-2", "T1w").replace("2009cAsym", "x")))
    before = sorted((p, p.lstat().st_mtime_ns) for p in tmp_path.rglob("*"))
    done = run_warm(fmriprep, tmp_path / "out", "participant", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    image = "sub-01_task-rest_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    assert lines[0] == "sub-01"
    assert lines[1].startswith("run sub-01_task-rest space-MNI152NLin6Asym res-2")
    assert lines[1].endswith(image)
    assert lines[2].startswith("skip sub-01_task-rest_space-MNI152NLin2009cAsym")
    assert lines[3] == "sub-02"
    assert lines[4].startswith("fail sub-02_task-rest space: ")
    assert lines[-2] == "2 participants: 1 recordings would run, 1 cannot; nothing was written."
    assert lines[-1].startswith("No weights of brainlm were found: connectivity only.")
    assert sorted((p, p.lstat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_exit_codes(run_warm, fmriprep, tmp_path, demo_atlas, demo_bundle):
    out = tmp_path / "out"
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text('{"windows": {"lenght": 1}}')
    broken = tmp_path / "bundle"
    broken.mkdir()
    (broken / "bundle.json").write_bytes((demo_bundle / "bundle.json").read_bytes()[:-9])
    atlas = tmp_path / "atlas-Demo"
    atlas.mkdir()
    for path in demo_atlas.iterdir():  # in a space the tree has
        (atlas / path.name.replace("MNI152NLin2009aSym", "MNI152NLin6Asym")).write_bytes(path.read_bytes())

    def complains(code, *words, text=""):
        done = run_warm(*words)
        assert done.returncode == code, (words, done.stderr)
        assert text in done.stderr
        assert "Traceback" not in done.stderr
        assert not out.exists()

    complains(64, fmriprep, out)
    complains(64, fmriprep, out, "participant", "--nprocs", "0", text="positive")
    complains(64, fmriprep, fmriprep, "participant", "--atlas", atlas, text="lies in the input dataset")
    complains(17, fmriprep, out, "cohort", text="unknown analysis level 'cohort'; known: participant, group")
    complains(66, fmriprep, out, "group", text="run participant first")
    complains(16, tmp_path / "empty", out, "participant", "--dry-run", text="no fMRIPrep output")
    label = ("participant", "--dry-run", "--participant-label")
    complains(18, fmriprep, out, *label, "03", text="No participant 03")
    complains(18, fmriprep, out, *label, "1", text="found 01, 02")
    complains(18, fmriprep, out, "participant", "--dry-run", "--task-id", "nback", text="tasks rest")
    complains(66, tmp_path / "none", out, "participant", "--dry-run", text="none does not exist")
    complains(66, fmriprep, out, "participant", text="atlas A424 is not on this machine")
    recipe = ("participant", "--dry-run", "--recipe")
    complains(65, fmriprep, out, *recipe, tmp_path / "broken.json", text="unknown field lenght")
    complains(65, fmriprep, out, "participant", "--dry-run", "--model", broken, text="bundle.json")
    below = tmp_path / "file" / "out"
    complains(73, fmriprep, below, "participant", "--atlas", atlas, text=f"cannot write {below}")
    complains(73, fmriprep, tmp_path / "file", "participant", "--atlas", atlas, text="cannot write")
