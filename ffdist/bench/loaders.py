"""Loaders with nobody learning from them: ours, torchvision's ImageFolder in torch's DataLoader, and a path of whole
batches in torch."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ffdist.bench.harness.window import WindowRate, endless
from ffdist.bench.harness.worker_pool import PoolMember
from ffdist.bench.victims import processor_seconds
from ffdist.data import Images, Loader
from ffdist.data.augment import margin
from ffdist.data.encoded import EncodedSplit
from ffdist.data.loader import resized
from ffdist.runtime.worker_main import MakeJob

FILES = 4096
"""Pictures that are written into a folder, at most."""
SIMPLE = {"crop", "flip", "resized-crop"}
"""Transforms of which the others have exact twins."""
ENDINGS = {b"\x89PNG": ".png", b"RIFF": ".webp"}
Batches = Generator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LoaderMain:
    """The main function of a process that makes batches with ffdist's loader and drops them."""

    make_job: MakeJob

    def __call__(self, member: PoolMember) -> None:
        answer_windows(member, endless(self.make_job().loaders().train))


@dataclass(frozen=True)
class BatchPathMain:
    """Crop and flip of whole batches of a data set in memory, in torch. way: one of `WAYS`."""

    make_job: MakeJob
    way: str

    def __call__(self, member: PoolMember) -> None:
        loader = self.make_job().loaders().train
        answer_windows(member, WAYS[self.way](loader, set(self.make_job().settings.dataset.augment)))


@dataclass(frozen=True)
class FolderMain:
    """torchvision's ImageFolder in torch's DataLoader, over the pictures in `folder`, which the first of them writes.

    tensors: whether pictures are decoded to tensors, by torchvision, and changed by its transforms v2; otherwise by
    Pillow, which is ImageFolder's own way.
    """

    make_job: MakeJob
    folder: Path
    workers: int
    tensors: bool

    def __call__(self, member: PoolMember) -> None:
        job = self.make_job()
        loader = job.loaders().train
        if not any(self.folder.iterdir()):
            write_files(loader, self.folder)
        changed = twin_transforms(job.images, job.settings.dataset.augment, tensors=self.tensors)
        answer_windows(
            member, folder_batches(self.folder, changed, loader.batch_size, self.workers, tensors=self.tensors)
        )


def answer_windows(member: PoolMember, batches: Batches) -> None:
    """Answer each order, a window, with its samples, seconds, and CPU seconds of this process and its children."""
    with closing(batches):
        while (window := member.next_order()) is not None:
            for _ in range(window.warmup):
                next(batches)
            begun, computed, samples = time.perf_counter(), computing(), 0
            for _ in range(window.batches):
                samples += len(next(batches)[1])
            member.answer(WindowRate(samples, time.perf_counter() - begun, {"computing": computing() - computed}))


def computing() -> float:
    """CPU seconds so far of this process and of its children that still run."""
    total = sum(os.times()[:2])
    for child in multiprocessing.active_children():
        with suppress(OSError):  # another system, or it has ended
            total += processor_seconds(child.pid or 0)
    return total


def write_files(loader: Loader, folder: Path) -> None:
    """The pictures of an encoded split, or some of them, in a folder for each class."""
    split = loader.split
    assert isinstance(split, EncodedSplit)
    rows = np.random.default_rng(0).permutation(loader.indices)[:FILES]
    for row, data in zip(rows, split.encoded(rows), strict=True):
        place = folder / f"class-{split.labels[row]:05d}"
        place.mkdir(exist_ok=True)
        (place / f"{row}{ENDINGS.get(data[:4], '.jpg')}").write_bytes(data)


def twin_transforms(images: Images, names: Sequence[str], *, tensors: bool) -> Callable[[Any], Tensor]:
    """Torchvision's transforms that do the same as ours: to normalised float32 [C, H, W]."""
    from torchvision.transforms import v2

    height, width = images.shape[-2:]
    steps: list[Any] = []
    if "resized-crop" in names:
        steps.append(v2.RandomResizedCrop((height, width), antialias=True))
    else:
        steps += [v2.Resize(max(height, width), antialias=True), v2.CenterCrop((height, width))]
    if "crop" in names:
        steps.append(v2.RandomCrop((height, width), padding=[margin(width), margin(height)]))
    if "flip" in names:
        steps.append(v2.RandomHorizontalFlip())
    steps += [] if tensors else [v2.PILToTensor()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(images.mean, images.std)])


