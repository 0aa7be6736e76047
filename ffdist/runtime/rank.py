"""The life of one stage: agree on the plan, build the blocks, run the loop."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ffdist.cores import available_cores
from ffdist.device import CPU, Seen, allow_tf32, enter, forget_peak, free_cached, name_of, parsed, queues
from ffdist.device import seen as seen_here
from ffdist.errors import ConfigError, StageError, setting
from ffdist.notes import note
from ffdist.pipeline.edge import FromEdge, ToEdge
from ffdist.pipeline.initial import make_from_data
from ffdist.pipeline.memory import Memory, resident_bytes
from ffdist.pipeline.plan import build_block, dealt
from ffdist.pipeline.predictions import KNOWN, RECENT, Feedback, Predictions
from ffdist.pipeline.sink import Reporter, Sink
from ffdist.pipeline.source import Loaders, Position, Source
from ffdist.pipeline.stage import Stage, is_out_of_memory
from ffdist.report.log import StageLog, start_run_log
from ffdist.runtime.agree import agree, make_plan
from ffdist.runtime.job import Job
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.world import World
from ffdist.snapshot import Manifest, SnapshotStore, read_manifest
from ffdist.transport import Edge, Receiver, Sender, open_local


class Edges(Protocol):
    """Opens this stage's ends of the edges beside it."""

    @property
    def kinds(self) -> Sequence[str]:
        """What each edge of the run travels by, in order."""
        ...

    def upstream(self) -> Receiver: ...

    def downstream(self) -> Sender: ...

    def from_last(self, depth: int) -> Receiver:
        """The first stage's end of the edge back to it, where the objective wants feedback."""
        ...

    def to_first(self, depth: int) -> Sender:
        """The last stage's end of it."""
        ...

    def close(self) -> None:
        """Behind the last message of the run."""
        ...


class ToldTooEarlyError(StageError):
    """A stage was told to stop before it had begun."""


@dataclass(frozen=True)
class Rank:
    """One stage of a job, in its place."""

    job: Job
    world: World
    store: dist.Store
    """Where the ranks meet, for small agreements only: the plan at the start, validation results an epoch behind."""
    edges: Edges
    report: Reporter
    stop: Event = field(default_factory=Event)
    """Set on rank 0 (by a signal, say) to end the run early, with a snapshot."""
    ready: Callable[[], None] = lambda: None
    """Called when this stage's edges are open, and it begins."""

    def run(self) -> None:
        """Until the stream stops. Raises what stopped it otherwise; StageError where memory did not suffice."""
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
        loaders = self.job.loaders() if world.first else None
        plan = agree(self.store, world, "plan", lambda: self._plan(loaders, device), job.timeout)
        manifest = read_manifest(Path(plan["snapshot"])) if plan["snapshot"] else None
        forget_plan(device)
        snapshots = SnapshotStore(job.run, job.names, keep=settings.run.keep)
        stage = self._stage(plan, device, snapshots)
        stage.memory = Memory(device, held)
        if manifest:
            snapshots.load(stage.blocks, manifest)
        elif loaders:
            make_from_data(stage.blocks[0].module, loaders.train)
        with ExitStack() as ends:
            log = ends.enter_context(StageLog(job.run, world.rank))
            place = f"{device} ({name_of(device)})" if queues(device) else device
            log.write(f"{stage} of {world.size} on {place}, {torch.get_num_threads()} threads, host {platform.node()}")
            stage.on_epoch = log.epoch
            log.write(f"edges of the run: {', '.join(self.edges.kinds) or 'none'}")
            upstream = None if world.first else FromEdge(_open(ends, self.edges.upstream()))
            if upstream:
                stage.take_queued = upstream.take_queued
            if world.last:
                self._announce(plan, manifest)
            downstream = None if world.last else ToEdge(_open(ends, self.edges.downstream()))
            told, tell = self._feedback(ends, loaders, manifest, snapshots)
            inbox = upstream or self._source(loaders, manifest, told)
            if self.stop.is_set():
                raise ToldTooEarlyError("told to stop before the stages were ready")
            self.ready()
            stage.run(inbox, downstream or self._sink(manifest, snapshots, tell))
            if told:
                told.drain(stage.step)
        self.edges.close()

    def _plan(self, loaders: Loaders | None, device: torch.device) -> dict[str, Any]:
        assert loaders, "rank 0 makes the plan, and has the data"
        return make_plan(self.job, self.world, loaders, device)

    def _stage(self, plan: dict[str, Any], device: torch.device, snapshots: SnapshotStore) -> Stage:
        cut, job = plan["cut"], self.job
        config = job.block_config(device, max(1, plan["steps"] * job.settings.training.epochs))
        mine = dealt(job.sites(), cut)[self.world.rank]
        blocks = [build_block(job.chain, site, job.objective, config) for site in mine]
        return Stage(self.world.rank, blocks, snapshots.save)

    def _feedback(
        self, ends: ExitStack, loaders: Loaders | None, manifest: Manifest | None, snapshots: SnapshotStore
    ) -> tuple[Predictions | None, Feedback | None]:
        """What stands at this stage's ends of the edge from the last stage back to the source."""
        lag, write = self.job.objective.feedback, snapshots.save_beside
        if not lag or not (self.world.first or self.world.last):
            return None, None
        receiver, sender = (_open(ends, end) for end in self._back(lag))
        recent = snapshots.load_beside(manifest, RECENT)[0].get("scores", ()) if manifest else ()
        tell = Feedback(sender, lag, write, recent) if sender else None
        if not receiver or not loaders:
            return None, tell
        told = Predictions(loaders.train, self.job.chain.num_classes, lag, receiver, write, recent)
        if manifest:
            told.load_state(*snapshots.load_beside(manifest, KNOWN))
        return told, tell

    def _back(self, depth: int) -> tuple[Receiver | None, Sender | None]:
        """The ends themselves; a stage alone has both."""
        if self.world.size == 1:
            sender, receiver = open_local(Edge("back", depth, self.job.timeout))
            return receiver, sender
        return (self.edges.from_last(depth), None) if self.world.first else (None, self.edges.to_first(depth))

    def _source(self, loaders: Loaders | None, manifest: Manifest | None, told: Predictions | None) -> Source:
        assert loaders, "rank 0 has the data"
        start, history = Position(), []
        if manifest:
            start = Position(manifest.step, manifest.epoch, manifest.batch)
            history = [r["validation"]["accuracy"]["mean"] for r in manifest.records if "validation" in r]
        return Source(
            loaders,
            self.job.objective,
            self.job.settings.training,
            snapshot_every=self.job.settings.run.snapshot_every,
            num_classes=self.job.chain.num_classes,
            start=start,
            history=history,
            validation_of=self._validation_of,
            predictions=told,
            stop=self.stop,
        )

    def _validation_of(self, epoch: int) -> float:
        failure = "the last stage did not tell its validation accuracy"
        return float(
            await_key(self.store, validation_key(epoch), self.job.timeout, failure=failure, where=str(self.world))
        )

    def _announce(self, plan: dict[str, Any], manifest: Manifest | None) -> None:
        if self.job.ready:
            self.job.ready()
        step, done = (manifest.step, manifest.epoch) if manifest else (0, 0)
        epochs = self.job.settings.training.epochs
        epoch = min(done + 1, epochs)
        self.report({"event": "start", "steps": plan["steps"], "epochs": epochs, "step": step, "epoch": epoch})

    def _sink(self, manifest: Manifest | None, snapshots: SnapshotStore, tell: Feedback | None) -> Sink:
        records, here = manifest.records if manifest else [], str(self.world)
        return Sink(
            commit=snapshots.commit,
            publish=lambda epoch, accuracy: set_key(self.store, validation_key(epoch), repr(accuracy), where=here),
            report=start_run_log(self.job.run, records, self.report),
            feedback=tell,
            records=records,
            report_every=self.job.report_every,
        )


