"""What the stages say to one another through the store in which they meet."""

from __future__ import annotations

import time
from datetime import timedelta

import torch.distributed as dist

from ffdist.errors import StageError

STEP = timedelta(seconds=0.5)
"""Of a wait: between two, a signal's handler has its turn."""


def await_key(store: dist.Store, key: str, timeout: timedelta, *, failure: str, where: str) -> bytes:
    """The key's value, as soon as somebody has set it. Raises StageError where nobody does within `timeout`, or the
    store is gone; `failure` says what that means."""
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        left = timedelta(seconds=max(1e-3, deadline - time.monotonic()))
        try:
            store.wait([key], min(STEP, left))
            return store.get(key)
        except dist.DistNetworkError as error:
            raise gone(error, where) from error
        except RuntimeError as error:  # what every kind of store raises when the time is up
            if time.monotonic() >= deadline:
                expected = f"'{key}' within {timeout.total_seconds():g} s"
                raise StageError(failure, where=where, expected=expected, got="nothing",
                                 remedy="look for what it waits for, or raise the timeout if it is only slow"
                                 ) from error  # fmt: skip


def set_key(store: dist.Store, key: str, value: str, *, where: str) -> None:
    """Raises StageError where the store is gone."""
    try:
        store.set(key, value)
    except RuntimeError as error:
        raise gone(error, where) from error


def gone(error: Exception, where: str) -> StageError:
    return StageError("the store through which the stages meet is gone", where=where,
                      got=str(error).partition("\n")[0],
                      remedy="the process that holds it has died: torchrun's agent, or stage 0")  # fmt: skip
