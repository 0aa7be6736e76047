"""The cost of reports within epochs: one training, in which every other segment has its pulse.

    python -m benchmarks.pulses --every 50 --pairs 200 --record benchmarks/records

Each pulse is sent by the stage, written to pulses.jsonl, and shown by the terminal's report. Printed: computing that it
adds to the thread that learns, and to the whole process, and time on the clock, in percent of the batches between.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import torch
import tyro

from benchmarks.report import report
from benchmarks.segments import SegmentTraining, estimate, one_stage
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.table import ResultTable
from ffdist.pipeline.message import Pulse
from ffdist.plain import PlainConsole
from ffdist.report.console import ConsoleReport

COLUMNS = {
    "of": "side",
    "ms a batch without": "batch",
    "ms a pulse": "pulse",
    "cost": "cost:+.2%",
    "at least": "cost.min:+.2%",
    "at most": "cost.max:+.2%",
}
UNITS = {"batch": "ms", "pulse": "ms", "cost": ""}
KINDS = {"thread": "computing of the thread", "process": "computing of the process", "clock": "time on the clock"}


def main(
    every: int = 50, pairs: int = 200, data: str = "digits", batch_size: int = 32, record: Path | None = None
) -> None:
    """Train, print, record.

    Args:
        every: Batches between pulses.
        pairs: Segments with a pulse, and as many without.
        data: A prepared data set, or digits.
        batch_size: Samples a batch.
        record: Folder for the record.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ffdist-") as folder:
        settings = one_stage(data=data, batch_size=batch_size)
        training = SegmentTraining(settings, Path(folder), ConsoleReport(PlainConsole(stderr=True)))
        found = training.pairs(pairs, every, lambda step: Pulse(step, 0))
    made = ResultTable("pulses", f"A pulse every {every} batches", COLUMNS, UNITS)
    for kind, words in KINDS.items():
        without = median(getattr(pair.unmarked, kind) for pair in found)
        costs = [getattr(pair.cost, kind) for pair in found]
        share = estimate(cost / without for cost in costs)
        made.add(side=words, batch=without / every * 1e3, pulse=median(costs) * 1e3, cost=share)
    notes = [
        "cost: the median of the pairs' differences by the median without; at least, at most: the bounds of its 95 %"
    ]
    report(BenchResult("pulses", {}, [made], notes), record)


if __name__ == "__main__":
    tyro.cli(main)
