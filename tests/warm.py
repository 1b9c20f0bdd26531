"""The program in a fork of a process that has imported it: what `small.run_fresh` does, without its seconds of imports.

For tests whose point is what a run does, not how its processes start and end. A run is a process of its own, and so is
every participant of it, with streams, signals, log and open files as a fresh one has them. One thing is not as in fresh
ones: all share the seed of Python's hashes. So bytes that must be the same again are compared with those of
`small.run_fresh`.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

MAIN = "import sys; from bids_fmmtc.cli import main; sys.exit(main())"
PARTICIPANT = ["-m", "bids_fmmtc.participant_process"]
NEEDED = (
    *("bids_fmmtc.run", "bids_fmmtc.workflow", "bids_fmmtc.report.participant.page", "bids.layout.models"),
    *("matplotlib.backends.backend_svg", "scipy.ndimage", "scipy.sparse"),
)
WITH_TORCH = (
    *("torch", "bids_fmmtc.modalities.brainlm", "bids_fmmtc.modalities.neurostorm_kernels"),
    "bids_fmmtc.learning.bundle.predict",
)
CACHES = ("MPLCONFIGDIR", "NUMBA_CACHE_DIR")  # of the server, for all its forks: fonts, compiled kernels


class _Server:
    """The process that is forked; started with the first run, ended with the tests."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | dict.fromkeys(CACHES, self._folder.name),
        )  # fmt: skip

    def run(self, request: dict[str, object], timeout: float) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        out, err = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        line = json.dumps(request | {"stdout": str(out), "stderr": str(err)})
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            self._process.kill()
            raise subprocess.TimeoutExpired(str(request), timeout)
        return int(self._process.stdout.readline()), out.read_text(), err.read_text()

    def close(self) -> None:
        """End it and wait, so that what it used counts as the tests'."""
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


_SERVERS: list[_Server] = []


def run(
    words: list[str], *, code: str = MAIN, environ: dict[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run code with these words as its arguments; ``environ`` is the whole environment."""
    if "COVERAGE_PROCESS_CONFIG" in os.environ:  # whose counting follows fresh processes only
        line = [sys.executable, "-c", code, *words]
        return subprocess.run(
            line, env=environ, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False
        )  # fmt: skip
    if not _SERVERS:
        _SERVERS.append(_Server())
    torch = code != MAIN or bool({"--model", "--encoder-weights", "group"} & {*words})
    request = {"code": code, "words": words, "environ": environ, "cwd": str(cwd), "torch": torch}
    return subprocess.CompletedProcess(words, *_SERVERS[0].run(request, timeout))


def close() -> None:
    """End the server, if there is one."""
    while _SERVERS:
        _SERVERS.pop().close()


# ------------------------------------------------------------------------------------------------------- in the server


def serve() -> None:
    """Fork for every request, and answer with the exit code."""
    answers = os.dup(1)
    os.dup2(2, 1)
    for name in NEEDED:
        import_module(name)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        for name in WITH_TORCH if request["torch"] else ():
            import_module(name)
        child = os.fork()
        if not child:
            _leave(_run, request)
        _, status = os.waitpid(child, 0)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _leave(body, *given) -> None:
    """Run what a process is for, and end it as the interpreter would; never returns."""
    try:
        body(*given)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _streams(stdout: int, stderr: int, kept: tuple[int, ...] = ()) -> None:
    """Give the process these as its standard streams, no standard input, and close what else is open."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for place, source in enumerate((nothing, stdout, stderr)):
        os.dup2(source, place, inheritable=True)
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > 2 and int(entry.name) not in kept:
            try:
                os.close(int(entry.name))
            except OSError:  # the folder that was listed
                continue
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (descriptors)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def _run(request: dict[str, object]) -> None:
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    _streams(*(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")))
    sys.argv = ["bids_fmmtc", *request["words"]]
    workflow = sys.modules["bids_fmmtc.workflow"]
    workflow.subprocess = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL)
    exec(request["code"], {"__name__": "__main__"})


class Forked:
    """A participant's process as `workflow` starts it, but forked."""

    def __init__(self, command, *, stdin, stdout, stderr, start_new_session, pass_fds) -> None:
        assert command[:3] == [sys.executable, *PARTICIPANT]
        assert (stdin, start_new_session) == (subprocess.DEVNULL, True)
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            _streams(stdout, stderr, (*pass_fds,))
            _leave(_participant, command[3:])

    def wait(self) -> int:
        """Wait for its end; returns its exit code."""
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)


def _participant(arguments: list[str]) -> None:
    from bids_fmmtc.interrupts import Interrupts
    from bids_fmmtc.participant_process import main

    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = sys.__unraisablehook__
    Interrupts.caught, Interrupts.told, Interrupts._active, Interrupts._holds = None, False, False, 0
    log = logging.getLogger("bids_fmmtc")
    log.handlers[:], log.propagate = [], True
    log.setLevel(logging.NOTSET)
    sys.argv = [PARTICIPANT[1], *arguments]
    raise SystemExit(main(arguments))


if __name__ == "__main__":
    serve()
