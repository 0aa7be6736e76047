"""A batch's heavy operations, each run alone: the time that no arrangement of the same operations gets below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.flop_counter import flop_registry

from ffdist.bench.harness.window import seconds_of
from ffdist.bench.settings import BenchSettings
from ffdist.bench.step import OneStep, both_sides, in_a_process
from ffdist.models import Chain
from ffdist.objectives import Objective
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.plan import partition, split_by_stage
from ffdist.runtime.job import Job

CAST = torch.ops.aten._to_copy
OPTIMISERS = (torch.ops.aten._fused_adamw_, torch.ops.aten._fused_adam_, torch.ops.aten._fused_sgd_)


@dataclass(frozen=True)
class OperationTimes:
    """Seconds of a batch's operations, each alone, in one process."""

    products: float
    """Seconds of convolutions and matrix products, forward and backward."""
    casts: float
    """Seconds of autocast's conversions, of weights, maps and gradients."""
    optimiser: float
    """Seconds of the fused optimiser."""

    @property
    def seconds(self) -> float:
        """Seconds of all three kinds together."""
        return self.products + self.casts + self.optimiser


def total(parts: Sequence[OperationTimes]) -> OperationTimes:
    """The sums over blocks, kind by kind."""
    return OperationTimes(*(sum(getattr(part, name.name) for part in parts) for name in fields(OperationTimes)))


def slowest_stage(blocks: Sequence[OperationTimes], stages: int) -> OperationTimes:
    """Seconds of the slowest stage, under the cut that makes it fastest."""
    blocks_per_stage = partition([block.seconds for block in blocks], stages)
    return max((total(stage) for stage in split_by_stage(blocks, blocks_per_stage)), key=lambda a: a.seconds)


@dataclass(frozen=True)
class TensorLayout:
    """A tensor's layout in memory."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def allocate(self, device: torch.device) -> Tensor:
        """Filled with one small number, which may be a weight, a gradient or a moment."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=device).fill_(0.01)


@dataclass(frozen=True)
class RecordedCall:
    """An operation and its flattened arguments, each tensor replaced by its layout; `tree` unflattens them."""

    operation: Callable[..., Any]
    leaves: tuple[Any, ...]
    tree: TreeSpec = field(hash=False)  # torch 2.6 cannot hash one

    def seconds(self, device: torch.device, repeats: int) -> float:
        """Median seconds of `repeats` calls, on newly allocated tensors."""
        leaves = [leaf.allocate(device) if isinstance(leaf, TensorLayout) else leaf for leaf in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.tree)
        times = [seconds_of(partial(self.operation, *args, **kwargs), device) for _ in range(repeats + 1)]
        return median(times[1:])  # the first only warms up


@dataclass(frozen=True)
class HeavyCalls:
    """The heavy operations of a block's step, and how often it has each."""

    products: Counter[RecordedCall] = field(default_factory=Counter)
    casts: Counter[RecordedCall] = field(default_factory=Counter)
    optimisers: Counter[RecordedCall] = field(default_factory=Counter)

    def add(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Count the call if its operation is a heavy one."""
        if func.overloadpacket in flop_registry:
            calls = self.products
        elif func.overloadpacket in OPTIMISERS:
            calls = self.optimisers
        elif func.overloadpacket is CAST and kwargs.get("dtype") not in (None, args[0].dtype):
            calls = self.casts
        else:
            return
        leaves, tree = tree_flatten((args, kwargs))
        calls[RecordedCall(func, tuple(map(described, leaves)), tree)] += 1

    def replay(self, device: torch.device, repeats: int) -> OperationTimes:
        """Time each recorded call by itself. repeats: calls that a median is taken over."""

        def seconds(counted: Counter[RecordedCall]) -> float:
            return sum(times * call.seconds(device, repeats) for call, times in counted.items())

        with torch.no_grad():
            return OperationTimes(seconds(self.products), seconds(self.casts), seconds(self.optimisers))


class OperationRecorder(TorchDispatchMode):
    """Notes heavy operations below autograd and autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = HeavyCalls()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        self.calls.add(func, args, kwargs)
        return func(*args, **kwargs)

    def take(self) -> HeavyCalls:
        """Return the calls recorded since the last `take`, and begin anew."""
        taken, self.calls = self.calls, HeavyCalls()
        return taken


def described(leaf: Any) -> Any:
    """A tensor's layout; any other argument as it is."""
    return TensorLayout(tuple(leaf.size()), leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def alone(settings: BenchSettings, repeats: int = 5) -> dict[str, list[OperationTimes]]:
    """Times of each block's operations: of ffdist ("ff") and of the same network with one loss ("bp").

    They are measured in a process of its own.
    """
    return in_a_process(settings, partial(replayed, repeats=repeats))


def replayed(job: Job, config: BlockConfig, repeats: int) -> dict[str, list[OperationTimes]]:
    """Times of each block's operations, measured in this process; by side."""
    return {
        name: [
            calls.replay(config.device, repeats)
            for calls in heavy_calls(*side, config, job.settings.training.batch_size)
        ]
        for name, side in both_sides(job).items()
    }


def heavy_calls(chain: Chain, objective: Objective, config: BlockConfig, batch_size: int) -> list[HeavyCalls]:
    """The heavy calls of each block, in one whole step on random samples, update included."""
    step = OneStep(chain, objective, config, batch_size)
    with OperationRecorder() as watch:
        return [watch.take() for _ in step.block_by_block()]
