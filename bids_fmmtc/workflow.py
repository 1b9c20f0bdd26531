"""Nipype, kept thin: one node a participant, whose interface starts one child process and waits for it.

A child that is killed (out of memory, mostly) becomes a row like any other failure, and the pool of workers never
notices; with work inside the worker itself a kill would break the pool (Nipype 1.11).
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from nipype.pipeline import engine as pe
from nipype.pipeline import plugins
from nipype.pipeline.plugins.multiproc import process_initializer

from bids_fmmtc.dataset.store import write_json
from bids_fmmtc.errors import FmmtcError, UsageError
from bids_fmmtc.interrupts import STOPPING, Interrupts
from bids_fmmtc.participant import record_lost
from bids_fmmtc.plain import to_json
from bids_fmmtc.rows import Report, read_report
from bids_fmmtc.settings import read_task
from bids_fmmtc.types import Failure
from bids_fmmtc.work import lock, open_own

log = logging.getLogger("bids_fmmtc")

POLL_SECONDS = 0.1  # Nipype's default of 2 s would cost one second a participant
SIGNAL_SECONDS = 0.5  # by which signals to the processes of one job may be apart
END_SECONDS = 2.0  # for killed processes to be gone, of which a disk may hold one up
POOLS = 3  # a pool that lost a worker is replaced this many times less one


@dataclass(frozen=True, slots=True)
class Job:
    """One participant's place in the work folder, and the memory its process may need."""

    subject: str
    folder: Path
    memory_gb: float

    @property
    def task_file(self) -> Path:
        """What the child is to do."""
        return self.folder / "task.json"

    @property
    def partial_file(self) -> Path:
        """What the child has done so far."""
        return self.folder / "partial.json"

    @property
    def report_file(self) -> Path:
        """The final report; there once the participant is through, however it ended."""
        return self.folder / "report.json"

    @property
    def log_file(self) -> Path:
        """What the child printed."""
        return self.folder / "log.txt"


def run_child(job: Job) -> Report:
    """Start the child process of a participant, wait, and return its report; a killed child has one too.

    The report is completed and stored in ``job.report_file`` in any case. Another run that works on the same
    participant in the same work folder is waited for.

    Raises
    ------
    KeyboardInterrupt
        The run was interrupted; the participant has no report then and is taken up again by the next run.
    """
    Interrupts.raise_again()
    with lock(job.folder / "lock") as held:
        job.partial_file.unlink(missing_ok=True)
        code = _wait_for_child(job, held)
        if -code in STOPPING:
            time.sleep(SIGNAL_SECONDS)  # a batch system signals all processes of a job, this one perhaps a little later
        Interrupts.raise_again()
        report = read_report(job.partial_file) or Report(job.subject)
        if not report.complete:
            task = read_task(job.task_file)
            report = record_lost(task, report, _lost(task.subject, code, job.log_file))
        write_json(job.report_file, to_json(report))
    return report


