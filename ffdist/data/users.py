"""Users' own data, held in memory: tensors, a torch data set, an Arrow table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ffdist.data.columns import label_codes, label_values, labels_of, names_in, samples
from ffdist.data.decode import decode
from ffdist.data.images import ArraySplit, Images, check_labels, moments
from ffdist.errors import DataError

Pair = tuple[Tensor | np.ndarray, Tensor | np.ndarray]


def from_tensors(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    test: Pair | None = None,
    classes: Sequence[str] | None = None,
    name: str = "tensors",
) -> Images:
    """A data set of tensors or arrays.

    x: uint8 pictures [N, H, W] or [N, C, H, W], normalised by their own mean and std; or floating point [N, *shape],
        left as they are. y: integer [N], in 0..K-1. test: such a pair, of the same shape.
    classes: K names; default: the numbers up to the largest label.
    Raises DataError for anything else.
    """
    train = tensor_split(x, y, f"data set {name}, train")
    return assembled(name, train, test and tensor_split(*test, f"data set {name}, test"), classes)


def from_dataset(
    dataset: Dataset, *, test: Dataset | None = None, classes: Sequence[str] | None = None, name: str = ""
) -> Images:
    """A torch data set with a length, whose items are (picture, label); each item is read once, now.

    Pictures: of Pillow, grey or RGB; or tensors as `from_tensors` takes them, one by one. Labels: whole numbers.
    classes: K names; default: the data set's own `classes`. name: default: the data set's class.
    Raises DataError for items that are not alike, and for what `from_tensors` refuses.
    """
    name = name or type(dataset).__name__
    names = classes or getattr(dataset, "classes", None)
    train = dataset_split(dataset, f"data set {name}, train")
    return assembled(name, train, test and dataset_split(test, f"data set {name}, test"), names)


def from_arrow(
    table: pa.Table,
    *,
    image: str = "image",
    label: str = "label",
    test: pa.Table | None = None,
    classes: Sequence[str] | None = None,
    name: str = "arrow",
) -> Images:
    """An Arrow table with a column of pictures (encoded, or arrays) or of float arrays, and a column of labels.

    image, label: the columns; arrays are [H, W] or [H, W, C] pictures of whole numbers in 0..255, or floats of any
        shape, left as they are. Labels: whole numbers or strings; those that occur become 0..K-1 in sorted order.
    classes: K names, of labels in 0..K-1. Raises DataError for anything else.
    """
    tables = {"train": table} | ({"test": test} if test is not None else {})
    for split, of in tables.items():
        if missing := {image, label} - set(of.column_names):
            raise DataError("a table lacks a column", where=f"{split} table of {name}", expected=missing.pop(),
                            got=", ".join(of.column_names))  # fmt: skip
    columns = {split: labels_of(of[label].chunks, f"{split} table of {name}") for split, of in tables.items()}
    names = classes or names_in(table.schema, label)
    values = label_values([columns["train"]], names)
    splits = [
        ArraySplit(
            stacked([s for chunk in of[image].chunks for s in samples(chunk, f"{split} table of {name}")], split),
            label_codes(columns[split], values, f"{split} table of {name}"),
        )
        for split, of in tables.items()
    ]
    return assembled(name, splits[0], splits[1] if test is not None else None, names or [str(v) for v in values])


def assembled(name: str, train: ArraySplit, test: ArraySplit | None, classes: Sequence[str] | None) -> Images:
    """Splits whose labels and shapes are checked, with the moments of the training pictures."""
    names = list(classes) if classes else [str(k) for k in range(int(train.labels.max()) + 1)]
    for split, of in (("train", train), ("test", test)):
        if of is not None:
            check_labels(of.labels, len(names), f"data set {name}, {split}")
            if kind(of) != kind(train):
                raise DataError("the test samples are unlike the training samples", where=f"data set {name}",
                                expected=kind(train), got=kind(of))  # fmt: skip
    pictures = train.samples.dtype == np.uint8
    shape = train.samples.shape[1:]
    mean, std = moments(train.samples) if pictures else ((0.0,), (1.0,))
    return Images(name, train, test, names, (shape[2], *shape[:2]) if pictures else shape, mean, std)
