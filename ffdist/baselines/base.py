"""The common part of all baselines: their settings, and the work of one rank on a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ffdist.device import moved
from ffdist.models import Chain, derive_seed, seeded
from ffdist.pipeline.average import WeightAverage
from ffdist.pipeline.block import module_to, to_device
from ffdist.pipeline.compiled import compile_block
from ffdist.pipeline.lr_schedule import build_lr_scheduler
from ffdist.pipeline.optim import build_optimizer
from ffdist.pipeline.precision import autocast
from ffdist.settings import Settings


@dataclass(frozen=True, slots=True)
class BaselineConfig:
    """A baseline's settings, device and number of steps: those of ffdist's side."""

    settings: Settings
    total_steps: int
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    compiled: bool = False
    """Let torch.compile rewrite the blocks."""

    def autocast(self) -> torch.autocast:
        """A context in which operations run in the settings' precision."""
        return autocast(self.device, self.settings.compute.precision)


class RankPlace(NamedTuple):
    """One rank among those that train together; they have formed torch.distributed's default group."""

    rank: int
    size: int


class Learner(Protocol):
    """One rank of a network that learns by backpropagation."""

    shard: tuple[int, int] | None
    """(i, n): the rank learns from the i-th of n slices of each batch. None: it takes no batches of its own."""
    modules: nn.Module
    """What this rank holds of the network."""
    optimizer: torch.optim.Optimizer

    def learn(self, x: Tensor | None, y: Tensor | None) -> None:
        """One batch: x [N, *input_shape] and labels int64 [N] of this rank's slice; both None without a shard."""
        ...


class Baseline(Protocol):
    """Builds one rank's part of a network that is trained by backpropagation.

    Raises NetworkError or ConfigError, with the reason, where the method does not fit the network.
    """

    def __call__(self, chain: Chain, config: BaselineConfig, place: RankPlace) -> Learner: ...


class WholeNetwork(nn.Module):
    """All blocks, with the first weights of ffdist's, and the classifier: [B, *input_shape] -> logits [B, K]."""

    def __init__(self, chain: Chain, config: BaselineConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(chain.build(index, config.settings.training.seed) for index in range(len(chain)))
        with seeded(derive_seed(config.settings.training.seed, "weights", len(chain))):  # the same on every rank
            self.blocks.append(chain.classifier())
        self.names = [*(name.replace(".", "_") for name in chain.names), "classifier"]
        module_to(self, config.device)
        if config.compiled:
            for block in self.blocks:
                compile_block(block)

    def by_name(self) -> nn.ModuleDict:
        """The blocks and the classifier by name, as an optimiser with rates for heads tells them apart."""
        return nn.ModuleDict(dict(zip(self.names, self.blocks, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Replica:
    """A rank that holds the whole network and learns from its slice of each batch, in `accumulate` parts.

    forward: the module to call in place of `whole`, DDP's wrapper, say. hold: a context in which a backward pass does
    not exchange gradients, for all parts but the last.
    """

    def __init__(
        self,
        whole: WholeNetwork,
        config: BaselineConfig,
        place: RankPlace,
        *,
        forward: nn.Module | None = None,
        accumulate: int = 1,
        hold: partial[AbstractContextManager[None]] = partial(nullcontext),  # noqa: B008
    ) -> None:
        self.modules: nn.Module = whole
        self.config = config
        self.shard: tuple[int, int] | None = (place.rank, place.size)
        self.forward = forward or whole
        self.accumulate = accumulate
        self.hold = hold
        self.optimizer, self.schedule = optimised(whole.by_name(), config)
        decay = config.settings.optim.ema
        self.average = None if decay is None else WeightAverage(nn.ModuleDict({"whole": whole}), decay)

    def learn(self, x: Tensor | None, y: Tensor | None) -> None:
        assert x is not None
        assert y is not None
        parts = list(zip(x.chunk(self.accumulate), y.chunk(self.accumulate), strict=True))
        for x_part, y_part in parts[:-1]:
            with self.hold():
                self._backward(x_part, y_part)
        self._backward(*parts[-1])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self.accumulate == 1)  # parts would put new ones beside DDP's buckets
        if self.average:
            self.average.update(nn.ModuleDict({"whole": self.modules}))
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()

    def _backward(self, x: Tensor, y: Tensor) -> None:
        x, y = to_device(x, self.config.device), moved(y, self.config.device)
        with self.config.autocast():
            loss = cross_entropy(self.forward(x), y, self.config) / self.accumulate
        loss.backward()

    @property
    def evaluated(self) -> nn.Module:
        """The weights that predict: the moving average of the weights where there is one."""
        return self.average.parts["whole"] if self.average else self.modules


def cross_entropy(logits: Tensor, y: Tensor, config: BaselineConfig) -> Tensor:
    """Cross-entropy of logits [N, K] and labels int64 [N] or shares [N, K], smoothed as ffdist's blocks have it."""
    return F.cross_entropy(logits.float(), y, label_smoothing=config.settings.rule.label_smoothing)


def optimised(
    module: nn.Module, config: BaselineConfig
) -> tuple[torch.optim.Optimizer, LRScheduler | ReduceLROnPlateau]:
    """The fused optimiser and the schedule that ffdist's blocks have, over all parameters."""
    optimizer = build_optimizer(config.settings.optim, module)
    assert optimizer, "a network has parameters"
    settings = config.settings
    return optimizer, build_lr_scheduler(settings.scheduler, optimizer, config.total_steps, settings.training.epochs)
