"""The data set that comes with scikit-learn and needs no preparation."""

from __future__ import annotations

from functools import cache

import numpy as np

from ffdist.data.images import ArraySplit, Images, moments
from ffdist.data.sampler import split_indices

TEST_SAMPLES = 360
SPLIT_SEED = 0


@cache
def digits() -> Images:
    """1,797 handwritten digits, 8 x 8 grey; 360 of them, the same for everyone, are the test split."""
    from sklearn.datasets import load_digits  # almost a second, which other data need not pay

    grey, labels = map(np.asarray, load_digits(return_X_y=True))
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
