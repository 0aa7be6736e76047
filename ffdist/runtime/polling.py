"""A thread that polls a condition, and acts once it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

GRACE = 5.0
"""Seconds in which a call ends that has begun: it may wait for a store that is gone."""


@contextmanager
def polling(condition: Callable[[], bool], then: Callable[[], None], every: float) -> Iterator[None]:
    """A context within which a thread calls `condition` every so many seconds, and once that is true, `then`. After it
    the thread is gone: the interpreter's end, where it finds one within torch's C++, would abort the process.

    A store that is gone (torch's RuntimeError) is the end of polling.
    """
    over = Event()

    def poll() -> None:
        with suppress(RuntimeError):
            while not condition():
                if over.wait(every):
                    return
            then()

    thread = Thread(target=poll, name="ffdist stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(GRACE)
