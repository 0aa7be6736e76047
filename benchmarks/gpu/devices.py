"""The true run on several devices: ffdist's stages by NCCL against DDP (gloo, where the device is a CPU)."""

from __future__ import annotations

import faulthandler
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.stages import QUEUE, block_seconds
from benchmarks.gpu.suite import Suite, summary
from ffdist.baselines.base import BaselineConfig, RankPlace
from ffdist.baselines.known import BASELINES
from ffdist.device import collective, forget_peak, group_backend, peak_bytes, queues, seen
from ffdist.errors import FfdistError
from ffdist.models import Chain
from ffdist.pipeline.edge import FromEdge, ToEdge
from ffdist.pipeline.message import Message, Stop, TrainBatch
from ffdist.pipeline.plan import partition, split_by_stage
from ffdist.pipeline.route import FanIn
from ffdist.pipeline.stage import Stage
from ffdist.transport import Edge, EdgeContext, Receiver, Sender, transport_of

TIMEOUT = timedelta(minutes=2)
DDP = ("ddp", "ddp-views", "ddp-bucket-25", "ddp-bucket-100", "ddp-bf16")


def devices(suite: Suite, rows: Rows) -> None:
    """For 2, 4, ... devices: samples/s and peak memory of each side."""
    there = seen().number if queues(suite.device) else 2
    for name, chain in list(suite.networks().items())[: 1 if suite.quick else None]:
        if seconds := rows.row(partial(block_seconds, suite, chain), name, "block_seconds"):
            for count in (n for n in (2, 4, 8) if n <= min(there, len(chain))):
                rows.row(partial(together, suite, chain, partition(seconds, count)), name, str(count))


def together(suite: Suite, chain: Chain, cut: list[int]) -> dict[str, Any]:
    """All rounds of both sides in the same processes, one side after the other."""
    with tempfile.TemporaryDirectory() as folder:
        size, out = len(cut), Path(folder, "results.pt")
        args = (size, suite, chain, cut, str(Path(folder, "store")), str(out))
        multiprocessing.spawn(life, args=args, nprocs=size)  # pyright: ignore[reportPrivateImportUsage]
        return torch.load(out, weights_only=True)


def life(rank: int, size: int, suite: Suite, chain: Chain, cut: list[int], store_file: str, out: str) -> None:
    """One rank; the last one writes the results."""
    faulthandler.dump_traceback_later(2 * TIMEOUT.total_seconds(), exit=True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are here
    suite = replace(suite, device=torch.device(suite.device.type, rank)) if queues(suite.device) else suite
    suite.begin()
    store = dist.FileStore(store_file, size)
    dist.init_process_group(group_backend(suite.device), store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    ours = pipeline_rounds(rank, size, suite, chain, cut, store)
    theirs = {name: ddp_rounds(name, rank, size, suite, chain) for name in (DDP[:2] if suite.quick else DDP)}
    if rank == size - 1:
        best = max((rate["samples_per_second"] for rate in theirs.values()), default=float("nan"))
        torch.save(
            {"cut": cut, "batch": suite.batch, "ours": ours, "ddp": theirs, "ratio": ours["samples_per_second"] / best},
            out,
        )
    dist.barrier()
    dist.destroy_process_group()


def pipeline_rounds(
    rank: int, size: int, suite: Suite, chain: Chain, cut: list[int], store: dist.Store
) -> dict[str, Any]:
    """Each round is a stream of its own: samples/s between the first third of its arrivals and the last."""
    mine = split_by_stage(range(len(chain)), cut)[rank]
    stage = Stage(rank, suite.forward_forward(chain, mine), lambda blocks, marker: {})
    receiver, sender = open_ends(rank, size, suite.device, store)
    rates, batches = [], 12 if suite.quick else 150
    for _ in range(suite.rounds):
        inbox = FanIn({0: FromEdge(receiver)}) if receiver else stream(suite, chain, batches)
        outbox = Arrivals(suite) if sender is None else ToEdge(sender)
        stage.run(inbox, outbox)
        if isinstance(outbox, Arrivals):
            rates.append(outbox.rate(suite.batch))
    for end in (sender, receiver):
        if end:
            end.close()
    peaks = gathered(peak_bytes(suite.device), size)
    return (summary(rates) if rates else {}) | {"peak_bytes": peaks}


def open_ends(rank: int, size: int, device: torch.device, store: dist.Store) -> tuple[Receiver | None, Sender | None]:
    """Every rank makes every group, in order; then each edge opens."""
    groups: list[Any] = [dist.new_group([i, i + 1], TIMEOUT, group_backend(device)) for i in range(size - 1)]
    edges = [Edge(f"{i}-{i + 1}", QUEUE, TIMEOUT) for i in range(size - 1)]
    meet = [EdgeContext(store, device, group) for group in groups]
    by = transport_of(collective(device) or "gloo")
    receiver = by.open_receiver(edges[rank - 1], meet[rank - 1]) if rank else None
    sender = by.open_sender(edges[rank], meet[rank]) if rank < size - 1 else None
    return receiver, sender


def stream(suite: Suite, chain: Chain, batches: int) -> Iterator[Message]:
    x, y = suite.batch_of(chain)
    for step in range(1, batches + 1):
        yield TrainBatch(step, x, y)
    yield Stop()


class Arrivals:
    """The last stage's outbox: marks when batches come, and waits for none."""

    waited = 0.0

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.marks = list[Any]()

    def send(self, message: Message) -> None:
        if isinstance(message, TrainBatch):
            self.marks.append(self.suite.mark())

    def rate(self, batch: int) -> float:
        start = len(self.marks) // 3
        seconds = self.suite.between(self.marks[start], self.marks[-1])
        return (len(self.marks) - 1 - start) * batch / seconds


def ddp_rounds(name: str, rank: int, size: int, suite: Suite, chain: Chain) -> dict[str, Any]:
    """Each rank learns from its part of the batch."""
    config = BaselineConfig(suite.train_settings, 10**6, suite.device)
    suite.recover()  # from the learner before
    forget_peak(suite.device)
    try:
        learner = BASELINES[name](chain, config, RankPlace(rank, size))
    except FfdistError as error:
        return {"samples_per_second": 0.0, "refused": str(error)}
    x, y = replace(suite, batch=suite.batch // size).batch_of(chain)
    rates, batches = [], 8 if suite.quick else 100
    for _ in range(suite.rounds):
        for _ in range(3):
            learner.learn(x, y)
        suite.wait()
        dist.barrier()
        begun = time.perf_counter()
        for _ in range(batches):
            learner.learn(x, y)
        suite.wait()
        dist.barrier()
        rates.append(batches * suite.batch / (time.perf_counter() - begun))
    return summary(rates) | {"peak_bytes": gathered(peak_bytes(suite.device), size)}


def gathered(value: int, size: int) -> list[int]:
    """Every rank's value, on every rank."""
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values
