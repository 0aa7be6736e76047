"""What a data set is prepared from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ffdist.data.decode import Encoded
from ffdist.data.sampler import split_indices


class Item(NamedTuple):
    """One sample, not decoded yet."""

    split: str
    """"train" or "test"."""
    label: int
    data: Encoded
    where: str
    """What names it in an error: a file, or a file and row."""


class Source(ABC):
    """Samples with labels, listed when it is opened and read when they are asked for."""

    name: str
    classes: list[str]
    counts: dict[str, int]
    """Samples of each split."""
    superclass: tuple[int, ...] | None = None

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Every sample once, always in the same order."""


class Shares:
    """Which training samples become the test split of a source that has none: the same share of each class.

    labels: int [N]; test_fraction: 0 keeps them all.
    """

    def __init__(self, labels: np.ndarray, test_fraction: float, seed: int) -> None:
        self.tested = np.zeros(len(labels), bool)
        if test_fraction:
            self.tested[split_indices(labels, validation=test_fraction, seed=seed)[1]] = True
        tested = int(self.tested.sum())
        self.counts = {"train": len(labels) - tested, **({"test": tested} if tested else {})}

    def split(self, row: int) -> str:
        """Of the sample in that row."""
        return "test" if self.tested[row] else "train"
