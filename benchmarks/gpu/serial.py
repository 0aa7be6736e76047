"""One GPU, one process: FF against backpropagation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.suite import Suite, ff_step
from ffdist.models import Chain, cnnb


def serial(suite: Suite, rows: Rows) -> None:
    """Samples/s in turns, and peak memory, for each network."""
    for name, chain in suite.networks().items():
        rows.row(partial(compared, suite, chain), name)


def compared(suite: Suite, chain: Chain) -> dict[str, Any]:
    memory = weighed(suite, chain)
    x, y = suite.batch_of(chain)
    learner = suite.backpropagation(chain)
    rates = suite.turns(
        {"ff": ff_step(suite.forward_forward(chain), x, y), "bp": lambda: learner.learn(x, y)}, suite.batch
    )
    return {"batch": suite.batch, "rates": rates, "peak_bytes": memory}


def weighed(suite: Suite, chain: Chain) -> dict[str, int]:
    """Peak bytes of each side alone, with a batch of its own."""

    def forward_forward():
        return ff_step(suite.forward_forward(chain), *suite.batch_of(chain))

    def backpropagation():
        learner, (x, y) = suite.backpropagation(chain), suite.batch_of(chain)
        return lambda: learner.learn(x, y)

    return {"ff": suite.peak(forward_forward), "bp": suite.peak(backpropagation)}


def batch_sweep(suite: Suite, rows: Rows) -> None:
    """Doubling batches: samples/s and memory, until a side's memory ends."""
    sizes = (16, 32) if suite.quick else tuple(2**i for i in range(7, 17))
    short = replace(suite, rounds=3, seconds=min(suite.seconds, 1.0))
    for name, chain in list(suite.networks().items())[:3]:
        for size in sizes:
            row = rows.row(partial(at_batch, replace(short, batch=size), chain), name, str(size))
            if row is None or "ends" in row:
                break


def at_batch(suite: Suite, chain: Chain) -> dict[str, Any]:
    try:
        return compared(suite, chain)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
    suite.recover()
    return {"ends": reason}


def depth_sweep(suite: Suite, rows: Rows) -> None:
    """Equal blocks, 6 to 96: peak bytes of the fullest stage at one block a stage, against the whole network's.

    The network is cnnb, 32 wide; its blocks from the third on are alike, so the first eight are weighed.
    """
    depths = (2, 4) if suite.quick else (6, 12, 24, 48, 96)
    for depth in depths:
        rows.row(partial(at_depth, suite, depth), str(depth))


def at_depth(suite: Suite, depth: int) -> dict[str, Any]:
    chain = cnnb((3, 32, 32), 10, (32,) * depth)
    stages = [peak_of_block(suite, chain, index) for index in range(min(depth, 8))]
    return {"fullest_stage_bytes": max(stages), "bp_bytes": weighed(suite, chain)["bp"]}


def peak_of_block(suite: Suite, chain: Chain, index: int) -> int:
    """Of one block as a stage of its own: it alone is built, and fed with what it would receive."""

    def build():
        block = suite.forward_forward(chain, range(index, index + 1))
        x, y = suite.batch_of(chain)
        if index:
            x = torch.randn(suite.batch, *block[0].site.input_shape, device=suite.device, dtype=torch.bfloat16)
            x = x.contiguous(memory_format=torch.channels_last)
        return ff_step(block, x, y)

    return suite.peak(build)
