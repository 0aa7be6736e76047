"""An edge within one host: memory slots that both ends map, and a unix socket that is doorbell and credit.

    sender     copies a frame into a free slot, then sends its prelude and the slot's number over the socket
    receiver   lends the frame's large tensors from the slot itself, credits it, and frees it when they are gone;
               while one slot is lent, it copies what comes into memory of its own, credits and frees at once

There is one slot more than the edge is deep, so that a frame in use takes nothing from the queue.

The slots are an anonymous memory file whose descriptor travels over the socket, and the socket's address is abstract:
nothing has a name on disk (nor in /dev/shm), so nothing stays behind, however a process ends. Its size is sealed, so
that neither end can take memory from under the other. The kernel closes a dead process's socket, so the other end knows
at once. (A process *forked* from an end holds its socket too, until it ends.)
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
from functools import partial
from pathlib import Path

from ffdist.errors import ConfigError, TransportError, setting
from ffdist.folders import LARGER_FILES, file_limit
from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.buffers import BufferPool
from ffdist.transport.packet_socket import PacketSocket, accept, connect
from ffdist.transport.slots import Lease, Slots
from ffdist.transport.transport import EdgeContext, Transport, WorkerLocation

TAKEN, COPIED, FREED, END = b"tcf."
"""What a receiver says of a slot: its frame was taken, taken and copied out, let go; or that it has closed."""
NOTICE = struct.Struct("<BHB")
"""One of these, the slots' generation, the slot's number."""
GENERATIONS = 2**16
"""The generations of slots, counted round: a notice of smaller, earlier slots frees none of the present ones."""
GROWN = b"="
"""A sender's packet that brings the descriptor of new, larger slots."""
RING = wire.PRELUDE.size + 1
"""Bytes of a sender's packet that tells of a frame: its prelude, and the number of its slot."""
BOOT, NETWORK = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")
MAX_DEPTH = 64
"""So that the packets of a full edge (a prelude and a descriptor each) always fit the socket's default buffer."""


