"""One learning step of either side in one process, for what watches it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ffdist.baselines.twin import Backprop, twin
from ffdist.models import Chain
from ffdist.objectives import Objective
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.pipeline.plan import build_block, sites
from ffdist.runtime.job import Job


def both_sides(job: Job) -> dict[str, tuple[Chain, Objective]]:
    """ffdist ("ff"), and the same network with one loss ("bp")."""
    return {"ff": (job.chain, job.objective), "bp": (twin(job.chain), Backprop())}


def one_step(
    chain: Chain, objective: Objective, config: BlockConfig, batch_size: int
) -> tuple[Callable[[], None], list[LearningBlock]]:
    """A whole step on random samples, updates included, yet to be run; and the blocks that it teaches."""
    labels = torch.arange(batch_size) % chain.num_classes
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(batch_size, *chain.input_shape)
    inputs = objective.prepare(pictures, labels, chain.num_classes, generator)
    labels = labels.to(config.device)
    blocks = [build_block(chain, site, objective, config) for site in sites(chain)]

    def step() -> None:
        x: Tensor | None = inputs
        for block in blocks:
            assert x is not None
            local = block.forward(x, labels, 1)
            block.update(local, labels, 1)
            x = local.onward

    return step, blocks
