"""The attempt of a run: a number that all ranks share, though each node counts its own restarts."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

from ffdist.errors import StageAwayError
from ffdist.runtime.meeting import await_key
from ffdist.runtime.world import World

POLL_SECONDS = 0.05
"""Seconds between two looks."""
GREETINGS, NUMBERS = "greetings", "attempts"


def share_attempt(store: dist.Store, world: World, timeout: timedelta) -> int:
    """The attempt's number: higher than any earlier one in this store, and above 0 after every restart.

    The store outlives killed ranks, and with it what they wrote, so no key can be trusted to be of now. Each rank
    greets rank 0 under a name never used before; rank 0 answers every greeting it finds with the number, until all
    ranks have come back with that number. Raises StageAwayError when a rank stays away for so long, torch's DistError
    where the store is lost.
    """
    return _gather(store, world, timeout) if world.first else _greet(store, timeout)


def _gather(store: dist.Store, world: World, timeout: timedelta) -> int:
    taken = store.add(NUMBERS, 1)
    attempt = store.add(NUMBERS, max(0, world.attempt + 1 - taken)) - 1
    missing, unread = world.size - 1, PostedMessages(store)
    while missing:
        message = unread.next(timeout)
        if message.startswith("hello "):
            store.set(message, str(attempt))
        elif message == f"joined {attempt}":
            missing -= 1
    return attempt


def _greet(store: dist.Store, timeout: timedelta) -> int:
    name = f"hello {uuid4().hex}"
    post(store, name)
    attempt = int(await_key(store, name, timeout, failure="worker 0 stays away", where="the ranks' meeting"))
    post(store, f"joined {attempt}")
    return attempt


def post(store: dist.Store, message: str) -> None:
    """Post a message for rank 0, numbered among all that were ever posted."""
    store.set(f"{GREETINGS} {store.add(GREETINGS, 1)}", message)


class PostedMessages:
    """Messages that rank 0 has not read yet, those of killed attempts among them. One whose number was taken and
    whose rank died before it wrote anything keeps nobody from the later ones."""

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self._known = 0
        self._numbers: list[int] = []

    def next(self, timeout: timedelta) -> str:
        """Looked for again and again, so that a signal's handler has its turn. Raises StageAwayError for no message
        within `timeout`."""
        deadline = time.monotonic() + timeout.total_seconds()
        while (message := self._read()) is None:
            if time.monotonic() > deadline:
                raise StageAwayError(
                    "the ranks did not meet",
                    where="rank 0",
                    expected="all ranks",
                    got=f"no other one within {timeout.total_seconds():g} s",
                    remedy="check torchrun's rendezvous options, and the network between the hosts",
                )
            time.sleep(POLL_SECONDS)
        return message

    def _read(self) -> str | None:
        count = self._store.add(GREETINGS, 0)
        self._numbers += range(self._known + 1, count + 1)
        self._known = count
        for number in self._numbers:
            if self._store.check([f"{GREETINGS} {number}"]):
                self._numbers.remove(number)
                return self._store.get(f"{GREETINGS} {number}").decode()
        return None
