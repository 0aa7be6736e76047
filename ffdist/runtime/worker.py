"""One worker from start to end: agree on the plan, open the edges, run its stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ffdist.cores import available_cores
from ffdist.device import CPU, Accelerators, allow_tf32, enter, forget_peak, free_cached, parsed, queues
from ffdist.device import seen as seen_here
from ffdist.errors import ConfigError, StageError, setting
from ffdist.events import Observer
from ffdist.notes import note
from ffdist.pipeline.memory import resident_bytes
from ffdist.pipeline.precision import slow_precision_note
from ffdist.pipeline.stage import is_out_of_memory
from ffdist.plan import Plan
from ffdist.runtime.agree import agree, make_plan
from ffdist.runtime.edges import EdgeEnds
from ffdist.runtime.heartbeat import Activity
from ffdist.runtime.job import Job
from ffdist.runtime.planning import is_searched
from ffdist.runtime.routes import Route, routes_of
from ffdist.runtime.speeds import kind_of, seconds_of, speeds_of
from ffdist.runtime.worker_stages import StoppedBeforeStartError, WorkerStages
from ffdist.runtime.world import World
from ffdist.snapshot import Manifest, read_manifest
from ffdist.transport import Edge, open_local

__all__ = ["StoppedBeforeStartError", "Worker", "enough_memory", "idle_gpus_note", "set_threads", "stage_device"]


class Edges(Protocol):
    """Opens a worker's ends of the edges of a run."""

    def kind(self, route: Route) -> str:
        """The transport of a route."""
        ...

    def open(self, routes: Sequence[Route], ends: ExitStack) -> EdgeEnds:
        """This worker's ends, closed when `ends` is."""
        ...

    def close(self) -> None:
        """Called after the last message of the run."""
        ...


@dataclass(frozen=True)
class AgreedStart:
    """The start that the workers have agreed on."""

    plan: Plan
    steps: int
    """Batches an epoch has."""
    manifest: Manifest | None
    """The manifest of the snapshot to go on from."""


@dataclass(frozen=True)
class Worker:
    """One worker of a job, in its place: it serves in one stage of the plan, or in several."""

    job: Job
    world: World
    store: dist.Store
    """Where the workers meet, for small agreements only: the plan at the start, validation results an epoch behind."""
    edges: Edges
    observer: Observer
    stop: Event = field(default_factory=Event)
    """Set on rank 0 (by a signal, say) to end the run early, with a snapshot."""
    ready: Callable[[], None] = lambda: None
    """Called when this worker's edges are open, and it begins."""
    opened: Callable[[Sequence[str]], None] = lambda kinds: None
    """Told by what the edges of the run travel."""
    activity: Activity = field(default_factory=Activity)
    """Told what this worker is at."""

    def run(self) -> None:
        """Run until the stream stops. Raises what stopped it otherwise; StageError where memory did not suffice."""
        with enough_memory(self.world):
            self._run()

    def _run(self) -> None:
        job, settings, world = self.job, self.job.settings, self.world
        set_threads(settings.compute.threads, world)
        device = stage_device(settings.compute.device, world)
        held = resident_bytes()
        enter(device)
        if settings.compute.tf32 and not allow_tf32(device) and world.first:
            note(f"TF32 is for CUDA devices and Intel's; float32 stays what it is on {device}")
        if world.first and (text := slow_precision_note(device, settings.compute.precision)):
            note(text)
        self.activity.set("agreeing on the plan")
        start = self._agree(device)
        if start.plan.lanes != (settings.training.lanes or 1):
            job = replace(job, settings=settings.changed(lanes=start.plan.lanes))
        forget_plan(device)
        routes = routes_of(start.plan, settings.plan.queue, job.objective.score_lag)
        with ExitStack() as after_edges, ExitStack() as ends:
            edge_ends = local_edges(routes, world.rank, job.timeout, ends)
            outside = [route for route in routes if not route.within]
            self.activity.set("opening its edges")
            opened = self.edges.open(outside, ends)
            edge_ends.senders.update(opened.senders)
            edge_ends.receivers.update(opened.receivers)
            kinds = [self.edges.kind(route) for route in outside if route.purpose != "back"]
            self.opened(kinds)
            stages = WorkerStages(replace(self, job=job), start, routes, edge_ends, device, held, kinds)
            after_edges.callback(stages.join)  # when the edges are closed
            stages.run()
        self.edges.close()

    def _agree(self, device: torch.device) -> AgreedStart:
        job = self.job
        speeds: tuple[float, ...] = ()
        if is_searched(job.settings):
            speeds = speeds_of(self.store, self.world, kind_of(device), lambda: seconds_of(job, device), job.timeout)

        def decide() -> dict[str, Any]:
            return make_plan(job, self.world, job.loaders(), device, speeds)

        agreed = agree(self.store, self.world, "plan", decide, job.timeout)
        manifest = read_manifest(Path(agreed["snapshot"])) if agreed["snapshot"] else None
        return AgreedStart(Plan.from_json(agreed["plan"]), agreed["steps"], manifest)


