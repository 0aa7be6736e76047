"""A `pyarrow.Table` as a data set in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ffdist.data.columns import label_codes, label_values, labels_of, names_in, samples
from ffdist.data.decode import decode
from ffdist.data.images import ArraySplit, Images
from ffdist.data.memory import assembled, stacked
from ffdist.errors import DataError


def from_arrow(
    table: pa.Table,
    *,
    image: str = "image",
    label: str = "label",
    test: pa.Table | None = None,
    classes: Sequence[str] | None = None,
    name: str = "table",
) -> Images:
    """A table with a column of samples and a column of labels.

    image: encoded pictures; arrays [H, W] or [H, W, C] of whole numbers in 0..255; or floats of any shape, left as they
        are. label: whole numbers or strings; those that occur become 0..K-1 in sorted order.
    classes: K names, for whole numbers in 0..K-1. Raises DataError for anything else, naming the row.
    """
    tables = {"train": table} if test is None else {"train": table, "test": test}
    where = {split: f"data set {name}, {split}" for split in tables}
    labels = {split: labels_of(column(of, label, where[split]), where[split]) for split, of in tables.items()}
    names = classes or names_in(table.schema, label)
    values = label_values([labels["train"]], names)
    codes = {split: label_codes(labels[split], values, where[split]) for split in tables}
    splits = {
        split: ArraySplit(stacked(pictures(of, image, where[split]), len(of), where[split]), codes[split])
        for split, of in tables.items()
    }
    return assembled(name, splits["train"], splits.get("test"), names or [str(value) for value in values])


def column(table: pa.Table, name: str, where: str) -> list[pa.Array]:
    """A column's chunks."""
    if name not in table.column_names:
        raise DataError("a table lacks a column", where=where, expected=name, got=", ".join(table.column_names))
    return table[name].chunks


def pictures(table: pa.Table, image: str, where: str) -> Iterator[np.ndarray]:
    """uint8 [H, W, C], or float32 of any shape."""
    row = 0
    for chunk in column(table, image, where):
        for data in samples(chunk, where, row):
            if isinstance(data, np.ndarray) and np.issubdtype(data.dtype, np.floating):
                yield data.astype(np.float32)
            else:
                yield decode(data, f"{where}, row {row}")
            row += 1
