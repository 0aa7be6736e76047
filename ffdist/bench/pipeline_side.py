"""ffdist's own side: the stages of `ffdist train`, whose epochs are the rounds."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from threading import Event

import torch
from torch import Tensor

from ffdist.bench.harness.meter import MemoryUse, Meter
from ffdist.bench.harness.window import Mark, Window, WindowRate, endless, mark
from ffdist.bench.harness.worker_pool import PoolMember
from ffdist.data import Loader
from ffdist.events import EpochEnded, ProgressMade, RunEvent, RunStarted
from ffdist.pipeline.source import Loaders
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.job import Job
from ffdist.runtime.worker import Worker, stage_device
from ffdist.runtime.worker_main import MakeJob

ENDLESS = 10**6
"""Epochs; the run is stopped when nothing more is asked for."""
IDLE = 86_400.0
"""Seconds that a stage may wait for the next batch: the other sides have their turns, however long these are. A member
that dies ends the comparison at once."""


@dataclass(frozen=True)
class PipelineMain:
    """One worker, as every launcher runs it. Only the loader is paced, and the sink's reports are timed.

    The first answer says that the stages are ready; each order is a `Window`, answered with a `WindowRate` by the last
    rank.
    """

    make_job: MakeJob
    weigh: bool = False
    """Count memory, which takes time; the return value is then a `MemoryUse`."""

    def __call__(self, member: PoolMember) -> MemoryUse | None:
        pace = Pace(member)
        job = paced(self.make_job(), pace)
        plan, world, store = job.settings.plan, member.world, member.store()
        device = stage_device(job.settings.compute.device, world)
        edges = ProcessEdges(world, store, device, transport=plan.transport, timeout=job.timeout)
        worker = Worker(job, world, store, edges, Stopwatch(pace, job.settings.training.batch_size, device), pace.stop)
        if not self.weigh:
            return worker.run()
        with Meter(device) as meter:
            pace.meter = meter
            worker.run()
            return meter.use()


class Pace:
    """Takes a rank's orders; `stop` is set when there are no more."""

    def __init__(self, member: PoolMember) -> None:
        self.member = member
        self.window: Window | None = None
        self.stop = Event()
        self.feeds = False
        """Whether this rank makes batches, and so takes the orders for them."""
        self.meter: Meter | None = None

    def next(self) -> Window | None:
        """Wait for the next order; None when there are no more."""
        self.window = self.member.next_order()
        if self.window is None:
            self.stop.set()
        return self.window


@dataclass(frozen=True)
class PacedJob(Job):
    """A job whose epochs begin when an order comes, with as many batches as it says."""

    pace: Pace = field(kw_only=True)

    def loaders(self) -> Loaders:
        return Loaders(PacedLoader(self.pace, super().loaders().train))  # pyright: ignore[reportArgumentType]


def paced(job: Job, pace: Pace) -> PacedJob:
    """The job with epochs without end and with a loader that waits for orders."""
    settings = job.settings.changed(epochs=ENDLESS, timeout=IDLE)
    return PacedJob(job.chain, job.objective, job.images, settings, job.workers, report_every=0.0, pace=pace)


class PacedLoader:
    """A training loader whose every epoch is a round."""

    def __init__(self, pace: Pace, loader: Loader) -> None:
        self.pace = pace
        self.loader = loader
        self.batches: Generator[tuple[Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def shard(self) -> tuple[int, ...]:
        return self.loader.shard

    @shard.setter
    def shard(self, shard: tuple[int, ...]) -> None:
        self.loader.shard = shard

    def batch_samples(self, batch: int) -> int:
        return self.loader.batch_samples(batch % len(self.loader))  # a round may be of several epochs' batches

    @property
    def largest_batch(self) -> int:
        return self.loader.largest_batch

    def strided_epoch(
        self, epoch: int, start: int, offset: int, stride: int
    ) -> Generator[tuple[Tensor, Tensor] | None]:
        """A round's batches, as many as its order says; which of the data set they are makes no difference to its
        speed."""
        self.pace.feeds = True
        if window := self.pace.next():
            if self.pace.meter:
                self.pace.meter.reset()  # the blocks are built, and were measured to be dealt
            if self.batches is None:
                self.batches = endless(self.loader, stride)
            for batch in range(window.total):
                yield None if (batch - offset) % stride else next(self.batches)
        elif self.batches:
            self.batches.close()


class Stopwatch:
    """The reporter of the last stage: notes when each batch arrives at the sink."""

    def __init__(self, pace: Pace, batch_size: int, device: torch.device) -> None:
        self.pace = pace
        self.batch_size = batch_size
        self.device = device
        self.arrivals: list[Mark] = []

    def __call__(self, event: RunEvent) -> None:
        match event:
            case RunStarted():
                self.pace.member.answer("ready")
            case ProgressMade():
                self.arrivals.append(mark(self.device))
            case EpochEnded(record) if self.arrivals:
                window = self.pace.window if self.pace.feeds else self.pace.next()
                assert window
                seconds, samples = window.seconds(self.arrivals), window.batches * self.batch_size
                details = {"stages": record["stages"], "batches": window.total}
                self.arrivals = []
                self.pace.member.answer(WindowRate(samples, seconds, details))
