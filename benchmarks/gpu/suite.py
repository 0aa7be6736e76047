"""What the parts share: settings, networks, the two kinds of learners, and how they are timed and weighed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ffdist.baselines.base import BaselineConfig, Learner, RankPlace, Replica, WholeNetwork
from ffdist.device import (
    allocated_bytes,
    enter,
    forget_peak,
    free_cached,
    peak_bytes,
    queues,
    recorded,
    seconds_between,
    synchronize,
)
from ffdist.models import Chain, cnnb, mlp, resnet18, vgg8
from ffdist.objectives import SFF, Objective
from ffdist.pipeline.block import BlockConfig, LearningBlock, learn
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.settings import Settings

TIMED = Settings().changed(lr=1e-8, schedule="constant", precision="bf16")
"""One batch is learned from again and again: it must stay unlearned, as products of vanishing gradients take less."""
SIDES = ("ff", "bp")


@dataclass(frozen=True)
class Suite:
    """How everything is measured."""

    device: torch.device
    quick: bool = False
    batch: int = 512
    rounds: int = 7
    seconds: float = 2.0
    data: str | None = None
    settings: Settings = TIMED

    @property
    def train_settings(self) -> Settings:
        """What both kinds of learners are told."""
        return self.settings.changed(batch_size=self.batch)

    def networks(self) -> dict[str, Chain]:
        """Name -> chain, for 32x32 colour pictures and 10 classes."""
        shape = (3, 32, 32)
        if self.quick:
            return {"cnnb": cnnb(shape, 10, (8, 8)), "mlp": mlp(shape, 10, (32, 32))}
        return {
            "mlp 4x2000": mlp(shape, 10),
            "cnnb": cnnb(shape, 10),
            "vgg8": vgg8(shape, 10),
            "resnet18, 4 groups": resnet18(shape, 10),
            "resnet18, 8 blocks": resnet18(shape, 10, split="block"),
        }

    def batch_of(self, chain: Chain) -> tuple[Tensor, Tensor]:
        """Random pictures, float32 channels-last [B, *input_shape], and labels, where the network is."""
        shape = (self.batch, *chain.input_shape)
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        x = torch.empty(shape, device=self.device, memory_format=layout).normal_()
        return x, torch.randint(chain.num_classes, (self.batch,), device=self.device)

    def forward_forward(self, chain: Chain, only: Sequence[int] | None = None) -> list[LearningBlock]:
        """The blocks with their heads and optimisers, all or some."""
        config = BlockConfig(self.train_settings, 10**6, self.device)
        wanted = range(len(chain)) if only is None else only
        return [build_block(chain, spec, RULE, config) for spec in block_specs(chain) if spec.index in wanted]

    def backpropagation(self, chain: Chain, place: RankPlace = RankPlace(0, 1)) -> Learner:  # noqa: B008
        config = BaselineConfig(self.train_settings, 10**6, self.device)
        return Replica(WholeNetwork(chain, config), config, place)

    def begin(self) -> None:
        """Called first in every process and thread: makes our device its current one."""
        enter(self.device)

    def recover(self) -> None:
        """Let go of memory that nobody uses any more. Raises where the device is lost."""
        gc.collect()
        synchronize(self.device)
        free_cached(self.device)

    def wait(self) -> None:
        synchronize(self.device)

    def rate(self, step: Callable[[], object], samples: int) -> float:
        """Samples/s of one round of about `seconds`; the device is waited for some ten times in it."""
        self.wait()
        begun, count, burst = time.perf_counter(), 0, 1
        while True:
            for _ in range(burst):
                step()
            self.wait()
            count, passed = count + burst, time.perf_counter() - begun
            if passed >= self.seconds:
                return count * samples / passed
            burst = max(1, int(count * self.seconds / (10 * passed)))

    def mark(self) -> Any:
        """The end of what the device has been given so far; it is not waited for."""
        return recorded(self.device, timing=True) if queues(self.device) else time.perf_counter()

    def between(self, first: Any, last: Any) -> float:
        """Seconds from one mark to a later one."""
        return seconds_between(first, last) if queues(self.device) else last - first

    def warm(self, step: Callable[[], object]) -> None:
        """Until kernels are loaded, handles made and clocks up."""
        for _ in range(3):
            step()
        replace(self, seconds=self.seconds / 4).rate(step, 1)

    def peak(self, build: Callable[[], Callable[[], object]]) -> int:
        """Peak bytes of tensors from building a learner to its third step; 0 without a GPU.

        A step of another such learner comes first: workspaces, which libraries then keep for good, are no side's own.
        """
        build()()
        self.recover()
        before = allocated_bytes(self.device)
        forget_peak(self.device)
        step = build()
        for _ in range(3):
            step()
        self.wait()
        return peak_bytes(self.device) - before

    def turns(self, sides: dict[str, Callable[[], object]], samples: int) -> dict[str, Any]:
        """Samples/s of each side, A B, B A, A B, ...; medians, spread, and the first side's ratios pair by pair."""
        for step in sides.values():
            self.warm(step)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(self.rounds):
            order = list(sides) if number % 2 == 0 else list(reversed(sides))
            for name in order:
                rates[name].append(self.rate(sides[name], samples))
        first = next(iter(rates))
        return {
            name: summary(own) | {"ratio_of_first": median(a / b for a, b in zip(rates[first], own, strict=True))}
            for name, own in rates.items()
        }


def summary(rates: list[float]) -> dict[str, Any]:
    """A summary of the rounds' samples/s."""
    return {"samples_per_second": median(rates), "least": min(rates), "most": max(rates), "n": len(rates)}


RULE: Objective = SFF()


def ff_step(blocks: list[LearningBlock], x: Tensor, y: Tensor) -> Callable[[], Tensor | None]:
    """One batch through blocks in order, each learning; gives what the last one would send."""
    count = [0]

    def step() -> Tensor | None:
        count[0] += 1
        return learn(blocks, x, y, count[0])

    return step


def learner(suite: Suite, chain: Chain, side: str) -> Callable[[], object]:
    """A step of one side, newly built, on a batch of its own."""
    x, y = suite.batch_of(chain)
    if side == "ff":
        return ff_step(suite.forward_forward(chain), x, y)
    whole = suite.backpropagation(chain)
    return lambda: whole.learn(x, y)
