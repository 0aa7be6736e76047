"""The time of a step, operation by operation, and the machine's peak."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import profile, supported_activities

from ffdist.bench.floor import SAMPLES, count
from ffdist.bench.harness.window import seconds_of
from ffdist.bench.settings import BenchSettings
from ffdist.bench.step import OneStep, both_sides, in_a_process
from ffdist.device import queues, synchronize
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.precision import dtype_of
from ffdist.runtime.job import Job

KINDS = {
    "products": r"conv|addmm|::b?mm$|bmm|matmul|linear|einsum|gemm",
    "optimiser": r"_fused_|_foreach_|Optimizer",
    "norms": r"_norm",
    "pools": r"pool",
    "casts, copies, fills": r"::to$|_to_copy|copy_|clone|contiguous|fill_|zero|ones|empty|::cat|stack|resize_|set_",
}
"""Patterns of operations' names by kind, of which the first that fits counts; others are "elementwise and other"."""
OTHER = "elementwise and other"
SIZES = (512, 1024, 2048)
"""The sizes of square matrices whose product is the machine's peak."""
LONG = 0.1
"""Seconds of a product, from which on larger ones, of eight times as many operations, are not tried."""
PROFILED = 5
"""Steps."""


class Operation(NamedTuple):
    """One operation of a step, with its time and how often it is called."""

    seconds: float
    """Seconds of its own, without what it calls."""
    calls: float


@dataclass(frozen=True)
class StepSides:
    """The measured steps of one side, FF or backpropagation."""

    seconds: list[float]
    """Seconds of whole steps, unprofiled."""
    operations: dict[str, Operation]
    flops: float
    """Multiplications and additions of products in a step."""

    @property
    def step(self) -> float:
        """Median seconds of a step."""
        return median(self.seconds)

    def by_kind(self) -> dict[str, float]:
        """Seconds a step."""
        found = dict.fromkeys((*KINDS, OTHER), 0.0)
        for name, operation in self.operations.items():
            found[kind_of(name)] += operation.seconds
        return found


@dataclass(frozen=True)
class SideSteps:
    """Both sides, and the peak."""

    sides: dict[str, StepSides]
    peak: float
    """Multiplications and additions a second of the best square product, in the run's precision."""


def kind_of(operation: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, operation)), OTHER)


def steps_of(settings: BenchSettings) -> SideSteps:
    """Measure both sides' steps in a process of its own, with the settings' threads."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes of itself
    compare = settings.compare
    work = partial(measure_sides, warmup=compare.warmup_batches, rounds=compare.rounds)
    return in_a_process(settings, work, compiled=compare.compiled)


def measure_sides(job: Job, config: BlockConfig, warmup: int, rounds: int) -> SideSteps:
    """Steps of either side in turns, then profiled."""
    sides, batch = both_sides(job), job.settings.training.batch_size
    steps = {name: OneStep(*side, config, batch) for name, side in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(warmup):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds_of(step, config.device))
    flops = {name: count(*side, config)[0] * batch / SAMPLES for name, side in sides.items()}
    found = {name: StepSides(times[name], operations(step, config.device), flops[name]) for name, step in steps.items()}
    return SideSteps(found, peak(config.device, dtype_of(job.settings.compute.precision)))


def operations(step: OneStep, device: torch.device) -> dict[str, Operation]:
    """The operations of a few steps, by torch's profiler; on a GPU with the time of the kernels that they start."""
    with profile(activities=supported_activities()) as profiler:
        for _ in range(PROFILED):
            step()
        synchronize(device)
    found: dict[str, Operation] = {}
    for event in profiler.key_averages():
        own = own_time(event, device)
        if own > 0 and not event.key.startswith(("ProfilerStep", "autograd::", "Optimizer.")):
            found[event.key] = Operation(own / 1e6 / PROFILED, event.count / PROFILED)
    return found


def own_time(event: FunctionEventAvg, device: torch.device) -> float:
    """Microseconds that the operation took itself, without those that it calls; on a GPU, of its kernels."""
    return float(event.self_device_time_total if queues(device) else event.self_cpu_time_total)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second (multiplications and additions) of the fastest of a few square matrix products; of the
    smaller ones alone where they take long already, in a type for which the device has no instructions."""
    best = 0.0
    for size in SIZES:
        factors = [torch.full((size, size), 0.01, dtype=dtype, device=device) for _ in range(2)]
        product = partial(torch.mm, *factors)
        first = seconds_of(product, device)  # sets up the libraries, too
        best = max(best, 2 * size**3 / min(first, *(seconds_of(product, device) for _ in range(3))))
        if first > LONG:
            break
    return best
