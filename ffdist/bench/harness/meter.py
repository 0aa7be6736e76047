"""A side's memory: counted storage by storage on a CPU, by the allocator on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ffdist.device import allocated_bytes, forget_peak, free_cached, peak_bytes, queues, synchronize
from ffdist.pipeline.memory import process_peak_bytes, resident_bytes
from ffdist.pipeline.tensor_bytes import TensorBytes

if TYPE_CHECKING:
    from typing_extensions import Self


class MemoryUse(NamedTuple):
    """Bytes of one device (or process) at the moment when its tensors took the most."""

    peak: int
    weights: int
    gradients: int
    optimiser: int
    activations: int
    """All else: saved for backward, inputs, temporaries."""
    queue: int
    """Between devices: an edge's slots and received frames here, buffers of gradients in DDP."""
    resident: int
    """Peak resident memory of the process above what it had before it built anything; 0 on a GPU."""


class Meter:
    """Memory of this thread's work on `device`, between entering and `use`; `reset` forgets the building of it all."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counter = TensorBytes(device.type)
        self.idle = resident_bytes()

    def __enter__(self) -> Self:
        self.counter.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.counter.__exit__(*exception)

    def reset(self) -> None:
        """Forget the peak so far: counting begins at what is allocated now."""
        self.counter.reset()
        forget_peak(self.device)

    def use(self) -> MemoryUse:
        """The memory at the peak since the last `reset`."""
        counter = self.counter
        split = counter.split()
        if not queues(self.device):
            return MemoryUse(counter.peak, **split, resident=max(0, process_peak_bytes() - self.idle))
        peak = peak_bytes(self.device)
        rest = peak - sum(split.values()) + split["activations"]  # with the kernels' own needs
        return MemoryUse(peak, **(split | {"activations": rest}), resident=0)


def peak_of_steps(build: Callable[[], Callable[[], object]], device: torch.device, steps: int = 3) -> int:
    """Peak bytes of a GPU's tensors from building a learner to its last step; 0 without a GPU.

    A step of another such learner comes first: workspaces, which libraries then keep for good, are no side's own.
    """
    build()()
    recover(device)
    before = allocated_bytes(device)
    forget_peak(device)
    step = build()
    for _ in range(steps):
        step()
    synchronize(device)
    return peak_bytes(device) - before


def recover(device: torch.device) -> None:
    """Free unused memory, Python's and the allocator's cache. Raises torch's error where the device is lost."""
    gc.collect()
    synchronize(device)
    free_cached(device)
