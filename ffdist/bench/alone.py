"""A batch's heavy operations, each run alone: the time that no arrangement of the same operations gets below."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.flop_counter import flop_registry

from ffdist.bench.settings import BenchSettings
from ffdist.bench.step import both_sides, one_step
from ffdist.bench.team import Seat, Team
from ffdist.models import Chain
from ffdist.objectives import Objective
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.plan import synchronize
from ffdist.runtime.rank import stage_device

OPTIMISERS = (torch.ops.aten._fused_adamw_, torch.ops.aten._fused_adam_, torch.ops.aten._fused_sgd_)


@dataclass(frozen=True)
class Alone:
    """Of one batch, in one process."""

    products: float
    """Seconds of convolutions and matrix products, forward and backward."""
    optimiser: float
    """Seconds of the fused optimiser."""

    @property
    def seconds(self) -> float:
        return self.products + self.optimiser


@dataclass(frozen=True)
class Laid:
    """How a tensor lies in memory."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self, device: torch.device) -> Tensor:
        """Filled with one small number, which may be a weight, a gradient or a moment."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=device).fill_(0.01)


@dataclass(frozen=True)
class Call:
    """An operation with its arguments, its tensors by how they lie; `tree` puts them together."""

    operation: Callable[..., Any]
    leaves: tuple[Any, ...]
    tree: TreeSpec

    def seconds(self, device: torch.device, repeats: int) -> float:
        """Median over `repeats`, on tensors of its own."""
        leaves = [leaf.made(device) if isinstance(leaf, Laid) else leaf for leaf in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.tree)
        times = []
        for _ in range(repeats + 1):
            synchronize(device)
            begun = time.perf_counter()
            self.operation(*args, **kwargs)
            synchronize(device)
            times.append(time.perf_counter() - begun)
        return median(times[1:])


class HeavyCalls(TorchDispatchMode):
    """Counts the calls of convolutions, matrix products and fused optimisers, below autograd and autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Call] = Counter()
        self.optimisers: Counter[Call] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        for known, calls in ((flop_registry, self.products), (OPTIMISERS, self.optimisers)):
            if func.overloadpacket in known:
                leaves, tree = tree_flatten((args, kwargs))
                calls[Call(func, tuple(map(described, leaves)), tree)] += 1
        return func(*args, **kwargs)


def described(leaf: Any) -> Any:
    return Laid(tuple(leaf.size()), leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf


@dataclass(frozen=True)
class AloneLife:
    """A process that runs each operation of either side as a stage's process would."""

    settings: BenchSettings
    repeats: int

    def __call__(self, seat: Seat) -> dict[str, Alone]:
        s = self.settings
        torch.set_num_threads(s.threads)
        job = s.job(1)()
        config = job.block_config(stage_device(s.device, seat.world), 10**6)
        return {name: replay(heavy_calls(chain, objective, config, s.batch_size), config.device, self.repeats)
                for name, (chain, objective) in both_sides(job).items()}  # fmt: skip


def alone(settings: BenchSettings, repeats: int = 5) -> dict[str, Alone]:
    """Of ffdist ("ff") and of the same network with one loss ("bp"), in a process of its own."""
    with Team("alone", AloneLife(settings, repeats), 1) as team:
        return team.finish()[0]


def heavy_calls(chain: Chain, objective: Objective, config: BlockConfig, batch_size: int) -> HeavyCalls:
    """Of one whole step, update included, on random samples."""
    step, _ = one_step(chain, objective, config, batch_size)
    with HeavyCalls() as calls:
        step()
    return calls


def replay(calls: HeavyCalls, device: torch.device, repeats: int) -> Alone:
    def total(counted: Counter[Call]) -> float:
        return sum(times * call.seconds(device, repeats) for call, times in counted.items())

    with torch.no_grad():
        return Alone(total(calls.products), total(calls.optimisers))