def _wait_for_child(job: Job, held: int) -> int:
    """Start the child, wait, and return its exit code; whatever ends the wait ends the child first.

    The child holds the participant's lock, and the end of the pool's pipe, for as long as it lives.
    """
    command = [sys.executable, "-m", "bids_fmmtc.participant_process", str(job.task_file), str(job.partial_file)]
    child: subprocess.Popen[bytes] | None = None
    out = open_own(job.log_file, os.O_WRONLY)
    try:
        os.ftruncate(out, 0)
        with Interrupts.held():
            child = subprocess.Popen(
                [*command, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C in a terminal reaches us, and we end the child
                pass_fds=[held, *SurePool.alive],
            )
        return child.wait()
    finally:
        os.close(out)
        if child is not None and child.returncode is None:
            child.kill()
            child.wait()


def _lost(subject: str, code: int, log_file: Path) -> Failure:
    """Say how a child ended that left no complete report."""
    key = f"sub-{subject}"
    if code < 0:
        name = signal.Signals(-code).name
        return Failure(
            key,
            "process",
            "killed",
            f"its process was killed by {name}.",
            "Most often memory ran out: give fewer --nprocs, or more memory.",
        )
    lines = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it printed nothing"
    return Failure(key, "process", "crashed", f"its process ended with code {code}: {last}.", f"See {log_file}.")


class _SubjectInput(BaseInterfaceInputSpec):  # type: ignore[misc]
    folder = traits.Str(mandatory=True, desc="folder of the participant's task")
    subject = traits.Str(mandatory=True, desc="label without sub-")
    stop = traits.Bool(desc="raise when anything fails", default_value=False, usedefault=True)


class _SubjectOutput(TraitedSpec):  # type: ignore[misc]
    report = File(desc="the participant's report")


class ProcessSubject(SimpleInterface):  # type: ignore[misc]
    """Run one participant in a child process."""

    input_spec = _SubjectInput
    output_spec = _SubjectOutput

    def _run_interface(self, runtime: Any) -> Any:
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid is not None:
            # A worker of a plugin that is not ours, perhaps by way of a server of forks; ours has done so.
            Interrupts.leave_to(os.getppid() if parent.is_alive() else parent.pid)
        job = Job(self.inputs.subject, Path(self.inputs.folder), 0)
        report = run_child(job)
        if self.inputs.stop and not report.succeeded:
            raise FmmtcError(f"sub-{job.subject} failed; stopping as --stop-on-first-crash asks.")
        self._results["report"] = str(job.report_file)
        return runtime


class _PoolLostError(BaseException):
    """The pool lost a worker. Not an `Exception`, since Nipype catches those and goes on waiting."""


class SurePool(plugins.MultiProcPlugin):  # type: ignore[misc]
    """Nipype's MultiProc with an end: it does not wait for ever when a worker is killed (nipype#2548), but says so.

    Parameters
    ----------
    plugin_args
        Nipype's; ``n_procs`` is a number of processors, not of processes.
    threads
        Processors a participant occupies.
    """

    pool: ProcessPoolExecutor
    alive: ClassVar[tuple[int, ...]] = ()
    """In a worker: the descriptor that it and its children hold open while they live."""

    def __init__(self, plugin_args: Mapping[str, Any] | None = None, threads: int = 1) -> None:
        # A node that asks for more than there is runs alone rather than not at all.
        super().__init__(plugin_args={"raise_insufficient": False, **(plugin_args or {})})
        self.pool.shutdown(wait=False)  # Nipype's: a process for each processor, that knows no parent; none runs yet
        self._gone, self._held = os.pipe()
        self.pool = ProcessPoolExecutor(
            max_workers=max(1, self.processors // threads),
            mp_context=multiprocessing.get_context("fork"),
            initializer=_become_worker,
            initargs=(os.getpid(), self._held, self._cwd),
        )
        self._lost = False

    def __enter__(self) -> SurePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.pool.shutdown(wait=True, cancel_futures=True)  # participants that run are let come to their end
        else:
            self.end()
        os.close(self._held)
        os.close(self._gone)

    def end(self) -> None:
        """Kill the workers, with whom their children die, and wait until none of them can write any more."""
        for worker in list((self.pool._processes or {}).values()):
            worker.kill()
        os.close(self._held)
        select.select([self._gone], [], [], END_SECONDS)  # its end is seen when nobody holds the other end
        self._held = os.open(os.devnull, os.O_RDONLY)

    def _submit_job(self, node: Any, updatehash: bool = False) -> Any:  # noqa: FBT001, FBT002  (Nipype's)
        with Interrupts.held():  # the first job starts the workers
            return super()._submit_job(node, updatehash)

    def _async_callback(self, args: Future[Any]) -> None:
        try:
            super()._async_callback(args)
        except (BrokenProcessPool, CancelledError):
            self._lost = True

    def _get_result(self, taskid: int) -> Any:
        result = super()._get_result(taskid)
        if result is None and self._lost:
            raise _PoolLostError
        return result


def _become_worker(parent: int, alive: int, folder: str) -> None:
    """Set up a process of the pool, which has not done anything yet."""
    Interrupts.leave_to(parent)
    SurePool.alive = (alive,)
    process_initializer(folder)


def build_workflow(jobs: Sequence[Job], base: Path, threads: int, *, stop: bool) -> Any:
    """Return the graph: one node a participant, no edges, no conditions."""
    workflow = pe.Workflow(name="bids_fmmtc", base_dir=str(base))
    for job in jobs:
        interface = ProcessSubject(folder=str(job.folder), subject=job.subject, stop=stop)
        # What need not run again was left out before; a node that is here does run.
        node = pe.Node(interface, name=f"sub_{job.subject}", mem_gb=job.memory_gb, n_procs=threads, overwrite=True)
        workflow.add_nodes([node])
    return workflow


def run_jobs(jobs: Sequence[Job], base: Path, plugin: Mapping[str, Any], threads: int, *, stop: bool) -> str:
    """Run the graph; whatever happens to workers, returns, and leaves reports of the jobs that ended.

    Parameters
    ----------
    jobs
        Participants to run.
    base
        Folder for Nipype's own files.
    plugin
        ``plugin`` and ``plugin_args`` as Nipype's ``run`` takes them.
    threads
        Processors each job occupies.
    stop
        Start no further participant once one has failed.

    Returns
    -------
    str
        Why the scheduler ended before its time, on one line; empty if it did not.

    Raises
    ------
    KeyboardInterrupt
        The run was interrupted by a signal, whose number it carries.
    """
    _configure(base, stop=stop)
    problem = ""
    with Interrupts():
        for _ in range(POOLS):
            Interrupts.raise_again()
            waiting = [job for job in jobs if not job.report_file.exists()]
            if not waiting:
                return ""
            lost, problem = _run_once(waiting, base, plugin, threads, stop=stop)
            if not lost:
                break
            log.warning("A worker was killed; starting another pool for the participants that are not done.")
    return problem


def check_plugin(name: str) -> None:
    """Refuse a plugin that Nipype does not have.

    Raises
    ------
    UsageError
        Names those it has.
    """
    known = sorted(n.removesuffix("Plugin") for n in dir(plugins) if n.endswith("Plugin"))
    if name not in known:
        raise UsageError(f"Nipype has no plugin {name!r}; it has {', '.join(known)}.", "Correct the plugin file.")


def _configure(base: Path, *, stop: bool) -> None:
    nipype_config.update_config(
        {
            "logging": {"workflow_level": "CRITICAL", "interface_level": "CRITICAL", "utils_level": "ERROR"},
            "execution": {
                "crashdump_dir": str(base),
                "crashfile_format": "txt",
                "create_report": "false",
                "hash_method": "timestamp",
                "poll_sleep_duration": str(POLL_SECONDS),
                "stop_on_first_crash": "true" if stop else "false",
                "stop_on_first_rerun": "false",
                "remove_unnecessary_outputs": "false",
                "check_version": "false",
            },
        }
    )
    nipype_logging.update_logging(nipype_config)


def _run_once(
    jobs: Sequence[Job], base: Path, plugin: Mapping[str, Any], threads: int, *, stop: bool
) -> tuple[bool, str]:
    """Run the graph once; tell whether the pool was lost on the way, and what else went wrong."""
    workflow = build_workflow(jobs, base, threads, stop=stop)
    arguments = dict(plugin.get("plugin_args") or {})
    # Every scheduling round collects garbage over all imported objects; frozen ones are passed by.
    gc.collect()
    gc.freeze()
    try:
        ours = plugin["plugin"] == "MultiProc"
        with SurePool(arguments, threads) if ours else nullcontext(plugin["plugin"]) as chosen:
            try:
                workflow.run(plugin=chosen, plugin_args=arguments)
            finally:
                Interrupts.raise_again()
    except _PoolLostError:
        return True, ""
    except Exception as error:
        return False, "" if stop else " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        gc.unfreeze()
    return False, ""
