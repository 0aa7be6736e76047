"""Shared memory for the frames of one edge."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import weakref
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame
from ffdist.transport.buffers import SMALLEST, BufferPool

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL if sys.platform == "linux" else 0
"""The seals of a memory file: its size stays, and nobody lifts this."""


class Lease:
    """Tensors over one slot's memory that are in use; `free` is called when the last of them is gone, whoever held it
    (a view, an autograd graph)."""

    def __init__(self, free: Callable[[], None]) -> None:
        self.count = 0
        self._free = free

    def lend(self, memory: np.ndarray) -> Tensor:
        """memory: uint8 [nbytes], an object of its own, that the tensor's storage holds alive."""
        self.count += 1
        # at exit the edge may be closed already, and a slot that comes free then is of no use to anybody
        weakref.finalize(memory, self._drop).atexit = False
        return torch.from_numpy(memory)

    def _drop(self) -> None:
        self.count -= 1
        if not self.count:
            self._free()


class Slots:
    """A memory file in `count` equal parts, mapped; a frame is its header, then its payload, 64-byte aligned."""

    def __init__(self, descriptor: int, count: int, slot_bytes: int | None = None) -> None:
        """Map the file; a new one is first given room for `slot_bytes` a slot, for good. The descriptor may be closed
        then. Raises OSError for no memory file, ValueError for one that its other holder could shrink: reading beyond
        its end would be this process's."""
        if slot_bytes is not None:
            os.truncate(descriptor, count * -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)
            # sealed before the other process has it: a file that shrinks under a map is a SIGBUS for both
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise ValueError("its size is not sealed")
        self._map = mmap.mmap(descriptor, 0)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self.slot_bytes = len(self._map) // count

    def write(self, slot: int, header: bytes, tensors: list[Tensor]) -> None:
        """Copy a frame into a slot that is large enough for it (`slot_bytes`); tensors: dense, on any device."""
        start = slot * self.slot_bytes
        self._map[start : start + len(header)] = header
        start += wire.aligned(len(header))
        for tensor in tensors:
            self._bytes.narrow(0, start, tensor.nbytes).copy_(wire.as_bytes(tensor))
            start += wire.aligned(tensor.nbytes)

    def read(self, slot: int, prelude: wire.Prelude, edge: Edge, pool: BufferPool, lease: Lease | None) -> Frame:
        """The frame; its large tensors lent where there is a lease, all else in memory of the pool's. Raises
        TransportError for one that the slot could not hold, or that cannot be read."""
        if wire.aligned(prelude.header_bytes) + prelude.payload_bytes > self.slot_bytes:
            raise wire.unreadable_error(edge, prelude.sequence, f"a frame within {self.slot_bytes} bytes", prelude)
        start = slot * self.slot_bytes
        header = wire.decode_header(self._map[start : start + prelude.header_bytes], prelude, edge)
        start += wire.aligned(prelude.header_bytes)
        tensors = []
        for spec in header.tensors:
            if lease and spec.nbytes >= SMALLEST:
                memory = lease.lend(np.frombuffer(self._map, np.uint8, spec.nbytes, start))
            else:
                memory = pool.take(spec.nbytes).copy_(self._bytes.narrow(0, start, spec.nbytes))
            tensors.append(wire.from_bytes(memory, spec))
            start += wire.aligned(spec.nbytes)
        return header.frame(tensors)
