"""The monitor of an attempt's processes: hears them, finds who hangs, and what has failed."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from ffdist import errors
from ffdist.errors import FfdistError, Interrupted
from ffdist.events import Observer, from_json, stopping
from ffdist.runtime.heartbeat import silence_of
from ffdist.runtime.interrupts import StopRequest, handled_signals, say_stopping
from ffdist.runtime.outcome import Result
from ffdist.runtime.supervise import verdict
from ffdist.runtime.worker_process import WorkerProcess

GRACE = 10.0
"""Seconds the other workers have to end by themselves after one has failed."""
GRACE_AT_START = 1.0
"""The same where the workers were not ready yet: they have nothing to lose, and may import, or wait for that one."""
POLL_SECONDS = 0.5
"""Seconds between two looks for a worker that hangs."""
STACKS = 0.5
"""Seconds that a worker which hangs has to write where it is, before it is ended."""


@dataclass
class ProcessMonitor:
    """Looks after the workers' processes."""

    observer: Observer
    timeout: float | None = None
    """Seconds after which a worker that gives no sign of life is hung."""
    stop_request: StopRequest = field(default_factory=StopRequest)
    workers: list[WorkerProcess] = field(default_factory=list)
    result: Result = field(default_factory=Result)
    started: bool = False
    """Whether all processes are here to be ended."""
    ready: bool = False
    """Whether the first worker has begun: from then on it makes a snapshot when it is told to stop."""
    looked: float = field(default_factory=time.monotonic)

    def until_all_ended(self) -> Result:
        """Wait for all workers, and return the run's result. Where some have failed, raises what `verdict` makes of
        their errors, when all have ended or the grace is over."""
        observer = stopping(self.result.collecting(self.observer), self.workers[0].order_stop)
        deadline: float | None = None
        writing = {worker.stderr: worker for worker in self.workers}
        while lines := {worker.line: worker for worker in self.workers if worker.open}:
            ready = wait([*lines, *writing], self._wait_seconds(deadline))
            if not ready and deadline is not None and time.monotonic() >= deadline:
                break
            for line, worker in lines.items():
                if line in ready:
                    self._listen(worker, observer)
            for stderr, worker in list(writing.items()):
                if stderr in ready and not worker.pass_on():
                    del writing[stderr]
            self._end_hung()
            self._find_hung()
            if deadline is None and any(worker.error for worker in self.workers):
                deadline = time.monotonic() + (GRACE if self.ready else GRACE_AT_START)
        if failed := [worker.error for worker in self.workers if worker.error]:
            raise verdict(failed, [str(worker) for worker in self.workers if worker.open])
        self.result.signal = self.stop_request.number
        return self.result

    def _wait_seconds(self, deadline: float | None) -> float:
        """Seconds until something is to be done though nothing is heard."""
        now = time.monotonic()
        moments = [worker.until for worker in self.workers if worker.open and worker.until is not None]
        return max(0.0, min([now + POLL_SECONDS if deadline is None else deadline, *moments]) - now)

    def _find_hung(self) -> None:
        """Find processes that are silent for too long: they are ended, after all have written their stacks."""
        if self.timeout is None:
            return
        now, limit = time.monotonic(), silence_of(self.timeout)
        paused, self.looked = now - self.looked > limit / 2, now
        if paused:  # this process itself was stopped, or the whole machine: nobody could have been heard
            for worker in self.workers:
                worker.heard = now
            return
        hung = [
            worker for worker in self.workers if worker.open and worker.until is None and now - worker.heard > limit
        ]
        for worker in hung:
            others = [f"{other}: {other.activity}" for other in self.workers if other.open and other not in hung]
            worker.error = worker.error or worker.hung_error(self.timeout, others)
            worker.until = now + STACKS
        for worker in self.workers if hung else ():
            if worker.open:
                worker.dump_stack()

    def _end_hung(self) -> None:
        for worker in self.workers:
            if worker.open and worker.until is not None and time.monotonic() >= worker.until:
                worker.drain()
                worker.end()
                worker.open = False

    def _listen(self, worker: WorkerProcess, observer: Observer) -> None:
        """One event, or the end of the process: the kernel closes its end of the line."""
        try:
            event = json.loads(worker.line.recv_bytes())
        except (EOFError, OSError):
            worker.open = False
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(GRACE)
            worker.end()
            worker.drain()
            if not worker.done and worker.error is None:
                worker.error = worker.died_error()
            return
        worker.heard = time.monotonic()
        match event["event"]:
            case "beat":
                worker.activity = event["what"]
            case "error":
                worker.error = error_from_event(event)
            case "done":
                worker.done = True
            case "ready":
                self.ready |= worker.rank == 0
            case "signal" if event["number"] not in handled_signals():
                pass  # sent to all processes, of which this one has to go on: the end of a terminal below nohup
            case "signal":
                if not self.stop_request.number:
                    self.stop_request.number, self.stop_request.at = event["number"], time.monotonic()
                    self.interrupt(event["number"])
                    say_stopping(event["number"])
            case _:
                observer(from_json(event))

    def interrupt(self, number: int) -> None:
        """Ask the source to stop after a snapshot. Raises Interrupted where it has not begun."""
        if self.ready:
            self.workers[0].order_stop()
        elif self.started:
            raise Interrupted(number)

    def stop_if_requested(self) -> None:
        """Raises Interrupted where a signal has come."""
        if self.stop_request.number:
            raise Interrupted(self.stop_request.number)

    def end_all(self) -> None:
        """Kill all that are left, and only then wait for each: they end side by side."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.end()
            worker.close()


def error_from_event(event: dict[str, Any]) -> FfdistError:
    """A worker's own error, as it was there."""
    kind = getattr(errors, event["type"])
    return kind(event["what"], **{name: event[name] for name in ("where", "expected", "got", "remedy")})
