"""How a stage's process gets memory from the system: once, not again for every batch."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""glibc's names and numbers, <malloc.h>."""


def keep_freed_memory() -> bool:
    """Let the C library keep what torch frees, for the next batch; True where it can be told so (glibc on Linux).

    By default glibc maps every tensor over 32 MiB anew and gives freed memory back, so that each batch pays for fresh,
    zeroed pages: two to four times the cost of an element-wise operation on such a tensor. A process then holds its
    peak, as it does with CUDA's caching allocator.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
