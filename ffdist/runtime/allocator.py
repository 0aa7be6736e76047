"""The memory of a stage's process, taken from the system once, not again for every batch."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""glibc's names and numbers, <malloc.h>."""


def keep_freed_memory() -> bool:
    """Let the C library keep what torch frees, for the next batch; True where it can (glibc on Linux).

    By default glibc maps every tensor over 32 MiB anew and gives freed memory back, so that each batch pays for fresh,
    zeroed pages: two to four times the cost of an element-wise operation on such a tensor. A process then holds its
    peak, as it does with CUDA's caching allocator.
    """
    return set_malloc_options({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20})


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """A context with `keep_freed_memory`, and glibc's defaults after it: what is measured is measured as a worker will
    do it, and a process of a user's has its memory back."""
    kept = keep_freed_memory()
    try:
        yield
    finally:
        if kept:
            set_malloc_options({M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 128 * 2**10, M_TOP_PAD: 128 * 2**10})
            ctypes.CDLL(None).malloc_trim(0)


def set_malloc_options(settings: Mapping[int, int]) -> bool:
    """Sets options of the C library's malloc; True if it has taken all of them."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