def validation_key(epoch: int) -> str:
    """Where the ranks find the accuracy of an epoch (from 0); its name, which errors show, counts from 1."""
    return f"validation of epoch {epoch + 1}"


def _open(ends: ExitStack, end: Any) -> Any:
    if end is not None:
        ends.enter_context(closing(end))
    return end


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
    """As told; else as OMP_NUM_THREADS says, which torch has read by itself; else this host's cores shared out."""
    if wanted or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(wanted or max(1, available_cores() // (world.local_size or world.size)))


def forget_plan(device: torch.device) -> None:
    """Give back what measuring the blocks has taken, which is no part of a stage's peak."""
    free_cached(device)
    forget_peak(device)


def stage_device(wanted: str, world: World, seen: Seen | None = None) -> torch.device:
    """A device of its own for each stage of this host, where there are enough for all; where a kind is told ("cuda"),
    some may share; where one is told ("cuda:1"), all do.

    seen: the accelerators of this process; None: as torch says. Raises ConfigError for one that is not there.
    """
    kind, count = seen or seen_here()
    if wanted == "cpu" or (wanted == "auto" and (kind is None or count < (world.local_size or world.size))):
        return CPU
    asked, number = (kind, None) if wanted == "auto" else parsed(wanted)
    if kind is None or asked != kind or (number or 0) >= count:
        raise no_device(wanted, Seen(kind, count))
    return torch.device(kind, world.local_rank % count if number is None else number)


def no_device(wanted: str, seen: Seen) -> ConfigError:
    """What is told of a device that this process does not see."""
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


def idle_gpus(wanted: str, world: World, seen: Seen | None = None) -> str | None:
    """What to tell people whose stages go on the CPU although there are GPUs, which they did not ask for; else None."""
    kind, count = seen or seen_here()
    if wanted != "auto" or count == 0 or queues(stage_device(wanted, world, Seen(kind, count))):
        return None
    return (f"stages of this host: {world.local_size or world.size}; GPUs that each sees: {count}; so they go on the "
            f"CPU ({setting('compute.device', kind)} would share out the GPUs)")  # fmt: skip
