"""Which attempt of a run this is: a number that all ranks share, though each node counts its own restarts."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

from ffdist.runtime.meeting import await_key
from ffdist.runtime.world import World

LOOK = 0.05
"""Seconds between two looks."""
QUEUE, NUMBERS = "greetings", "attempts"


def share_attempt(store: dist.Store, world: World, timeout: timedelta) -> int:
    """The attempt's number: higher than any earlier one in this store, and above 0 after every restart.

    The store outlives killed ranks, and with it what they wrote, so no key can be trusted to be of now. Each rank
    greets rank 0 under a name never used before; rank 0 answers every greeting it finds with the number, until all
    ranks have come back with that number. Raises StageError or torch's DistError when a rank stays away
    for so long.
    """
    return _gather(store, world, timeout) if world.first else _greet(store, timeout)


def _gather(store: dist.Store, world: World, timeout: timedelta) -> int:
    taken = store.add(NUMBERS, 1)
    attempt = store.add(NUMBERS, max(0, world.attempt + 1 - taken)) - 1
    missing = world.size - 1
    while missing:
        word = _pop(store, timeout)
        if word.startswith("hello "):
            store.set(word, str(attempt))
        elif word == f"joined {attempt}":
            missing -= 1
    return attempt


def _greet(store: dist.Store, timeout: timedelta) -> int:
    name = f"hello {uuid4().hex}"
    store.queue_push(QUEUE, name)
    attempt = int(await_key(store, name, timeout, failure="stage 0 stays away", where="the ranks' meeting"))
    store.queue_push(QUEUE, f"joined {attempt}")
    return attempt


def _pop(store: dist.Store, timeout: timedelta) -> str:
    """The next greeting. Looked for again and again, so that a signal's handler has its turn."""
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            return store.queue_pop(QUEUE, block=False).decode()
        except dist.QueueEmptyError:
            if time.monotonic() > deadline:
                raise
        time.sleep(LOOK)
