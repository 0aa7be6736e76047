"""The embedded digits."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from ffdist.data import open_data
from ffdist.data.digits import FILE


def test_the_embedded_digits_are_scikit_learns_bit_for_bit() -> None:
    grey, labels = map(np.asarray, load_digits(return_X_y=True))
    with np.load(FILE) as file:
        assert np.array_equal(file["pictures"].reshape(-1, 64), grey)
        assert np.array_equal(file["labels"], labels)


def test_every_digit_is_in_one_split_with_its_grey_levels_spread_over_a_byte() -> None:
    grey, labels = map(np.asarray, load_digits(return_X_y=True))
    images = open_data("digits")
    assert images.test is not None
    splits = (images.train, images.test)
    pixels = np.concatenate([split.take(np.arange(len(split))).reshape(-1, 64) for split in splits])
    all_labels = np.concatenate([split.labels for split in splits])
    assert all_labels.dtype == np.int64
    given = sorted(map(bytes, np.c_[np.rint(grey * (255 / 16)), labels].astype(np.uint8)))
    assert sorted(map(bytes, np.c_[pixels, all_labels].astype(np.uint8))) == given
    assert [len(split) for split in splits] == [1437, 360]
