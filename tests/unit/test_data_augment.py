from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ffdist.data import Loader, from_tensors
from ffdist.data.augment import AugmentDraws, augment, crop, draw, flip, margin
from ffdist.data.sampler import generator

SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3, 4]))
PICTURES = hnp.arrays(st.sampled_from([np.uint8, np.float32]), SHAPES, elements=st.integers(0, 255))


@given(PICTURES, st.integers(0, 99))
def test_crop_and_flip_equal_the_same_done_sample_by_sample(x: np.ndarray, seed: int) -> None:
    b, h, w, _ = x.shape
    draws = draw(("crop", "flip"), b, (h, w), generator(seed, "augment"))
    assert draws.top is not None
    assert draws.left is not None
    assert draws.flip is not None
    y, z = margin(h), margin(w)
    expected = np.zeros_like(x)
    for i in range(b):
        padded = np.pad(x[i], ((y, y), (z, z), (0, 0)))
        window = padded[draws.top[i] : draws.top[i] + h, draws.left[i] : draws.left[i] + w]
        expected[i] = window[:, ::-1] if draws.flip[i] else window
    assert np.array_equal(augment(x.copy(), draws), expected)


def test_a_crop_from_the_middle_of_the_margin_is_the_picture_itself() -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 16, 3), np.uint8)
    assert np.array_equal(crop(x, np.full(3, margin(32)), np.full(3, margin(16))), x)


def test_flipping_twice_is_nothing() -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    mirrored = np.array([True, False, True, True])
    assert not np.array_equal(flip(x.copy(), mirrored), x)
    assert np.array_equal(flip(flip(x.copy(), mirrored), mirrored), x)


@pytest.mark.parametrize(("side", "pixels"), [(32, 4), (28, 4), (8, 1), (96, 12)])
def test_the_margin_is_an_eighth_of_the_side(side: int, pixels: int) -> None:
    assert margin(side) == pixels


def test_draws_cover_every_offset_and_flip_about_half() -> None:
    draws = draw(("crop", "flip"), 10_000, (32, 32), generator(0, "augment"))
    assert np.array_equal(np.unique(draws.top), np.arange(9))
    assert np.array_equal(np.unique(draws.left), np.arange(9))
    assert 0.48 < np.mean(draws.flip) < 0.52


def test_a_part_of_the_draws_augments_a_part_of_the_batch() -> None:
    x = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    draws = draw(("crop", "flip"), 9, (16, 16), generator(1, "augment"))
    part = slice(3, 7)
    assert np.array_equal(augment(x.copy(), draws)[part], augment(x[part].copy(), draws[part]))


def test_no_draws_change_nothing() -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1), np.uint8)
    assert np.array_equal(augment(x.copy(), AugmentDraws(None, None, None)), x)


@given(PICTURES.filter(lambda x: min(x.shape[1:3]) > 2), st.integers(0, 99))
def test_a_shift_moves_by_up_to_two_pixels_with_a_reflected_margin(x: np.ndarray, seed: int) -> None:
    b, h, w, _ = x.shape
    draws = draw(("shift",), b, (h, w), generator(seed, "augment"))
    assert draws.top is not None
    assert draws.left is not None
    assert b == 0 or (draws.top.max() <= 4 and draws.left.max() <= 4)
    expected = np.zeros_like(x)
    for i in range(b):
        padded = np.pad(x[i], ((2, 2), (2, 2), (0, 0)), mode="reflect")
        expected[i] = padded[draws.top[i] : draws.top[i] + h, draws.left[i] : draws.left[i] + w]
    assert np.array_equal(augment(x.copy(), draws), expected)


def test_a_cut_out_blackens_a_quarter_of_the_side_and_nothing_else() -> None:
    x = np.full((50, 16, 12, 3), 7, np.uint8)
    y = augment(x.copy(), draw(("cutout",), 50, (16, 12), generator(0, "augment")))
    assert ((y == 0).all(-1).sum((1, 2)) == 4 * 3).all()
    assert set(np.unique(y)) == {0, 7}
    assert len(np.unique((y == 0).argmax(1))) > 1, "it is everywhere at the same place"


def test_alternating_flips_show_each_picture_both_ways_in_two_epochs() -> None:
    x = torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8)
    images = from_tensors(x, torch.arange(64) % 2)
    shown = [
        torch.cat(
            [
                batch
                for batch, _ in Loader(
                    images, images.train, np.arange(64), batch_size=16, seed=3, train=True, augment=("alternate",)
                ).epoch(epoch)
            ]
        )
        for epoch in (0, 1)
    ]
    plain = Loader(images, images.train, np.arange(64), batch_size=64, seed=3, train=False).batch(np.arange(64), 0, 0)[
        0
    ]
    ways = [{bytes(picture.numpy().tobytes()) for picture in epoch} for epoch in shown]
    for picture in plain:
        straight, flipped = (p.contiguous().numpy().tobytes() for p in (picture, picture.flip(-1)))
        assert (straight in ways[0]) != (straight in ways[1])
        assert (flipped in ways[0]) != (flipped in ways[1])
