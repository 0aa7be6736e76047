"""CIFAR-10 and CIFAR-100 in the official Python files.

These are pickles, which could run any code. So the bytes are compared with the published md5 first, and then those very
bytes are read by an unpickler that knows NumPy arrays and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from ffdist.data.sources.base import DataSource, Item
from ffdist.errors import DataError

RECONSTRUCT = np.empty(0).__reduce__()[0]


def dtype(code: str, align: int, copy: int) -> np.dtype:
    """`numpy.dtype` as the files of 2009 call it, with numbers for truth values."""
    return np.dtype(code, bool(align), bool(copy))


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers, numbers, strings and arrays of plain numbers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return ALLOWED[module, name]


def read_pickle(path: Path, md5: str) -> dict[str, Any]:
    """The dictionary in an official file. Raises DataError when its bytes are not the published ones."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            "an official CIFAR file is missing", where=path, got=error, remedy="download it again"
        ) from error
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            "not the official CIFAR file, so it is not unpickled",
            where=path,
            expected=f"md5 {md5}",
            got=f"md5 {found}",
            remedy="download it again",
        )
    try:
        return ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError("a CIFAR file holds more than arrays", where=path, got=error) from error


class Cifar(DataSource):
    """CIFAR-10 or CIFAR-100.

    folder: cifar-10-batches-py or cifar-100-python; official: torchvision's class for it, which has the md5 sums.
    """

    def __init__(self, name: str, folder: Path, official: str) -> None:
        self.name, published = name, getattr(datasets, official)
        lists = {"train": published.train_list, "test": published.test_list}
        self.files = {
            split: [(folder / file, read_pickle(folder / file, md5)) for file, md5 in files]
            for split, files in lists.items()
        }
        self.counts = {split: sum(len(f["data"]) for _, f in files) for split, files in self.files.items()}
        meta = published.meta
        self.classes = list(read_pickle(folder / meta["filename"], meta["md5"])[meta["key"]])

    def items(self) -> Iterator[Item]:
        for split, files in self.files.items():
            for path, fields in files:
                pictures = fields["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                for row, (picture, label) in enumerate(zip(pictures, labels(fields), strict=True)):
                    yield Item(split, label, picture, f"{path}, row {row}")


def labels(fields: dict[str, Any]) -> list[int]:
    """The (fine) labels of a file."""
    return fields["fine_labels"] if "fine_labels" in fields else fields["labels"]
