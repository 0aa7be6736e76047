"""The other side: baselines, several of which may live in the same processes and take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from ffdist.baselines import BASELINES, BaselineConfig, Learner, RankPlace
from ffdist.bench.harness.meter import MemoryUse, Meter
from ffdist.bench.harness.window import Window, WindowRate, endless, timed
from ffdist.bench.harness.worker_pool import PoolMember, join
from ffdist.device import synchronize
from ffdist.errors import FfdistError
from ffdist.runtime.job import Job
from ffdist.runtime.worker import stage_device
from ffdist.runtime.worker_main import MakeJob


class KeepOrder(NamedTuple):
    """The order to build exactly these baselines and free all others; answered with the reasons why some do not fit."""

    names: tuple[str, ...]


class RunOrder(NamedTuple):
    """The order to run a window by one of them; answered with a `WindowRate`."""

    name: str
    window: Window


class BaselineRank(NamedTuple):
    """One rank's job, block configuration and place in the process group."""

    job: Job
    place: RankPlace
    config: BaselineConfig

    @classmethod
    def join_group(cls, make_job: MakeJob, member: PoolMember, *, compiled: bool = False) -> BaselineRank:
        """Join the default process group, on this rank's device."""
        job = make_job()
        device = stage_device(job.settings.compute.device, member.world)
        join(member, device, job.settings.compute.threads or 1)
        place = RankPlace(member.world.rank, member.world.size)
        return cls(job, place, BaselineConfig(job.settings, 10**6, device, compiled))

    def learner(self, variant: str) -> Learner:
        """Build the baseline `variant` of the job's network. Raises FfdistError where it does not fit the network."""
        return BASELINES[variant](self.job.chain, self.config, self.place)


@dataclass(frozen=True)
class BaselineMain:
    """The main function of one baseline rank: carries out orders until there are no more."""

    make_job: MakeJob
    compiled: bool = False
    weigh: bool = False
    """Count memory, which takes time; the return value is then a `MemoryUse`."""

    def __call__(self, member: PoolMember) -> MemoryUse | None:
        rank = BaselineRank.join_group(self.make_job, member, compiled=self.compiled)
        bench = HeldBaselines(rank)
        with Meter(rank.config.device) if self.weigh else nullcontext() as meter:
            while (order := member.next_order()) is not None:
                answer = bench.keep(order.names, meter) if isinstance(order, KeepOrder) else bench.run(order)
                if member.world.first:
                    member.answer(answer)
        dist.destroy_process_group()
        return meter and meter.use()


class HeldBaselines:
    """The baselines that this rank holds, and the batches they share."""

    def __init__(self, rank: BaselineRank) -> None:
        self.rank = rank
        self.learners: dict[str, Learner] = {}
        self.batches: dict[tuple[int, int], Iterator[tuple[Tensor, Tensor]]] = {}

    def keep(self, names: tuple[str, ...], meter: Meter | None) -> dict[str, str]:
        """Build these and free all others; return the reason of each that does not fit the network, by name.

        What is allocated beside the weights counts as DDP's buffers.
        """
        self.learners = {name: learner for name, learner in self.learners.items() if name in names}
        refused = {}
        for name in names:
            if name not in self.learners:
                try:
                    self.learners[name] = self.rank.learner(name)
                except FfdistError as error:
                    refused[name] = str(error)
        if meter:
            meter.counter.mark("queue")
            meter.reset()
        return refused

    def run(self, order: RunOrder) -> WindowRate:
        """All ranks begin and end the window together."""
        learner = self.learners[order.name]
        return timed(order.window, partial(self._learn, learner), self.rank.job.settings.training.batch_size)

    def _learn(self, learner: Learner, batches: int) -> None:
        for _ in range(batches):
            learner.learn(*(next(self._shard(learner.shard)) if learner.shard else (None, None)))
        synchronize(self.rank.config.device)
        if self.rank.place.size > 1:
            dist.barrier()

    def _shard(self, shard: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        if shard not in self.batches:
            loader = self.rank.job.loaders().train
            loader.shard = shard
            self.batches[shard] = endless(loader)
        return self.batches[shard]
