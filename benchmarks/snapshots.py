"""What a snapshot costs the stage that makes it, written behind its work and at once: every other segment has one.

    python -m benchmarks.snapshots --pairs 40 --record benchmarks/records

Printed: what a snapshot adds on the clock, and what that is of a run that makes one a minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.segments import Training, estimate
from ffdist.bench.finding import Finding, Grid
from ffdist.bench.record import write_record
from ffdist.bench.settings import BenchSettings
from ffdist.pipeline.message import Snapshot
from ffdist.pipeline.stage import Stage
from ffdist.plain import PlainConsole
from ffdist.settings import Settings

MINUTE = 60.0
WIDTHS = ("8,12,16", "128,256,256", "512,512,512")


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--pairs", type=int, default=40)
    told.add_argument("--widths", nargs="+", default=WIDTHS, help="of cnnb, a text a network")
    told.add_argument("--seconds", type=float, default=0.5, help="a segment takes about so long")
    told.add_argument("--folder", type=Path, help="on the disk that is to be measured; default: the temporary one")
    told.add_argument("--record", type=Path, help="the folder for records")
    args = told.parse_args()
    torch.set_num_threads(1)
    rows = [row(widths, way, args) for widths in args.widths for way in ("behind", "at once")]
    grid = Grid(f"A snapshot of one stage, {args.pairs} pairs", rows)
    PlainConsole().print(grid.rich())
    if args.record:
        notes = [
            "ms added: on the clock, the median of the pairs' differences; at least, at most: its 95 %",
            "of the thread: computing in the thread that learns, which copies the state; of the process: all of it",
        ]
        finding = Finding("snapshots", {"rows": rows}, [grid], notes)
        write_record(finding, BenchSettings().changed(record=args.record), ["python", "-m", "benchmarks.snapshots",
                     *sys.argv[1:]], told=vars(args))  # fmt: skip


def row(widths: str, way: str, args: argparse.Namespace) -> dict[str, Any]:
    settings = Settings().changed(
        data="digits", model="cnnb", model_args=[f"widths={widths}"], objective="sff", stages=1, launcher="threads",
        threads=1, device="cpu", validation=0.0,
    )  # fmt: skip
    wait = (lambda stage: stage.behind.wait()) if way == "at once" else nothing
    with tempfile.TemporaryDirectory(prefix="ffdist-", dir=args.folder) as folder:
        training = Training(settings, Path(folder), nothing)
        training.segment(2, None, nothing)
        batches = max(2, round(args.seconds / training.segment(4, None, nothing).clock * 4))
        pairs = training.pairs(args.pairs, batches, lambda step: Snapshot(step, 0, step), wait)
    clock = estimate([pair.cost.clock for pair in pairs])
    return {
        "MiB": training.bytes_of_state / 2**20,
        "written": way,
        "ms added": clock.value * 1e3,
        "at least": clock.low * 1e3,
        "at most": clock.high * 1e3,
        "of the thread": estimate([pair.cost.thread for pair in pairs]).value * 1e3,
        "of the process": estimate([pair.cost.process for pair in pairs]).value * 1e3,
        "at one a minute": f"{clock.value / MINUTE:+.2%}",
        "at most, then": f"{clock.high / MINUTE:+.2%}",
    }


def nothing(_: Stage | object) -> None:
    pass


if __name__ == "__main__":
    main()
