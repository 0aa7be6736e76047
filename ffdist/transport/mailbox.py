"""A mailbox: an actor of Ray's that holds what the two ends of an edge tell one another, and dies with its owner."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAMESPACE = "ffdist"

Side = Literal["owner", "guest"]


class Mailbox:
    """Letters for its owner and for its guest, each in the order in which they were posted."""

    def __init__(self) -> None:
        self._letters: dict[Side, asyncio.Queue[Any]] = {"owner": asyncio.Queue(), "guest": asyncio.Queue()}

    async def post(self, to: Side, letter: Any) -> None:
        self._letters[to].put_nowait(letter)

    async def take(self, side: Side) -> Any:
        """The next letter, as soon as there is one."""
        return await self._letters[side].get()


def new_mailbox(name: str) -> Any:
    """A mailbox on this node, found by `name`; Ray ends it when this process dies, or nobody holds it any more."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    make = ray.remote(Mailbox).options(num_cpus=0, name=name, namespace=NAMESPACE, scheduling_strategy=here)
    return make.remote()


def find_mailbox(name: str) -> Any:
    return ray.get_actor(name, namespace=NAMESPACE)
