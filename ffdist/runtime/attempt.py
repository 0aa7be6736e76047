"""Which attempt of a run this is: a number that all ranks share, though each node counts its own restarts."""

from __future__ import annotations

from uuid import uuid4

import torch.distributed as dist

from ffdist.runtime.world import World

QUEUE, NUMBERS = "greetings", "attempts"


def share_attempt(store: dist.Store, world: World) -> int:
    """The attempt's number: higher than any earlier one in this store, and above 0 after every restart.

    The store outlives killed ranks, and with it what they wrote, so no key can be trusted to be of now. Each rank
    greets rank 0 under a name never used before; rank 0 answers every greeting it finds with the number, until all
    ranks have come back with that number. Raises torch's DistError when a rank stays away for the store's timeout.
    """
    return _gather(store, world) if world.first else _greet(store)


def _gather(store: dist.Store, world: World) -> int:
    taken = store.add(NUMBERS, 1)
    attempt = store.add(NUMBERS, max(0, world.attempt + 1 - taken)) - 1
    missing = world.size - 1
    while missing:
        word = store.queue_pop(QUEUE).decode()
        if word.startswith("hello "):
            store.set(word, str(attempt))
        elif word == f"joined {attempt}":
            missing -= 1
    return attempt


def _greet(store: dist.Store) -> int:
    name = f"hello {uuid4().hex}"
    store.queue_push(QUEUE, name)
    attempt = int(store.get(name))
    store.queue_push(QUEUE, f"joined {attempt}")
    return attempt
