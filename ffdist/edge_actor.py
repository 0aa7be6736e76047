"""An edge's actor of Ray, which holds what the two ends of the edge send one another, and dies with its owner."""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
from typing import Any, Literal, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAMESPACE = "ffdist"

Side = Literal["owner", "guest"]
"""For whom a message is: the end that has made the actor, or the other one."""


class ActorPlace(NamedTuple):
    """The place of an edge's actor."""

    pid: int
    host: str
    node: str
    """Ray's id of the node."""

    def __str__(self) -> str:
        return f"process {self.pid} of host {self.host}"


class EdgeActor:
    """Messages for its owner and for its guest, numbered by who posts them: Ray may run calls in any order."""

    def __init__(self) -> None:
        self._messages: dict[tuple[Side, int], Any] = {}
        self._changed = asyncio.Condition()

    async def post(self, to: Side, number: int, message: Any) -> None:
        """Keep message `number` for that side until it is taken."""
        async with self._changed:
            self._messages[to, number] = message
            self._changed.notify_all()

    async def take(self, side: Side, number: int) -> tuple[Any, int]:
        """Return that message as soon as it is there, and how many lay there for this side before; it is kept no
        longer."""
        async with self._changed:
            lay = sum(to == side for to, _ in self._messages)
            await self._changed.wait_for(lambda: (side, number) in self._messages)
            return self._messages.pop((side, number)), lay

    async def beat(self) -> ActorPlace:
        """Return its place; that it answers says that it lives."""
        return ActorPlace(os.getpid(), platform.node(), ray.get_runtime_context().get_node_id())


class EdgeActorWriter:
    """Posts messages in order."""

    def __init__(self, actor: Any, to: Side) -> None:
        self._actor = actor
        self._to = to
        self._numbers = itertools.count()

    def post(self, message: Any) -> Any:
        """Returns at once; what it returns is ready when the message is there."""
        return self._actor.post.remote(self._to, next(self._numbers), message)


def new_edge_actor(name: str) -> Any:
    """An actor on this node, found by `name`; Ray ends it when this process dies, or nobody holds it any more."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    make = ray.remote(EdgeActor).options(num_cpus=0, name=name, namespace=NAMESPACE, scheduling_strategy=here)
    return make.remote()


def find_edge_actor(name: str) -> Any:
    """The actor of that name, on whatever node. Raises ValueError where there is none, or no longer."""
    return ray.get_actor(name, namespace=NAMESPACE)
