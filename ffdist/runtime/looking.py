"""A thread that looks, again and again, whether something has come to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

GRACE = 5.0
"""Seconds in which a look ends that has begun: it may wait for a store that is gone."""


@contextmanager
def looking(is_so: Callable[[], bool], then: Callable[[], None], every: float) -> Iterator[None]:
    """A context within which a thread calls `is_so` every so many seconds, and once it is, `then`. After it the thread
    is gone: the interpreter's end, where it finds one within torch's C++, would abort the process.

    A store that is gone (torch's RuntimeError) is the end of looking.
    """
    over = Event()

    def look() -> None:
        with suppress(RuntimeError):
            while not is_so():
                if over.wait(every):
                    return
            then()

    thread = Thread(target=look, name="ffdist stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(GRACE)
