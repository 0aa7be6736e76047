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
from ffdist.runtime.interrupts import StopRequest, say_stopping
from ffdist.runtime.outcome import Result
from ffdist.runtime.stage_handle import StageProcess
from ffdist.runtime.supervise import verdict

GRACE = 10.0
"""Seconds the other stages have to end by themselves after one has failed."""
GRACE_AT_START = 1.0
"""The same where the stages were not ready yet: they have nothing to lose, and may import, or wait for that one."""
LOOK = 0.5
"""Seconds between two looks for a stage that hangs."""
STACKS = 0.5
"""Seconds that a stage which hangs has to write where it is, before it is ended."""


@dataclass
class ProcessMonitor:
    """Looks after the stages' processes."""

    observer: Observer
    timeout: float | None = None
    """Seconds after which a stage that gives no sign of life is hung."""
    stop_request: StopRequest = field(default_factory=StopRequest)
    stages: list[StageProcess] = field(default_factory=list)
    result: Result = field(default_factory=Result)
    started: bool = False
    """Whether all processes are here to be ended."""
    ready: bool = False
    """Whether the first stage has begun: from then on it makes a snapshot when it is told to stop."""
    looked: float = field(default_factory=time.monotonic)

    def until_all_ended(self) -> Result:
        """Wait for all stages, and return the run's result. Where some have failed, raises what `verdict` makes of
        their errors, when all have ended or the grace is over."""
        observer = stopping(self.result.collecting(self.observer), self.stages[0].order_stop)
        deadline: float | None = None
        writing = {stage.stderr: stage for stage in self.stages}
        while lines := {stage.line: stage for stage in self.stages if stage.open}:
            ready = wait([*lines, *writing], self._wait_seconds(deadline))
            if not ready and deadline is not None and time.monotonic() >= deadline:
                break
            for line, stage in lines.items():
                if line in ready:
                    self._listen(stage, observer)
            for stderr, stage in list(writing.items()):
                if stderr in ready and not stage.pass_on():
                    del writing[stderr]
            self._end_hung()
            self._find_hung()
            if deadline is None and any(stage.error for stage in self.stages):
                deadline = time.monotonic() + (GRACE if self.ready else GRACE_AT_START)
        if failed := [stage.error for stage in self.stages if stage.error]:
            raise verdict(failed, [str(stage) for stage in self.stages if stage.open])
        self.result.signal = self.stop_request.number
        return self.result

    def _wait_seconds(self, deadline: float | None) -> float:
        """Seconds until something is to be done though nothing is heard."""
        now = time.monotonic()
        moments = [stage.until for stage in self.stages if stage.open and stage.until is not None]
        return max(0.0, min([now + LOOK if deadline is None else deadline, *moments]) - now)

    def _find_hung(self) -> None:
        """Find processes that are silent for too long: they are ended, after all have written their stacks."""
        if self.timeout is None:
            return
        now, limit = time.monotonic(), silence_of(self.timeout)
        paused, self.looked = now - self.looked > limit / 2, now
        if paused:  # this process itself was stopped, or the whole machine: nobody could have been heard
            for stage in self.stages:
                stage.heard = now
            return
        hung = [stage for stage in self.stages if stage.open and stage.until is None and now - stage.heard > limit]
        for stage in hung:
            others = [f"{other}: {other.activity}" for other in self.stages if other.open and other not in hung]
            stage.error = stage.error or stage.hung_error(self.timeout, others)
            stage.until = now + STACKS
        for stage in self.stages if hung else ():
            if stage.open:
                stage.dump_stack()

    def _end_hung(self) -> None:
        for stage in self.stages:
            if stage.open and stage.until is not None and time.monotonic() >= stage.until:
                stage.drain()
                stage.end()
                stage.open = False

    def _listen(self, stage: StageProcess, observer: Observer) -> None:
        """One event, or the end of the process: the kernel closes its end of the line."""
        try:
            event = json.loads(stage.line.recv_bytes())
        except (EOFError, OSError):
            stage.open = False
            with suppress(subprocess.TimeoutExpired):
                stage.process.wait(GRACE)
            stage.end()
            stage.drain()
            if not stage.done and stage.error is None:
                stage.error = stage.died_error()
            return
        stage.heard = time.monotonic()
        match event["event"]:
            case "beat":
                stage.activity = event["what"]
            case "error":
                stage.error = error_from_event(event)
            case "done":
                stage.done = True
            case "ready":
                self.ready |= stage.rank == 0
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
            self.stages[0].order_stop()
        elif self.started:
            raise Interrupted(number)

    def stop_if_requested(self) -> None:
        """Raises Interrupted where a signal has come."""
        if self.stop_request.number:
            raise Interrupted(self.stop_request.number)

    def end_all(self) -> None:
        """Kill all that are left, and only then wait for each: they end side by side."""
        for stage in self.stages:
            stage.process.kill()
        for stage in self.stages:
            stage.end()
            stage.close()


def error_from_event(event: dict[str, Any]) -> FfdistError:
    """A stage's own error, as it was there."""
    kind = getattr(errors, event["type"])
    return kind(event["what"], **{name: event[name] for name in ("where", "expected", "got", "remedy")})
