"""Whole trainings with validation, from their first batch on, reported epoch by epoch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ffdist.baselines.base import Replica
from ffdist.bench.baseline_side import BaselineRank
from ffdist.bench.harness.worker_pool import PoolMember
from ffdist.errors import ConfigError, setting
from ffdist.events import EpochEnded, Observer, RunEvent, RunStarted
from ffdist.pipeline.block import to_device
from ffdist.pipeline.initial import make_from_data
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.job import Job
from ffdist.runtime.worker import Worker, stage_device
from ffdist.runtime.worker_main import MakeJob


class Epoch(NamedTuple):
    """A side's answer at the end of an epoch."""

    seconds: float
    """Seconds since the first batch."""
    accuracy: float
    """Accuracy on the validation samples, as a fraction; for ffdist by its last block."""
    mean: float
    """Accuracy by the mean of all blocks' scores; the same as `accuracy` where there is one loss."""


@dataclass(frozen=True)
class PipelineRun:
    """One stage of a whole run of ffdist; the last one answers with an `Epoch` at each epoch's end."""

    make_job: MakeJob

    def __call__(self, member: PoolMember) -> None:
        began = 0.0

        def report(event: RunEvent) -> None:
            nonlocal began
            if isinstance(event, RunStarted):
                began = time.perf_counter()
            if isinstance(event, EpochEnded):
                found = event.record["validation"]["accuracy"]
                member.answer(Epoch(time.perf_counter() - began, found["last"], found["mean"]))

        whole_worker(self.make_job(), member, report).run()


def whole_worker(job: Job, member: PoolMember, observer: Observer) -> Worker:
    """A worker of a whole training without its test split, in a process of a benchmark."""
    job = replace(job, images=replace(job.images, test=None))
    world, store = member.world, member.store()
    device = stage_device(job.settings.compute.device, world)
    edges = ProcessEdges(world, store, device, transport=job.settings.plan.transport, timeout=job.timeout)
    return Worker(job, world, store, edges, observer)


@dataclass(frozen=True)
class BaselineRun:
    """One rank of a whole run of a baseline whose ranks hold the whole network; rank 0 answers with an `Epoch`."""

    make_job: MakeJob
    variant: str

    def __call__(self, member: PoolMember) -> None:
        rank = BaselineRank.join_group(self.make_job, member)
        loaders, epochs = rank.job.loaders(), rank.job.settings.training.epochs
        assert loaders.validation
        loaders.train.shard = loaders.validation.shard = (rank.place.rank, rank.place.size)
        config = replace(rank.config, total_steps=len(loaders.train) * epochs)
        learner = rank._replace(config=config).learner(self.variant)
        if not isinstance(learner, Replica):
            raise ConfigError(
                "only baselines that hold the whole network on each device are evaluated",
                where=setting("compare.against"),
                got=self.variant,
            )
        make_from_data(learner.modules, loaders.train)
        began = time.perf_counter()
        for epoch in range(epochs):
            for x, y in loaders.train.epoch(epoch):
                learner.learn(x, y)
            found = evaluate(learner, loaders.validation.epoch(0))
            if member.world.first:
                member.answer(Epoch(time.perf_counter() - began, found, found))
        dist.destroy_process_group()


def evaluate(learner: Replica, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Accuracy as a fraction over the batches of all ranks, each of which evaluates its own slices."""
    config, counts, network = learner.config, torch.zeros(2), learner.evaluated
    network.eval()
    with torch.no_grad(), config.autocast():
        for x, y in batches:
            logits = network(to_device(x, config.device))
            counts += torch.tensor([(logits.argmax(1).cpu() == y).sum(), len(y)])
    learner.modules.train()
    counts = counts.to(config.device)
    dist.all_reduce(counts)
    return float(counts[0] / counts[1])
