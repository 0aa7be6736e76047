"""The common part of the suite: settings, networks, and the two kinds of learners; the harness times and weighs
them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ffdist.baselines.base import BaselineConfig, Learner, RankPlace, Replica, WholeNetwork
from ffdist.bench.harness import meter
from ffdist.bench.harness.rounds import Rounds, StepSide, Unwatched, calibrated, take_turns
from ffdist.bench.harness.summary import Summary
from ffdist.device import enter
from ffdist.models import Chain, cnnb, mlp, resnet18, vgg8
from ffdist.objectives import SFF, Objective
from ffdist.pipeline.block import BlockConfig, LearningBlock, learn
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.settings import Settings

TIMED = Settings().changed(lr=1e-8, schedule="constant", precision="bf16")
"""One batch is learned from again and again: it must stay unlearned, as products of vanishing gradients take less."""
SIDES = ("ff", "bp")
RULE: Objective = SFF()
UNITS = {
    "throughput": "samples/s",
    "ratio": "",
    "peak": "bytes",
    "ends": "",
    "time": "s",
    "busy": "s",
    "calls": "",
    "received": "bytes",
    "sent": "bytes",
    "stage": "bytes",
    "share": "bytes",
    "share_batch": "samples",
    "cut": "blocks",
    "refused": "",
    "accuracy": "",
    "mean": "",
}
"""The unit of every metric of every part."""
Step = Callable[[], object]


@dataclass(frozen=True)
class Suite:
    """The settings by which everything is measured."""

    device: torch.device
    quick: bool = False
    batch: int = 512
    rounds: int = 7
    seconds: float = 2.0
    data: str | None = None
    settings: Settings = TIMED

    @property
    def train_settings(self) -> Settings:
        """The settings of both kinds of learners."""
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

    def learner(self, chain: Chain, side: str) -> Step:
        """The whole network with one loss, on one device."""
        """A step of one side, newly built, on a batch of its own."""
        x, y = self.batch_of(chain)
        if side == "ff":
            return ff_step(self.forward_forward(chain), x, y)
        return partial(self.backpropagation(chain).learn, x, y)

    def begin(self) -> None:
        """Make the suite's device the current one of this process or thread."""
        enter(self.device)

    def recover(self) -> None:
        meter.recover(self.device)

    def peak(self, build: Callable[[], Step]) -> int:
        return meter.peak_of_steps(build, self.device)

    def turns(self, sides: dict[str, Step], rounds: int | None = None) -> Rounds:
        """Samples/s of each side, A B, B A, A B, ..., in windows of about `seconds`."""
        steps = [StepSide(name, step, self.batch, self.device) for name, step in sides.items()]
        return take_turns([calibrated(side, self.seconds) for side in steps], Unwatched(), rounds or self.rounds)

    def rate(self, step: Step, rounds: int = 1) -> Summary:
        """Samples/s of one step alone."""
        return self.turns({"": step}, rounds).rate("")


def ff_step(blocks: list[LearningBlock], x: Tensor, y: Tensor) -> Callable[[], Tensor | None]:
    """One batch through blocks in order, each learning; gives what the last one would send."""
    count = [0]

    def step() -> Tensor | None:
        count[0] += 1
        return learn(blocks, x, y, count[0])

    return step
