"""The least cost of a batch, FF and backpropagation: operations and bytes counted, the time they take alone, and the
time of whole blocks without heads.

python -m benchmarks.floors --record benchmarks/records
"""

from __future__ import annotations

from pathlib import Path

import tyro

from benchmarks.report import report
from ffdist.bench.alone import OperationTimes, alone, slowest_stage, total
from ffdist.bench.bare import StepTimes, steps
from ffdist.bench.floor import Floor, floors
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.table import ResultTable, Value
from ffdist.bench.settings import BenchSettings

NETWORKS = (
    BenchSettings().changed(data="data/mnist", model="mlp"),
    BenchSettings().changed(data="data/cifar10", model="cnnb"),
    BenchSettings().changed(data="data/cifar10", model="vgg8"),
    BenchSettings().changed(data="data/cifar10", model="resnet18", split="block"),
    BenchSettings().changed(data="data/cifar10", model="resnet18", split="group"),
)


FLOOR = {
    "network": "network",
    "FF, GFLOP": "FF/operations",
    "BP, GFLOP": "BP/operations",
    "BP / FF": "BP/operations_ratio",
    "optimiser, MB": "FF/optimiser_bytes",
    "FF alone, ms": "FF/alone",
    "BP alone, ms": "BP/alone",
    "BP / FF by time": "BP/alone_ratio",
    "slower of 2 stages, ms": "FF/slower_stage",
}
FLOOR_UNITS = {
    "operations": "GFLOP",
    "operations_ratio": "BP / FF",
    "optimiser_bytes": "MB",
    "alone": "ms",
    "alone_ratio": "BP / FF",
    "slower_stage": "ms",
}
BARE = {
    "network": "network",
    "BP, ms": "BP/step",
    "FF, ms": "FF/step",
    "FF without heads, ms": "FF without heads/step",
    "BP / FF": "FF/ratio",
    "BP / without heads": "FF without heads/ratio",
    "slower of 2 stages without heads, ms": "FF without heads/slower_stage",
    "samples/s of it": "FF without heads/throughput",
    "n": "BP/step.n",
}
BARE_UNITS = {"step": "ms", "ratio": "BP / it", "slower_stage": "ms", "throughput": "samples/s"}


def add_floor(
    made: ResultTable, settings: BenchSettings, found: dict[str, Floor], timed: dict[str, list[OperationTimes]]
) -> None:
    """Add a network's lines: the operations and bytes of a batch, and the time that they take alone."""
    seconds = {side: total(timed[side]).seconds for side in ("ff", "bp")}
    keys = {"network": settings.network, "rule": settings.train.rule.objective}
    made.add(
        side="FF",
        **keys,
        operations=found["ff"].operations / 1e9,
        alone=1e3 * seconds["ff"],
        optimiser_bytes=found["ff"].optimiser_bytes / 1e6,
        slower_stage=1e3 * slowest_stage(timed["ff"], 2).seconds,
    )
    made.add(
        side="BP",
        **keys,
        operations=found["bp"].operations / 1e9,
        alone=1e3 * seconds["bp"],
        operations_ratio=found["bp"].operations / found["ff"].operations,
        alone_ratio=seconds["bp"] / seconds["ff"],
    )


def add_bare(made: ResultTable, settings: BenchSettings, took: StepTimes, rounds: int) -> None:
    """Add a network's line: whole steps beside blocks without heads, in CPU seconds."""
    bare, slower = sum(took.bare), took.slower_stage()
    keys = {"network": settings.network, "rule": settings.train.rule.objective}
    made.add(side="BP", **keys, step=Value(1e3 * took.bp, rounds))
    made.add(side="FF", **keys, step=Value(1e3 * took.ff, rounds), ratio=took.bp / took.ff)
    made.add(
        side="FF without heads",
        **keys,
        step=Value(1e3 * bare, rounds),
        ratio=took.bp / bare,
        slower_stage=1e3 * slower,
        throughput=settings.batch_size / slower,
    )


def main(rounds: int = 11, record: Path | None = None) -> None:
    """Count, print, record.

    Args:
        rounds: Turns of both sides and of blocks without heads.
        record: Folder for the record.
    """
    tables = [
        ResultTable("floors", "a batch of 128, forward and backward, in one process", FLOOR, FLOOR_UNITS),
        ResultTable("bare", "whole steps, and blocks without heads", BARE, BARE_UNITS),
    ]
    for settings in NETWORKS:
        add_floor(tables[0], settings, floors(settings), alone(settings))
        add_bare(tables[1], settings, steps(settings, rounds), rounds)
    notes = [
        "operations of convolutions and matrix products, with SFF's heads; optimiser: what it reads and writes",
        "alone: the same operations, autocast's casts and the optimiser, each by itself as in a step; medians of 5",
        "whole steps in turns, computing time of one thread, medians; without heads: each block with a gradient of its "
        "output that is there already, as if the rule's loss cost nothing: no local rule is faster with these blocks",
    ]
    report(BenchResult("floors", {}, tables, notes), record)


if __name__ == "__main__":
    tyro.cli(main)
