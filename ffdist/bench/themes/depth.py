"""Memory and time as blocks are added: one block a stage here, the whole network on each device there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist

from ffdist.bench.finding import Cell, Finding, Grid, Plot, Progress
from ffdist.bench.meter import MemoryUse, Meter
from ffdist.bench.probe import Probe
from ffdist.bench.rounds import Rounds, take_turns
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import open_baseline, open_pipeline
from ffdist.bench.themes.memory import MIB, baseline_memory, worst
from ffdist.errors import ConfigError
from ffdist.runtime.job import Job
from ffdist.runtime.rank import Rank
from ffdist.runtime.threads import ThreadEdges
from ffdist.runtime.world import World
from ffdist.transport import Edge, open_local

WIDTHS = {"cnn": 32, "cnnb": 32, "mlp": 512}
BATCHES = 16
"""Enough for every queue to have been full."""


def depth(settings: BenchSettings, progress: Progress) -> Finding:
    """For each depth: peak bytes a device, and samples/s of one device's work split over the stages."""
    if settings.model not in WIDTHS:
        raise ConfigError("depth grows by equal blocks", where="--model", expected=" or ".join(WIDTHS),
                          got=settings.model)  # fmt: skip
    against = next((name for name in settings.against if name != "ff"), "bp")
    rows: list[dict[str, Cell]] = []
    notes: list[str] = []
    for blocks in settings.depths:
        progress(f"{blocks} blocks")
        deep = deepened(settings, blocks)
        ours = worst(threads_memory(deep, blocks))
        theirs = worst(baseline_memory(deep, "bp" if against == "bp" else "ddp-bucket-25"))
        rounds = speed(deep, against, progress)
        rate, other = rounds.rate("ours"), next(rounds.rate(name) for name in rounds.laps if name != "ours")
        rows.append({"blocks": blocks, "ours MiB": ours.peak / MIB, f"{against} MiB": theirs.peak / MIB,
                     "ratio": ours.peak / theirs.peak, "ours samples/s": rate.median,
                     f"{against} samples/s": other.median,
                     "ours activations MiB": ours.activations / MIB, "ours queue MiB": ours.queue / MIB})  # fmt: skip
        notes += [f"{blocks} blocks: {note}" for note in rounds.notes()]
    peaks = [float(row["ours MiB"] or 0) for row in rows]
    spread = max(peaks) / min(peaks) - 1
    notes += [f"ours, from {settings.depths[0]} to {settings.depths[-1]} blocks: within {spread:.1%}",
              "memory at one block a stage, every stage counted; speed with "
              f"{settings.num_stages} stages against {against} with its devices"]  # fmt: skip
    title = f"{settings.model} of equal blocks ({WIDTHS[settings.model]} wide), batch {settings.batch_size}"
    summary: dict[str, Any] = {"model": settings.model, "precision": settings.precision, "batch": settings.batch_size,
                               "against": against, "spread": spread, "depths": rows}  # fmt: skip
    return Finding("depth", summary, [Grid(title, rows)], notes, lines(title, rows, against))


def deepened(settings: BenchSettings, blocks: int) -> BenchSettings:
    widths = ",".join([str(WIDTHS[settings.model])] * blocks)
    return replace(settings, model_args=(f"widths={widths}",), split=None, cut=())


def threads_memory(settings: BenchSettings, stages: int) -> list[MemoryUse]:
    """Of each stage, a thread each: far more stages than this machine has cores. Each thread counts its own."""
    make = settings.job(stages)
    job = make()
    samples = min(len(job.images.train), BATCHES * settings.batch_size)
    config = replace(job.config, stages=stages, samples=samples, schedule=replace(job.config.schedule, epochs=1))
    return run_weighed(replace(job, config=config, images=replace(job.images, test=None)))


def run_weighed(job: Job) -> list[MemoryUse]:
    count, store = job.config.stages, dist.HashStore()
    edges = [open_local(Edge(f"{i}-{i + 1}", job.config.queue, job.config.timeout)) for i in range(count - 1)]
    receivers, senders = [None, *(r for _, r in edges)], [*(s for s, _ in edges), None]
    used: dict[int, MemoryUse] = {}
    errors: list[BaseException] = []

    def life(rank: int) -> None:
        try:
            with Meter(torch.device("cpu")) as meter:
                ends = ThreadEdges(receivers[rank], senders[rank])
                Rank(job, World(rank, count, rank), store, ends, lambda event: None).run()
                used[rank] = meter.use()
        except BaseException as error:
            errors.append(error)
            for end in (receivers[rank], senders[rank]):
                if end:
                    end.close()

    join_all([Thread(target=life, args=(rank,), daemon=True) for rank in range(count)])
    if errors:
        raise errors[0]
    return [used[rank] for rank in range(count)]


def join_all(threads: Sequence[Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def speed(settings: BenchSettings, against: str, progress: Progress) -> Rounds:
    with ExitStack() as ends:
        probe = ends.enter_context(Probe(settings.devices))
        ours = open_pipeline(ends, settings, settings.num_stages)
        theirs = open_baseline(ends, settings, against).side
        return take_turns([ours, theirs], probe, settings.rounds, progress)


def lines(title: str, rows: list[dict[str, Cell]], against: str) -> Plot:
    def points(column: str) -> list[tuple[Any, float, float, float]]:
        values = [(row["blocks"], float(row[column] or 0)) for row in rows]
        return [(blocks, value, value, value) for blocks, value in values]

    series = {"ours, one block a stage": points("ours MiB"), against: points(f"{against} MiB")}
    return Plot("lines", title, "blocks", "MiB of tensors on the fullest device", series, log_x=True)
