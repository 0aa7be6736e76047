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
class _Street:
    """What the two ends share."""

    edge: Edge
    frames: deque[tuple[bytes, bytes, list[Tensor]]] = field(default_factory=deque)
    changed: Condition = field(default_factory=Condition)
    sender_open: bool = True
    receiver_open: bool = True


def open_local(edge: Edge) -> tuple[LocalSender, LocalReceiver]:
    """Both ends of an edge within this process, each for one thread."""
    street = _Street(edge)
    return LocalSender(street), LocalReceiver(street)


class LocalSender(Sender):
    """The upstream end of an edge within one process."""

    def __init__(self, street: _Street) -> None:
        self._street = street
        self._sequence = 0

    def send(self, frame: Frame) -> None:
        street, edge = self._street, self._street.edge
        message = encode(frame, edge, self._sequence)
        started = time.perf_counter()
        with street.changed:
            came = street.changed.wait_for(
                lambda: len(street.frames) < edge.depth or not self._both_open(), edge.timeout.total_seconds()
            )
            self.waited += time.perf_counter() - started
            if not self._both_open():
                raise edge.lost("the receiver closed the edge" if street.sender_open else "the edge is closed", self._sequence)
            if not came:
                raise edge.silent("credit", self._sequence)
            street.frames.append(message)
            street.changed.notify_all()
        self._sequence += 1

    def close(self) -> None:
        with self._street.changed:
            self._street.sender_open = False
            self._street.changed.notify_all()

    def _both_open(self) -> bool:
        return self._street.sender_open and self._street.receiver_open


class LocalReceiver(Receiver):
    """The downstream end of an edge within one process."""

    def __init__(self, street: _Street) -> None:
        self._street = street
        self._sequence = 0

    def recv(self) -> Frame:
        street, edge = self._street, self._street.edge
        started = time.perf_counter()
        with street.changed:
            came = street.changed.wait_for(
                lambda: street.frames or not street.sender_open or not street.receiver_open, edge.timeout.total_seconds()
            )
            self.waited += time.perf_counter() - started
            if not street.receiver_open:
                raise edge.lost("the edge is closed", self._sequence)
            if not came:
                raise edge.silent("frame", self._sequence)
            if not street.frames:
                raise edge.lost("the sender closed the edge", self._sequence)
            prelude, header, tensors = street.frames.popleft()
            street.changed.notify_all()
        content = decode_header(header, decode_prelude(prelude, edge, self._sequence), edge)
        self._sequence += 1
        return content.frame(tensors)

    def close(self) -> None:
        with self._street.changed:
            self._street.receiver_open = False
            self._street.frames.clear()
            self._street.changed.notify_all()
