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

from ffdist.bench.finding import Cell, Finding, Grid, Plot, Progress
from ffdist.bench.meter import MemoryUse, Meter
from ffdist.bench.probe import Probe
from ffdist.bench.rounds import Rounds, take_turns
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import open_baseline, open_pipeline
from ffdist.bench.themes.memory import MIB, baseline_memory, worst
from ffdist.errors import ConfigError
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import root_cause
from ffdist.runtime.rank import Rank
from ffdist.runtime.world import World

WIDTHS = {"cnn": 32, "cnnb": 32, "mlp": 512}
BATCHES = 16
"""Enough for every queue to have been full."""


def depth(settings: BenchSettings, progress: Progress) -> Finding:
    """For each depth: peak bytes a device, one block a stage; and samples/s with the stages and ranks asked for."""
    if settings.model not in WIDTHS:
        raise ConfigError("depth grows by equal blocks", where="--model", expected=" or ".join(WIDTHS),
                          got=settings.model)  # fmt: skip
    if settings.compare.against != ("ddp",):
        raise ConfigError("depth is compared with data parallelism", where="--against", expected="ddp",
                          got=" ".join(settings.compare.against))  # fmt: skip
    against, variant = "ddp", "ddp-bucket-25"
    rows: list[dict[str, Cell]] = []
    notes: list[str] = []
    for blocks in settings.compare.depths:
        progress(f"{blocks} blocks")
        deep = deepened(settings, blocks)
        ours = worst(threads_memory(deep, blocks))
        theirs = worst(baseline_memory(deep, variant))
        sliver = replace(deep, devices=1, batch_size=ceil(deep.train.training.batch_size / blocks))
        as_many = worst(baseline_memory(sliver, variant))
        rounds = speed(deep, against, progress)
        other = next(name for name in rounds.laps if name != "ours")
        ratio = rounds.ratio("ours", other)
        rows.append(
            {
                "blocks": blocks,
                "ours MiB": ours.peak / MIB,
                "of it edges": ours.queue / MIB,
                f"{against} of {settings.compare.devices}, MiB": theirs.peak / MIB,
                "ours / it": ours.peak / theirs.peak,
                f"{against} of as many, MiB": as_many.peak / MIB,
                "ours / that": ours.peak / as_many.peak,
                f"{settings.num_stages} stages samples/s": rounds.rate("ours").median,
                f"{against} of {settings.compare.devices} samples/s": rounds.rate(other).median,
                "ratio": ratio.median,
                "least": ratio.least,
                "most": ratio.most,
                "n": ratio.n,
            }
        )
        notes += [f"{blocks} blocks: {note}" for note in rounds.notes()]
    peaks = [float(row["ours MiB"] or 0) for row in rows]
    spread = max(peaks) / min(peaks) - 1
    notes += [f"ours, from {settings.compare.depths[0]} to {settings.compare.depths[-1]} blocks: within {spread:.1%}",
              "ours MiB: the fullest of as many stages as blocks, with its edges' slots; of as many: a rank's tensors "
              "with its share of the batch, where there are as many ranks as blocks; speed is another run, of "
              f"{settings.num_stages} stages against {settings.compare.devices} ranks"]  # fmt: skip
    title = f"{settings.model} of equal blocks ({WIDTHS[settings.model]} wide), batch {settings.batch_size}"
    summary: dict[str, Any] = {
        "model": settings.model,
        "precision": settings.precision,
        "batch": settings.batch_size,
        "against": against,
        "spread": spread,
        "depths": rows,
    }
    return Finding("depth", summary, [Grid(title, rows)], notes, lines(title, rows))


def deepened(settings: BenchSettings, blocks: int) -> BenchSettings:
    widths = ",".join([str(WIDTHS[settings.model])] * blocks)
    return settings.changed(model_args=(f"widths={widths}",), split=None, cut=())


def threads_memory(settings: BenchSettings, stages: int) -> list[MemoryUse]:
    """Of each stage, a thread each: far more stages than this machine has cores. Each thread counts its own."""
    make = settings.job(stages)
    job = make()
    samples = min(len(job.images.train), BATCHES * settings.batch_size)
    told = job.settings.changed(samples=samples, epochs=1)
    return run_weighed(replace(job, settings=told, images=replace(job.images, test=None)))


def run_weighed(job: Job) -> list[MemoryUse]:
    """Joined by the edges that processes of one host have."""
    count, store = job.workers, dist.HashStore()
    used: dict[int, MemoryUse] = {}
    errors: list[BaseException] = []

    def life(rank: int) -> None:
        try:
            with Meter(torch.device("cpu")) as meter:
                world = World(rank, count, rank)
                edges = ProcessEdges(world, store, torch.device("cpu"),
                                     timeout=job.timeout)  # fmt: skip
                Rank(job, world, store, edges, lambda event: None).run()
                used[rank] = meter.use()
        except BaseException as error:
            errors.append(error)

    join_all([Thread(target=life, args=(rank,), daemon=True) for rank in range(count)])
    if errors:
        raise root_cause(errors)
    return [used[rank] for rank in range(count)]


def join_all(threads: Sequence[Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def speed(settings: BenchSettings, against: str, progress: Progress) -> Rounds:
    with ExitStack() as ends:
        probe = ends.enter_context(Probe(settings.compare.devices))
        ours = open_pipeline(ends, settings, settings.num_stages)
        theirs = open_baseline(ends, settings, against).side
        return take_turns([ours, theirs], probe, settings.compare.rounds, progress)


def lines(title: str, rows: list[dict[str, Cell]]) -> Plot:
    def points(column: str) -> list[tuple[Any, float, float, float]]:
        values = [(row["blocks"], float(row[column] or 0)) for row in rows]
        return [(blocks, value, value, value) for blocks, value in values]

    series = {
        "ours, one block a stage": points("ours MiB"),
        **{column.removesuffix(", MiB"): points(column) for column in rows[0] if column.endswith(", MiB")},
    }
    return Plot("lines", title, "blocks", "MiB of tensors on the fullest device", series, log_x=True)
