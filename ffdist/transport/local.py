"""An edge within one process, between threads: the oracle that the other transports are tested against.

Headers are encoded and decoded as on any wire; tensors pass by reference, so the sender must not change them at all.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from threading import Condition

from torch import Tensor

from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.wire import decode_header, decode_prelude, encode


@dataclass
class _Channel:
    """The state that the two ends share."""

    edge: Edge
    frames: deque[tuple[bytes, bytes, list[Tensor]]] = field(default_factory=deque)
    # one for both ends: an edge has one thread at each, so that a notice to all wakes the other alone
    changed: Condition = field(default_factory=Condition)
    closed_by: str = ""

    @property
    def timeout(self) -> float:
        return self.edge.timeout.total_seconds()

    def close(self, by: str) -> None:
        with self.changed:
            self.closed_by = self.closed_by or by
            self.changed.notify_all()


def open_local(edge: Edge) -> tuple[LocalSender, LocalReceiver]:
    """Both ends of an edge within this process, each for one thread."""
    channel = _Channel(edge)
    return LocalSender(channel), LocalReceiver(channel)


class LocalSender(Sender):
    """The upstream end of an edge within one process."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._sequence = 0

    def send(self, frame: Frame) -> None:
        channel, edge = self._channel, self._channel.edge
        message = encode(frame, edge, self._sequence)
        started = time.perf_counter()
        with channel.changed:
            came = channel.changed.wait_for(
                lambda: channel.closed_by or len(channel.frames) < edge.depth, channel.timeout
            )
            self.waited += time.perf_counter() - started
            if channel.closed_by:
                raise edge.lost(f"the {channel.closed_by} closed the edge", self._sequence)
            if not came:
                raise edge.silent("credit", self._sequence)
            channel.frames.append(message)
            channel.changed.notify_all()
        self._sequence += 1

    def close(self) -> None:
        """Leave what was accepted for the receiver, which takes all frames before it hears of the end."""
        self._channel.close("sender")


class LocalReceiver(Receiver):
    """The downstream end of an edge within one process."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._sequence = 0

    def recv(self) -> Frame:
        channel, edge = self._channel, self._channel.edge
        started = time.perf_counter()
        with channel.changed:
            self.queued = len(channel.frames)
            came = channel.changed.wait_for(lambda: channel.closed_by or channel.frames, channel.timeout)
            self.waited += time.perf_counter() - started
            if not came:
                raise edge.silent("frame", self._sequence)
            if not channel.frames:
                raise edge.lost(f"the {channel.closed_by} closed the edge", self._sequence)
            prelude, header, tensors = channel.frames.popleft()
            channel.changed.notify_all()
        content = decode_header(header, decode_prelude(prelude, edge, self._sequence), edge)
        self._sequence += 1
        return content.frame(tensors)

    def close(self) -> None:
        self._channel.close("receiver")
        # after the notice: the sender is to learn of the end before it finds room
        self._channel.frames.clear()
