"""SVHN's cropped digits, in the official Matlab files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ffdist.data.images import check_labels
from ffdist.data.manifest import LeftOut
from ffdist.data.sources.base import DataSource, Item
from ffdist.errors import ConfigError, DataError

CLASSES = [str(digit) for digit in range(10)]


class Svhn(DataSource):
    """SVHN. folder: with train_32x32.mat and test_32x32.mat.

    Raises DataError for other files, ConfigError where the package that reads them is not installed.
    """

    name = "svhn"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.classes = CLASSES
        self.labels = {}
        for split in ("train", "test"):
            labels = read(self.path(split), "y").ravel().astype(np.int64)
            labels[labels == 10] = 0  # Matlab counts from 1, so the digit 0 is class 10
            check_labels(labels, len(CLASSES), f"{folder}, {split} labels")
            self.labels[split] = labels
        self.counts = {split: len(labels) for split, labels in self.labels.items()}
        if (folder / "extra_32x32.mat").exists():
            self.left_out = [LeftOut("extra_32x32.mat", "neither training nor test split")]

    def path(self, split: str) -> Path:
        return self.folder / f"{split}_32x32.mat"

    def items(self) -> Iterator[Item]:
        for split, labels in self.labels.items():
            path = self.path(split)
            pictures_hwcn = read(path, "X")
            if pictures_hwcn.dtype != np.uint8 or pictures_hwcn.shape != (32, 32, 3, len(labels)):
                raise DataError(
                    "a file of SVHN holds something else",
                    where=path,
                    expected=f"uint8 [32, 32, 3, {len(labels)}]",
                    got=f"{pictures_hwcn.dtype} {list(pictures_hwcn.shape)}",
                    remedy="download it again",
                )
            for row, label in enumerate(labels.tolist()):
                yield Item(split, label, pictures_hwcn[..., row], f"{path}, row {row}")


def read(path: Path, name: str) -> np.ndarray:
    """An array in a Matlab file."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ConfigError(
            "SVHN's files need a package to be read",
            where=path,
            expected="the package scipy",
            remedy="pip install 'ffdist[data]'",
        ) from error
    try:
        return loadmat(path, variable_names=[name])[name]
    except Exception as error:  # of a damaged file its reader may raise anything
        raise DataError(
            "a file of SVHN cannot be read",
            where=path,
            expected=f"a Matlab file with {name}",
            got=f"{type(error).__name__}: {error}",
            remedy="download it again",
        ) from error
