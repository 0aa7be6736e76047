"""What a batch costs at least, FF and backpropagation: operations and bytes counted, and the time they take alone.

python benchmarks/floors.py --record benchmarks/records
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro
from rich.console import Console

from ffdist.bench.alone import alone, slowest_stage, total
from ffdist.bench.finding import Cell, Finding, Grid
from ffdist.bench.floor import floors
from ffdist.bench.record import write_record
from ffdist.bench.settings import BenchSettings

NETWORKS = (
    BenchSettings(data="data/mnist", model="mlp"),
    BenchSettings(data="data/cifar10", model="cnnb"),
    BenchSettings(data="data/cifar10", model="vgg8"),
    BenchSettings(data="data/cifar10", model="resnet18", split="block"),
    BenchSettings(data="data/cifar10", model="resnet18", split="group"),
)


def row(settings: BenchSettings) -> dict[str, Cell]:
    ff, bp = (floors(settings)[side] for side in ("ff", "bp"))
    timed = alone(settings)
    alone_ff, alone_bp = total(timed["ff"]).seconds, total(timed["bp"]).seconds
    return {"network": settings.network, "FF, GFLOP": ff.operations / 1e9, "BP, GFLOP": bp.operations / 1e9,
            "BP / FF": bp.operations / ff.operations, "optimiser, MB": ff.optimiser_bytes / 1e6,
            "FF alone, ms": 1e3 * alone_ff, "BP alone, ms": 1e3 * alone_bp, "BP / FF by time": alone_bp / alone_ff,
            "slower of 2 stages, ms": 1e3 * slowest_stage(timed["ff"], 2).seconds}  # fmt: skip


def main(record: Path | None = None) -> None:
    """Count, print, record.

    Args:
        record: Folder for the record.
    """
    grid = Grid("a batch of 128, forward and backward, in one process", [row(settings) for settings in NETWORKS])
    Console(width=200).print(grid.rich())
    notes = [
        "operations of convolutions and matrix products, with SFF's heads; optimiser: what it reads and writes",
        "alone: the same operations, autocast's casts and the optimiser, each by itself as in a step; medians of 5",
    ]
    if record:
        write_record(Finding("floors", {"floors": grid.rows}, [grid], notes), BenchSettings(record=record),
                     ["python", *sys.argv])  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
