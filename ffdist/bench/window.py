"""What is timed: a window of batches in the middle of a stream that flows before it and behind it."""

from __future__ import annotations

from collections.abc import Generator
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor

from ffdist.data import Loader


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

    def seconds(self, arrivals: list[float]) -> float:
        """From the arrival of the last batch before the window to that of its own last."""
        return arrivals[self.warmup + self.batches - 1] - arrivals[self.warmup - 1]


class Lap(NamedTuple):
    """What a side did in one window."""

    samples: int
    seconds: float
    details: dict[str, Any]
    """For a pipeline: where the stages' time went."""

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds


def endless(loader: Loader) -> Generator[tuple[Tensor, Tensor]]:
    """The batches of epoch after epoch."""
    for epoch in count():
        yield from loader.epoch(epoch)
