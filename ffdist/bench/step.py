"""One learning step of either side in one process, for what watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ffdist.baselines.twin import BackpropRule, twin
from ffdist.bench.harness.worker_pool import PoolMember, WorkerPool
from ffdist.bench.settings import BenchSettings
from ffdist.models import Chain
from ffdist.objectives import Objective
from ffdist.pipeline.block import BlockConfig, LearningBlock, learn
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.runtime.job import Job
from ffdist.runtime.worker import stage_device

Result = TypeVar("Result")


@dataclass(frozen=True)
class MeasuredAlone(Generic[Result]):
    """The main function of a process that does `work` once, with the threads and device that a stage would have."""

    settings: BenchSettings
    work: Callable[[Job, BlockConfig], Result]
    compiled: bool = False

    def __call__(self, member: PoolMember) -> Result:
        torch.set_num_threads(self.settings.threads)
        job = self.settings.job(1, compiled=self.compiled)()
        return self.work(job, job.block_config(stage_device(job.settings.compute.device, member.world), 10**6))


def in_a_process(
    settings: BenchSettings, work: Callable[[Job, BlockConfig], Result], *, compiled: bool = False
) -> Result:
    """Run `work` in a process of its own, with the settings' threads, and return its value. work: picklable."""
    with WorkerPool("alone", MeasuredAlone(settings, work, compiled), 1) as pool:
        return pool.finish()[0]


def both_sides(job: Job) -> dict[str, tuple[Chain, Objective]]:
    """ffdist ("ff"), and the same network with one loss ("bp")."""
    return {"ff": (job.chain, job.objective), "bp": (twin(job.chain), BackpropRule())}


class OneStep:
    """A whole training step on random samples, updates included; each call takes one step."""

    def __init__(self, chain: Chain, objective: Objective, config: BlockConfig, batch_size: int) -> None:
        labels = torch.arange(batch_size) % chain.num_classes
        generator = torch.Generator().manual_seed(0)
        pictures = torch.rand(batch_size, *chain.input_shape)
        self.inputs = objective.prepare(pictures, labels, chain.num_classes, generator)
        companion = objective.companion(pictures)
        self.companion = None if companion is None else companion.to(config.device)
        self.labels = labels.to(config.device)
        self.blocks = [build_block(chain, spec, objective, config) for spec in block_specs(chain)]

    def __call__(self) -> None:
        for _ in self.block_by_block():
            pass

    def block_by_block(self) -> Iterator[LearningBlock]:
        """Take one step; yield each block after its update."""
        x: Tensor | None = self.inputs
        for block in self.blocks:
            assert x is not None
            x = learn([block], x, self.labels, 1, self.companion)
            yield block
