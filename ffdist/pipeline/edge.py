"""An edge's two ends as a stage sees them: messages in, messages out."""

from __future__ import annotations

from collections.abc import Iterator

from ffdist.pipeline.message import Message, from_frame, to_frame
from ffdist.transport.base import Frame, Receiver, Sender


class FromEdge:
    """A receiving end as an inbox; it ends when the stage stops asking."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._received = self._queued = 0

    def __iter__(self) -> Iterator[Message]:
        while True:
            message = from_frame(self._receive())
            yield message
            del message  # the memory it lies in goes back before the next is asked for

    def _receive(self) -> Frame:
        frame = self.receiver.recv()
        self._received += 1
        self._queued += self.receiver.queued
        return frame

    def take_queued(self) -> float:
        """How many messages lay in the queue when one was asked for, on average since this was last called."""
        mean = self._queued / max(1, self._received)
        self._received = self._queued = 0
        return mean


class ToEdge:
    """A sending end as an outbox."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender

    @property
    def waited(self) -> float:
        return self.sender.waited

    def send(self, message: Message) -> None:
        self.sender.send(to_frame(message))
