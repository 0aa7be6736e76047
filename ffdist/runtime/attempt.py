"""The attempt of a run: a number that all ranks share, though each node counts its own restarts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

from ffdist.errors import StageAwayError
from ffdist.notes import listed
from ffdist.runtime.meeting import await_key
from ffdist.runtime.siblings import place_of_rank
from ffdist.runtime.world import World

POLL_SECONDS = 0.05
"""Seconds between two looks; between them a signal's handler has its turn, which a wait within torch does not give."""
GREETINGS, NUMBERS = "greetings", "attempts"


def share_attempt(store: dist.Store, world: World, timeout: timedelta) -> int:
    """The attempt's number: higher than any earlier one in this store, and above 0 after every restart.

    The store outlives killed ranks, and with it what they wrote, so no key can be trusted to be of now. Each rank
    greets rank 0 under a name never used before; rank 0 answers every greeting it finds with the number, until all
    ranks have come back with that number. Raises RanksAwayError when some stay away for so long, torch's DistError
    where the store is lost.
    """
    return _gather(store, world, timeout) if world.first else _greet(store, world, timeout)


def _gather(store: dist.Store, world: World, timeout: timedelta) -> int:
    taken = store.add(NUMBERS, 1)
    attempt = store.add(NUMBERS, max(0, world.attempt + 1 - taken)) - 1
    missing, unread = set(range(1, world.size)), PostedMessages(store)
    while missing:
        if (message := unread.next(timeout)) is None:
            raise away_error(sorted(missing), world, timeout)
        if message.startswith("hello "):
            store.set(message, str(attempt))
        elif message.startswith(f"joined {attempt} "):
            missing.discard(int(message.split()[2]))
    return attempt


def _greet(store: dist.Store, world: World, timeout: timedelta) -> int:
    name = f"hello {uuid4().hex}"
    post(store, name)
    try:
        attempt = int(await_key(store, name, timeout, failure="worker 0 stays away", where="the ranks' meeting"))
    except StageAwayError as error:
        if isinstance(error.__cause__, TimeoutError):
            raise away_error([0], world, timeout) from error
        raise
    post(store, f"joined {attempt} {world.rank}")
    return attempt


class RanksAwayError(StageAwayError):
    """Ranks did not come to where all meet."""

    ranks: Sequence[int] = ()


def away_error(ranks: list[int], world: World, timeout: timedelta) -> RanksAwayError:
    error = RanksAwayError(
        f"worker {listed(ranks)} did not come to where the ranks meet",
        where="; ".join(f"worker {rank}, {place_of_rank(rank)}" for rank in ranks),
        expected=f"all {world.size} ranks within {timeout.total_seconds():g} s",
        got=f"silence; this rank, {world.rank}, waits there",
        remedy="look for what has stopped the process; or check torchrun's rendezvous options, and the network between "
        "the hosts",
    )
    error.ranks = ranks
    return error


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

    def next(self, timeout: timedelta) -> str | None:
        """Looked for again and again, so that a signal's handler has its turn. None for no message within
        `timeout`."""
        deadline = time.monotonic() + timeout.total_seconds()
        while (message := self._read()) is None:
            if time.monotonic() > deadline:
                return None
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
