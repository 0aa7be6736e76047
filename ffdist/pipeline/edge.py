"""An edge's two ends as a stage sees them: messages in, messages out."""

from __future__ import annotations

from ffdist.pipeline.message import Message, Written, from_frame, to_frame
from ffdist.transport.base import Receiver, Sender


class FromEdge:
    """A receiving end, for messages."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.awaiting = False
        """Whether a message is waited for, now."""
        self._received = 0
        self._queued = 0
        self._taken: dict[str, tuple[int, int]] = {}

    @property
    def waited(self) -> float:
        return self.receiver.waited

    def receive(self) -> Message:
        """The next one; the memory it lies in goes back when it is gone."""
        self.awaiting = True
        frame = self.receiver.recv()
        self.awaiting = False
        self._received += 1
        self._queued += self.receiver.queued
        return from_frame(frame)

    def take_queued(self, user: str) -> float:
        """The mean number of messages that lay in the queue when one was asked for, since this was last called.

        user: who asks; for each it begins anew.
        """
        received, queued = self._taken.get(user, (0, 0))
        self._taken[user] = self._received, self._queued
        return (self._queued - queued) / max(1, self._received - received)


class ToEdge:
    """A sending end as an outbox.

    `Written` goes right in front of the next message, all of them as one. Sent by itself it would take room out of the
    stream's order: its sender could wait for a reader that waits for a worker that waits for the sender at a marker.
    """

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.awaiting = False
        """Whether a message is on its way out, or waits for room."""
        self.written: Written | None = None
        """What goes in front of the next message."""

    @property
    def waited(self) -> float:
        return self.sender.waited

    def send(self, message: Message) -> None:
        if isinstance(message, Written):
            self.written = joined(self.written, message)
            return
        if self.written:
            self._put(self.written)
            self.written = None
        self._put(message)

    def _put(self, message: Message) -> None:
        self.awaiting = True
        self.sender.send(to_frame(message))
        self.awaiting = False


def joined(held: Written | None, written: Written) -> Written:
    """Both as one. They are of one snapshot: the next one's marker has the last word on this one in front of it."""
    if held is None:
        return written
    assert (held.step, held.epoch) == (written.step, written.epoch)
    return Written(held.step, held.epoch, [*held.files, *written.files])