def folder_batches(
    folder: Path, changed: Callable[[Any], Tensor], size: int, workers: int, *, tensors: bool
) -> Batches:
    """Batches epoch after epoch, by DataLoader's workers, which stay from epoch to epoch.

    changed: the transform of each picture; tensors: as in `FolderMain`.
    """
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    found = ImageFolder(str(folder), changed, loader=read_tensor) if tensors else ImageFolder(str(folder), changed)
    loader = DataLoader(
        found,
        size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        # as anybody's: this process was spawned, and would have its own so
        multiprocessing_context=multiprocessing.get_all_start_methods()[0] if workers else None,
    )
    while True:
        yield from loader


def read_tensor(path: str) -> Tensor:
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(path, ImageReadMode.RGB)


def orders(loader: Loader) -> Iterator[Tensor]:
    """The rows of each batch, int64 [B], epoch after epoch."""
    for epoch in count():
        order = torch.from_numpy(loader.order(epoch))
        yield from order.split(loader.batch_size)[: len(loader)]


def all_samples(loader: Loader) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All samples in the network's size, uint8 [N, C, H, W], labels, and mean and deviation [C, 1, 1] of pixels in
    0..255."""
    pictures = resized(loader.split.take(np.arange(len(loader.split))), loader.size)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    mean, std = (torch.tensor(values).view(-1, 1, 1) * 255 for values in (loader.images.mean, loader.images.std))
    return x, torch.from_numpy(loader.split.labels), mean, std


def gathered(loader: Loader, names: set[str]) -> Batches:
    """Crop and flip as places of pixels, which one gather then takes out of padded bytes."""
    x, labels, mean, std = all_samples(loader)
    _, channels, height, width = x.shape
    top, left = (margin(height), margin(width)) if "crop" in names else (0, 0)
    padded = F.pad(x, (left, left, top, top))
    scale, shift = 1 / std, -mean / std
    down, across, channel = torch.arange(height), torch.arange(width), torch.arange(channels).view(1, -1, 1, 1)
    for rows in orders(loader):
        b = len(rows)
        ys = torch.randint(0, 2 * top + 1, (b, 1)) + down
        columns = torch.where(torch.rand(b, 1) < 0.5, across.flip(0), across) if "flip" in names else across
        xs = torch.randint(0, 2 * left + 1, (b, 1)) + columns
        taken = padded[rows.view(-1, 1, 1, 1), channel, ys.view(b, 1, -1, 1), xs.view(b, 1, 1, -1)]
        yield taken.float().mul_(scale).add_(shift), labels[rows]


def masked(loader: Loader, names: set[str]) -> Batches:
    """Crop and flip as airbench does them: samples are normalised and padded once; a crop is copied for all samples
    that it was drawn for."""
    x, labels, mean, std = all_samples(loader)
    _, _, height, width = x.shape
    top, left = (margin(height), margin(width)) if "crop" in names else (0, 0)
    padded = (F.pad(x, (left, left, top, top)).float() - mean) / std
    for rows in orders(loader):
        taken = padded[rows]
        if "crop" in names:
            ys, xs = (torch.randint(0, 2 * edge + 1, (len(rows),)) for edge in (top, left))
            tall = torch.empty(*taken.shape[:2], height, taken.shape[3])
            for y in range(2 * top + 1):
                tall[ys == y] = taken[ys == y, :, y : y + height]
            taken = torch.empty(*tall.shape[:3], width)
            for place in range(2 * left + 1):
                taken[xs == place] = tall[xs == place, :, :, place : place + width]
        if "flip" in names:
            taken = torch.where((torch.rand(len(rows)) < 0.5).view(-1, 1, 1, 1), taken.flip(-1), taken)
        yield taken, labels[rows]


WAYS: dict[str, Callable[[Loader, set[str]], Batches]] = {"gather": gathered, "masks": masked}
