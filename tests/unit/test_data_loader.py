from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ffdist.data import ArraySplit, Images, Loader, Split, from_tensors, open_data
from ffdist.data import loader as of_loader
from ffdist.errors import ConfigError, DataError

Batch = tuple[Tensor, Tensor]


def colours(samples: int = 70) -> Images:
    draws = np.random.default_rng(0)
    return from_tensors(draws.integers(0, 256, (samples, 3, 16, 16), np.uint8), np.arange(samples) % 7)


def loader(images: Images, *, batch_size: int = 16, train: bool = True, seed: int = 5, **settings) -> Loader:
    indices = np.arange(len(images.train))
    return Loader(images, images.train, indices, batch_size=batch_size, seed=seed, train=train, **settings)


def same(one: list[Batch], two: list[Batch]) -> bool:
    pairs = zip(one, two, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_an_epoch_resumed_in_the_middle_gives_the_very_same_batches(start: int) -> None:
    whole = list(loader(colours(), augment=("crop", "flip")).epoch(2))
    assert same(list(loader(colours(), augment=("crop", "flip")).epoch(2, start)), whole[start:])


def test_epochs_and_seeds_differ_in_order_and_in_augmentation() -> None:
    images = from_tensors(np.random.default_rng(0).integers(0, 256, (64, 16, 16), np.uint8), np.arange(64))
    by_label = []
    for seed, epoch in ((5, 0), (5, 1), (6, 0)):
        batches = list(loader(images, augment=("crop",), seed=seed).epoch(epoch))
        x, y = (torch.cat(part) for part in zip(*batches, strict=True))
        by_label.append((y, x[y.argsort()]))
    for (y, x), (v, u) in zip(by_label, by_label[1:] + by_label[:1], strict=True):
        assert not torch.equal(y, v)
        assert not torch.equal(x, u)


@pytest.mark.parametrize("world", [2, 3])
def test_the_shards_of_a_batch_make_up_the_whole_batch(world: int) -> None:
    whole = list(loader(colours(), augment=("crop", "flip")).epoch(1))
    parts = [list(loader(colours(), augment=("crop", "flip"), shard=(r, world)).epoch(1)) for r in range(world)]
    together = [tuple(map(torch.cat, zip(*shards, strict=True))) for shards in zip(*parts, strict=True)]
    assert same(together, whole)


def test_a_shard_of_a_batch_smaller_than_the_world_may_be_empty() -> None:
    parts = [list(loader(colours(2), train=False, shard=(r, 3)).epoch(0)) for r in range(3)]
    assert [len(y) for ((_, y),) in parts] == [0, 1, 1]
    assert [len(x) for ((x, _),) in parts] == [0, 1, 1]


@pytest.mark.parametrize(
    ("samples", "train", "sizes"),
    [(70, True, [16] * 4), (70, False, [16] * 4 + [6]), (64, True, [16] * 4), (6, True, [6]), (6, False, [6])],
)
def test_the_last_incomplete_batch_is_dropped_in_training_unless_it_is_the_only_one(
    samples: int, train: bool, sizes: list[int]
) -> None:
    made = loader(colours(samples), train=train)
    assert [len(y) for _, y in made.epoch(0)] == sizes
    assert len(made) == len(sizes)


def test_evaluation_keeps_the_order_and_never_augments() -> None:
    images = colours()
    indices = np.array([8, 3, 5, 60])
    plain = Loader(images, images.train, indices, batch_size=3, seed=0, train=False)
    asked = Loader(images, images.train, indices, batch_size=3, seed=9, train=False, augment=("crop", "flip"))
    assert same(list(plain.epoch(0)), list(asked.epoch(4)))
    assert torch.cat([y for _, y in plain.epoch(0)]).tolist() == [1, 3, 5, 4]


def test_evaluating_nothing_is_no_batch() -> None:
    images = colours()
    assert not list(Loader(images, images.train, np.empty(0, np.int64), batch_size=3, seed=0, train=False).epoch(0))


def test_batches_are_float32_channels_last_and_labels_int64() -> None:
    x, y = next(loader(colours(), augment=("crop", "flip")).epoch(0))
    assert x.dtype == torch.float32
    assert x.shape == (16, 3, 16, 16)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == torch.int64


@pytest.mark.parametrize("data", ["digits", "colours"])
def test_normalised_pixels_have_mean_zero_and_deviation_one(data: str) -> None:
    images = open_data("digits") if data == "digits" else colours()
    x = torch.cat([x for x, _ in loader(images, train=False).epoch(0)])
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-4)
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(x.shape[1]), atol=1e-3)


