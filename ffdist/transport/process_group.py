"""An edge by torch.distributed point to point, across hosts: gloo for CPU tensors, NCCL for tensors of a GPU.

    sender     prelude, header, tensors ->     each frame's sends stay pending until the receiver takes them
    receiver                        <- credit  one byte for each frame that `recv` returned

A thread at the receiver fetches up to `depth` frames ahead, so that they travel while both stages compute; the
sender needs none, as its sends are asynchronous and frame n waits for the credit of frame n - depth. Preludes, headers
and credits are CPU tensors. After the sender's end the credits mean nothing, and all return at once.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ffdist.errors import TransportError
from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.buffers import BufferPool
from ffdist.transport.link import FOREVER, Link, as_tensor

CPU = torch.device("cpu")


def new_edge_group(upstream: int, downstream: int, timeout: timedelta, device: torch.device = CPU) -> dist.ProcessGroup:
    """The group of one edge; its two ranks (of the default group) call this, for shared edges in the same order."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    group = dist.new_group([upstream, downstream], timeout, backend, use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup), "only the edge's two ranks make its group"
    return group


def open_sender(edge: Edge, group: dist.ProcessGroup, device: torch.device = CPU) -> ProcessGroupSender:
    """The upstream end; blocks until the downstream one opens.

    group: the two ranks of this edge, and of nothing else; its backend is gloo, or "cpu:gloo,cuda:nccl" for a GPU.
    device: where this end's tensors are; besides them CPU tensors may travel, too.
    Raises PeerTimeoutError when the other end does not open in time, TransportError where the two disagree.
    """
    link = Link(edge, group, "the receiver")
    link.greet()
    if device.type == "cuda":  # NCCL connects at the first message
        link.put(torch.zeros(1, dtype=torch.uint8, device=device), 0).wait()
        torch.cuda.synchronize(device)
    return ProcessGroupSender(edge, link, device)


def open_receiver(edge: Edge, group: dist.ProcessGroup, device: torch.device = CPU) -> ProcessGroupReceiver:
    """The downstream end; blocks until the upstream one opens. Parameters and errors as for `open_sender`."""
    link = Link(edge, group, "the sender")
    link.greet()
    if device.type == "cuda":
        link.get(torch.zeros(1, dtype=torch.uint8, device=device), 0).wait()
        torch.cuda.synchronize(device)
    return ProcessGroupReceiver(edge, link, device)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame on its way: what is being sent, and the credit that it will bring."""

    sends: list[dist.Work]
    credit: dist.Work


class ProcessGroupSender(Sender):
    """The upstream end of an edge between two ranks."""

    def __init__(self, edge: Edge, link: Link, device: torch.device) -> None:
        self._edge, self._link, self._device = edge, link, device
        self._sequence = 0
        self._in_flight: deque[_Sent] = deque()
        self._closed = False

    def send(self, frame: Frame) -> None:
        """Accept one frame; its tensors are read while they travel, without a copy."""
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        prelude, header, tensors = wire.encode(frame, self._edge, self._sequence)
        for tensor in tensors:
            _check_device(tensor.device.type, self._device, self._edge, self._sequence)
        if len(self._in_flight) == self._edge.depth:
            self._await_credit()
        parts = [as_tensor(prelude), as_tensor(header), *(wire.as_bytes(t) for t in tensors if t.numel())]
        sends = [self._link.put(part, self._sequence) for part in parts]
        credit = self._link.get(torch.empty(1, dtype=torch.uint8), self._sequence)
        self._in_flight.append(_Sent(sends, credit))
        self._sequence += 1

    def close(self) -> None:
        """Wait until the receiver's thread has the frames accepted, and says so by returning all credits."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TransportError):
            end = self._link.put(as_tensor(wire.encode_end(self._edge, self._sequence)), self._sequence)
            while self._in_flight:
                self._await_credit()
            self._link.wait(end, "acknowledgement of the end", self._sequence)
        self._in_flight.clear()

    def _await_credit(self) -> None:
        oldest = self._in_flight[0]
        started = time.perf_counter()
        try:
            self._link.wait(oldest.credit, "credit", self._sequence)
        finally:
            self.waited += time.perf_counter() - started
        for send in oldest.sends:  # done, as the receiver has the frame; on a GPU the stream waits, not this thread
            self._link.wait(send, "acknowledgement", self._sequence)
        self._in_flight.popleft()


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A frame that is here, but for the tensors that NCCL still brings."""

    frame: Frame
    pending: list[dist.Work]


class ProcessGroupReceiver(Receiver):
    """The downstream end of an edge between two ranks."""

    def __init__(self, edge: Edge, link: Link, device: torch.device) -> None:
        self._edge, self._link, self._device = edge, link, device
        self._sequence = self._num_fetched = self._num_credited = 0
        self._fetched: queue.SimpleQueue[_Fetched | Exception] = queue.SimpleQueue()
        self._credits: deque[dist.Work] = deque()
        self._pool = BufferPool(keep=2 * edge.depth)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._taken: deque[torch.cuda.Event] = deque()
        self._ended = False
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._fetch_all, name=f"ffdist edge {edge.name}", daemon=True)
        self._thread.start()

    def recv(self) -> Frame:
        """The next frame. On a GPU the current stream waits for its tensors; this thread does not."""
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        started = time.perf_counter()
        try:
            fetched = self._fetched.get(timeout=self._edge.timeout.total_seconds())
        except queue.Empty:
            raise self._edge.silent("frame", self._sequence) from None
        finally:
            self.waited += time.perf_counter() - started
        if isinstance(fetched, Exception):
            self._fetched.put(fetched)  # and again at the next call
            raise fetched
        self._hand_to_stream(fetched)
        self._give_credit()
        self._sequence += 1
        return fetched.frame

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if not self._ended:
                self._link.cut()
            self._thread.join()

    def _fetch_all(self) -> None:
        """The thread: fetch ahead what the sender has credit for, to its end or the first error."""
        try:
            with torch.cuda.stream(self._stream):
                while (fetched := self._fetch(self._num_fetched)) is not None:
                    self._num_fetched += 1
                    self._fetched.put(fetched)
            self._fetched.put(self._edge.lost("the sender closed the edge", self._num_fetched))
            self._return_credits()
        except (RuntimeError, MemoryError) as error:
            self._fetched.put(error)

    def _fetch(self, sequence: int) -> _Fetched | None:
        """The next frame, with CUDA tensors on the thread's own stream; None at the end."""
        prelude_bytes = self._link.fetch(wire.PRELUDE.size, "frame", sequence, FOREVER)
        prelude = wire.decode_prelude(prelude_bytes, self._edge, sequence)
        if prelude.is_end:
            return None
        header_bytes = self._link.fetch(prelude.header_bytes, "header", sequence)
        header = wire.decode_header(header_bytes, prelude, self._edge)
        buffers = [self._allocate(spec, sequence) for spec in header.tensors]
        works = [self._link.get(b, sequence) if b.numel() else None for b in buffers]
        ...
