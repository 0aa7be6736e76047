"""An edge by torch.distributed point to point, across hosts: gloo for CPU tensors, what torch has for tensors of an
accelerator (NCCL between CUDA devices, XCCL between Intel's).

    sender     prelude, header, tensors ->     each frame's sends stay pending until the receiver takes them
    receiver                        <- credit  an empty message for each frame that `recv` returned, and for the end

A thread at the receiver fetches up to `depth` frames ahead, so that they travel while both stages compute; the
sender needs none, as its sends are asynchronous and frame n waits for the credit of frame n - depth. Preludes, headers
and credits are CPU tensors. After the sender's end the credits mean nothing, and all return at once.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ffdist.device import (
    CPU,
    enter,
    group_backend,
    joint_backend,
    new_stream,
    on_stream,
    queues,
    recorded,
    use_on_current_stream,
)
from ffdist.errors import TransportError
from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.buffers import BufferPool
from ffdist.transport.link import FOREVER, Link, Transfer, as_tensor
from ffdist.transport.transport import EdgeContext, Transport, WorkerLocation

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
"""The interface by which gloo joins processes of one host."""


def new_edge_group(upstream: int, downstream: int, timeout: timedelta, device: torch.device = CPU) -> dist.ProcessGroup:
    """The group of one edge; its two ranks (of the default group) call this, for shared edges in the same order."""
    bound = device if queues(device) else None
    pair, backend = [upstream, downstream], group_backend(device)
    group = dist.new_group(pair, timeout, backend, use_local_synchronization=True, device_id=bound)
    assert isinstance(group, dist.ProcessGroup), "only the edge's two ranks make its group"
    return group


class OverGroup(Transport):
    """Edges by a process group of the two ends, and of nothing else; its backend is that of `new_edge_group`."""

    def open_sender(self, edge: Edge, meeting: EdgeContext) -> ProcessGroupSender:
        link = Link(edge, meeting.pair(edge), "the receiver")
        link.greet()
        if queues(meeting.device):
            link.warm_up(meeting.device, sends=True)
        return ProcessGroupSender(edge, link, meeting.device)

    def open_receiver(self, edge: Edge, meeting: EdgeContext) -> ProcessGroupReceiver:
        link = Link(edge, meeting.pair(edge), "the sender")
        link.greet()
        if queues(meeting.device):
            link.warm_up(meeting.device, sends=False)
        return ProcessGroupReceiver(edge, link, meeting.device)


class Gloo(OverGroup):
    """Edges between any two processes that reach one another by a network."""

    name = "gloo"
    speed = 1
    needs = "a network between the two"

    def joins(self, up: WorkerLocation, down: WorkerLocation) -> bool:
        return True

    def backend(self, up: WorkerLocation, down: WorkerLocation) -> str | None:
        return self.name


class OverDevices(OverGroup):
    """Edges between accelerators of one kind, whose tensors go straight from one to the other; CPU tensors go by
    gloo."""

    speed = 3
    needs = "a GPU of its own at each end"
    on_device = True

    def __init__(self, collective: str) -> None:
        self.name = collective
        """What torch.distributed joins them by."""

    def joins(self, up: WorkerLocation, down: WorkerLocation) -> bool:
        return up.collective == down.collective == self.name and up.device != down.device

    def backend(self, up: WorkerLocation, down: WorkerLocation) -> str | None:
        return joint_backend(self.name)


GLOO, NCCL, XCCL = Gloo(), OverDevices("nccl"), OverDevices("xccl")


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame on its way (prelude, header, tensors), and the credit that it will bring."""

    transfers: list[Transfer]
    credit: Transfer


class ProcessGroupSender(Sender):
    """The upstream end of an edge between two ranks."""

    def __init__(self, edge: Edge, link: Link, device: torch.device) -> None:
        self._edge = edge
        self._link = link
        self._device = device
        self._sequence = 0
        self._in_flight: deque[_Sent] = deque()
        self._closed = False

    def send(self, frame: Frame) -> None:
        """Accept one frame. Its tensors are read while they travel; on a CPU edge, those of a device as a copy."""
        edge, sequence = self._edge, self._sequence
        if self._closed:
            raise edge.lost("this end is closed", sequence)
        prelude, header, tensors = wire.encode(self._within_reach(frame), edge, sequence)
        if len(self._in_flight) == edge.depth:
            self._await_credit()
        parts = ([as_tensor(prelude)], [as_tensor(header)], [wire.as_bytes(t) for t in tensors if t.numel()])
        transfers = [self._link.put(part, sequence) for part in parts]
        self._in_flight.append(_Sent(transfers, self._link.get([], sequence)))
        self._sequence += 1

    def close(self) -> None:
        """Wait until the receiver's thread has the frames accepted, and says so by returning all credits."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TransportError):
            end = self._link.put([as_tensor(wire.encode_end(self._edge, self._sequence))], self._sequence)
            # Not the send is waited for but the answer: where the receiver has cut the connection at this moment, the
            # write fails, and gloo tells those who wait for a message of it, but not who waits for this send.
            answer = self._link.get([], self._sequence)
            while self._in_flight:
                self._await_credit()
            self._link.wait(answer, "acknowledgement of the end", self._sequence)
            self._link.wait(end, "acknowledgement of the end", self._sequence)  # done already
        self._in_flight.clear()

    def _within_reach(self, frame: Frame) -> Frame:
        reach = ("cpu", self._device.type)
        tensors = {name: t if t.device.type in reach else t.cpu() for name, t in frame.tensors.items()}
        return Frame(frame.kind, frame.fields, tensors)

    def _await_credit(self) -> None:
        oldest, sequence = self._in_flight[0], self._sequence
        started = time.perf_counter()
        try:
            self._link.wait(oldest.credit, "credit", sequence)
        finally:
            self.waited += time.perf_counter() - started
        for transfer in oldest.transfers:
            self._link.wait(transfer, "acknowledgement", sequence)  # done already, as the receiver has the frame
            self._link.join(transfer, sequence)  # so that the tensors' memory is used again only after the send
        self._in_flight.popleft()


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A frame that is here; a stream that uses it joins the device's part of its transfer."""

    frame: Frame
    transfer: Transfer


