"""The order of samples: pure functions of a seed and a place in the training."""

from __future__ import annotations

from threading import local
from typing import Any

import numpy as np

from ffdist.errors import ConfigError, DataError, setting

PURPOSES = ("split", "order", "augment", "mirrored", "deal")


def generator(seed: int, purpose: str, epoch: int = 0, batch: int = 0) -> np.random.Generator:
    """The draws for one purpose at one place: counter-based (Philox), so that no draw depends on any before it."""
    key = np.array([seed % 2**64, PURPOSES.index(purpose)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, batch, epoch], np.uint64)))


class ReseededGenerator(local):
    """`generator` without making one anew: for small batches that is most of the work. Each thread has its own, which
    goes on from the next place when it is asked for."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(0)
        self.draws = np.random.Generator(self.bits)
        self.state: Any = {**self.bits.state, "buffer_pos": 4, "has_uint32": 0}

    def at(self, seed: int, purpose: str, epoch: int = 0, batch: int = 0) -> np.random.Generator:
        state: Any = {
            "counter": np.array([0, 0, batch, epoch], np.uint64),
            "key": np.array([seed % 2**64, PURPOSES.index(purpose)], np.uint64),
        }
        self.bits.state = self.state | {"state": state}
        return self.draws


restarted = ReseededGenerator()


def shuffled(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch, from (seed, epoch) alone."""
    return generator(seed, "order", epoch).permutation(indices)


def shuffled_by_shard(indices: np.ndarray, shards: np.ndarray, seed: int, epoch: int, *, window: int) -> np.ndarray:
    """The order of an epoch of what is read a few shards at a time, from (seed, epoch) alone: shards in a drawn order,
    and the samples of each `window` of them in a row mixed.

    indices: int [N]; shards: int [N], the shard of each.
    """
    draws = generator(seed, "order", epoch)
    place = np.argsort(draws.permutation(int(shards.max(initial=-1)) + 1))  # of each shard
    return indices[np.lexsort((draws.permutation(len(indices)), place[shards] // window))]


def split_indices(
    labels: np.ndarray, *, validation: float, samples: int | None = None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices, sorted, stratified by class, deterministic in `seed`.

    labels: int [N]. samples: how many to pick first, stratified; None for all. validation: the share of those that
    is held out, in [0, 1). Both shares are exact to a sample; a class may be off its own share by one.
    Raises ConfigError for a share outside [0, 1), DataError for more samples than there are.
    """
    if not 0 <= validation < 1:
        raise ConfigError("the validation share is a fraction", expected="0 <= validation < 1", got=validation)
    picked = len(labels) if samples is None else samples
    if not 0 < picked <= len(labels):
        raise DataError(
            "the data set has not that many training samples",
            where=setting("dataset.samples"),
            expected=f"1 to {len(labels)}",
            got=picked,
        )
    draws = generator(seed, "split")
    members = [draws.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    sizes = quotas([len(m) for m in members], picked)
    held = quotas(sizes, round(picked * validation))
    train = [m[: size - out] for m, size, out in zip(members, sizes, held, strict=True)]
    out = [m[size - out : size] for m, size, out in zip(members, sizes, held, strict=True)]
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(out))


def quotas(sizes: list[int], total: int) -> list[int]:
    """`total` divided in proportion to `sizes` into whole numbers that sum to it (largest remainders, first wins)."""
    exact = np.array(sizes) * total
    share, remainder = np.divmod(exact, sum(sizes))
    share[np.argsort(-remainder, kind="stable")[: total - share.sum()]] += 1
    return share.tolist()