def test_normalisation_is_the_formula() -> None:
    images = colours()
    raw = torch.from_numpy(images.train.take(np.arange(16))).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.mean, images.std))
    x, _ = next(loader(images, train=False).epoch(0))
    assert torch.allclose(x, (raw - mean) / std, atol=1e-5)


def test_pictures_are_resized_before_they_are_normalised() -> None:
    images = open_data("digits", 12)
    assert images.shape == (1, 12, 12)
    x, _ = next(loader(images, train=False).epoch(0))
    raw = torch.from_numpy(images.train.take(np.arange(16))).permute(0, 3, 1, 2).float()
    grown = F.interpolate(raw, (12, 12), mode="bilinear", antialias=True) / 255
    levels = (x * images.std[0] + images.mean[0] - grown) * 255
    assert levels.abs().max() < 1.01  # uint8 pictures are resized in uint8
    explicit, _ = next(loader(open_data("digits"), train=False, image_size=12).epoch(0))
    assert torch.equal(x, explicit)


def test_float_pictures_are_resized_and_augmented_but_not_normalised() -> None:
    x_bchw = torch.arange(8 * 2 * 16 * 16, dtype=torch.float32).reshape(8, 2, 16, 16)
    images = from_tensors(x_bchw, torch.arange(8))
    x, _ = next(loader(images, train=False).epoch(0))
    assert torch.equal(x, x_bchw)
    assert x.is_contiguous(memory_format=torch.channels_last)
    flipped, y = next(loader(images, augment=("flip",)).epoch(0))
    assert all(torch.equal(a, x_bchw[i]) or torch.equal(a, x_bchw[i].flip(-1)) for a, i in zip(flipped, y, strict=True))
    assert not torch.equal(flipped, x_bchw[y])
    small, _ = next(loader(images, train=False, image_size=8).epoch(0))
    assert torch.allclose(small, F.interpolate(x_bchw, (8, 8), mode="bilinear", antialias=True))


def test_vectors_pass_as_they_are() -> None:
    x = torch.randn(20, 5)
    batches = list(loader(from_tensors(x, torch.arange(20) % 2), train=False).epoch(0))
    assert torch.equal(torch.cat([x for x, _ in batches]), x)


class Counted(ArraySplit):
    """Counts the batches taken from it, and fails on the one asked for."""

    ready = False

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__(np.zeros((100, 4, 4, 1), np.uint8), np.zeros(100, np.int64))
        self.taken = 0
        self.fails_at = fails_at

    def take(self, indices: np.ndarray) -> np.ndarray:
        self.taken += 1
        if self.taken == self.fails_at:
            raise DataError("a sample cannot be had")
        return super().take(indices)


def counted(split: Split, prefetch: int = 2) -> Iterator[Batch]:
    images = Images("counted", split, None, ["a", "b"], (1, 4, 4))
    return Loader(images, split, np.arange(100), batch_size=5, seed=0, train=True, prefetch=prefetch).epoch(0)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_no_more_than_prefetch_batches_are_made_ahead(prefetch: int) -> None:
    split = Counted()
    for asked, _ in enumerate(counted(split, prefetch), 1):
        assert asked <= split.taken <= asked + prefetch


