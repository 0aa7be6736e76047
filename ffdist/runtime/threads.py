"""Stages as threads of this process: for notebooks and tests, and as what the other launchers must equal."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

import torch
import torch.distributed as dist

from ffdist.errors import Interrupted, StageError
from ffdist.models import wait_at_most
from ffdist.pipeline.sink import Reporter
from ffdist.runtime.interrupts import Told, interrupts
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result, explained
from ffdist.runtime.rank import Rank
from ffdist.runtime.world import World
from ffdist.transport import Edge, Receiver, Sender, open_local


class ThreadEdges:
    """One stage's ends of edges that were opened together."""

    def __init__(
        self,
        receiver: Receiver | None,
        sender: Sender | None,
        kinds: Sequence[str] = (),
        back: tuple[Sender, Receiver] | None = None,
    ) -> None:
        self.receiver, self.sender, self.kinds, self.back = receiver, sender, kinds, back

    def upstream(self) -> Receiver:
        assert self.receiver
        return self.receiver

    def downstream(self) -> Sender:
        assert self.sender
        return self.sender

    def close(self) -> None:
        pass  # there is nothing beside the ends

    def from_last(self, depth: int) -> Receiver:
        assert self.back
        return self.back[1]

    def to_first(self, depth: int) -> Sender:
        assert self.back
        return self.back[0]


GRACE = 10.0
"""Seconds the others have to end by themselves after one has failed, or all, when told to before they have begun."""
LOOK = 0.25
"""Seconds between two looks at what has happened meanwhile."""


def run_threads(job: Job, report: Reporter) -> Result:
    """Run all stages of a job here.

    SIGINT, SIGTERM or SIGHUP ends the run early, with a snapshot, where this is the main thread. Raises the error that
    explains the others when a stage fails, and Interrupted for a signal before the stages are ready, and for a second
    one. A thread that hangs is left behind; the interpreter ends without it.
    """
    count, limit = job.stages, job.timeout.total_seconds()
    edges = [open_local(Edge(f"{i}-{i + 1}", job.settings.plan.queue, job.timeout)) for i in range(count - 1)]
    receivers, senders = [None, *(r for _, r in edges)], [*(s for s, _ in edges), None]
    lag = job.objective.feedback
    back = open_local(Edge("back", lag, job.timeout)) if lag else None
    store, team = dist.HashStore(), Team()
    hear = team.result.listen(report)

    def life(rank: int) -> None:
        wait_at_most(limit)
        ends = ThreadEdges(receivers[rank], senders[rank], ["local"] * (count - 1), back)
        ready = team.ready.set if rank == 0 else lambda: None
        error = None
        try:
            Rank(job, World(rank, count, rank), store, ends, hear, team.stop, ready).run()
        except BaseException as failure:
            error = failure
        finally:
            back_end = back and (back[0] if rank == count - 1 else back[1] if rank == 0 else None)
            for end in (ends.receiver, ends.sender, back_end):
                if end:
                    end.close()
            team.ended.put((rank, error))

    threads = [Thread(target=life, args=(rank,), name=f"stage-{rank}", daemon=True) for rank in range(count)]
    with computing_threads_kept(), interrupts(lambda _: team.stop.set()) as team.told:
        for thread in threads:
            thread.start()
        try:
            return team.until_all_ended(count)
        except StageError:
            if any(thread.is_alive() for thread in threads):
                wait_at_most(limit)  # what comes next in this process, for what a thread left behind may hold
            raise
        except Interrupted as told:
            told.begun = team.ready.is_set()
            raise


@dataclass
class Team:
    """What the stages' threads share with the one that waits for them."""

    result: Result = field(default_factory=Result)
    told: Told = field(default_factory=Told)
    stop: Event = field(default_factory=Event)
    ready: Event = field(default_factory=Event)
    """Set when the first stage begins: from then on it makes a snapshot when it is told to stop."""
    ended: queue.SimpleQueue[tuple[int, BaseException | None]] = field(default_factory=queue.SimpleQueue)

    def until_all_ended(self, count: int) -> Result:
        running, errors = set(range(count)), list[BaseException]()
        deadline: float | None = None
        while running and not (deadline and time.monotonic() > deadline):
            try:
                rank, error = self.ended.get(timeout=LOOK)
            except queue.Empty:
                pass
            else:
                running.discard(rank)
                errors += [error] if error else []
            limited = errors or self.too_early()
            deadline = (deadline or time.monotonic() + GRACE) if limited else None
        if self.too_early():
            raise Interrupted(self.told.number)
        if errors:
            raise explained(errors, [f"stage {rank}" for rank in sorted(running)])
        self.result.signal = self.told.number
        return self.result

    def too_early(self) -> bool:
        """Whether it was told to stop, and has not begun."""
        return bool(self.told.number) and not self.ready.is_set()


@contextmanager
def computing_threads_kept() -> Iterator[None]:
    """Whatever is done within, torch computes with as many threads afterwards as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
