"""One GPU, one process: FF against backpropagation."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.suite import Suite, ff_step
from ffdist.models import Chain, cnnb


def serial(suite: Suite) -> dict[str, Any]:
    """Samples/s in turns, and peak memory, for each network."""
    return {name: compared(suite, chain) for name, chain in suite.networks().items()}


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


def batch_sweep(suite: Suite) -> dict[str, Any]:
    """Doubling batches: samples/s and memory, until a side's memory ends."""
    results: dict[str, Any] = {}
    sizes = (16, 32) if suite.quick else tuple(2**i for i in range(7, 17))
    short = replace(suite, rounds=3, seconds=min(suite.seconds, 1.0))
    for name, chain in list(suite.networks().items())[:3]:
        rows = []
        for size in sizes:
            here = replace(short, batch=size)
            try:
                rows.append(compared(here, chain))
            except torch.OutOfMemoryError as error:
                rows.append({"batch": size, "out_of_memory": str(error).splitlines()[0]})
                break
            finally:
                gc.collect()
                if suite.device.type == "cuda":
                    torch.cuda.empty_cache()
        results[name] = rows
    return results


def depth_sweep(suite: Suite) -> dict[str, Any]:
    """Equal blocks, 6 to 96: peak bytes of the fullest stage at one block a stage, against the whole network's."""
    depths = (2, 4) if suite.quick else (6, 12, 24, 48, 96)
    rows = []
    for depth in depths:
        chain = cnnb((3, 32, 32), 10, (32,) * depth)
        stages = [peak_of_block(suite, chain, index) for index in range(depth if suite.quick else min(depth, 8))]
        rows.append({"blocks": depth, "fullest_stage_bytes": max(stages), "bp_bytes": weighed(suite, chain)["bp"]})
    note = "blocks from the third on are alike, so the first eight are weighed"
    return {"network": "cnnb, 32 wide", "batch": suite.batch, "note": note, "rows": rows}


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
