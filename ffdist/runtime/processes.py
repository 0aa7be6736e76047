"""Stages as processes of this host, started and watched by this one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event
from typing import Any

import torch.distributed as dist

from ffdist import errors
from ffdist.errors import FfdistError, StageError
from ffdist.pipeline.sink import Reporter
from ffdist.runtime.allocator import keep_freed_memory
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.interrupts import interrupts
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result, root_cause
from ffdist.runtime.rank import Rank, stage_device
from ffdist.runtime.world import World

MakeJob = Callable[[], Job]
"""Picklable; called in each process, so that no data travels to it."""
GRACE = 10.0
"""Seconds the other stages have to end by themselves after one has failed."""


def run_processes(make_job: MakeJob, stages: int, report: Reporter) -> Result:
    """Start a process a stage, pass their events to `report`, and wait for all.

    SIGINT or SIGTERM ends the run early, with a snapshot, where this is the main thread. Raises the error that explains
    the others when a stage fails, and KeyboardInterrupt at a second signal; no stage outlives this call.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="ffdist-") as folder:
        watch = Watch([], report)
        try:
            for rank in range(stages):
                world = World(rank, stages, rank)
                watch.stages.append(_start(context, make_job, world, Path(folder) / "store"))
            with interrupts(watch.interrupt):
                return watch.until_all_ended()
        finally:
            watch.end_all()


@dataclass
class StageProcess:
    """A stage's process, what it reports, and the error it told of."""

    rank: int
    process: BaseProcess
    events: Connection
    error: BaseException | None = None
    open: bool = True


@dataclass
class Watch:
    """Looks after the stages' processes."""

    stages: list[StageProcess]
    report: Reporter
    result: Result = field(default_factory=Result)

    def until_all_ended(self) -> Result:
        hear = self.result.listen(self.report)
        deadline: float | None = None
        while any(stage.open for stage in self.stages):
            patience = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = wait([stage.events for stage in self.stages if stage.open], patience)
            if not ready:
                break
            for stage in self.stages:
                if stage.events in ready:
                    self._listen(stage, hear)
            if deadline is None and any(stage.error for stage in self.stages):
                deadline = time.monotonic() + GRACE
        errors = [stage.error for stage in self.stages if stage.error]
        if errors:
            raise root_cause(errors)
        return self.result

    def _listen(self, stage: StageProcess, hear: Reporter) -> None:
        """One event, or the end of the process: the kernel closes its end of the pipe."""
        try:
            event = json.loads(stage.events.recv_bytes())
        except (EOFError, ConnectionResetError):
            stage.open = False
            stage.process.join()
            if stage.process.exitcode != 0 and stage.error is None:
                stage.error = _death(stage)
            return
        if event["event"] == "error":
            stage.error = _told(event)
        else:
            hear(event)

    def interrupt(self) -> None:
        """Ask the source to stop behind a snapshot."""
        if self.stages[0].process.is_alive():
            os.kill(self.stages[0].process.pid or 0, signal.SIGTERM)

    def end_all(self) -> None:
        for stage in self.stages:
            if stage.process.is_alive():
                stage.process.kill()
        for stage in self.stages:
            stage.process.join()
            stage.events.close()


def _start(context: Any, make_job: MakeJob, world: World, store: Path) -> StageProcess:
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_life, args=(make_job, world, str(store), there), name=f"stage-{world.rank}")
    process.start()
    there.close()
    return StageProcess(world.rank, process, here)


def _life(make_job: MakeJob, world: World, store_file: str, events: Connection) -> None:
    """A stage's process from beginning to end."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    keep_freed_memory()
    stop = Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def report(event: dict[str, Any]) -> None:
        events.send_bytes(json.dumps(event).encode())

    try:
        job = make_job()
        config = job.config
        store = dist.FileStore(store_file, world.size)
        store.set_timeout(config.timeout)
        edges = ProcessEdges(world, store, stage_device(config.device, world), transport=config.transport,
                             depth=config.queue, timeout=config.timeout)  # fmt: skip
        Rank(job, world, store, edges, report, stop).run()
    except FfdistError as error:
        told = {"what": error.what, "where": error.where, "expected": error.expected, "got": error.got,
                "remedy": error.remedy}  # fmt: skip
        report({"event": "error", "type": type(error).__name__, **{k: v and str(v) for k, v in told.items()}})
        sys.exit(1)


def _told(event: dict[str, Any]) -> FfdistError:
    """A stage's own error, as it was there."""
    kind = getattr(errors, event["type"])
    return kind(event["what"], **{k: event[k] for k in ("where", "expected", "got", "remedy")})


def _death(stage: StageProcess) -> StageError:
    code = stage.process.exitcode or 0
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return StageError(f"stage {stage.rank} died", where=f"process {stage.process.pid}",
                      expected="exit status 0", got=how,
                      remedy="see its log in the run directory; go on with --resume")  # fmt: skip
