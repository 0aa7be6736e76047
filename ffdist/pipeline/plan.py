"""The partition of blocks into stages: measure each block, then cut so that the slowest stage is as fast as can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor, nn

from ffdist.device import synchronize
from ffdist.errors import ConfigError, NetworkError, setting
from ffdist.models import Chain, seeded
from ffdist.objectives import BlockSpec, Local, Objective
from ffdist.objectives.base import Following
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.pipeline.contract import at, rule_code
from ffdist.pipeline.fusion import FUSION, Fusion, fusion_layer, fusion_spec, next_tensors
from ffdist.pipeline.smoke_test import TWO, SmallestBatch, smoke_test
from ffdist.settings import Settings

T = TypeVar("T")


def block_specs(chain: Chain, fused: Objective | None = None) -> list[BlockSpec]:
    """One spec a block, with its shapes; where `fused` is given, one more for a fusion head on its features.

    Raises NetworkError when the chain does not fit together, or has no features for a head.
    """
    inputs = [chain.input_shape, *chain.shapes()]
    layouts = chain.layouts()
    following = [
        Following(name, build, layout.to_images)
        for name, build, layout in zip(chain.names, chain.builders, layouts, strict=True)
    ]
    own = [
        BlockSpec(
            i,
            chain.names[i],
            len(chain),
            chain.num_classes,
            inputs[i],
            layout.shape(inputs[i + 1]),
            chain.input_shape,
            tuple(following[i + 1 :]),
            layout.to_next_input,
        )
        for i, layout in enumerate(layouts)
    ]
    return own if fused is None else [*own, fusion_spec(own, fused)]


def build_block(chain: Chain, spec: BlockSpec, objective: Objective, config: BlockConfig) -> LearningBlock:
    """The same block whichever stage builds it: its weights come from (seed, index)."""
    if spec.index == len(chain):
        return LearningBlock(spec, fusion_layer(spec, config.settings.training.seed), Fusion(), config)
    return LearningBlock(
        spec, chain.build(spec.index, config.settings.training.seed), objective, config, chain.layouts()[spec.index]
    )


def check_objective(
    chain: Chain,
    objective: Objective,
    *,
    fusion: bool = False,
    samples: tuple[Tensor, Tensor] | None = None,
    smallest: SmallestBatch = TWO,
) -> None:
    """Raises NetworkError, naming the block, when the objective cannot use one of them or breaks its promises there, or
    when two of them share a parameter. Computes two samples on the CPU; draws no random number of the process's.

    samples: two of the data, float32 [2, *input_shape] with labels int64 [2]; default: made-up ones. smallest: what a
        block will have to learn from at once.
    """
    if FUSION in chain.names:
        raise NetworkError(f"no block may be called '{FUSION}'", expected="another name", got=chain.names)
    places = block_specs(chain)
    chain.check_apart()
    with seeded(0):
        for spec in places:
            head_of(objective, spec)
    if fusion:
        places = block_specs(chain, objective)
    config = BlockConfig(Settings().changed(fusion=fusion), total_steps=1)
    x, y = samples or (torch.randn(2, *chain.input_shape, generator=torch.Generator().manual_seed(0)), torch.arange(2))
    smoke_test(places, lambda spec: build_block(chain, spec, objective, config), chain, objective, x, y, smallest)


def head_of(objective: Objective, spec: BlockSpec) -> nn.Module:
    """The module that the rule adds to a block; NetworkError where it gives no module, or its own code fails."""
    where = f"{at(objective, spec)}, `head`"
    with rule_code(objective, where):
        head = objective.head(spec)
    if not isinstance(head, nn.Module):
        raise NetworkError(
            "the rule's `head` does not give a module",
            where=where,
            expected="an nn.Module",
            got=f"a {type(head).__name__}",
            remedy="return nn.Identity() for none",
        )
    return head


@dataclass(frozen=True, slots=True)
class BlockCost:
    """The measured cost of one block for a batch."""

    name: str
    seconds: float
    """Forward, backward and update of one batch."""
    parameters: int
    activation_bytes: int
    """The bytes of one message on its way to the next block."""


def measure_blocks(
    chain: Chain,
    objective: Objective,
    config: BlockConfig,
    batch_size: int,
    *,
    microbatches: int = 1,
    repeats: int = 5,
    summarize: Callable[[Sequence[float]], float] = min,
) -> list[BlockCost]:
    """Time every block alone on random inputs of the right shape; one block in memory at a time.

    batch_size: samples a batch, which the blocks get in so many microbatches.
    summarize: from the seconds of the repeats to those of the block; other work on the machine only ever adds to a
        time, so that the least of them is disturbed least.
    """
    config = replace(config, settings=config.settings.changed(windows=()))  # every block at work
    costs = []
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(chain.num_classes, (batch_size // microbatches,), generator=generator)
    x: Tensor | None = torch.randn(len(labels), *chain.input_shape, generator=generator)
    companion = objective.companion(x)
    companion = None if companion is None else companion.to(config.device)
    with seeded(0):
        x = objective.prepare(x, labels, chain.num_classes, generator)
    labels = labels.to(config.device)
    features: Tensor | None = None
    for spec in block_specs(chain, objective if config.settings.rule.fusion else None):
        assert x is not None
        block = build_block(chain, spec, objective, config)
        times = []
        local = Local(None, None, None)
        for step in range(repeats + 1):  # the first one warms up
            synchronize(config.device)
            begun = time.perf_counter()
            for part in range(microbatches):
                local = block.forward(x, labels, step, part=part, companion=companion)
                block.update(local, labels, step, share=1 / microbatches, complete=part == microbatches - 1)
            synchronize(config.device)
            times.append(time.perf_counter() - begun)
        parameters = sum(p.numel() for p in block.parts.parameters())
        x, features = next_tensors(local, features)
        companion = None if spec.is_last else companion
        sent = sum(tensor.nbytes for tensor in (x, features, companion) if tensor is not None)
        costs.append(BlockCost(spec.name, summarize(times[1:]), parameters, sent))
    return costs


def split_by_stage(things: Sequence[T], blocks_per_stage: Sequence[int]) -> list[Sequence[T]]:
    """Each stage's own, by the number of blocks in each."""
    return [things[end - size : end] for size, end in zip(blocks_per_stage, accumulate(blocks_per_stage), strict=True)]


def partition(costs: Sequence[float], stages: int) -> list[int]:
    """Blocks per stage, consecutive, so that the largest sum of costs is the smallest possible.

    Raises ConfigError when there are more stages than blocks.
    """
    if not 1 <= stages <= len(costs):
        raise ConfigError(
            "the network cannot be cut into that many stages",
            where=setting("plan.stages"),
            expected=f"1 to {len(costs)}, one block a stage at least",
            got=stages,
            remedy="use fewer stages, or a model with more blocks",
        )
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)

    @cache
    def best(first: int, left: int) -> tuple[float, tuple[int, ...]]:
        """The least possible largest sum over blocks from `first` on in `left` stages, and its cut."""
        if left == 1:
            return total[-1] - total[first], (len(costs) - first,)
        options = []
        for size in range(1, len(costs) - first - left + 2):
            rest, blocks_per_stage = best(first + size, left - 1)
            options.append((max(total[first + size] - total[first], rest), (size, *blocks_per_stage)))
        return min(options)

    return list(best(0, stages)[1])
