"""Stages as processes of this host, started, watched and ended by this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ffdist.errors import ConfigError, Interrupted
from ffdist.events import Observer
from ffdist.exiting import children_heard
from ffdist.payload import Payload, pack
from ffdist.runtime.interrupts import StopRequest, interrupts
from ffdist.runtime.outcome import Result
from ffdist.runtime.process_monitor import ProcessMonitor
from ffdist.runtime.supervise import supervise
from ffdist.runtime.worker_main import ProcessMain
from ffdist.runtime.worker_process import start_worker
from ffdist.runtime.world import World
from ffdist.scratch import scratch_folder


def run_processes(
    main: ProcessMain,
    stages: int,
    observer: Observer,
    *,
    run: Path | None = None,
    max_restarts: int = 0,
    timeout: float | None = None,
) -> Result:
    """Start a process for each stage, pass their events to `observer`, and wait for all; anew as `supervise` has it.

    main: what each process does; `TrainingMain(make_job)` trains. run: the run's folder. max_restarts: how often in a
    row the run goes on from its last snapshot where a process died, or did not answer for `timeout` seconds; None: for
    ever.
    SIGINT, SIGTERM or SIGHUP ends the run early, with a snapshot, where this is the main thread. Raises the error that
    explains the others when a stage fails, ConfigError for a job that cannot be sent, and Interrupted for a signal
    before the stages are ready, and for a second one; no stage outlives this call.
    """
    check_interpreter()
    launcher = Launcher(pack(main), stages, observer, timeout)
    with children_heard(), interrupts(launcher.interrupt) as launcher.stop_request:
        return supervise(
            launcher.attempt,
            observer,
            run=run,
            max_restarts=max_restarts,
            stopping=lambda: bool(launcher.stop_request.number),
        )


@dataclass
class Launcher:
    """Starts the stages' processes for an attempt, waits for them, and ends them."""

    payload: Payload
    stages: int
    observer: Observer
    timeout: float | None
    stop_request: StopRequest = field(default_factory=StopRequest)
    watch: ProcessMonitor | None = None
    """The monitor of the attempt that is under way."""
    begun: bool = False
    """Whether stages have been at work."""

    def attempt(self, number: int) -> Result:
        """Start all stages, wait for them, and end what is left. Raises as `ProcessMonitor.until_all_ended` does, and
        Interrupted for a signal before the stages are ready."""
        watch = self.watch = ProcessMonitor(self.observer, self.timeout, self.stop_request)
        try:
            with meeting_place() as (store, descriptors):
                for rank in range(self.stages):
                    world = World(rank, self.stages, rank, number)
                    watch.workers.append(start_worker(world, store, descriptors, self.payload))
                    watch.stop_if_requested()
                watch.started = True
                watch.stop_if_requested()
                return watch.until_all_ended()
        except Interrupted as interrupt:
            interrupt.begun = self.begun or watch.ready
            raise
        finally:
            # `watch` goes first: a signal during the ends of the processes is then one between two attempts
            self.begun |= watch.ready
            self.watch = None
            watch.end_all()

    def interrupt(self, number: int) -> None:
        """A signal has told to stop. Raises Interrupted between two attempts, too."""
        if self.watch is None:
            raise Interrupted(number, begun=self.begun)
        self.watch.interrupt(number)


def check_interpreter() -> None:
    """Raises ConfigError where this program cannot start another Python."""
    if getattr(sys, "frozen", False) or not sys.executable:
        raise ConfigError(
            "this program cannot start processes",
            where="launcher processes",
            expected="a Python interpreter",
            got=sys.executable or "an embedded one",
            remedy="take threads as the launcher",
        )


@contextmanager
def meeting_place() -> Iterator[tuple[str, tuple[int, ...]]]:
    """A file through which stages meet, and the descriptors that they need for it: on Linux one without a name, so that
    nothing of it stays behind."""
    if not (hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")):  # a sandbox may have no /proc
        with scratch_folder() as folder:
            yield str(folder / "store"), ()
        return
    descriptor = os.memfd_create("ffdist-store")
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)
