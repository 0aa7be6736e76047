"""A `torch.utils.data.Dataset` as a data set in memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ffdist.data.decode import decode
from ffdist.data.images import ArraySplit, Images
from ffdist.data.memory import assembled, stacked
from ffdist.errors import DataError, users_code


def from_dataset(
    dataset: Dataset, *, test: Dataset | None = None, classes: Sequence[str] | None = None, name: str | None = None
) -> Images:
    """A data set whose items are (picture, label). Each item is read once, now, so its transforms are applied once.

    Pictures: of Pillow, grey or RGB; uint8 tensors [H, W] or [C, H, W]; or floating-point tensors of any shape, left as
    they are. Labels: whole numbers. classes: K names; default: the data set's own. name: default: that of its class.
    Raises DataError for items that are not so, and for items that differ in shape.
    """
    name = name or type(dataset).__name__
    train = dataset_split(dataset, f"data set {name}, train")
    held_out = None if test is None else dataset_split(test, f"data set {name}, test")
    return assembled(name, train, held_out, classes or getattr(dataset, "classes", None))


def dataset_split(dataset: Any, where: str) -> ArraySplit:
    if not hasattr(dataset, "__len__"):
        raise DataError("the data set has no length", where=where, expected="a map-style torch data set",
                        got=type(dataset).__name__)  # fmt: skip
    labels = np.empty(len(dataset), np.int64)

    def samples() -> Iterator[np.ndarray]:
        for row in range(len(dataset)):
            with users_code(DataError, "an item cannot be read", where=f"{where}, row {row}",
                            remedy="mend the data set's __getitem__, or leave the row out"):  # fmt: skip
                item = dataset[row]
            try:
                picture, label = item
                labels[row] = operator.index(label)
            except (TypeError, ValueError) as error:
                raise DataError("an item is not (picture, label)", where=f"{where}, row {row}",
                                expected="two values, the second a whole number", got=error) from error  # fmt: skip
            yield sample(picture, f"{where}, row {row}")

    return ArraySplit(stacked(samples(), len(labels), where), labels)


def sample(picture: object, where: str) -> np.ndarray:
    """uint8 [H, W, C], or float32 of any shape."""
    if isinstance(picture, Image.Image):
        return decode(picture, where)
    if not isinstance(picture, Tensor | np.ndarray):
        raise DataError("an item's picture is of no known kind", where=where, expected="Pillow, tensor or array",
                        got=type(picture).__name__, remedy="a transform, e.g. torchvision's PILToTensor")  # fmt: skip
    x = torch.as_tensor(picture).detach().cpu()
    if x.is_floating_point():
        return x.float().numpy()
    return decode(x.numpy(), where)
