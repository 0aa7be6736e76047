"""What a batch costs at least, FF and backpropagation: operations and bytes counted, the time they take alone, and the
time of whole blocks without heads.

python benchmarks/floors.py --record benchmarks/records
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from ffdist.bench.alone import alone, slowest_stage, total
from ffdist.bench.bare import steps
from ffdist.bench.finding import Cell, Finding, Grid
from ffdist.bench.floor import floors
from ffdist.bench.record import write_record
from ffdist.bench.settings import BenchSettings
from ffdist.plain import PlainConsole

NETWORKS = (
    BenchSettings().changed(data="data/mnist", model="mlp"),
    BenchSettings().changed(data="data/cifar10", model="cnnb"),
    BenchSettings().changed(data="data/cifar10", model="vgg8"),
    BenchSettings().changed(data="data/cifar10", model="resnet18", split="block"),
    BenchSettings().changed(data="data/cifar10", model="resnet18", split="group"),
)


def row(settings: BenchSettings) -> dict[str, Cell]:
    ff, bp = (floors(settings)[side] for side in ("ff", "bp"))
    timed = alone(settings)
    alone_ff, alone_bp = total(timed["ff"]).seconds, total(timed["bp"]).seconds
    return {"network": settings.network, "FF, GFLOP": ff.operations / 1e9, "BP, GFLOP": bp.operations / 1e9,
            "BP / FF": bp.operations / ff.operations, "optimiser, MB": ff.optimiser_bytes / 1e6,
            "FF alone, ms": 1e3 * alone_ff, "BP alone, ms": 1e3 * alone_bp, "BP / FF by time": alone_bp / alone_ff,
            "slower of 2 stages, ms": 1e3 * slowest_stage(timed["ff"], 2).seconds}  # fmt: skip


def bare_row(settings: BenchSettings, rounds: int) -> dict[str, Cell]:
    took = steps(settings, rounds)
    bare, slower = sum(took.bare), took.slower_stage()
    return {"network": settings.network, "BP, ms": 1e3 * took.bp, "FF, ms": 1e3 * took.ff,
            "FF without heads, ms": 1e3 * bare, "BP / FF": took.bp / took.ff, "BP / without heads": took.bp / bare,
            "slower of 2 stages without heads, ms": 1e3 * slower, "samples/s of it": settings.batch_size / slower,
            "n": rounds}  # fmt: skip


def main(rounds: int = 11, record: Path | None = None) -> None:
    """Count, print, record.

    Args:
        rounds: Turns of both sides and of blocks without heads.
        record: Folder for the record.
    """
    grids = [
        Grid("a batch of 128, forward and backward, in one process", [row(settings) for settings in NETWORKS]),
        Grid("whole steps, and blocks without heads", [bare_row(settings, rounds) for settings in NETWORKS]),
    ]
    for grid in grids:
        PlainConsole().print(grid.rich())
    notes = [
        "operations of convolutions and matrix products, with SFF's heads; optimiser: what it reads and writes",
        "alone: the same operations, autocast's casts and the optimiser, each by itself as in a step; medians of 5",
        "whole steps in turns, computing time of one thread, medians; without heads: each block with a gradient of its "
        "output that is there already, as if the rule's loss cost nothing: no local rule is faster with these blocks",
    ]
    if record:
        finding = Finding("floors", {"floors": [grid.rows for grid in grids]}, grids, notes)
        write_record(finding, BenchSettings().changed(record=record), ["python", *sys.argv])


if __name__ == "__main__":
    tyro.cli(main)
