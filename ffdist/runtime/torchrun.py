"""This process as one stage of a run that torchrun started."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event

import torch.distributed as dist

from ffdist.errors import StageError
from ffdist.pipeline.sink import Reporter
from ffdist.runtime.allocator import keep_freed_memory
from ffdist.runtime.attempt import share_attempt
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result
from ffdist.runtime.rank import Rank, stage_device
from ffdist.runtime.world import World


@dataclass(frozen=True)
class Meeting:
    """All ranks, met at torchrun's store."""

    world: World
    """This rank's place, with the attempt's number that all ranks share."""
    store: dist.Store
    """Keys of this attempt: what a killed attempt left there is not seen."""
    lasting: dist.Store
    """Keys that the run's later attempts see, too."""


def meet(world: World, timeout: timedelta) -> Meeting:
    """Wait for all ranks. Raises StageError when one stays away."""
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
        lasting = dist.PrefixStore(f"ffdist/{world.run_id}", store)
        attempt = share_attempt(lasting, world)
    except dist.DistError as error:
        raise StageError(
            "the ranks did not meet",
            where=f"rank {world.rank} of {world.size}",
            got=error,
            remedy="check torchrun's rendezvous options, and the network between the hosts",
        ) from error
    return Meeting(replace(world, attempt=attempt), dist.PrefixStore(str(attempt), lasting), lasting)


def run_rank(make_job: Callable[[], Job], world: World, store: dist.Store, report: Reporter) -> Result:
    """This rank's stage until the stream stops; SIGTERM and SIGINT end the run early, with a snapshot.

    `report` is called on the last rank only; the result is whole there, and empty elsewhere.
    """
    keep_freed_memory()
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    job = make_job()
    config, result = job.config, Result()
    edges = ProcessEdges(world, store, stage_device(config.device, world), transport=config.transport,
                         depth=config.queue, timeout=config.timeout)  # fmt: skip
    with ending_together(store, world, config.timeout):
        Rank(job, world, store, edges, result.listen(report), stop).run()
    return result


@contextmanager
def ending_together(store: dist.Store, world: World, timeout: timedelta) -> Iterator[None]:
    """No rank ends well before the last one has, which commits the last snapshot when the others have long sent all.

    Raises StageError on the others when it could not.
    """
    try:
        yield
    except Exception as error:
        if world.last:
            store.set("end", str(error))
        raise
    if world.last:
        store.set("end", "")
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # there is nothing left to stop early
    where = f"rank {world.rank} of {world.size}"
    try:
        store.wait(["end"], timeout)
        failure = store.get("end").decode()
    except dist.DistError as error:
        raise StageError("the last stage did not end", where=where, got=error,
                         remedy="see its log in the run directory; go on with --resume") from error  # fmt: skip
    if failure:
        raise StageError("the last stage could not end", where=where, got=failure)
