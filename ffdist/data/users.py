"""Users' own data, held in memory: tensors, a torch data set, an Arrow table."""

from __future__ import annotations

from collections.abc import Sequence

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
    train = array_split(x, y, f"data set {name}, train")
    held_out = None if test is None else array_split(*test, f"data set {name}, test")
    names = list(classes) if classes else [str(k) for k in range(int(train.labels.max()) + 1)]
    check_labels(train.labels, len(names), f"data set {name}, train")
    shape = sample_shape(train)
    if held_out is not None:
        check_labels(held_out.labels, len(names), f"data set {name}, test")
        if sample_shape(held_out) != shape or held_out.samples.dtype != train.samples.dtype:
            raise DataError("the test samples are unlike the training samples", where=f"data set {name}",
                            expected=f"{train.samples.dtype} {shape}",
                            got=f"{held_out.samples.dtype} {sample_shape(held_out)}")  # fmt: skip
    mean, std = moments(train.samples) if train.samples.dtype == np.uint8 else ((0.0,), (1.0,))
    return Images(name, train, held_out, names, shape, mean, std)


def array_split(x: Tensor | np.ndarray, y: Tensor | np.ndarray, where: str) -> ArraySplit:
    """x and y of `from_tensors` as a split in memory; pictures with their channels last."""
    samples, labels = torch.as_tensor(x).detach().cpu(), torch.as_tensor(y).detach().cpu()
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(samples) or not len(labels):
        raise DataError("labels are one whole number a sample", where=where, expected=f"integers [{len(samples)}]",
                        got=f"{labels.dtype} {list(labels.shape)}")  # fmt: skip
    if samples.is_floating_point() and samples.ndim > 1:
        return ArraySplit(samples.float().numpy(), labels.numpy())
    channels = samples.shape[1] if samples.ndim == 4 else 1
    if samples.dtype != torch.uint8 or samples.ndim not in (3, 4) or channels > 4:
        raise DataError("samples are uint8 pictures or floating-point tensors", where=where,
                        expected="uint8 [N, H, W] or [N, C, H, W] with C <= 4, or float [N, ...]",
                        got=f"{samples.dtype} {list(samples.shape)}",
                        remedy="x.permute(0, 3, 1, 2) for channels last; x.float() for other numbers")  # fmt: skip
    pictures = samples.permute(0, 2, 3, 1) if samples.ndim == 4 else samples.unsqueeze(-1)
    return ArraySplit(pictures.contiguous().numpy(), labels.numpy())


def sample_shape(split: ArraySplit) -> tuple[int, ...]:
    """Of one sample as the network gets it."""
    shape = split.samples.shape[1:]
    return (shape[2], *shape[:2]) if split.samples.dtype == np.uint8 else shape
