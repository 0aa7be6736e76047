"""The stages' messages to one another through the store in which they meet."""

from __future__ import annotations

import os
import platform
import time
from datetime import timedelta

import torch.distributed as dist

from ffdist.errors import StageAwayError, setting

POLL_SECONDS = 0.02
"""Seconds between two looks; between them a signal's handler has its turn, which a wait within torch does not give."""


def await_key(store: dist.Store, key: str, timeout: timedelta, *, failure: str, where: str) -> bytes:
    """The key's value, as soon as somebody has set it. Raises StageAwayError where nobody does within `timeout`, or the
    store is gone; `failure` says what that means."""
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        while not store.check([key]):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no '{key}' within {timeout.total_seconds():g} s")
            time.sleep(POLL_SECONDS)
        return store.get(key)
    except TimeoutError as error:
        raise StageAwayError(
            failure,
            where=f"{where}, host {platform.node()}, process {os.getpid()}",
            expected=f"'{key}' within {timeout.total_seconds():g} s",
            got="nothing",
            remedy=f"look for what it waits for, or raise {setting('run.timeout')} if it is only slow",
        ) from error
    except RuntimeError as error:
        raise store_lost_error(error, where) from error


def find_key(store: dist.Store, key: str, *, where: str) -> bytes | None:
    """The key's value; None where nobody has set it yet. Raises StageAwayError where the store is gone."""
    try:
        return store.get(key) if store.check([key]) else None
    except RuntimeError as error:
        raise store_lost_error(error, where) from error


def set_key(store: dist.Store, key: str, value: str, *, where: str) -> None:
    """Raises StageAwayError where the store is gone."""
    try:
        store.set(key, value)
    except RuntimeError as error:
        raise store_lost_error(error, where) from error


def store_lost_error(error: Exception, where: str) -> StageAwayError:
    return StageAwayError(
        "the store through which the stages meet is gone",
        where=where,
        got=str(error).partition("\n")[0],
        remedy="the process that holds it has died, or does not answer: torchrun's agent, or worker 0",
    )
