"""Modules, the blocks that learn together: consecutive ones joined into modules, each with one loss at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import accumulate, count
from math import inf
from time import perf_counter

import torch
from torch import Tensor, nn

from ffdist.device import synchronize
from ffdist.errors import ConfigError, NetworkError, setting
from ffdist.models import Chain, seeded
from ffdist.notes import note
from ffdist.objectives import BlockSpec, Local, Objective
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.runtime.agree import agree
from ffdist.runtime.threads import computing_threads_kept
from ffdist.runtime.torchrun import meet
from ffdist.runtime.worker import set_threads, stage_device
from ffdist.runtime.world import World
from ffdist.settings import Settings

REPEATS = 4
"""How often a block is measured; the least counts."""
MODULE_KEYS = count()
"""The keys of this process, in order: all ranks come by the same ones."""


@dataclass(frozen=True)
class ModuleSeconds:
    """Seconds of a batch, forward and backward: of each block alone, and of the head that the rule puts after it."""

    blocks: tuple[float, ...]
    heads: tuple[float, ...]
    """Infinite where the rule cannot use the block's output."""


def joined_in_modules(settings: Settings, chain: Chain, rule: Objective, units: Sequence[int]) -> Settings:
    """Settings in which `modules` has become `blocks`: a run knows its counts, and never measures them again.

    chain: in its blocks so far. units: how many of the layers or blocks that `blocks` counts make each of these.
    Raises ConfigError for modules that do not cover the blocks, and for several of backpropagation.
    """
    modules = settings.network.modules
    if not modules:
        return settings
    if modules == settings.network.blocks:  # those of a run that goes on
        return settings.changed(modules=())
    if settings.rule.objective == "backprop":
        check_one(modules)
        return settings.changed(modules=())
    counts = counts_of(settings, chain, rule)
    ends = list(accumulate(counts))
    blocks = tuple(sum(units[end - size : end]) for size, end in zip(counts, ends, strict=True))
    if len(counts) < len(chain) or len(chain) == 1:
        note_modules(chain, counts, blocks)
    return settings.changed(modules=(), blocks=blocks)


def check_one(counts: tuple[int, ...]) -> None:
    """Raises ConfigError unless one module is asked for, which is what the twin is."""
    if counts != (1,):
        raise ConfigError(
            "backpropagation's twin is one module",
            where=setting("network.modules"),
            expected="1",
            got=" ".join(map(str, counts)),
            remedy=f"leave it out; or a local rule: {setting('rule.objective', 'dgl')}",
        )


def note_modules(chain: Chain, counts: Sequence[int], blocks: Sequence[int]) -> None:
    """Note which blocks make each module; and, of a single one, that it is no local learning. blocks: as the settings
    keep them."""
    starts = [0, *accumulate(counts)]
    names = ["+".join(chain.names[start : start + size]) for start, size in zip(starts, counts, strict=False)]
    if len(counts) == 1:
        note(f"1 module of all {len(chain)} blocks: its gradient crosses the whole network, which is backpropagation")
    else:
        note(f"{len(counts)} modules: {' | '.join(names)}; kept as blocks {' '.join(map(str, blocks))}")


def counts_of(settings: Settings, chain: Chain, rule: Objective) -> tuple[int, ...]:
    """Blocks in each module, as set, or balanced by measured time. Raises ConfigError for what does not fit."""
    counts, blocks = settings.network.modules, len(chain)
    if len(counts) != 1:
        if sum(counts) != blocks:
            raise ConfigError(
                "the modules do not cover the network",
                where=setting("network.modules"),
                expected=f"counts that sum to {blocks} ({', '.join(chain.names)})",
                got=" ".join(map(str, counts)),
            )
        return counts
    modules = counts[0]
    if modules > blocks:
        raise ConfigError(
            "there are more modules than blocks",
            where=setting("network.modules"),
            expected=f"1 to {blocks} ({', '.join(chain.names)})",
            got=modules,
            remedy="fewer, or a network of more blocks",
        )
    if modules in (1, blocks):
        return (blocks,) if modules == 1 else (1,) * blocks
    world = World.from_env()
    measure = lambda: list(balanced(measured(settings, chain, rule, world or World()), modules))  # noqa: E731
    found = measure() if world is None else by_rank_0(settings, world, f"modules {next(MODULE_KEYS)}", measure)
    return tuple(found)


