"""Stages as threads of this process: for notebooks and tests, and as what the other launchers must equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

import torch
import torch.distributed as dist

from ffdist.pipeline.sink import Reporter
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result, root_cause
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


def run_threads(job: Job, report: Reporter) -> Result:
    """Run all stages of a job here. Ctrl-C ends the run early, with a snapshot; raises the first stage's own error."""
    count = job.config.stages
    edges = [open_local(Edge(f"{i}-{i + 1}", job.config.queue, job.config.timeout)) for i in range(count - 1)]
    receivers, senders = [None, *(r for _, r in edges)], [*(s for s, _ in edges), None]
    lag = job.objective.feedback
    back = open_local(Edge("back", lag, job.config.timeout)) if lag else None
    store, result, errors = dist.HashStore(), Result(), []
    stop = Event()

    def life(rank: int) -> None:
        ends = ThreadEdges(receivers[rank], senders[rank], ["local"] * (count - 1), back)
        try:
            Rank(job, World(rank, count, rank), store, ends, result.listen(report), stop).run()
        except BaseException as error:
            errors.append(error)
        finally:
            back_end = back and (back[0] if rank == count - 1 else back[1] if rank == 0 else None)
            for end in (ends.receiver, ends.sender, back_end):
                if end:
                    end.close()

    threads = [Thread(target=life, args=(rank,), name=f"stage-{rank}", daemon=True) for rank in range(count)]
    with computing_threads_kept():
        for thread in threads:
            thread.start()
        for thread in threads:
            _join(thread, stop)
    if errors:
        raise root_cause(errors)
    return result


@contextmanager
def computing_threads_kept() -> Iterator[None]:
    """Whatever is done within, torch computes with as many threads afterwards as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _join(thread: Thread, stop: Event) -> None:
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            stop.set()