SMALL_KINDS = [("crop",), ("flip",), ("shift", "alternate"), ("flip(p=0.3)", "cutout"), ("crop", "randaugment"), ()]


@pytest.mark.parametrize("augment", SMALL_KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"shard": (1, 3)}, {"shard": (0, 2, 4)}, {"train": False}, {"image_size": 12}, {"image_size": 24}]
)
def test_batches_that_are_made_several_at_a_time_are_those_made_alone(
    augment: tuple[str, ...], options: dict[str, Any]
) -> None:
    split = colours().train
    one = Loader(
        colours(), split, np.arange(len(split)), batch_size=4, seed=3, **{"train": True, **options}, augment=augment
    )
    assert one.at_once > 1
    order = one.order(2)
    alone = [one.batch(order, 2, batch) for batch in range(len(one))]
    for start in (0, 1, len(one) - 1):
        for made, expected in zip(one.epoch(2, start), alone[start:], strict=True):
            assert all(map(torch.equal, made, expected))
            assert made[0].stride() == expected[0].stride()


@pytest.mark.parametrize("shape", [(8, 8), (3, 16, 16), (1, 9, 13)])
@pytest.mark.parametrize("side", [7, 32])
def test_pictures_that_are_scaled_once_have_the_bits_of_those_scaled_by_batch(
    shape: tuple[int, ...], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = from_tensors(np.random.default_rng(1).integers(0, 256, (60, *shape), np.uint8), np.arange(60) % 2)
    once = [*loader(images, image_size=side, batch_size=7, augment=("crop", "flip")).epoch(1)]
    monkeypatch.setattr(of_loader, "SIZED", 0)
    anew = loader(images, image_size=side, batch_size=7, augment=("crop", "flip"))
    assert anew.sized is None
    assert same(once, [*anew.epoch(1)])


def test_large_batches_and_those_that_would_begin_elsewhere_are_made_alone() -> None:
    def at_once(side: int, batch_size: int) -> int:
        images = from_tensors(np.zeros((512, side, side), np.uint8), np.arange(512) % 2)
        return Loader(images, images.train, np.arange(512), batch_size=batch_size, seed=0, train=True).at_once

    assert [at_once(8, 8), at_once(28, 16), at_once(28, 128), at_once(28, 400), at_once(7, 9)] == [32, 20, 2, 1, 1]


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ffdist-loader")]


def test_closing_the_epoch_ends_its_thread() -> None:
    batches = loader(colours()).epoch(0)
    next(batches)
    assert loader_threads()
    batches.close()
    assert not loader_threads()


def test_an_error_in_the_thread_is_raised_at_its_own_batch() -> None:
    batches = counted(Counted(fails_at=4))
    assert len([next(batches) for _ in range(3)]) == 3
    with pytest.raises(DataError, match="cannot be had"):
        next(batches)
    assert not loader_threads()


def test_settings_that_do_not_go_with_the_data_are_refused() -> None:
    vectors = from_tensors(torch.randn(20, 5), torch.arange(20) % 2)
    with pytest.raises(ConfigError, match="batch_size >= 1"):
        loader(colours(), batch_size=0)
    with pytest.raises(ConfigError, match=r"there is no transform 'rotate'(.|\n)*v2:RandomRotation"):
        loader(colours(), augment=("rotate",))
    with pytest.raises(ConfigError, match="expected: flip or alternate"):
        loader(colours(), augment=("flip", "alternate"))
    with pytest.raises(ConfigError, match=r"expected: samples of shape \(C, H, W\)"):
        loader(vectors, augment=("flip",))
    with pytest.raises(ConfigError, match="only pictures"):
        loader(vectors, image_size=8)
    with pytest.raises(DataError, match="no sample to train on"):
        Loader(vectors, vectors.train, np.empty(0, np.int64), batch_size=1, seed=0, train=True)
