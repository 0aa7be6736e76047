"""A split whose items are read when they are taken: those of a data set that draws something at random, in each epoch
from seeds of (seed, epoch, item); and those that would not stay in memory."""

from __future__ import annotations

import hashlib
from copy import copy
from typing import NamedTuple

import numpy as np

from ffdist.data.images import Split, ValueSpread
from ffdist.data.items import Items
from ffdist.data.readers import Readers
from ffdist.data.row_digests import digest_of
from ffdist.seeds import derive_seed


class ItemsSplit(Split):
    """A split of some items of a data set. drawn: whether reading them draws, so that each read is seeded."""

    ready = False
    readers: Readers | None = None
    """Processes that read its items side by side; None: this one does."""

    def __init__(self, items: Items, rows: np.ndarray, labels: np.ndarray, facts: ItemFacts, *, drawn: bool) -> None:
        """rows: int [N], of the items; labels: int [N]; facts: of all items, as they were read first."""
        self.items = items
        self.rows = rows
        self.labels = labels.astype(np.int64)
        self.facts = facts
        self.dtype = facts.dtype
        self.random = drawn
        self.place = (items.reading.seed, 0)
        """The run's seed and the epoch, from which items are seeded."""

    def in_epoch(self, seed: int, epoch: int) -> ItemsSplit:
        made = copy(self)
        made.place = (seed, epoch)
        return made

    def read_by(self, workers: int) -> ItemsSplit:
        if workers < 2:
            return self
        made = copy(self)
        made.readers = self.items.readers(workers)
        return made

    def announce(self, indices: np.ndarray) -> None:
        if self.readers is not None:
            self.readers.start()

    def part(self, rows: np.ndarray) -> ItemsSplit:
        return ItemsSplit(self.items, self.rows[rows], self.labels[rows], self.facts, drawn=self.random)

    def labelled(self, labels: np.ndarray) -> ItemsSplit:
        """The split with other labels, int [N]."""
        return ItemsSplit(self.items, self.rows, labels, self.facts, drawn=self.random)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Raises DataError for an item that cannot be read any more, or is of another kind than it was at first."""
        rows = self.rows[indices].tolist()
        seeds = [derive_seed(*self.place, "item", row) for row in rows] if self.random else None
        if self.readers is None:
            return self.items.read(rows, seeds)
        return self.readers.read((rows, seeds), (self.dtype, (len(rows), *self.facts.shape)))

    def digest(self) -> str:
        content = hashlib.blake2b(f"{self.dtype} {self.facts.shape}".encode(), digest_size=16)
        content.update(self.facts.digests[self.rows].data)
        content.update(self.labels.data)
        return content.hexdigest()

    def spread(self) -> ValueSpread:
        return self.facts.spread(self.rows)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation of each channel, of pixels in [0, 1] or of floats; None for samples that have none."""
        return self.facts.moments(self.rows)


class ItemFacts(NamedTuple):
    """Facts on each item from the first reading, for digests and moments without reading them again."""

    shape: tuple[int, ...]
    dtype: np.dtype
    digests: np.ndarray
    """int64 [N]."""
    bounds: np.ndarray
    """float64 [2, N]: least and greatest number."""
    sums: np.ndarray
    """float64 [2, N, C]: of numbers, and of their squares, in each channel."""

    @classmethod
    def like(cls, sample: np.ndarray, count: int) -> ItemFacts:
        """Room for the facts on `count` samples like this one."""
        return cls(
            sample.shape,
            sample.dtype,
            np.zeros(count, np.int64),
            np.zeros((2, count)),
            np.zeros((2, count, by_channel(sample).shape[1])),
        )

    def add(self, row: int, x: np.ndarray) -> None:
        """Note the facts on the sample `x` of that row."""
        values = by_channel(x).astype(np.float64)
        self.digests[row] = digest_of(np.ascontiguousarray(x).data)
        self.bounds[:, row] = x.min(), x.max()
        self.sums[:, row] = values.sum(0), np.square(values).sum(0)

    @property
    def numbers(self) -> int:
        """Numbers in one sample."""
        return int(np.prod(self.shape))

    def spread(self, rows: np.ndarray) -> ValueSpread:
        """The spread of the numbers in these rows, int [M]."""
        low, high = self.bounds[:, rows]
        squares = self.sums[1, rows].sum() / (len(rows) * self.numbers)
        return ValueSpread(float(low.min()), float(high.max()), float(squares**0.5), float(high.min()))

    def moments(self, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) of each channel over these rows, int [M]; std 1 where nothing changes; None for vectors."""
        if len(self.shape) == 1:
            return None
        count = len(rows) * self.numbers / self.sums.shape[2]
        scale = 255 if self.dtype == np.uint8 else 1
        mean, squares = self.sums[:, rows].sum(1) / count
        std = np.sqrt(np.maximum(squares - mean**2, 0))
        std = np.where(std > 1e-6 * np.abs(mean), std / scale, 1.0)
        return tuple((mean / scale).tolist()), tuple(std.tolist())


def by_channel(x: np.ndarray) -> np.ndarray:
    """[numbers, C]: pictures [H, W, C] of whole numbers, floats [C, H, W]; all others have one channel."""
    if x.ndim != 3:
        return x.reshape(-1, 1)
    return x.reshape(-1, x.shape[2]) if x.dtype == np.uint8 else x.reshape(x.shape[0], -1).T
