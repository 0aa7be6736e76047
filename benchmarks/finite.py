"""The cost of looking for NaN and infinity in every batch: the same blocks with the look and without, step by step.

    python -m benchmarks.finite --models cnnb mlp --pairs 40 --record benchmarks/records

A serial step of SFF, batch 128, random pictures. The same blocks take both steps, one after the other in an order that
is drawn; the figure is the computing time of their thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
import tyro
from torch import Tensor

from benchmarks.changes import BATCH, input_shape
from benchmarks.report import report
from benchmarks.segments import estimate, measured_in_pairs
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.table import ResultTable
from ffdist.models import load_model
from ffdist.objectives import SFF
from ffdist.pipeline.block import BlockConfig, LearningBlock, learn
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.settings import Settings

COLUMNS = {
    "network": "network",
    "precision": "precision",
    "on NaN": "side",
    "ms a step without": "step",
    "cost": "cost:+.2%",
    "at least": "cost.min:+.2%",
    "at most": "cost.max:+.2%",
}


class Steps:
    """Blocks, and a batch that they learn again and again."""

    def __init__(self, model: str, precision: str, on_nan: str) -> None:
        shape = input_shape(model)
        chain = load_model(model, shape, 10, {})
        config = BlockConfig(Settings().changed(precision=precision, on_nan=on_nan), 10**6)
        self.blocks: Sequence[LearningBlock] = [build_block(chain, s, SFF(), config) for s in block_specs(chain)]
        self.checks = [block.check_batches() for block in self.blocks]
        self.batch: tuple[Tensor, Tensor] = (torch.rand(BATCH, *shape), torch.randint(10, (BATCH,)))

    def seconds(self, looked_at: bool) -> float:
        """CPU seconds of one step in this thread. looked_at: whether blocks look for NaN and infinity."""
        for block, check in zip(self.blocks, self.checks, strict=True):
            block.finite_check = check if looked_at else None
        began = time.thread_time()
        learn(self.blocks, *self.batch, 1)
        return time.thread_time() - began


def main(
    models: tuple[str, ...] = ("cnnb", "mlp"),
    precisions: tuple[str, ...] = ("bf16", "fp32"),
    pairs: int = 40,
    record: Path | None = None,
) -> None:
    """Compare, print, record.

    Args:
        models: Built-in networks of convolutional blocks, or mlp.
        precisions: bf16, fp32.
        pairs: Steps with the look, and as many without.
        record: Folder for the record.
    """
    torch.set_num_threads(1)
    made = ResultTable("finite", "A look for NaN in every batch, of a serial step", COLUMNS, {"step": "ms", "cost": ""})
    for model in models:
        for precision in precisions:
            for on_nan in ("stop", "skip"):
                found = measured_in_pairs(Steps(model, precision, on_nan).seconds, pairs)
                without = median(plain for _, plain in found)
                cost = estimate((looked - plain) / without for looked, plain in found)
                made.add(side=on_nan, network=model, precision=precision, step=without * 1e3, cost=cost)
    notes = [
        "cost: the median of the pairs' differences by the median without; at least, at most: the bounds of its 95 %"
    ]
    report(BenchResult("finite", {}, [made], notes), record)


if __name__ == "__main__":
    tyro.cli(main)
