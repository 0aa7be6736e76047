"""The other side: baselines, several of which may live in the same processes and take turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ffdist.baselines import BASELINES, BaselineConfig, Learner, RankPlace
from ffdist.bench.harness.meter import MemoryUse, Meter
from ffdist.bench.harness.team import PoolMember, join
from ffdist.bench.harness.window import Window, WindowRate, endless
from ffdist.device import synchronize
from ffdist.errors import FfdistError
from ffdist.runtime.job import Job
from ffdist.runtime.rank import stage_device
from ffdist.runtime.stage_process import MakeJob


class KeepOrder(NamedTuple):
    """The order to build exactly these baselines, and let go of all others; answered with why some cannot be."""

    names: tuple[str, ...]


class RunOrder(NamedTuple):
    """The order to run a window by one of them; answered with a `WindowRate`."""

    name: str
    window: Window


@dataclass(frozen=True)
class BaselineMain:
    """One rank's life among those that train together."""

    make_job: MakeJob
    compiled: bool = False
    weigh: bool = False
    """Count memory, which takes time; the last word is then a `MemoryUse`."""

    def __call__(self, member: PoolMember) -> MemoryUse | None:
        job = self.make_job()
        device = stage_device(job.settings.compute.device, member.world)
        place = RankPlace(member.world.rank, member.world.size)
        join(member, device, job.settings.compute.threads or 1)
        bench = HeldBaselines(job, place, self._config(job, device))
        with Meter(device) if self.weigh else nullcontext() as meter:
            while (order := member.next_order()) is not None:
                answer = bench.keep(order.names, meter) if isinstance(order, KeepOrder) else bench.run(order)
                if member.world.first:
                    member.answer(answer)
        dist.destroy_process_group()
        return meter and meter.use()

    def _config(self, job: Job, device: torch.device) -> BaselineConfig:
        return BaselineConfig(job.settings, 10**6, device, self.compiled)


class HeldBaselines:
    """The baselines that this rank holds, and the batches they share."""

    def __init__(self, job: Job, place: RankPlace, config: BaselineConfig) -> None:
        self.job = job
        self.place = place
        self.config = config
        self.learners: dict[str, Learner] = {}
        self.batches: dict[tuple[int, int], Iterator[tuple[Tensor, Tensor]]] = {}

    def keep(self, names: tuple[str, ...], meter: Meter | None) -> dict[str, str]:
        """Keep these alone; return why those that do not fit the network do not. What is built beside weights is DDP's
        buffers."""
        self.learners = {name: learner for name, learner in self.learners.items() if name in names}
        refused = {}
        for name in names:
            if name not in self.learners:
                try:
                    self.learners[name] = BASELINES[name](self.job.chain, self.config, self.place)
                except FfdistError as error:
                    refused[name] = str(error)
        if meter:
            meter.counter.mark("queue")
            meter.reset()
        return refused

    def run(self, order: RunOrder) -> WindowRate:
        """All ranks begin and end the window together."""
        learner, window = self.learners[order.name], order.window
        self._learn(learner, window.warmup)
        self._meet()
        begun = time.perf_counter()
        self._learn(learner, window.batches)
        self._meet()
        return WindowRate(window.batches * self.config.settings.training.batch_size, time.perf_counter() - begun, {})

    def _learn(self, learner: Learner, batches: int) -> None:
        for _ in range(batches):
            learner.learn(*(next(self._shard(learner.shard)) if learner.shard else (None, None)))

    def _shard(self, shard: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        if shard not in self.batches:
            loader = self.job.loaders().train
            loader.shard = shard
            self.batches[shard] = endless(loader)
        return self.batches[shard]

    def _meet(self) -> None:
        synchronize(self.config.device)
        if self.place.size > 1:
            dist.barrier()
