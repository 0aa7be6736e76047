"""The data set that comes with ffdist and needs no preparation."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from ffdist.data.images import ArraySplit, Images, moments
from ffdist.data.sampler import split_indices

FILE = Path(__file__).parent / "digits.npz"
"""Pictures, uint8 [1797, 8, 8] of 0..16, and labels, uint8 [1797]: the test set of E. Alpaydin and C. Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, under CC BY
4.0; the same numbers in the same order as scikit-learn's `load_digits`."""
TEST_SAMPLES = 360
SPLIT_SEED = 0


@cache
def digits() -> Images:
    """1,797 handwritten digits, 8 x 8 grey; 360 of them, the same for everyone, are the test split."""
    with np.load(FILE) as file:
        grey, labels = file["pictures"], file["labels"].astype(np.int64)
    pictures = np.rint(grey * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    train, test = split_indices(labels, validation=TEST_SAMPLES / len(labels), seed=SPLIT_SEED)
    mean, std = moments(pictures[train])
    return Images(
        name="digits",
        train=ArraySplit(pictures[train], labels[train]),
        test=ArraySplit(pictures[test], labels[test]),
        classes=[str(digit) for digit in range(10)],
        shape=(1, 8, 8),
        mean=mean,
        std=std,
    )
