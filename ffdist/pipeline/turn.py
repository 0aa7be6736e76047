"""The stages in which one worker serves take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

from ffdist.pipeline.message import Message


class Outbox(Protocol):
    """The outbox of a stage's messages: an edge to the next stage, or the sink."""

    @property
    def waited(self) -> float:
        """Seconds spent so far waiting for room."""
        ...

    def send(self, message: Message) -> None: ...


class Turn:
    """The turn that the stages of one worker take: a context in which this one computes, and no other.

    A lock, since each stage has a thread of its own; whoever waits for a message or for room is outside of it.
    """

    def __init__(self) -> None:
        self.lock = Lock()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The others' turn, while this one waits: it may be for one of them."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def lent_while_sending(self, outbox: Outbox) -> Outbox:
        """The same outbox, which lends the turn while it sends: it may wait for room."""
        return LendingOutbox(outbox, self)


class LendingOutbox:
    """An outbox of a stage that takes turns with others."""

    def __init__(self, outbox: Outbox, turn: Turn) -> None:
        self.outbox = outbox
        self.turn = turn

    @property
    def waited(self) -> float:
        return self.outbox.waited

    def send(self, message: Message) -> None:
        with self.turn.lent():
            self.outbox.send(message)
