"""Both ends of an edge, run at once: in two processes by any transport, or in two threads."""

from __future__ import annotations

import gc
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch.distributed as dist

from ffdist.errors import TransportError
from ffdist.transport.base import Edge, Receiver, Sender
from ffdist.transport.contract.processes import ContractRank, Crew, RankOutcome
from ffdist.transport.contract.sides import EDGE
from ffdist.transport.local import open_local
from ffdist.transport.registry import own_location
from ffdist.transport.transport import EdgeContext, Transport

Side = Callable[..., Any]
"""`upstream(place, sender, *args)` or `downstream(place, receiver, *args)`."""


class EdgePair(ABC):
    """Runs the two sides of a law over one kind of edge."""

    warm: int = 20
    """Frames of 1 MiB until the memory of a process has settled."""

    @abstractmethod
    def run(
        self, upstream: Side, downstream: Side, *args: Any, edge: Edge = EDGE, edges: Sequence[Edge] | None = None
    ) -> list[RankOutcome]:
        """Run both sides at once, each with its end and `args`, and return how each ended, the sender's first.

        edge: of both ends; edges: each end's own, where they differ. An end is closed when its side has ended.
        """

    def values(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The values that both sides returned; raises the first one's error."""
        return [outcome.unwrap() for outcome in self.run(*args, **kwargs)]


class ThreadPair(EdgePair):
    """A pair in two threads of this process, by `open_local`."""

    def run(
        self, upstream: Side, downstream: Side, *args: Any, edge: Edge = EDGE, edges: Sequence[Edge] | None = None
    ) -> list[RankOutcome]:
        assert edges is None, "both ends are opened by one call"
        store, (sender, receiver) = dist.HashStore(), open_local(edge)
        with ThreadPoolExecutor(2) as pool:
            sending = pool.submit(_outcome, ContractRank(0, 2, store), sender, upstream, args)
            receiving = pool.submit(_outcome, ContractRank(1, 2, store), receiver, downstream, args)
            return [sending.result(), receiving.result()]


class ProcessPair(EdgePair):
    """A pair in two processes of a crew.

    After every law, whatever an end had opened must be closed: descriptors and threads are counted.

    enter: called in each process before (picklable, and fit to be called again). held: returns what counts, where a
        process opens more than the edge; default: `open_here`.
    """

    def __init__(
        self,
        transport: Transport,
        crew: Crew,
        *,
        enter: Callable[[], object] | None = None,
        held: Callable[[], set[Any]] | None = None,
        warm: int = 20,
    ) -> None:
        self.transport = transport
        self.crew = crew
        self.warm = warm
        self.enter = enter or int
        self.held = held or open_here

    def run(
        self, upstream: Side, downstream: Side, *args: Any, edge: Edge = EDGE, edges: Sequence[Edge] | None = None
    ) -> list[RankOutcome]:
        place = own_location()
        gloo = self.transport.backend(place, place) is not None
        how = (self.transport, self.enter, self.held)
        return self.crew.run(_in_process, how, edges or (edge, edge), (upstream, downstream), args, gloo=gloo)


def _in_process(
    place: ContractRank, how: Any, edges: Sequence[Edge], sides: Sequence[Side], args: tuple[Any, ...]
) -> Any:
    transport, enter, held = how
    enter()
    meeting = EdgeContext(place.store, group=_group(transport))
    place.post(f"rank {place.rank} is here")
    assert place.await_posted(f"rank {1 - place.rank} is here")  # so that an edge's timeout measures the edge
    before = held()
    end = (transport.open_sender, transport.open_receiver)[place.rank](edges[place.rank], meeting)
    outcome = _outcome(place, end, sides[place.rank], args)
    gc.collect()  # a tensor in a caught error's frames may still hold the memory it lies in
    left = held() - before
    assert not left, f"left behind after close: {left}"
    return outcome.unwrap()


def _group(transport: Transport) -> dist.ProcessGroup | None:
    place = own_location()
    backend = transport.backend(place, place)
    group = dist.new_group([0, 1], EDGE.timeout, backend) if backend else None
    assert not isinstance(group, int)
    return group


def _outcome(place: ContractRank, end: Sender | Receiver, side: Side, args: tuple[Any, ...]) -> RankOutcome:
    try:
        return RankOutcome(value=side(place, end, *args))
    except TransportError as error:
        return RankOutcome(error=error)
    finally:
        end.close()


def open_here() -> set[Any]:
    """This process's threads and open descriptors."""
    descriptors = {int(name) for name in os.listdir("/proc/self/fd")}
    return {*threading.enumerate(), *(d for d in descriptors if _is_open(d))}


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # the one that listed the others
        return False
    return True
