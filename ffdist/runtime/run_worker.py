"""The work of a worker in a process of its own: the one entry of every launcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from threading import Event

import torch.distributed as dist

from ffdist.data.readers import wait_for_readers_at_most
from ffdist.events import Observer
from ffdist.runtime.allocator import keep_freed_memory
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.heartbeat import Activity, silence_of, stacks_to
from ffdist.runtime.job import Job
from ffdist.runtime.supervise import resumed_job
from ffdist.runtime.worker import Worker, stage_device
from ffdist.runtime.world import World
from ffdist.snapshot.writers import writing_there
from ffdist.transport.listeners import allow_many_descriptors


def run_worker(
    make_job: Callable[[], Job],
    world: World,
    store: dist.Store,
    observer: Observer,
    *,
    stop: Event,
    activity: Activity,
    ready: Callable[[], None] = lambda: None,
    opened: Callable[[Sequence[str]], None] = lambda kinds: None,
) -> None:
    """Run a worker until the stream stops. Raises what stopped it otherwise.

    make_job: opens the data and makes the network, in this process; a later attempt goes on from the last snapshot.
    store: where the workers of this attempt meet. observer: called in the last worker. stop: set in the first worker
    to end the run early, after a snapshot. activity: told what this worker is at; whoever reads it is who notices that
    the worker is silent, so that its neighbours may take it for slow. ready: called after the start, with all edges
    open; opened: what the edges of the run travel by.
    """
    keep_freed_memory()
    allow_many_descriptors()
    stacks_to()
    activity.set("opening the data")
    job = resumed_job(replace(make_job(), watched=True), world)
    with writing_there(job.run):
        device = stage_device(job.settings.compute.device, world)
        activity.set("meeting the others")
        silence = timedelta(seconds=silence_of(job.settings.run.timeout))
        wait_for_readers_at_most(silence.total_seconds())
        edges = ProcessEdges(
            world, store, device, transport=job.settings.plan.transport, timeout=job.timeout, silence=silence
        )
        Worker(job, world, store, edges, observer, stop, ready, opened, activity).run()
