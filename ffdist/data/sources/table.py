"""Parquet, Arrow and Feather files with a column of pictures and a column of labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ffdist.data.columns import class_names, label_codes, named_classes, samples
from ffdist.data.sources.base import Item, Shares, Source
from ffdist.errors import DataError

SUFFIXES = (".parquet", ".arrow", ".feather")
ROWS = 64
"""Read at once; what bounds the memory."""


class Table(Source):
    """One such file, or a folder of them: train* and test* (or val*) are the splits, otherwise all are one.

    Labels are strings or whole numbers; those that occur become 0..K-1 in sorted order, unless metadata name K classes.
    Raises DataError for a file that cannot be read, a column that is not there, and what `columns` refuses.
    """

    def __init__(self, path: Path, *, image: str, label: str, test_fraction: float, seed: int) -> None:
        self.name, self.image = path.stem, image
        self.files = {split: [TableFile(file) for file in files] for split, files in splits(path).items()}
        columns = {split: [file.column(label) for file in files] for split, files in self.files.items()}
        named = named_classes(self.files["train"][0].schema, label)
        values = class_names(pa.chunked_array([c for of in columns["train"] for c in of.chunks]), named, path)
        self.classes = named or [str(value) for value in values]
        self.labels = {
            split: [label_codes(column, values, file.path) for file, column in zip(files, columns[split], strict=True)]
            for split, files in self.files.items()
        }
