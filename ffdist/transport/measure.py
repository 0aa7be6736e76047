"""The rate of a transport from one process to another, against one thread's copies in memory."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ffdist.device import CPU
from ffdist.exiting import end_with_starter
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.local import open_local
from ffdist.transport.process_group import LOOPBACK
from ffdist.transport.registry import between_processes, own_location, transport_of
from ffdist.transport.stores import serve_store
from ffdist.transport.transport import EdgeContext

KIB, MIB = 1 << 10, 1 << 20
SIZES = (64 * KIB, MIB, 4 * MIB, 16 * MIB)
ALL_REDUCE = "gloo's all-reduce"
"""The name of what backpropagation's gradients go by, of float32, by both processes: no transport of ours, but measured
as one."""


@dataclass(frozen=True)
class TransportRate:
    """Medians over the rounds, for one transport and message size."""

    transport: str
    message_bytes: int
    messages_per_s: float
    mb_per_s: float
    """10^6 payload bytes a second; `local` passes references, so there it is a number without meaning."""
    ratio: float
    """To the one-thread copy of the same round."""
    ratio_min: float
    ratio_max: float
    num_rounds: int
    cpu: float = 0.0
    """CPU seconds that a message takes of both ends together, the least of the rounds."""


class SampleTime(NamedTuple):
    """The seconds that the timed messages of a sample took."""

    elapsed: float
    cpu: float
    """Seconds of all of this process's threads."""


Samples = dict[tuple[str, int], list[SampleTime]]
"""The samples of one process, by transport and size."""


class _Plan(NamedTuple):
    sizes: Sequence[int]
    transports: Sequence[str]
    rounds: int
    depth: int
    volume: int

    def num_messages(self, size: int) -> int:
        """Messages that are timed."""
        return max(20, min(2000, self.volume // size))

    def num_untimed(self, num: int) -> int:
        """Messages before and after them: a tenth to warm up, and what fills the edge."""
        return num // 10 + 3 * self.depth


def measure_transport(
    transports: Sequence[str] | None = None,
    sizes: Sequence[int] = SIZES,
    *,
    rounds: int = 7,
    depth: int = 2,
    volume: int = 256 * MIB,
    cluster: str | None = None,
    forked: bool = False,
) -> list[TransportRate]:
    """Send messages of each size from one new process to another, one thread each, the transports in turn.

    transports: "local", between threads, those of the registry, and ALL_REDUCE; default: all transports that join two
    processes of this host.
    volume: bytes that are timed in a sample; between 20 and 2000 messages. cluster: the address of a Ray cluster, which
    both join. forked: whether they may be forked from this process, which has done nothing else yet, and so have torch.
    """
    names = ("local", *between_processes()) if transports is None else transports
    plan = _Plan(sizes, ("memcpy", *names), rounds, depth, volume)
    context = multiprocessing.get_context("fork" if forked else "spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(2, context, initializer=watch_parent) as pool:
        try:
            pool.submit(os.getpid).result()  # both are there before this process has threads, which it could not fork
            store = serve_store("127.0.0.1")
            both = [pool.submit(_run, rank, store.port, plan, cluster) for rank in range(2)]
            for future in as_completed(both):
                future.result()
            sent, received = (future.result() for future in both)
        except BaseException:  # an interrupt, too: they would measure on
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise
    return [_rate(plan, sent, received, transport, size) for size in sizes for transport in plan.transports]


def _rate(plan: _Plan, sent: Samples, received: Samples, transport: str, size: int) -> TransportRate:
    mine, copy = ([taken.elapsed for taken in received[name, size]] for name in (transport, "memcpy"))
    cpu = [min(taken.cpu for taken in end[transport, size]) for end in (sent, received)]
    per_s = plan.num_messages(size) / statistics.median(mine)
    ratios = [b / a for a, b in zip(mine, copy, strict=True)]
    return TransportRate(
        transport,
        size,
        per_s,
        per_s * size / 1e6,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        plan.rounds,
        sum(cpu) / plan.num_messages(size),
    )


def pin_to_cores(rank: int, size: int) -> None:
    """Bind this process to its own equal share of the cores, so that what is measured together does not get in one
    another's way: a system that wakes one process where another computes makes one core of two. Where there are more
    processes than cores, the system deals."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if share := len(cores) // size:
        os.sched_setaffinity(0, cores[rank * share :][:share])


def watch_parent() -> None:
    """Watch the parent from a worker's start on: one that waits for its first task has nobody else to tell it."""
    end_with_starter()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker of a pool holds the pool's own pipes, and would wait for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _run(rank: int, port: int, plan: _Plan, cluster: str | None) -> Samples:
    """The main function of one of the two processes; rank 1 receives, and its elapsed seconds count."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    torch.set_num_threads(1)
    if cluster:
        import_module("ray").init(cluster, log_to_driver=False, logging_level="ERROR")
    pin_to_cores(rank, 2)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=dist.PrefixStore("group", store), rank=rank, world_size=2)
    found: Samples = {}
    for size in plan.sizes:
        for turn in range(plan.rounds):
            for transport in plan.transports:
                edge = Edge(f"{transport}-{size}-{turn}", plan.depth)
                dist.barrier()
                found.setdefault((transport, size), []).append(_sample(rank, transport, edge, size, plan, store))
    dist.destroy_process_group()
    return found


def _sample(rank: int, transport: str, edge: Edge, size: int, plan: _Plan, store: dist.Store) -> SampleTime:
    """Time one sample; zeros at the rank that only waits for the other."""
    num, message = plan.num_messages(size), torch.ones(size, dtype=torch.uint8)
    if transport == "memcpy":
        target = torch.zeros_like(message)
        return _time(lambda: target.copy_(message), num, plan) if rank == 1 else SampleTime(0.0, 0.0)
    if transport == "local":
        return _between_threads(edge, message, num, plan) if rank == 1 else SampleTime(0.0, 0.0)
    if transport == ALL_REDUCE:
        values = torch.zeros(size // 4)
        return _time(lambda: dist.all_reduce(values), num, plan)
    kind, place = transport_of(transport), own_location()
    backend = kind.backend(place, place)
    group = dist.new_group([0, 1], edge.timeout, backend) if backend else None  # of a new name, also in torch 2.11
    assert not isinstance(group, int)
    try:
        return _use(
            (kind.open_sender, kind.open_receiver)[rank](edge, EdgeContext(store, CPU, group)), message, num, plan
        )
    finally:
        if group is not None:
            dist.destroy_process_group(group)


def _between_threads(edge: Edge, message: Tensor, num: int, plan: _Plan) -> SampleTime:
    sender, receiver = open_local(edge)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_use, sender, message, num, plan)
        received = _use(receiver, message, num, plan)
        sending.result()
        return received


def _use(end: Sender | Receiver, message: Tensor, num: int, plan: _Plan) -> SampleTime:
    with closing(end):
        if isinstance(end, Receiver):
            return _time(end.recv, num, plan)
        return _time(lambda: end.send(Frame("message", {}, {"x": message})), num, plan)


def _time(act: Callable[[], object], num: int, plan: _Plan) -> SampleTime:
    """Time `num` acts in the middle, where the edge is as full at their start as at their end."""
    for _ in range(plan.num_untimed(num) - plan.depth):
        act()
    elapsed, cpu = time.perf_counter(), time.process_time()
    for _ in range(num):
        act()
    taken = SampleTime(time.perf_counter() - elapsed, time.process_time() - cpu)
    for _ in range(plan.depth):
        act()
    return taken
