"""Random numbers that are a function of seed, block and batch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffdist.device import generator_states, seed_generators, set_generator_states
from ffdist.errors import PeerTimeoutError

_DEFAULT_GENERATORS = RLock()
"""Held by the thread whose draws are seeded; reentrant, as one `seeded` may be inside of another."""
_LONGEST_WAIT: ContextVar[float | None] = ContextVar("longest wait for the default generators", default=None)
"""Seconds; None: without limit, as long as no thread is known to hang."""


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for one purpose, the same on every machine, from `seed` and a path such as "weights", 3."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int, device: torch.device | None = None, *, all_kinds: bool = True) -> Iterator[None]:
    """Torch's default generators start from `seed` inside, and are as they were after; so are those of NumPy and of
    Python's `random`, where `all_kinds`: for code of a user's own, which may draw from any of them.

    The generators belong to the whole process, so stages that share one take turns here. Raises PeerTimeoutError where
    no turn comes within `wait_at_most`'s time.
    """
    with _turn():
        before = _States.now(device, all_kinds=all_kinds)
        token = _WITHIN.set((*_WITHIN.get(), before))
        try:
            seed_generators(device, seed)
            if all_kinds:
                random.seed(seed)
                np.random.seed(seed % 2**32)
            yield
        finally:
            before.restore()
            _WITHIN.reset(token)


class _States(NamedTuple):
    """The default generators' states."""

    device: torch.device | None
    of_torch: list[Tensor]
    of_others: tuple[Any, Any] | None
    """The states of Python's and of NumPy's; None: they are left alone."""

    @classmethod
    def now(cls, device: torch.device | None, *, all_kinds: bool) -> _States:
        others = (random.getstate(), np.random.get_state()) if all_kinds else None
        return cls(device, generator_states(device), others)

    def restore(self) -> None:
        set_generator_states(self.of_torch, self.device)
        if self.of_others:
            random.setstate(self.of_others[0])
            np.random.set_state(self.of_others[1])


_WITHIN: ContextVar[tuple[_States, ...]] = ContextVar("the generators outside of `seeded`", default=())
"""As this thread has found them; of each `seeded` that it is in."""


@contextmanager
def generators_lent() -> Iterator[None]:
    """A context in which others have their turn, where this thread is inside of `seeded`: it waits for some of them.
    They find the generators as they were outside, and this thread finds its own again."""
    within = _WITHIN.get()
    if not within:
        yield
        return
    own = _States.now(within[0].device, all_kinds=any(each.of_others for each in within))
    for each in reversed(within):
        each.restore()
    for _ in within:
        _DEFAULT_GENERATORS.release()
    try:
        yield
    finally:
        for _ in within:
            _DEFAULT_GENERATORS.acquire()
        own.restore()


@contextmanager
def restarting() -> Iterator[Callable[[int], None]]:
    """Seeded as by `seeded`, CPU and all kinds, for many beginnings in one turn: what it gives begins the generators at
    a seed."""

    def begin(seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    with _turn(), torch.random.fork_rng(devices=[]):
        of_python, of_numpy = random.getstate(), np.random.get_state()
        try:
            yield begin
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def wait_at_most(seconds: float) -> None:
    """Limit how long `seeded` waits in this thread for another stage of this process, which may have hung in its
    turn."""
    _LONGEST_WAIT.set(seconds)


@contextmanager
def _turn() -> Iterator[None]:
    """The default generators are this thread's alone."""
    limit = _LONGEST_WAIT.get()
    if not _DEFAULT_GENERATORS.acquire(timeout=-1 if limit is None else limit):
        raise PeerTimeoutError(
            "another stage of this process kept the random generators",
            expected=f"a turn within {limit:g} s",
            got="silence: it computes still, or has hung",
            remedy="raise the timeout if it is only slow; start Python anew where a hung one was left behind",
        )
    try:
        yield
    finally:
        _DEFAULT_GENERATORS.release()
