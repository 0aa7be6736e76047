"""MNIST and Fashion-MNIST in the IDX files that torchvision keeps."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ffdist.data.images import check_labels
from ffdist.data.sources.base import Item, Source
from ffdist.errors import DataError

FILES = {"train": "train", "test": "t10k"}


class Idx(Source):
    """folder: with train-images-idx3-ubyte and its three fellows, or these with .gz. Raises DataError otherwise."""

    def __init__(self, name: str, folder: Path, classes: list[str]) -> None:
        self.name, self.folder, self.classes = name, folder, classes
        self.labels = {split: self.read(f"{stem}-labels-idx1-ubyte", 1) for split, stem in FILES.items()}
        self.counts = {split: len(labels) for split, labels in self.labels.items()}
        for split, labels in self.labels.items():
            check_labels(labels.astype(np.int64), len(classes), f"{folder}, {split} labels")

    def items(self) -> Iterator[Item]:
        for split, labels in self.labels.items():
            file = f"{FILES[split]}-images-idx3-ubyte"
            pictures = self.read(file, 3)
            if len(pictures) != len(labels):
                raise DataError("there is not a label for every picture", where=self.folder / file,
                                expected=f"{len(labels)} pictures", got=len(pictures))  # fmt: skip
            for row, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
                yield Item(split, label, picture, f"{self.folder / file}, row {row}")

    def read(self, file: str, ndim: int) -> np.ndarray:
        """An IDX file of unsigned bytes: magic number 0x0000080N, N big-endian sizes, the bytes."""
        plain, packed = self.folder / file, self.folder / f"{file}.gz"
        try:
            data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
            magic, *shape = np.frombuffer(data, ">i4", ndim + 1).tolist()
            if magic != 0x800 + ndim:
                raise ValueError(f"magic number {magic:#x}, not {0x800 + ndim:#x}")
            return np.frombuffer(data, np.uint8, offset=4 * (ndim + 1)).reshape(shape)
        except (OSError, EOFError, ValueError) as error:
            raise DataError("an IDX file cannot be read", where=plain, got=error,
                            remedy="download it again") from error  # fmt: skip
