"""Shared memory for the frames of one edge."""

from __future__ import annotations

import mmap
import os

import torch
from torch import Tensor

from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame
from ffdist.transport.buffers import BufferPool


class Slots:
    """A memory file in `depth` equal parts, mapped; a frame is its header, then its payload, 64-byte aligned."""

    def __init__(self, descriptor: int, depth: int, slot_bytes: int | None = None) -> None:
        """Map the file; a new one is first given room for `slot_bytes` a slot. The descriptor may be closed then."""
        if slot_bytes is not None:
            os.truncate(descriptor, depth * -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._map = mmap.mmap(descriptor, 0)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._depth = depth
        self.slot_bytes = len(self._map) // depth

    def write(self, sequence: int, header: bytes, tensors: list[Tensor]) -> None:
        start = sequence % self._depth * self.slot_bytes
        self._map[start : start + len(header)] = header
        start += wire.aligned(len(header))
        for tensor in tensors:
            self._bytes.narrow(0, start, tensor.nbytes).copy_(wire.as_bytes(tensor))
            start += wire.aligned(tensor.nbytes)

    def read(self, prelude: wire.Prelude, edge: Edge, pool: BufferPool) -> Frame:
        """The frame, in memory of the pool's."""
        start = prelude.sequence % self._depth * self.slot_bytes
        header = wire.decode_header(self._map[start : start + prelude.header_bytes], prelude, edge)
        start += wire.aligned(prelude.header_bytes)
        tensors = []
        for spec in header.tensors:
            own = pool.take(spec.nbytes).copy_(self._bytes.narrow(0, start, spec.nbytes))
            tensors.append(wire.from_bytes(own, spec))
            start += wire.aligned(spec.nbytes)
        return header.frame(tensors)
