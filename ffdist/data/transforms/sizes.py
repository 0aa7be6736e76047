"""Transforms that give pictures of any size the one that the network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ffdist.data.transforms.base import PictureTransform, Size
from ffdist.data.transforms.draws import whole

ATTEMPTS = 10


@dataclass(frozen=True)
class Resize(PictureTransform):
    """Scales pictures until their shorter side has `side` pixels, bilinear with antialias. As torchvision's Resize."""

    side: int | None = None
    """The length of the shorter side. None: pictures are scaled to the network's height and width, whatever their
    own."""

    def check(self) -> None:
        if self.side is not None and self.side < 1:
            raise self.refuse("side", ">= 1")

    def picture(self, picture: np.ndarray, drawn: np.ndarray, wanted: Size) -> np.ndarray:
        height, width = picture.shape[:2]
        size = self.size((height, width), wanted)
        return resized(picture, size)

    def size(self, given: Size | None, wanted: Size) -> Size | None:
        if self.side is None:
            return wanted
        return None if given is None else shorter(given, self.side)


@dataclass(frozen=True)
class CenterCrop(PictureTransform):
    """Cuts the middle out of pictures; smaller ones get a black margin. As torchvision's CenterCrop."""

    side: int | None = None
    """The side of the part. None: the network's height and width."""

    def check(self) -> None:
        if self.side is not None and self.side < 1:
            raise self.refuse("side", ">= 1")

    def picture(self, picture: np.ndarray, drawn: np.ndarray, wanted: Size) -> np.ndarray:
        height, width = size = self.size(None, wanted)
        picture = padded(picture, size)
        top, left = (round((have - want) / 2) for have, want in zip(picture.shape, size, strict=False))
        return picture[top : top + height, left : left + width]

    def size(self, given: Size | None, wanted: Size) -> Size:
        return wanted if self.side is None else (self.side, self.side)


@dataclass(frozen=True)
class RandomCrop(PictureTransform):
    """Cuts a part out of pictures at random, of the network's size; smaller ones get a black margin."""

    padding: int = 0
    """Pixels of black around a picture before."""

    @property
    def numbers(self) -> int:
        return 2

    def check(self) -> None:
        if self.padding < 0:
            raise self.refuse("padding", ">= 0")

    def picture(self, picture: np.ndarray, drawn: np.ndarray, wanted: Size) -> np.ndarray:
        margin = self.padding
        picture = padded(np.pad(picture, ((margin, margin), (margin, margin), (0, 0))) if margin else picture, wanted)
        height, width = (have - want + 1 for have, want in zip(picture.shape, wanted, strict=False))
        top, left = int(whole(drawn[0], height)), int(whole(drawn[1], width))
        return picture[top : top + wanted[0], left : left + wanted[1]]


@dataclass(frozen=True)
class ResizedCrop(PictureTransform):
    """Cuts out a part of random area and shape, scaled to the network's size: the "Inception crop", as torchvision's
    RandomResizedCrop; bilinear, with antialias."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Least and greatest share of the picture's area."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Least and greatest ratio of the part's width to its height."""

    @property
    def numbers(self) -> int:
        return 2 * ATTEMPTS + 2

    def check(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise self.refuse("scale", "0 < least <= greatest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise self.refuse("ratio", "0 < least <= greatest")

    def picture(self, picture: np.ndarray, drawn: np.ndarray, wanted: Size) -> np.ndarray:
        top, left, height, width = self.part((picture.shape[0], picture.shape[1]), drawn)
        return resized(picture[top : top + height, left : left + width], wanted)

    def part(self, size: Size, drawn: np.ndarray) -> tuple[int, int, int, int]:
        """Top, left, height and width of the part of a picture of this size, by 22 numbers in [0, 1)."""
        height, width = size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area, shape in drawn[: 2 * ATTEMPTS].reshape(ATTEMPTS, 2).tolist():
            target = height * width * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + shape * (high - low))
            w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(whole(drawn[-2], height - h + 1)), int(whole(drawn[-1], width - w + 1)), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        w, h = max(1, w), max(1, h)
        return (height - h) // 2, (width - w) // 2, h, w


def shorter(given: Size, side: int) -> Size:
    """(height, width) scaled so that the shorter side has `side` pixels; the longer one is rounded down."""
    height, width = given
    if height <= width:
        return side, max(side, int(side * width / height))
    return max(side, int(side * height / width)), side


def padded(picture: np.ndarray, min_size: Size) -> np.ndarray:
    """A picture [H, W, C] with a black margin where it is smaller than `min_size`."""
    height, width = (max(0, want - have) for have, want in zip(picture.shape, min_size, strict=False))
    if not height and not width:
        return picture
    return np.pad(picture, ((height // 2, height - height // 2), (width // 2, width - width // 2), (0, 0)))


def resized(picture: np.ndarray, size: Size | None) -> np.ndarray:
    """[H, W, C] of another height and width: bilinear with antialias, in its dtype. torch's own for single pictures of
    whole numbers, which keeps to one thread."""
    if size is None or picture.shape[:2] == size:
        return picture
    x = torch.from_numpy(np.require(picture[None], requirements=("C", "W"))).permute(0, 3, 1, 2)
    y = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    return y.permute(0, 2, 3, 1)[0].contiguous().numpy()
