"""MNIST and its kin in the IDX files that torchvision keeps."""

from __future__ import annotations

import gzip
import string
import zlib
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from ffdist.data.images import check_labels
from ffdist.data.sources.base import DataSource, Item
from ffdist.errors import DataError

READ = 2**24
"""Bytes that are read at once."""
FILES = {"train": "train", "test": "t10k"}


class Idx(DataSource):
    """MNIST, or a data set in the same four files.

    folder: with train-images-idx3-ubyte and its three fellows, or these with .gz.

    files: what the names of each split's files begin with. first_label: the number of the first class in the files.
    turned: whether the files hold pictures with rows and columns exchanged.
    Raises DataError for other files.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        classes: list[str],
        files: Mapping[str, str] = FILES,
        *,
        first_label: int = 0,
        turned: bool = False,
    ) -> None:
        self.name = name
        self.folder = folder
        self.classes = classes
        self.files = files
        self.turned = turned
        self.labels: dict[str, np.ndarray] = {}
        for split, stem in files.items():
            labels = self.read(f"{stem}-labels-idx1-ubyte", 1).astype(np.int64) - first_label
            check_labels(labels, len(classes), f"{folder}, {split} labels")
            self.labels[split] = labels
        self.counts = {split: len(labels) for split, labels in self.labels.items()}
        self.notes = []
        if turned:
            self.notes = [f"{name}: pictures are turned upright; the files hold them with rows and columns exchanged"]

    def items(self) -> Iterator[Item]:
        for split, labels in self.labels.items():
            file = f"{self.files[split]}-images-idx3-ubyte"
            pictures = self.read(file, 3)
            if self.turned:
                pictures = pictures.transpose(0, 2, 1)
            if len(pictures) != len(labels):
                raise DataError(
                    "there is not a label for every picture",
                    where=self.folder / file,
                    expected=f"{len(labels)} pictures",
                    got=len(pictures),
                )
            for row, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
                yield Item(split, label, picture, f"{self.folder / file}, row {row}")

    def read(self, file: str, ndim: int) -> np.ndarray:
        """An IDX file of unsigned bytes: magic number 0x0000080N, N big-endian sizes, the bytes."""
        plain = self.folder / file
        packed = plain.with_name(f"{file}.gz")
        try:
            with plain.open("rb") if plain.exists() else gzip.open(packed) as stream:
                magic, *shape = np.frombuffer(stream.read(4 * (ndim + 1)), ">u4", ndim + 1).tolist()
                if magic != 0x800 + ndim:
                    raise ValueError(f"magic number {magic:#x}, not {0x800 + ndim:#x}")
                data = read_exactly(stream, shape, plain if plain.exists() else packed)
            return np.frombuffer(data, np.uint8).reshape(shape)
        except DataError:
            raise
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError("an IDX file cannot be read", where=plain, got=error, remedy="download it again") from error


def read_exactly(stream: IO[bytes] | gzip.GzipFile, shape: Sequence[int], where: Path) -> bytes:
    """The bytes after a header that tells of so many, a few MiB at a time: what it says may be false.

    Raises DataError for fewer, and for more."""
    wanted, parts, left = prod(shape), [], prod(shape)
    while left and (part := stream.read(min(left, READ))):
        parts.append(part)
        left -= len(part)
    if left or stream.read(1):
        row = (wanted - left) // max(1, prod(shape[1:]))
        raise DataError(
            "an IDX file does not hold what its header says",
            where=f"{where}, row {row}" if left else where,
            expected=f"{wanted:,} bytes, of {' x '.join(map(str, shape))}",
            got=f"{wanted - left:,} bytes" if left else "more",
            remedy="download it again",
        )
    return b"".join(parts)


MERGED = "cijklmopsuvwxyz"
"""Letters of which EMNIST's merged splits do not tell small from capital."""
ALL = [*string.digits, *string.ascii_uppercase, *string.ascii_lowercase]
EMNIST = {
    "byclass": ALL,
    "bymerge": [letter for letter in ALL if letter not in MERGED],
    "balanced": [letter for letter in ALL if letter not in MERGED],
    "letters": [*string.ascii_lowercase],
    "digits": [*string.digits],
    "mnist": [*string.digits],
}
"""The classes of each of its splits, in the order of the labels."""


def emnist(split: str, folder: Path) -> Idx:
    """One of EMNIST's splits. folder: with emnist-SPLIT-train-images-idx3-ubyte and its fellows, or these with .gz."""
    files = {part: f"emnist-{split}-{part}" for part in ("train", "test")}
    first = 1 if split == "letters" else 0
    return Idx(f"emnist-{split}", folder, EMNIST[split], files, first_label=first, turned=True)
