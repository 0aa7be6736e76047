"""What the arithmetic allows: the operations and bytes that a batch cannot do without, on either side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ffdist.bench.alone import Alone, slowest_stage, total
from ffdist.bench.finding import Cell, Grid
from ffdist.bench.settings import BenchSettings
from ffdist.bench.step import OneStep, both_sides
from ffdist.models import Chain
from ffdist.objectives import Objective
from ffdist.pipeline.block import BlockConfig

SAMPLES = 4
"""Operations grow with the batch: a few samples tell."""
OPTIMISER_BYTES = {"adamw": 28, "adam": 28, "sgd": 20, "muon": 20}
"""Read and written for each parameter in a step: weight, gradient and moments, float32."""


class Floor(NamedTuple):
    """Of one batch, in one process."""

    operations: float
    """Multiplications and additions of convolutions and matrix products, forward and backward."""
    optimiser_bytes: int


def floors(settings: BenchSettings) -> dict[str, Floor]:
    """Of ffdist ("ff") and of the same network with one loss ("bp")."""
    job = settings.job(1)()
    config = job.block_config(torch.device("cpu"), 10**6)
    bytes_each = OPTIMISER_BYTES[settings.train.optim.optimizer]
    found = {}
    for name, (chain, objective) in both_sides(job).items():
        operations, parameters = count(chain, objective, config)
        found[name] = Floor(operations * settings.batch_size / SAMPLES, parameters * bytes_each)
    return found


def count(chain: Chain, objective: Objective, config: BlockConfig) -> tuple[int, int]:
    """Operations that `SAMPLES` samples take, and parameters learned."""
    step = OneStep(chain, objective, config, SAMPLES)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops(), sum(p.numel() for block in step.blocks for p in block.learned)


def floor_grid(
    found: dict[str, Floor], timed: dict[str, list[Alone]], rates: dict[str, float], stages: int, batch_size: int
) -> Grid:
    """rates: samples/s in one process, of those that were measured."""
    rows: list[dict[str, Cell]] = []
    for name, floor in found.items():
        whole = batch_size / rates[name] if name in rates else None
        rows.append({
            "what": f"{name}, one process", "GFLOP a batch": floor.operations / 1e9,
            "optimiser MB a batch": floor.optimiser_bytes / 1e6, **alone_cells(total(timed[name])),
            "a batch, ms": whole and 1e3 * whole, "GFLOP/s reached": whole and floor.operations / whole / 1e9,
        })  # fmt: skip
    rows.append({
        "what": f"slowest of {stages} stages", "GFLOP a batch": None, "optimiser MB a batch": None,
        **alone_cells(slowest_stage(timed["ff"], stages)), "a batch, ms": None, "GFLOP/s reached": None,
    })  # fmt: skip
    return Grid("what a batch takes at least", rows)


def alone_cells(alone: Alone) -> dict[str, Cell]:
    return {"products alone, ms": 1e3 * alone.products, "casts alone, ms": 1e3 * alone.casts,
            "optimiser alone, ms": 1e3 * alone.optimiser, "all alone, ms": 1e3 * alone.seconds}  # fmt: skip
