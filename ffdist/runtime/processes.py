"""Stages as processes of this host, started and watched by this one.

A process is started with nothing but one end of a line. Over it come the job, as bytes, and orders; over it go events;
and either end knows by it at once when the other one is gone.
"""

from __future__ import annotations

import codecs
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any

from ffdist import errors
from ffdist.errors import ConfigError, FfdistError, Interrupted, StageLostError, setting
from ffdist.events import Observer, from_json, stopping
from ffdist.payload import Payload, pack
from ffdist.runtime.beat import STACK, silence_of
from ffdist.runtime.child import START, ProcessStart
from ffdist.runtime.interrupts import StopRequest, interrupts, signals_blocked
from ffdist.runtime.outcome import Result
from ffdist.runtime.stage_process import Life, MakeJob, Training
from ffdist.runtime.supervise import supervise, verdict
from ffdist.runtime.world import World

GRACE = 10.0
"""Seconds the other stages have to end by themselves after one has failed."""
LOOK = 0.5
"""Seconds between two looks for a stage that hangs."""
STACKS = 0.5
"""Seconds that workers have to write where they are."""
KILLED: dict[int, str] = {
    signal.SIGKILL: "a system out of memory kills so: a smaller batch size, or more stages",
    signal.SIGBUS: "a file that was being read was cut off, a shard of the data perhaps: `ffdist data check` finds it; "
    "restore it, then go on from the last snapshot",
}
"""What is to be done where a signal has ended a process."""
TAIL = 2000
"""Characters of what a process wrote last that are told when it has died."""


def run_processes(
    make_job: MakeJob,
    stages: int,
    observer: Observer,
    *,
    run: Path | None = None,
    max_restarts: int = 0,
    timeout: float | None = None,
) -> Result:
    """Train with a process a stage; `observer` hears what the last one reports.

    run: its directory. max_restarts: how often in a row the run goes on from its last snapshot where a process died,
    or did not answer for `timeout` seconds; None: for ever. Raises as `run_attempts` does.
    """
    return run_attempts(Training(make_job), stages, observer, run=run, max_restarts=max_restarts, timeout=timeout)


def run_attempts(
    life: Life,
    stages: int,
    observer: Observer,
    *,
    run: Path | None = None,
    max_restarts: int = 0,
    timeout: float | None = None,
) -> Result:
    """Start a process for each stage, pass their events to `observer`, and wait for all; anew as `supervise` has it.

    SIGINT, SIGTERM or SIGHUP ends the run early, with a snapshot, where this is the main thread. Raises the error that
    explains the others when a stage fails, ConfigError for a job that cannot be sent, and Interrupted for a signal
    before the stages are ready, and for a second one; no stage outlives this call.
    """
    check_interpreter()
    launcher = Launcher(pack(life), stages, observer, timeout)
    with interrupts(launcher.interrupt) as launcher.stop_request:
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
    """Of the attempt that is under way."""
    begun: bool = False
    """Whether stages have been at work."""

    def attempt(self, number: int) -> Result:
        watch = self.watch = ProcessMonitor(self.observer, self.timeout, self.stop_request)
        try:
            with meeting_place() as (store, descriptors):
                for rank in range(self.stages):
                    world = World(rank, self.stages, rank, number)
                    watch.stages.append(start_stage(world, store, descriptors, self.payload))
                    watch.leave_if_told()
                watch.started = True
                watch.leave_if_told()
                return watch.until_all_ended()
        except Interrupted as told:
            told.begun = self.begun or watch.ready
            raise
        finally:
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
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryDirectory(prefix="ffdist-") as folder:
            yield str(Path(folder) / "store"), ()
        return
    descriptor = os.memfd_create("ffdist-store")
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)


