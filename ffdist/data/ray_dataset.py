"""A `ray.data.Dataset` as a data set in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ffdist.data.images import ArraySplit, Images
from ffdist.data.memory import assembled, stacked
from ffdist.data.torch_dataset import sample
from ffdist.errors import DataError

ROWS = 1024
"""Rows that are fetched at once."""


def from_ray(
    dataset: Any,
    *,
    test: Any = None,
    image: str = "image",
    label: str = "label",
    classes: Sequence[str] | None = None,
    name: str = "ray",
) -> Images:
    """A data set of two columns of `ray.data.Dataset`s, read once, now, in the order of their rows.

    image: uint8 [H, W] or [H, W, C], or floating point of any one shape; label: whole numbers. classes: K names;
    default: the numbers up to the largest label. Raises DataError for columns that are missing or not so.
    """
    train = ray_split(dataset, image, label, f"data set {name}, train")
    held_out = None if test is None else ray_split(test, image, label, f"data set {name}, test")
    return assembled(name, train, held_out, classes)


def ray_split(dataset: Any, image: str, label: str, where: str) -> ArraySplit:
    columns = dataset.columns() or []
    if missing := {image, label} - set(columns):
        raise DataError("a column is missing", where=where, expected=", ".join(sorted(missing)), got=", ".join(columns),
                        remedy="name the columns by image= and label=")  # fmt: skip
    options = dataset.context.execution_options
    order, options.preserve_order = options.preserve_order, True
    try:
        rows = dataset.select_columns([image, label]).materialize()
        labels: list[np.ndarray] = []

        def samples() -> Iterator[np.ndarray]:
            for batch in rows.iter_batches(batch_size=ROWS, batch_format="numpy"):
                labels.append(np.asarray(batch[label]))
                for row, picture in enumerate(batch[image]):
                    yield sample(np.asarray(picture), f"{where}, row {sum(map(len, labels[:-1])) + row}")

        pictures = stacked(samples(), rows.count(), where)
    finally:
        options.preserve_order = order
    numbers = np.concatenate(labels)
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise DataError("labels are one whole number a sample", where=f"{where}, column '{label}'", expected="integers",
                        got=f"{numbers.dtype} {list(numbers.shape[1:])}")  # fmt: skip
    return ArraySplit(pictures, numbers)
