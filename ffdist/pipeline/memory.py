"""The memory of a stage's process, and how much of it the run has brought."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from ffdist.device import peak_bytes, queues

STATUS = Path("/proc/self/status")


class Memory:
    """Peaks from a stage's beginning on. base: bytes that the process held before; as now, where not said."""

    def __init__(self, device: torch.device, base: int | None = None) -> None:
        self.device = device
        self.base = resident_bytes() if base is None else base

    def peaks(self) -> dict[str, int]:
        """Bytes of the process with its libraries, and what came since the beginning; "peak_bytes" is that of the
        tensors on an accelerator, and the process's elsewhere. With the process's number: threads share theirs."""
        process = process_peak_bytes()
        run = max(0, process - self.base)
        peak = process
        if queues(self.device):
            run = peak = peak_bytes(self.device)
        return {"peak_bytes": peak, "run_bytes": run, "process_bytes": process, "process": os.getpid()}


def resident_bytes() -> int:
    """Resident bytes of this process, now; its peak so far where the system tells no more."""
    return _status("VmRSS") or process_peak_bytes()


def process_peak_bytes() -> int:
    """The most that this process has held. Linux's getrusage would begin with what the parent held at the fork."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or (peak if sys.platform == "darwin" else peak * 1024)


def _status(field: str) -> int | None:
    """A size in /proc/self/status; None where there is no such thing."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
