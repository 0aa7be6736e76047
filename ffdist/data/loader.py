"""Batches of one split, made ahead by background threads, each batch by one of them; small ones several at a time.

Their arithmetic is NumPy's (but for resizing), which stays on the thread: PyTorch's would start a second team of
threads beside the one that trains. Decoding pictures lets go of the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import cached_property, partial
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ffdist.data.ahead import in_order
from ffdist.data.images import ArraySplit, Images, Split
from ffdist.data.sampler import shuffled, shuffled_by_shard
from ffdist.data.transforms import PictureTransform, StepDraws, Transform, TransformSteps, load_transforms
from ffdist.data.transforms.called import CallableTransform
from ffdist.errors import ConfigError, DataError, setting


class Loader:
    """Batches of `split` at `indices`, ready for the first block.

    batch_size: samples of a whole batch, of which rank r of `shard=(r, world)` gets the r-th slice, and
        `shard=(first, end, world)` the slices from `first` to before `end`.
    train: in an order drawn from (seed, epoch), augmented, and without the last incomplete batch unless it is the only
        one. Otherwise: every sample, in the order of `indices`, prepared alone.
    augment: transforms, or texts such as "crop(padding=4)" (`ffdist.data.transforms`). Those that give pictures their
        size take the place of `images.preprocess`.
    image_size: the side that pictures are resized to; None: the one that `images.shape` names.
    prefetch: how many batches are made ahead, at most; one for each worker at least. Of small ones as many as have 1
        MiB.
    workers: threads that make batches; 0 and 1 are one. From 2 on as many processes read the items of a data set that
        are read again and again, and do the transforms that are classes of callables. No number changes a bit.
    shuffle_shards: shards whose samples are mixed at a time, 0 for all; None: as the split says (`Split.window`).
    Raises ConfigError and DataError for settings that do not go with the data.
    """

    def __init__(
        self,
        images: Images,
        split: Split,
        indices: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        train: bool,
        augment: Sequence[str | Transform] = (),
        image_size: int | None = None,
        shard: tuple[int, ...] = (0, 1),
        prefetch: int = 2,
        workers: int = 0,
        shuffle_shards: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError("a batch holds at least one sample", expected="batch_size >= 1", got=batch_size)
        self.pictures = len(images.shape) == 3
        if not self.pictures and (augment or image_size or images.preprocess):
            raise ConfigError(
                "only pictures are resized, cropped or flipped",
                where=f"data set {images.name}",
                expected="samples of shape (C, H, W)",
                got=images.shape,
                remedy=f"leave {setting('dataset.augment')} and {setting('dataset.image_size')} out",
            )
        if train and not len(indices):
            raise DataError(
                "there is no sample to train on",
                where=f"data set {images.name}",
                remedy=f"a larger {setting('dataset.samples')}, or a smaller {setting('dataset.validation')}",
            )
        self.images = images
        self.image_size = image_size
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self.training = train
        self.shard = shard
        self.workers = max(1, workers)
        self.prefetch = max(prefetch, workers)
        self.size: tuple[int, int] = (image_size, image_size) if image_size else images.shape[-2:]  # pyright: ignore
        self.channels = images.shape[0]
        self.split = (split.at(self.size) if self.pictures else split).read_by(workers)
        self.window = split.window if shuffle_shards is None else shuffle_shards
        self.check_window(split)
        self.steps = TransformSteps(
            transforms_of(images, augment if train else ()), seed=seed, wanted=self.size, workers=workers
        )
        self.steps.check_pictures(f"data set {images.name}", images.shape[0], pixels=images.pixels)
        self.num_classes = images.num_classes
        self.as_given = not images.normalised
        self.scale = (1 / ((255 if images.pixels else 1) * np.array(images.std))).astype(np.float32)
        self.shift = (-np.array(images.mean) / images.std).astype(np.float32)
        self.tiled = (self.scale, self.shift)

    def __len__(self) -> int:
        full, rest = divmod(len(self.indices), self.batch_size)
        return full if self.training and full else full + bool(rest)

    def check_window(self, split: Split) -> None:
        """Raises ConfigError where shards are read a few at a time and there are none, and where they must be."""
        if self.window and split.shard_of(self.indices[:1]) is None:
            raise ConfigError(
                "only shards are read a few at a time",
                where=setting("dataset.shuffle_shards", self.window),
                expected="a prepared folder",
                got=f"data set {self.images.name}, in memory",
                remedy="leave it out",
            )
        if self.training and not self.window and not split.fits:
            raise ConfigError(
                "remote shards that do not fit into memory cannot be mixed all at once",
                where=f"data set {self.images.name}",
                expected="few shards at a time",
                remedy=f"{setting('dataset.shuffle_shards', 8)}; or prepare them with {setting('store', 'encoded')}",
            )

    @property
    def largest_batch(self) -> int:
        """Samples of the largest batch there is."""
        return min(self.batch_size, len(self.indices))

    def strided_epoch(
        self, epoch: int, start: int, offset: int, stride: int
    ) -> Generator[tuple[Tensor, Tensor] | None]:
        """Batches start, start + 1, ... of an epoch; of them, start + offset, start + offset + stride, ... are made,
        and None stands for the others."""
        with closing(self.epoch(epoch, start + offset, stride)) as made:
            for batch in range(len(self) - start):
                yield None if (batch - offset) % stride else next(made)

    def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Generator[tuple[Tensor, Tensor]]:
        """Batches start, start + every, ... of an epoch, the very same as without the others.

        Yields x, float32 [B, C, H, W] normalised and with channels-last strides (or [B, *shape] for other samples),
        and the labels, int64 [B]. What goes wrong in the thread is raised here; closing the iterator ends the thread.
        """
        at_once = self.at_once if every == 1 else 1
        order = self.order(epoch)
        self.split.announce(self.own(order, start, every))
        jobs = (range(first, min(first + at_once, len(self))) for first in range(start, len(self), at_once * every))
        work = partial(self.together, order, epoch) if at_once > 1 else lambda job: [self.batch(order, epoch, job[0])]
        made = in_order(work, jobs, threads=self.workers, ahead=-(-self.prefetch // at_once), name="ffdist-loader")
        with closing(made):
            for batches in made:
                yield from batches

    @cached_property
    def at_once(self) -> int:
        """The number of batches made at a time: several where each is so small that what is done once a batch would
        take longer than what is done to its samples."""
        own = {*map(type, self.steps.all)}
        if (
            not len(self.indices)
            or not self.split.ready
            or self.mixing
            or self.steps.pictures
            or not all(map(is_ours, own))
        ):
            return 1
        numbers = prod((self.channels, *self.size)) if self.pictures else self.split.take(self.indices[:1]).size
        size = self.batch_size * numbers * 4
        if size % ALIGNED:
            return 1
        return max(1, min(MAX_AT_ONCE, SMALL // size))

    def together(self, order: np.ndarray, epoch: int, batches: range) -> list[tuple[Tensor, Tensor]]:
        """Several batches made in one go, each bit for bit as `batch` makes it."""
        rows = [order[batch * self.batch_size : (batch + 1) * self.batch_size] for batch in batches]
        parts = [self.part(len(batch_rows)) for batch_rows in rows]
        own = [batch_rows[part] for batch_rows, part in zip(rows, parts, strict=True)]
        taken, ends = np.concatenate(own), np.cumsum([len(batch_rows) for batch_rows in own]).tolist()
        x = self.tensor(self.samples_at(self.split, taken, self.steps.draw_all(epoch, batches[0], rows, parts)))
        y = torch.from_numpy(self.split.labels[taken])
        return [(x[start:end], y[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def first(self, count: int) -> Tensor:
        """Up to so many of its samples, by their place in the split, not augmented: as `epoch` gives them."""
        rows = self.indices[:count]
        whole = Loader(
            self.images, self.split, rows, batch_size=len(rows), seed=self.seed, train=False, image_size=self.image_size
        )
        return whole.batch(rows, 0, 0)[0]

    def order(self, epoch: int) -> np.ndarray:
        """The rows of the split in the order of an epoch's batches. What is read a few shards at a time is evaluated
        shard by shard."""
        shards = self.split.shard_of(self.indices) if self.window else None
        if shards is None:
            return shuffled(self.indices, self.seed, epoch) if self.training else self.indices
        if self.training:
            return shuffled_by_shard(self.indices, shards, self.seed, epoch, window=self.window)
        return self.indices[np.argsort(shards, kind="stable")]

    def batch_samples(self, batch: int) -> int:
        """The number of samples in a whole batch, whatever part of it is made here."""
        return min(self.batch_size, len(self.indices) - batch * self.batch_size)

    def part(self, samples: int) -> slice:
        """The samples of a whole batch of that many that are made here."""
        first, *end, world = self.shard
        return slice(samples * first // world, samples * (end[0] if end else first + 1) // world)

    def own(self, order: np.ndarray, start: int, every: int = 1) -> np.ndarray:
        """The rows of batches start, start + every, ... that are read here."""
        rows = order[start * self.batch_size : len(self) * self.batch_size]
        whole = self.mixing or self.part(self.batch_size) == slice(0, self.batch_size)
        if whole and every == 1:
            return rows
        firsts = range(0, len(rows), self.batch_size * every)
        batches = [rows[first : first + self.batch_size] for first in firsts]
        return np.concatenate(
            [rows[:0], *(batch_rows if whole else batch_rows[self.part(len(batch_rows))] for batch_rows in batches)]
        )

    def batch(self, order: np.ndarray, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """Batch `batch` of an epoch in that order."""
        rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        part = self.part(len(rows))
        if not self.mixing:
            x, _ = self.samples(rows, part, epoch, batch)
            return self.tensor(x), torch.from_numpy(self.split.labels[rows[part]])
        return self.mixed(rows, part, epoch, batch)

    @property
    def augment(self) -> list[str]:
        """The transforms of its samples, in the form that settings keep."""
        return [str(transform.as_call()) for transform in self.steps.all]

    @property
    def mixing(self) -> bool:
        """True if labels are shares of all classes, float32 [B, K]: some transform mixes samples."""
        return bool(self.steps.mixes)

    def samples(
        self, rows: np.ndarray, part: slice | np.ndarray, epoch: int, batch: int
    ) -> tuple[np.ndarray, StepDraws]:
        """Samples rows[part] of a batch, augmented and normalised but not mixed, and what was drawn for them.

        Pictures are [B, H, W, C], other samples [B, *shape].
        """
        split = self.split.in_epoch(self.seed, epoch if self.training else 0)
        drawn = self.steps.draw(epoch, batch, rows, part) if self.pictures else NO_DRAWS
        return self.samples_at(split, rows[part], drawn), drawn

    def samples_at(self, split: Split, rows: np.ndarray, drawn: StepDraws) -> np.ndarray:
        """The samples at these rows with these draws, augmented and normalised but not mixed."""
        if not self.pictures:
            x = split.take(rows)
            return x if self.as_given else self.normalised(x)
        x = self.steps.batch(self.at_size(split, rows, drawn), drawn)
        return self.steps.after_normalisation(x if self.as_given else self.normalised(x), drawn)

    def at_size(self, split: Split, rows: np.ndarray, drawn: StepDraws) -> np.ndarray:
        """Pictures in the network's size, [B, h, w, C]: by the transforms for that, else scaled to it."""
        if split is self.split and self.sized is not None:
            return np.take(self.sized, rows, axis=0)
        if not self.steps.pictures:
            return resized(channels_last(split.take(rows)), self.size)
        pictures = map(channels_last, split.pictures(rows))
        return np.stack([self.steps.picture(one, drawn, sample) for sample, one in enumerate(pictures)])

    @cached_property
    def sized(self) -> np.ndarray | None:
        """All pictures of a small split in memory, scaled to the network's size once; None where that is not so."""
        split, pixels = self.split, prod((self.channels, *self.size))
        if not isinstance(split, ArraySplit) or split.dtype != np.uint8 or self.steps.pictures:
            return None
        few = 4 * len(self.indices) < len(split)
        if few or split.samples.shape[1:3] == self.size or len(split) * pixels > SIZED:
            return None
        return resized(split.samples, self.size)

    def mixed(self, rows: np.ndarray, part: slice, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """Each sample of the part mixed with the one before it in the batch, and the shares of its classes."""
        own = np.arange(len(rows))[part]
        before = (own - 1) % len(rows)
        needed, places = np.unique(np.concatenate([own, before]), return_inverse=True)
        found, _ = self.samples(rows, needed, epoch, batch)
        x, others = found[places[: len(own)]], found[places[len(own) :]]
        share = self.steps.mix(x, others, self.steps.draw(epoch, batch, rows, own))
        labels = self.split.labels[rows]
        y = np.zeros((len(own), self.num_classes))
        np.add.at(y, (np.arange(len(own)), labels[own]), share)
        np.add.at(y, (np.arange(len(own)), labels[before]), 1 - share)
        return self.tensor(x), torch.from_numpy(y.astype(np.float32))

    def tensor(self, x: np.ndarray) -> Tensor:
        """A tensor over the same memory: pictures as [B, C, H, W] with channels-last strides."""
        out = torch.from_numpy(x)
        return out.permute(0, 3, 1, 2) if self.pictures else out

    def normalised(self, x: np.ndarray) -> np.ndarray:
        """Pictures [B, H, W, C], or other samples: (x / 255 - mean) / std of uint8, (x - mean) / std of floats, as
        float32 and in two passes."""
        numbers = x[:1].size
        scale, shift = self.scales(numbers)
        flat = np.multiply(x.reshape(len(x), numbers), scale)
        flat += shift
        return flat.reshape(x.shape)

    def scales(self, numbers: int) -> tuple[np.ndarray, np.ndarray]:
        """The factor and the term by which a sample of so many numbers is normalised."""
        if len(self.tiled[0]) != numbers:
            self.tiled = (
                np.tile(self.scale, numbers // len(self.scale)),
                np.tile(self.shift, numbers // len(self.shift)),
            )
        return self.tiled


NO_DRAWS = StepDraws({})
SMALL = 2**20
"""Bytes of batches that are made at a time, at most."""
MAX_AT_ONCE = 32
SIZED = 2**26
"""Bytes of pictures in memory that are scaled once, and not in each epoch anew, at most."""
ALIGNED = 64
"""Bytes: a batch begins at such a place, so that none is computed otherwise than if it were made alone."""


def is_ours(kind: type) -> bool:
    """True if a transform is known to change each sample by itself, and quickly."""
    return kind.__module__.startswith("ffdist.") and not issubclass(kind, CallableTransform)


def channels_last(x: np.ndarray) -> np.ndarray:
    """Pictures of uint8 are so; a user's floats [..., C, H, W] become [..., H, W, C]."""
    return x if x.dtype == np.uint8 else np.ascontiguousarray(np.moveaxis(x, -3, -1))


def transforms_of(images: Images, augment: Sequence[str | Transform]) -> list[Transform]:
    """The data's own transforms, then those for training; the latter alone where they give pictures their size."""
    made = load_transforms(augment)
    if any(isinstance(each, PictureTransform) for each in made):
        return made
    return [*load_transforms(images.preprocess, "dataset.preprocess"), *made]


def resized(x_bhwc: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pictures of height, width `size`: bilinear with antialias, in the dtype they came in."""
    if x_bhwc.shape[1:3] == size:
        return x_bhwc
    x = torch.from_numpy(x_bhwc).permute(0, 3, 1, 2)
    y = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(y.permute(0, 2, 3, 1).numpy())
