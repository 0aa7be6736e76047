"""What the best cut could give, from the blocks' times measured one by one."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch

from ffdist.bench.settings import BenchSettings
from ffdist.bench.team import Seat, Team
from ffdist.pipeline.plan import BlockCost, dealt, measure_blocks, partition
from ffdist.runtime.rank import stage_device


@dataclass(frozen=True)
class CostsLife:
    """A process that measures as a stage would compute."""

    settings: BenchSettings
    repeats: int

    def __call__(self, seat: Seat) -> list[BlockCost]:
        s = self.settings
        torch.set_num_threads(s.threads)
        job = s.job(1)()
        config = job.block_config(stage_device(job.settings.compute.device, seat.world), 10**6)
        return measure_blocks(
            job.chain,
            job.objective,
            config,
            s.batch_size,
            microbatches=s.train.training.microbatches,
            repeats=self.repeats,
            of=median,
        )


def block_costs(settings: BenchSettings, repeats: int = 10) -> list[BlockCost]:
    """Each block's time alone, in a process of its own."""
    with Team("costs", CostsLife(settings, repeats), 1) as team:
        return team.finish()[0]


def best_speedup(settings: BenchSettings) -> tuple[float, list[int]]:
    """How much faster than one process the best cut can be: all blocks' time over the slowest stage's; and that cut."""
    seconds = [cost.seconds for cost in block_costs(settings)]
    cut = partition(seconds, settings.num_stages)
    return sum(seconds) / max(map(sum, dealt(seconds, cut))), cut
