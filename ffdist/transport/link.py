"""A torch.distributed group of two ranks as a link: bytes to and from the other rank, and clear errors."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ffdist.errors import TransportError
from ffdist.transport import wire
from ffdist.transport.base import Edge

FOREVER = timedelta(days=3650)
CUT = 1
"""The tag that nobody sends to."""


class Link:
    """Point to point with the other rank of `group`; `peer` names it in errors ("the sender").

    Facts of gloo that this rests on: messages of one direction arrive in order; a send completes when the other side
    has posted its receive, and reads the tensor until then; a wait that times out closes the connection for good.
    """

    def __init__(self, edge: Edge, group: dist.ProcessGroup, peer: str) -> None:
        if (size := dist.get_world_size(group)) != 2:
            raise TransportError("an edge has a group of its own", where=edge.at(), expected="two ranks", got=size,
                                 remedy="make one with new_edge_group")  # fmt: skip
        self._edge, self._group, self._peer = edge, group, peer
        self._rank = 1 - dist.get_rank(group)

    def put(self, data: Tensor, sequence: int) -> dist.Work:
        """Send bytes; they must not change until the work is done. Raises PeerLostError."""
        try:
            return _posted(dist.isend(data, group=self._group, group_dst=self._rank))
        except RuntimeError as error:
            raise self._lost(sequence) from error

    def get(self, data: Tensor, sequence: int) -> dist.Work:
        """Receive bytes into `data`, which must be exactly as long as what is sent. Raises PeerLostError."""
        try:
            return _posted(dist.irecv(data, group=self._group, group_src=self._rank))
        except RuntimeError as error:
            raise self._lost(sequence) from error

    def wait(self, work: dist.Work, awaited: str, sequence: int, timeout: timedelta | None = None) -> None:
        """Until the work is done. Raises PeerLostError, or PeerTimeoutError after `timeout` (default: the edge's)."""
        timeout = timeout or self._edge.timeout
        started = time.monotonic()
        try:
            work.wait(timeout)
        except RuntimeError as error:
            if time.monotonic() - started >= timeout.total_seconds():
                raise self._edge.silent(awaited, sequence) from error
            raise self._lost(sequence) from error

    def join(self, work: dist.Work, sequence: int) -> None:
        """Until NCCL's work is done, as far as the current stream is concerned; the calling thread goes on."""
        try:
            work.wait()
        except RuntimeError as error:
            raise self._lost(sequence) from error

    def warm_up(self, device: torch.device, *, sends: bool) -> None:
        """NCCL connects at the first message; both ends do this once."""
        data = torch.zeros(1, dtype=torch.uint8, device=device)
        self.join(self.put(data, 0) if sends else self.get(data, 0), 0)
        torch.cuda.synchronize(device)

    def fetch(self, num_bytes: int, awaited: str, sequence: int, timeout: timedelta | None = None) -> memoryview:
        """Receive so many bytes."""
        data = torch.empty(num_bytes, dtype=torch.uint8)
        self.wait(self.get(data, sequence), awaited, sequence, timeout)
        return data.numpy().data

    def greet(self) -> None:
        """Each end says which edge it takes this to be. Raises TransportError where they disagree."""
        said = [self.put(as_tensor(part), 0) for part in wire.encode_hello(self._edge)]
        prelude = self.fetch(wire.PRELUDE.size, "greeting", 0)
        header = self.fetch(wire.decode_prelude(prelude, self._edge, 0).header_bytes, "greeting", 0)
        wire.check_hello(prelude, header, self._edge)
        for work in said:
            self.wait(work, "greeting", 0)

    def cut(self) -> None:
        """Close the connection: whatever waits for it, at either end, fails at once."""
        with contextlib.suppress(RuntimeError):
            work = dist.irecv(torch.empty(1), group=self._group, group_src=self._rank, tag=CUT)
            _posted(work).wait(timedelta(milliseconds=1))

    def _lost(self, sequence: int) -> TransportError:
        return self._edge.lost(f"{self._peer} is gone", sequence)


def as_tensor(data: bytes) -> Tensor:
    """A copy of the bytes, uint8 [len(data)]."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _posted(work: dist.Work | None) -> dist.Work:
    assert work is not None, "this rank is not in the group"
    return work
