"""Parquet, Arrow, Feather and CSV files with a column of pictures and a column of labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ffdist.data.arrays import is_picture
from ffdist.data.classes import encoded
from ffdist.data.columns import joined, samples
from ffdist.data.sources.base import Item, Shares, Source
from ffdist.data.sources.splits import TEST, TRAIN, Choice
from ffdist.data.sources.table_files import labels_in, read
from ffdist.data.sources.table_splits import find_files
from ffdist.errors import DataError


class Table(Source):
    """One such file, or a folder of them, whose names may say which split they are (`table_splits.find_files`).

    Pictures are encoded, or files that a column of paths names, from the table's folder. Labels are texts or whole
    numbers; those that occur become 0..K-1 in sorted order, unless metadata name K classes.
    Raises DataError for a file that cannot be read, a column that is not there, and what `columns` refuses.
    """

    def __init__(
        self, path: Path, *, image: str, label: str, choice: Choice, test_fraction: float | None, seed: int
    ) -> None:
        found = find_files(path, choice)
        self.name, self.image, self.files = path.resolve().stem, image, found.splits
        first = TRAIN if TRAIN in self.files else TEST
        labels = {
            split: joined([labels_in(file, label) for file in files], str(files[0]) if len(files) == 1 else str(path))
            for split, files in self.files.items()
        }
        self.classes, self.labels = encoded(labels, None, renumber=True)
        self.counts = {split: len(labels) for split, labels in self.labels.items()}
        self.shares = Shares.of(self.counts, self.labels[first], test_fraction, seed)
        self.counts = self.shares.counts
        self.held_out = self.shares.held_out
        self.left_out = found.listing.left_out
        self.notes = [*found.notes, *self.shares.notes]

    def items(self) -> Iterator[Item]:
        for split, files in self.files.items():
            labels = enumerate(self.labels[split].tolist())
            for file in files:
                first = 0
                for column in read(file, self.image):
                    for place, data in enumerate(samples(column, file, first, file.parent)):
                        row, label = next(labels)
                        share = self.shares.split(row) if split == "train" else split
                        where = f"{file}, row {first + place}"
                        refuse_arrays(data, where)
                        yield Item(share, label, data, where)
                    first += len(column)


def refuse_arrays(data: Any, where: str) -> None:
    """Raises DataError for numbers that are no picture."""
    if isinstance(data, np.ndarray) and not is_picture(data):
        raise DataError(
            f"{data.dtype} {list(data.shape)} is not a picture, and the command line takes pictures alone",
            where=where,
            expected="encoded pictures, paths, or whole numbers 0..255 as [H][W] or [H][W][3]",
            got=f"{data.dtype} {list(data.shape)}",
            remedy="train on arrays from Python: Pipeline.fit(pyarrow.parquet.read_table(FILE)), or "
            "ffdist.from_arrow(table, image=..., label=..., normalize=True)",
        )
