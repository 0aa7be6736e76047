"""Which transport each edge of a run of several processes uses, and how its two ends find one another."""

from __future__ import annotations

import json
import os
import re
import socket
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist

from ffdist.device import CPU, collective, identity, joint_backend
from ffdist.errors import ConfigError, StageError, setting
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.world import World
from ffdist.transport import Edge, Receiver, Sender, process_group, shared_memory

Kind = str
"""shared-memory, gloo, object-store, or what joins two accelerators of a kind: nccl, xccl, ..."""
BY_HOST = ("shared-memory", "gloo", "object-store")
"""Through the memory of hosts."""
BY_STORE = ("shared-memory", "object-store")
"""Their ends need nothing but the store to find one another; the others need a process group."""


class Place(NamedTuple):
    """Where a rank lives."""

    device: str
    """Equal for ranks that share a device."""
    locality: str | None
    """Equal for processes that can share memory; None for one that cannot share any."""
    collective: str | None = None
    """What joins its device with another of its kind; None for a CPU."""


def choose(wanted: Kind, places: list[Place]) -> list[Kind]:
    """The transport of each edge, from every rank's place.

    auto: NCCL, or what joins their kind, where both ends have GPUs of their own, shared memory within a host, gloo
    across hosts.
    Raises ConfigError when the transport asked for cannot join two of the ranks.
    """
    kinds: list[Kind] = []
    for i in range(len(places) - 1):
        up, down = places[i], places[i + 1]
        direct = up.collective if up.collective == down.collective and up.device != down.device else None
        near = up.locality is not None and up.locality == down.locality
        if (wanted not in ("auto", direct, *BY_HOST)) or (wanted == "shared-memory" and not near):
            raise ConfigError(
                f"{wanted} cannot join stages {i} and {i + 1}",
                where=setting("plan.transport"),
                expected="both stages on one Linux host" if wanted in BY_HOST else "a GPU of its own at each end",
                got=f"{tuple(up)} and {tuple(down)}",
                remedy=f"use {setting('plan.transport', 'auto')}",
            )
        best = direct or ("shared-memory" if near else "gloo")
        kinds.append(best if wanted == "auto" else wanted)
    return kinds


def choose_back(kinds: list[Kind], places: list[Place]) -> Kind:
    """The transport of the edge from the last stage back to the first, whose few numbers travel from CPU to CPU."""
    if "object-store" in kinds:
        return "object-store"
    near = places[0].locality is not None and places[0].locality == places[-1].locality
    return "shared-memory" if near and "gloo" not in kinds else "gloo"


