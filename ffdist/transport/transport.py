"""A way for edges to travel, as the rest knows it: what it joins, and how its ends open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.distributed as dist

from ffdist.device import CPU
from ffdist.errors import TransportError
from ffdist.renamed import renamed_names
from ffdist.transport.base import Edge, Receiver, Sender
from ffdist.transport.packet_socket import Store


class WorkerLocation(NamedTuple):
    """The place where a worker lives."""

    device: str
    """Equal for workers that share a device."""
    collective: str | None = None
    """What torch.distributed joins its device by with another of its kind; None for a CPU."""
    marks: Mapping[str, str] = {}
    """What each transport says of this process, by the transport's name (`Transport.mark`)."""


@dataclass(frozen=True, slots=True)
class EdgeContext:
    """The arguments with which the two ends of an edge open it."""

    store: Store
    """Both ends' own: one sets a key, the other gets it. Keys hold the edge's name and attempt."""
    device: torch.device = CPU
    """Where this end's tensors are to arrive, or come from."""
    group: dist.ProcessGroup | None = None
    """The group of the two ends alone, where the transport has a `backend` for them."""

    def pair(self, edge: Edge) -> dist.ProcessGroup:
        """`group`, for a transport that needs it. Raises TransportError where there is none."""
        if self.group is None:
            raise TransportError(
                "an edge has no process group",
                where=edge.at(),
                expected="one of its two ends",
                remedy="make one with new_edge_group",
            )
        return self.group


class Transport(ABC):
    """One way to travel. Made once, in the file that implements it; ffdist's own are named in
    `known.TRANSPORT_PLACES`, a user's by `--transport file.py:NAME`."""

    name: str
    """Its key in `known.TRANSPORT_PLACES`, by which `--transport` names it; any other word, of a user's own."""
    speed: ClassVar[int]
    """auto takes the fastest that joins two places; what has 0 is taken where it is asked for only."""
    needs: str
    """What two places must have in common, for the error: "both stages on one Linux host"."""
    on_device: ClassVar[bool] = False
    """Whether tensors stay on devices all the way; else they go through the hosts' memory, and arrive there."""

    def obstacle(self) -> str | None:
        """The reason that this process can open no such edge at all; None where it can."""
        return None

    def mark(self) -> str | None:
        """A text for `joins`, equal in all processes that this transport can join (of one host, say); None where this
        process can join none, or where nothing needs to be equal."""
        return None

    @abstractmethod
    def joins(self, up: WorkerLocation, down: WorkerLocation) -> bool:
        """True if it can carry frames from `up`, the sender's place, to `down`, the receiver's."""

    def backend(self, up: WorkerLocation, down: WorkerLocation) -> str | None:
        """The backend of the process group that the two ends need, for torch.distributed; None where they need none.

        Groups are formed by all workers together, so it must say the same in every process.
        """
        return None

    @abstractmethod
    def open_sender(self, edge: Edge, meeting: EdgeContext) -> Sender:
        """The upstream end; blocks until the downstream one opens.

        Raises PeerTimeoutError when the other end does not open in time, TransportError where the two disagree.
        """

    @abstractmethod
    def open_receiver(self, edge: Edge, meeting: EdgeContext) -> Receiver:
        """The downstream end; blocks until the upstream one opens. Raises as `open_sender` does."""

    def same_mark(self, up: WorkerLocation, down: WorkerLocation) -> bool:
        """True if both places have made the same mark of this transport."""
        mark = up.marks.get(self.name)
        return mark is not None and mark == down.marks.get(self.name)


__getattr__ = renamed_names(__name__, Meeting="EdgeContext", Place="WorkerLocation")
