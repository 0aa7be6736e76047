"""The true run on several devices: ffdist's stages by NCCL against DDP (gloo, where the device is a CPU)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.gpu.stages import QUEUE, block_times
from benchmarks.gpu.suite import Suite
from ffdist.baselines.base import BaselineConfig, RankPlace
from ffdist.baselines.known import BASELINES
from ffdist.bench.harness.resumed import Resumed
from ffdist.bench.harness.rounds import PoolSide, Unwatched, calibrated, take_turns
from ffdist.bench.harness.window import Mark, Window, WindowRate, mark
from ffdist.bench.harness.worker_pool import PoolMember, WorkerPool, join
from ffdist.device import collective, forget_peak, group_backend, peak_bytes, queues, seen, synchronize
from ffdist.errors import StageError
from ffdist.models import Chain
from ffdist.pipeline.edge import FromEdge, ToEdge
from ffdist.pipeline.message import Message, Stop, TrainBatch
from ffdist.pipeline.plan import partition, split_by_stage
from ffdist.pipeline.route import FanIn
from ffdist.pipeline.stage import Stage
from ffdist.transport import Edge, EdgeContext, Receiver, Sender, transport_of

TIMEOUT = timedelta(minutes=2)
DDP = ("ddp", "ddp-views", "ddp-bucket-25", "ddp-bucket-100", "ddp-bf16")


def devices(suite: Suite, record: Resumed) -> None:
    """Measure 2, 4, ... devices: samples/s and peak memory of each side, in turns."""
    there = seen().number if queues(suite.device) else 2
    for name, chain in list(suite.networks().items())[: 1 if suite.quick else None]:
        if seconds := block_times(suite, record, name, chain):
            for count in (n for n in (2, 4, 8) if n <= min(there, len(chain))):
                work = partial(together, suite, chain, partition(seconds, count))
                record.measure(work, network=name, devices=count)


def together(suite: Suite, chain: Chain, cut: list[int]) -> list[dict[str, Any]]:
    """Measure all sides in turns, each in processes of its own, which wait while another works."""
    names = DDP[1:2] if suite.quick else DDP
    mains = {
        "ours": DeviceStageMain(suite, chain, cut),
        **{name: DeviceReplicaMain(suite, chain, name) for name in names},
    }
    sides, refused = list[PoolSide](), dict[str, str]()
    with ExitStack() as ends:
        for name, main in mains.items():
            pool = ends.enter_context(WorkerPool(name, main, len(cut)))
            side = PoolSide(name, pool, Window(3, 3, 2 * QUEUE * len(cut) if name == "ours" else 0))
            try:
                sides.append(calibrated(side, suite.seconds))
            except StageError as error:
                if name == "ours":
                    raise
                refused[name] = str(error)
        rounds = take_turns(sides, Unwatched(), suite.rounds)
        peaks = {side.name: side.pool.finish() for side in sides}
    blocks = {"ours": " ".join(map(str, cut))}
    return [
        *(
            {**rounds.line(side.name, "ours"), "peak": max(peaks[side.name]), "cut": blocks.get(side.name)}
            for side in sides
        ),
        *({"side": name, "refused": why} for name, why in refused.items()),
    ]


def of_rank(suite: Suite, member: PoolMember) -> Suite:
    """The suite with this rank's own device, once the default process group is formed."""
    here = replace(suite, device=torch.device(suite.device.type, member.world.rank)) if queues(suite.device) else suite
    join(member, here.device, torch.get_num_threads())
    forget_peak(here.device)
    return here


@dataclass(frozen=True)
class DeviceStageMain:
    """The main function of a stage: each order is a stream of batches, which the last stage answers.

    It returns the device's peak bytes.
    """

    suite: Suite
    chain: Chain
    cut: list[int]

    def __call__(self, member: PoolMember) -> int:
        suite, world = of_rank(self.suite, member), member.world
        blocks = suite.forward_forward(self.chain, split_by_stage(range(len(self.chain)), self.cut)[world.rank])
        stage = Stage(world.rank, blocks, lambda blocks, marker: {})
        receiver, sender = open_ends(world.rank, world.size, suite.device, member.store())
        while window := member.next_order():
            inbox = FanIn([{0: FromEdge(receiver)}]) if receiver else stream(suite, self.chain, window.total)
            outbox = Arrivals(suite.device) if sender is None else ToEdge(sender)
            stage.run(inbox, outbox)
            if isinstance(outbox, Arrivals):
                member.answer(WindowRate(window.batches * suite.batch, window.seconds(outbox.marks), {}))
        for end in (sender, receiver):
            if end:
                end.close()
        dist.destroy_process_group()
        return peak_bytes(suite.device)


@dataclass(frozen=True)
class DeviceReplicaMain:
    """The main function of a rank of DDP, which learns from its part of each batch; rank 0 answers.

    It returns the device's peak bytes.
    """

    suite: Suite
    chain: Chain
    variant: str

    def __call__(self, member: PoolMember) -> int:
        suite, place = of_rank(self.suite, member), RankPlace(member.world.rank, member.world.size)
        learner = BASELINES[self.variant](self.chain, BaselineConfig(suite.train_settings, 10**6, suite.device), place)
        x, y = replace(suite, batch=suite.batch // place.size).batch_of(self.chain)
        while window := member.next_order():
            marks: list[Mark] = []
            for _ in range(window.total):
                learner.learn(x, y)
                marks.append(mark(suite.device))
            synchronize(suite.device)
            dist.barrier()
            if member.world.first:
                member.answer(WindowRate(window.batches * suite.batch, window.seconds(marks), {}))
        dist.destroy_process_group()
        return peak_bytes(suite.device)


def open_ends(rank: int, size: int, device: torch.device, store: dist.Store) -> tuple[Receiver | None, Sender | None]:
    """The rank's receiver and sender; None at the pipeline's ends.

    `new_group` is collective: every rank makes every group, in the same order, before any edge opens.
    """
    groups: list[Any] = [dist.new_group([i, i + 1], TIMEOUT, group_backend(device)) for i in range(size - 1)]
    edges = [Edge(f"{i}-{i + 1}", QUEUE, TIMEOUT) for i in range(size - 1)]
    meet = [EdgeContext(store, device, group) for group in groups]
    by = transport_of(collective(device) or "gloo")
    receiver = by.open_receiver(edges[rank - 1], meet[rank - 1]) if rank else None
    sender = by.open_sender(edges[rank], meet[rank]) if rank < size - 1 else None
    return receiver, sender


def stream(suite: Suite, chain: Chain, batches: int) -> Iterator[Message]:
    """One batch again and again as the messages of a source, and a stop at the end."""
    x, y = suite.batch_of(chain)
    for step in range(1, batches + 1):
        yield TrainBatch(step, x, y, order=step - 1)
    yield Stop()


class Arrivals:
    """The last stage's outbox: marks when batches come, and waits for none."""

    waited = 0.0

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks = list[Mark]()

    def send(self, message: Message) -> None:
        if isinstance(message, TrainBatch):
            self.marks.append(mark(self.device))
