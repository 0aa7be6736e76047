"""Which transport each edge of a run of several processes uses, and how its two ends find one another."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist

from ffdist.device import CPU, collective, identity, joint_backend
from ffdist.errors import ConfigError, StageError, setting
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.routes import Route
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


class Ends(NamedTuple):
    """One worker's ends of the edges of a run, by their names."""

    senders: dict[str, Sender]
    receivers: dict[str, Receiver]


def kind_of(wanted: Kind, up: Place, down: Place, joined: str) -> Kind:
    """The transport of an edge between two workers; joined: who they are, for the error.

    auto: NCCL, or what joins their kind, where both ends have GPUs of their own, shared memory within a host, gloo
    across hosts.
    Raises ConfigError when the transport asked for cannot join the two.
    """
    direct = up.collective if up.collective == down.collective and up.device != down.device else None
    near = is_near(up, down)
    if (wanted not in ("auto", direct, *BY_HOST)) or (wanted == "shared-memory" and not near):
        raise ConfigError(
            f"{wanted} cannot join {joined}",
            where=setting("plan.transport"),
            expected="both on one Linux host" if wanted in BY_HOST else "a GPU of its own at each end",
            got=f"{tuple(up)} and {tuple(down)}",
            remedy=f"use {setting('plan.transport', 'auto')}",
        )
    best = direct or ("shared-memory" if near else "gloo")
    return best if wanted == "auto" else wanted


def host_kind(wanted: Kind, up: Place, down: Place) -> Kind:
    """The same for few numbers, which travel from CPU to CPU."""
    if wanted == "object-store":
        return wanted
    return "shared-memory" if is_near(up, down) and wanted != "gloo" else "gloo"


def is_near(up: Place, down: Place) -> bool:
    return up.locality is not None and up.locality == down.locality


class ProcessEdges:
    """One worker's ends. Every worker makes its own at the same time: process groups are formed by all together."""

    def __init__(
        self,
        world: World,
        store: dist.Store,
        device: torch.device,
        *,
        transport: Kind = "auto",
        timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        self.world, self.store, self.device = world, store, device
        self.transport, self.timeout = transport, timeout
        self.grouped = False
        """Whether this process is in groups of torch.distributed."""
        here = json.dumps(Place(identity(device), shared_memory.locality(), collective(device)))
        set_key(store, f"place/{world.rank}", here, where=str(world))
        self.places = [self._place(rank) for rank in range(world.size)]

    def _place(self, rank: int) -> Place:
        failure, where = f"stage {rank} did not get ready", str(self.world)
        return Place(*json.loads(await_key(self.store, f"place/{rank}", self.timeout, failure=failure, where=where)))

    def kind(self, route: Route) -> Kind:
        """What a route travels by. Raises as `kind_of` does."""
        up, down = self.places[route.source], self.places[route.target]
        if route.purpose in ("back", "sink"):
            return host_kind(self.transport, up, down)
        return kind_of(self.transport, up, down, joined_by(route))

    def open(self, routes: Sequence[Route], ends: ExitStack) -> Ends:
        """This worker's ends of all routes of a run, closed when `ends` is; all open them in the same order."""
        kinds = {route.name: self.kind(route) for route in routes}
        groups = form_groups(self.world, self.store, routes, kinds, self.timeout, self.device)
        self.grouped = bool(groups)
        found = Ends({}, {})
        for route in routes:
            edge = Edge(route.name, route.depth, self.timeout, self.world.attempt)
            kind, carrier = kinds[route.name], CPU if kinds[route.name] in BY_HOST else self.device
            if route.source == self.world.rank:
                if kind in BY_STORE:
                    sender = by_store(kind).open_sender(edge, self.store)
                else:
                    sender = process_group.open_sender(edge, groups[route.name], carrier)
                found.senders[route.name] = ends.enter_context(closing(sender))
            if route.target == self.world.rank:
                if kind in BY_STORE:
                    receiver = by_store(kind).open_receiver(edge, self.store)
                else:
                    receiver = process_group.open_receiver(edge, groups[route.name], carrier)
                found.receivers[route.name] = ends.enter_context(closing(receiver))
        return found

    def close(self) -> None:
        """Leave the process groups; what was sent has arrived. (NCCL's end abruptly with the process otherwise.)"""
        if self.grouped:
            dist.destroy_process_group()
            self.grouped = False


def joined_by(route: Route) -> str:
    """Who is at the ends of a route."""
    if route.purpose == "stages" and "," not in route.name:
        return f"stages {route.stage} and {route.stage + 1}"
    return f"workers {route.source} and {route.target}"


def by_store(kind: Kind) -> ModuleType:
    """The transport of a kind in BY_STORE; the object store needs Ray, which is imported only here."""
    return shared_memory if kind == "shared-memory" else import_module("ffdist.transport.object_store")


def form_groups(
    world: World,
    store: dist.Store,
    routes: Sequence[Route],
    kinds: Mapping[str, Kind],
    timeout: timedelta,
    device: torch.device,
) -> dict[str, dist.ProcessGroup]:
    """A group of two workers for each edge that needs one; all workers form all groups, in order.

    The group of all is gloo's: workers that share a GPU, or have none, can be in no NCCL group.
    """
    if set(BY_STORE) >= set(kinds.values()):
        return {}
    check_gloo()
    groups: dict[str, dist.ProcessGroup] = {}
    try:
        dist.init_process_group("gloo", store=dist.PrefixStore("group", store), rank=world.rank, world_size=world.size,
                                timeout=timeout)  # fmt: skip
        for route in (route for route in routes if kinds[route.name] not in BY_STORE):
            pair = sorted((route.source, route.target))
            direct = kinds[route.name] not in BY_HOST
            backend = joint_backend(kinds[route.name]) if direct else "gloo"
            bound = device if direct and world.rank in pair else None
            group = dist.new_group(pair, timeout, backend, device_id=bound)
            if isinstance(group, dist.ProcessGroup):
                groups[route.name] = group
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
