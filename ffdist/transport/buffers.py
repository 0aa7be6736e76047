"""Host memory for received tensors, used again once nobody holds the tensor in it."""

from __future__ import annotations

import weakref
from collections import deque

import torch
from torch import Tensor

SMALLEST = 1 << 16
"""Bytes below which a new allocation is as quick."""


class BufferPool:
    """Keeps the last `keep` large buffers that were let go, because fresh memory costs a page fault every 4 KiB.

    A buffer comes back by itself when the last tensor over it is gone, whoever held it (a view, an autograd graph).
    It serves any size from half its own, so that small tensors never pin large buffers.
    """

    def __init__(self, keep: int) -> None:
        self._free: deque[Tensor] = deque(maxlen=keep)

    def take(self, nbytes: int) -> Tensor:
        """Uninitialised uint8 [nbytes], 64-byte aligned, alone in its storage."""
        if nbytes < SMALLEST:
            return torch.empty(nbytes, dtype=torch.uint8)
        buffer = self._reuse(nbytes)
        lease = buffer.numpy()[:nbytes]  # an object of its own, that the new tensor's storage holds alive
        # at exit nobody takes a buffer again
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return torch.from_numpy(lease)

    def _reuse(self, nbytes: int) -> Tensor:
        for _ in range(len(self._free)):
            buffer = self._free.popleft()
            if nbytes <= buffer.numel() <= 2 * nbytes:
                return buffer
            self._free.append(buffer)
        return torch.empty(nbytes, dtype=torch.uint8)