class ProcessGroupReceiver(Receiver):
    """The downstream end of an edge between two ranks."""

    def __init__(self, edge: Edge, link: Link, device: torch.device) -> None:
        self._edge = edge
        self._link = link
        self._device = device
        self._sequence = 0
        self._num_fetched = 0
        self._num_credited = 0
        self._fetched: queue.SimpleQueue[_Fetched | Exception] = queue.SimpleQueue()
        self._credits: deque[Transfer] = deque()
        # `recv` gives credits, and so does the thread once the sender has closed: one order, each frame's once
        self._credit_lock = threading.Lock()
        self._closed = False
        self._peer_closed = False
        self._pool = BufferPool(keep=2 * edge.depth)
        self._stream = new_stream(device)
        self._handed_out: deque[torch.Event] = deque()
        # a daemon: it waits within gloo for the next frame, and the interpreter is not to wait for it
        self._thread = threading.Thread(target=self._fetch_all, name=f"ffdist edge {edge.name}", daemon=True)
        self._thread.start()

    def recv(self) -> Frame:
        """The next frame. On an accelerator the current stream waits for its tensors; the calling thread goes on."""
        edge, sequence = self._edge, self._sequence
        if self._closed:
            raise edge.lost("this end is closed", sequence)
        started, self.queued = time.perf_counter(), min(edge.depth, self._fetched.qsize())
        try:
            fetched = self._fetched.get(timeout=edge.timeout.total_seconds())
        except queue.Empty:
            raise edge.silent("frame", sequence) from None
        finally:
            self.waited += time.perf_counter() - started
        if isinstance(fetched, Exception):
            self._fetched.put(fetched)  # for the next call
            raise fetched
        self._link.join(fetched.transfer, sequence)
        if self._stream is not None:
            self._hand_out(fetched.frame)
        self._give_credit()
        self._sequence += 1
        return fetched.frame

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._peer_closed:  # the thread waits for a frame: nothing else ends a wait within gloo
            self._link.cut()
        self._thread.join()

    def _hand_out(self, frame: Frame) -> None:
        """Give the device's tensors over from the thread's stream to the current one."""
        for tensor in frame.tensors.values():
            use_on_current_stream(tensor)
        self._handed_out.append(recorded(self._device))
        if len(self._handed_out) > self._edge.depth:  # or the caller would run ahead of its device, and memory with it
            self._handed_out.popleft().synchronize()

    def _give_credit(self) -> None:
        with self._credit_lock, contextlib.suppress(TransportError):  # a sender that is gone takes no frame away
            if not self._peer_closed:
                self._put_credit()

    def _put_credit(self) -> None:
        self._credits.append(self._link.put([], self._num_credited))
        self._num_credited += 1
        if len(self._credits) > self._edge.depth:  # the frame that this older credit allowed is here, so it is done
            self._link.wait(self._credits.popleft(), "acknowledgement", self._num_credited)

    def _fetch_all(self) -> None:
        """The thread: fetch whatever the sender has credit for, up to its end or the first error."""
        try:
            enter(self._device)
            with on_stream(self._stream):
                while (fetched := self._fetch(self._num_fetched)) is not None:
                    self._num_fetched += 1
                    self._fetched.put(fetched)
            self._return_credits()
            self._fetched.put(self._edge.lost("the sender closed the edge", self._num_fetched))
        except (RuntimeError, MemoryError) as error:
            self._fetched.put(error)

    def _fetch(self, sequence: int) -> _Fetched | None:
        """The next frame, or None at the end. A device's tensors are made on the thread's stream: it never computes."""
        data = self._link.fetch(wire.PRELUDE.size, "frame", sequence, FOREVER)
        prelude = wire.decode_prelude(data, self._edge, sequence)
        if prelude.is_end:
            return None
        header = wire.decode_header(self._link.fetch(prelude.header_bytes, "header", sequence), prelude, self._edge)
        buffers = [self._allocate(spec, sequence) for spec in header.tensors]
        transfer = self._link.get([buffer for buffer in buffers if buffer.numel()], sequence)
        self._link.wait(transfer, "tensors", sequence)
        self._link.finish(transfer, "tensors", sequence)
        tensors = (wire.from_bytes(buffer, spec) for buffer, spec in zip(buffers, header.tensors, strict=True))
        return _Fetched(header.frame(tensors), transfer)

    def _allocate(self, spec: wire.TensorSpec, sequence: int) -> Tensor:
        """uint8 [spec.nbytes] where the tensor belongs."""
        if spec.device == "cpu":
            return self._pool.take(spec.nbytes)
        if spec.device != self._device.type:
            raise TransportError(
                "a tensor is on another device than this end",
                where=self._edge.at(sequence),
                expected=f"cpu or {self._device.type}",
                got=spec.device,
                remedy="open both ends of an edge between devices with them",
            )
        return torch.empty(spec.nbytes, dtype=torch.uint8, device=self._device)

    def _return_credits(self) -> None:
        """Tell a sender that closes that its frames are here, whether `recv` has returned them or not; and its end."""
        with self._credit_lock:
            self._peer_closed = True
            while self._num_credited < self._num_fetched:
                self._put_credit()
            # kept like the last credits, and not waited for: who waits for a send is not told that the sender is gone
            self._credits.append(self._link.put([], self._num_fetched))
