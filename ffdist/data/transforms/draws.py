"""Random numbers that are a function of seed, purpose, epoch and sample, for all samples of a batch at once.

A counter-based generator, Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): nothing
is drawn one after the other, so neither a sample's batch, nor who makes it, nor where a run began, plays a part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
WORDS = 4
"""Numbers that one counter gives."""


def philox(counter: Sequence[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Four words of 32 bits from four of a counter and two of a key, element by element; all as uint64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        one, other = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = (other >> HALF) ^ c1 ^ np.uint64(k0)
        c1 = other & LOW
        c2 = (one >> HALF) ^ c3 ^ np.uint64(k1)
        c3 = one & LOW
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


class RandomDraws:
    """Numbers for several purposes, each with so many a sample."""

    def __init__(self, seed: int, purposes: Sequence[tuple[str, int]]) -> None:
        """purposes: names, each different, and how many numbers they want."""
        self.key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
        blocks = [-(-numbers // WORDS) for _, numbers in purposes]
        self.ends = np.cumsum([count * WORDS for count in blocks]).tolist()
        self.numbers = [numbers for _, numbers in purposes]
        self.purpose = np.repeat(np.array([word_of(name) for name, _ in purposes], np.uint64), blocks)[:, None]
        self.block = np.array([b for count in blocks for b in range(count)], np.uint64)[:, None]

    def words(self, epoch: int, rows: np.ndarray) -> list[np.ndarray]:
        """Random words for each purpose, uint64 [B, numbers] below 2^32. rows: int [B], places in the split."""
        if not len(self.block):
            return [np.zeros((len(rows), 0), np.uint64) for _ in self.numbers]
        shape = (len(self.block), len(rows))
        counter = [
            np.broadcast_to(part, shape)
            for part in (rows.astype(np.uint64)[None] & LOW, self.purpose, np.uint64(epoch), self.block)
        ]
        drawn = np.stack(philox(counter, self.key), 1).reshape(-1, len(rows)).T
        starts = [0, *self.ends[:-1]]
        return [drawn[:, start : start + count] for start, count in zip(starts, self.numbers, strict=True)]

    def uniform(self, epoch: int, rows: np.ndarray) -> list[np.ndarray]:
        """Uniform numbers for each purpose, float64 [B, numbers] in [0, 1)."""
        return [words * 2.0**-32 for words in self.words(epoch, rows)]


def word_of(purpose: str) -> int:
    """32 bits that stand for a purpose's name in the counter."""
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=4).digest(), "little")


def whole(uniform: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """Whole numbers in 0..count-1 of such in [0, 1)."""
    return np.minimum((uniform * count).astype(np.int64), np.asarray(count) - 1)


def between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers in [low, high) from such in [0, 1)."""
    return low + uniform * (high - low)
