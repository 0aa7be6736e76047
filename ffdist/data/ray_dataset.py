"""A `ray.data.Dataset` as a data set in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ffdist.data.images import Images
from ffdist.data.items import sample
from ffdist.data.labelled import Labelled
from ffdist.data.labels import labels_of
from ffdist.data.memory import assembled, stacked
from ffdist.data.reading import USUAL
from ffdist.errors import DataError

ROWS = 1024
"""Rows that are fetched at once."""


def from_ray(
    dataset: Any,
    *,
    test: Any = None,
    validation: Any = None,
    image: str = "image",
    label: str = "label",
    classes: Sequence[str] | None = None,
    name: str = "ray",
) -> Images:
    """A data set of two columns of `ray.data.Dataset`s, read once, now, in the order of their rows.

    image: uint8 [H, W] or [H, W, C], or floating point of any one shape; label: whole numbers or names.
    classes: K names; default: the names that occur, or the numbers up to the largest label.
    Raises DataError for columns that are missing or not so.
    """
    given = {"train": dataset, "test": test, "validation": validation}
    splits = {
        split: labelled_rows(of, image, label, f"data set {name}, {split}")
        for split, of in given.items()
        if of is not None
    }
    return assembled(name, splits, classes)


def labelled_rows(dataset: Any, image: str, label: str, where: str) -> Labelled:
    columns = dataset.columns() or []
    if missing := {image, label} - set(columns):
        raise DataError("a column is missing", where=where, expected=", ".join(sorted(missing)), got=", ".join(columns),
                        remedy="name the columns by image= and label=")  # fmt: skip
    options = dataset.context.execution_options
    order, options.preserve_order = options.preserve_order, True
    try:
        rows = dataset.select_columns([image, label]).materialize()
        labels: list[np.ndarray] = []
        reader = USUAL.reader()

        def samples() -> Iterator[np.ndarray]:
            for batch in rows.iter_batches(batch_size=ROWS, batch_format="numpy"):
                labels.append(np.asarray(batch[label]))
                for row, picture in enumerate(batch[image]):
                    at = f"{where}, row {sum(map(len, labels[:-1])) + row}"
                    yield sample(np.asarray(picture), at, USUAL, reader)

        pictures = stacked(samples(), rows.count(), where)
    finally:
        options.preserve_order = order
    return Labelled(pictures, labels_of(np.concatenate(labels), f"{where}, column '{label}'", len(pictures)))