class ProcessEdges:
    """One rank's ends. Every rank makes its own at the same time: process groups are formed by all together."""

    def __init__(
        self,
        world: World,
        store: dist.Store,
        device: torch.device,
        *,
        transport: Kind = "auto",
        depth: int = 2,
        timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        self.world, self.store, self.device = world, store, device
        self.depth, self.timeout = depth, timeout
        here = json.dumps(Place(identity(device), shared_memory.locality(), collective(device)))
        set_key(store, f"place/{world.rank}", here, where=str(world))
        places = [self._place(rank) for rank in range(world.size)]
        self.kinds = choose(transport, places)
        self.back_kind = choose_back(self.kinds, places)
        self.groups = form_groups(world, store, self.kinds, timeout, device)

    def _place(self, rank: int) -> Place:
        failure, where = f"stage {rank} did not get ready", str(self.world)
        return Place(*json.loads(await_key(self.store, f"place/{rank}", self.timeout, failure=failure, where=where)))

    def upstream(self) -> Receiver:
        index = self.world.rank - 1
        edge = self._edge(index)
        if self.kinds[index] in BY_STORE:
            return by_store(self.kinds[index]).open_receiver(edge, self.store)
        return process_group.open_receiver(edge, self.groups[index], self._carrier(index))

    def downstream(self) -> Sender:
        index = self.world.rank
        edge = self._edge(index)
        if self.kinds[index] in BY_STORE:
            return by_store(self.kinds[index]).open_sender(edge, self.store)
        return process_group.open_sender(edge, self.groups[index], self._carrier(index))

    def from_last(self, depth: int) -> Receiver:
        edge = Edge("back", depth, self.timeout, self.world.attempt)
        if self.back_kind in BY_STORE:
            return by_store(self.back_kind).open_receiver(edge, self.store)
        return process_group.open_receiver(edge, self._back_group())

    def to_first(self, depth: int) -> Sender:
        edge = Edge("back", depth, self.timeout, self.world.attempt)
        if self.back_kind in BY_STORE:
            return by_store(self.back_kind).open_sender(edge, self.store)
        return process_group.open_sender(edge, self._back_group())

    def close(self) -> None:
        """Leave the process groups; what was sent has arrived. (NCCL's end abruptly with the process otherwise.)"""
        if self.groups:
            dist.destroy_process_group()
            self.groups = {}

    def _back_group(self) -> dist.ProcessGroup:
        return process_group.new_edge_group(self.world.size - 1, 0, self.timeout)

    def _carrier(self, index: int) -> torch.device:
        """Where the tensors of an edge by torch.distributed travel: gloo carries a GPU's through host memory."""
        return CPU if self.kinds[index] in BY_HOST else self.device

    def _edge(self, index: int) -> Edge:
        return Edge(f"{index}-{index + 1}", self.depth, self.timeout, self.world.attempt)


def by_store(kind: Kind) -> ModuleType:
    """The transport of a kind in BY_STORE; the object store needs Ray, which is imported only here."""
    return shared_memory if kind == "shared-memory" else import_module("ffdist.transport.object_store")


def form_groups(
    world: World, store: dist.Store, kinds: list[Kind], timeout: timedelta, device: torch.device
) -> dict[int, dist.ProcessGroup]:
    """A group of two ranks for each edge that needs one; all ranks form all groups, in order.

    The group of all is gloo's: ranks that share a GPU, or have none, can be in no NCCL group.
    """
    if set(BY_STORE) >= set(kinds):
        return {}
    check_gloo()
    groups: dict[int, dist.ProcessGroup] = {}
    try:
        dist.init_process_group("gloo", store=dist.PrefixStore("group", store), rank=world.rank, world_size=world.size,
                                timeout=timeout)  # fmt: skip
        for i, kind in enumerate(kinds):
            if kind not in BY_STORE:
                direct = kind not in BY_HOST
                backend = joint_backend(kind) if direct else "gloo"
                bound = device if direct and world.rank in (i, i + 1) else None
                group = dist.new_group([i, i + 1], timeout, backend, device_id=bound)
                if isinstance(group, dist.ProcessGroup):
                    groups[i] = group
    except RuntimeError as error:
        raise StageError("the stages could not connect", where=world, expected="a connection of each two",
                         got=brief(error), remedy="see that every host reaches the others by the interfaces that "
                         "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name") from error  # fmt: skip
    return groups


def check_gloo() -> None:
    """Raises ConfigError where gloo finds no address on the interface that it is told, or takes by itself."""
    told = os.environ.get("GLOO_SOCKET_IFNAME", "")
    try:
        for name in told.split(",") if told else [None]:
            listens(name)
    except RuntimeError as error:
        usable = [name for _, name in socket.if_nameindex() if _listens(name)]
        raise ConfigError(
            "gloo cannot use the network of this host",
            where=f"GLOO_SOCKET_IFNAME={told}" if told else "the interface that the host's name resolves to",
            expected=f"one of {', '.join(usable)}" if usable else "an interface with an address; there is none",
            got=brief(error),
            remedy=f"GLOO_SOCKET_IFNAME={usable[0]}, or another of them" if usable else "ip link set lo up",
        ) from error


def listens(interface: str | None) -> None:
    """Raises RuntimeError where gloo cannot listen on the interface; None: on the one it takes by itself."""
    if interface is None:
        dist.ProcessGroupGloo.create_default_device()
    else:
        dist.ProcessGroupGloo.create_device(interface=interface)


def _listens(interface: str) -> bool:
    try:
        listens(interface)
    except RuntimeError:
        return False
    return True


def brief(error: Exception) -> str:
    """What torch says, without where in its source."""
    return re.sub(r"^\[[^]]*\] ", "", str(error).partition("\n")[0])
