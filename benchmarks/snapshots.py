"""What a snapshot costs the stage that makes it, written behind its work and at once: every other segment has one.

    python -m benchmarks.snapshots --pairs 40 --record benchmarks/records

Printed: what a snapshot adds on the clock, and what that is of a run that makes one a minute.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.report import report
from benchmarks.segments import SegmentTraining, estimate
from ffdist.bench.harness.finding import BenchResult
from ffdist.bench.harness.table import ResultTable, Value
from ffdist.pipeline.message import Snapshot
from ffdist.pipeline.stage import Stage
from ffdist.settings import Settings

MINUTE = 60.0
COLUMNS = {
    "network": "network",
    "MiB": "state",
    "written": "side",
    "ms": "added",
    "at least": "added.least",
    "at most": "added.most",
    "of the thread": "thread",
    "of the process": "process",
    "a minute": "minute:.2%",
    "a minute, at most": "minute.most:.2%",
}
UNITS = {"state": "MiB", "added": "ms", "minute": "", "thread": "ms", "process": "ms"}
WIDTHS = ("8,12,16", "128,256,256", "512,512,512")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--widths", nargs="+", default=WIDTHS, help="of cnnb, a text a network")
    parser.add_argument("--seconds", type=float, default=0.5, help="a segment takes about so long")
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured; default: the temporary one")
    parser.add_argument("--record", type=Path, help="the folder for records")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = ResultTable("snapshots", "A snapshot of one stage", COLUMNS, UNITS)
    for widths in args.widths:
        for way in ("behind", "at once"):
            made.add(side=way, network=f"cnnb {widths}", **measured(widths, way, args))
    notes = [
        "ms: on the clock, the median of the pairs' differences; least and most: the bounds of its 95 %",
        "of the thread: computing in the thread that learns, which copies the state; of the process: all of it",
        "a minute: what it is of a run's time that makes one snapshot a minute",
    ]
    report(BenchResult("snapshots", {}, [made], notes), args.record)


def measured(widths: str, way: str, args: argparse.Namespace) -> dict[str, Value | float]:
    settings = Settings().changed(
        data="digits",
        model="cnnb",
        model_args=[f"widths={widths}"],
        objective="sff",
        stages=1,
        launcher="threads",
        threads=1,
        device="cpu",
        validation=0.0,
    )
    wait = (lambda stage: stage.behind.wait()) if way == "at once" else nothing
    with tempfile.TemporaryDirectory(prefix="ffdist-", dir=args.folder) as folder:
        training = SegmentTraining(settings, Path(folder), nothing)
        training.segment(2, None, nothing)
        batches = max(2, round(args.seconds / training.segment(4, None, nothing).clock * 4))
        pairs = training.pairs(args.pairs, batches, lambda step: Snapshot(step, 0, step), wait)
    clock = estimate([pair.cost.clock for pair in pairs])
    least, most = clock.low, clock.high
    return {
        "state": training.bytes_of_state / 2**20,
        "added": Value(clock.value * 1e3, len(pairs), (least * 1e3, most * 1e3)),
        "minute": Value(clock.value / MINUTE, len(pairs), (least / MINUTE, most / MINUTE)),
        "thread": estimate([pair.cost.thread for pair in pairs]).value * 1e3,
        "process": estimate([pair.cost.process for pair in pairs]).value * 1e3,
    }


def nothing(_: Stage | object) -> None:
    pass


if __name__ == "__main__":
    main()
