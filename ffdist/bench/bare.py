"""Whole blocks without heads: what a step would take by a rule whose loss cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ffdist.bench.harness.worker_pool import PoolMember, WorkerPool
from ffdist.bench.settings import BenchSettings
from ffdist.bench.step import OneStep, both_sides
from ffdist.pipeline.plan import partition, split_by_stage
from ffdist.pipeline.precision import autocast
from ffdist.runtime.worker import stage_device


class BareBlocks:
    """The blocks of a step, each with an input, and a gradient of its output, that are there already.

    What they do is what every local rule has them do, and backpropagation, too: convolutions and products but for
    those that give an input its gradient, norms, pools, activations, updates. Heads, and norms that belong to them, are
    left out.
    """

    def __init__(self, step: OneStep) -> None:
        self.blocks = step.blocks
        self.inputs = list[Tensor]()
        self.gradients = list[Tensor]()
        x: Tensor | None = step.inputs
        for block in step.blocks:
            assert x is not None
            self.inputs.append(x)
            x = block.forward(x, step.labels, 1).next_input
        for index in range(len(self.blocks)):
            self.gradients.append(torch.full_like(self.output(index), 1e-3))

    def output(self, index: int) -> Tensor:
        config = self.blocks[index].config
        with autocast(config.device, config.settings.compute.precision):
            return self.blocks[index].module(self.inputs[index])

    def __call__(self) -> list[float]:
        """Take one step; CPU seconds of each block."""
        return [seconds(partial(self.learn, index)) for index in range(len(self.blocks))]

    def learn(self, index: int) -> None:
        """Forward pass, backward pass from the given gradient, and update of one block."""
        self.output(index).backward(self.gradients[index])
        if optimizer := self.blocks[index].optimizer:
            optimizer.step()
            optimizer.zero_grad()


class StepTimes(NamedTuple):
    """Median CPU seconds for one batch in one process."""

    ff: float
    bp: float
    bare: list[float]
    """Block by block."""

    def slower_stage(self, stages: int = 2) -> float:
        """Seconds of the slowest stage of bare blocks, under the cut that makes it fastest."""
        return max(map(sum, split_by_stage(self.bare, partition(self.bare, stages))))


@dataclass(frozen=True)
class StepsMain:
    """A process that takes whole steps of one side, or of bare blocks: each order is a number of steps, answered with
    seconds a step, of bare blocks block by block."""

    settings: BenchSettings
    side: Literal["ff", "bp", "bare"]

    def __call__(self, member: PoolMember) -> None:
        s = self.settings
        torch.set_num_threads(s.threads)
        job = s.job(1)()
        config = job.block_config(stage_device(job.settings.compute.device, member.world), 10**6)
        step = OneStep(*both_sides(job)["bp" if self.side == "bp" else "ff"], config, s.batch_size)
        bare = BareBlocks(step) if self.side == "bare" else None
        while (count := member.next_order()) is not None:
            taken = [bare() if bare else [seconds(step)] for _ in range(count)]
            member.answer([sum(times) / count for times in zip(*taken, strict=True)])


def steps(settings: BenchSettings, rounds: int) -> StepTimes:
    """Times of whole steps of both sides and of bare blocks, in turns of about a second.

    Each has a process of its own, as in training: within one they would take the caches from each other, and which gets
    what memory would be a matter of chance.
    """
    with ExitStack() as ends:
        pools = [ends.enter_context(WorkerPool(side, StepsMain(settings, side), 1)) for side in ("ff", "bp", "bare")]
        count = max(2, round(1 / max(sum(pool.ask(2)) for pool in pools)))
        turns = [[pool.ask(count) for pool in pools] for _ in range(rounds)]
    ff, bp, bare = ([median(times) for times in zip(*side, strict=True)] for side in zip(*turns, strict=True))
    return StepTimes(sum(ff), sum(bp), bare)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this thread, which other work on the machine changes little."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
