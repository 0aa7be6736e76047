"""The data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ffdist.calls import calls_of, check_transforms
from ffdist.errors import setting
from ffdist.settings.base import SettingsGroup, option

TRANSFORMS = ("augment", "preprocess")
"""The settings that name transforms, in one of the forms that `ffdist.calls` reads."""


@dataclass(frozen=True)
class DatasetSettings(SettingsGroup):
    """The data."""

    group: ClassVar[str] = "dataset"

    data: str = option("digits", free=True)
    """"digits", a name of `ffdist datasets`, or a path. A name of `ffdist datasets` is fetched on first use. A folder
    of pictures, a table, or what else `ffdist data prepare` takes, is prepared on the way, and again when it has
    changed. The cache is $FFDIST_CACHE, else ffdist in $XDG_CACHE_HOME, else in ~/.cache."""
    data_args: tuple[str, ...] = option((), free=True, rare=True)
    """How to prepare data that are not prepared yet, e.g. mode=rgb. The options of `ffdist data prepare`, several
    separated by spaces: label_column=class test_fraction=0.1 ignore=a,b."""
    data_root: Path | None = option(None, free=True, rare=True)
    """Folder of known data sets, as torchvision keeps them. What is not there is downloaded to it. Default: the
    cache."""
    download: bool = option(True, free=True, rare=True)
    """Download a known data set that is not there."""
    samples: int | None = option(None, ge=1, rare=True)
    """Train on this many samples only. They are drawn by class and by the seed; the share held out for validation
    is part of them."""
    image_size: int | None = option(None, ge=1, le=4096)
    """Resize pictures to this height and width."""
    validation: float | None = option(None, ge=0, lt=1)
    """Share of samples held out for validation, 0: none. Training samples are, drawn by class and by the seed. Default:
    own split, else 0.2. The own is the data's validation split."""
    augment: tuple[str, ...] = ()
    """Random changes; see `ffdist transforms`. They change training pictures, in order, drawn anew each time a
    picture is used. Options stand after a name: crop padding=4 mode=reflect flip, or as "crop(padding=4,mode=reflect)"
    flip; a user's own are file.py:Class or module:Class, as torchvision.transforms.v2:GaussianBlur kernel_size=3 is."""
    preprocess: tuple[str, ...] = option((), rare=True)
    """Steps that give every picture its size, e.g. resize side=40 center-crop. Done in training, evaluation and
    prediction; in training, resized-crop and random-crop of augment take their place. Without it, pictures are scaled
    to image_size."""
    mean: tuple[float, ...] = option((), rare=True)
    """Mean that is subtracted from pixels in 0..1. One number, or one a channel; with std. Default: the data's own."""
    std: tuple[float, ...] = option((), rare=True)
    """Standard deviation that pixels are then divided by. One number, or one a channel; with mean. Default: the data's
    own."""

    loader_workers: int = option(0, ge=0, le=1024, free=True)
    """Threads that read, decode and change pictures. The first stage has them; their number changes no result. 0: one,
    as 1 is; more pay for encoded data. A torch Dataset that draws at random itself, and transforms that are classes of
    callables, as torchvision's, have as many processes."""
    shuffle_shards: int | None = option(None, ge=0, rare=True)
    """Shards whose samples are mixed at a time. Shards come in an order drawn from seed and epoch, so that only so many
    are read at once. 0: all. Default: all, but 8 of encoded data of more than 4 GiB."""

    def check(self) -> None:
        for name in TRANSFORMS:
            share, where = getattr(self, name), setting(f"dataset.{name}")
            several = isinstance(share, Iterable) and not isinstance(share, (str, Mapping))
            calls = calls_of(share if several else [] if share is None else [share], where)
            check_transforms(calls, where)
            object.__setattr__(self, name, tuple(map(str, calls)))
        super().check()
