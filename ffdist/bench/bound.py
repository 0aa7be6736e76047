"""What the best cut could give, from the blocks' times measured one by one."""

from __future__ import annotations

import torch

from ffdist.bench.settings import BenchSettings
from ffdist.pipeline.plan import BlockCost, measure_blocks, partition
from ffdist.runtime.rank import stage_device
from ffdist.runtime.world import World


def block_costs(settings: BenchSettings, repeats: int = 10) -> list[BlockCost]:
    """Each block's time alone, in this process."""
    torch.set_num_threads(settings.threads)
    job = settings.job(1)()
    config = job.block_config(stage_device(settings.device, World()), 10**6)
    return measure_blocks(job.chain, job.objective, config, settings.batch_size, microbatches=settings.microbatches,
                          repeats=repeats)  # fmt: skip


def best_speedup(settings: BenchSettings) -> tuple[float, list[int]]:
    """How much faster than one process the best cut can be: all blocks' time over the slowest stage's; and that cut."""
    seconds = [cost.seconds for cost in block_costs(settings)]
    cut = partition(seconds, settings.num_stages)
    slowest = max(sum(seconds[sum(cut[:i]) :][:n]) for i, n in enumerate(cut))
    return sum(seconds) / slowest, cut
