"""Memory and time as blocks are added: one block a stage here, the whole network on each device there.

Two devices' DDP holds what two devices must. At as many ranks as there are stages each rank has a sliver of the batch,
which it is weighed with: a rank's tensors are those of its own share, however many others there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist

from ffdist.bench.harness.meter import MemoryUse, Meter
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Plot, Progress
from ffdist.bench.harness.rounds import Rounds, take_turns
from ffdist.bench.harness.table import ResultTable, spread_of
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import open_baseline, open_pipeline
from ffdist.bench.suites.memory import MIB
from ffdist.bench.weighed import baseline_memory, worst
from ffdist.errors import ConfigError, setting
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import root_cause
from ffdist.runtime.worker import Worker
from ffdist.runtime.world import World

WIDTHS = {"cnn": 32, "cnnb": 32, "mlp": 512}
BATCHES = 16
"""Enough for every queue to have been full."""
VARIANT = "ddp-bucket-25"
"""What is weighed."""
UNITS = {"peak": "MiB", "queue": "MiB", "of_peak": "", "throughput": "samples/s", "ratio": ""}


def depth(settings: BenchSettings, progress: Progress) -> BenchResult:
    """Measure each depth: peak bytes a device, one block a stage; and samples/s with the stages and ranks asked for."""
    if settings.model not in WIDTHS:
        raise ConfigError(
            "depth grows by equal blocks",
            where=setting("network.model"),
            expected=" or ".join(WIDTHS),
            got=settings.model,
        )
    if settings.compare.against != ("ddp",):
        raise ConfigError(
            "depth is compared with data parallelism",
            where=setting("compare.against"),
            expected="ddp",
            got=" ".join(settings.compare.against),
        )
    devices, stages, peaks = settings.compare.devices, settings.num_stages, dict[int, float]()
    title = f"{settings.model} of equal blocks ({WIDTHS[settings.model]} wide), batch {settings.batch_size}"
    made, tables, notes = ResultTable("depth", title, columns(devices, stages), UNITS), list[ResultTable](), list[str]()
    for blocks in settings.compare.depths:
        progress(f"{blocks} blocks")
        deep = with_blocks(settings, blocks)
        ours = worst(threads_memory(deep, blocks))
        sliver = deep.changed(devices=1, batch_size=ceil(settings.batch_size / blocks))
        theirs, as_many = (worst(baseline_memory(each, VARIANT)) for each in (deep, sliver))
        peaks[blocks] = ours.peak / MIB
        rounds = speed(deep, "ddp", progress)
        other = next(name for name in rounds.names if name != "ours")
        made.add(side="ours", blocks=blocks, peak=peaks[blocks], queue=ours.queue / MIB, throughput=rounds.rate("ours"))
        made.add(side=VARIANT, against="ddp", blocks=blocks, peak=theirs.peak / MIB, of_peak=ours.peak / theirs.peak)
        made.add(
            side=VARIANT, against="as many", blocks=blocks, peak=as_many.peak / MIB, of_peak=ours.peak / as_many.peak
        )
        made.add(against="ddp, speed", blocks=blocks, **rounds.line(other, "ours"))
        tables.append(rounds.table(blocks=blocks))
        notes += [f"{blocks} blocks: {note}" for note in rounds.notes()]
    spread = max(peaks.values()) / min(peaks.values()) - 1
    notes += [
        f"ours, from {settings.compare.depths[0]} to {settings.compare.depths[-1]} blocks: within {spread:.1%}",
        "ours MiB: the fullest of as many stages as blocks, with its edges' slots; of as many: a rank's tensors "
        "with its share of the batch, where there are as many ranks as blocks; speed is another run, of "
        f"{stages} stages against {devices} ranks",
    ]
    found = {"model": settings.model, "against": "ddp", "spread": spread, "depths": made.drawn_cells()}
    summary: dict[str, Any] = settings.facts | found
    label, along = "MiB of tensors on the fullest device", "blocks; as many: as many ranks of DDP as blocks"
    plot = Plot.lines_of(made, "peak", label, "blocks", along, log_x=True)
    return BenchResult("depth", summary, [made, *tables], notes, plot)


def columns(devices: int, stages: int) -> dict[str, str]:
    return {
        "blocks": "blocks",
        "ours MiB": "ours/peak",
        "of it edges": "ours/queue",
        f"ddp of {devices}, MiB": "ddp/peak",
        "ours / it": "ddp/of_peak",
        "ddp of as many, MiB": "as many/peak",
        "ours / that": "as many/of_peak",
        f"{stages} stages samples/s": "ours/throughput",
        f"ddp of {devices} samples/s": "ddp, speed/throughput",
        "ratio": "ddp, speed/ratio",
        **spread_of("ddp, speed/ratio"),
    }


def with_blocks(settings: BenchSettings, blocks: int) -> BenchSettings:
    """The settings with a network of so many equal blocks."""
    widths = ",".join([str(WIDTHS[settings.model])] * blocks)
    return settings.changed(model_args=(f"widths={widths}",), split=None, cut=())


def threads_memory(settings: BenchSettings, stages: int) -> list[MemoryUse]:
    """Memory of each stage, one thread a stage: far more stages than this machine has cores. Each thread counts its
    own."""
    make = settings.job(stages)
    job = make()
    samples = min(len(job.images.train), BATCHES * settings.batch_size)
    train = job.settings.changed(samples=samples, epochs=1)
    return run_weighed(replace(job, settings=train, images=replace(job.images, test=None)))


def run_weighed(job: Job) -> list[MemoryUse]:
    """Run all ranks as threads, joined by the edges that processes of one host have; the memory of each."""
    count, store = job.workers, dist.HashStore()
    used: dict[int, MemoryUse] = {}
    errors: list[BaseException] = []

    def run_rank(rank: int) -> None:
        try:
            with Meter(torch.device("cpu")) as meter:
                world = World(rank, count, rank)
                edges = ProcessEdges(world, store, torch.device("cpu"), timeout=job.timeout)
                Worker(job, world, store, edges, lambda event: None).run()
                used[rank] = meter.use()
        except BaseException as error:  # an exit, too: the thread that joins raises it
            errors.append(error)

    join_all([Thread(target=run_rank, args=(rank,), daemon=True) for rank in range(count)])
    if errors:
        raise root_cause(errors)
    return [used[rank] for rank in range(count)]


def join_all(threads: Sequence[Thread]) -> None:
    """Start the threads, and wait for all."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def speed(settings: BenchSettings, against: str, progress: Progress) -> Rounds:
    """Samples/s of both sides, in turns, with the settings' stages and ranks."""
    with ExitStack() as ends:
        probe = ends.enter_context(Probe(settings.compare.devices))
        ours = open_pipeline(ends, settings, settings.num_stages)
        theirs = open_baseline(ends, settings, against, progress).side
        return take_turns([ours, theirs], probe, settings.compare.rounds, progress)
