"""STL-10's labelled pictures, in the official binary files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ffdist.data.images import check_labels
from ffdist.data.manifest import LeftOut
from ffdist.data.sources.base import DataSource, Item
from ffdist.errors import DataError

SIDE = 96
CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


class Stl10(DataSource):
    """STL-10. folder: stl10_binary, with train_X.bin and its three fellows. Raises DataError for other files."""

    name = "stl10"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.classes = CLASSES
        self.labels = {}
        for split in ("train", "test"):
            labels = self.read(f"{split}_y.bin", ()).astype(np.int64) - 1  # the files count from 1
            check_labels(labels, len(CLASSES), f"{folder}, {split} labels")
            self.labels[split] = labels
        self.counts = {split: len(labels) for split, labels in self.labels.items()}
        if (folder / "unlabeled_X.bin").exists():
            self.left_out = [LeftOut("unlabeled_X.bin", "pictures without labels")]

    def items(self) -> Iterator[Item]:
        for split, labels in self.labels.items():
            file = f"{split}_X.bin"
            pictures = self.read(file, (3, SIDE, SIDE))
            if len(pictures) != len(labels):
                raise DataError(
                    "there is not a label for every picture",
                    where=self.folder / file,
                    expected=f"{len(labels)} pictures",
                    got=len(pictures),
                )
            for row, (picture_cwh, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
                yield Item(split, label, picture_cwh.transpose(2, 1, 0), f"{self.folder / file}, row {row}")

    def read(self, file: str, shape: tuple[int, ...]) -> np.ndarray:
        """uint8 [N, *shape]: a file of whole samples, one after the other."""
        path = self.folder / file
        try:
            return np.fromfile(path, np.uint8).reshape(-1, *shape)
        except (OSError, ValueError) as error:
            raise DataError(
                "a file of STL-10 cannot be read", where=path, got=error, remedy="download it again"
            ) from error
