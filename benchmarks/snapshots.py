"""The cost of a snapshot to the stage that makes it, written in the background and at once; every other
segment has one.

    python -m benchmarks.snapshots --pairs 40 --record benchmarks/records

Printed: what a snapshot adds on the clock, and what that is of a run that makes one a minute.
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
from ffdist.bench.harness.table import ResultTable, Value
from ffdist.pipeline.message import Snapshot
from ffdist.pipeline.stage import Stage

MINUTE = 60.0
COLUMNS = {
    "network": "network",
    "MiB": "state",
    "written": "side",
    "ms": "added",
    "at least": "added.min",
    "at most": "added.max",
    "of the thread": "thread",
    "of the process": "process",
    "a minute": "minute:.2%",
    "a minute, at most": "minute.max:.2%",
}
UNITS = {"state": "MiB", "added": "ms", "minute": "", "thread": "ms", "process": "ms"}
WIDTHS = ("8,12,16", "128,256,256", "512,512,512")


def main(
    pairs: int = 40,
    widths: tuple[str, ...] = WIDTHS,
    seconds: float = 0.5,
    folder: Path | None = None,
    record: Path | None = None,
) -> None:
    """Train, print, record.

    Args:
        pairs: Segments with a snapshot, and as many without.
        widths: Of cnnb, a text a network.
        seconds: A segment takes about so long.
        folder: On the disk that is to be measured; the temporary one otherwise.
        record: Folder for the record.
    """
    torch.set_num_threads(1)
    made = ResultTable("snapshots", "A snapshot of one stage", COLUMNS, UNITS)
    for network in widths:
        for way in ("in the background", "at once"):
            figures = measured(network, way, pairs, seconds, folder)
            made.add(side=way, network=f"cnnb {network}", **figures)
    notes = [
        "ms: on the clock, the median of the pairs' differences; at least, at most: the bounds of its 95 %",
        "of the thread: computing in the thread that learns, which copies the state; of the process: all of it",
        "a minute: what it is of a run's time that makes one snapshot a minute",
    ]
    report(BenchResult("snapshots", {}, [made], notes), record)


def measured(widths: str, way: str, count: int, seconds: float, folder: Path | None) -> dict[str, Value | float]:
    """The cost of a snapshot of one network. way: "at once" waits until it is written."""
    settings = one_stage(data="digits", model_args=[f"widths={widths}"])
    wait = (lambda stage: stage.background.wait()) if way == "at once" else nothing
    with tempfile.TemporaryDirectory(prefix="ffdist-", dir=folder) as run:
        training = SegmentTraining(settings, Path(run), nothing)
        training.segment(2, None, nothing)
        batches = max(2, round(seconds / training.segment(4, None, nothing).clock * 4))
        pairs = training.pairs(count, batches, lambda step: Snapshot(step, 0, step), wait)
    costs = [pair.cost for pair in pairs]
    return {
        "state": training.bytes_of_state / 2**20,
        "added": estimate(cost.clock * 1e3 for cost in costs),
        "minute": estimate(cost.clock / MINUTE for cost in costs),
        "thread": median(cost.thread * 1e3 for cost in costs),
        "process": median(cost.process * 1e3 for cost in costs),
    }


def nothing(_: Stage | object) -> None:
    pass


if __name__ == "__main__":
    tyro.cli(main)