def by_rank_0(settings: Settings, world: World, key: str, measure: Callable[[], list[int]]) -> list[int]:
    """Measure on rank 0, and share it with every rank; a restarted attempt has the first one's."""
    timeout = timedelta(seconds=settings.run.timeout)
    meeting = meet(world, timeout)

    def decide() -> list[int]:
        if meeting.lasting.check([key]):
            return json.loads(meeting.lasting.get(key))
        found = measure()
        meeting.lasting.set(key, json.dumps(found))
        return found

    return agree(meeting.store, world, key, decide, timeout)


def balanced(parts: ModuleSeconds, modules: int) -> tuple[int, ...]:
    """Blocks in each module, so that the slowest, with the one head at its end, is as fast as can be.

    Raises ConfigError where the rule has too few places for a head.
    """
    total = [0.0, *accumulate(parts.blocks)]

    @cache
    def best(first: int, left: int) -> tuple[float, tuple[int, ...]]:
        """The least possible time of the slowest of `left` modules from block `first` on, and their counts."""
        options = []
        sizes = [len(parts.blocks) - first] if left == 1 else range(1, len(parts.blocks) - first - left + 2)
        for size in sizes:
            end = first + size
            own = total[end] - total[first] + parts.heads[end - 1]
            rest, counts = best(end, left - 1) if left > 1 else (0.0, ())
            options.append((max(own, rest), (size, *counts)))
        return min(options)

    seconds, counts = best(0, modules)
    if seconds == inf:
        raise ConfigError(
            "the rule has no place for so many heads",
            where=setting("network.modules"),
            expected="ends of modules whose outputs the rule can use",
            got=modules,
            remedy=f"fewer modules, or another rule: {setting('rule.objective', 'dgl')}",
        )
    return counts


class ZeroLoss(Objective):
    """A loss that costs nothing, to measure a block alone."""

    def head(self, spec: BlockSpec) -> nn.Module:
        return nn.Identity()

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        return Local(out.mean(dtype=torch.float32), None, out.detach())


def measured(settings: Settings, chain: Chain, rule: Objective, world: World) -> ModuleSeconds:
    """The seconds of each block and head, on random inputs of a part of a batch; one block in memory at a time."""
    device = stage_device(settings.compute.device, world)
    config = BlockConfig(settings.changed(windows=(), block_rates=(), fusion=False), 10**6, device)
    batch = max(2, settings.training.batch_size // (settings.training.microbatches * (settings.training.lanes or 1)))
    numbers = torch.Generator().manual_seed(0)
    y = torch.randint(chain.num_classes, (batch,), generator=numbers)
    x = torch.randn(batch, *chain.input_shape, generator=numbers)
    blocks, heads = [], []
    with seeded(0), computing_threads_kept():
        set_threads(settings.compute.threads, world)
        companion = rule.companion(x)
        companion = None if companion is None else companion.to(device)
        x = rule.prepare(x, y, chain.num_classes, numbers)
        y = y.to(device)
        for spec in block_specs(chain):
            # a head's time is what the block takes with it beyond what it takes alone, under a loss that costs nothing
            alone, next_input = seconds_of(lambda spec=spec: build_block(chain, spec, ZeroLoss(), config), x, y)
            try:
                whole, _ = seconds_of(lambda spec=spec: build_block(chain, spec, rule, config), x, y, companion)
            except NetworkError:  # the rule cannot use this output: no module may end here
                whole = inf
            blocks.append(alone)
            heads.append(max(0.0, whole - alone))
            x = next_input
    return ModuleSeconds(tuple(blocks), tuple(heads))


def seconds_of(
    build: Callable[[], LearningBlock], x: Tensor, y: Tensor, companion: Tensor | None = None
) -> tuple[float, Tensor]:
    """Seconds of a batch, and the input of the next block."""
    block, times = build(), []
    local = Local(None, None, None)
    for step in range(REPEATS + 1):
        synchronize(block.config.device)
        begun = perf_counter()
        local = block.forward(x, y, step, companion=companion)
        block.update(local, y, step)
        synchronize(block.config.device)
        times.append(perf_counter() - begun)
    return min(times[1:]), x if local.next_input is None else local.next_input
