"""Stages as threads of this process: for notebooks and tests, and as what the other launchers must equal."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event, Lock, Thread

import torch
import torch.distributed as dist

from ffdist.data.readers import wait_for_readers_at_most
from ffdist.errors import Interrupted, StageError
from ffdist.events import Observer, stopping
from ffdist.models import wait_at_most
from ffdist.runtime.edges import EdgeEnds
from ffdist.runtime.heartbeat import silence_of
from ffdist.runtime.interrupts import StopRequest, interrupts
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result, cause_of
from ffdist.runtime.routes import Route
from ffdist.runtime.worker import Worker
from ffdist.runtime.world import World
from ffdist.snapshot.writers import writing_there
from ffdist.transport import Edge, Receiver, Sender, open_local


class EdgeRegistry:
    """Both ends of every edge between the threads of a run, made when one of them asks."""

    def __init__(self, timeout: timedelta) -> None:
        self.timeout = timeout
        # both ends of an edge are made by whichever thread asks first, and closed by whichever ends first
        self.lock = Lock()
        self.edges: dict[str, tuple[Sender, Receiver]] = {}
        self.gone: set[int] = set()
        """Workers that have ended."""
        self.routes: dict[str, Route] = {}

    def ends(self, route: Route) -> tuple[Sender, Receiver]:
        """Both ends of a route's edge; closed already, where the worker at one of them has ended."""
        with self.lock:
            if route.name not in self.edges:
                self.edges[route.name] = open_local(Edge(route.name, route.depth, self.timeout))
                self.routes[route.name] = route
                self._close(route)
            return self.edges[route.name]

    def leave(self, rank: int) -> None:
        """A worker has ended: its ends close, those too that it has never asked for."""
        with self.lock:
            self.gone.add(rank)
            for route in self.routes.values():
                self._close(route)

    def _close(self, route: Route) -> None:
        sender, receiver = self.edges[route.name]
        if route.source in self.gone:
            sender.close()
        if route.target in self.gone:
            receiver.close()


class ThreadEdges:
    """One worker's ends of edges between threads of one process."""

    def __init__(self, rank: int = 0, exchange: EdgeRegistry | None = None) -> None:
        self.rank = rank
        self.exchange = exchange or EdgeRegistry(timedelta(minutes=10))

    def kind(self, route: Route) -> str:
        return "local"

    def open(self, routes: Sequence[Route], ends: ExitStack) -> EdgeEnds:
        found = EdgeEnds({}, {})
        for route in routes:
            if self.rank in (route.source, route.target):
                sender, receiver = self.exchange.ends(route)
                if route.source == self.rank:
                    found.senders[route.name] = sender
                if route.target == self.rank:
                    found.receivers[route.name] = receiver
        ends.callback(self.exchange.leave, self.rank)
        return found

    def close(self) -> None:
        pass  # there is nothing beside the ends


GRACE = 10.0
"""Seconds the others have to end by themselves after one has failed, or all, when told to before they have begun."""
POLL_SECONDS = 0.25
"""Seconds between two looks at what has happened meanwhile."""


def run_threads(job: Job, observer: Observer) -> Result:
    """Run all stages of a job here.

    SIGINT, SIGTERM or SIGHUP ends the run early, with a snapshot, where this is the main thread. Raises the error that
    explains the others when a stage fails, and Interrupted for a signal before the stages are ready, and for a second
    one. A thread that hangs is left behind; the interpreter ends without it.
    """
    count, limit = job.workers, job.timeout.total_seconds()
    wait_for_readers_at_most(silence_of(limit))
    exchange = EdgeRegistry(job.timeout)
    store, group = dist.HashStore(), ThreadGroup()
    observing = stopping(group.result.collecting(observer), group.stop.set)

    def run_rank(rank: int) -> None:
        wait_at_most(limit)
        ready = group.ready.set if rank == 0 else lambda: None
        error = None
        try:
            Worker(
                job, World(rank, count, rank), store, ThreadEdges(rank, exchange), observing, group.stop, ready
            ).run()
        except BaseException as failure:  # whatever it is: the one that waits raises it
            error = failure
        finally:
            # first the ends, by which neighbours learn of it; who waits for the word may leave the process at once
            exchange.leave(rank)
            group.ended.put((rank, error))

    # daemons, since a thread that hangs within torch cannot be ended, and must not keep the interpreter
    threads = [Thread(target=run_rank, args=(rank,), name=f"stage-{rank}", daemon=True) for rank in range(count)]
    held = writing_there(job.run)
    with computing_threads_kept(), held, interrupts(lambda _: group.stop.set()) as group.stop_request:
        for thread in threads:
            thread.start()
        try:
            return group.until_all_ended(count)
        except StageError:
            if any(thread.is_alive() for thread in threads):
                wait_at_most(limit)  # what comes next in this process, for what a thread left behind may hold
            raise
        except Interrupted as interrupt:
            interrupt.begun = group.ready.is_set()
            raise


@dataclass
class ThreadGroup:
    """The state that the stages' threads share with the one that waits for them."""

    result: Result = field(default_factory=Result)
    stop_request: StopRequest = field(default_factory=StopRequest)
    stop: Event = field(default_factory=Event)
    ready: Event = field(default_factory=Event)
    """Set when the first stage begins: from then on it makes a snapshot when it is told to stop."""
    ended: queue.SimpleQueue[tuple[int, BaseException | None]] = field(default_factory=queue.SimpleQueue)

    def until_all_ended(self, count: int) -> Result:
        """Wait for so many stages, and return the run's result. Raises the error that explains the others, and
        Interrupted for a signal before the first stage has begun."""
        running, errors = set(range(count)), list[BaseException]()
        deadline: float | None = None
        while running and not (deadline and time.monotonic() > deadline):
            try:
                rank, error = self.ended.get(timeout=POLL_SECONDS)
            except queue.Empty:
                pass
            else:
                running.discard(rank)
                errors += [error] if error else []
            limited = errors or self.too_early()
            deadline = (deadline or time.monotonic() + GRACE) if limited else None
        if self.too_early():
            raise Interrupted(self.stop_request.number)
        if errors:
            raise cause_of(errors, [f"worker {rank}" for rank in sorted(running)])
        self.result.signal = self.stop_request.number
        return self.result

    def too_early(self) -> bool:
        """True if it was told to stop, and has not begun."""
        return bool(self.stop_request.number) and not self.ready.is_set()


@contextmanager
def computing_threads_kept() -> Iterator[None]:
    """A context after which torch computes with as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        # each stage has set its own number, and torch may keep it for the whole process
        torch.set_num_threads(before)
