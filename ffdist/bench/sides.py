"""The sides of a comparison as the rounds see them: something that works for a while and says how fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ffdist.baselines import family
from ffdist.baselines.known import is_serial
from ffdist.bench.baseline_side import BaselineMain, KeepOrder, RunOrder
from ffdist.bench.harness.result import Progress
from ffdist.bench.harness.rounds import PoolSide, calibrated
from ffdist.bench.harness.summary import Summary
from ffdist.bench.harness.window import Window, WindowRate
from ffdist.bench.harness.worker_pool import WorkerMain, WorkerPool
from ffdist.bench.pipeline_side import PipelineMain
from ffdist.bench.settings import BenchSettings
from ffdist.errors import ConfigError


@dataclass
class BaselineSide(PoolSide):
    """One baseline, in the processes that it shares with its variants."""

    variant: str

    def measure(self) -> WindowRate:
        return self.pool.ask(RunOrder(self.variant, self.window))


Placing = Callable[[WorkerMain], WorkerMain]
"""Where a side's processes live, if not simply here."""


def on_this_host(main: WorkerMain) -> WorkerMain:
    """Leave a main function as it is: its processes live on this host."""
    return main


def open_pipeline(
    ends: ExitStack,
    settings: BenchSettings,
    stages: int,
    name: str = "ours",
    *,
    compiled: bool = False,
    place: Placing = on_this_host,
) -> PoolSide:
    """ffdist's side with so many stages, once all are ready."""
    pool = ends.enter_context(WorkerPool(name, place(PipelineMain(settings.job(stages, compiled=compiled))), stages))
    assert pool.recv() == "ready"
    # what the edges hold may not drain within a window
    tail = (settings.train.plan.queue + 1) * (stages - 1)
    return calibrated(
        PoolSide(name, pool, Window(max(settings.compare.warmup_batches, tail), 3, tail)),
        settings.compare.window_seconds,
    )


@dataclass
class Family:
    """A baseline at its best: which variant was taken, and what all of them did in the qualifying rounds."""

    side: BaselineSide
    qualifying: dict[str, Summary]
    refused: dict[str, str]
    """Variants that do not fit the network, and why."""


def open_baseline(
    ends: ExitStack,
    settings: BenchSettings,
    name: str,
    progress: Progress,
    *,
    compiled: bool = False,
    place: Placing = on_this_host,
) -> Family:
    """The baseline that `name` stands for; where it stands for several, they take turns and the fastest is taken.

    Raises ConfigError when none of them fits the network.
    """
    variants = family(name)
    progress(f"building {', '.join(variants)}{', compiled' * compiled}")
    sides, refused = open_variants(ends, settings, variants, compiled=compiled, place=place)
    if len(sides) == 1:
        calibrated(sides[0], settings.compare.window_seconds)
        return Family(sides[0], {}, refused)
    return qualify(sides, refused, settings, progress)


def open_variants(
    ends: ExitStack,
    settings: BenchSettings,
    variants: tuple[str, ...],
    *,
    compiled: bool = False,
    place: Placing = on_this_host,
) -> tuple[list[BaselineSide], dict[str, str]]:
    """A side for each variant, all in the same processes, and the reasons of those that do not fit the network.

    Raises ConfigError where none fits.
    """
    size = 1 if is_serial(variants[0]) else settings.compare.devices
    threads = settings.threads * (settings.compare.devices if variants == ("bp-threads",) else 1)
    job = settings.changed(threads=threads).job(1)
    pool = ends.enter_context(WorkerPool(variants[0], place(BaselineMain(job, compiled)), size))
    refused = pool.ask(KeepOrder(variants))
    sides = [BaselineSide(v, pool, Window(settings.compare.warmup_batches, 3), v) for v in variants if v not in refused]
    if not sides:
        raise ConfigError("no such baseline fits this network", where="--against", got="\n".join(refused.values()))
    return sides, refused


def qualify(
    sides: Sequence[BaselineSide],
    refused: dict[str, str],
    settings: BenchSettings,
    progress: Progress,
    *,
    keep: bool = False,
) -> Family:
    """Compare variants in short rounds, in turns; the one with the best median is taken.

    keep: leave the other variants built, in place of freeing them.
    """
    for number, side in enumerate(sides, 1):
        progress(f"trying {side.name} ({number} of {len(sides)})")
        calibrated(side, settings.compare.window_seconds / 2)
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(1, settings.compare.qualifying + 1):
        for side in sides:
            rates[side.name].append(side.measure().rate)
        latest = ", ".join(f"{name} {measured[-1]:,.0f}" for name, measured in rates.items())
        progress(f"qualifying round {number} of {settings.compare.qualifying}: {latest}")
    results = {name: Summary.of(values) for name, values in rates.items()}
    best = max(sides, key=lambda side: results[side.name].median)
    if not keep:
        best.pool.ask(KeepOrder((best.variant,)))
    calibrated(best, settings.compare.window_seconds)
    return Family(best, results, refused)
