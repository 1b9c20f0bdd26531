"""How a run ends before its time: signals end all of it, and no process outlives the one it works for.

A signal is remembered, so that code which swallows the exception it raises (Nipype, destructors) only delays the end; a
thread waits for that end and makes it, where the main thread hangs in a computation that no signal interrupts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 3.5
"""From a signal to the hard end; an orderly end takes a fraction of a second."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; carries its number.

    A class of its own, since Python remembers a plain `KeyboardInterrupt` that left a string being executed (as the
    making of a dataclass is), and kills itself with SIGINT at its end whatever the exit code is to be.
    """


class Interrupts:
    """While a block runs, SIGINT, SIGTERM and SIGHUP raise `Interrupted`, once.

    What was ignored stays ignored (``nohup``). Blocks may lie in each other: the outermost one counts. After a signal
    the process ends within `GRACE_SECONDS`, in order or not.
    """

    caught: ClassVar[int | None] = None
    told: ClassVar[bool] = False
    """Whether the user was told of the signal."""
    _active: ClassVar[bool] = False
    _holds: ClassVar[int] = 0

    def __enter__(self) -> Interrupts:
        cls = type(self)
        # Python takes signals in its main thread only.
        self._outermost = not cls._active and threading.current_thread() is threading.main_thread()
        if self._outermost:
            cls._active, cls.caught, cls.told = True, None, False
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            os.set_blocking(self._read, True)
            threading.Thread(target=self._watch, args=(self._read,), daemon=True).start()
            heard = [s for s in STOPPING if signal.getsignal(s) is not signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._handle) for s in heard}
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        if not self._outermost:
            return
        signal.set_wakeup_fd(self._wakeup)
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._write)  # the watching thread ends, unless a signal was caught
        type(self)._active = False

    @classmethod
    def _handle(cls, number: int, _: object) -> None:
        if cls.caught is None:
            cls.caught = number
            if not cls._holds:
                raise Interrupted(number)

    def _unraisable(self, found: sys.UnraisableHookArgs) -> None:
        """Say nothing of an interrupt that fell into a destructor: it is remembered, and the end comes."""
        if not issubclass(found.exc_type, Interrupted):
            self._hook(found)

    @classmethod
    def _watch(cls, source: int) -> None:
        """End the process if the main thread has not done so some time after a signal."""
        number = 0
        while number not in STOPPING:
            data = os.read(source, 1)
            if not data:
                os.close(source)
                return
            number = data[0]
        threading.Event().wait(GRACE_SECONDS)
        if not cls.told:
            with suppress(OSError):
                os.write(2, f"bids_fmmtc: error: {interrupted(number)}\n".encode())
        os._exit(128 + number)

    @classmethod
    def over(cls) -> bool:
        """Tell whether a signal ended the outermost block."""
        return cls.caught is not None and not cls._active

    @classmethod
    def raise_again(cls) -> None:
        """Raise the interrupt if one was caught.

        Raises
        ------
        Interrupted
            With the signal's number.
        """
        if cls.caught is not None:
            raise Interrupted(cls.caught)

    @classmethod
    @contextmanager
    def held(cls) -> Iterator[None]:
        """Put an interrupt off to the end of a block that must not be left half done: a process being started.

        Raises
        ------
        Interrupted
            At the end, if a signal was caught.
        """
        cls._holds += 1
        try:
            yield
        finally:
            cls._holds -= 1
        cls.raise_again()

    @classmethod
    def leave_to(cls, parent: int) -> None:
        """Make a forked process a worker: it ends with ``parent`` and on a plain SIGTERM, and leaves Ctrl-C to that."""
        end_with(parent)
        signal.set_wakeup_fd(-1)  # the pipe is the parent's
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        if cls.caught is not None:  # between the fork and here
            os._exit(128 + cls.caught)
        cls._holds = 0


def interrupted(number: int) -> str:
    """Say that a signal ended the run."""
    return f"interrupted by {signal.Signals(number).name}. The same command goes on where this one ended."


def end_with(parent: int) -> None:
    """Have Linux kill this process when the one that waits for it is gone, so that no orphan goes on writing.

    Parameters
    ----------
    parent
        Number of that process. If it is gone already, this one ends here: nobody would tell it later.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
