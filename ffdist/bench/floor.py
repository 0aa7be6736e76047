"""A lower bound by arithmetic: the operations and bytes that a batch needs at least, on either side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ffdist.bench.alone import OperationTimes, slowest_stage, total
from ffdist.bench.harness.table import ResultTable
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
    """The least that one batch needs, in one process."""

    operations: float
    """Multiplications and additions of convolutions and matrix products, forward and backward."""
    optimiser_bytes: int


def floors(settings: BenchSettings) -> dict[str, Floor]:
    """The floors of ffdist ("ff") and of the same network with one loss ("bp")."""
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


COLUMNS = {
    "what": "what",
    "GFLOP a batch": "operations",
    "optimiser MB a batch": "optimiser_bytes",
    "products alone, ms": "products",
    "casts alone, ms": "casts",
    "optimiser alone, ms": "optimiser",
    "all alone, ms": "alone",
    "a batch, ms": "batch",
    "GFLOP/s reached": "reached",
}
UNITS = {
    "operations": "GFLOP",
    "optimiser_bytes": "MB",
    "products": "ms",
    "casts": "ms",
    "optimiser": "ms",
    "alone": "ms",
    "batch": "ms",
    "reached": "GFLOP/s",
}


def floor_table(
    found: dict[str, Floor],
    timed: dict[str, list[OperationTimes]],
    rates: dict[str, float],
    stages: int,
    batch_size: int,
) -> ResultTable:
    """rates: samples/s in one process, of those that were measured."""
    made = ResultTable("floor", "what a batch takes at least", COLUMNS, UNITS)
    for name, floor in found.items():
        whole = batch_size / rates[name] if name in rates else None
        made.add(
            side=name,
            what=f"{name}, one process",
            operations=floor.operations / 1e9,
            optimiser_bytes=floor.optimiser_bytes / 1e6,
            **milliseconds(total(timed[name])),
            batch=whole and 1e3 * whole,
            reached=whole and floor.operations / whole / 1e9,
        )
    made.add(side="ff", what=f"slowest of {stages} stages", **milliseconds(slowest_stage(timed["ff"], stages)))
    return made


def milliseconds(alone: OperationTimes) -> dict[str, float]:
    return {
        name: 1e3 * seconds
        for name, seconds in (
            ("products", alone.products),
            ("casts", alone.casts),
            ("optimiser", alone.optimiser),
            ("alone", alone.seconds),
        )
    }
