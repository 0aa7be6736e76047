"""The timed window: batches in the middle of a stream that flows before it and after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ffdist.device import queues, recorded, seconds_between, synchronize

if TYPE_CHECKING:
    from ffdist.data import Loader  # which needs more than torch

Mark = float | torch.Event
"""A moment: seconds by `perf_counter`, or an event at the end of a GPU's queue."""


class Window(NamedTuple):
    """One round of one side."""

    warmup: int
    """Batches before the window, at least one."""
    batches: int
    """Batches that are timed."""
    tail: int = 0
    """Batches after the window: while the last stage ends the window, the first ones still work as ever."""

    @property
    def total(self) -> int:
        """Batches of the whole round, warm-up and tail included."""
        return self.warmup + self.batches + self.tail

    def seconds(self, arrivals: Sequence[Mark]) -> float:
        """Seconds from the arrival of the last batch before the window to the arrival of its own last one."""
        return between(arrivals[self.warmup - 1], arrivals[self.warmup + self.batches - 1])


class WindowRate(NamedTuple):
    """A side's rate in one window."""

    samples: int
    seconds: float
    details: dict[str, Any]
    """Each stage's seconds of computing and waiting, by the names of the run log, for a pipeline."""

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds


def timed(window: Window, steps: Callable[[int], object], samples: int) -> WindowRate:
    """Time one window of steps in this process.

    steps: takes so many steps, and waits until the device has done them. samples: in each step.
    """
    steps(window.warmup)
    begun = time.perf_counter()
    steps(window.batches)
    return WindowRate(window.batches * samples, time.perf_counter() - begun, {})


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of `work`, until the device has done it."""
    synchronize(device)
    begun = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begun


def mark(device: torch.device) -> Mark:
    """The moment now; on a GPU an event in its queue, which is not waited for."""
    return recorded(device, timing=True) if queues(device) else time.perf_counter()


def between(first: Mark, last: Mark) -> float:
    """Seconds from one mark to a later one of the same device."""
    if isinstance(first, torch.Event):
        assert isinstance(last, torch.Event)
        return seconds_between(first, last)
    assert isinstance(last, float)
    return last - first


def endless(loader: Loader, every: int = 1) -> Generator[tuple[Tensor, Tensor]]:
    """The batches of epoch after epoch without end; every `every`-th, where other ranks make the rest."""
    for epoch in count():
        yield from loader.epoch(epoch, 0, every)
