"""How much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container's limit is told, by the version of control groups; "max", or far too much, where there is none."""


def memory(device: str = "cpu") -> int:
    """Bytes that this process may use at most, of this machine or its container; or of its largest GPU, where `device`
    ("auto", "cuda") allows one and that is more."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in LIMITS:
        try:
            most = min(most, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    if device != "cpu" and torch.cuda.is_available():
        gpus = range(torch.cuda.device_count())
        most = max([most, *(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus)])
    return most
