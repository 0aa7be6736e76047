"""What a process that watches over a run does when it is told to stop."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts(ask: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `ask`; the second raises KeyboardInterrupt. Of no effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = itertools.count()

    def handle(*_: object) -> None:
        if next(asked):
            raise KeyboardInterrupt
        ask()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
