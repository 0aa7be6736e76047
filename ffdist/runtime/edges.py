"""The transport of each edge in a run of several processes, and how its two ends find one another."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from ffdist.device import CPU
from ffdist.errors import ConfigError, StageError, setting
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.routes import Route
from ffdist.runtime.world import World
from ffdist.transport import Edge, EdgeContext, Receiver, Sender, Transport, WorkerLocation, transport_of
from ffdist.transport.listeners import deaf_afterwards
from ffdist.transport.registry import fastest, own_location

LATER = "TORCH_GLOO_LAZY_INIT"
"""Where it is set, gloo connects two ranks when they first have something to say."""
Kind = str
"""The name of a transport."""


class EdgeEnds(NamedTuple):
    """One worker's ends of the edges of a run, by their names."""

    senders: dict[str, Sender]
    receivers: dict[str, Receiver]


def kind_of(wanted: Kind, up: WorkerLocation, down: WorkerLocation, joined: str) -> Kind:
    """The transport of an edge between two workers; joined: who they are, for the error.

    auto: the fastest that joins them. Raises ConfigError when the transport asked for cannot.
    """
    if wanted == "auto":
        return fastest(up, down).name
    transport = transport_of(wanted)
    if not transport.joins(up, down):
        raise ConfigError(
            f"{wanted} cannot join {joined}",
            where=setting("plan.transport"),
            expected=transport.needs,
            got=f"{up.device} and {down.device}",
            remedy=f"use {setting('plan.transport', 'auto')}",
        )
    return wanted


def host_kind(wanted: Kind, up: WorkerLocation, down: WorkerLocation) -> Kind:
    """The transport of an edge of few numbers from CPU to CPU: as `kind_of`, but another one where the one asked for
    cannot do that."""
    if wanted != "auto":
        transport = transport_of(wanted)
        if not transport.on_device and transport.joins(up, down):
            return wanted
    return fastest(up, down, by_host=True).name


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
        silence: timedelta | None = None,
    ) -> None:
        """timeout, silence: as of `Edge`."""
        self.world = world
        self.store = store
        self.device = device
        self.transport = transport
        self.timeout = timeout
        self.silence = silence
        self.grouped = False
        """Whether this process is in groups of torch.distributed."""
        set_key(store, f"place/{world.rank}", json.dumps(own_location(device, transport)), where=str(world))
        self.places = [self._place(rank) for rank in range(world.size)]

    def _place(self, rank: int) -> WorkerLocation:
        failure, where = f"worker {rank} did not get ready", str(self.world)
        return WorkerLocation(
            *json.loads(await_key(self.store, f"place/{rank}", self.timeout, failure=failure, where=where))
        )

    def _places_of(self, route: Route) -> tuple[WorkerLocation, WorkerLocation]:
        return self.places[route.source], self.places[route.target]

    def kind(self, route: Route) -> Kind:
        """The transport of a route. Raises as `kind_of` does."""
        up, down = self._places_of(route)
        if route.purpose in ("back", "sink"):
            return host_kind(self.transport, up, down)
        return kind_of(self.transport, up, down, joined_by(route))

    def open(self, routes: Sequence[Route], ends: ExitStack) -> EdgeEnds:
        """This worker's ends of all routes of a run, closed when `ends` is; all open them in the same order."""
        transports = {route.name: transport_of(self.kind(route)) for route in routes}
        groups = self._form_groups(routes, transports)
        found = EdgeEnds({}, {})
        # senders close before receivers: the others' end by the word of this one, not by a connection that is cut
        receiving, sending = ends.enter_context(ExitStack()), ends.enter_context(ExitStack())
        for route in routes:
            edge = Edge(route.name, route.depth, self.timeout, self.world.attempt, self.silence)
            transport = transports[route.name]
            carrier = self.device if transport.on_device else CPU
            meeting = EdgeContext(self.store, carrier, groups.get(route.name))
            if route.source == self.world.rank:
                found.senders[route.name] = sending.enter_context(closing(transport.open_sender(edge, meeting)))
            if route.target == self.world.rank:
                found.receivers[route.name] = receiving.enter_context(closing(transport.open_receiver(edge, meeting)))
        return found

    def _form_groups(
        self, routes: Sequence[Route], transports: Mapping[str, Transport]
    ) -> dict[str, dist.ProcessGroup]:
        """A group of two workers for each edge that needs one; all workers form all groups, in order.

        The group of all is gloo's: workers that share a GPU, or have none, can be in no NCCL group.
        """
        backends = {route.name: transports[route.name].backend(*self._places_of(route)) for route in routes}
        groups: dict[str, dist.ProcessGroup] = {}
        if not any(backends.values()):
            return groups
        check_gloo()
        world = self.world
        # an accelerator's own ways connect later than its group is formed, and gloo does where the environment says so
        connect_now = not any(each.on_device for each in transports.values()) and LATER not in os.environ
        try:
            with deaf_afterwards() if connect_now else nullcontext():
                dist.init_process_group(
                    "gloo",
                    store=dist.PrefixStore("group", self.store),
                    rank=world.rank,
                    world_size=world.size,
                    timeout=self.timeout,
                )
                self.grouped = True
                for route in (route for route in routes if backends[route.name]):
                    pair = sorted((route.source, route.target))
                    bound = self.device if transports[route.name].on_device and world.rank in pair else None
                    group = dist.new_group(pair, self.timeout, backends[route.name], device_id=bound)
                    if isinstance(group, dist.ProcessGroup):
                        groups[route.name] = group
        except RuntimeError as error:
            raise StageError(
                "the stages could not connect",
                where=world,
                expected="a connection of each two",
                got=brief(error),
                remedy="see that every host reaches the others by the interfaces that "
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name",
            ) from error
        return groups

    def close(self) -> None:
        """Leave the process groups; what was sent has arrived. (NCCL's end abruptly with the process otherwise.)"""
        if self.grouped:
            dist.destroy_process_group()
            self.grouped = False


def joined_by(route: Route) -> str:
    """The stages or workers at the ends of a route, for errors."""
    if route.purpose == "stages" and "," not in route.name:
        return f"stages {route.stage} and {route.stage + 1}"
    return f"workers {route.source} and {route.target}"


def check_gloo() -> None:
    """Raises ConfigError where gloo finds no address on the interface that it is given, or takes by itself."""
    interface = os.environ.get("GLOO_SOCKET_IFNAME", "")
    try:
        for name in interface.split(",") if interface else [None]:
            listens(name)
    except RuntimeError as error:
        usable = [name for _, name in socket.if_nameindex() if _listens(name)]
        raise ConfigError(
            "gloo cannot use the network of this host",
            where=f"GLOO_SOCKET_IFNAME={interface}" if interface else "the interface that the host's name resolves to",
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
    """Torch's message, without the place in its source."""
    return re.sub(r"^\[[^]]*\] ", "", str(error).partition("\n")[0])
