"""An upper bound on the speed of the best cut, from the blocks' times measured one by one."""

from __future__ import annotations

from functools import partial
from statistics import median

from ffdist.bench.settings import BenchSettings
from ffdist.bench.step import in_a_process
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.plan import BlockCost, measure_blocks, partition, split_by_stage
from ffdist.runtime.job import Job


def block_costs(job: Job, config: BlockConfig, repeats: int) -> list[BlockCost]:
    """The cost of each block, measured one by one in this process."""
    training = job.settings.training
    return measure_blocks(
        job.chain,
        job.objective,
        config,
        training.batch_size,
        microbatches=training.microbatches,
        repeats=repeats,
        summarize=median,
    )


def best_speedup(settings: BenchSettings, repeats: int = 10) -> tuple[float, list[int]]:
    """The best cut's speedup over one process: all blocks' time over the slowest stage's; and that cut."""
    seconds = [cost.seconds for cost in in_a_process(settings, partial(block_costs, repeats=repeats))]
    blocks_per_stage = partition(seconds, settings.num_stages)
    return sum(seconds) / max(map(sum, split_by_stage(seconds, blocks_per_stage))), blocks_per_stage
