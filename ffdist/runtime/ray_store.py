"""The store where an attempt's ranks meet: a TCPStore of rank 0's; or an actor, where nodes reach one another by Ray
alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayActorError
from torch._C._distributed_c10d import Store, TCPStore

Address = tuple[str, int]


def join_store(meeting: Address | Any, timeout: timedelta) -> Store:
    """The store at an address, or upon a KeyValueActor."""
    if not isinstance(meeting, tuple):
        return ActorStore(meeting, timeout)
    host, port = meeting
    return TCPStore(host, port, timeout=timeout)


class KeyValueActor:
    """An actor that holds keys and values; it belongs to the driver."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._changed = asyncio.Condition()

    async def set(self, key: str, value: bytes) -> None:
        """Set a key, and wake who waits for it."""
        async with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    async def get(self, keys: list[str]) -> list[bytes]:
        """All their values, as soon as all are there."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._values.keys() >= set(keys))
            return [self._values[key] for key in keys]

    async def has(self, keys: list[str]) -> bool:
        return self._values.keys() >= set(keys)


class ActorStore(Store):
    """The part of a `torch.distributed` store that ffdist uses, upon a KeyValueActor. All raise DistNetworkError where
    that is gone, or does not answer within the timeout what it can answer at once."""

    def __init__(self, actor: Any, timeout: timedelta) -> None:
        super().__init__()
        self._actor = actor
        self._timeout = timeout

    def set(self, key: str, value: str | bytes) -> None:
        self._answer(self._actor.set.remote(key, value.encode() if isinstance(value, str) else value))

    def get(self, key: str) -> bytes:
        """Raises DistStoreError when the key does not come in time."""
        return self._get([key], self._timeout)[0]

    def check(self, keys: list[str]) -> bool:
        """True if all are there."""
        return self._answer(self._actor.has.remote(keys))

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Raises DistStoreError when the keys do not come in time."""
        self._get(keys, timeout or self._timeout)

    def _answer(self, reference: Any) -> Any:
        try:
            with reached():
                return ray.get(reference, timeout=self._timeout.total_seconds())
        except GetTimeoutError as error:  # its process is stopped, or its node cut off
            raise dist.DistNetworkError(f"the actor has not answered for {self._timeout}") from error

    def _get(self, keys: list[str], timeout: timedelta) -> list[bytes]:
        try:
            with reached():
                return ray.get(self._actor.get.remote(keys), timeout=timeout.total_seconds())
        except GetTimeoutError as error:
            raise dist.DistStoreError(f"wait timeout after {timeout}, keys: {', '.join(keys)}") from error


@contextmanager
def reached() -> Iterator[None]:
    """Raises DistNetworkError, a RuntimeError as a lost store of torch's own raises, where the actor is gone or cannot
    be reached."""
    try:
        yield
    except RayActorError as error:
        raise dist.DistNetworkError("the actor is gone") from error