def local_edges(routes: Sequence[Route], rank: int, timeout: timedelta, ends: ExitStack) -> EdgeEnds:
    """Both ends of the edges from this worker to itself, where it serves in two stages that follow each other."""
    found = EdgeEnds({}, {})
    for route in routes:
        if route.within and route.source == rank:
            sender, receiver = open_local(Edge(route.name, route.depth, timeout))
            found.senders[route.name] = ends.enter_context(closing(sender))
            found.receivers[route.name] = ends.enter_context(closing(receiver))
    return found


@contextmanager
def enough_memory(world: World) -> Iterator[None]:
    """Raises StageError for what numpy and torch raise where there is not."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise StageError(
            "there is not enough memory",
            where=world,
            got=error,
            remedy=f"use a smaller {setting('training.batch_size')} or {setting('dataset.image_size')}, "
            f"more {setting('training.microbatches')}, or more {setting('plan.stages')}",
        ) from error


def set_threads(wanted: int | None, world: World) -> None:
    """Set the number of threads that is wanted; else as OMP_NUM_THREADS says, which torch has read by itself; else this
    host's cores shared out."""
    if wanted or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(wanted or max(1, available_cores() // (world.local_size or world.size)))


def forget_plan(device: torch.device) -> None:
    """Give back what measuring the blocks has taken, which is no part of a stage's peak."""
    free_cached(device)
    forget_peak(device)


def stage_device(wanted: str, world: World, seen: Accelerators | None = None) -> torch.device:
    """A device of its own for each stage of this host, where there are enough for all; where a kind is given ("cuda"),
    some may share; where one is given ("cuda:1"), all do.

    seen: the accelerators of this process; None: as torch says. Raises ConfigError for one that is not there.
    """
    kind, count = seen or seen_here()
    if wanted == "cpu" or (wanted == "auto" and (kind is None or count < (world.local_size or world.size))):
        return CPU
    asked, number = (kind, None) if wanted == "auto" else parsed(wanted)
    if kind is None or asked != kind or (number or 0) >= count:
        raise no_device_error(wanted, Accelerators(kind, count))
    return torch.device(kind, world.local_rank % count if number is None else number)


def no_device_error(wanted: str, seen: Accelerators) -> ConfigError:
    """The error for a device that this process does not see."""
    kind, count = seen
    here = ["cpu", *([kind] if kind else []), *(f"{kind}:{index}" for index in range(count) if count > 1)]
    what = "there is no GPU" if kind is None else f"there is no device {wanted}"
    return ConfigError(
        what,
        where=setting("compute.device", wanted),
        expected=" or ".join(here),
        got=f"torch {torch.__version__} sees {kind or 'none'}",
        remedy=f"use {setting('compute.device', here[-1])}",
    )


def idle_gpus_note(wanted: str, world: World, seen: Accelerators | None = None) -> str | None:
    """The note for stages that go on the CPU unasked although there are GPUs; else None."""
    kind, count = seen or seen_here()
    if wanted != "auto" or count == 0 or queues(stage_device(wanted, world, Accelerators(kind, count))):
        return None
    return (
        f"stages of this host: {world.local_size or world.size}; GPUs that each sees: {count}; so they go on the "
        f"CPU ({setting('compute.device', kind)} would share out the GPUs)"
    )
