"""The usual changes of small pictures: crops out of a margin, mirroring, and holes.

At their defaults, crop, shift, flip, alternate and cutout are drawn for a whole batch at once, and done in this order
where they stand beside each other (`ffdist.data.augment`): from (seed, epoch, batch). With an option they are drawn as
all other transforms are, from (seed, epoch, sample).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ffdist.data.augment import flip, margin
from ffdist.data.transforms.base import BatchTransform
from ffdist.data.transforms.draws import whole

Padding = Literal["black", "reflect", "edge", "symmetric"]


@dataclass(frozen=True)
class Crop(BatchTransform):
    """Cuts a picture of the same size at random out of the picture with a margin around it. As torchvision's
    RandomCrop with padding."""

    padding: int | None = None
    """Pixels of the margin. None: an eighth of the side, so 4 of 32 and of 28."""
    mode: Padding = "black"
    """What is in the margin: black, a reflection without or with the border (reflect, symmetric), or the border's
    pixels again (edge)."""

    @property
    def numbers(self) -> int:
        return 2

    def check(self) -> None:
        if self.padding is not None and self.padding < 0:
            raise self.refuse("padding", ">= 0")
        if self.mode not in get_args(Padding):
            raise self.refuse("mode", " or ".join(get_args(Padding)))

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        down, across = (margin(side) if self.padding is None else self.padding for side in x.shape[1:3])
        top, left = whole(drawn[:, 0], 2 * down + 1), whole(drawn[:, 1], 2 * across + 1)
        return windows(x, (down, across), self.mode, top, left)


@dataclass(frozen=True)
class Shift(BatchTransform):
    """Shifts a picture at random, by whole pixels; what comes in is its reflection."""

    pixels: int = 2
    """At most, in each direction."""

    @property
    def numbers(self) -> int:
        return 2

    def check(self) -> None:
        if self.pixels < 0:
            raise self.refuse("pixels", ">= 0")

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        top, left = (whole(drawn[:, axis], 2 * self.pixels + 1) for axis in (0, 1))
        return windows(x, (self.pixels, self.pixels), "reflect", top, left)


def windows(x: np.ndarray, margins: tuple[int, int], mode: str, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """The window of each sample [H, W, C], which has margins above and beside it, that begins at row top and column
    left."""
    b, h, w, c = x.shape
    (y, z) = margins
    if mode == "black":
        padded = np.zeros((b, h + 2 * y, w + 2 * z, c), x.dtype)
        padded[:, y : y + h, z : z + w] = x
    else:
        padded = np.pad(x, ((0, 0), (y, y), (z, z), (0, 0)), mode=mode)  # pyright: ignore[reportArgumentType,reportCallIssue]
    # pixels of one row lie side by side, so a window is h runs of w * c numbers
    found = sliding_window_view(padded.reshape(b, h + 2 * y, (w + 2 * z) * c), (h, w * c), axis=(1, 2))  # pyright: ignore
    return found[np.arange(b), top, left * c].reshape(b, h, w, c)


@dataclass(frozen=True)
class Flip(BatchTransform):
    """Mirrors a picture left to right at random. As torchvision's RandomHorizontalFlip."""

    p: float = 0.5
    """Share of the pictures."""

    @property
    def numbers(self) -> int:
        return 1

    def check(self) -> None:
        self.check_share("p")

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return flip(x, drawn[:, 0] < self.p)


@dataclass(frozen=True)
class VerticalFlip(Flip):
    """Mirrors a picture upside down at random. As torchvision's RandomVerticalFlip."""

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        mirrored = drawn[:, 0] < self.p
        x[mirrored] = x[mirrored][:, ::-1]
        return x


@dataclass(frozen=True)
class Alternate(BatchTransform):
    """Mirrors each picture left to right in every other epoch: half of them in the first, the others in the second
    (Jordan, arXiv 2404.00498)."""

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        raise AssertionError("it is done by ffdist.data.augment")


@dataclass(frozen=True)
class Cutout(BatchTransform):
    """Blackens a square at a random place in each picture (DeVries and Taylor, arXiv 1708.04552)."""

    side: int | None = None
    """Pixels of the square's side. None: a quarter of the picture's."""
    holes: int = 1
    """Squares in each picture."""
    clipped: bool = False
    """Whether a square may reach over the border, as in the paper: its middle is anywhere in the picture."""

    @property
    def numbers(self) -> int:
        return 2 * self.holes

    def check(self) -> None:
        if self.side is not None and self.side < 1:
            raise self.refuse("side", ">= 1")
        if self.holes < 1:
            raise self.refuse("holes", ">= 1")

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        if self.side is not None and not self.clipped and self.side >= max(x.shape[1:3]):
            raise self.refuse("side", f"less than the pictures' {x.shape[1]} x {x.shape[2]}, all of which it blackens")
        for place in drawn.reshape(len(x), self.holes, 2).transpose(1, 2, 0):
            inside = [self.covered(length, own) for length, own in zip(x.shape[1:3], place, strict=True)]
            x[inside[0][:, :, None] & inside[1][:, None, :]] = 0
        return x

    def covered(self, length: int, drawn: np.ndarray) -> np.ndarray:
        """bool [B, length]: which rows, or columns, the square covers."""
        side = min(self.side or max(1, length // 4), length)
        start = whole(drawn, length) - side // 2 if self.clipped else whole(drawn, length - side + 1)
        rows = np.arange(length)
        return (rows >= start[:, None]) & (rows < start[:, None] + side)


FUSED_NAMES: dict[type[BatchTransform], str] = {
    Crop: "crop",
    Shift: "shift",
    Flip: "flip",
    Alternate: "alternate",
    Cutout: "cutout",
}


def fused_name(transform: object) -> str | None:
    """Its name in `ffdist.data.augment`, where it is at its defaults and so drawn by batch."""
    name = FUSED_NAMES.get(type(transform))  # pyright: ignore[reportArgumentType]
    return name if name is not None and transform == type(transform)() else None
