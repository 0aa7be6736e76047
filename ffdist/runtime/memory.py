"""The memory of this machine and of its devices."""

from __future__ import annotations

import os
from pathlib import Path

from ffdist import device

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where to read a container's limit, by the version of control groups; "max", or far too much, where there is none."""


def memory(wanted: str = "cpu") -> int:
    """Bytes that this process may use at most, of this machine or its container; or of its largest GPU, where `wanted`
    ("auto", "cuda") allows one and that is more."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in LIMITS:
        try:
            limit = min(limit, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    if wanted != "cpu":
        limit = max([limit, *(device.total_bytes(each) for each in device.all_seen())])
    return limit
