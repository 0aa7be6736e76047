"""Samples that are asked about, like those that a network was trained on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffdist.data.arrays import as_array, as_bytes
from ffdist.data.depth import Range
from ffdist.data.images import ValueSpread
from ffdist.errors import DataError
from ffdist.notes import note

BEYOND = 1e-3
"""How far pixels may lie outside of 0..1: what resizing and rounding make."""

SURELY_BYTES = 16
"""A value that no pixel in 0..1 comes near to."""


def as_trained_samples(
    samples: Any, shape: tuple[int, ...], pixels: bool, spread: ValueSpread | None, value_range: Range | None = None
) -> Tensor:
    """float32 [B, *shape]: pixels in 0..1 of a network that was trained on pictures, other floats as they are.

    samples: [B, *shape]; pictures also [B, H, W], and [B, H, W, C] where that can be nothing else. shape: of a sample
    in training. pixels: whether it was on pictures of whole numbers. spread: of the floats in training, where known.
    value_range: black and white of whole numbers of more than 8 bits in training, where they were named.
    Raises DataError for other shapes, types and ranges; a note says where floats are far from those of the training.
    """
    x = as_array(samples, "samples", "predict")
    found = shaped(x, shape)
    if found is None or x.dtype.kind not in "fbiu":
        kinds = "uint8 or float" if pixels else "float"
        raise DataError(
            "samples are unlike those of the training",
            where="predict",
            expected=f"{kinds} [B, {', '.join(map(str, shape))}]",
            got=f"{x.dtype} {list(x.shape)}",
            remedy=reshaping(x, shape),
        )
    made = match_pictures(found, value_range) if pixels else match_floats(found, spread)
    return torch.from_numpy(np.require(made, np.float32, ("C", "W")))


def reshaping(x: np.ndarray, shape: tuple[int, ...]) -> str:
    """The remedy that brings samples of other numbers of axes or sizes to those of training."""
    if x.shape == shape:
        return "x[None] for a single one"
    if x.ndim and x.size == len(x) * math.prod(shape):
        return f"x.reshape({', '.join(map(str, (-1, *shape)))}), where the numbers stand in that order"
    return "give samples of the training's shape: resized, or of as many features"


def shaped(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """[B, *shape], or None where it cannot be so read."""
    if x.shape[1:] == shape:
        return x
    if len(shape) == 3 and shape[0] == 1 and x.shape[1:] == shape[1:]:
        return x[:, None]
    if len(shape) == 3 and x.shape[1:] == (*shape[1:], shape[0]):
        return np.moveaxis(x, -1, 1)
    return None


def match_pictures(x: np.ndarray, value_range: Range | None = None) -> np.ndarray:
    """float32 in 0..1 of whole numbers in 0..255 or in `value_range`, or of floats that are so."""
    if x.dtype.kind != "f":
        limits = None if x.dtype == np.uint8 else value_range  # 8 bits have black and white of their own
        pixels = as_bytes(x, "predict", "pictures as in training", limits)
        return pixels.astype(np.float32) / np.float32(255)
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    if not (low >= -BEYOND and high <= 1 + BEYOND):
        raise DataError(
            "samples are beyond the range of the training",
            where="predict",
            expected="pictures as in training: uint8 in 0..255, or floats in 0..1",
            got=f"{low:g}..{high:g}",
            remedy="x / 255 for floats in 0..255; no normalisation: the network does it",
        )
    return x


def refuse_bytes(x: Tensor, pixels: bool) -> None:
    """Raises DataError for whole numbers, which no network takes as they are, and for pixels in 0..255.

    pixels: whether it takes pixels in [0, 1].
    """
    whole = not x.is_floating_point()
    if not (whole or (pixels and x.numel() and x.max() >= SURELY_BYTES)):
        return
    raise DataError(
        "a network's input is not what it was trained on",
        where="Classifier",
        expected="pixels in [0, 1], not normalised" if pixels else "floats as in training",
        got=str(x.dtype).removeprefix("torch.") if whole else f"numbers up to {x.max():g}",
        remedy="classifier.predict(x) takes uint8; x / 255 of numbers in 0..255" if pixels else "x.float()",
    )


def match_floats(x: np.ndarray, spread: ValueSpread | None) -> np.ndarray:
    """Floats as they are; a note where they are far from those of the training.

    Raises DataError for other types, for NaN and infinity, and for another scale, as 0..255 in place of 0..1.
    """
    known = "floats as in training" + (f", {spread.low:g}..{spread.high:g}" if spread else "")
    if x.dtype.kind != "f":
        unit = spread is not None and spread.high <= 1
        remedy = "x / 255 where the training's were made so" if unit else "x.astype('float32'), or x.float()"
        raise DataError(
            "samples are of another type than those of the training",
            where="predict",
            expected=known,
            got=str(x.dtype),
            remedy=f"make them as those of the training were made: {remedy}",
        )
    if x.size:
        low, high = float(x.min()), float(x.max())
        if not np.isfinite([low, high]).all():
            raise DataError(
                "a sample is not finite",
                where="predict",
                expected=known,
                got=f"{low:g}..{high:g}",
                remedy="numpy.nan_to_num(x)",
            )
        if spread is None:
            return x
        width = spread.high - spread.low
        if (remedy := rescaling_remedy(x, spread)) is not None:
            raise DataError(
                "samples are of another scale than those of the training",
                where="predict",
                expected=known,
                got=f"{low:g}..{high:g}",
                remedy=remedy,
            )
        if low < spread.low - width or high > spread.high + width or high < spread.peak - width / 2:
            note(
                f"predict: samples of {low:g}..{high:g} are far from those of the training, "
                f"{spread.low:g}..{spread.high:g}"
            )
    return x


def rescaling_remedy(x: np.ndarray, spread: ValueSpread) -> str | None:
    """The remedy that makes samples like those of the training, where pixels in 0..1 and in 0..255 were taken for each
    other."""
    low, high = float(x.min()), float(x.max())
    if low < 0 or spread.low < 0:
        return None
    if spread.high <= 1 and SURELY_BYTES <= high <= 255 and (x == np.rint(x)).all():
        return "x / 255"
    return "x * 255" if spread.peak >= SURELY_BYTES and spread.high <= 255 and high <= 1 else None
