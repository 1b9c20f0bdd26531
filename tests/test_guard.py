"""The last net, as real programs with real streams."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

from bids_fmmtc.errors import UsageError
from bids_fmmtc.guard import guarded

HEAD = "import os, sys, signal\nfrom bids_fmmtc.guard import guarded\n"


def shell(body, tail="", **environ):
    """Run a program through the shell, that closes and pipes as a user does."""
    code = HEAD + body + "\nsys.exit(guarded('it', main))"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {tail}', sys.executable, code],
        capture_output=True, text=True, timeout=patience(60), check=False, env=os.environ | environ,
    )  # fmt: skip


def raising(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("it broke.", "Mend it."), 64, "it: error: it broke. Mend it.\n"),
        (ZeroDivisionError("by\nnothing"), 70, "it: error: ZeroDivisionError: by nothing. This is a fault"),
        (RecursionError(), 70, "RecursionError"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"), 70, "UnicodeEncodeError"),
        (MemoryError(), 70, "memory ran out"),
        (PermissionError(13, "Permission denied", "/x"), 74, "Permission denied: '/x'."),
        (KeyboardInterrupt(), 130, "interrupted by SIGINT"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "interrupted by SIGTERM"),
        (BrokenPipeError(), 74, ""),
    ],
)
def test_whatever_escapes_is_one_line_and_a_code(error, code, words, capsys, tmp_path):
    assert guarded("it", raising(error), lambda: tmp_path) == code
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == (words != "")
    files = list(tmp_path.iterdir())
    foreseen = isinstance(error, UsageError | KeyboardInterrupt | BrokenPipeError)
    assert len(files) == (not foreseen)
    for file in files:
        assert f"Traceback: {file}\n" in told
        assert "Traceback (most recent call last)" in file.read_text()


def test_a_crash_file_that_cannot_go_where_it_should_goes_elsewhere(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded("it", raising(ValueError("x")), lambda: tmp_path / "none") == 70
    (file,) = tmp_path.iterdir()
    assert str(file) in capsys.readouterr().err
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert guarded("it", raising(ValueError("x"))) == 70
    assert capsys.readouterr().err.endswith("please report it.\n")


def test_a_code_is_handed_on_and_streams_come_back(capsys):
    before = sys.stdout, sys.stderr
    assert guarded("it", lambda: 3) == 3
    assert (sys.stdout, sys.stderr) == before


WORK = "def main():\n for i in range(30000): sys.stdout.write('line\\n')\n sys.stderr.write('at work\\n')\n"
WORK += " open(os.environ['DONE'], 'w').write('done'); return 0"


@pytest.mark.parametrize(
    ("tail", "code", "told"),
    [
        ("| true", 74, "at work\n"),
        ("| head -n 1", 74, "at work\n"),
        (">&-", 0, "it: standard output is closed; what would be shown there is not.\nat work\n"),
        ("2>&- >/dev/null", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (">/dev/full", 74, "at work\n"),
        ("2>/dev/full >/dev/null", 0, ""),
    ],
)
def test_a_reader_that_goes_away_costs_no_work(tail, code, told, tmp_path):
    done = shell(WORK, tail, DONE=str(tmp_path / "done"))
    assert (done.returncode, done.stderr) == (code, told)
    assert (tmp_path / "done").read_text() == "done"


def test_a_file_opened_later_does_not_become_the_closed_standard_stream(tmp_path):
    body = "def main():\n f = open(os.environ['DONE'], 'w'); os.write(1, b'x'); os.write(2, b'x'); f.close(); return 0"
    assert shell(body, ">&- 2>&-", DONE=str(tmp_path / "done")).returncode == 0
    assert (tmp_path / "done").read_bytes() == b""


def test_text_that_the_stream_cannot_hold_is_escaped():
    done = shell("def main(): print('\\udcff \\u4e2d'); return 0", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\udcff \\u4e2d\n", "")


def test_a_signal_ends_the_process_before_callbacks_that_may_break():
    """An import that the signal cut short is tried again by a callback at exit, and fails in strange ways."""
    body = "import atexit\natexit.register(lambda: 1 / 0)\n"
    body += "def main():\n sys.stdout.write('shown'); os.kill(os.getpid(), signal.SIGTERM)\n while True: signal.pause()"
    done = shell(body)
    assert (done.returncode, done.stdout) == (143, "shown")
    assert done.stderr == "it: error: interrupted by SIGTERM. The same command goes on where this one ended.\n"


def test_a_program_in_a_program_is_told_of_the_signal():
    body = "def inner(): os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
    body += "def main():\n code = guarded('inner', inner); print('inner ended with', code); return code"
    done = shell(body)
    assert (done.returncode, done.stdout) == (143, "inner ended with 143\n")
    assert done.stderr.startswith("inner: error: interrupted by SIGTERM.")


def test_programs_have_it(tmp_path):
    """A home folder that cannot be, a folder that cannot be read: no traceback from any of the three."""
    (tmp_path / "file").touch()
    for module, words in (
        ("bids_fmmtc", [b"\xff", str(tmp_path / "out"), "participant"]),
        ("bids_fmmtc", [str(tmp_path), str(tmp_path / "out\udcff"), "group"]),
        ("bids_fmmtc.demo", [str(tmp_path / "file" / "demo")]),
        ("bids_fmmtc.demo", [str(tmp_path / "file")]),
        ("bids_fmmtc.fetch", ["atlas", "--from", str(tmp_path / "file"), "--cache", str(tmp_path / "file")]),
    ):
        done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
        assert done.returncode not in (0, 1), (module, words)
        assert "Traceback (" not in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()
    assert Path(tmp_path / "file").read_bytes() == b""
