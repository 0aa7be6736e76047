"""A pipeline at work for long: memory, descriptors and threads of its processes, and its speed, again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from math import log, nan, sqrt
from pathlib import Path
from statistics import fmean, median

from ffdist.bench.disturbed import batches_of
from ffdist.bench.harness.result import BenchResult, Plot, Progress
from ffdist.bench.harness.table import ResultTable, Value
from ffdist.bench.victims import descendants, is_worker, processor_seconds
from ffdist.cores import available_cores
from ffdist.errors import StageError
from ffdist.report.log import read_run_log
from ffdist.scratch import scratch_folder

LOOKS = 60
"""Samples over a soak, about."""
PULSE = 8
"""Batches between two reports of the run's progress."""
BLOCKS, STUDENT = 10, 2.306
"""Parts of the time whose means a trend goes through, and Student's t of 95 % for as many less two."""
STEADY = 0.05
"""A speed that changes by less than this share is steady."""
FLAT = 1.05
"""The last third's median may be so many times the middle third's."""


@dataclass(frozen=True)
class ResourceSample:
    """The resources of all workers together at one moment."""

    seconds: float
    resident: int
    """Bytes."""
    descriptors: int
    threads: int
    processor: float
    """Seconds of processor time that they have used so far."""
    batches: int
    """Batches that have gone through the pipeline so far."""


def look_at(pids: list[int], since: float, batches: int) -> ResourceSample:
    """The resources of the processes now; one that has just ended counts for nothing."""
    resident = descriptors = threads = 0
    processor = 0.0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines if ":" in line)
            resident += int(status["VmRSS"].split()[0]) * 1024
            threads += int(status["Threads"])
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            processor += processor_seconds(pid)
        except (OSError, KeyError, ValueError):  # it is about to end
            continue
    return ResourceSample(time.monotonic() - since, resident, descriptors, threads, processor, batches)


def by_processor(looks: list[ResourceSample], batch_size: int) -> list[float]:
    """Samples learned for each second of processor time, from each look to the next: other work on the machine takes
    time away, and hardly changes this."""
    return [
        (later.batches - look.batches) * batch_size / (later.processor - look.processor)
        for look, later in pairwise(looks)
        if later.processor > look.processor and look.batches
    ]


def soak(minutes: float, stages: int, queue: int, batch_size: int, progress: Progress) -> BenchResult:
    """Train for so many minutes, and record memory, descriptors, threads and speed.

    queue: messages that an edge holds. Raises StageError where the run ends by itself, or anything grows.
    """
    with scratch_folder() as folder:
        run = folder / "run"
        words = (
            f"digits --epochs 1000000 --stages {stages} --queue {queue} --batch-size {batch_size} --log-every {PULSE} "
            "--seed 7 --threads 1 --device cpu --schedule constant --quiet --out"
        )
        with (folder / "said").open("wb") as output:
            command = [sys.executable, "-m", "ffdist", "train", *words.split(), str(run)]
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            looks = watched(process, run, minutes * 60, progress)
            process.send_signal(signal.SIGTERM)
            status = process.wait(120)  # it makes a snapshot before it ends
        finally:
            process.kill()
            process.wait()
        if status != 128 + signal.SIGTERM:
            raise StageError(
                "the run failed", expected="status 143, of SIGTERM", got=(folder / "said").read_text()[-500:]
            )
        records, _ = read_run_log(run)
    speeds = [record["train"]["samples_per_second"] for record in records]
    return result_of(looks, speeds, by_processor(looks, batch_size), minutes, stages)


def watched(process: subprocess.Popen[bytes], run: Path, seconds: float, progress: Progress) -> list[ResourceSample]:
    """Sample the run's resources for so many seconds, from its first batch on: what a start takes is no growth."""
    every, looks = max(1.0, seconds / LOOKS), list[ResourceSample]()
    while not batches_of(run):
        if ends_within(process, every):
            return looks
    begun = time.monotonic()
    while time.monotonic() - begun < seconds and not ends_within(process, every):
        workers = [seen.pid for seen in descendants(process.pid) if is_worker(seen, "processes")]
        looks.append(look_at(workers, begun, batches_of(run)))
        progress(json.dumps({name: round(value) for name, value in vars(looks[-1]).items()}))
    return looks


def ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process's end, so long at most; False where it is still there."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@dataclass(frozen=True)
class SpeedTrend:
    """The change of a speed from the beginning to the end of a run, by a straight line through its logarithms."""

    change: float
    """Relative change: -0.02 is two per cent slower at the end."""
    error: float
    """Half the width of the 95 % interval of `change`."""

    @property
    def summary(self) -> str:
        """The change with its interval, and whether the speed counts as steady."""
        text = f"{self.change:+.1%} from beginning to end (95 %: {self.low:+.1%} to {self.high:+.1%})"
        if abs(self.change) > self.error:
            steady = abs(self.change) + self.error < STEADY
            return f"{text}: " + (f"a trend, of less than {STEADY:.0%}" if steady else "not steady")
        steady = max(abs(self.low), abs(self.high)) < STEADY
        return f"{text}: " + (
            f"steady within {STEADY:.0%}" if steady else "no trend is shown, and no steadiness either"
        )

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of `change`."""
        return self.change - self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval of `change`."""
        return self.change + self.error


def trend_of(values: list[float]) -> SpeedTrend | None:
    """The trend of a speed at equal distances of time; None for too few.

    The line goes through the means of the logarithms of `BLOCKS` equal parts, since neighbours are alike (a minute of
    other work slows all within it), which one by one would feign certainty.
    """
    logs = [log(value) for value in values if value > 0]
    if len(logs) < 2 * BLOCKS:
        return None
    parts = [fmean(logs[len(logs) * i // BLOCKS : len(logs) * (i + 1) // BLOCKS]) for i in range(BLOCKS)]
    middle = (BLOCKS - 1) / 2
    squares = sum((i - middle) ** 2 for i in range(BLOCKS))
    slope = sum((i - middle) * part for i, part in enumerate(parts)) / squares
    left = sum((part - fmean(parts) - slope * (i - middle)) ** 2 for i, part in enumerate(parts))
    error = STUDENT * sqrt(left / (BLOCKS - 2) / squares)
    return SpeedTrend(BLOCKS * slope, BLOCKS * error)


def result_of(
    looks: list[ResourceSample], speeds: list[float], by_cpu: list[float], minutes: float, stages: int
) -> BenchResult:
    """The record of a soak: thirds of each measure, and the speed's trend. Raises StageError where anything grows."""
    columns = {
        "of all workers": "what",
        "n": "last.n",
        "first third": "first",
        "middle": "middle",
        "last": "last",
        "max": "last.max",
    }
    units = {"first": "", "middle": "", "last": ""}
    made, grown = ResultTable("soak", f"{minutes:g} minutes, {stages} stages", columns, units), list[str]()
    series: dict[str, list[float]] = {
        "memory, MiB": [look.resident / 2**20 for look in looks],
        "descriptors": [float(look.descriptors) for look in looks],
        "threads": [float(look.threads) for look in looks],
    }
    speeds_of = {"samples/s": speeds, "samples per second of processor time": by_cpu}
    series |= speeds_of
    for name, values in series.items():
        third = max(1, len(values) // 3)
        middle, last = median(values[third : 2 * third] or values), median(values[-third:])
        spread = (min(values, default=nan), max(values, default=nan))
        made.add(what=name, first=median(values[:third]), middle=middle, last=Value(last, len(values), spread))
        if not name.startswith("samples") and last > middle * FLAT:
            grown.append(f"{name}: {middle:.0f}, then {last:.0f}")
    if grown:
        raise StageError("something grows while a run is at work", expected=f"at most {FLAT} times", got=grown)
    load = os.getloadavg()[2]
    points = [
        (look.seconds / 60, look.resident / 2**20, look.resident / 2**20, look.resident / 2**20) for look in looks
    ]
    summary = {"minutes": minutes, "stages": stages, "epochs": len(speeds), "rows": made.drawn_cells()}
    trends = [f"{name}: {trend.summary}." for name, values in speeds_of.items() if (trend := trend_of(values))]
    notes = [
        f"Nothing grew by more than {FLAT - 1:.0%}.",
        *trends,
        "Samples per second of processor time (of the workers alone, from look to look) tell whether the speed is "
        "steady where other work goes on beside it, though shared caches move them, too.",
        f"Load average (15 minutes) at the end: {load:.1f}, on {available_cores()} cores; where it is more than the "
        "run's own, other work went on beside it.",
    ]
    plot = Plot("lines", "memory of all workers", "minutes", "MiB", {"resident": points})
    return BenchResult("soak", summary, [made], notes, plot)
