"""Data sets held in memory: from tensors, and what every other way into memory shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

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


def tensor_split(x: Tensor | np.ndarray, y: Tensor | np.ndarray, where: str) -> ArraySplit:
    """x and y of `from_tensors`; pictures get their channels last."""
    x, y = tensor(x, "samples", where), tensor(y, "labels", where)
    if y.ndim != 1 or y.is_floating_point() or y.shape != x.shape[:1] or not len(y):
        raise DataError("labels are one whole number a sample", where=where, got=f"{y.dtype} {list(y.shape)}",
                        expected=f"integers {list(x.shape[:1])}",
                        remedy="y.long() where whole numbers are held as floats")  # fmt: skip
    if x.is_floating_point() and x.ndim > 1:
        return ArraySplit(x.float().numpy(), y.numpy())
    if x.dtype != torch.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[1] > 4):
        raise DataError("samples are uint8 pictures or floating-point tensors", where=where,
                        expected="uint8 [N, H, W] or [N, C, H, W] with C <= 4, or float [N, ...]",
                        got=f"{x.dtype} {list(x.shape)}",
                        remedy="x.permute(0, 3, 1, 2) for channels last; x.float() for other numbers")  # fmt: skip
    pictures = x.permute(0, 2, 3, 1) if x.ndim == 4 else x.unsqueeze(-1)
    return ArraySplit(pictures.contiguous().numpy(), y.numpy())


def tensor(values: Tensor | np.ndarray, what: str, where: str) -> Tensor:
    """On the CPU, without a graph. Raises DataError for strings, lists of unlike things, and what else is no array."""
    try:
        return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        remedy = "for names: classes, y = numpy.unique(names, return_inverse=True)" if what == "labels" else None
        raise DataError(f"{what} are no tensor", where=where, expected="a tensor or array of numbers",
                        got=getattr(values, "dtype", error), remedy=remedy) from error  # fmt: skip


def assembled(name: str, train: ArraySplit, test: ArraySplit | None, classes: Sequence[str] | None) -> Images:
    """A data set of these splits, with labels and shapes checked and the moments of the training pictures."""
    where = f"data set {name}, train"
    names = list(classes) if classes else [str(k) for k in range(count_classes(train.labels, where))]
    check_labels(train.labels, len(names), where)
    if test is not None:
        check_labels(test.labels, len(names), f"data set {name}, test")
        if form(test.samples) != form(train.samples):
            raise DataError("the test samples are unlike the training samples", where=f"data set {name}",
                            expected=form(train.samples), got=form(test.samples))  # fmt: skip
    shape = train.samples.shape[1:]
    if train.samples.dtype != np.uint8:
        return Images(name, train, test, names, shape)
    return Images(name, train, test, names, (shape[2], *shape[:2]), *moments(train.samples))


def count_classes(labels: np.ndarray, where: str) -> int:
    """K of labels 0..K-1. Raises DataError for a largest label that the labels found can hardly count up to."""
    found = np.unique(labels)
    count = max(int(found[-1]), 0) + 1
    if count > 2 * np.count_nonzero(found >= 0) or count - 1 > len(labels):
        shown = [*found[:3], "...", found[-1]] if len(found) > 4 else found
        raise DataError("labels are not numbered from 0", where=where, expected="0..K-1 for K classes",
                        got=f"{len(found)} different: {', '.join(map(str, shown))}",
                        remedy="_, y = torch.unique(y, return_inverse=True), or name all K classes")  # fmt: skip
    return count


def stacked(samples: Iterable[np.ndarray], count: int, where: str) -> np.ndarray:
    """[count, *shape] of `count` arrays, which must be alike."""
    out: np.ndarray | None = None
    for row, sample in enumerate(samples):
        if out is None:
            out = np.empty((count, *sample.shape), sample.dtype)
        if form(sample[None]) != form(out):
            raise DataError("a sample is unlike the first", where=f"{where}, row {row}", expected=form(out),
                            got=form(sample[None]), remedy="bring all to one size and mode")  # fmt: skip
        out[row] = sample
    if out is None:
        raise DataError("there is no sample", where=where)
    return out


def form(samples: np.ndarray) -> str:
    """Type and shape of one of them, for comparing and for errors."""
    return f"{samples.dtype} {list(samples.shape[1:])}"
