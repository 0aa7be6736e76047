"""What it costs to be told of a run within its epochs: one training, in which every other segment has its pulse.

    python -m benchmarks.pulses --every 50 --pairs 200 --record benchmarks/records

Each pulse is told by the stage, written to pulses.jsonl, and heard by the terminal's report. Printed: computing that it
adds to the thread that learns, and to the whole process, and time on the clock, in percent of the batches between.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks.report import report
from benchmarks.segments import SegmentTraining, estimate
from ffdist.bench.harness.finding import BenchResult
from ffdist.bench.harness.table import ResultTable, Value
from ffdist.pipeline.message import Pulse
from ffdist.plain import PlainConsole
from ffdist.report.console import ConsoleReport
from ffdist.settings import Settings

COLUMNS = {
    "of": "side",
    "ms a batch without": "batch",
    "ms a pulse": "pulse",
    "cost": "cost:+.2%",
    "at least": "cost.least:+.2%",
    "at most": "cost.most:+.2%",
}
UNITS = {"batch": "ms", "pulse": "ms", "cost": ""}
KINDS = {"thread": "computing of the thread", "process": "computing of the process", "clock": "time on the clock"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=50, help="batches between pulses")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--record", type=Path, help="the folder for records")
    args = parser.parse_args()
    settings = Settings().changed(
        data=args.data,
        model="cnnb",
        objective="sff",
        stages=1,
        launcher="threads",
        threads=1,
        device="cpu",
        batch_size=args.batch_size,
        validation=0.0,
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ffdist-") as folder:
        training = SegmentTraining(settings, Path(folder), ConsoleReport(PlainConsole(stderr=True)))
        pairs = training.pairs(args.pairs, args.every, lambda step: Pulse(step, 0))
    made = ResultTable("pulses", f"A pulse every {args.every} batches", COLUMNS, UNITS)
    for kind, words in KINDS.items():
        without = median(getattr(pair.unmarked, kind) for pair in pairs)
        cost = estimate([getattr(pair.cost, kind) for pair in pairs])
        share = cost / without
        made.add(
            side=words,
            batch=without / args.every * 1e3,
            pulse=cost.value * 1e3,
            cost=Value(share.value, len(pairs), (share.low, share.high)),
        )
    notes = ["cost: the median of the pairs' differences by the median without; least and most: the bounds of its 95 %"]
    report(BenchResult("pulses", {}, [made], notes), args.record)


if __name__ == "__main__":
    main()
