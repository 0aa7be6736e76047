"""A data set: its labelled splits, their classes, and how to normalise their pixels."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ffdist.data.decode import Decoding
from ffdist.errors import DataError


class Split(ABC):
    """Labelled samples that are taken by index, a batch at a time; loader threads may do so at once."""

    labels: np.ndarray
    """int64 [N], each in 0..K-1."""
    dtype: np.dtype = np.dtype(np.uint8)
    """The type of the samples that `take` gives: uint8 for pictures, float32 for a user's own tensors."""

    window: int = 0
    """Default number of shards whose samples are mixed at a time; 0: all are mixed."""
    ready: bool = True
    """Whether samples are there as they are, and need neither be decoded nor fetched nor made."""
    fits: bool = True
    """Whether all of it can be mixed: each sample is read alone, or all shards stay in memory."""

    def __len__(self) -> int:
        return len(self.labels)

    def shard_of(self, indices: np.ndarray) -> np.ndarray | None:
        """int [B]: the file that each sample is read from; None for what is in memory."""
        return None

    def at(self, size: tuple[int, int]) -> Split:
        """The same, whose pictures are decoded straight to (height, width), where they are decoded when they are taken;
        others stay, and are resized by who takes them."""
        return self

    def in_epoch(self, seed: int, epoch: int) -> Split:
        """The same as it is read in an epoch of a run by this seed, where reading it draws something at random."""
        return self

    def read_by(self, workers: int) -> Split:
        """The same, read by so many processes where threads would have to take turns."""
        return self

    def announce(self, indices: np.ndarray) -> None:
        """Announce the rows that will be taken soon, for a split that fetches them from afar; here they are already."""
        return

    def part(self, rows: np.ndarray) -> Split:
        """The split of some of the samples. rows: int [M], their places, in the new order."""
        return ArraySplit(self.take(rows), self.labels[rows])

    def spread(self) -> ValueSpread:
        """The range and size of the split's numbers, which are read once for it."""
        return ValueSpread.of(self)

    @property
    def one_size(self) -> bool:
        """True if all that `pictures` gives is of the size that `take` gives."""
        return True

    @abstractmethod
    def take(self, indices: np.ndarray) -> np.ndarray:
        """Pictures as uint8 [B, H, W, C], or a user's own tensors as float32 [B, *shape]; a copy."""

    def pictures(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Each picture in its own size, uint8 [H, W, C], or float32: what is kept encoded is decoded when its turn
        comes."""
        yield from self.take(indices)

    @abstractmethod
    def digest(self) -> str:
        """A digest of samples and labels in their order: two splits that teach the same have the same."""


class ArraySplit(Split):
    """A split in memory: samples uint8 [N, H, W, C] or float32 [N, *shape], labels of any integer type [N]."""

    def __init__(self, samples: np.ndarray, labels: np.ndarray) -> None:
        self.samples = samples
        self.labels = labels.astype(np.int64)
        self.dtype = samples.dtype

    def take(self, indices: np.ndarray) -> np.ndarray:
        return np.take(self.samples, indices, axis=0)

    def digest(self) -> str:
        content = hashlib.blake2b(f"{self.samples.dtype} {self.samples.shape}".encode(), digest_size=16)
        content.update(np.ascontiguousarray(self.samples).data)
        content.update(self.labels.data)
        return content.hexdigest()


class ValueSpread(NamedTuple):
    """The range and size of the numbers in a split of floats."""

    low: float
    high: float
    size: float
    """Root mean square."""
    peak: float = 0.0
    """The least of the samples' greatest values: none of them stays below it."""

    @classmethod
    def of(cls, split: Split, rows: int = 1024) -> ValueSpread:
        """The spread of a split's numbers, read `rows` samples at a time."""
        low, high, peak, squares, count = np.inf, -np.inf, np.inf, 0.0, 0
        for start in range(0, len(split), rows):
            x = split.take(np.arange(start, min(start + rows, len(split))))
            low, high = min(low, float(x.min())), max(high, float(x.max()))
            peak = min(peak, float(x.reshape(len(x), -1).max(1).min()))
            squares += float(np.square(x, dtype=np.float64).sum())
            count += x.size
        return cls(low, high, (squares / count) ** 0.5, peak)


class PreparedAs(NamedTuple):
    """The prepared form of a source, made on the way to a run."""

    folder: Path | None
    """In the cache; None for numbers, which are read as they are."""
    args: tuple[str, ...] = ()
    """The settings of its preparation that differ from their defaults, as `name=value`."""
    root: Path | None = None
    """Where a known data set was looked for, as torchvision keeps it; None: in the cache."""


@dataclass(frozen=True, repr=False)
class Images:
    """A data set: its splits, classes, and the shape and scale in which a network gets its samples."""

    name: str
    train: Split
    test: Split | None
    classes: list[str]
    """K names."""
    shape: tuple[int, ...]
    """The shape of one sample as the network gets it: (C, H, W) for pictures, (N,) for vectors."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel, of pixels in [0, 1]; of a user's floats, 0 and 1 where they are left as they are."""
    std: tuple[float, ...] = (1.0,)
    validation: Split | None = None
    """The user's own validation split; None: a share of the training split is held out."""
    decoding: Decoding | None = None
    """How its pictures were read, so that others are read alike; None for a user's floats."""
    preprocess: tuple[str, ...] = ()
    """Transforms that give every picture its size, also in evaluation; empty: it is scaled to `shape`."""
    in_memory: bool = False
    """Whether its pictures were given as pixels, and not as files: they may have been changed before."""
    source: str | None = None
    """The name or path by which `open_data` opens it again; None for data in memory, or changed after opening."""
    prepared: PreparedAs | None = None
    """How it was prepared on the way, where `source` is no prepared folder itself."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(split):,}" for name, split in self.splits.items())
        return f"<Images {self.name!r}: {counts}; samples {self.shape}, {self.num_classes} classes>"

    @property
    def num_classes(self) -> int:
        """K, the number of classes: labels are 0..K-1."""
        return len(self.classes)

    @property
    def pixels(self) -> bool:
        """True if samples are pictures in whole numbers, divided by 255 before they are normalised."""
        return self.train.dtype == np.uint8

    @property
    def normalised(self) -> bool:
        """True if samples are scaled by `mean` and `std`; a user's floats may be left as they are."""
        return self.pixels or any(self.mean) or set(self.std) != {1.0}

    def at(self, size: tuple[int, int]) -> Images:
        """The same with pictures of (height, width)."""
        splits = {name: split.at(size) for name, split in self.splits.items()}
        straight = any(split is not getattr(self, name) for name, split in splits.items())
        decoding = replace(self.decoding, size=size) if self.decoding and straight else self.decoding
        return replace(self, shape=(self.shape[0], *size), decoding=decoding, **splits)

    @cached_property
    def spread(self) -> ValueSpread | None:
        """The spread of a user's floats in the training split; None for pictures, and where there is none."""
        return None if self.pixels or not len(self.train) else self.train.spread()

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that it has, by name: "train", "validation", "test"."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    @cached_property
    def split_digests(self) -> dict[str, str]:
        """The digest of each split there is, by name."""
        return {name: split.digest() for name, split in self.splits.items()}

    @cached_property
    def digest(self) -> str:
        """A digest of all that decides what is learned from the data, wherever they lie: samples, labels, names,
        moments."""
        content = {
            "classes": self.classes,
            "shape": list(self.shape),
            "mean": list(self.mean),
            "std": list(self.std),
            **self.split_digests,
        }
        return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def check_labels(labels: np.ndarray, num_classes: int, where: object) -> None:
    """Raises DataError naming the first row whose label is not in 0..K-1."""
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise DataError(
            "a label is out of range",
            where=f"{where}, row {bad[0]}",
            expected=f"0..{num_classes - 1}",
            got=int(labels[bad[0]]),
            remedy="number the classes from 0, or name every class",
        )


class Moments:
    """Mean and standard deviation per channel from counts of the 256 levels: exact, whatever the order and number."""

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 256), np.int64)

    def add(self, pictures: np.ndarray) -> Moments:
        """Count the pixels of pictures, uint8 [N, H, W, C]."""
        for counts, channel in zip(self.counts, np.moveaxis(pictures, -1, 0), strict=True):
            counts += np.bincount(channel.ravel(), minlength=256)
        return self

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) of pixels in [0, 1]; a channel that never changes has std 1, so that it can be divided by."""
        levels = np.arange(256) / 255
        share = self.counts / self.counts.sum(1, keepdims=True).clip(1)
        mean = share @ levels
        std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
        return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def moments(pictures: np.ndarray, chunk: int = 1024) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of uint8 [N, H, W, C], in [0, 1]."""
    seen = Moments(pictures.shape[-1])
    for start in range(0, len(pictures), chunk):
        seen.add(pictures[start : start + chunk])
    return seen.result()
