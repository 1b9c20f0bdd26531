"""Ends, by real signals to real processes: in order, late, while something is being started, and of parents."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import patience

from bids_fmmtc import interrupts
from bids_fmmtc.interrupts import STOPPING, Interrupts, interrupted

# A suite that was started with nohup ignores SIGHUP, and so would every process below.
HEAD = "import os, signal, sys, time\nfrom bids_fmmtc.interrupts import Interrupts, end_with\n"
HEAD += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"


def program(body):
    """Start a program; returns it once it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline()
    return process


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_an_interrupt_that_carries_its_number(number):
    body = "try:\n with Interrupts():\n  print('ready', flush=True); time.sleep(60)\n"
    process = program(body + "except KeyboardInterrupt as stop:\n Interrupts.told = True; sys.exit(int(stop.args[0]))")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=patience(30))
    assert (process.returncode, stderr) == (number, "")


def test_the_exit_code_of_a_module_holds_although_a_string_was_being_executed(tmp_path):
    """As when a dataclass is made: Python, run with -m, would end itself with SIGINT, whatever the code."""
    body = "try:\n with Interrupts():\n  exec('os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)')\n"
    body += "except KeyboardInterrupt: Interrupts.told = True; sys.exit(7)"
    (tmp_path / "module.py").write_text(HEAD + body)
    done = subprocess.run([sys.executable, "-m", "module"], cwd=tmp_path, timeout=patience(60), check=False)
    assert done.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_was_ignored_stays_ignored(number):
    """``nohup``, and jobs that a shell puts into the background."""
    body = f"signal.signal({int(number)}, signal.SIG_IGN)\nwith Interrupts():\n print('ready', flush=True)\n"
    body += " sys.stdin.readline(); print('still here')"
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(number)
    stdout, _ = process.communicate("\n", timeout=patience(30))
    assert (process.returncode, stdout) == (0, "still here\n")


def test_code_that_swallows_the_interrupt_only_delays_the_end():
    body = "with Interrupts():\n try:\n  print('ready', flush=True); time.sleep(60)\n except BaseException: pass\n"
    body += " try:\n  Interrupts.raise_again()\n except KeyboardInterrupt as stop: os._exit(int(stop.args[0]))"
    process = program(body)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=patience(30))
    assert process.returncode == signal.SIGTERM


def test_a_main_thread_that_does_not_come_back_is_ended_with_one_line():
    """A long call into a library; here one that takes the interrupt and goes on."""
    body = "with Interrupts():\n ready = False\n while True:\n  try:\n"
    body += "   if not ready: ready = True; os.write(1, b'.\\n')\n   time.sleep(60)\n  except: pass"
    process = program(body)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=patience(60))
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr == f"bids_fmmtc: error: {interrupted(signal.SIGTERM)}\n"
    assert time.monotonic() - begin >= interrupts.GRACE_SECONDS


def test_an_interrupt_that_falls_into_a_destructor_is_not_lost_and_not_shown():
    body = "class Held:\n def __del__(self): os.write(1, b'.\\n'); time.sleep(60)\n"
    body += "with Interrupts():\n held = Held(); del held\n try: Interrupts.raise_again()\n"
    body += " except KeyboardInterrupt: os._exit(5)"
    process = program(body)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=patience(30))
    assert (process.returncode, stderr) == (5, "")


def test_an_interrupt_is_put_off_while_something_is_started():
    body = "try:\n with Interrupts():\n  with Interrupts.held():\n   print('ready', flush=True); time.sleep(.3); "
    body += "os.write(1, b'whole ')\n  os.write(1, b'never')\nexcept KeyboardInterrupt: os._exit(3)"
    process = program(body)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=patience(30))
    assert (process.returncode, stdout) == (3, "whole ")


def test_blocks_in_each_other_are_one_and_handlers_come_back():
    before = {s: signal.getsignal(s) for s in STOPPING}
    with Interrupts():
        inner = {s: signal.getsignal(s) for s in STOPPING}
        assert inner != before
        with Interrupts():
            pass
        assert {s: signal.getsignal(s) for s in STOPPING} == inner
    assert {s: signal.getsignal(s) for s in STOPPING} == before
    Interrupts.raise_again()


def gone(pid):
    deadline = time.monotonic() + patience(20)
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_process_ends_with_its_parent():
    # The child tells, not its parent: killed before the child has asked, that would be the next test's case.
    body = "parent = os.getpid()\nif not os.fork(): end_with(parent); print(os.getpid(), flush=True)\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", HEAD + body], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert gone(child)


def test_a_process_whose_parent_is_gone_already_ends_at_once():
    # The middle process ends before its child looks; an orphan would be told of nobody's end.
    body = "parent = os.getpid()\nif os.fork(): os._exit(0)\n"
    body += "while os.getppid() == parent: time.sleep(.01)\nend_with(parent); print('went on', flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", HEAD + body], stdout=subprocess.PIPE, text=True, timeout=patience(60), check=False
    )  # waits for the orphan too, which holds standard output
    assert done.stdout == ""


def test_a_forked_worker_leaves_ctrl_c_to_its_parent_and_ends_on_sigterm():
    body = "with Interrupts():\n me = os.getpid(); child = os.fork()\n if not child:\n"
    body += "  Interrupts.leave_to(me); print('ready', os.getpid(), flush=True)\n  while True: time.sleep(60)\n"
    body += " _, status = os.waitpid(child, 0); print(os.waitstatus_to_exitcode(status), Interrupts.caught)"
    process = subprocess.Popen([sys.executable, "-c", HEAD + body], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline().split()[1])
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGTERM)
    stdout, _ = process.communicate(timeout=patience(30))
    assert stdout == f"{-signal.SIGTERM} None\n"  # and its signals were not taken for the parent's
    assert process.returncode == 0