def obstacle() -> str | None:
    """The reason that this process can open no such edge; None where it can."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    try:
        BOOT.read_text()
        NETWORK.readlink()
        os.close(os.memfd_create("ffdist"))
    except OSError as error:  # a sandbox
        return f"{error.filename or 'memory files'}: {error.strerror}"
    return None


class SharedMemory(Transport):
    """Edges between processes of one host, network namespace and user."""

    name = "shared-memory"
    speed = 2
    needs = "both stages on one Linux host"

    def obstacle(self) -> str | None:
        return obstacle()

    def mark(self) -> str | None:
        return None if obstacle() else f"{BOOT.read_text().strip()}/{NETWORK.readlink()}/{os.geteuid()}"

    def joins(self, up: WorkerLocation, down: WorkerLocation) -> bool:
        return self.same_mark(up, down)

    def open_sender(self, edge: Edge, meeting: EdgeContext) -> SharedMemorySender:
        _check(edge)
        return SharedMemorySender(edge, connect(edge, meeting.store))

    def open_receiver(self, edge: Edge, meeting: EdgeContext) -> SharedMemoryReceiver:
        _check(edge)
        return SharedMemoryReceiver(edge, accept(edge, meeting.store))


TRANSPORT = SharedMemory()


class SharedMemorySender(Sender):
    """The upstream end of an edge within one host."""

    def __init__(self, edge: Edge, packets: PacketSocket) -> None:
        self._edge = edge
        self._packets = packets
        self._sequence = 0
        self._credited = 0
        self._slots: Slots | None = None
        self._generation = 0
        self._free: list[int] = []
        self._closed = False
        self._peer_closed = False

    def send(self, frame: Frame) -> None:
        """Accept one frame. Tensors of a GPU are copied to the host, and arrive there."""
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        prelude, header, tensors = wire.encode(frame, self._edge, self._sequence)
        while self._sequence - self._credited == self._edge.depth:
            self._recv()
        needed = wire.aligned(len(header)) + wire.payload_end(t.nbytes for t in tensors)
        if self._slots is None or self._slots.slot_bytes < needed:
            self._slots = self._grow(needed)
        # all notices that have come, whether a slot is wanted or not: the socket holds only so many
        while not self._free or self._packets.unread_bytes():
            self._recv()
        slot = self._free.pop()  # the last one freed is still in the cache, and others' memory may never be touched
        self._slots.write(slot, header, tensors)
        self._notify(prelude + bytes([slot]))
        self._sequence += 1

    def close(self) -> None:
        """The frames accepted lie in memory that the receiver has, or gets with the packets on their way: no wait."""
        if not self._closed:
            self._closed = True
            self._packets.send(wire.encode_end(self._edge, self._sequence))
            self._packets.close()
            self._slots = None

    def _grow(self, slot_bytes: int) -> Slots:
        """Larger slots from this frame on; those before it stay in the old ones until they are received."""
        try:
            descriptor = os.memfd_create("ffdist", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise self._no_room_error(slot_bytes, error) from error
        try:
            try:
                slots = Slots(descriptor, self._edge.depth + 1, slot_bytes)
            except OSError as error:
                raise self._no_room_error(slot_bytes, error) from error
            self._notify(GROWN, descriptor)
            self._generation = (self._generation + 1) % GENERATIONS
            self._free = list(range(self._edge.depth + 1))
            return slots
        finally:
            os.close(descriptor)

    def _no_room_error(self, slot_bytes: int, error: OSError) -> TransportError | ConfigError:
        depth, where = self._edge.depth + 1, self._edge.at(self._sequence)
        if error.errno == errno.EFBIG:  # at every attempt
            return ConfigError(
                "the memory that two stages share is a file, and larger than this process's may be",
                where=where,
                expected=f"a limit of {depth * slot_bytes:,} bytes at least",
                got=f"{file_limit():,} bytes",
                remedy=f"{LARGER_FILES}, or use a smaller {setting('training.batch_size')} or {setting('plan.queue')}",
            )
        return TransportError(
            "there is no shared memory for a frame",
            where=where,
            expected=f"{depth} slots of {slot_bytes:,} bytes",
            got=error.strerror or error,
            remedy=f"use a smaller {setting('training.batch_size')} or {setting('plan.queue')}, or "
            f"{setting('plan.transport', 'gloo')}",
        )

    def _notify(self, packet: bytes, *descriptors: int) -> None:
        while not self._packets.send(packet, descriptors):
            self._recv()  # what the receiver left behind, up to the reason why it is gone

    def _recv(self) -> None:
        started = time.perf_counter()
        try:
            packet, _ = self._packets.recv(NOTICE.size, self._edge.timeout.total_seconds())
        except TimeoutError:
            raise self._edge.silent("credit", self._sequence) from None
        finally:
            self.waited += time.perf_counter() - started
        if not packet:
            how = "closed the edge" if self._peer_closed else "died"
            raise self._edge.lost(f"the receiver {how}", self._sequence)
        what, generation, slot = NOTICE.unpack(packet)
        self._credited += what in (TAKEN, COPIED)
        self._peer_closed |= what == END
        if what in (COPIED, FREED) and generation == self._generation:
            self._free.append(slot)


class SharedMemoryReceiver(Receiver):
    """The downstream end of an edge within one host."""

    def __init__(self, edge: Edge, packets: PacketSocket) -> None:
        self._edge = edge
        self._packets = packets
        self._sequence = 0
        self._slots: Slots | None = None
        self._generation = 0
        self._lease: Lease | None = None
        self._pool = BufferPool(keep=edge.depth)
        self._closed = False
        self._peer_closed = False

    def recv(self) -> Frame:
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        self.queued = min(self._edge.depth, self._packets.unread_bytes() // RING)
        prelude, slot = self._recv_prelude()
        assert self._slots is not None
        lease = None
        if not (self._lease and self._lease.count):
            lease = self._lease = Lease(partial(self._say, FREED, self._generation, slot))
        frame = self._slots.read(slot, prelude, self._edge, self._pool, lease)
        # a sender that is gone by now takes nothing away from a whole frame
        self._say(TAKEN if lease and lease.count else COPIED, self._generation, slot)
        self._sequence += 1
        return frame

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._say(END, 0, 0)
            self._packets.close()
            self._slots = None

    def _say(self, what: int, generation: int, slot: int) -> None:
        self._packets.send(NOTICE.pack(what, generation, slot))

    def _recv_prelude(self) -> tuple[wire.Prelude, int]:
        while True:
            packet, descriptors = self._recv()
            if not packet:
                how = "closed the edge" if self._peer_closed else "died"
                raise self._edge.lost(f"the sender {how}", self._sequence)
            if descriptors:
                self._slots = self._mapped(descriptors[0])
                self._generation = (self._generation + 1) % GENERATIONS
                continue
            prelude = wire.decode_prelude(packet[: wire.PRELUDE.size], self._edge, self._sequence)
            if not prelude.is_end:
                if self._slots is None or len(packet) != RING or packet[-1] > self._edge.depth:
                    raise wire.unreadable_error(
                        self._edge, self._sequence, "the number of a slot", packet[wire.PRELUDE.size :]
                    )
                return prelude, packet[-1]
            self._peer_closed = True

    def _mapped(self, descriptor: int) -> Slots:
        try:
            return Slots(descriptor, self._edge.depth + 1)
        except (OSError, ValueError) as error:  # no memory file, an empty one, or one that may shrink
            raise wire.unreadable_error(self._edge, self._sequence, "a memory file", error) from error
        finally:
            os.close(descriptor)

    def _recv(self) -> tuple[bytes, list[int]]:
        started = time.perf_counter()
        try:
            return self._packets.recv(RING, self._edge.timeout.total_seconds())
        except TimeoutError:
            raise self._edge.silent("frame", self._sequence) from None
        finally:
            self.waited += time.perf_counter() - started


def _check(edge: Edge) -> None:
    if why := obstacle():
        raise TransportError(
            "there is no shared memory here",
            where=edge.at(),
            got=why,
            remedy=f"use {setting('plan.transport', 'gloo')}",
        )
    if edge.depth > MAX_DEPTH:
        raise ConfigError(
            "the queue is too deep for shared memory",
            where=edge.at(),
            expected=f"<= {MAX_DEPTH}",
            got=edge.depth,
            remedy=f"use a smaller {setting('plan.queue')}, or {setting('plan.transport', 'gloo')}",
        )
