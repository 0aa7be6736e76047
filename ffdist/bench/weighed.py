"""The memory that devices of either side hold, counted in runs of a few batches."""

from __future__ import annotations

from ffdist.baselines.known import is_serial
from ffdist.bench.baseline_side import BaselineMain, KeepOrder, RunOrder
from ffdist.bench.harness.meter import MemoryUse
from ffdist.bench.harness.window import Window
from ffdist.bench.harness.worker_pool import WorkerPool
from ffdist.bench.pipeline_side import PipelineMain
from ffdist.bench.settings import BenchSettings
from ffdist.errors import ConfigError

BATCHES = 3
"""Enough for the peak: the first batch allocates all that stays, and the second runs beside it."""


def pipeline_memory(settings: BenchSettings, stages: int) -> list[MemoryUse]:
    """Peak memory of each stage of ffdist's side."""
    with WorkerPool("ours", PipelineMain(settings.job(stages), weigh=True), stages) as pool:
        assert pool.recv() == "ready"
        pool.ask(Window(1, BATCHES + (settings.train.plan.queue + 1) * (stages - 1)))
        return pool.finish()


def baseline_memory(settings: BenchSettings, variant: str) -> list[MemoryUse]:
    """Peak memory of each rank of a baseline. Raises ConfigError where the variant does not fit the network."""
    size = 1 if is_serial(variant) else settings.compare.devices
    with WorkerPool(variant, BaselineMain(settings.job(1), weigh=True), size) as pool:
        if refused := pool.ask(KeepOrder((variant,))):
            raise ConfigError(refused[variant])
        pool.ask(RunOrder(variant, Window(1, BATCHES)))
        return pool.finish()


def worst(devices: list[MemoryUse]) -> MemoryUse:
    """The device with the highest peak."""
    return max(devices, key=lambda use: use.peak)
