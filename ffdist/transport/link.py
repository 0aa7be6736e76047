"""A torch.distributed group of two ranks as a link: bytes to and from the other rank, and clear errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ffdist.device import synchronize
from ffdist.errors import TransportError
from ffdist.transport import wire
from ffdist.transport.base import Edge

FOREVER = timedelta(days=3650)
"""For who waits for the next frame without a hurry: `recv` itself has the edge's timeout."""
POLL = 5e-5
"""Seconds between two looks at what NCCL brings."""
CUT = 1
"""The tag that nobody sends to."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Tensors on their way, in either direction."""

    by_gloo: list[dist.Work]
    """The last one is the fence."""
    by_device: list[dist.Work]


class Link:
    """Point to point with the other rank of `group`; `peer` names it in errors ("the sender").

    Facts of gloo that this rests on: messages of one direction arrive in order; a send completes when the other side
    has posted its receive, and reads the tensor until then; a wait that times out closes the connection for good; when
    the peer dies, what waits fails at once, but for a message of which a part has come. Hence the fence, an empty
    message after each transfer: it is waited for first, and never comes in part.
    """

    def __init__(self, edge: Edge, group: dist.ProcessGroup, peer: str) -> None:
        if (size := dist.get_world_size(group)) != 2:
            raise TransportError(
                "an edge has a group of its own",
                where=edge.at(),
                expected="two ranks",
                got=size,
                remedy="make one with new_edge_group",
            )
        self._edge = edge
        self._group = group
        self._peer = peer
        self._rank = 1 - dist.get_rank(group)

    def put(self, tensors: Iterable[Tensor], sequence: int) -> Transfer:
        """Send uint8 tensors; they must not change until that is done. Raises PeerLostError."""
        return self._post(lambda data: dist.isend(data, group=self._group, group_dst=self._rank), tensors, sequence)

    def get(self, tensors: Iterable[Tensor], sequence: int) -> Transfer:
        """Receive into uint8 tensors, exactly as long and as many as are sent. Raises PeerLostError."""
        return self._post(lambda data: dist.irecv(data, group=self._group, group_src=self._rank), tensors, sequence)

    def wait(self, transfer: Transfer, awaited: str, sequence: int, timeout: timedelta | None = None) -> None:
        """Wait until gloo's part is done. Raises PeerLostError, or PeerTimeoutError after `timeout` (the edge's)."""
        timeout = timeout or self._edge.timeout
        started = time.monotonic()
        try:
            for work in reversed(transfer.by_gloo):
                work.wait(timeout)
        except RuntimeError as error:
            if time.monotonic() - started >= timeout.total_seconds():
                raise self._edge.silent(awaited, sequence) from error
            raise self._lost_error(sequence) from error

    def join(self, transfer: Transfer, sequence: int) -> None:
        """Make the current stream wait until NCCL's part is done; the calling thread goes on. Raises PeerLostError."""
        try:
            for work in transfer.by_device:
                work.wait()
        except RuntimeError as error:
            raise self._lost_error(sequence) from error

    def finish(self, transfer: Transfer, awaited: str, sequence: int) -> None:
        """Wait until NCCL's part is done, too, so that nobody counts on what may never come. Raises
        PeerTimeoutError."""
        deadline = time.monotonic() + self._edge.timeout.total_seconds()
        for work in transfer.by_device:
            while not work.is_completed():
                if time.monotonic() > deadline:
                    raise self._edge.silent(awaited, sequence)
                time.sleep(POLL)  # NCCL has no wait with a time limit that leaves the process alive

    def fetch(self, num_bytes: int, awaited: str, sequence: int, timeout: timedelta | None = None) -> memoryview:
        """Receive so many bytes. Raises as `get` and `wait` do."""
        data = torch.empty(num_bytes, dtype=torch.uint8)
        self.wait(self.get([data], sequence), awaited, sequence, timeout)
        return data.numpy().data

    def greet(self) -> None:
        """Each end says which edge it takes this to be. Raises TransportError where they disagree."""
        said = self.put([as_tensor(wire.encode_hello(self._edge))], 0)
        heard = self.fetch(wire.HELLO_BYTES, "greeting", 0)
        self.wait(said, "greeting", 0)
        wire.check_hello(heard, self._edge)

    def warm_up(self, device: torch.device, *, sends: bool) -> None:
        """NCCL connects at the first message: both ends of an edge between GPUs do this once."""
        data = [torch.zeros(1, dtype=torch.uint8, device=device)]
        transfer = self.put(data, 0) if sends else self.get(data, 0)
        self.wait(transfer, "greeting", 0)
        self.join(transfer, 0)
        synchronize(device)

    def cut(self) -> None:
        """Close the connection, by a wait that times out: whatever waits for it, at either end, fails at once."""
        with contextlib.suppress(RuntimeError):
            work = dist.irecv(torch.empty(1), group=self._group, group_src=self._rank, tag=CUT)
            _posted(work).wait(timedelta(milliseconds=1))

    def _post(self, post: Callable[[Tensor], dist.Work | None], tensors: Iterable[Tensor], sequence: int) -> Transfer:
        transfer = Transfer([], [])
        try:
            for data in tensors:
                (transfer.by_gloo if data.device.type == "cpu" else transfer.by_device).append(_posted(post(data)))
            transfer.by_gloo.append(_posted(post(torch.empty(0, dtype=torch.uint8))))  # the fence
        except RuntimeError as error:
            raise self._lost_error(sequence) from error
        return transfer

    def _lost_error(self, sequence: int) -> TransportError:
        return self._edge.lost(f"{self._peer} is gone", sequence)


def as_tensor(data: bytes) -> Tensor:
    """A copy of the bytes, uint8 [len(data)]."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _posted(work: dist.Work | None) -> dist.Work:
    assert work is not None, "this rank is not in the group"
    return work
