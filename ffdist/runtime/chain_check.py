"""A check that a tensor passes down a chain of processes of this host."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ffdist.errors import StageError
from ffdist.events import RunStopped
from ffdist.runtime.child import LauncherPipe, ProcessStart
from ffdist.runtime.edges import Kind, ProcessEdges
from ffdist.runtime.heartbeat import Activity
from ffdist.runtime.processes import run_processes
from ffdist.runtime.routes import Route
from ffdist.transport.base import Frame

WHOLE = "whole"
TIMEOUT = timedelta(seconds=60)


def passed_whole(kind: Kind, count: int) -> bool:
    """Send 1 MiB by this transport through `count` new processes; whether the last has it as the first had.

    Raises the FfdistError that explains where it does not get there.
    """
    result = run_processes(ChainMain(kind), count, lambda event: None)
    if not result.reason:
        raise StageError("nothing arrived at the last process")
    return result.reason == WHOLE


@dataclass(frozen=True)
class ChainMain:
    """The work of each process of the chain: receive the tensor, send it on; the last reports whether it is whole."""

    kind: Kind

    def __call__(self, start: ProcessStart, line: LauncherPipe, activity: Activity) -> None:
        world = start.world
        store = dist.FileStore(start.store, world.size)
        edges = ProcessEdges(world, store, torch.device("cpu"), transport=self.kind, timeout=TIMEOUT)
        expected = torch.arange(2**18, dtype=torch.float32)
        routes = [Route(f"{i}-{i + 1}", i, i + 1, 2, "stages", i) for i in range(world.size - 1)]
        with ExitStack() as closed:
            ends = edges.open(routes, closed)
            frame = Frame("check", {}, {"x": expected})
            for receiver in ends.receivers.values():
                frame = receiver.recv()
            for sender in ends.senders.values():
                sender.send(frame)
            if world.last:
                reason = WHOLE if torch.equal(frame.tensors["x"], expected) else "changed on its way"
                line.report(RunStopped(reason, None).to_json())
        edges.close()