@dataclass
class StageProcess:
    """A stage's process, what it reports, and the error it told of."""

    rank: int
    process: subprocess.Popen[bytes]
    line: Connection
    stderr: int
    """The descriptor of what it writes there."""
    error: BaseException | None = None
    done: bool = False
    open: bool = True
    heard: float = field(default_factory=time.monotonic)
    """When it gave a sign of life last."""
    doing: str = "starting"
    """What it said then that it was at."""
    said: str = ""
    """The end of what it wrote on stderr."""
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def __str__(self) -> str:
        return f"stage {self.rank} (process {self.process.pid})"

    def pass_on(self) -> bool:
        """What it has written on stderr since, to this process's own; whether it may write more."""
        try:
            written = os.read(self.stderr, 1 << 16)
        except BlockingIOError:
            return True
        text = self.decoder.decode(written)
        self.said = (self.said + text)[-TAIL:]
        if text and sys.stderr:
            with suppress(OSError, ValueError):  # nobody reads it
                sys.stderr.write(text)
                sys.stderr.flush()
        return bool(written)

    def order_stop(self) -> None:
        with suppress(OSError):  # it is gone, as its line will tell
            self.line.send_bytes(b"stop")

    def drain(self) -> None:
        """What its end has left on the way."""
        while wait([self.stderr], 0) and self.pass_on():
            pass

    def hangs(self, timeout: float, others: Sequence[str]) -> StageLostError:
        """The error of one that gives no sign of life. others: what the other stages are at."""
        return StageLostError(
            f"stage {self.rank} does not answer",
            where=f"worker {self.rank}, process {self.process.pid} of host {platform.node()}",
            expected=f"a sign of life within {timeout:g} s",
            got=f"silence for {time.monotonic() - self.heard:.1f} s; last it was {self.doing}"
            + "".join(f"; {other}" for other in others),
            remedy="where each worker stood is in its log; look for what has stopped the process, or raise "
            f"{setting('run.timeout')} where the machine has too much to do",
        )

    def tell_stack(self) -> None:
        """Have it write where it is, in its own log; one that is stopped does so when it goes on, which is now."""
        with suppress(OSError):
            self.process.send_signal(STACK)
            self.process.send_signal(signal.SIGCONT)

    def died(self) -> StageLostError:
        code = self.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        said = "\n    ".join(["", *self.said.strip().splitlines()])
        return StageLostError(
            f"stage {self.rank} died",
            where=f"process {self.process.pid}",
            expected="an end without errors",
            got=how + (f"; it said:{said}" if said else ""),
            remedy=KILLED.get(-code),
        )


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
        hear = stopping(self.result.collecting(self.observer), self.stages[0].order_stop)
        deadline: float | None = None
        writing = {stage.stderr: stage for stage in self.stages}
        while lines := {stage.line: stage for stage in self.stages if stage.open}:
            ready = wait([*lines, *writing], LOOK if deadline is None else max(0.0, deadline - time.monotonic()))
            if not ready and deadline is not None:
                break
            for line, stage in lines.items():
                if line in ready:
                    self._listen(stage, hear)
            for stderr, stage in list(writing.items()):
                if stderr in ready and not stage.pass_on():
                    del writing[stderr]
            self._find_hung()
            if deadline is None and any(stage.error for stage in self.stages):
                deadline = time.monotonic() + GRACE
        if failed := [stage.error for stage in self.stages if stage.error]:
            raise verdict(failed, [str(stage) for stage in self.stages if stage.open])
        self.result.signal = self.stop_request.number
        return self.result

    def _find_hung(self) -> None:
        """One that is silent for too long is ended; before that, all write where they are."""
        if self.timeout is None:
            return
        now, limit = time.monotonic(), silence_of(self.timeout)
        paused, self.looked = now - self.looked > limit / 2, now
        if paused:  # this process itself was stopped, or the whole machine: nobody could have been heard
            for stage in self.stages:
                stage.heard = now
            return
        hung = [stage for stage in self.stages if stage.open and now - stage.heard > limit]
        if not hung:
            return
        for stage in hung:
            others = [f"{other}: {other.doing}" for other in self.stages if other.open and other not in hung]
            stage.error = stage.error or stage.hangs(self.timeout, others)
        for stage in self.stages:
            if stage.open:
                stage.tell_stack()
        time.sleep(STACKS)
        for stage in hung:
            stage.drain()
            end(stage)
            stage.open = False

    def _listen(self, stage: StageProcess, hear: Observer) -> None:
        """One event, or the end of the process: the kernel closes its end of the line."""
        try:
            event = json.loads(stage.line.recv_bytes())
        except (EOFError, OSError):
            stage.open = False
            with suppress(subprocess.TimeoutExpired):
                stage.process.wait(GRACE)
            end(stage)
            stage.drain()
            if not stage.done and stage.error is None:
                stage.error = stage.died()
            return
        stage.heard = time.monotonic()
        match event["event"]:
            case "beat":
                stage.doing = event["what"]
            case "error":
                stage.error = _told(event)
            case "done":
                stage.done = True
            case "ready":
                self.ready |= stage.rank == 0
            case "signal":
                if not self.stop_request.number:
                    self.stop_request.number, self.stop_request.at = event["number"], time.monotonic()
                    self.interrupt(event["number"])
            case _:
                hear(from_json(event))

    def interrupt(self, number: int) -> None:
        """Ask the source to stop behind a snapshot. Raises Interrupted where it has not begun."""
        if self.ready:
            self.stages[0].order_stop()
        elif self.started:
            raise Interrupted(number)

    def leave_if_told(self) -> None:
        if self.stop_request.number:
            raise Interrupted(self.stop_request.number)

    def end_all(self) -> None:
        for stage in self.stages:
            stage.process.kill()
        for stage in self.stages:
            end(stage)
            stage.line.close()
            assert stage.process.stderr
            stage.process.stderr.close()


def end(stage: StageProcess) -> None:
    stage.process.kill()
    stage.process.wait()


def start_stage(world: World, store: str, descriptors: tuple[int, ...], payload: Payload) -> StageProcess:
    """A process that waits for its job, which is sent as fast as it takes it."""
    here, there = multiprocessing.Pipe()
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] - as multiprocessing has it
    command = [sys.executable, *flags, "-c", START, str(there.fileno()), f"stage-{world.rank}"]
    with signals_blocked():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(there.fileno(), *descriptors),
        )
        assert process.stderr
        os.set_blocking(process.stderr.fileno(), False)
        stage = StageProcess(world.rank, process, here, process.stderr.fileno())
    there.close()
    start = ProcessStart(world, store, os.getpid(), sys.argv, payload.script)
    Thread(target=send_job, args=(here, start, payload.data), name=f"send stage-{world.rank}", daemon=True).start()
    return stage


def send_job(line: Connection, start: ProcessStart, data: bytes) -> None:
    with suppress(OSError):  # it has died, as its line will tell
        line.send(sys.path)
        line.send(start)
        line.send_bytes(data)


def _told(event: dict[str, Any]) -> FfdistError:
    """A stage's own error, as it was there."""
    kind = getattr(errors, event["type"])
    return kind(event["what"], **{name: event[name] for name in ("where", "expected", "got", "remedy")})
