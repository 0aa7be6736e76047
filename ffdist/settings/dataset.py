"""What is learned from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ffdist.settings.base import Group, option

Change = Literal["crop", "shift", "flip", "alternate", "cutout"]


@dataclass(frozen=True)
class DatasetSettings(Group):
    """The data."""

    group: ClassVar[str] = "dataset"

    data: str = option("digits", free=True)
    """"digits", a known name, or where the data lie. A name of `ffdist datasets` is fetched on first use. A folder of
    pictures, a table, or what else `ffdist data prepare` takes, is prepared on the way, and again when it has changed.
    The cache is $FFDIST_CACHE, else ffdist in $XDG_CACHE_HOME, else in ~/.cache."""
    data_args: tuple[str, ...] = option((), free=True)
    """How a source is prepared on the way, e.g. mode=rgb. The options of `ffdist data prepare`, several told apart by
    spaces: label_column=class test_fraction=0.1 ignore=a,b."""
    data_root: Path | None = option(None, free=True)
    """Where known data sets lie as torchvision keeps them. What is not there is fetched to it. Default: the cache."""
    download: bool = option(True, free=True)
    """Fetch a known data set that is not there."""
    samples: int | None = option(None, least=1)
    """Take this many training samples only. They are drawn by class and by the seed; the share held out for validation
    is part of them."""
    image_size: int | None = option(None, least=1, most=4096)
    """Resize pictures to this height and width."""
    validation: float | None = option(None, least=0, below=1)
    """Share of the samples held out, 0 for none. It is drawn from the training samples, by class and by the seed.
    Default: own split, else 0.2. The own is the data's validation split."""
    augment: tuple[Change, ...] = ()
    """Random changes. They are drawn anew each time a training picture is learned from. crop: out of a black margin of
    an eighth of the side; shift: by up to 2 pixels, with a reflected margin; flip: left-right; alternate: flip each in
    every other epoch; cutout: a black square of a quarter of the side."""
    loader_workers: int = option(0, least=0, most=1024, free=True)
    """Threads that read, decode and change pictures. Of the first stage; no number of them changes a bit. 0: one, as
    1 is; more pay for data that are kept encoded."""
    shuffle_shards: int | None = option(None, least=0)
    """Shards whose samples are mixed at a time. Shards come in an order drawn from seed and epoch, so that only so many
    are read at once. 0: all. Default: all, but 8 of encoded data of more than 4 GiB."""
