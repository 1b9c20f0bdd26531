"""The last net of a program: whatever escapes becomes one line, a file with the traceback, and a documented code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from bids_fmmtc.errors import EXIT_IO, EXIT_SOFTWARE, FmmtcError, printable
from bids_fmmtc.interrupts import Interrupts, interrupted


class Stream:
    """A standard stream whose reader may go away: what cannot be written is dropped, and costs no work in hand."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        """Write, or drop."""
        with self._forgiving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        with self._forgiving():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiving(self) -> Any:
        try:
            yield
        except (OSError, ValueError):  # ValueError: closed
            self.lost = True
            with contextlib.suppress(OSError, ValueError):
                # What is buffered must go somewhere, or the interpreter complains at its end.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guarded(program: str, body: Callable[[], int], crash_folder: Callable[[], Path | None] = lambda: None) -> int:
    """Run a program; returns its exit code, whatever happens in it.

    Parameters
    ----------
    program
        Its name, for messages.
    body
        What it does; returns the exit code.
    crash_folder
        Where the traceback of what nobody foresaw goes; None for the system's folder of temporary files.

    Returns
    -------
    int
        As ``body``; the code of a `FmmtcError`; 128 and the signal's number; 74 for what the system refused, or a
        standard output that went away; 70 for a fault of the program. After a real signal the process ends here.
    """
    before = sys.stdout, sys.stderr
    _mend_streams(program)
    try:
        code = _caught(program, body, crash_folder)
        sys.stdout.flush()
        if Interrupts.over():
            # At once: callbacks at exit (Nipype's) import anew what the signal found half imported, and break on it.
            os._exit(code)
        return EXIT_IO if not code and getattr(sys.stdout, "lost", False) else code
    finally:
        sys.stdout.flush()
        if before[0] is not None and before[1] is not None:
            sys.stdout, sys.stderr = before


def _caught(program: str, body: Callable[[], int], crash_folder: Callable[[], Path | None]) -> int:
    try:
        with Interrupts():
            return body()
    except FmmtcError as error:
        complain(program, str(error))
        return error.exit_code
    except KeyboardInterrupt as stop:
        number = int(stop.args[0]) if stop.args else signal.SIGINT
        complain(program, interrupted(number))
        Interrupts.told = True
        return 128 + number
    except BrokenPipeError:
        return EXIT_IO
    except Exception as error:
        complain(program, f"{_told(error)}{_crash_file(program, crash_folder)}")
        return EXIT_IO if isinstance(error, OSError) else EXIT_SOFTWARE


def complain(program: str, text: str) -> None:
    """Print an error, on one line."""
    sys.stderr.write(f"{program}: error: {printable(text)}\n")
    sys.stderr.flush()


def _told(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "memory ran out. Give more, or ask for less at once."
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{text}."
    return f"{type(error).__name__}: {text}. This is a fault of the program; please report it."


def _crash_file(program: str, folder: Callable[[], Path | None]) -> str:
    """Write the traceback where it can be written, and say where."""
    text = traceback.format_exc().encode(errors="backslashreplace")
    for place in (folder(), None):
        with contextlib.suppress(OSError):
            descriptor, name = tempfile.mkstemp(".txt", f"crash-{program}-", place)
            with open(descriptor, "wb") as f:  # noqa: PTH123  (a descriptor, not a path)
                f.write(text)
            return f" Traceback: {name}"
    return ""


def _mend_streams(program: str) -> None:
    """Make standard streams that are there, take any text, and outlive their readers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Or the next file that is opened would be taken for the standard stream.
            os.open(os.devnull, os.O_RDWR)
    closed = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Stream):
            continue
        if stream is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (as long as the process lives)
        if hasattr(stream, "reconfigure"):
            # A name that is no UTF-8, or a terminal that is none.
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, cast("Any", Stream(stream)))
    if closed == ["stdout"]:
        sys.stderr.write(f"{program}: standard output is closed; what would be shown there is not.\n")
