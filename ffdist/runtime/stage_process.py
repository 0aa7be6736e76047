"""A stage's process, once it has its job: it makes it, trains, and tells what happens."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from ffdist.errors import FfdistError, StageError, described
from ffdist.payload import Payload, unpack
from ffdist.runtime.allocator import keep_freed_memory
from ffdist.runtime.child import Line, Start
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.job import Job
from ffdist.runtime.rank import Rank, stage_device
from ffdist.transport.process_group import LOOPBACK

MakeJob = Callable[[], Job]
"""Picklable; called in each process, so that no data travels to it."""
Life = Callable[[Start, Line], None]
"""What a stage's process does; picklable."""
TOLD = ("what", "where", "expected", "got", "remedy")
"""Of an error, from one process to another."""


def live(start: Start, data: bytes, line: Line) -> None:
    """Until the stream stops. What stops it otherwise is told, and the process ends with status 1."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    keep_freed_memory()
    try:
        unpack(Payload(data, start.script))(start, line)
    except FfdistError as error:
        line.report(error_event(error))
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        line.report(error_event(StageError(f"stage {start.world.rank} failed", got=described(error))))
        sys.exit(1)
    line.report({"event": "done"})


@dataclass(frozen=True)
class Training:
    """The life of a process that trains its stage of a job."""

    make_job: MakeJob

    def __call__(self, start: Start, line: Line) -> None:
        job, world = self.make_job(), start.world
        plan = job.settings.plan
        store = dist.FileStore(start.store, world.size)
        store.set_timeout(job.timeout)
        device = stage_device(job.settings.compute.device, world)
        edges = ProcessEdges(world, store, device, transport=plan.transport, timeout=job.timeout)
        ready = lambda: line.report({"event": "ready"})  # noqa: E731
        Rank(job, world, store, edges, lambda event: line.report(event.to_json()), line.stop, ready).run()


def error_event(error: FfdistError) -> dict[str, Any]:
    values = {name: error.details[name] for name in TOLD}  # with the settings still to be spelled
    return {"event": "error", "type": type(error).__name__,
            **{name: None if value is None else str(value) for name, value in values.items()}}  # fmt: skip
