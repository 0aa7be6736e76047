from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffdist.data import open_data, split_indices
from ffdist.data.sampler import generator, quotas, shuffled
from ffdist.errors import ConfigError, DataError

LABELS = np.random.default_rng(0).choice(5, 400, p=[0.4, 0.3, 0.15, 0.1, 0.05])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.data())
def test_quotas_sum_to_the_total_and_are_within_one_of_the_exact_share(sizes: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(sizes)))
    dealt = quotas(sizes, total)
    assert sum(dealt) == total
    assert all(abs(d - s * total / sum(sizes)) < 1 and 0 <= d <= s for d, s in zip(dealt, sizes, strict=True))


@pytest.mark.parametrize("samples", [None, 123])
def test_a_split_is_disjoint_exact_in_size_and_stratified(samples: int | None) -> None:
    train, validation = split_indices(LABELS, validation=0.2, samples=samples, seed=3)
    picked = samples or len(LABELS)
    assert len(validation) == round(0.2 * picked)
    assert len(set(train) | set(validation)) == len(train) + len(validation) == picked
    share = len(validation) / len(LABELS)
    assert np.all(np.abs(np.bincount(LABELS[validation]) - share * np.bincount(LABELS)) < 2)


def test_a_split_depends_on_the_seed_and_on_nothing_else() -> None:
    first, again, other = (split_indices(LABELS, validation=0.2, samples=200, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_no_validation_share_holds_nothing_back() -> None:
    train, validation = split_indices(LABELS, validation=0, seed=0)
    assert np.array_equal(train, np.arange(400))
    assert not len(validation)


def test_impossible_shares_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="got: 1"):
        split_indices(LABELS, validation=1, seed=0)
    for samples in (0, 401):
        with pytest.raises(DataError, match=r"expected: 1 to 400\n  got: " + str(samples)):
            split_indices(LABELS, validation=0.2, samples=samples, seed=0)


def test_an_epochs_order_is_a_permutation_of_its_own() -> None:
    indices = np.arange(100, 200)
    first, again, later = shuffled(indices, 7, 0), shuffled(indices, 7, 0), shuffled(indices, 7, 1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    assert np.array_equal(np.sort(later), indices)


def test_draws_of_different_places_and_purposes_differ() -> None:
    places = [("order", 0, 0), ("augment", 0, 0), ("augment", 1, 0), ("augment", 0, 1), ("split", 0, 0)]
    drawn = {float(generator(5, purpose, epoch, batch).random()) for purpose, epoch, batch in places}
    assert len(drawn) == len(places)


def test_the_digits_are_split_the_same_way_for_everyone() -> None:
    digits = open_data("digits")
    assert (len(digits.train), len(digits.test or ())) == (1437, 360)
    assert digits.test is not None
    assert np.bincount(digits.test.labels).min() >= 34
    pixels = digits.test.take(np.arange(360))
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "d5c9856c411ee9da"
