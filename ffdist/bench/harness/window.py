"""The timed window: batches in the middle of a stream that flows before it and behind it."""

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
"""A moment: seconds; of a GPU the end of what it had been given."""


class Window(NamedTuple):
    """One round of one side."""

    warmup: int
    """Batches before the window, at least one."""
    batches: int
    """Batches that are timed."""
    tail: int = 0
    """Batches behind the window: while the last stage ends the window, the first ones still work as ever."""

    @property
    def total(self) -> int:
        return self.warmup + self.batches + self.tail

    def seconds(self, arrivals: Sequence[Mark]) -> float:
        """From the arrival of the last batch before the window to that of its own last."""
        return between(arrivals[self.warmup - 1], arrivals[self.warmup + self.batches - 1])


class WindowRate(NamedTuple):
    """A side's rate in one window."""

    samples: int
    seconds: float
    details: dict[str, Any]
    """For a pipeline: where the stages' time went."""

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds


def timed(window: Window, steps: Callable[[int], object], samples: int) -> WindowRate:
    """A round on the clock. steps: takes so many, and waits until they are done. samples: of each."""
    steps(window.warmup)
    begun = time.perf_counter()
    steps(window.batches)
    return WindowRate(window.batches * samples, time.perf_counter() - begun, {})


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Until the device has done it."""
    synchronize(device)
    begun = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begun


def mark(device: torch.device) -> Mark:
    """Now; a GPU, whose host is ahead of it, is not waited for."""
    return recorded(device, timing=True) if queues(device) else time.perf_counter()


def between(first: Mark, last: Mark) -> float:
    """Seconds from one mark to a later one of the same device."""
    if isinstance(first, torch.Event):
        assert isinstance(last, torch.Event)
        return seconds_between(first, last)
    assert isinstance(last, float)
    return last - first


def endless(loader: Loader, every: int = 1) -> Generator[tuple[Tensor, Tensor]]:
    """The batches of epoch after epoch; every so many of each, where others make the rest."""
    for epoch in count():
        yield from loader.epoch(epoch, 0, every)
