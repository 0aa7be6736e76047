"""The gain of each optimisation: the same serial step with it and without it, in turns.

    python -m benchmarks.changes --models cnnb vgg8 mlp --rounds 5 --record benchmarks/records

Two processes live at once and take turns, one with everything, one without the change; the figure is the computing
time of a thread, so that other work on the machine counts little. Random pictures of CIFAR-10's shape (for an MLP of
MNIST's), batch 128, bf16.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.report import report
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.summary import Summary, ratios
from ffdist.bench.harness.table import ResultTable, spread_of
from ffdist.bench.harness.worker_pool import PoolMember, WorkerPool
from ffdist.bench.step import OneStep
from ffdist.models import load_model
from ffdist.objectives import SFF
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.settings import Settings

BATCH = 128


class MapNorm(nn.Module):
    """Layer norm as it is usually written, over [C, H, W] of a map."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight = norm.weight
        self.bias = norm.bias

    def forward(self, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[1:]) * self.weight[:, None, None] + self.bias[:, None, None]


def contiguous(blocks: list[LearningBlock]) -> None:
    """Undo channels-last: weights and maps lie in memory as [N, C, H, W]."""
    for block in blocks:
        block.parts.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        block._to_device = lambda x: x.contiguous()


def norm_over_maps(blocks: list[LearningBlock]) -> None:
    """Undo the norm over the channels-last view: heads normalise [C, H, W] as it is usually written."""
    for block in blocks:
        block.head.norm = MapNorm(block.head.norm)  # pyright: ignore[reportArgumentType]


def relu_before_pool(blocks: list[LearningBlock]) -> None:
    """Undo the order that is cheaper: ReLU comes before the max pool, on four times as many numbers."""
    for block in blocks:
        kinds = [type(layer) for layer in block.module.children()]
        if nn.MaxPool2d in kinds:
            pool = kinds.index(nn.MaxPool2d)
            block.module[pool], block.module[pool + 1] = block.module[pool + 1], block.module[pool]  # pyright: ignore[reportIndexIssue]


def unfused(blocks: list[LearningBlock]) -> None:
    """Undo the fused optimiser: torch's own AdamW, parameter by parameter."""
    for block in blocks:
        block.optimizer = torch.optim.AdamW(block.learned)
        block.lr_scheduler = LambdaLR(block.optimizer, lambda _: 1.0)


class Change(NamedTuple):
    """One optimisation, and how it is undone: in the blocks, or in their process."""

    predicted: str
    """Expected quotient of the time without the change and the time with it, with the reason."""
    undo: Callable[[list[LearningBlock]], None] | None = None
    maps_only: bool = False
    keep_memory: bool = True


CHANGES = {
    "channels-last maps": Change("1.5 to 2: no reordering around each convolution", contiguous, maps_only=True),
    "the norm over the channels-last view": Change(
        "1.1 to 1.3: two copies a block less", norm_over_maps, maps_only=True
    ),
    "freed memory kept": Change("1.2 where maps exceed 32 MiB (a fault for every 4 KiB), else 1", keep_memory=False),
    "ReLU after max pools": Change(
        "1.01 to 1.05: three quarters of two passes over a map", relu_before_pool, maps_only=True
    ),
    "fused AdamW": Change("1.02 to 1.1: one pass over weights and moments for six", unfused),
}


@dataclass(frozen=True)
class TrainerMain:
    """A process with a serial trainer; each order is a number of steps, answered with seconds a step."""

    model: str
    without: str | None

    def __call__(self, member: PoolMember) -> None:
        torch.set_num_threads(1)
        chain = load_model(self.model, input_shape(self.model), 10, {})
        step = OneStep(chain, SFF(), BlockConfig(Settings().changed(precision="bf16"), 10**6), BATCH)
        if self.without and (undo := CHANGES[self.without].undo):
            undo(step.blocks)
        while (steps := member.next_order()) is not None:
            begun = time.thread_time()
            for _ in range(steps):
                step()
            member.answer((time.thread_time() - begun) / steps)


def input_shape(model: str) -> tuple[int, int, int]:
    """(C, H, W) of the pictures: MNIST's for an MLP, else CIFAR-10's."""
    return (1, 28, 28) if model == "mlp" else (3, 32, 32)


COLUMNS = {
    "change": "change",
    "network": "network",
    "predicted": "without/predicted",
    "without, ms": "without/step",
    "with, ms": "with/step",
    "gain": "without/gain",
    **spread_of("without/gain"),
}


def compare(made: ResultTable, model: str, change: str, rounds: int) -> None:
    """Measure one change on one network, and add its line to the table."""
    with ExitStack() as ends:
        pools = [
            ends.enter_context(WorkerPool(model, TrainerMain(model, without), 1, keep_memory=keep))
            for without, keep in ((None, True), (change, CHANGES[change].keep_memory))
        ]
        steps = max(2, round(1 / pools[0].ask(2)))
        pools[1].ask(2)
        turns = [[pool.ask(steps) for pool in pools] for _ in range(rounds)]
    gain = ratios([b for _, b in turns], [a for a, _ in turns])
    with_it, without = (Summary.of([1e3 * seconds for seconds in side]) for side in zip(*turns, strict=True))
    made.add(side="with", network=model, change=change, step=with_it)
    made.add(side="without", network=model, change=change, step=without, gain=gain, predicted=CHANGES[change].predicted)


def main(models: tuple[str, ...] = ("cnnb", "vgg8", "mlp"), rounds: int = 5, record: Path | None = None) -> None:
    """Compare, print, record.

    Args:
        models: Built-in networks of convolutional blocks, or mlp.
        rounds: Turns of both sides.
        record: Folder for the record.
    """
    title = "a serial step of SFF, batch 128, bf16, computing time of one thread"
    made = ResultTable("changes", title, COLUMNS, {"step": "ms", "gain": "without / with", "predicted": ""})
    for model in models:
        for name, change in CHANGES.items():
            if model != "mlp" or not change.maps_only:
                compare(made, model, name, rounds)
    note = "all are for both sides of every comparison with DDP, but the norm, which is SFF's own"
    report(BenchResult("changes", {}, [made], [note]), record)


if __name__ == "__main__":
    tyro.cli(main)
