"""The simulator against this machine: plans by processes and by threads, and by two hosts with a paced link between.

python -m benchmarks.simulation --data data/cifar10 --record benchmarks/records

A virtual machine's speed drifts by as much as a third in minutes, as its host's other guests work. So one worker by
itself is measured when the blocks are, and again beside each plan; a plan is simulated for devices of the speed that
this one had then.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import median

import torch
import tyro

from benchmarks.report import report
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.summary import Summary
from ffdist.bench.harness.table import ResultTable, spread_of
from ffdist.bench.hosts import Hosts, why_not
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import on_this_host, open_pipeline
from ffdist.cores import available_cores
from ffdist.events import ProgressMade, RunEvent
from ffdist.pipeline.precision import Precision
from ffdist.plan import Plan
from ffdist.planner.cached import links_here, profile_of
from ffdist.planner.cluster import Cluster, NetworkLink, parse_link
from ffdist.planner.forecast import simulated, with_ends
from ffdist.planner.profile import Profile
from ffdist.runtime.allocator import keep_freed_memory
from ffdist.runtime.start import SettingsJob
from ffdist.runtime.threads import run_threads

SHAPES = {
    "serial": lambda names: [f"{names[0]}..{names[-1]} @ 0"],
    "pipeline": lambda names: [
        f"{names[0]} @ 0 | {names[1]}..{names[-1]} @ 1",
        f"{names[0]}..{names[-2]} @ 0 | {names[-1]} @ 1",
    ],
    "shared": lambda names: [
        f"{names[0]}..{names[-1]} @ 0:0, 1:1",
        f"{names[0]} @ 0 | {names[1]} @ 0:0, 1:1-3 | {names[2]}..{names[-1]} @ 1",
    ],
}
"""Plans of two workers, by their kind."""
RATES = ("100mbit", "1gbit")
BETWEEN = ("pipeline", "shared")
"""Kinds of plans that are also run between two hosts."""
PROFILES = 3
"""How often the blocks are measured."""


@dataclass(frozen=True)
class Case:
    """One plan on one kind of workers."""

    by: str
    """processes, threads, or the rate of the link between two hosts."""
    plan: Plan


def cases(names: list[str]) -> list[Case]:
    texts = [text for plans in SHAPES.values() for text in plans(names)]
    between = [text for kind in BETWEEN for text in SHAPES[kind](names)]
    wanted = {"processes": texts, "threads": texts} | dict.fromkeys(RATES if why_not() is None else (), between)
    return [Case(by, Plan.parse(text, names)) for by, plans in wanted.items() for text in plans]


class Reference:
    """One worker by itself, whose speed is the machine's: 1 when the blocks were measured."""

    def __init__(self, ends: ExitStack, settings: BenchSettings) -> None:
        self.side = open_pipeline(ends, settings.changed(lanes=1), 1, "one worker")
        self.usual = 1.0
        """Samples/s when the blocks were measured."""

    def beside(self, settings: BenchSettings) -> Profile:
        """The blocks' profile, with this worker's speed before and after it: of several, the one in which one worker is
        simulated as fast, by its measured speed, as in the median, since the machine may change within one."""
        found: list[tuple[float, float, Profile]] = []
        before = self.side.measure().rate
        for _ in range(PROFILES):
            known = profile(settings)
            after = self.side.measure().rate
            usual, alone = (before + after) / 2, Plan.pipeline(known.names, [len(known.names)])
            found.append((simulated(known, Cluster(1), alone).rate / usual, usual, known))
            before = after
        _, self.usual, known = sorted(found, key=lambda each: each[0])[PROFILES // 2]
        return known

    def speed(self) -> float:
        """The machine's speed now."""
        return self.side.measure().rate / self.usual


def cluster_of(case: Case, speed: float = 1.0) -> Cluster:
    """The cluster that stands for this machine in the simulator, with devices of this speed."""
    return replace(_cluster(case), speeds=(speed,) * case.plan.workers)


def _cluster(case: Case) -> Cluster:
    here = links_here(on_cpu=True)
    cores = available_cores() if case.plan.workers > available_cores() else None
    if case.by == "threads":
        return Cluster(case.plan.workers, NetworkLink(inf, wired=False), cores=cores)
    if case.by == "processes":
        return Cluster(case.plan.workers, here.memory, cores=cores)
    return Cluster(case.plan.workers, with_ends(parse_link(case.by), here.network), cores=cores)


def measured(
    case: Case, settings: BenchSettings, reference: Reference, rounds: int, samples: int | None
) -> list[tuple[float, float]]:
    """Measured samples/s of a case, and the machine's speed beside it, a pair a round. samples: training samples of an
    epoch, under threads."""
    workers = case.plan.workers
    planned = settings.changed(plan=str(case.plan) if workers > 1 else None, lanes=case.plan.lanes)
    if case.by == "threads":
        job = planned.job(workers)
        job = replace(job, settings=job.settings.changed(samples=samples))
        return [(by_threads(job, settings), reference.speed()) for _ in range(rounds)]
    with ExitStack() as ends:
        place = on_this_host
        if case.by != "processes":
            hosts = ends.enter_context(Hosts())
            hosts.limit(case.by)
            planned, place = planned.changed(transport="gloo"), hosts.place
        side = open_pipeline(ends, planned, workers, place=place)
        rates = [(side.measure().rate, reference.speed()) for _ in range(rounds)]
        side.pool.finish()
        return rates


def by_threads(make: SettingsJob, settings: BenchSettings) -> float:
    """Samples/s of a plan by threads, over the last two thirds of an epoch's batches: the pipeline is full by then."""
    arrivals: list[float] = []

    def note(event: RunEvent) -> None:
        if isinstance(event, ProgressMade):
            arrivals.append(time.perf_counter())

    before = torch.get_num_threads()
    job = make()
    run_threads(replace(job, settings=job.settings.changed(epochs=1, launcher="threads"), report_every=0.0), note)
    torch.set_num_threads(before)
    steady = arrivals[len(arrivals) // 3 :]
    return settings.batch_size / (
        median(b - a for a, b in pairwise(steady)) if len(steady) < 9 else (steady[-1] - steady[0]) / (len(steady) - 1)
    )


def profile(settings: BenchSettings) -> Profile:
    """The profile of the blocks, measured anew in this process, with a worker's number of threads."""
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    job = settings.job(1)()
    return profile_of(job.chain, job.objective, job.settings, job.loaders().train, fresh=True)


COLUMNS = {
    "by": "by",
    "plan": "plan",
    "lanes": "lanes",
    "measured samples/s": "throughput",
    **spread_of("throughput"),
    "machine": "machine",
    "simulated samples/s": "simulated",
    "error": "error",
}
UNITS = {"throughput": "samples/s", "machine": "of its speed when the blocks were measured", "simulated": "samples/s"}
UNITS["error"] = "of what was measured"


def compare(
    made: ResultTable,
    case: Case,
    settings: BenchSettings,
    known: Profile,
    reference: Reference,
    rounds: int,
    samples: int | None,
) -> float:
    """Measure and simulate one case, and add its line; returns the simulation's relative error."""
    found = measured(case, settings, reference, rounds, samples)
    rates, speed = Summary.of([rate for rate, _ in found]), median(speed for _, speed in found)
    expected = simulated(known, cluster_of(case, speed), case.plan).rate
    error = abs(expected - rates.median) / rates.median
    made.add(
        side="ours",
        by=case.by,
        plan=str(case.plan),
        lanes=case.plan.lanes,
        throughput=rates,
        machine=speed,
        simulated=expected,
        error=error,
    )
    print(f"{case.by}, {case.plan}: measured {rates.median:,.0f}, simulated {expected:,.0f}", file=sys.stderr)
    return error


def main(
    data: str = "data/cifar10",
    model: str = "cnnb",
    batch_size: int = 128,
    precision: Precision = "bf16",
    samples: int | None = None,
    rounds: int = 5,
    seconds: float = 5.0,
    record: Path | None = None,
) -> None:
    """Measure every plan and simulate it, print, record.

    Args:
        data: A prepared data set, or digits.
        model: A network of three blocks or more.
        batch_size: Samples a batch.
        precision: Of both; fp32 where the processor is slow in bf16.
        samples: As many training samples only, which is how long an epoch of the threads takes.
        rounds: Windows of each plan.
        seconds: Length of a window, about.
        record: Folder for the record.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    settings = BenchSettings().changed(
        data=data, model=model, batch_size=batch_size, precision=precision, seconds=seconds
    )
    made = ResultTable("simulation", f"{settings.subject}, {settings.precision}, batch {batch_size}", COLUMNS, UNITS)
    with ExitStack() as ends:
        reference = Reference(ends, settings)
        known = reference.beside(settings)
        errors = [compare(made, case, settings, known, reference, rounds, samples) for case in cases(known.names)]
    notes = [
        f"median error {median(errors):.1%}, largest {max(errors):.1%}, over {len(errors)} plans",
        "simulated from each block's times alone in one process, with their spread; links as measured, or as paced",
        "machine: one worker's speed beside the plan, by its speed when the blocks were measured; simulated for that",
        *([f"no paced links: {why_not()}"] if why_not() else []),
    ]
    report(BenchResult("simulation", {}, [made], notes), record, asdict(settings))


if __name__ == "__main__":
    tyro.cli(main)
