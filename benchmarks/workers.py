"""Many workers of one run: 64 threads, 16 processes, 4 hosts. Start, train, snapshot, stop, resume by another plan; the
bits are one worker's.

python -m benchmarks.workers --record benchmarks/records
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro

from benchmarks.report import report
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.table import ResultTable
from ffdist.bench.hosts import Hosts, why_not
from ffdist.data import open_data
from ffdist.events import Observer, ProgressMade, RunEvent, RunStarted
from ffdist.plan import Plan
from ffdist.presets import with_preset
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result
from ffdist.runtime.planning import count_workers
from ffdist.runtime.processes import run_processes
from ffdist.runtime.start import make_job
from ffdist.runtime.threads import run_threads
from ffdist.runtime.worker_main import TrainingMain
from ffdist.settings import Settings
from ffdist.snapshot import latest

NAMES = ("conv1", "conv2", "conv3")
Run = Callable[["DigitsJob", Observer], Result]


def mixed(workers: int) -> str:
    """Three stages, each of half the workers, of whom half serve in a neighbour stage, too."""
    half, quarter = workers // 2, workers // 4
    firsts = (0, quarter, half)
    return " | ".join(f"{name} @ {first}-{first + half - 1}" for name, first in zip(NAMES, firsts, strict=True))


def replicas(workers: int) -> str:
    """The plan of a run's second half: two stages, each of half the workers."""
    half = workers // 2
    return f"conv1 conv2 @ 0-{half - 1} | conv3 @ {half}-{workers - 1}"


@dataclass(frozen=True)
class DigitsJob:
    """Makes the job of a run on the digits; picklable, as each process makes its own."""

    run: Path
    plan: str
    lanes: int
    samples: int
    resume: bool = False

    def __call__(self) -> Job:
        options = {
            "plan": self.plan,
            "lanes": self.lanes,
            "batch_size": max(16, 2 * self.lanes),
            "samples": self.samples,
        }
        settings = with_preset(Settings(), "digits").changed(
            **options, epochs=1, threads=1, device="cpu", model_args=("widths=8,12,16",), augment=()
        )
        self.run.mkdir(parents=True, exist_ok=True)
        job = make_job(settings, open_data("digits"), self.run, count_workers(settings, NAMES, None))
        return replace(job, report_every=0.0, resume=self.resume)


def fingerprint(run: Path) -> list[str]:
    """Digests of the newest snapshot's files, which tell whether two runs are equal to the bit."""
    manifest = latest(run)
    assert manifest
    return [entry["sha256"] for entry in manifest.files]


def by_processes(make: DigitsJob, report: Observer) -> Result:
    return run_processes(TrainingMain(make), Plan.parse(make.plan, NAMES, make.lanes).workers, report)


def by_hosts(make: DigitsJob, report: Observer) -> Result:
    workers = Plan.parse(make.plan, NAMES, make.lanes).workers
    with ExitStack() as ends:
        hosts = ends.enter_context(Hosts(workers))
        return run_processes(hosts.place(TrainingMain(make)), workers, report)


def by_threads(make: DigitsJob, report: Observer) -> Result:
    return run_threads(make(), report)


WAYS: dict[str, tuple[int, Run]] = {
    "threads": (64, by_threads),
    "processes": (16, by_processes),
    "hosts": (4, by_hosts),
}


COLUMNS = {
    "by": "by",
    "workers": "workers",
    "plan": "plan",
    "resumed by": "resumed_by",
    "lanes": "lanes",
    "start s": "start",
    "start ms a worker": "start_each",
    "stopped after batch": "stopped_after",
    "same bits as one worker": "same_bits",
}
UNITS = {"start": "s", "start_each": "ms", "stopped_after": "batches", "same_bits": ""}


def tried(by: str, workers: int, run: Run, folder: Path, samples: int) -> dict[str, Any]:
    """Try one way: half of an epoch, a signal that stops the run, and the rest by another plan."""
    lanes = workers // 2
    one = DigitsJob(folder / "one", "* @ 0", lanes, samples)
    run_threads(one(), lambda event: None)
    make = replace(one, run=folder / by, plan=mixed(workers))
    begun, started = time.perf_counter(), list[float]()

    def watch(event: RunEvent) -> None:
        if isinstance(event, RunStarted):
            started.append(time.perf_counter() - begun)
        if isinstance(event, ProgressMade) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert run(make, watch).reason == "interrupted"
    stopped = latest(make.run)
    assert stopped
    assert stopped.batch, "in the middle of the epoch"
    assert run(replace(make, plan=replicas(workers), resume=True), lambda event: None).reason == "finished"
    same = fingerprint(make.run) == fingerprint(one.run)
    return {
        "by": by,
        "workers": workers,
        "plan": make.plan,
        "resumed_by": replicas(workers),
        "lanes": lanes,
        "start": started[0],
        "start_each": 1e3 * started[0] / workers,
        "stopped_after": stopped.step,
        "same_bits": "yes" if same else "NO",
    }


def main(
    ways: tuple[str, ...] = tuple(WAYS), workers: int | None = None, samples: int = 1000, record: Path | None = None
) -> None:
    """Try each way, print, record.

    Args:
        ways: Of threads, processes, hosts.
        workers: So many, a multiple of 4, in place of the way's own number.
        samples: Of the digits, to train on.
        record: Folder for the record.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    title = "start, stop in an epoch, and resume by another plan, on the digits"
    made, notes, same = ResultTable("workers", title, COLUMNS, UNITS), list[str](), True
    for by in ways:
        if by == "hosts" and (reason := why_not()):
            notes.append(f"no hosts: {reason}")
            continue
        many, run = WAYS[by]
        with TemporaryDirectory() as folder:
            found = tried(by, workers or many, run, Path(folder), samples)
            same &= found["same_bits"] == "yes"
            made.add(network="cnnb", **found)
    notes.append("start: from the call to the first batch, with imports, data and edges; hosts are network namespaces")
    report(BenchResult("workers", {}, [made], notes), record)
    if not same:
        sys.exit("a plan has changed bits")


if __name__ == "__main__":
    tyro.cli(main)
