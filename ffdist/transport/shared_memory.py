"""An edge within one host: memory slots that both ends map, and a unix socket that is doorbell and credit.

    sender     copies frame n into slot n % depth, then sends its prelude (32 bytes) over the socket
    receiver   copies the frame out into memory of its own, then sends a credit (1 byte) back

The slots are an anonymous memory file whose descriptor travels over the socket, and the socket's address is abstract:
nothing has a name on disk (nor in /dev/shm), so nothing stays behind, however a process ends. The kernel closes a dead
process's socket, so the other end knows at once. (A process *forked* from an end holds its socket too, until it ends.)
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ffdist.errors import TransportError
from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.buffers import BufferPool
from ffdist.transport.doorbell import Doorbell, Store, accept, connect
from ffdist.transport.slots import Slots

CREDIT, END, GROWN = b"+", b".", b"="
MAX_DEPTH = 64
"""So that the packets of a full edge (a prelude and a descriptor each) always fit the socket's default buffer."""


def locality() -> str | None:
    """Processes of equal locality can open such an edge; None where the platform cannot (it needs Linux)."""
    if sys.platform != "linux":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').readlink()}/{os.geteuid()}"


def open_sender(edge: Edge, store: Store) -> SharedMemorySender:
    """The upstream end; blocks until the downstream one opens. The ends meet through `store`.

    Raises PeerTimeoutError when the other end does not open in time, TransportError where the two disagree.
    """
    _check(edge)
    return SharedMemorySender(edge, connect(edge, store))


def open_receiver(edge: Edge, store: Store) -> SharedMemoryReceiver:
    """The downstream end; blocks until the upstream one opens. Raises as `open_sender` does."""
    _check(edge)
    return SharedMemoryReceiver(edge, accept(edge, store))


class SharedMemorySender(Sender):
    """The upstream end of an edge within one host."""

    def __init__(self, edge: Edge, doorbell: Doorbell) -> None:
        self._edge, self._doorbell = edge, doorbell
        self._sequence = self._credited = 0
        self._slots: Slots | None = None
        self._closed = self._peer_closed = False

    def send(self, frame: Frame) -> None:
        """Accept one frame. Tensors of a GPU are copied to the host, and arrive there."""
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        prelude, header, tensors = wire.encode(frame, self._edge, self._sequence)
        while self._sequence - self._credited == self._edge.depth:
            self._hear_credit()
        needed = wire.aligned(len(header)) + wire.payload_end(t.nbytes for t in tensors)
        if self._slots is None or self._slots.slot_bytes < needed:
            self._slots = self._grow(needed)
        self._slots.write(self._sequence, header, tensors)
        self._ring(prelude)
        self._sequence += 1

    def close(self) -> None:
        """The frames accepted lie in memory that the receiver has, or gets with the packets on their way: no wait."""
        if not self._closed:
            self._closed = True
            self._doorbell.ring(wire.encode_end(self._edge, self._sequence))
            self._doorbell.close()
            self._slots = None

    def _grow(self, slot_bytes: int) -> Slots:
        """Larger slots from this frame on; those before it stay in the old ones until they are received."""
        descriptor = os.memfd_create("ffdist")
        try:
            slots = Slots(descriptor, self._edge.depth, slot_bytes)
            self._ring(GROWN, descriptor)
            return slots
        finally:
            os.close(descriptor)

    def _ring(self, packet: bytes, *descriptors: int) -> None:
        while not self._doorbell.ring(packet, descriptors):
            self._hear_credit()  # what the receiver left behind, up to the reason why it is gone

    def _hear_credit(self) -> None:
        started = time.perf_counter()
        try:
            packet, _ = self._doorbell.hear(len(CREDIT), self._edge.timeout.total_seconds())
        except TimeoutError:
            raise self._edge.silent("credit", self._sequence) from None
        finally:
            self.waited += time.perf_counter() - started
        if not packet:
            how = "closed the edge" if self._peer_closed else "died"
            raise self._edge.lost(f"the receiver {how}", self._sequence)
        self._credited += packet == CREDIT
        self._peer_closed |= packet == END


class SharedMemoryReceiver(Receiver):
    """The downstream end of an edge within one host."""

    def __init__(self, edge: Edge, doorbell: Doorbell) -> None:
        self._edge, self._doorbell = edge, doorbell
        self._sequence = 0
        self._slots: Slots | None = None
        self._pool = BufferPool(keep=2 * edge.depth)
        self._closed = self._peer_closed = False

    def recv(self) -> Frame:
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        self.queued = min(self._edge.depth, self._doorbell.unheard() // wire.PRELUDE.size)
        prelude = self._hear_prelude()
        assert self._slots is not None
        frame = self._slots.read(prelude, self._edge, self._pool)
        self._doorbell.ring(CREDIT)  # a sender that is gone by now takes nothing away from a whole frame
        self._sequence += 1
        return frame

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._doorbell.ring(END)
            self._doorbell.close()
            self._slots = None

    def _hear_prelude(self) -> wire.Prelude:
        while True:
            packet, descriptors = self._hear()
            if not packet:
                how = "closed the edge" if self._peer_closed else "died"
                raise self._edge.lost(f"the sender {how}", self._sequence)
            if descriptors:
                self._slots = Slots(descriptors[0], self._edge.depth)
                os.close(descriptors[0])
                continue
            prelude = wire.decode_prelude(packet, self._edge, self._sequence)
            if not prelude.is_end:
                return prelude
            self._peer_closed = True

    def _hear(self) -> tuple[bytes, list[int]]:
        started = time.perf_counter()
        try:
            return self._doorbell.hear(wire.PRELUDE.size, self._edge.timeout.total_seconds())
        except TimeoutError:
            raise self._edge.silent("frame", self._sequence) from None
        finally:
            self.waited += time.perf_counter() - started


def _check(edge: Edge) -> None:
    if locality() is None:
        raise TransportError("shared memory needs Linux", where=edge.at(), expected="linux", got=sys.platform,
                             remedy="use --transport gloo")  # fmt: skip
    if edge.depth > MAX_DEPTH:
        raise TransportError("the queue is too deep for shared memory", where=edge.at(), expected=f"<= {MAX_DEPTH}",
                             got=edge.depth, remedy="use a smaller --queue")  # fmt: skip
