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
    """The stages in which one worker serves take turns: it computes one thing at a time."""

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
