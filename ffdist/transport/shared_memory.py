"""An edge within one host: memory slots that both ends map, and a unix socket that is doorbell and credit.

    sender     copies frame n into slot n % depth, then sends its prelude (32 bytes) over the socket
    receiver   copies the frame out into memory of its own, then sends a credit (1 byte) back

The slots are an anonymous memory file whose descriptor travels over the socket, and the socket's address is abstract:
nothing has a name on disk, so nothing stays behind, however a process ends. The kernel closes a dead process's
socket, so the other end knows at once. (A process *forked* from an end holds the socket too, until it ends.)
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import Store

from ffdist.errors import TransportError
from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.buffers import BufferPool
from ffdist.transport.doorbell import Doorbell, accept, connect

CREDIT, END = b"+", b"."


def locality() -> str | None:
    """Processes of equal locality can share memory; None where the platform cannot (it needs Linux)."""
    if sys.platform != "linux":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').readlink()}/{os.geteuid()}"


def open_sender(edge: Edge, store: Store) -> SharedMemorySender:
    """The upstream end; blocks until the downstream one opens. The ends meet through `store`.

    Raises PeerTimeoutError when the other end does not open in time, TransportError where the two disagree.
    """
    _require_linux(edge)
    return SharedMemorySender(edge, connect(edge, store))


def open_receiver(edge: Edge, store: Store) -> SharedMemoryReceiver:
    """The downstream end; blocks until the upstream one opens. Raises as `open_sender` does."""
    _require_linux(edge)
    return SharedMemoryReceiver(edge, accept(edge, store))


class Slots:
    """An anonymous memory file in `depth` equal parts, mapped."""

    def __init__(self, descriptor: int, depth: int) -> None:
        self.nbytes = os.fstat(descriptor).st_size // depth
        self._depth = depth
        self._memory = torch.frombuffer(mmap.mmap(descriptor, 0), dtype=torch.uint8)

    def __getitem__(self, sequence: int) -> Tensor:
        """The slot of a frame: uint8 [nbytes]."""
        return self._memory.narrow(0, sequence % self._depth * self.nbytes, self.nbytes)


class SharedMemorySender(Sender):
    """The upstream end of an edge within one host."""

    def __init__(self, edge: Edge, doorbell: Doorbell) -> None:
        self._edge, self._doorbell = edge, doorbell
        self._timeout = edge.timeout.total_seconds()
        self._sequence = self._credits_used = 0
        self._slots: Slots | None = None
        self._closed = False

    def send(self, frame: Frame) -> None:
        """Accept one frame. CUDA tensors are copied to the host, and arrive there."""
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        prelude, header, tensors = wire.encode(frame, self._edge, self._sequence)
        self._await_credit()
        descriptors = self._make_room(wire.aligned(len(header)) + wire.payload_end(t.nbytes for t in tensors))
        assert self._slots is not None
        _write(self._slots[self._sequence], header, tensors)
        self._ring(prelude, descriptors)
        self._sequence += 1

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._doorbell.ring(wire.encode_end(self._edge, self._sequence), 0)
            self._doorbell.close()
            self._slots = None
