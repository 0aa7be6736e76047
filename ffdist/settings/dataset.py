"""What is learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ffdist.settings.base import Group, option

Change = Literal["crop", "shift", "flip", "alternate", "cutout"]


@dataclass(frozen=True)
class DatasetSettings(Group):
    """The data."""

    group: ClassVar[str] = "dataset"

    data: str = option("digits", free=True)
    """"digits" (embedded), or a prepared folder. See `ffdist datasets`; `ffdist data prepare` makes one."""
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
